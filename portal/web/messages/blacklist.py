"""An account's blacklist, the numbers that get no messages of it: list, search, add, import and remove."""

from functools import partial
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.file import FileField
from wtforms import TextAreaField

from portal.core import i18n
from portal.core.i18n import N_, _
from portal.services.accounts.accounts import Account
from portal.services.common import audit
from portal.services.messages import blacklist
from portal.services.messages.blacklist import BlacklistEntry
from portal.web.core import access, context, downloads, htmx, live, paging
from portal.web.core.forms import TranslatedForm, read_upload, refusals_on

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
    return _answer_list(account)


@blueprint.post("/accounts/<name>/blacklist")
@access.account_change_required
def add_to_blacklist(account: Account) -> ResponseReturnValue:
    """Add the numbers that were typed: all of them, or none where a line is no number."""
    form, toast = BlacklistNumbersForm(), None
    with refusals_on(form):
        numbers = blacklist.parse_typed_numbers(form.numbers.data)
        added = blacklist.add_blacklist_numbers(context.get_conn(), context.get_actor(), account, numbers)
        toast, form = htmx.Toast(_describe_added_count(added)), BlacklistNumbersForm(formdata=None)
    return _answer_list(account, toast, "messages/blacklist/_tiles.html", form)


@blueprint.route("/accounts/<name>/blacklist/remove", methods=["GET", "POST"])
@access.account_change_required
def remove_from_blacklist(account: Account) -> ResponseReturnValue:
    """Remove numbers, once that has been confirmed: messages reach them again.

    Query, then form: `number`, several times; `q` of the page.
    """
    conn = context.get_conn()
    if request.method != "POST":
        entries = blacklist.find_blacklist_entries(conn, account.id, request.args.getlist("number"))
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
    removed = blacklist.remove_blacklist_numbers(conn, context.get_actor(), account, request.form.getlist("number"))
    if len(removed) == 1:
        toast = htmx.Toast(_("%(number)s was removed.", number=removed[0].number))
    elif removed:
        toast = htmx.Toast(i18n.ngettext("%(num)s number was removed.", "%(num)s numbers were removed.", len(removed)))
    else:
        # By a colleague, in the meantime.
        toast = htmx.Toast(_("That was no longer on the blacklist."), "warn")
    return _answer_list(account, toast)


@blueprint.get("/accounts/<name>/blacklist.csv")
@access.account_access_required
def download_blacklist_csv(account: Account) -> ResponseReturnValue:
    """What the same query shows in the page, newest first."""
    rows = map(_to_csv_row, blacklist.iterate_blacklist(context.open_stream_conn(), account.id, _read_search_text()))
    return downloads.stream_csv(f"{account.name}-blacklist.csv", blacklist.CSV_COLUMNS, rows)


def _to_csv_row(entry: BlacklistEntry) -> list[object]:
    return [entry.number, i18n.format_iso8601(entry.since), entry.reason, entry.added_by, entry.received_id]


# --- importing a file


@blueprint.route("/accounts/<name>/blacklist/import", methods=["GET", "POST"])
@access.account_change_required
def preview_import(account: Account) -> ResponseReturnValue:
    """Ask for a file, and show what it would add, for confirmation."""
    form = BlacklistFileForm(formdata=None)
    if request.method == "POST":
        with refusals_on(form, numbers="file"):
            content = read_upload("file", blacklist.MAX_FILE_BYTES)
            if len(content) > blacklist.MAX_FILE_BYTES:
                raise blacklist.BlacklistFileTooBig()
            numbers = blacklist.parse_numbers_csv(content)
            entries = blacklist.find_blacklist_entries(context.get_conn(), account.id, numbers)
            known_numbers = {each.number for each in entries}
            new_numbers = [each for each in numbers if each not in known_numbers]
            return htmx.render_page(
                "messages/blacklist/plan.html",
                account=account,
                tab="history",
                new=new_numbers,
                sample=new_numbers[:_SAMPLE_SIZE],
                more=len(new_numbers) - _SAMPLE_SIZE,
                known=len(known_numbers),
                back=url_for(".preview_import", name=account.name),
            )
    return _render_import_form(account, form)


@blueprint.post("/accounts/<name>/blacklist/import/confirm")
@access.account_change_required
def import_numbers(account: Account) -> ResponseReturnValue:
    """Add what was confirmed: the form carries the `numbers`, separated by blanks. Those in the list stay unchanged."""
    form = BlacklistFileForm(formdata=None)
    with refusals_on(form, numbers="file"):
        numbers = blacklist.parse_numbers_csv("\n".join(request.form.get("numbers", "").split()).encode())
        added = blacklist.import_blacklist_numbers(context.get_conn(), context.get_actor(), account, numbers)
        return htmx.redirect_after_post(_blacklist_url(account), htmx.Toast(_describe_added_count(added)))
    return _render_import_form(account, form)


def _render_import_form(account: Account, form: BlacklistFileForm) -> ResponseReturnValue:
    most = blacklist.MAX_NUMBERS_IN_FILE
    return htmx.render_page("messages/blacklist/import.html", account=account, tab="history", form=form, most=most)


# --- parts of the page


def _answer_list(
    account: Account,
    toast: htmx.Toast | None = None,
    template: str = "messages/blacklist/_list.html",
    form: BlacklistNumbersForm | None = None,
) -> ResponseReturnValue:
    query = _read_search_text()
    return htmx.answer_form(
        template,
        page="messages/blacklist/page.html",
        address=_blacklist_url(account),
        toast=toast,
        form=form or BlacklistNumbersForm(formdata=None),
        numbers=paging.paginate(
            partial(_list_visible_entries, account, query), parse_position=blacklist.parse_blacklist_cursor
        ),
        total=blacklist.count_blacklist(context.get_conn(), account.id),
        words=query,
        query={"q": query} if query else {},
        format_actor=_format_actor,
        **live.build_live_page_values("blacklist", account),
    )


def _list_visible_entries(account: Account, query: str, **page_args: Any) -> list[BlacklistEntry]:
    entries = blacklist.list_blacklist_page(context.get_conn(), account.id, query, **page_args)
    return entries if access.may_read_texts() else [each.without_text() for each in entries]


def _read_search_text() -> str:
    """The search text: in the query, or in the form of a confirmation that was opened from the list."""
    return request.values.get("q", "").strip()[:_MAX_QUERY_LENGTH]


def _blacklist_url(account: Account) -> str:
    query = _read_search_text()
    return url_for(".show_blacklist", name=account.name, q=query or None)


def _format_actor(entry: BlacklistEntry) -> str:
    return _(_ACTOR_LABELS[entry.added_by]) if entry.added_by in _ACTOR_LABELS else entry.added_by


def _describe_added_count(count: int) -> str:
    if not count:
        return _("Nothing was added: all of it was on the blacklist already.")
    return i18n.ngettext("%(num)s number was added.", "%(num)s numbers were added.", count)
