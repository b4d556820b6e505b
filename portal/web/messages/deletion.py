"""Deletion of sent and received messages: the confirmation dialog, and the deletion itself."""

import sqlite3
import time
from contextlib import suppress

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from portal.core.i18n import _
from portal.services.accounts.accounts import Account
from portal.services.common import idempotency
from portal.services.history import deletion
from portal.services.history.deletion import RECEIVED, SENT
from portal.web.core import access, context, filters, forms, htmx
from portal.web.core.filters import MessageFilter
from portal.web.messages import deletion_progress, history, inbound

blueprint = Blueprint("deletion", __name__)


def _render_confirmation(account: Account, kind: str) -> ResponseReturnValue:
    """Query: `id`, several times, or `all` and the page's filter."""
    conn, message_filter = context.get_conn(), _get_message_filter(kind)
    all_matching = "all" in request.args
    if all_matching and message_filter.has_errors:
        return filters.redirect_to_list(_list_url(account, kind))
    scope = (
        deletion.build_query_scope(conn, account.id, message_filter.search_query)
        if all_matching
        else deletion.build_selection_scope(kind, [forms.parse_row_id(each) for each in request.args.getlist("id")])
    )
    count = deletion.preview_deletion(conn, account.id, scope, context.get_limits().count_seconds)
    return htmx.render_dialog(
        "messages/history/_delete.html",
        account,
        title=_("Delete messages"),
        tab="history",
        kind=kind,
        everything=all_matching,
        filter=message_filter,
        scope=scope,
        count=count,
        not_deleted=deletion_progress.describe_undeleted_messages(kind, count.underway, count.waiting),
        form=idempotency.new_idempotency_key(),
        action=_append_query(url_for(".delete_messages", name=account.name, kind=kind), message_filter),
        back=_append_query(_list_url(account, kind), message_filter),
    )


@blueprint.route("/accounts/<name>/history/delete", methods=["GET", "POST"], defaults={"kind": SENT})
@blueprint.route("/accounts/<name>/received/delete", methods=["GET", "POST"], defaults={"kind": RECEIVED})
@access.account_change_required
def delete_messages(account: Account, kind: str) -> ResponseReturnValue:
    """Delete what was confirmed. Form: `scope`, `total` and `form` of the dialog; query: the page's filter."""
    if request.method != "POST":
        return _render_confirmation(account, kind)
    try:
        scope = deletion.parse_deletion_scope(kind, request.form.get("scope", ""))
        total = forms.parse_row_id(request.form["total"]) if request.form.get("total") else None
    except ValueError:
        abort(400)
    back = _append_query(_list_url(account, kind), _get_message_filter(kind))
    conn = context.get_conn()
    try:
        with htmx.once(back):
            deletion_id = deletion.create_deletion(conn, context.get_actor(), account, scope, total=total)
    except deletion.TooManyDeletions as refusal:
        return htmx.redirect_browser_or_htmx(back, htmx.Toast(refusal.localized(), "warn"))
    deadline = time.monotonic() + context.get_limits().delete_seconds
    # The deletion is stored: where the database is locked for long, it continues in the background.
    with suppress(sqlite3.OperationalError):
        for _step in deletion.run_deletion(conn, deletion_id):
            if time.monotonic() >= deadline:
                break
    job = deletion.get_deletion_by_id(conn, deletion_id)
    toast = htmx.Toast(_("The deletion has begun, and goes on by itself."))
    if job.ended_at is not None:
        toast = htmx.Toast(deletion_progress.describe_deletion_result(job), "ok" if job.removed else "warn")
    return htmx.redirect_browser_or_htmx(back, toast)


def _get_message_filter(kind: str) -> MessageFilter:
    return history.get_history_filter() if kind == SENT else inbound.get_inbound_filter()


def _list_url(account: Account, kind: str) -> str:
    endpoint = "history.list_sent_messages" if kind == SENT else "inbound.list_received_messages"
    return url_for(endpoint, name=account.name)


def _append_query(url: str, message_filter: MessageFilter) -> str:
    return f"{url}?{message_filter.query_string}" if message_filter.query_string else url
