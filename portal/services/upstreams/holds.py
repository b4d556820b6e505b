"""Accounts on hold: what they submit is accepted and charged, and waits; its validity runs, and cancel_sm works.

A hold is one row, whatever waits: who claims messages leaves these accounts out (`claims`), and what they submit is
never given to an upstream at once. The SMPP server knows of a change when it is committed.
"""

import sqlite3
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.core.db import write_transaction
from portal.services.common import audit
from portal.services.common.audit import SYSTEM, Actor

IS_ON_HOLD_SQL = "IN (SELECT account_id FROM account_holds)"
"""Whether an account is on hold; its id stands in front."""


@dataclass(frozen=True, slots=True)
class AccountHold:
    """An account on hold since a moment (milliseconds). `reason`: for operators; `actor`: who has held it."""

    account_id: int
    account: str
    reason: str
    since: int
    actor: str


def hold_account(conn: sqlite3.Connection, actor: Actor, account_id: int, reason: str) -> bool:
    """Hold all that waits of an account, and all that it submits from now on; what upstreams have goes on.

    What the system holds becomes the hold of whoever holds it, too: nobody else's answer is to release it. Without a
    `reason` it keeps its own.

    Returns:
        False where somebody holds it already: that stays as it is, with its own reason.
    """
    with write_transaction(conn):
        row = conn.execute(
            "INSERT INTO account_holds (account_id, reason, since, actor) VALUES (?1, ?2, ?3, ?4)"
            " ON CONFLICT DO UPDATE SET reason = iif(?2 = '', reason, ?2), actor = ?4 WHERE actor = ?5 AND ?4 <> ?5"
            " RETURNING reason",
            (account_id, reason, now_ms(), actor.name, SYSTEM.name),
        ).fetchone()
        if row is not None:
            _record_hold_action(conn, actor, "queue.hold_account", account_id, row[0])
        return row is not None


def release_account(conn: sqlite3.Connection, actor: Actor, account_id: int) -> bool:
    """Let the messages of an account go on, those that were refused for the moment within a minute.

    Returns:
        False where it is not on hold.
    """
    with write_transaction(conn):
        row = conn.execute("DELETE FROM account_holds WHERE account_id = ? RETURNING reason", (account_id,)).fetchone()
        if row is not None:
            _record_hold_action(conn, actor, "queue.release_account", account_id, row[0])
        return row is not None


def _record_hold_action(conn: sqlite3.Connection, actor: Actor, action: str, account_id: int, reason: str) -> None:
    (customer_id,) = conn.execute("SELECT customer_id FROM accounts WHERE id = ?", (account_id,)).fetchone()
    audit.record_action(conn, actor, action, customer_id=customer_id, account_id=account_id, reason=reason)


def list_account_holds(conn: sqlite3.Connection) -> list[AccountHold]:
    """All accounts on hold, the last one first."""
    rows = conn.execute(
        "SELECT account_id, accounts.name, reason, since, actor FROM account_holds JOIN accounts ON accounts.id ="
        " account_id ORDER BY since DESC, account_id DESC"
    )
    return [AccountHold(*row) for row in rows]


def list_held_account_ids(conn: sqlite3.Connection) -> frozenset[int]:
    """The ids of all accounts on hold."""
    return frozenset(row[0] for row in conn.execute("SELECT account_id FROM account_holds"))
