"""The source addresses that an account's messages may carry, and for operators the requests for them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.file import FileField
from wtforms import SelectField, StringField, TextAreaField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_, _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common.errors import Refused
from portal.services.messages import inbound_numbers
from portal.services.senders import confusables, documents, senders
from portal.services.senders.senders import Sender
from portal.web.core import access, context, htmx, live
from portal.web.core.forms import GetForm, TranslatedForm, parse_row_id, read_upload, refusals_on
from portal.web.core.paging import PAGE_SIZE

blueprint = Blueprint("senders", __name__)

_TYPE_LABELS = {
    senders.ALPHA: N_("Letters and digits"),
    senders.SHORTCODE: N_("Short code"),
    senders.NUMERIC: N_("Number"),
    senders.VIRTUAL: N_("Virtual number"),
}
# The kind of a status's badge.
_STATUS_BADGES = {senders.ENABLED: "ok", senders.DISABLED: "mute", senders.WAITING: "warn", senders.REFUSED: "err"}
# `page` is taken by the poll of an open page, see `live.poll_changes`.
_LIST_PARAMS = ("sort", "q", "p")
_NEWEST_FIRST = "-asked"
_WAITING_TEMPLATE = "senders/requests/_waiting.html"
_SIMILARITY_TEXTS = {
    confusables.IDENTICAL: N_("%(customer)s (%(account)s) sends as %(address)s too"),
    confusables.INBOUND_NUMBER: N_("What is sent to %(address)s reaches %(customer)s (%(account)s)"),
    confusables.LOOKALIKE: N_("Looks like %(address)s of %(customer)s (%(account)s)"),
    confusables.ONE_EDIT_AWAY: N_("One character away from %(address)s of %(customer)s (%(account)s)"),
    confusables.COMMON_PREFIX: N_("Begins like %(address)s of %(customer)s (%(account)s)"),
}
# The others are shown when these have been decided.
_MAX_WAITING = 5
_MAX_DECIDED = 20


class SenderForm(TranslatedForm):
    sender = StringField(N_("Sender"))
    description = StringField(N_("Description"))
    reason = TextAreaField(N_("What it is for"))
    document = FileField(N_("Supporting document"))


class SenderSearchForm(GetForm):
    """Which senders are shown: those with the words of `q`, sorted by a column (a minus before it: descending)."""

    q = StringField(N_("Sender or description"))
    sort = SelectField(
        N_("Sorted by"),
        choices=[
            SelectChoice(_NEWEST_FIRST, N_("Newest first")),
            SelectChoice("asked", N_("Oldest first")),
            SelectChoice("sender", N_("Sender")),
            SelectChoice("type", N_("Type")),
            SelectChoice("status", N_("Status")),
            SelectChoice("description", N_("Description")),
        ],
    )


# --- the list, and requesting a sender


@blueprint.get("/accounts/<name>/senders")
@access.account_access_required
def list_senders(account: Account) -> ResponseReturnValue:
    """Query: `sort` and `q`, see `SenderSearchForm`; `p`, the page's number from 1; `sender`, one to ask for."""
    form = SenderForm(formdata=None, data={"sender": request.args.get("sender", "")})
    return htmx.render_page("senders/page.html", **_build_page_values(account, form))


@blueprint.post("/accounts/<name>/senders")
@access.account_change_required
def add_sender(account: Account) -> ResponseReturnValue:
    """Request a sender; it waits for the operator's decision."""
    form, toast = SenderForm(), None
    # A browser sends the field also when no file was chosen: nameless, and empty.
    upload, content = request.files.get("document"), read_upload("document", documents.MAX_DOCUMENT_BYTES)
    with refusals_on(form, address="sender"):
        if upload and not content:
            raise documents.InvalidDocument()
        documents.scan_document(content, context.get_config().documents.clamd)
        sender = senders.add_sender(
            context.get_conn(),
            context.get_actor(),
            account,
            form.sender.data,
            description=form.description.data,
            reason=form.reason.data,
            document=content,
            mail_keys=context.get_crypto_keys(),
        )
        toast = htmx.Toast(_("%(sender)s was added. It can be used once it has been approved.", sender=sender.address))
        form = SenderForm(formdata=None)
    if form.errors and upload and not form.document.errors:
        # No page can fill this field in.
        form.document.errors = [_("Choose the document once more.")]
    return htmx.answer_form(
        "senders/_tile.html",
        page="senders/page.html",
        address=url_for(".list_senders", name=account.name),
        toast=toast,
        **_build_page_values(account, form),
    )


