"""The messages that an account has sent."""

from functools import partial
from typing import Any

from flask import Blueprint, abort, url_for
from flask.typing import ResponseReturnValue

from portal import i18n
from portal.i18n import gettext as _
from portal.services import history, messages
from portal.services.accounts import Account
from portal.services.history import Message, Text
from portal.services.live import Pulse
from portal.web import access, context, downloads, htmx, live, paging
from portal.web.live import Part

blueprint = Blueprint("history", __name__)

_COLUMNS = "id;date;sender;receiver;ptt;operatorCode;descriptionDlr;tag;message".split(";")
# Texts weigh more than amounts do.
_PAGE = 14


@blueprint.get("/accounts/<name>/history")
@access.see_account
def sent(account: Account) -> ResponseReturnValue:
    """A page of them, newest first; `?before=` and `?after=` turn it."""
    return live.show("history/page.html", "history", account)


@blueprint.get("/accounts/<name>/history/<int:message_id>")
@access.see_account
def view(account: Account, message_id: int) -> ResponseReturnValue:
    """All about one of them, and about the other parts of its text."""
    try:
        text = history.by_id(context.conn(), account.id, message_id)
    except history.NoSuchMessage:
        abort(404)
    refunded = history.refunded(context.conn(), text)
    to_refund = access.user().is_operator and text.done_at is not None and refunded < text.price
    return htmx.dialog(
        "history/_message.html",
        account,
        title=_("Message"),
        tab="history",
        text=text,
        refunded=refunded,
        look=_look,
        refund=url_for("admin_credits.ask_refund_message", message_id=text.id) if to_refund else "",
    )


@blueprint.get("/accounts/<name>/history.csv")
@access.see_account
def download(account: Account) -> ResponseReturnValue:
    """All of them, newest first; sent as they are read, so that any number takes the same memory.

    A line a message, also of texts that clients have cut up: its id is the one that its client knows.
    """
    rows = map(_row, history.each(context.conn(), account.id))
    return downloads.send(f"{account.name}-history.csv", _COLUMNS, rows)


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


def _list(account: Account, pulse: Pulse) -> dict[str, Any]:
    return {"page": paging.page(partial(history.texts, context.conn(), account.id), _PAGE), "look": _look}


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


live.register(
    "history",
    Part(
        "history/_list.html",
        lambda account, pulse: (pulse.latest_message, pulse.totals),
        _list,
        ages=True,
        asks=paging.ASKS,
    ),
)
