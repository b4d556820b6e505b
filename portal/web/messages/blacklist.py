"""The numbers that get no messages of an account: seen, found, added, imported and taken off."""

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
from portal.services.common.csv_import import BadLines
from portal.services.common.errors import Refused
from portal.services.messages import blacklist
from portal.services.messages.blacklist import Listed
from portal.web.core import access, context, downloads, htmx, layout, live, paging, uploads
from portal.web.core.forms import Form, attach
from portal.web.core.htmx import Toast

blueprint = Blueprint("blacklist", __name__)

_PAGE = 20
_MOST_NAMED = 10
_SAMPLE = 20
_LONGEST = 40
_ACTORS = {audit.SHELL.name: N_("operator")}

# Its frame follows what happens; the list, in which numbers are ticked, stays as it is.
live.register("blacklist", tab="history")


class NumbersForm(Form):
    """`numbers`: one a line."""

    numbers = TextAreaField(N_("Numbers"))


class FileForm(Form):
    file = FileField(N_("CSV file"))


@blueprint.get("/accounts/<name>/blacklist")
@access.see_account
def listed(account: Account) -> ResponseReturnValue:
    """A page of it, newest first. Query: `q`, a number or how it begins; `before` or `after`, which turn the page."""
    if htmx.wanted():
        return htmx.parts("messages/blacklist/_list.html", **_list(account))
    return _page(account, NumbersForm(formdata=None))


@blueprint.post("/accounts/<name>/blacklist")
@access.change_account
def add(account: Account) -> ResponseReturnValue:
    """Add what was typed: all of it, or nothing where a line is no number."""
    form = NumbersForm()
    try:
        numbers = blacklist.typed(form.numbers.data or "")
    except Refused as refusal:
        attach(form, refusal)
        bad = _bad_lines(refusal)
        if htmx.wanted():
            return htmx.parts("messages/blacklist/_tiles.html", status=422, form=form, bad_lines=bad, **_list(account))
        return _page(account, form, bad, status=422)
    toast = Toast(_said_added(blacklist.add_all(context.conn(), context.actor(), account, numbers)))
    if htmx.wanted():
        form = NumbersForm(formdata=None)
        return htmx.parts("messages/blacklist/_tiles.html", toast=toast, form=form, bad_lines=(), **_list(account))
    return htmx.done(_address(account), toast)


@blueprint.get("/accounts/<name>/blacklist/remove")
@access.change_account
def ask(account: Account) -> ResponseReturnValue:
    """The question before numbers are taken off. Query: `number`, as often as there are numbers; `q` of the page."""
    found = blacklist.some(context.conn(), account.id, request.args.getlist("number"))
    return htmx.dialog(
        "messages/blacklist/_remove.html",
        account,
        title=_("Remove from the blacklist"),
        tab="history",
        numbers=found,
        named=found[:_MOST_NAMED],
        more=len(found) - _MOST_NAMED,
        stopped=any(each.received_id is not None for each in found),
        words=_words(),
        back=_address(account),
    )


@blueprint.post("/accounts/<name>/blacklist/remove")
@access.change_account
def remove(account: Account) -> ResponseReturnValue:
    """Take numbers off: messages reach them again. Form: as the query of `ask`."""
    removed = blacklist.remove_all(context.conn(), context.actor(), account, request.form.getlist("number"))
    if len(removed) == 1:
        toast = Toast(_("%(number)s was removed.", number=removed[0].number))
    elif removed:
        toast = Toast(i18n.ngettext("%(num)s number was removed.", "%(num)s numbers were removed.", len(removed)))
    else:
        # By a colleague, in the meantime.
        toast = Toast(_("That was no longer on the blacklist."), "warn")
    if htmx.wanted():
        return htmx.parts("messages/blacklist/_list.html", toast=toast, **_list(account))
    return htmx.done(_address(account), toast)


@blueprint.get("/accounts/<name>/blacklist.csv")
@access.see_account
def download(account: Account) -> ResponseReturnValue:
    """What the same query shows in the page, newest first."""
    rows = map(_row, blacklist.each(context.conn(), account.id, _words()))
    return downloads.send(f"{account.name}-blacklist.csv", blacklist.COLUMNS, rows)