@blueprint.get("/accounts/<name>/senders/<int:sender_id>/document")
@access.account_access_required
def download_document(account: Account, sender_id: int) -> ResponseReturnValue:
    """A sender's document, as a file to save: no browser shows it as a page of this portal's."""
    sender_document = senders.get_sender_by_id(context.get_conn(), account, sender_id).document
    content = documents.read_document(context.get_conn(), sender_document) if sender_document else None
    if sender_document is None or content is None:
        abort(404)
    return Response(
        content,
        content_type=documents.MEDIA_TYPES[sender_document.type],
        headers={
            "Content-Disposition": f'attachment; filename="{sender_document.name}"',
            # Beside the policy that every answer has; both hold.
            "Content-Security-Policy": "sandbox; default-src 'none'",
        },
    )


# --- disabling and enabling


@blueprint.post("/accounts/<name>/senders/switch")
@access.account_change_required
def set_sender_enabled(account: Account) -> ResponseReturnValue:
    """Disable or enable one. Form, or query where a toast undoes: its id, as `disable` or `enable`."""
    enabled = "enable" in request.values
    sender_id = parse_row_id(request.values.get("enable" if enabled else "disable", ""))
    conn, actor = context.get_conn(), context.get_actor()
    try:
        sender = senders.set_sender_enabled(conn, actor, account, sender_id, enabled=enabled)
    except senders.SenderNotApproved as refusal:
        return _render_list(account, htmx.Toast(refusal.localized(), "warn"))
    toast_text = (
        _("%(sender)s was enabled.") if enabled else _("%(sender)s was disabled. Messages from it are refused.")
    )
    undo_params: dict[str, Any] = {"disable" if enabled else "enable": sender_id}
    undo_url = url_for(".set_sender_enabled", name=account.name, **undo_params | _current_list_params())
    return _render_list(account, htmx.Toast(toast_text % {"sender": sender.address}, undo=undo_url))


# --- removing


@blueprint.route("/accounts/<name>/senders/delete", methods=["GET", "POST"])
@access.account_change_required
def remove_senders(account: Account) -> ResponseReturnValue:
    """Remove those that the query, and then the form, names with `id`, several times; once that has been confirmed,
    messages that carry them are refused."""
    conn = context.get_conn()
    if request.method != "POST":
        selected_ids = set(request.args.getlist("id", type=parse_row_id))
        return htmx.render_dialog(
            "senders/_delete.html",
            account,
            title=_("Delete the selected senders"),
            tab="senders",
            senders=[each for each in senders.list_senders(conn, account.id) if each.id in selected_ids],
            any_sender=account.any_sender,
            query=_build_list_query(),
        )
    sender_ids = request.form.getlist("id", type=parse_row_id)
    removed = senders.remove_senders(conn, context.get_actor(), account, sender_ids)
    if len(removed) == 1:
        toast_text = _("%(sender)s was removed.", sender=removed[0].address)
    else:
        toast_text = i18n.ngettext("%(num)s sender was removed.", "%(num)s senders were removed.", len(removed))
    removed_ids = [each.id for each in removed]
    undo_url = url_for(".restore_senders", name=account.name, id=removed_ids, **_current_list_params())
    return _render_list(account, htmx.Toast(toast_text, undo=undo_url))


