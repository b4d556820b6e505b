"""The messages that an account has sent: pages of what is looked for among them, files, and all about one."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flask import Blueprint, abort, g, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import session_records
from portal.services.accounts.accounts import BINARY, Account
from portal.services.accounts.change_counters import Pulse
from portal.services.accounts.session_records import Origin
from portal.services.common import credit_amounts, message_states
from portal.services.common.message_states import PTT
from portal.services.history import history, refunds, search
from portal.services.history.history import Details, Message, Text
from portal.services.history.search import Wanted
from portal.services.messages import validation
from portal.services.prices import countries
from portal.services.senders import senders
from portal.web.core import access, context, downloads, filters, htmx, live, paging, periods
from portal.web.core.live import Part
from portal.web.messages import deletion_progress

blueprint = Blueprint("history", __name__)

_COLUMNS = "id;date;sender;receiver;ptt;operatorCode;descriptionDlr;tag;message".split(";")
_ON, _OFF = "on", "off"
_FIELDS = ("sender", "recipient", "status", "text")
_NAMES = (*_FIELDS, filters.LIVE)
_STATUSES = {
    search.DELIVERED: PTT[message_states.PTT_NONE],
    search.UNDERWAY: PTT[message_states.PTT_PENDING],
    search.SCHEDULED: N_("Scheduled"),
    search.FAILED: N_("Not delivered"),
}
_ENCODINGS = {validation.GSM: "GSM 03.38", validation.UCS2: "UCS-2", BINARY: N_("Binary")}


class FilterForm(periods.Form):
    """What the address asks for."""

    sender = StringField(N_("Sender"))
    recipient = StringField(N_("Recipient"))
    status = SelectField(N_("Status"), validate_choice=False)
    text = StringField(N_("Words of the text"))


@dataclass(frozen=True)
class Filter(filters.Filter[Wanted]):
    """What is shown."""

    follows: bool
    """Whether new messages appear as they come."""


def asked_for() -> Filter:
    """The filter that this request's address asks for, found once."""
    if "history_filter" not in g:
        g.history_filter = _read()
    found: Filter = g.history_filter
    return found


def _read() -> Filter:
    statuses = {*search.STATUSES, *map(str, search.failures())}
    found = filters.read(_FIELDS, numbers=("recipient",), choices={"status": statuses})
    values = found.values
    wanted = Wanted(
        found.asked.within,
        sender=values["sender"],
        recipient=values["recipient"],
        status=values["status"],
        said=values["text"],
    )
    read = Filter(found.said, found.asked, wanted, found.refusals, follows=False)
    # Looking for something, nobody wants the page to move, and each time costs a search.
    switch, usual = request.args.get(filters.LIVE), not read.is_on
    follows = {_ON: True, _OFF: False}.get(switch or "", usual)
    live_said = {filters.LIVE: _ON if follows else _OFF} if follows != usual else {}
    return replace(read, said={**read.said, **live_said}, follows=follows)


def _is_newest() -> bool:
    return not any(request.args.get(each) for each in paging.ASKS)


# --- pages


@blueprint.get("/accounts/<name>/history")
@access.see_account
def sent(account: Account) -> ResponseReturnValue:
    """A page of what is looked for, newest first.

    Query: `period` (with `from` and `to`), `sender`, `recipient` (its first digits suffice), `status`, `text` (words,
    or how they begin), `live` (`on`, `off`), `lines` (25 or 100), and `before` or `after`, which turn the page.
    """
    asked = asked_for()
    shown = {"filter": _filter_form(account, asked), "asked": asked, "senders": _senders(account)}
    shown["months"] = deletion_progress.months(account)
    return live.show("messages/history/page.html", "history", account, status=422 if asked.is_refused else 200, **shown)


def _filter_form(account: Account, asked: Filter) -> FilterForm:
    form = FilterForm(request.args)
    common = [SelectChoice(name, _(words)) for name, words in _STATUSES.items()]
    form.status.choices = [SelectChoice("", _("Any")), *common, *_reasons(account, asked.wanted.status)]
    form.status.data = asked.wanted.status
    filters.show(form, asked)
    return form


def _reasons(account: Account, status: str) -> list[SelectChoice]:
    """Why messages have failed. Each weighs a tenth of a message: only who looks for failures chooses among them, and
    among those that there have been."""
    if status != search.FAILED and not status.isdecimal():
        return []
    reasons = search.reasons(context.conn(), account.id)
    if status.isdecimal():
        reasons[int(status)] = search.failures()[int(status)]
    choices = [SelectChoice(str(code), _(words)) for code, words in reasons.items()]
    return sorted(choices, key=lambda choice: choice.label)


def _senders(account: Account) -> list[str]:
    return sorted({each.address for each in senders.of_account(context.conn(), account.id)})


@blueprint.get("/accounts/<name>/history/<int:message_id>")
@access.see_account
def view(account: Account, message_id: int) -> ResponseReturnValue:
    """All about one of them, and about the other parts of its text."""
    try:
        text = _readable(history.by_id(context.conn(), account.id, message_id))
    except history.NoSuchMessage:
        abort(404)
    given_back = refunds.refunds(context.conn(), text)
    refunded = sum(each.amount for each in given_back)
    to_refund = access.user().is_operator and text.done_at is not None and refunded < text.price
    details = _details(text)
    return htmx.dialog(
        "messages/history/_message.html",
        account,
        title=_("Message"),
        tab="history",
        text=text,
        details=details,
        origins=_origins(account, details),
        bind_types=session_records.BIND_TYPES,
        handed_on=_handed_on(text, details),
        encoding=_(_ENCODINGS.get(text.first.data_coding, str(text.first.data_coding))),
        refunds=given_back,
        refunded=refunded,
        look=_look,
        country=countries.name(text.first.country),
        delete=url_for("deletion.ask_sent", name=account.name, id=text.id) if access.may_change() else "",
        refund=url_for("admin_balances.ask_refund_message", message_id=text.id) if to_refund else "",
    )


