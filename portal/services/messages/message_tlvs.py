"""Optional parameters of messages that upstreams are to get as their client has sent them.

Those are kept that an upstream is set to pass on (`UpstreamSettings.pass_tlvs`), and no others, until the message ends:
they may say as much as its text.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence

from portal.services.messages.validation import SubmittedMessage


def store_tlvs(conn: sqlite3.Connection, messages: Sequence[SubmittedMessage]) -> None:
    """Store those of messages; the caller is inside `write_transaction()`."""
    conn.executemany(
        "INSERT INTO message_tlvs (message_id, tlvs) VALUES (?, ?)",
        [
            (each.id, json.dumps({tag: value.hex() for tag, value in each.tlvs.items()}))
            for each in messages
            if each.tlvs
        ],
    )


def load_tlvs(conn: sqlite3.Connection, messages: Iterable[SubmittedMessage]) -> None:
    """Give messages theirs."""
    if not _has_tlvs(conn):
        return
    by_id = {each.id: each for each in messages}
    rows = conn.execute(
        "SELECT message_id, tlvs FROM message_tlvs WHERE message_id IN (SELECT value FROM json_each(?))",
        (json.dumps([*by_id]),),
    )
    for message_id, tlvs in rows:
        by_id[message_id].tlvs = {int(tag): bytes.fromhex(value) for tag, value in json.loads(tlvs).items()}


def remove_tlvs(conn: sqlite3.Connection, message_ids: Collection[int]) -> None:
    """Remove those of messages that have ended, or are removed; the caller is inside `write_transaction()`."""
    if _has_tlvs(conn):
        conn.execute(
            "DELETE FROM message_tlvs WHERE message_id IN (SELECT value FROM json_each(?))",
            (json.dumps([*message_ids]),),
        )


def _has_tlvs(conn: sqlite3.Connection) -> bool:
    return bool(conn.execute("SELECT EXISTS (SELECT 1 FROM message_tlvs)").fetchone()[0])