@blueprint.post("/accounts/<name>/senders/restore")
@access.account_change_required
def restore_senders(account: Account) -> ResponseReturnValue:
    """Undo a removal. Query: `id`, several times."""
    sender_ids = request.args.getlist("id", type=parse_row_id)
    try:
        restored = senders.restore_senders(context.get_conn(), context.get_actor(), account, sender_ids)
    except (senders.SenderExists, senders.SenderListFull) as refusal:
        return _render_list(account, htmx.Toast(refusal.localized(), "err"))
    if len(restored) == 1:
        toast_text = _("%(sender)s is back in the list.", sender=restored[0].address)
    else:
        toast_text = i18n.ngettext(
            "%(num)s sender is back in the list.", "%(num)s senders are back in the list.", len(restored)
        )
    return _render_list(account, htmx.Toast(toast_text))


# --- what the page shows


def _build_page_values(account: Account, form: SenderForm) -> dict[str, Any]:
    has_many = len(senders.list_senders(context.get_conn(), account.id)) > PAGE_SIZE
    return {
        "form": form,
        "inbound_numbers": inbound_numbers.list_inbound_numbers(context.get_conn(), account.id),
        "args": _current_list_params(),
        "query": _build_list_query(),
        "search": SenderSearchForm(request.args) if has_many or request.args.get("q") else None,
        "most_bytes": documents.MAX_DOCUMENT_BYTES,
        **live.build_live_page_values("senders", account),
    }


def _render_list(account: Account, toast: htmx.Toast) -> ResponseReturnValue:
    """The list as it is now."""
    if not htmx.is_htmx_request():
        return htmx.redirect_after_post(url_for(".list_senders", name=account.name, **_current_list_params()), toast)
    if request.headers.get("HX-Target") != "senders-list":
        # Undone in a toast: the page polls for the changed fragments itself.
        return htmx.render_fragments("", toast=toast)
    return htmx.render_fragments(*live.render_live_fragments(account, _LIST_PART), toast=toast)


def _current_list_params() -> dict[str, Any]:
    """The request's parameters of the list. Each form repeats them, so that the list stays as the user has set it."""
    return {name: request.args[name] for name in _LIST_PARAMS if request.args.get(name)}


def _describe_sender_type(sender: Sender) -> str:
    """The label of a sender's type."""
    return _(_TYPE_LABELS[sender.type])


def _describe_sender_status(sender: Sender) -> tuple[str, str]:
    """The label of a sender's status, and the kind of its badge."""
    return _(senders.STATUS_LABELS[sender.status]), _STATUS_BADGES[sender.status]


# --- the list


_SORT_KEYS: dict[str, Callable[[Sender], Any]] = {
    "asked": lambda each: (each.created_at, each.id),
    "sender": lambda each: each.address.casefold(),
    "type": lambda each: list(_TYPE_LABELS).index(each.type),
    "status": lambda each: list(_STATUS_BADGES).index(each.status),
    "description": lambda each: (not each.description, each.description.casefold()),
}