def _row(each: Listed) -> list[object]:
    return [each.number, i18n.iso(each.since), each.reason, each.added_by, each.received_id]


# --- importing a file


@blueprint.get("/accounts/<name>/blacklist/import")
@access.change_account
def ask_file(account: Account) -> ResponseReturnValue:
    return _file_page(account, FileForm())


@blueprint.post("/accounts/<name>/blacklist/import")
@access.change_account
@uploads.takes_files
def look_at_file(account: Account) -> ResponseReturnValue:
    """Say what a file would add, and ask."""
    upload = request.files.get("file")
    content = upload.read(blacklist.MOST_BYTES + 1) if upload else b""
    try:
        if len(content) > blacklist.MOST_BYTES:
            raise blacklist.FileTooBig()
        numbers = blacklist.read(content)
    except Refused as refusal:
        return _refused_file(account, refusal)
    known = {each.number for each in blacklist.some(context.conn(), account.id, numbers)}
    new = [each for each in numbers if each not in known]
    return htmx.page(
        "messages/blacklist/plan.html",
        account=account,
        tab="history",
        new=new,
        sample=new[:_SAMPLE],
        more=len(new) - _SAMPLE,
        known=len(known),
        back=url_for(".ask_file", name=account.name),
    )


@blueprint.post("/accounts/<name>/blacklist/import/confirm")
@access.change_account
def import_file(account: Account) -> ResponseReturnValue:
    """Add what was shown: the form carries the `numbers`, with blanks between. Those that are there by now stay so."""
    try:
        numbers = blacklist.read("\n".join(request.form.get("numbers", "").split()).encode())
    except Refused as refusal:
        return _refused_file(account, refusal)
    added = blacklist.import_all(context.conn(), context.actor(), account, numbers)
    return htmx.done(_address(account), Toast(_said_added(added)))


def _refused_file(account: Account, refusal: Refused) -> ResponseReturnValue:
    form = FileForm(formdata=None)
    attach(form, refusal, numbers="file")
    return _file_page(account, form, _bad_lines(refusal))


def _file_page(account: Account, form: FileForm, bad_lines: Sequence[object] = ()) -> ResponseReturnValue:
    return htmx.page(
        "messages/blacklist/import.html",
        status=422 if form.errors else 200,
        account=account,
        tab="history",
        form=form,
        bad_lines=bad_lines,
        most=blacklist.MOST_IN_FILE,
    )


# --- parts of the page


def _page(
    account: Account, form: NumbersForm, bad_lines: Sequence[object] = (), *, status: int = 200
) -> ResponseReturnValue:
    shown = _list(account)
    del shown["account"]
    return live.show(
        "messages/blacklist/page.html",
        "blacklist",
        account,
        status=status,
        form=form,
        bad_lines=bad_lines,
        **shown,
    )


def _list(account: Account) -> dict[str, Any]:
    words = _words()
    return {
        "account": layout.account_view(account),
        "may_change": access.may_change(),
        "numbers": paging.page(partial(_find, account, words), _PAGE, blacklist.place),
        "total": blacklist.count(context.conn(), account.id),
        "words": words,
        "query": _query(words),
        "who": _who,
    }


def _find(account: Account, words: str, **place: Any) -> list[Listed]:
    found = blacklist.find(context.conn(), account.id, words, **place)
    return found if access.may_read() else [each.without_text() for each in found]


def _words() -> str:
    """What is searched for, in the query or in the form of a question that was asked from there."""
    return request.values.get("q", "").strip()[:_LONGEST]


def _query(words: str) -> Mapping[str, str]:
    return {"q": words} if words else {}


def _address(account: Account) -> str:
    words = _words()
    return url_for(".listed", name=account.name, q=words or None)


def _who(each: Listed) -> str:
    return _(_ACTORS[each.added_by]) if each.added_by in _ACTORS else each.added_by


def _bad_lines(refusal: Refused) -> Sequence[object]:
    return refusal.shown() if isinstance(refusal, BadLines) else ()


def _said_added(added: int) -> str:
    if not added:
        return _("Nothing was added: all of it was on the blacklist already.")
    return i18n.ngettext("%(num)s number was added.", "%(num)s numbers were added.", added)
