"""An account's blacklist, the numbers that get no messages of it: list, search, add, import and remove."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.file import FileField
from wtforms import TextAreaField

from portal.core import i18n
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts.accounts import Account
from portal.services.common import audit
from portal.services.common.csv_import import InvalidCsvLines
from portal.services.common.errors import Refused
from portal.services.messages import blacklist
from portal.services.messages.blacklist import BlacklistEntry
from portal.web.core import access, context, downloads, htmx, layout, live, paging
from portal.web.core.forms import TranslatedForm, add_form_error, refusals_on
from portal.web.core.htmx import Toast

blueprint = Blueprint("blacklist", __name__)

_MAX_NUMBERS_NAMED = 10
_SAMPLE_SIZE = 20
_MAX_QUERY_LENGTH = 40
_ACTOR_LABELS = {audit.SHELL.name: N_("operator")}

# Only the page's frame is live: the list, in which numbers are selected, stays as it is.
live.register_live_page("blacklist", tab="history")


class BlacklistNumbersForm(TranslatedForm):
    """`numbers`: one a line."""

    numbers = TextAreaField(N_("Numbers"))


class BlacklistFileForm(TranslatedForm):
    file = FileField(N_("CSV file"))


@blueprint.get("/accounts/<name>/blacklist")
@access.account_access_required
def show_blacklist(account: Account) -> ResponseReturnValue:
    """A page of it, newest first. Query: `q`, a number or how it begins; `before` or `after`, which turn the page."""
    if htmx.is_htmx_request():
        return htmx.render_fragments("messages/blacklist/_list.html", **_list_context(account))
    return _render_page(account, BlacklistNumbersForm(formdata=None))


@blueprint.post("/accounts/<name>/blacklist")
@access.account_change_required
def add_to_blacklist(account: Account) -> ResponseReturnValue:
    """Add the numbers that were typed: all of them, or none where a line is no number."""
    form, toast = BlacklistNumbersForm(), None
    bad_lines: Sequence[object] = ()
    with refusals_on(form):
        try:
            numbers = blacklist.parse_typed_numbers(form.numbers.data)
        except InvalidCsvLines as refusal:
            bad_lines = refusal.summarize_lines()
            raise
        added = blacklist.add_blacklist_numbers(context.get_conn(), context.get_actor(), account, numbers)
        toast, form = Toast(_describe_added_count(added)), BlacklistNumbersForm(formdata=None)
    return htmx.answer_form(
        "messages/blacklist/_tiles.html",
        toast=toast,
        address=_blacklist_url(account),
        render_whole_page=lambda: _render_page(account, form, bad_lines),
        form=form,
        bad_lines=bad_lines,
        **_list_context(account),
    )


@blueprint.get("/accounts/<name>/blacklist/remove")
@access.account_change_required
def ask_remove_from_blacklist(account: Account) -> ResponseReturnValue:
    """Ask for confirmation before numbers are removed. Query: `number`, several times; `q` of the page."""
    entries = blacklist.find_blacklist_entries(context.get_conn(), account.id, request.args.getlist("number"))
    return htmx.render_dialog(
        "messages/blacklist/_remove.html",
        account,
        title=_("Remove from the blacklist"),
        tab="history",
        numbers=entries,
        named=entries[:_MAX_NUMBERS_NAMED],
        more=len(entries) - _MAX_NUMBERS_NAMED,
        stopped=any(each.received_id is not None for each in entries),
        words=_read_search_text(),
        back=_blacklist_url(account),
    )


@blueprint.post("/accounts/<name>/blacklist/remove")
@access.account_change_required
def remove_from_blacklist(account: Account) -> ResponseReturnValue:
    """Remove numbers: messages reach them again. Form: as the query of `ask_remove_from_blacklist`."""
    removed = blacklist.remove_blacklist_numbers(
        context.get_conn(), context.get_actor(), account, request.form.getlist("number")
    )
    if len(removed) == 1:
        toast = Toast(_("%(number)s was removed.", number=removed[0].number))
    elif removed:
        toast = Toast(i18n.ngettext("%(num)s number was removed.", "%(num)s numbers were removed.", len(removed)))
    else:
        # By a colleague, in the meantime.
        toast = Toast(_("That was no longer on the blacklist."), "warn")
    return htmx.answer_done(_blacklist_url(account), toast, "messages/blacklist/_list.html", **_list_context(account))


@blueprint.get("/accounts/<name>/blacklist.csv")
@access.account_access_required
def download_blacklist_csv(account: Account) -> ResponseReturnValue:
    """What the same query shows in the page, newest first."""
    rows = map(_to_csv_row, blacklist.iterate_blacklist(context.open_stream_conn(), account.id, _read_search_text()))
    return downloads.stream_csv(f"{account.name}-blacklist.csv", blacklist.CSV_COLUMNS, rows)


def _to_csv_row(entry: BlacklistEntry) -> list[object]:
    return [entry.number, i18n.format_iso8601(entry.since), entry.reason, entry.added_by, entry.received_id]


# --- importing a file


@blueprint.get("/accounts/<name>/blacklist/import")
@access.account_change_required
def show_import_form(account: Account) -> ResponseReturnValue:
    return _render_import_form(account, BlacklistFileForm())


@blueprint.post("/accounts/<name>/blacklist/import")
@access.account_change_required
def preview_import(account: Account) -> ResponseReturnValue:
    """Show what a file would add, for confirmation."""
    upload = request.files.get("file")
    content = upload.read(blacklist.MAX_FILE_BYTES + 1) if upload else b""
    try:
        if len(content) > blacklist.MAX_FILE_BYTES:
            raise blacklist.BlacklistFileTooBig()
        numbers = blacklist.parse_numbers_csv(content)
    except Refused as refusal:
        return _render_import_error(account, refusal)
    known_numbers = {each.number for each in blacklist.find_blacklist_entries(context.get_conn(), account.id, numbers)}
    new_numbers = [each for each in numbers if each not in known_numbers]
    return htmx.render_page(
        "messages/blacklist/plan.html",
        account=account,
        tab="history",
        new=new_numbers,
        sample=new_numbers[:_SAMPLE_SIZE],
        more=len(new_numbers) - _SAMPLE_SIZE,
        known=len(known_numbers),
        back=url_for(".show_import_form", name=account.name),
    )


@blueprint.post("/accounts/<name>/blacklist/import/confirm")
@access.account_change_required
def import_numbers(account: Account) -> ResponseReturnValue:
    """Add what was confirmed: the form carries the `numbers`, separated by blanks. Those in the list stay unchanged."""
    try:
        numbers = blacklist.parse_numbers_csv("\n".join(request.form.get("numbers", "").split()).encode())
    except Refused as refusal:
        return _render_import_error(account, refusal)
    added = blacklist.import_blacklist_numbers(context.get_conn(), context.get_actor(), account, numbers)
    return htmx.redirect_after_post(_blacklist_url(account), Toast(_describe_added_count(added)))


def _render_import_error(account: Account, refusal: Refused) -> ResponseReturnValue:
    form = BlacklistFileForm(formdata=None)
    add_form_error(form, refusal, numbers="file")
    return _render_import_form(account, form, _summarize_invalid_csv_lines(refusal))


def _render_import_form(
    account: Account, form: BlacklistFileForm, bad_lines: Sequence[object] = ()
) -> ResponseReturnValue:
    return htmx.render_page(
        "messages/blacklist/import.html",
        account=account,
        tab="history",
        form=form,
        bad_lines=bad_lines,
        most=blacklist.MAX_NUMBERS_IN_FILE,
    )


# --- parts of the page


def _render_page(account: Account, form: BlacklistNumbersForm, bad_lines: Sequence[object] = ()) -> ResponseReturnValue:
    list_context = _list_context(account)
    del list_context["account"]
    return live.render_live_page(
        "messages/blacklist/page.html",
        "blacklist",
        account,
        form=form,
        bad_lines=bad_lines,
        **list_context,
    )


def _list_context(account: Account) -> dict[str, Any]:
    query = _read_search_text()
    return {
        "account": layout.build_account_view(account),
        "may_change": access.may_change(),
        "numbers": paging.paginate(
            partial(_list_visible_entries, account, query), parse_position=blacklist.parse_blacklist_cursor
        ),
        "total": blacklist.count_blacklist(context.get_conn(), account.id),
        "words": query,
        "query": _query_params(query),
        "format_actor": _format_actor,
    }


def _list_visible_entries(account: Account, query: str, **page_args: Any) -> list[BlacklistEntry]:
    entries = blacklist.list_blacklist_page(context.get_conn(), account.id, query, **page_args)
    return entries if access.may_read_texts() else [each.without_text() for each in entries]


def _read_search_text() -> str:
    """The search text: in the query, or in the form of a confirmation that was opened from the list."""
    return request.values.get("q", "").strip()[:_MAX_QUERY_LENGTH]


def _query_params(query: str) -> Mapping[str, str]:
    return {"q": query} if query else {}


def _blacklist_url(account: Account) -> str:
    query = _read_search_text()
    return url_for(".show_blacklist", name=account.name, q=query or None)


def _format_actor(entry: BlacklistEntry) -> str:
    return _(_ACTOR_LABELS[entry.added_by]) if entry.added_by in _ACTOR_LABELS else entry.added_by


def _summarize_invalid_csv_lines(refusal: Refused) -> Sequence[object]:
    return refusal.summarize_lines() if isinstance(refusal, InvalidCsvLines) else ()


def _describe_added_count(count: int) -> str:
    if not count:
        return _("Nothing was added: all of it was on the blacklist already.")
    return i18n.ngettext("%(num)s number was added.", "%(num)s numbers were added.", count)
