"""Credits that run out at a date: what was granted until then and has not been spent leaves the account.

What is spent is taken from the credits that run out first, and what is left of these is worked out from the ledger when
it is asked for: sending a message knows nothing of dates.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from heapq import heappop, heappush
from itertools import pairwise
from zoneinfo import ZoneInfo

from portal.db import DAY_MS, immediate, insert, now_ms
from portal.i18n import N_
from portal.services import ids, ledger
from portal.services.audit import SYSTEM
from portal.services.errors import Refused

# Ids hold their time, and in the year 2248 SQLite's integers end.
_FURTHEST_MS = 50 * 366 * DAY_MS


class InvalidDate(Refused):
    sentence = N_("“%(text)s” isn't a date. One looks like 2027-12-31.")
    field = "until"


class DateOutOfRange(Refused):
    sentence = N_("Credits can run out today at the earliest, and in fifty years at the latest.")
    field = "until"


@dataclass(frozen=True, slots=True)
class Lot:
    """Credits that run out together: what is left of them (thousandths), and when they do (milliseconds)."""

    movement_id: int
    expires_at: int
    left: int


def end_of_day(text: str, timezone: str) -> int | None:
    """Read the last day on which credits are good, as forms and commands send it.

    Args:
        text: ISO 8601 (`2027-12-31`), or empty.
        timezone: IANA name of the day's.

    Returns:
        The end of the day (milliseconds); None: they never run out.

    Raises:
        InvalidDate
    """
    text = text.strip()
    if not text:
        return None
    try:
        ends = datetime.combine(date.fromisoformat(text) + timedelta(days=1), time.min, ZoneInfo(timezone))
        return int(ends.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise InvalidDate(text=text) from None


def check(expires_at: int, now: int | None = None) -> None:
    """Whether credits may run out at a moment (milliseconds).

    Args:
        now: milliseconds; None: this moment.

    Raises:
        DateOutOfRange
    """
    at = now_ms() if now is None else now
    if not at < expires_at < at + _FURTHEST_MS:
        raise DateOutOfRange()


def put(conn: sqlite3.Connection, account_id: int, movement_id: int, amounts: Mapping[int, int]) -> None:
    """Let credits that a movement brought run out. The caller is inside `immediate()`.

    Args:
        amounts: thousandths by date (milliseconds), together at most the movement's.
    """
    for expires_at, amount in amounts.items():
        insert(
            conn,
            "expiring_credits",
            account_id=account_id,
            movement_id=movement_id,
            expires_at=expires_at,
            amount=amount,
        )


def upcoming(conn: sqlite3.Connection, account_id: int, now: int | None = None) -> list[Lot]:
    """What an account holds that will run out, by date, those first that run out first; nothing that is used up.

    Args:
        now: as in `ids.next_ids`.
    """
    # The ledger's time, which goes on where the clock was set back: what is spent next is spent at it.
    next_id = ids.next_ids(conn, "movements", 1, now)
    open_now = {
        (row["movement_id"], row["expires_at"])
        for row in conn.execute(
            "SELECT movement_id, expires_at FROM expiring_credits"
            " WHERE account_id = ? AND expired_at IS NULL AND expires_at > ?",
            (account_id, ids.time_of(next_id)),
        )
    }
    if not open_now:
        return []
    left = _left(conn, account_id, next_id)
    return [Lot(*key, amount) for key, amount in left.items() if amount and key in open_now]


def hand_over(lots: list[Lot], amount: int) -> Mapping[int, int]:
    """The dates (milliseconds) of what leaves for another account, and how much has each: `lots` first, in their order.

    Args:
        lots: from `upcoming`, before it left.
        amount: how much leaves; what no lot covers has no date.
    """
    dates: dict[int, int] = {}
    for lot in lots:
        taken = min(lot.left, amount)
        amount -= taken
        if taken:
            dates[lot.expires_at] = dates.get(lot.expires_at, 0) + taken
    return dates


def run_out(conn: sqlite3.Connection, now: int | None = None) -> int:
    """Take away what is left of all credits whose date has come, each in a transaction of its own.

    Never more than the balance: what was spent between the date and this moment stays spent.

    Args:
        now: as in `ids.next_ids`.

    Returns:
        How many movements that were.
    """
    at = now_ms() if now is None else now
    due = conn.execute(
        "SELECT account_id, movement_id, expires_at FROM expiring_credits WHERE expired_at IS NULL AND expires_at <= ?"
        " ORDER BY expires_at, movement_id",
        (at,),
    ).fetchall()
    return sum(_run_out(conn, *tuple(row), at=at, now=now) for row in due)


def _run_out(
    conn: sqlite3.Connection, account_id: int, movement_id: int, expires_at: int, *, at: int, now: int | None
) -> bool:
    # Movements before the date come no more, but for one that is being written at this moment. So this is worked out
    # before the write lock is taken, and looked at again in the next round where such a one has come in between.
    # Where the clock was set back before the grant, that may have come after its date in the ledger's time.
    end = max(ids.first_id_at(expires_at), movement_id + 1)
    last = _last_before(conn, account_id, end)
    left = _left(conn, account_id, end).get((movement_id, expires_at), 0)
    with immediate(conn):
        if _last_before(conn, account_id, end) != last:
            return False
        ended = conn.execute(
            "UPDATE expiring_credits SET expired_at = ?"
            " WHERE account_id = ? AND movement_id = ? AND expires_at = ? AND expired_at IS NULL",
            (at, account_id, movement_id, expires_at),
        ).rowcount
        (balance,) = conn.execute("SELECT balance FROM accounts WHERE id = ?", (account_id,)).fetchone()
        amount = min(left, balance)
        if not ended or not amount:
            return False
        (note,) = conn.execute("SELECT note FROM movements WHERE id = ?", (movement_id,)).fetchone()
        expiry_id, _ = ledger.move(conn, SYSTEM, account_id, ledger.EXPIRY, -amount, note, now=now)
        conn.execute(
            "UPDATE expiring_credits SET expiry_id = ? WHERE account_id = ? AND movement_id = ? AND expires_at = ?",
            (expiry_id, account_id, movement_id, expires_at),
        )
    return True


def _left(conn: sqlite3.Connection, account_id: int, end: int) -> dict[tuple[int, int], int]:
    """What is left of an account's credits with a date, by movement and date, before the movement `end`; of those whose
    date came before that, what was left then.

    Each stretch between two moments, at which credits came or their date did, is looked at as a whole: however much was
    sent in it, that is one subtraction. Others wait for the write lock meanwhile: the time that this takes grows with
    the credits that came, however often they were handed over.
    """
    rows = conn.execute(
        "SELECT movement_id, expires_at, amount FROM expiring_credits WHERE account_id = ? AND movement_id < ?"
        " ORDER BY expires_at, movement_id",
        (account_id, end),
    ).fetchall()
    left = {(row["movement_id"], row["expires_at"]): row["amount"] for row in rows}
    marks = {end}
    for movement_id, expires_at in left:
        marks |= {movement_id + 1, min(ids.first_id_at(expires_at), end)}
    coming = sorted(left, reverse=True)
    spendable: list[tuple[int, int]] = []
    for begins, ends, spent in _spent(conn, account_id, sorted(marks)):
        while coming and coming[-1][0] < begins:
            movement_id, expires_at = coming.pop()
            heappush(spendable, (expires_at, movement_id))
        while spendable and ids.first_id_at(spendable[0][0]) < ends:
            heappop(spendable)
        while spendable and spent:
            key = spendable[0][::-1]
            taken = min(left[key], spent)
            left[key] -= taken
            spent -= taken
            if not left[key]:
                heappop(spendable)
    return left


# What came is told by the ledger's few lines that aren't usage. By the account's own index SQLite would read them all.
_CAME = """
SELECT id, amount FROM movements INDEXED BY movements_kinds
WHERE account_id = :account AND kind <> 'usage'
  AND kind IN ('grant', 'purchase', 'transfer_in', 'refund', 'correction', 'expiry')
  AND id >= :begins AND id < :ends AND (amount > 0 OR kind = 'expiry')
ORDER BY id
"""
_BALANCES = """
SELECT coalesce((SELECT balance_after FROM movements WHERE account_id = :account AND id < mark.value
                 ORDER BY id DESC LIMIT 1), 0)
FROM json_each(:marks) AS mark ORDER BY mark.key
"""


def _spent(conn: sqlite3.Connection, account_id: int, marks: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """For each stretch of movements, from a mark on and before the next one: what they took, without what ran out. That
    is the difference of the balances, and what came in between.
    """
    values = {"account": account_id, "begins": marks[0], "ends": marks[-1], "marks": json.dumps(marks)}
    balances = [int(row[0]) for row in conn.execute(_BALANCES, values)]
    came = conn.execute(_CAME, values).fetchall()
    at = 0
    for (begins, before), (ends, after) in pairwise(zip(marks, balances, strict=True)):
        spent = before - after
        while at < len(came) and came[at]["id"] < ends:
            spent += came[at]["amount"]
            at += 1
        yield begins, ends, spent


def _last_before(conn: sqlite3.Connection, account_id: int, movement_id: int) -> int:
    row = conn.execute(
        "SELECT max(id) FROM movements WHERE account_id = ? AND id < ?", (account_id, movement_id)
    ).fetchone()
    return row[0] or 0
