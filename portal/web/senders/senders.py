"""The source addresses that an account's messages may carry."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.file import FileField
from wtforms import SelectField, StringField, TextAreaField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts.accounts import Account
from portal.services.accounts.change_counters import Pulse
from portal.services.common.errors import Refused
from portal.services.messages import inbound_numbers
from portal.services.senders import documents, sender_requests, senders
from portal.services.senders.senders import Sender
from portal.web.core import access, context, htmx, layout, live, uploads
from portal.web.core.forms import Form, attach, row_id
from portal.web.core.htmx import Toast
from portal.web.core.live import Part

blueprint = Blueprint("senders", __name__)

_TYPES = {
    senders.ALPHA: N_("Letters and digits"),
    senders.SHORTCODE: N_("Short code"),
    senders.NUMERIC: N_("Number"),
    senders.VIRTUAL: N_("Virtual number"),
}
# The words for a state, and how its badge looks.
_STATES = {
    senders.ENABLED: (N_("Enabled"), "ok"),
    senders.DISABLED: (N_("Disabled"), "mute"),
    senders.WAITING: (N_("Waiting for a decision"), "warn"),
    senders.REFUSED: (N_("Refused"), "err"),
}
# `page` is a word of the open page's own, see live.poll.
_ASKS = ("sort", "q", "p")
_ON_A_PAGE = 10
_NEWEST_FIRST = "-asked"


class SenderForm(Form):
    sender = StringField(N_("Sender"))
    description = StringField(N_("Description"))
    reason = TextAreaField(N_("What it is for"))
    document = FileField(N_("Supporting document"))


class SearchForm(Form):
    """Which senders are shown: those with the words of `q`, sorted by a column (a minus before it: downwards)."""

    class Meta:
        csrf = False

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


# --- the list, and asking for one


@blueprint.get("/accounts/<name>/senders")
@access.see_account
def listed(account: Account) -> ResponseReturnValue:
    """Query: `sort` and `q`, see `SearchForm`; `p`, the page's number from 1."""
    return _page(account, SenderForm())


@blueprint.post("/accounts/<name>/senders")
@access.change_account
@uploads.takes_files
def add(account: Account) -> ResponseReturnValue:
    """Ask for a sender; it waits for the operator's decision."""
    form = SenderForm()
    upload = request.files.get("document")
    # A browser sends the field also when no file was chosen: nameless, and empty.
    content = upload.read(documents.MOST_BYTES + 1) if upload else b""
    try:
        if upload and not content:
            raise documents.NotADocument()
        added = sender_requests.ask(
            context.conn(),
            context.keys(),
            context.actor(),
            account,
            form.sender.data or "",
            description=form.description.data or "",
            reason=form.reason.data or "",
            document=content,
        )
    except Refused as refusal:
        attach(form, refusal, address="sender")
        if upload and not form.document.errors:
            # No page can fill this field in.
            form.document.errors = [_("Choose the document once more.")]
        if htmx.wanted():
            return htmx.parts("senders/_tile.html", status=422, **_tile(account, form))
        return _page(account, form, status=422)
    toast = Toast(_("%(sender)s was added. It can be used once it has been approved.", sender=added.address))
    if htmx.wanted():
        return htmx.parts("senders/_tile.html", toast=toast, changed=True, **_tile(account, SenderForm(formdata=None)))
    return htmx.done(url_for(".listed", name=account.name), toast)


@blueprint.get("/accounts/<name>/senders/<int:sender_id>/document")
@access.see_account
def document(account: Account, sender_id: int) -> ResponseReturnValue:
    """A sender's document, as a file to save: no browser shows it as a page of this portal's."""
    found = _sender(account, sender_id).document
    content = documents.content(context.conn(), found) if found else None
    if found is None or content is None:
        abort(404)
    return Response(
        content,
        content_type=documents.MEDIA_TYPES[found.type],
        headers={
            "Content-Disposition": f'attachment; filename="{found.name}"',
            # Beside the policy that every answer has; both hold.
            "Content-Security-Policy": "sandbox; default-src 'none'",
        },
    )


# --- disabling and enabling


@blueprint.post("/accounts/<name>/senders/switch")
@access.change_account
def switch(account: Account) -> ResponseReturnValue:
    """Disable or enable one. Form, or query where a toast undoes: its id, as `disable` or `enable`."""
    on = "enable" in request.values
    try:
        sender_id = row_id(request.values.get("enable" if on else "disable", ""))
        switched = senders.switch(context.conn(), context.actor(), account, sender_id, on=on)
    except (ValueError, senders.NoSuchSender):
        abort(404)
    except Refused as refusal:
        return _list_with(account, Toast(refusal.localized(), "warn"))
    said = _("%(sender)s was enabled.") if on else _("%(sender)s was disabled. Messages from it are refused.")
    back: dict[str, Any] = {"disable" if on else "enable": sender_id}
    undo = url_for(".switch", name=account.name, **back | _asked())
    return _list_with(account, Toast(said % {"sender": switched.address}, undo=undo))


# --- removing


@blueprint.get("/accounts/<name>/senders/delete")
@access.change_account
def ask(account: Account) -> ResponseReturnValue:
    """The question before those that were selected are removed. Query: `id`, several times."""
    wanted = set(request.args.getlist("id", type=row_id))
    return htmx.dialog(
        "senders/_delete.html",
        account,
        title=_("Delete the ticked senders"),
        tab="senders",
        senders=[each for each in senders.of_account(context.conn(), account.id) if each.id in wanted],
        any_sender=account.any_sender,
        query=_query(),
    )


