"""What goes to the webhook of `[alerts]`: an object for each alert and for its end, in their order, tried for a day."""

import logging
import sqlite3
import threading
from collections.abc import Iterator

from portal.core import i18n, webhook
from portal.core.clock import DAY_MS, now_ms
from portal.core.config import Config
from portal.core.db import write_transaction
from portal.core.i18n import gettext
from portal.services.operations import alerts
from portal.services.operations.alerts import Alert
from portal.services.people import users

_log = logging.getLogger(__name__)

FIRING, OVER = "firing", "over"
_BACKOFF_MS = [each * 1000 for each in (5, 15, 60, 300)]
_CLAIM_TIMEOUT_MS = 120_000
_is_failing = threading.Event()
# The first of them goes before the others: that something is over must not arrive before that it is wrong.
# What is older than a day helps nobody, whether it was tried or has waited behind others.
_WAITING = "FROM alert_posts WHERE next_attempt_at IS NOT NULL AND created_at > ? ORDER BY id LIMIT 1"


def send_due_posts(conn: sqlite3.Connection, config: Config) -> Iterator[None]:
    """Send what waits, until one fails or none is left. Yields after each that arrived.

    Who is stopped between sending one and writing that down sends it again: receivers know it by `id` and `state`.
    """
    while (row := _claim_post(conn)) is not None:
        try:
            alert = alerts.get_alert(conn, row["alert_id"])
            webhook.post_json(config.alerts.webhook_url, build_post(conn, config, alert, is_over=bool(row["is_over"])))
        except OSError as error:
            _record_failure(conn, row, error)
            return
        conn.execute(
            "UPDATE alert_posts SET next_attempt_at = NULL, sent_at = ?, error = '' WHERE id = ?", (now_ms(), row["id"])
        )
        if _is_failing.is_set():
            _is_failing.clear()
            _log.info("alerts are sent to the webhook again")
        yield


def _claim_post(conn: sqlite3.Connection) -> sqlite3.Row | None:
    """Take the first one, if it is due, so that no other process sends it, too."""
    now = now_ms()
    first = conn.execute(f"SELECT id, next_attempt_at {_WAITING}", (now - DAY_MS,)).fetchone()
    # What is to be tried later than the longest wait was put off by a clock that has been set back since.
    if first is None or now < first["next_attempt_at"] <= now + max(_BACKOFF_MS[-1], _CLAIM_TIMEOUT_MS):
        return None
    with write_transaction(conn):
        row: sqlite3.Row | None = conn.execute(
            "UPDATE alert_posts SET attempts = attempts + 1, next_attempt_at = ? WHERE id = ? AND next_attempt_at = ?"
            " RETURNING id, alert_id, is_over, attempts",
            (now + _CLAIM_TIMEOUT_MS, *first),
        ).fetchone()
    return row


def _record_failure(conn: sqlite3.Connection, row: sqlite3.Row, error: OSError) -> None:
    reason = error.strerror or str(error)
    if not _is_failing.is_set():
        _is_failing.set()
        _log.warning("alerts can't be sent to the webhook, and will be tried again: %s", reason)
    delay = _BACKOFF_MS[min(row["attempts"], len(_BACKOFF_MS)) - 1]
    conn.execute(
        "UPDATE alert_posts SET next_attempt_at = ?, error = ? WHERE id = ?", (now_ms() + delay, reason, row["id"])
    )


def count_failing_posts(conn: sqlite3.Connection) -> tuple[int, str]:
    """How many wait since the first couldn't be sent, and its error; 0: it could, or none waits."""
    row = conn.execute(f"SELECT count(*) OVER (), error {_WAITING}", (now_ms() - DAY_MS,)).fetchone()
    return (row[0], row[1]) if row and row[1] else (0, "")


def purge_posts(conn: sqlite3.Connection, now: int) -> None:
    """Delete what couldn't be sent for a day (`now` in milliseconds)."""
    conn.execute("DELETE FROM alert_posts WHERE next_attempt_at IS NOT NULL AND created_at <= ?", (now - DAY_MS,))


# --- what is sent


def build_post(conn: sqlite3.Connection, config: Config, alert: Alert, *, is_over: bool) -> dict[str, object]:
    """An alert as JSON. `text` is what Slack, Mattermost and others show, `content` what Discord does."""
    address = f"{config.public_url}{alert.path}"
    with i18n.override_language(_choose_language(conn)):
        since = i18n.format_date_time(alert.since, config.timezone)
        title = gettext("Over now, it was: %(title)s", title=alert.title) if is_over else alert.title
        parts = [f"{config.name}: {title}.", "" if is_over else alert.detail]
        parts += [gettext("Since %(since)s.", since=since), address]
    text = " ".join(filter(None, parts))
    return {
        "text": text,
        "content": text,
        "id": alert.id,
        "kind": alert.kind,
        "subject": alert.subject,
        "state": OVER if is_over else FIRING,
        "since": i18n.format_iso8601(alert.since),
        "over_at": i18n.format_iso8601(alert.over_at) if is_over and alert.over_at is not None else None,
        "url": address,
        "portal": config.public_url,
    }


def send_test(conn: sqlite3.Connection, config: Config) -> None:
    """Send a test to the webhook, at once and once; it looks like an alert of the kind `test`.

    Raises:
        OSError: see `webhook.post_json`.
    """
    with i18n.override_language(_choose_language(conn)):
        text = f"{config.name}: {gettext('This is a test. Alerts come here.')}"
    now = i18n.format_iso8601(now_ms())
    post = {"id": 0, "kind": "test", "subject": "", "state": "test", "since": now, "over_at": None}
    address = config.public_url
    webhook.post_json(
        config.alerts.webhook_url, {"text": text, "content": text, **post, "url": address, "portal": address}
    )


def _choose_language(conn: sqlite3.Connection) -> str:
    """Operators read it together: their language, where they have the same one."""
    languages = {each.language or i18n.DEFAULT_LANGUAGE for each in users.list_users(conn, None)}
    return languages.pop() if len(languages) == 1 else i18n.DEFAULT_LANGUAGE
