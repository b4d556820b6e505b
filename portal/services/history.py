"""What pages and downloads show of an account's messages, and its statistics."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from portal.db import now_ms
from portal.i18n import N_
from portal.services import credits
from portal.services.errors import Refused

_DAY_MS = 86_400_000
_FURTHEST = (1 << 63) - 1

# "ptt" codes and what they mean to a customer.
PTT = {
    0: N_("Delivered"),
    1: N_("Internal error"),
    2: N_("Network error"),
    3: N_("Destination can't be reached"),
    4: N_("Equipment error"),
    5: N_("Subscriber or credit related"),
    6: N_("Timed out"),
    7: N_("Operator related"),
    8: N_("Parental lock"),
    9: N_("Undeliverable"),
    10: N_("Not enough credits"),
    50: N_("Internal error"),
    51: N_("Internal error"),
    52: N_("Missing template"),
    53: N_("Blacklisted: the recipient sent STOP"),
    54: N_("Forbidden destination"),
    100: N_("Invalid numbering plan"),
    101: N_("Invalid content"),
    102: N_("Invalid GSM 7-bit text"),
    103: N_("Too many parts"),
    254: N_("On its way"),
    255: N_("Unknown"),
    800: N_("Undeliverable"),
    801: N_("Expired"),
    802: N_("Deleted"),
    803: N_("Rejected"),
    804: N_("Unknown"),
}


class NoSuchMessage(Refused):
    sentence = N_("That message isn't in the history.")


@dataclass(frozen=True, slots=True)
class Message:
    """One line of the history; `price` in thousandths of a credit, times in milliseconds."""

    id: int
    source: str
    destination: str
    country: str
    text: str
    parts: int
    price: int
    state: int
    ptt: int
    done_at: int | None

    @property
    def at(self) -> int:
        return credits.time_of(self.id)

    @property
    def description(self) -> str:
        """What the ptt code means, in English; a key of the translations."""
        return PTT.get(self.ptt, PTT[255])


@dataclass(frozen=True, slots=True)
class Totals:
    """What was sent in a period. `failed` counts what was sent and didn't arrive, `refused` what wasn't even sent."""

    sent: int = 0
    delivered: int = 0
    failed: int = 0
    stopped: int = 0
    refused: int = 0
    parts: int = 0
    price: int = 0


_COLUMNS = "id, source, destination, country, text, parts, price, state, ptt, done_at"


def page(
    conn: sqlite3.Connection, account_id: int, *, before: int | None = None, after: int | None = None, limit: int = 50
) -> list[Message]:
    """Sent messages, newest first.

    Args:
        before: only those with a smaller id than this (the last one of the page before).
        after: the ones that follow upon this id, for the way back to newer ones.
    """
    if after is not None:
        return _select(conn, "id > ? ORDER BY id", account_id, after, limit)[::-1]
    return _select(conn, "id < ? ORDER BY id DESC", account_id, before if before is not None else _FURTHEST, limit)


def _select(conn: sqlite3.Connection, which: str, account_id: int, bound: int, limit: int) -> list[Message]:
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM messages WHERE account_id = ? AND {which} LIMIT ?", (account_id, bound, limit)
    )
    return [Message(*row) for row in rows]


def by_id(conn: sqlite3.Connection, account_id: int, message_id: int) -> Message:
    """One message of an account.

    Raises:
        NoSuchMessage: there is none with this id, or it is another account's.
    """
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM messages WHERE id = ? AND account_id = ?", (message_id, account_id)
    ).fetchone()
    if row is None:
        raise NoSuchMessage()
    return Message(*row)


def each(conn: sqlite3.Connection, account_id: int, batch: int = 1000) -> Iterator[Message]:
    """All sent messages, newest first, in constant memory."""
    before = None
    while found := page(conn, account_id, before=before, limit=batch):
        yield from found
        before = found[-1].id


def totals(conn: sqlite3.Connection, account_id: int, days: int | None) -> Totals:
    """Totals of the last days, today (UTC) included; None: of all time."""
    first = now_ms() // _DAY_MS - days + 1 if days is not None else 0
    row = conn.execute(
        "SELECT sum(sent), sum(delivered), sum(failed), sum(stopped), sum(refused), sum(parts), sum(price)"
        " FROM daily_totals WHERE account_id = ? AND day >= ?",
        (account_id, first),
    ).fetchone()
    return Totals(*(value or 0 for value in row))


def per_day(conn: sqlite3.Connection, account_id: int, days: int) -> list[tuple[int, Totals]]:
    """One (start of the day in milliseconds, totals) for each of the last days, oldest first, empty ones included."""
    today = now_ms() // _DAY_MS
    rows = conn.execute(
        "SELECT day, sent, delivered, failed, stopped, refused, parts, price FROM daily_totals"
        " WHERE account_id = ? AND day > ?",
        (account_id, today - days),
    )
    known = {row["day"]: Totals(*tuple(row)[1:]) for row in rows}
    return [(day * _DAY_MS, known.get(day, Totals())) for day in range(today - days + 1, today + 1)]
