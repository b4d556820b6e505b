"""What the audit log has of an account."""

import json
import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AuditEntry:
    at: int
    actor: str
    address: str
    action: str
    details: dict[str, object]


def list_audit_entries(conn: sqlite3.Connection, account_id: int, limit: int = 50) -> list[AuditEntry]:
    """The latest changes of an account, newest first."""
    rows = conn.execute(
        "SELECT at, actor, address, action, details FROM audit_log WHERE account_id = ? ORDER BY id DESC LIMIT ?",
        (account_id, limit),
    )
    return [
        AuditEntry(row["at"], row["actor"], row["address"], row["action"], json.loads(row["details"])) for row in rows
    ]
