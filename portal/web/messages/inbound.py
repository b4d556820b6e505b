"""What handsets have sent to an account (MO): pages of what is looked for, files, and all about one message."""

from collections.abc import Hashable, Iterator
from functools import partial
from typing import Any

from flask import Blueprint, abort, g, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts.accounts import BINARY, Account
from portal.services.accounts.change_counters import Pulse
from portal.services.messages import blacklist, inbound, inbound_numbers, validation
from portal.services.messages.inbound import Received, Wanted
from portal.web.core import access, context, downloads, filters, htmx, live, periods
from portal.web.core.filters import Filter
from portal.web.core.live import Part
from portal.web.messages import deletion_progress

blueprint = Blueprint("received", __name__)

_COLUMNS = "id;date;sender;receiver;keyword;status;statusDate;encoding;udh;message".split(";")
_FIELDS = ("sender", "recipient", "keyword", "state", "text")
# The words for a state, and the kind of its badge.
_STATES = {
    inbound.DELIVERED: (N_("Accepted by a client"), "ok"),
    inbound.WAITING: (N_("Waits for a client"), "info"),
    inbound.GIVEN_UP: (N_("Given up"), "err"),
    inbound.UNKNOWN: (N_("Unknown"), ""),
}
_ENCODINGS = {validation.GSM: "GSM 03.38", validation.UCS2: "UCS-2", BINARY: N_("Binary")}


class FilterForm(periods.Form):
    """What the address asks for."""

    sender = StringField(N_("Sender"))
    recipient = StringField(N_("Sent to"))
    keyword = StringField(N_("Keyword"))
    state = SelectField(N_("Status"), validate_choice=False)
    text = StringField(N_("Words of the text"))


def asked_for() -> Filter[Wanted]:
    """The filter that this request's address asks for, found once."""
    if "received_filter" not in g:
        g.received_filter = _read()
    found: Filter[Wanted] = g.received_filter
    return found


def _read() -> Filter[Wanted]:
    found = filters.read(_FIELDS, numbers=("sender", "recipient"), choices={"state": inbound.STATES})
    values = found.values
    wanted = Wanted(
        found.asked.within,
        sender=values["sender"],
        recipient=values["recipient"],
        keyword=values["keyword"],
        state=values["state"],
        said=values["text"],
    )
    return Filter(found.said, found.asked, wanted, found.refusals)


# --- pages


@blueprint.get("/accounts/<name>/received")
@access.see_account
def listed(account: Account) -> ResponseReturnValue:
    """A page of what is looked for, newest first.

    Query: `period` (with `from` and `to`), `sender` and `recipient` (their first digits suffice), `keyword`, `state`,
    `text` (words, or how they begin), `lines` (25 or 100), and `before` or `after`, which turn the page.
    """
    asked = asked_for()
    numbers = inbound_numbers.of_account(context.conn(), account.id)
    return live.show(
        "messages/inbound/page.html",
        "received",
        account,
        status=422 if asked.is_refused else 200,
        filter=_filter_form(asked),
        asked=asked,
        months=deletion_progress.months(account),
        numbers=sorted({each.number for each in numbers}),
        keywords=sorted({each.keyword for each in numbers if each.keyword}),
    )


def _filter_form(asked: Filter[Wanted]) -> FilterForm:
    form = FilterForm(request.args)
    form.state.choices = [SelectChoice("", _("Any")), *(SelectChoice(each, _(_STATES[each][0])) for each in _STATES)]
    form.state.data = asked.wanted.state
    filters.show(form, asked)
    return form


@blueprint.get("/accounts/<name>/received/<int:received_id>")
@access.see_account
def view(account: Account, received_id: int) -> ResponseReturnValue:
    """All about one of them."""
    conn = context.conn()
    try:
        message = _readable(inbound.by_id(conn, account.id, received_id))
    except inbound.NoSuchMessage:
        abort(404)
    attempts, next_at = inbound.attempts(conn, account.id, message)
    listed = blacklist.some(conn, account.id, [message.source])
    return htmx.dialog(
        "messages/inbound/_message.html",
        account,
        title=_("Message"),
        tab="history",
        message=message,
        look=_look,
        delete=url_for("deletion.ask_received", name=account.name, id=message.id) if access.may_change() else "",
        encoding=_(_ENCODINGS.get(message.data_coding, str(message.data_coding))),
        attempts=attempts,
        next_at=next_at,
        given_up_at=message.at + validation.DELIVERIES_VALID_MS,
        listed=listed[0] if listed else None,
        blacklist=url_for("blacklist.listed", name=account.name, q=message.source),
    )


# --- files


@blueprint.get("/accounts/<name>/received.csv")
@access.see_account
def download(account: Account) -> ResponseReturnValue:
    """What the same query shows in the page, newest first. With `bom=1` it begins with the mark that Excel wants."""
    if asked_for().is_refused:
        return _back(account)
    rows = map(_row, _each(account))
    return downloads.send(f"{account.name}-received.csv", _COLUMNS, rows, mark=request.args.get("bom") == "1")


@blueprint.get("/accounts/<name>/received.jsonl")
@access.see_account
def download_json(account: Account) -> ResponseReturnValue:
    """The same as an object a line. Ids are strings: numbers of their length are not safe in JSON."""
    if asked_for().is_refused:
        return _back(account)
    return downloads.send_json(f"{account.name}-received.jsonl", map(_object, _each(account)))


def _back(account: Account) -> ResponseReturnValue:
    return htmx.done(f"{url_for('.listed', name=account.name)}?{request.query_string.decode('latin-1')}")


def _each(account: Account) -> Iterator[Received]:
    return map(_readable, inbound.each(context.conn(), account.id, asked_for().wanted))


def _readable(message: Received) -> Received:
    """What of a message this user may see."""
    return message if access.may_read() else message.without_text()


def _row(message: Received) -> list[object]:
    return [
        message.id,
        i18n.iso(message.at),
        message.source,
        message.destination,
        message.keyword,
        message.state,
        i18n.iso(message.ended_at) if message.ended_at else "",
        message.data_coding,
        message.udh.hex() if message.udh else "",
        message.content,
    ]


def _object(message: Received) -> dict[str, object]:
    values = dict(zip(_COLUMNS, _row(message), strict=True)) | {"id": str(message.id)}
    return values | {"message": None} if message.missing else values


# --- parts of the page


def _list(account: Account, pulse: Pulse) -> dict[str, Any]:
    asked = asked_for()
    look = partial(inbound.find, context.conn(), account.id, asked.wanted)
    shown = filters.page(asked, look, lambda found: [_readable(each) for each in found.messages], _FIELDS)
    return shown | {"look": _look}


def _ground(account: Account, pulse: Pulse) -> Hashable:
    # The bounds too: "today" is another day after midnight.
    within = asked_for().wanted.within
    return inbound.pulse(context.conn(), account.id), within.since, within.until


def _look(message: Received) -> tuple[str, str]:
    """What became of its delivery in words, with the kind of its badge."""
    words, kind = _STATES[message.state]
    return _(words), kind


live.register(
    "received",
    deletion_progress.PROGRESS,
    Part("messages/inbound/_list.html", _ground, _list, ages=True, asks=filters.asks(_FIELDS)),
    tab="history",
)
