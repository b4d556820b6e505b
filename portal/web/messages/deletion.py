"""Deleting messages from the history, sent and received ones: the question, and the answer."""

import sqlite3
import time
from contextlib import suppress
from typing import Any

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from portal.core.i18n import gettext as _
from portal.services.accounts.accounts import Account
from portal.services.common import idempotency
from portal.services.history import deletion
from portal.services.history.deletion import RECEIVED, SENT, Deletion
from portal.web.core import access, context, forms, htmx
from portal.web.core.filters import Filter
from portal.web.core.htmx import Toast
from portal.web.messages import deletion_progress, history, inbound

blueprint = Blueprint("deletion", __name__)

# A question about millions is asked before they are counted, and a deletion that takes longer goes on behind the page.
_COUNT_SECONDS, _WORK_SECONDS = 1.0, 0.5


@blueprint.get("/accounts/<name>/history/delete")
@access.change_account
def ask_sent(account: Account) -> ResponseReturnValue:
    """The question before messages go. Query: `id`, as often as there are; or `all`, with the filter of the page."""
    return _ask(account, SENT)


@blueprint.post("/accounts/<name>/history/delete")
@access.change_account
def delete_sent(account: Account) -> ResponseReturnValue:
    """Delete what was asked about. Form: `scope`, `total` and `form` of the question; query: the page's filter."""
    return _delete(account, SENT)


@blueprint.get("/accounts/<name>/received/delete")
@access.change_account
def ask_received(account: Account) -> ResponseReturnValue:
    """The same for received messages."""
    return _ask(account, RECEIVED)


@blueprint.post("/accounts/<name>/received/delete")
@access.change_account
def delete_received(account: Account) -> ResponseReturnValue:
    return _delete(account, RECEIVED)


def _ask(account: Account, kind: str) -> ResponseReturnValue:
    conn, found = context.conn(), _filter(kind)
    everything = "all" in request.args
    if everything and found.is_refused:
        # The page says what is wrong with the address.
        return htmx.moved(f"{_page(account, kind)}?{request.query_string.decode('latin-1')}")
    scope = deletion.all_of(conn, account.id, found.wanted) if everything else deletion.ticked(kind, _ticked())
    count = deletion.count(conn, account.id, scope, _COUNT_SECONDS)
    return htmx.dialog(
        "messages/history/_delete.html",
        account,
        title=_("Delete messages"),
        tab="history",
        kind=kind,
        everything=everything,
        filter=found,
        scope=scope,
        count=count,
        stays=deletion_progress.stays(kind, count.underway, count.waiting),
        form=idempotency.new(),
        action=_with_query(url_for(".delete_sent" if kind == SENT else ".delete_received", name=account.name), found),
        back=_with_query(_page(account, kind), found),
    )


def _ticked() -> list[int]:
    try:
        return [forms.row_id(each) for each in request.args.getlist("id")]
    except ValueError:
        abort(404)


def _delete(account: Account, kind: str) -> ResponseReturnValue:
    try:
        scope = deletion.scope(kind, request.form.get("scope", ""))
        total = forms.row_id(request.form["total"]) if request.form.get("total") else None
    except ValueError:
        abort(400)
    back = _with_query(_page(account, kind), _filter(kind))
    conn = context.conn()
    try:
        deletion_id = deletion.begin(
            conn, context.actor(), account, scope, total=total, form=request.form.get("form", "")
        )
    except (idempotency.AlreadySent, deletion.TooManyAtOnce) as refusal:
        return htmx.moved(back, Toast(refusal.localized(), "warn"))
    ends = time.monotonic() + _WORK_SECONDS
    # It has begun: where the database is locked for long, it goes on behind the page.
    with suppress(sqlite3.OperationalError):
        for _step in deletion.work(conn, deletion_id):
            if time.monotonic() >= ends:
                break
    return htmx.moved(back, _toast(deletion.by_id(conn, deletion_id)))


def _toast(found: Deletion) -> Toast:
    if found.ended_at is None:
        return Toast(_("The deletion has begun, and goes on by itself."))
    return Toast(deletion_progress.said(found), "ok" if found.removed else "warn")


def _filter(kind: str) -> Filter[Any]:
    return history.asked_for() if kind == SENT else inbound.asked_for()


def _page(account: Account, kind: str) -> str:
    return url_for("history.sent" if kind == SENT else "received.listed", name=account.name)


def _with_query(address: str, found: Filter[Any]) -> str:
    return f"{address}?{found.query}" if found.query else address
