"""Alerts: operators are told of what is wrong by mail and to a webhook, once until it is over, and then of that.

Each is a row from when it is first seen. All that is told is queued in the transaction that writes so: whoever looks at
the same time, or after a crash, finds it told.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from portal.core import i18n
from portal.core.clock import DAY_MS, MINUTE_MS, now_ms
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.core.i18n import N_, gettext, ngettext
from portal.services.common import mail
from portal.services.operations import alert_causes
from portal.services.operations.alert_causes import (
    ACCOUNT_HELD,
    DELIVERY_RATE,
    FAILING_MAILS,
    FULL_DISK,
    OLD_QUEUE,
    REFUSED_MAILS,
    SERVER_STOPPED,
    UPSTREAM_UNBOUND,
    Cause,
)
from portal.services.people import users
from portal.services.upstreams import reasons

OVER_MS = 2 * MINUTE_MS
"""It is over once nobody has seen it for so long: longer than an upstream that comes and goes is away between two tries
to connect, which are a minute apart at most (`reconnect_seconds`)."""
# What was seen before it is told of counts only while somebody looks: after a stop it begins anew.
_UNSEEN_MS = MINUTE_MS
# So many are told in a transaction; each is a mail to each operator. The others follow seconds later.
_MOST_TOLD = 50
_RETENTION_MS = 90 * DAY_MS

_TITLES = {
    SERVER_STOPPED: N_("The SMPP server isn’t running."),
    UPSTREAM_UNBOUND: N_("“%(upstream)s” is not connected."),
    DELIVERY_RATE: N_("Fewer messages arrive by “%(upstream)s” than usual."),
    OLD_QUEUE: N_("Messages wait too long for “%(upstream)s”."),
    ACCOUNT_HELD: N_("%(account)s is on hold: unusual traffic"),
    FAILING_MAILS: N_("Mails can’t be sent."),
    REFUSED_MAILS: N_("The mail server refuses recipients of mails."),
    FULL_DISK: N_("The disk is nearly full."),
}
_NO_UPSTREAM_TITLE = N_("Messages wait, and there is no upstream for them.")


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is, or was, wrong; times in milliseconds, None: not yet. The other fields are those of `Cause`.

    `seen_at`: when it was last found so. Until `told_at` nobody was told, and it may be over without that.
    """

    id: int
    kind: str
    subject_id: int
    subject: str
    figures: Mapping[str, int | float | str]
    since: int
    seen_at: int
    told_at: int | None
    over_at: int | None

    @property
    def key(self) -> tuple[str, int]:
        return self.kind, self.subject_id

    @property
    def title(self) -> str:
        """What is wrong, in the language in use."""
        sentence = _NO_UPSTREAM_TITLE if self.kind == OLD_QUEUE and not self.subject else _TITLES[self.kind]
        return gettext(sentence, upstream=self.subject, account=self.subject).removesuffix(".")

    @property
    def detail(self) -> str:
        """A sentence with figures or the reason, in the language in use; empty: there is none."""
        figures = self.figures
        if self.kind == UPSTREAM_UNBOUND and figures["error"]:
            return gettext("The reason: %(reason)s.", reason=reasons.translate_reason(str(figures["error"])))
        if self.kind == DELIVERY_RATE:
            rate, usual = (i18n.format_percent(float(figures[name])) for name in ("rate", "usual"))
            return gettext(
                "In the last hour %(rate)s of them arrived, in the seven days before %(usual)s.", rate=rate, usual=usual
            )
        if self.kind == OLD_QUEUE:
            return ngettext("%(num)s message waits.", "%(num)s messages wait.", int(figures["messages"]))
        if self.kind in (FAILING_MAILS, REFUSED_MAILS):
            return ngettext("%(num)s mail waits.", "%(num)s mails wait.", int(figures["mails"]))
        if self.kind == FULL_DISK:
            free, share = i18n.format_number(int(figures["free_mb"])), i18n.format_percent(float(figures["share"]))
            return gettext("%(free)s MB are free, %(share)s of it.", free=free, share=share)
        return ""

    @property
    def path(self) -> str:
        """The page that helps, behind the portal's address."""
        # Upstreams by their ids: their names can be changed before somebody reads the mail.
        if self.kind in (UPSTREAM_UNBOUND, DELIVERY_RATE, OLD_QUEUE) and self.subject_id:
            return f"/admin/upstreams/{self.subject_id}"
        if self.kind == OLD_QUEUE:
            return "/admin/queue"
        return f"/admin/accounts/{self.subject}" if self.kind == ACCOUNT_HELD else "/admin/"


_SELECT = "SELECT id, kind, subject_id, subject, figures, since, seen_at, told_at, over_at FROM alerts"


def _alert_from_row(row: sqlite3.Row) -> Alert:
    return Alert(**{**dict(row), "figures": json.loads(row["figures"])})


def list_alerts(conn: sqlite3.Connection) -> list[Alert]:
    """What operators were told of and isn't over, the latest first."""
    return [each for each in _list_open_alerts(conn) if each.told_at is not None]


def list_all_alerts(conn: sqlite3.Connection, limit: int) -> list[Alert]:
    """The last ones that operators were told of, those that aren't over first."""
    query = f"{_SELECT} WHERE told_at IS NOT NULL ORDER BY over_at IS NOT NULL, since DESC, id DESC LIMIT ?"
    return [_alert_from_row(row) for row in conn.execute(query, (limit,))]