@blueprint.post("/accounts/<name>/senders/delete")
@access.change_account
def remove(account: Account) -> ResponseReturnValue:
    """Remove those that the form names with `id`, several times; messages that carry them are refused from then on."""
    try:
        removed = senders.remove(context.conn(), context.actor(), account, request.form.getlist("id", type=row_id))
    except senders.NoSuchSender:
        abort(404)
    if len(removed) == 1:
        said = _("%(sender)s was removed.", sender=removed[0].address)
    else:
        said = i18n.ngettext("%(num)s sender was removed.", "%(num)s senders were removed.", len(removed))
    undo = url_for(".restore", name=account.name, id=[each.id for each in removed], **_asked())
    return _list_with(account, Toast(said, undo=undo))


@blueprint.post("/accounts/<name>/senders/restore")
@access.change_account
def restore(account: Account) -> ResponseReturnValue:
    """Undo a removal. Query: `id`, several times."""
    try:
        restored = senders.restore(context.conn(), context.actor(), account, request.args.getlist("id", type=row_id))
    except senders.NoSuchSender:
        abort(404)
    except Refused as refusal:
        return _list_with(account, Toast(refusal.localized(), "err"))
    if len(restored) == 1:
        said = _("%(sender)s is back in the list.", sender=restored[0].address)
    else:
        said = i18n.ngettext(
            "%(num)s sender is back in the list.", "%(num)s senders are back in the list.", len(restored)
        )
    return _list_with(account, Toast(said))


# --- what the page shows


def _page(account: Account, form: SenderForm, *, status: int = 200) -> ResponseReturnValue:
    return live.show(
        "senders/page.html",
        "senders",
        account,
        status=status,
        form=form,
        routes=inbound_numbers.of_account(context.conn(), account.id),
        **_around(account),
    )


def _sender(account: Account, sender_id: int) -> Sender:
    try:
        return senders.by_id(context.conn(), account, sender_id)
    except senders.NoSuchSender:
        abort(404)


def _tile(account: Account, form: SenderForm) -> dict[str, Any]:
    return {
        "account": layout.account_view(account),
        "may_change": access.may_change(),
        "parts": live.draw(account, _LIST),
        "form": form,
        **_around(account),
    }


def _around(account: Account) -> dict[str, Any]:
    """What stands beside the list, and is not drawn anew with it."""
    many = len(senders.of_account(context.conn(), account.id)) > _ON_A_PAGE
    return {
        "args": _asked(),
        "query": _query(),
        "search": SearchForm(request.args) if many or request.args.get("q") else None,
        "most_bytes": documents.MOST_BYTES,
    }


def _list_with(account: Account, toast: Toast) -> ResponseReturnValue:
    """The list as it is now."""
    if not htmx.wanted():
        return htmx.done(url_for(".listed", name=account.name, **_asked()), toast)
    if request.headers.get("HX-Target") != "senders-list":
        # Undone in a toast: the page's parts look by themselves.
        return htmx.parts("", toast=toast, changed=True)
    return htmx.parts(*live.draw(account, _LIST).values(), toast=toast, changed=True)


def _asked() -> dict[str, Any]:
    """What the address says of the list. Each form carries it along, so that the list stays as the reader has it."""
    return {name: request.args[name] for name in _ASKS if request.args.get(name)}


def _query() -> str:
    return _with() if _asked() else ""


def type_of(sender: Sender) -> str:
    """A sender's type in words."""
    return _(_TYPES[sender.type])


def state_of(sender: Sender) -> tuple[str, str]:
    """A sender's state in words, and its badge's kind."""
    label, kind = _STATES[sender.status]
    return _(label), kind


# --- the list


_KEYS: dict[str, Callable[[Sender], Any]] = {
    "asked": lambda each: (each.created_at, each.id),
    "sender": lambda each: each.address.casefold(),
    "type": lambda each: list(_TYPES).index(each.type),
    "status": lambda each: list(_STATES).index(each.status),
    "description": lambda each: (not each.description, each.description.casefold()),
}


def _list(account: Account, pulse: Pulse) -> dict[str, Any]:
    wanted = request.args.get("q", "").strip().casefold()
    everyone = senders.of_account(context.conn(), account.id)
    found = [each for each in everyone if wanted in each.address.casefold() or wanted in each.description.casefold()]
    sort = request.args.get("sort", "")
    if sort.removeprefix("-") not in _KEYS:
        sort = _NEWEST_FIRST
    found.sort(key=_KEYS[sort.removeprefix("-")], reverse=sort.startswith("-"))
    last = max(1, -(-len(found) // _ON_A_PAGE))
    number = min(max(1, request.args.get("p", 1, type=int)), last)
    return {
        "senders": found[(number - 1) * _ON_A_PAGE : number * _ON_A_PAGE],
        "searched": bool(wanted),
        "type_of": type_of,
        "state_of": state_of,
        "any_sender": account.any_sender,
        "sort": sort,
        "args": _asked(),
        "sorted_by": lambda column: _with(sort=f"-{column}" if sort == column else column, p=""),
        "newer": _with(p=number - 1) if number > 1 else "",
        "older": _with(p=number + 1) if number < last else "",
    }


def _with(**changed: object) -> str:
    """The list's address with something said otherwise; empty: left out."""
    said = _asked() | changed
    return "?" + urlencode({name: value for name, value in said.items() if value})


def _ground(account: Account, pulse: Pulse) -> tuple[int, tuple[str, ...]]:
    # A number is a virtual one while it reaches the account.
    return pulse.settings, tuple(each.number for each in inbound_numbers.of_account(context.conn(), account.id))


_LIST = Part("senders/_list.html", _ground, _list, asks=_ASKS)
live.register("senders", _LIST)
