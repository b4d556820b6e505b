"""Credits that run out at a date: what was granted until then and has not been spent leaves the account.

What is spent is taken from the credits that run out first, and what is left of these is worked out from the ledger when
it is asked for: sending a message knows nothing of dates.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from heapq import heappop, heappush
from itertools import pairwise
from zoneinfo import ZoneInfo

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import immediate, insert
from portal.core.i18n import N_
from portal.services.common import ids
from portal.services.common.audit import SYSTEM
from portal.services.common.errors import Refused
from portal.services.credits import ledger

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
        " ORDER BY expires_at, account_id, movement_id",
        (at,),
    ).fetchall()
    count = 0
    # Handed over in small parts, they are thousands with one date.
    looked_at, last, left = None, 0, dict[tuple[int, int], int]()
    for account_id, movement_id, expires_at in due:
        # Movements before the date come no more, but for one that is being written at this moment. So this is worked
        # out before the write lock is taken, and looked at again in the next round where such a one has come in
        # between. Where the clock was set back before the grant, that may have come after its date.
        end = max(ids.first_id_at(expires_at), movement_id + 1)
        if looked_at != (account_id, end):
            last, left = _last_before(conn, account_id, end), _left(conn, account_id, end)
            looked_at = account_id, end
        still_held = left.get((movement_id, expires_at), 0)
        count += _run_out(conn, account_id, movement_id, expires_at, still_held, end, last, at=at, now=now)
    return count


def _run_out(
    conn: sqlite3.Connection,
    account_id: int,
    movement_id: int,
    expires_at: int,
    left: int,
    end: int,
    last: int,
    *,
    at: int,
    now: int | None,
) -> bool:
    """Let what is `left` of some credits run out, if `last` is still the last movement before `end`."""
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


def give_back(conn: sqlite3.Connection, account_id: int, paid: Sequence[tuple[int, int]]) -> None:
    """Give back what messages of an account cost that will not be sent. The caller is inside `immediate()`.

    Credits get the date back that they had: who schedules messages and calls them back would be rid of it otherwise.
    Where its date has come meanwhile, they leave the account with the next round of `run_out`.

    Args:
        paid: a message's id and what it cost (thousandths) each.
    """
    dates = _paid_with(conn, account_id, paid)
    for (message_id, price), found in zip(paid, dates, strict=True):
        movement_id, _ = ledger.move(conn, SYSTEM, account_id, ledger.REFUND, price, message_id=message_id)
        put(conn, account_id, movement_id, found)


_CHARGE = """
SELECT id, -amount AS amount, first_message_id, last_message_id FROM movements
WHERE account_id = :account AND id >= :begins AND kind = 'usage'
  AND first_message_id <= :message AND last_message_id >= :message
ORDER BY id LIMIT 1
"""
# What was given back before of what a movement has charged: by date, and without one (NULL).
_GIVEN_BACK = """
WITH given AS MATERIALIZED (
    SELECT id, amount FROM movements WHERE kind = 'refund' AND first_message_id BETWEEN ?2 AND ?3 AND account_id = ?1
), dated AS MATERIALIZED (
    SELECT expires_at, expiring_credits.amount FROM given JOIN expiring_credits ON account_id = ?1 AND movement_id = id
)
SELECT expires_at, sum(amount) FROM dated GROUP BY expires_at
UNION ALL SELECT NULL, coalesce((SELECT sum(amount) FROM given), 0) - coalesce((SELECT sum(amount) FROM dated), 0)
"""


def _paid_with(conn: sqlite3.Connection, account_id: int, paid: Sequence[tuple[int, int]]) -> list[Mapping[int, int]]:
    """The dates (milliseconds) of what messages were paid with, and how much had each; see `give_back`.

    A movement charges many messages. Of what it took, that comes back first which has no date, then what runs out last:
    so those that were sent have used what runs out first, as everywhere.
    """
    if conn.execute("SELECT 1 FROM expiring_credits WHERE account_id = ? LIMIT 1", (account_id,)).fetchone() is None:
        return [{} for _message in paid]
    charges: list[sqlite3.Row | None] = []
    for message_id, _price in paid:
        # Its movement was written at the moment of the batch's first message.
        values = {"account": account_id, "message": message_id, "begins": ids.first_id_at(ids.time_of(message_id) - 1)}
        charges.append(conn.execute(_CHARGE, values).fetchone())
    known = {each["id"]: each for each in charges if each is not None}
    if not known:
        return [{} for _message in paid]
    _, taken = _course(conn, account_id, max(known) + 1, known)
    undated = {}
    for charge_id, charge in known.items():
        dates = taken[charge_id]
        undated[charge_id] = charge["amount"] - sum(dates.values())
        bounds = account_id, charge["first_message_id"], charge["last_message_id"]
        for expires_at, amount in conn.execute(_GIVEN_BACK, bounds):
            if expires_at is None:
                undated[charge_id] = max(0, undated[charge_id] - amount)
            else:
                dates[expires_at] = max(0, dates.get(expires_at, 0) - amount)
    found: list[Mapping[int, int]] = []
    for (_message_id, price), each in zip(paid, charges, strict=True):
        back: dict[int, int] = {}
        if each is not None:
            without = min(undated[each["id"]], price)
            undated[each["id"]] -= without
            price -= without
            dates = taken[each["id"]]
            for expires_at in sorted(dates, reverse=True):
                amount = min(dates[expires_at], price)
                dates[expires_at] -= amount
                price -= amount
                if amount:
                    back[expires_at] = amount
        found.append(back)
    return found


def _left(conn: sqlite3.Connection, account_id: int, end: int) -> dict[tuple[int, int], int]:
    """What is left of an account's credits with a date, by movement and date, before the movement `end`; of those whose
    date came before that, what was left then.
    """
    return _course(conn, account_id, end)[0]


def _course(
    conn: sqlite3.Connection, account_id: int, end: int, charges: Collection[int] = ()
) -> tuple[dict[tuple[int, int], int], dict[int, dict[int, int]]]:
    """What `_left` says, and what each of some movements before `end` took from credits with a date, by that.

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
    taken_by: dict[int, dict[int, int]] = {each: {} for each in charges}
    marks = {end, *charges, *(each + 1 for each in charges)}
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
            if begins in taken_by:
                dates = taken_by[begins]
                dates[key[1]] = dates.get(key[1], 0) + taken
            if not left[key]:
                heappop(spendable)
    return left, taken_by


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