def _details(text: Text) -> dict[int, Details]:
    found = history.details(context.conn(), text)
    if access.may_read():
        return found
    # A header may carry what is meant for people.
    return {message_id: replace(each, udh=None) for message_id, each in found.items()}


def _origins(account: Account, details: dict[int, Details]) -> dict[int, Origin | None]:
    """The sessions that messages came from, by id; None where one is not kept any more."""
    session_ids = {each.session_id for each in details.values() if each.session_id is not None}
    kept = session_records.origins(context.conn(), account.id, session_ids)
    return {each: kept.get(each) for each in sorted(session_ids)}


def _handed_on(text: Text, details: dict[int, Details]) -> str:
    """When a text went on to the upstream; empty: never."""
    early = text.scheduled_at is not None and text.done_at is not None and text.done_at < text.scheduled_at
    # An upstream may refuse for want of its credits, or know a number that said STOP, just as we do.
    unheard_of = all(each.upstream_status is None for each in details.values())
    ours = all(each.ptt in (message_states.PTT_NO_CREDIT, message_states.PTT_BLACKLISTED) for each in text.messages)
    if early or (ours and unheard_of):
        return ""
    if text.waits:
        return _("Not yet")
    return _("At its date") if text.scheduled_at is not None else _("At once")


def _list(account: Account, pulse: Pulse) -> dict[str, Any]:
    asked = asked_for()
    look = partial(search.find, context.conn(), account.id, asked.wanted)
    shown = filters.page(asked, look, lambda found: [_readable(each) for each in found.texts], _NAMES)
    return shown | {"is_newest": _is_newest(), "look": _look}


def _ground(account: Account, pulse: Pulse) -> Hashable:
    # The bounds too: "today" is another day after midnight.
    within = asked_for().wanted.within
    return pulse.latest_message, pulse.totals, pulse.removed, within.since, within.until


def _look(text: Text | Message) -> tuple[str, str]:
    """The status in words, with the kind of its badge."""
    if text.waits:
        return _("Scheduled"), "info"
    if text.ptt is not None:
        kind = {message_states.PTT_NONE: "ok", message_states.PTT_PENDING: "info"}.get(text.ptt, "err")
        return _(text.description), kind
    assert isinstance(text, Text)
    failed = any(each.ptt not in (message_states.PTT_NONE, message_states.PTT_PENDING) for each in text.messages)
    said = _("%(delivered)s of %(total)s parts delivered", delivered=text.delivered, total=text.segments)
    return said, "err" if failed else "info"


def _readable(text: Text) -> Text:
    """What of a text this user may see."""
    if not access.may_read():
        for each in text.messages:
            each.hide()
    return text


def _is_still() -> bool:
    return not asked_for().follows or not _is_newest()


live.register(
    "history",
    deletion_progress.PROGRESS,
    Part("messages/history/_list.html", _ground, _list, ages=True, still=_is_still, asks=filters.asks(_NAMES)),
)


# --- files


@blueprint.get("/accounts/<name>/history.csv")
@access.see_account
def download(account: Account) -> ResponseReturnValue:
    """What the same query shows in the page, newest first; sent as it is read: any number takes the same memory.

    A line a message, also of texts that clients have cut up: its id is the one that its client knows. `bom=1` begins
    with the mark by which Excel knows that it is UTF-8.
    """
    if asked_for().is_refused:
        return _mended(account)
    rows = map(_row, _messages(account))
    return downloads.send(f"{account.name}-history.csv", _COLUMNS, rows, mark=request.args.get("bom") == "1")


@blueprint.get("/accounts/<name>/history.jsonl")
@access.see_account
def download_json(account: Account) -> ResponseReturnValue:
    """The same as JSON, an object a line (JSON Lines), with parts and credits.

    Ids are strings: JavaScript's numbers are too small for them.
    """
    if asked_for().is_refused:
        return _mended(account)
    rows = map(_object, _messages(account))
    return downloads.send_json(f"{account.name}-history.jsonl", rows)


def _mended(account: Account) -> ResponseReturnValue:
    """The page says what is wrong with the address."""
    query = request.query_string.decode("latin-1")
    return htmx.done(f"{url_for('.sent', name=account.name)}?{query}")


def _messages(account: Account) -> Iterator[Message]:
    for text in map(_readable, search.each(context.conn(), account.id, asked_for().wanted)):
        if len(text.messages) == 1:
            yield text.messages[0]
        else:
            yield from sorted(text.messages, key=lambda message: -message.id)


def _row(message: Message) -> list[object]:
    return [
        message.id,
        i18n.iso(message.at),
        message.source,
        message.destination,
        message.ptt,
        "",
        _(message.description),
        "",
        message.content,
    ]


def _object(message: Message) -> dict[str, object]:
    values = dict(zip(_COLUMNS, _row(message), strict=True))
    if message.missing:
        values["message"] = None
    return values | {"id": str(message.id), "parts": message.parts, "credits": credit_amounts.plain(message.price)}
