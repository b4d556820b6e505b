"""Who did what: one row for each change, kept apart from what it changed."""

import json
import sqlite3
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.core.db import insert_row


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a user's e-mail address (or `shell`, `system`), the address they come from, and their language."""

    name: str
    address: str = ""
    language: str = "en"


SHELL = Actor("shell")
SYSTEM = Actor("system")


def record_action(
    conn: sqlite3.Connection,
    actor: Actor,
    action: str,
    *,
    customer_id: int | None = None,
    account_id: int | None = None,
    at: int | None = None,
    **details: object,
) -> int:
    """Write one line, in the transaction of the change that it is about; returns its id.

    Args:
        action: area and verb, such as `ip.add`; `operations/audit_log.py` has the words for it.
        at: when it was (milliseconds); None: now.
        details: what changed; never a secret.
    """
    return insert_row(
        conn,
        "audit_log",
        at=now_ms() if at is None else at,
        actor=actor.name,
        address=actor.address,
        customer_id=customer_id,
        account_id=account_id,
        action=action,
        details=json.dumps(details),
    )


def purge_audit_log(conn: sqlite3.Connection, before: int) -> None:
    """Delete what is older than `before` (milliseconds)."""
    conn.execute("DELETE FROM audit_log WHERE at < ?", (before,))
