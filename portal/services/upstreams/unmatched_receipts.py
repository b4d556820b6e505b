"""Receipts of upstreams that belong to no message, for operators: what was looked for, and what they say."""

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnmatchedReceipt:
    """A receipt, and when it came (milliseconds).

    `upstream`: the id of the one that sent it. `tried`: the ids that were looked for. `status`: its state and error as
    they came. `source`, `destination`: the addresses of the deliver_sm, the handset's first. `text`: its own text,
    without what it quotes.
    """

    received_at: int
    upstream: int
    tried: str
    status: str
    source: str
    destination: str
    text: str


def list_unmatched_receipts(conn: sqlite3.Connection, upstream_id: int | None, limit: int) -> list[UnmatchedReceipt]:
    """The last ones of an upstream, or of all (None), newest first."""
    rows = conn.execute(
        "SELECT received_at, upstream, tried, status, source, destination, text FROM unmatched_receipts"
        " WHERE upstream = coalesce(?, upstream) ORDER BY id DESC LIMIT ?",
        (upstream_id, limit),
    )
    return [UnmatchedReceipt(*row) for row in rows]
