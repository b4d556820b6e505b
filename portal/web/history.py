"""The messages that an account has sent: pages of what is looked for among them, files, and all about one."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flask import Blueprint, abort, g, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal import i18n
from portal.i18n import N_
from portal.i18n import gettext as _
from portal.services import connections, countries, credits, history, ids, messages, search, senders
from portal.services.accounts import BINARY, Account
from portal.services.connections import Origin
from portal.services.history import PTT, Details, Message, Text
from portal.services.live import Pulse
from portal.services.periods import ALL
from portal.services.search import Wanted
from portal.web import access, context, deletion_progress, downloads, htmx, live, paging, periods
from portal.web.live import Part

blueprint = Blueprint("history", __name__)

_COLUMNS = "id;date;sender;receiver;ptt;operatorCode;descriptionDlr;tag;message".split(";")
# Texts weigh more than amounts do, and what is looked for is on the page as well.
_PAGE = 8
_LONGEST = 100
# One of the few threads that make pages looks through a history so long at a time.
_SECONDS = 1.0
_ON, _OFF = "on", "off"
_ASKS = (*periods.ASKS, "sender", "recipient", "status", "text", "live")
_STATUSES = {
    search.DELIVERED: PTT[messages.PTT_NONE],
    search.UNDERWAY: PTT[messages.PTT_PENDING],
    search.SCHEDULED: N_("Scheduled"),
    search.FAILED: N_("Not delivered"),
}
_ENCODINGS = {messages.GSM: "GSM 03.38", messages.UCS2: "UCS-2", BINARY: N_("Binary")}


class FilterForm(periods.Form):
    """What the address asks for."""

    sender = StringField(N_("Sender"))
    recipient = StringField(N_("Recipient"))
    status = SelectField(N_("Status"), validate_choice=False)
    text = StringField(N_("Words of the text"))


@dataclass(frozen=True)
class Filter(paging.Query):
    """What is shown: the period that was asked for, and what else is looked for."""

    asked: periods.Asked
    wanted: Wanted
    follows: bool
    """Whether new messages appear as they come."""

    @property
    def is_on(self) -> bool:
        """Whether it leaves anything out."""
        return self.asked.choice != ALL or any(self.said[each] for each in ("sender", "recipient", "status", "text"))


def asked_for() -> Filter:
    """The filter that this request's address asks for, found once; what can't be read of it doesn't matter."""
    if "history_filter" not in g:
        g.history_filter = _read()
    found: Filter = g.history_filter
    return found


def _read() -> Filter:
    asked = periods.asked(usual=ALL)
    sender, recipient, status, text, switch = (request.args.get(each, "").strip()[:_LONGEST] for each in _ASKS[3:])
    if not access.may_read():
        # Who may not read texts could guess them, word by word.
        text = ""
    if status not in search.STATUSES and not (status.isdecimal() and int(status) in search.failures()):
        status = ""
    # As people write numbers: +39 340 123-4567, or 0039…
    digits = "".join(each for each in recipient if each.isascii() and each.isdigit())
    if digits.startswith("00"):
        digits = digits[2:]
    said = dict(asked.said) if asked.choice != ALL else {}
    said |= {"sender": sender, "recipient": digits or recipient, "status": status, "text": text}
    if paging.lines(_PAGE) != _PAGE:
        said[paging.LINES] = str(paging.lines(_PAGE))
    wanted = Wanted(asked.within, sender, digits or recipient, status, text)
    found = Filter(said, asked, wanted, follows=False)
    # Looking for something, nobody wants the page to move, and each time costs a search.
    follows = switch == _ON if found.is_on else switch != _OFF
    if follows == found.is_on:
        said["live"] = _ON if follows else _OFF
    return replace(found, follows=follows)


def _is_asked(name: str) -> bool:
    return bool(request.args.get(name)) and (name != "text" or access.may_read())


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
    return live.show("history/page.html", "history", account, status=422 if asked.asked.refusal else 200, **shown)


def _filter_form(account: Account, asked: Filter) -> FilterForm:
    form = FilterForm(request.args)
    common = [SelectChoice(name, _(words)) for name, words in _STATUSES.items()]
    form.status.choices = [SelectChoice("", _("Any")), *common, *_reasons(account, asked.wanted.status)]
    for field in (form.sender, form.recipient, form.status, form.text):
        field.data = asked.said[field.name]
    if not access.may_read():
        del form.text
    form.show(asked.asked)
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
    refunds = history.refunds(context.conn(), text)
    refunded = sum(each.amount for each in refunds)
    to_refund = access.user().is_operator and text.done_at is not None and refunded < text.price
    details = _details(text)
    return htmx.dialog(
        "history/_message.html",
        account,
        title=_("Message"),
        tab="history",
        text=text,
        details=details[text.first.id],
        known=details,
        origins=_origins(account, details),
        bind_types=connections.BIND_TYPES,
        handed_on=_handed_on(text),
        encoding=_(_ENCODINGS.get(text.first.data_coding, str(text.first.data_coding))),
        refunds=refunds,
        refunded=refunded,
        look=_look,
        country=countries.name(text.first.country),
        delete=url_for("deletion.ask_sent", name=account.name, id=text.id) if access.may_change() else "",
        refund=url_for("admin_credits.ask_refund_message", message_id=text.id) if to_refund else "",
    )