def get_alert(conn: sqlite3.Connection, alert_id: int) -> Alert:
    """One that there is."""
    return _alert_from_row(conn.execute(f"{_SELECT} WHERE id = ?", (alert_id,)).fetchone())


def _list_open_alerts(conn: sqlite3.Connection) -> list[Alert]:
    rows = conn.execute(f"{_SELECT} WHERE over_at IS NULL ORDER BY since DESC, id DESC")
    return [_alert_from_row(row) for row in rows]


def purge_alerts(conn: sqlite3.Connection, now: int) -> None:
    """Delete what has been over for three months at this moment (milliseconds)."""
    conn.execute("DELETE FROM alerts WHERE over_at < ?", (now - _RETENTION_MS,))


# --- looking


def watch(conn: sqlite3.Connection, config: Config, keys: Keys, now: int | None = None) -> None:
    """Look at what is wrong, and queue what is to be told of it. To be called every few seconds.

    Args:
        now: milliseconds; None: this moment.
    """
    at = now_ms() if now is None else now
    before = _list_open_alerts(conn)
    causes = alert_causes.find_causes(conn, config, {each.key for each in before if each.told_at is not None}, at)
    if not before and not any(causes.values()):
        return
    may_tell = _MOST_TOLD
    with write_transaction(conn):
        wrong = {(each.kind, each.subject_id): each for listed in causes.values() for each in listed or ()}
        # Another process may have looked meanwhile.
        known = {each.key: each for each in _list_open_alerts(conn)}
        for key, cause in wrong.items():
            _note_cause(conn, known.get(key), cause, at)
        for key, alert in known.items():
            if alert.kind not in causes:
                # The kind was switched off.
                _end_alert(conn, alert)
            elif key not in wrong and causes[alert.kind] is not None and (may_tell or alert.told_at is None):
                may_tell -= _note_absence(conn, config, keys, alert, at)
        for alert in _list_open_alerts(conn):
            is_due = alert.key in wrong and at - alert.since >= _get_delay(config, alert.kind)
            if alert.told_at is None and is_due and may_tell:
                may_tell -= 1
                conn.execute("UPDATE alerts SET told_at = ? WHERE id = ?", (at, alert.id))
                _tell(conn, config, keys, alert.id, is_over=False)


def _note_cause(conn: sqlite3.Connection, alert: Alert | None, cause: Cause, at: int) -> None:
    since = at if cause.since is None else min(cause.since, at)
    if alert is not None and (alert.told_at is not None or 0 <= at - alert.seen_at <= _UNSEEN_MS):
        since = alert.since
    conn.execute(
        "INSERT INTO alerts (kind, subject_id, subject, figures, since, seen_at) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (kind, subject_id) WHERE over_at IS NULL DO UPDATE SET subject = excluded.subject,"
        " figures = excluded.figures, since = excluded.since, seen_at = excluded.seen_at",
        (cause.kind, cause.subject_id, cause.subject, json.dumps(cause.figures), since, at),
    )


def _note_absence(conn: sqlite3.Connection, config: Config, keys: Keys, alert: Alert, at: int) -> bool:
    """Whether it is told now that something is over."""
    if alert.told_at is None:
        _end_alert(conn, alert)
        return False
    is_over = not 0 <= at - alert.seen_at < OVER_MS
    if is_over:
        _end_alert(conn, alert)
        _tell(conn, config, keys, alert.id, is_over=True)
    return is_over


def _end_alert(conn: sqlite3.Connection, alert: Alert) -> None:
    """It is over since it was last seen; one of which nobody was told has never been."""
    if alert.told_at is None:
        conn.execute("DELETE FROM alerts WHERE id = ?", (alert.id,))
    else:
        conn.execute("UPDATE alerts SET over_at = seen_at WHERE id = ?", (alert.id,))


def _get_delay(config: Config, kind: str) -> int:
    """How long something has to be so until it is told; others are told by how old what waits is, or at once."""
    return config.alerts.unbound_minutes * MINUTE_MS if kind in (SERVER_STOPPED, UPSTREAM_UNBOUND) else 0


# --- telling


def _tell(conn: sqlite3.Connection, config: Config, keys: Keys, alert_id: int, *, is_over: bool) -> None:
    alert = get_alert(conn, alert_id)
    if config.alerts.webhook_url:
        now = now_ms()
        conn.execute(
            "INSERT INTO alert_posts (alert_id, is_over, created_at, next_attempt_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (alert.id, is_over, now, now),
        )
    # That an account is put on hold was mailed with what is unusual about its traffic.
    if alert.kind == ACCOUNT_HELD and not is_over:
        return
    # A mail that tells a dead mailbox of itself would be the next one to be refused, for ever.
    left_out = mail.list_refused_recipients(conn) if alert.kind == REFUSED_MAILS else set()
    for operator in users.list_users(conn, None):
        if operator.email in left_out:
            continue
        language = operator.language or i18n.DEFAULT_LANGUAGE
        with i18n.override_language(language):
            texts = {"title": alert.title, "detail": alert.detail}
        mail.queue_mail(
            conn,
            keys,
            operator.email,
            "alert",
            language,
            **texts,
            since=alert.since,
            over_at=alert.over_at,
            path=alert.path,
        )