def _list_context(account: Account) -> dict[str, Any]:
    search_text = request.args.get("q", "").strip().casefold()
    all_senders = senders.list_senders(context.get_conn(), account.id)
    matches = [each for each in all_senders if search_text in f"{each.address}\n{each.description}".casefold()]
    sort = request.args.get("sort", "")
    if sort.removeprefix("-") not in _SORT_KEYS:
        sort = _NEWEST_FIRST
    matches.sort(key=_SORT_KEYS[sort.removeprefix("-")], reverse=sort.startswith("-"))
    last_page = max(1, -(-len(matches) // PAGE_SIZE))
    page_number = min(max(1, request.args.get("p", 1, type=int)), last_page)
    return {
        "senders": matches[(page_number - 1) * PAGE_SIZE : page_number * PAGE_SIZE],
        "searched": bool(search_text),
        "describe_type": _describe_sender_type,
        "describe_status": _describe_sender_status,
        "any_sender": account.any_sender,
        "sort": sort,
        "args": _current_list_params(),
        "sorted_by": lambda column: _build_list_query(sort=f"-{column}" if sort == column else column, p=""),
        "newer": _build_list_query(p=page_number - 1) if page_number > 1 else "",
        "older": _build_list_query(p=page_number + 1) if page_number < last_page else "",
    }


def _build_list_query(**changes: object) -> str:
    """The list's query string with some parameters changed; empty ones are left out, and the ? where all are."""
    params = _current_list_params() | changes
    query = urlencode({name: value for name, value in params.items() if value})
    return f"?{query}" if query else ""


def _read_virtual_numbers(account: Account) -> tuple[str, ...]:
    # A sender is a virtual number while that number is one of the account's inbound numbers.
    return tuple(each.number for each in inbound_numbers.list_inbound_numbers(context.get_conn(), account.id))


_LIST_PART = live.LiveFragment("senders/_list.html", _list_context, _read_virtual_numbers)
live.register_live_page("senders", _LIST_PART)


# --- requests, for operators


@blueprint.get("/admin/senders")
@access.operator_required
def list_sender_requests() -> ResponseReturnValue:
    """The pending ones, oldest first, and the decided ones. Query: `q`, a search in the latter."""
    conn, search_text = context.get_conn(), request.args.get("q", "").strip()
    decided = senders.search_decided_senders(conn, search_text, _MAX_DECIDED + 1)
    requests = senders.list_pending_sender_requests(conn, _MAX_WAITING)
    return htmx.render_page(
        "senders/requests/page.html",
        requests=requests,
        **_sender_request_context(requests),
        decided=decided[:_MAX_DECIDED],
        more=len(decided) > _MAX_DECIDED,
        q=search_text,
    )


@blueprint.route("/admin/senders/<int:sender_id>", methods=["GET", "POST"])
@access.operator_required
def decide_sender_request(sender_id: int) -> ResponseReturnValue:
    """Show one sender; approve or refuse it. The form carries as `mark` the revision that was seen."""
    if request.method != "POST":
        return htmx.render_page("senders/requests/one.html", **_one_request_context(sender_id))
    conn, actor, keys = context.get_conn(), context.get_actor(), context.get_crypto_keys()
    approve, revision = request.form.get("decision") == "approve", request.form.get("mark", "")
    list_url, comment = url_for(".list_sender_requests"), request.form.get("comment", "")
    toast = None
    values: dict[str, Any] = {}
    try:
        requested = senders.get_sender_request(conn, sender_id)
        account = accounts.get_account(conn, requested.account)
        sender = senders.decide_sender(
            conn, actor, account, requested.address, approve=approve, comment=comment, revision=revision, mail_keys=keys
        )
        toast_text = _("%(sender)s was approved.") if approve else _("%(sender)s was refused.")
        toast = htmx.Toast(toast_text % {"sender": sender.address})
    except senders.NoSuchSender:
        toast = htmx.Toast(_("Nothing was decided: the sender has been removed meanwhile."), "warn")
        return htmx.answer_done(list_url, toast, "", _WAITING_TEMPLATE, **_sender_request_context([]))
    except Refused as refusal:
        values = {"status": 422, "error": refusal.localized(), "comment": comment}
    values |= _one_request_context(sender_id)
    return htmx.answer_form(
        "senders/requests/_request.html",
        *([_WAITING_TEMPLATE] if toast else []),
        page="senders/requests/one.html",
        address=list_url,
        toast=toast,
        **values,
    )


def _one_request_context(sender_id: int) -> dict[str, Any]:
    sender = senders.get_sender_request(context.get_conn(), sender_id)
    return {"sender": sender, **_sender_request_context([sender])}


def _sender_request_context(requests: Sequence[Sender]) -> dict[str, Any]:
    """The variables of the templates that describe requests."""
    similar_senders = confusables.find_similar_senders(context.get_conn(), requests)
    return {
        "similar_senders": {
            key: [_(_SIMILARITY_TEXTS[each.kind], **asdict(each)) for each in similar]
            for key, similar in similar_senders.items()
        },
        "waiting": senders.count_pending_sender_requests(context.get_conn()),
        "describe_status": _describe_sender_status,
        "describe_type": _describe_sender_type,
    }