def _details(text: Text) -> dict[int, Details]:
    found = history.details(context.conn(), text)
    if access.may_read():
        return found
    # A header may carry what is meant for people.
    return {message_id: replace(each, udh=None) for message_id, each in found.items()}


def _origins(account: Account, details: dict[int, Details]) -> dict[int, Origin | None]:
    """The sessions that messages came from, by id; None where one is not kept any more."""
    session_ids = sorted({each.session_id for each in details.values() if each.session_id is not None})
    kept = connections.origins(context.conn(), account.id, session_ids)
    return {each: kept.get(each) for each in session_ids}


def _handed_on(text: Text) -> str:
    """When a text went on to the upstream; empty: never."""
    early = text.scheduled_at is not None and text.done_at is not None and text.done_at < text.scheduled_at
    if early or all(each.ptt in (messages.PTT_NO_CREDIT, messages.PTT_BLACKLISTED) for each in text.messages):
        return ""
    if text.waits:
        return _("Not yet")
    return _("At its date") if text.scheduled_at is not None else _("At once")


def _list(account: Account, pulse: Pulse) -> dict[str, Any]:
    asked = asked_for()
    reached: list[int] = []

    def fetch(*, before: int | None = None, after: int | None = None, limit: int) -> Sequence[Text]:
        found = search.find(
            context.conn(), account.id, asked.wanted, before=before, after=after, limit=limit, seconds=_SECONDS
        )
        reached[:] = [] if found.reached is None else [found.reached]
        return [_readable(each) for each in found.texts]

    page = paging.page(fetch, paging.lines(_PAGE))
    unfinished = reached[0] if reached and not page.older and page.after is None else None
    return {
        "page": page,
        "usual": _PAGE,
        "asked": asked,
        "args": {name: request.args[name] for name in (*_ASKS, *paging.ASKS, paging.LINES) if _is_asked(name)},
        "is_newest": _is_newest(),
        "unfinished": unfinished,
        "reached": ids.time_of(unfinished) if unfinished else None,
        "look": _look,
    }


def _ground(account: Account, pulse: Pulse) -> Hashable:
    # The bounds too: "today" is another day after midnight.
    within = asked_for().wanted.within
    return pulse.latest_message, pulse.totals, pulse.removed, within.since, within.until


def _look(text: Text | Message) -> tuple[str, str]:
    """The status in words, with the kind of its badge."""
    if text.waits:
        return _("Scheduled"), "info"
    if text.ptt is not None:
        kind = {messages.PTT_NONE: "ok", messages.PTT_PENDING: "info"}.get(text.ptt, "err")
        return _(text.description), kind
    assert isinstance(text, Text)
    failed = any(each.ptt not in (messages.PTT_NONE, messages.PTT_PENDING) for each in text.messages)
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
    Part("history/_list.html", _ground, _list, ages=True, still=_is_still, asks=(*_ASKS, *paging.ASKS, paging.LINES)),
)


# --- files


@blueprint.get("/accounts/<name>/history.csv")
@access.see_account
def download(account: Account) -> ResponseReturnValue:
    """What the same query shows in the page, newest first; sent as it is read: any number takes the same memory.

    A line a message, also of texts that clients have cut up: its id is the one that its client knows. `bom=1` begins
    with the mark by which Excel knows that it is UTF-8.
    """
    if asked_for().asked.refusal is not None:
        return _mended(account)
    rows = map(_row, _messages(account))
    return downloads.send(f"{account.name}-history.csv", _COLUMNS, rows, mark=request.args.get("bom") == "1")


@blueprint.get("/accounts/<name>/history.jsonl")
@access.see_account
def download_json(account: Account) -> ResponseReturnValue:
    """The same as JSON, an object a line (JSON Lines), with parts and credits.

    Ids are strings: JavaScript's numbers are too small for them.
    """
    if asked_for().asked.refusal is not None:
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
    return values | {"id": str(message.id), "parts": message.parts, "credits": credits.plain(message.price)}
