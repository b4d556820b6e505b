"""Credits that run out at a date: what was granted until then and has not been spent leaves the account.

What is spent is taken from the credits that run out first, and what is left of these is worked out from the ledger when
it is asked for: sending a message knows nothing of dates.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from heapq import heappop, heappush
from itertools import groupby, pairwise
from zoneinfo import ZoneInfo

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.common import ids
from portal.services.common.audit import SYSTEM
from portal.services.common.errors import Refused
from portal.services.common.periods import day_start_ms
from portal.services.credits import ledger

# Ids of so far-off moments are still integers of SQLite, and such a date is a mistake rather than a wish.
_MAX_VALIDITY_MS = 50 * 366 * DAY_MS


class InvalidCreditExpiryDate(Refused, field="until"):
    sentence = N_("“%(text)s” isn't a date. One looks like 2027-12-31.")


class DateOutOfRange(Refused, field="until"):
    sentence = N_("Credits can run out today at the earliest, and in fifty years at the latest.")


@dataclass(frozen=True, slots=True)
class CreditLot:
    """Credits that run out together: what is left of them (thousandths), and when they do (milliseconds)."""

    movement_id: int
    expires_at: int
    remaining: int


def parse_credit_expiry_date(text: str, timezone: str) -> int | None:
    """Read the last day on which credits are good, as forms and commands send it.

    Args:
        text: ISO 8601 (`2027-12-31`), or empty.
        timezone: IANA name of the day's.

    Returns:
        The end of the day (milliseconds); None: they never run out.

    Raises:
        InvalidExpiryDate
    """
    text = text.strip()
    if not text:
        return None
    try:
        return day_start_ms(date.fromisoformat(text) + timedelta(days=1), ZoneInfo(timezone))
    except (ValueError, OverflowError):
        raise InvalidCreditExpiryDate(text=text) from None


def check_credit_expiry_date(expires_at: int, now: int | None = None) -> None:
    """Whether credits may run out at a moment (milliseconds).

    Args:
        now: milliseconds; None: this moment.

    Raises:
        DateOutOfRange
    """
    at = now_ms() if now is None else now
    if not at < expires_at < at + _MAX_VALIDITY_MS:
        raise DateOutOfRange()


def list_expiring_credit_lots(conn: sqlite3.Connection, account_id: int, now: int | None = None) -> list[CreditLot]:
    """What an account holds that will run out, by date, those first that run out first; nothing that is used up.

    Args:
        now: as in `ids.allocate_id`.
    """
    # The ledger's time, which goes on where the clock was set back: what is spent next is spent at it.
    next_id = ids.allocate_id(conn, "movements", now)
    unexpired = {
        (row["movement_id"], row["expires_at"])
        for row in conn.execute(
            "SELECT movement_id, expires_at FROM expiring_credits"
            " WHERE account_id = ? AND expired_at IS NULL AND expires_at > ?",
            (account_id, ids.time_from_id(next_id)),
        )
    }
    if not unexpired:
        return []
    remaining, _ = _replay_spending(conn, account_id, next_id)
    return [CreditLot(*key, amount) for key, amount in remaining.items() if amount and key in unexpired]


def split_amount_by_expiry_date(held: Iterable[tuple[int, int]], amount: int) -> dict[int, int]:
    """How much of an amount has which date (milliseconds), where it is taken from credits in their order.

    Args:
        held: a date, and how much runs out at it, each.
        amount: what goes beyond all of them has no date.
    """
    amounts_by_date: dict[int, int] = {}
    for expires_at, remaining in held:
        taken = min(remaining, amount)
        amount -= taken
        if taken:
            amounts_by_date[expires_at] = amounts_by_date.get(expires_at, 0) + taken
    return amounts_by_date


def expire_credits(conn: sqlite3.Connection, now: int | None = None) -> int:
    """Take away what is left of all credits whose expiry date has come, each in a transaction of its own.

    Never more than the balance: what was spent between the date and this moment stays spent.

    Args:
        now: as in `ids.allocate_id`.

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
    for (account_id, end), lots in groupby(due, lambda lot: (lot["account_id"], _get_end(lot))):
        # Movements before the date come no more, but for one that is being written at this moment, or added to. So this
        # is worked out before the write lock is taken, and worked out again in the next round where such a one has come
        # in between.
        last_movement = _find_last_movement(conn, account_id, end)
        remaining, _ = _replay_spending(conn, account_id, end)
        for lot in lots:
            with write_transaction(conn):
                if _find_last_movement(conn, account_id, end) == last_movement:
                    count += _expire_lot(conn, lot, remaining.get((lot["movement_id"], lot["expires_at"]), 0), at)
    return count


def _get_end(lot: sqlite3.Row) -> int:
    """The id before which the movements are that a lot had to pay for. Where the clock was set back before the grant,
    that may have come after its date.
    """
    return max(ids.min_id_at_time(lot["expires_at"]), int(lot["movement_id"]) + 1)


def _expire_lot(conn: sqlite3.Connection, lot: sqlite3.Row, remaining: int, at: int) -> bool:
    """Let what is `remaining` of a lot run out; returns whether that was a movement."""
    of_lot = "account_id = ? AND movement_id = ? AND expires_at = ?"
    ended = conn.execute(
        f"UPDATE expiring_credits SET expired_at = ? WHERE {of_lot} AND expired_at IS NULL", (at, *lot)
    ).rowcount
    balance, note = conn.execute(
        "SELECT balance, note FROM accounts JOIN movements ON movements.id = ? WHERE accounts.id = ?",
        (lot["movement_id"], lot["account_id"]),
    ).fetchone()
    amount = min(remaining, balance)
    if not ended or not amount:
        return False
    expiry_id, _ = ledger.post_movement(conn, SYSTEM, lot["account_id"], ledger.EXPIRY, -amount, note, now=at)
    conn.execute(f"UPDATE expiring_credits SET expiry_id = ? WHERE {of_lot}", (expiry_id, *lot))
    return True


_SELECT_CHARGE = """
SELECT id, -amount AS amount, first_message_id, last_message_id FROM movements
WHERE account_id = :account AND id >= :begins AND kind = 'usage'
  AND first_message_id <= :message AND last_message_id >= :message
ORDER BY id LIMIT 1
"""
# Stands for the date of credits that never run out: later than all others.
_NO_DATE = (1 << 63) - 1
# What was given back before of what a movement has charged, by date.
_SELECT_REFUNDED = f"""
WITH given AS MATERIALIZED (
    SELECT id, amount FROM movements WHERE kind = 'refund' AND first_message_id BETWEEN ?2 AND ?3 AND account_id = ?1
), dated AS MATERIALIZED (
    SELECT expires_at, expiring_credits.amount FROM given JOIN expiring_credits ON account_id = ?1 AND movement_id = id
)
SELECT expires_at, sum(amount) FROM dated GROUP BY expires_at
UNION ALL SELECT {_NO_DATE}, coalesce((SELECT sum(amount) FROM given), 0) - coalesce((SELECT sum(amount) FROM dated), 0)
"""


def find_spent_expiry_dates(
    conn: sqlite3.Connection, account_id: int, message_costs: Sequence[tuple[int, int]]
) -> list[Mapping[int, int]]:
    """The dates (milliseconds) of what messages were paid with, and how much had each, for giving it back.

    A movement charges many messages. Of what it took, that comes back first which has no date, then what runs out last:
    so those that were sent have used what runs out first, as everywhere.
    """
    if conn.execute("SELECT 1 FROM expiring_credits WHERE account_id = ? LIMIT 1", (account_id,)).fetchone() is None:
        return [{} for _message in message_costs]
    charges: list[sqlite3.Row | None] = []
    for message_id, _price in message_costs:
        values = {"account": account_id, "message": message_id, "begins": ledger.min_usage_id(message_id)}
        charges.append(conn.execute(_SELECT_CHARGE, values).fetchone())
    charges_by_id = {each["id"]: each for each in charges if each is not None}
    _, taken = _replay_spending(conn, account_id, max(charges_by_id, default=0) + 1, charges_by_id)
    for charge_id, charging in charges_by_id.items():
        dates = taken[charge_id]
        dates[_NO_DATE] = charging["amount"] - sum(dates.values())
        bounds = account_id, charging["first_message_id"], charging["last_message_id"]
        for expires_at, amount in conn.execute(_SELECT_REFUNDED, bounds):
            dates[expires_at] = max(0, dates.get(expires_at, 0) - amount)
    refunds: list[Mapping[int, int]] = []
    for (_message_id, price), charge in zip(message_costs, charges, strict=True):
        dates = {} if charge is None else taken[charge["id"]]
        refund = split_amount_by_expiry_date(sorted(dates.items(), reverse=True), price)
        for expires_at, amount in refund.items():
            dates[expires_at] -= amount
        refund.pop(_NO_DATE, None)
        refunds.append(refund)
    return refunds


def _replay_spending(
    conn: sqlite3.Connection, account_id: int, end: int, charges: Collection[int] = ()
) -> tuple[dict[tuple[int, int], int], dict[int, dict[int, int]]]:
    """What is left of an account's credits with a date, by movement and date, before the movement `end` (of those whose
    date came before that, what was left then); and what each of `charges` took, by expiry date.

    Each stretch between two moments, at which credits came or their date did, is taken as a whole: however much was
    sent in it, that is one subtraction. Others wait for the write lock meanwhile: the time that this takes grows with
    the credits that came, however often they were handed over.
    """
    rows = conn.execute(
        "SELECT movement_id, expires_at, amount FROM expiring_credits WHERE account_id = ? AND movement_id < ?"
        " ORDER BY expires_at, movement_id",
        (account_id, end),
    ).fetchall()
    remaining = {(row["movement_id"], row["expires_at"]): row["amount"] for row in rows}
    taken_by_charge: dict[int, dict[int, int]] = {each: {} for each in charges}
    boundaries = {end, *charges, *(each + 1 for each in charges)}
    for movement_id, expires_at in remaining:
        boundaries |= {movement_id + 1, min(ids.min_id_at_time(expires_at), end)}
    pending_lots = sorted(remaining, reverse=True)
    spendable: list[tuple[int, int]] = []
    for begins, ends, spent in _iterate_spending(conn, account_id, sorted(boundaries)):
        while pending_lots and pending_lots[-1][0] < begins:
            movement_id, expires_at = pending_lots.pop()
            heappush(spendable, (expires_at, movement_id))
        while spendable and ids.min_id_at_time(spendable[0][0]) < ends:
            heappop(spendable)
        while spendable and spent:
            key = spendable[0][::-1]
            taken = min(remaining[key], spent)
            remaining[key] -= taken
            spent -= taken
            if begins in taken_by_charge:
                dates = taken_by_charge[begins]
                dates[key[1]] = dates.get(key[1], 0) + taken
            if not remaining[key]:
                heappop(spendable)
    return remaining, taken_by_charge


# What came in is in the ledger's few lines that aren't usage. By the account's own index SQLite would read them all.
_SELECT_CREDITS_IN = """
SELECT id, amount FROM movements INDEXED BY movements_kinds
WHERE account_id = :account AND kind <> 'usage'
  AND kind IN ('grant', 'purchase', 'transfer_in', 'refund', 'correction', 'expiry')
  AND id >= :begins AND id < :ends AND (amount > 0 OR kind = 'expiry')
ORDER BY id
"""
_SELECT_BALANCES = """
SELECT coalesce((SELECT balance_after FROM movements WHERE account_id = :account AND id < mark.value
                 ORDER BY id DESC LIMIT 1), 0)
FROM json_each(:marks) AS mark ORDER BY mark.key
"""


def _iterate_spending(
    conn: sqlite3.Connection, account_id: int, boundaries: Sequence[int]
) -> Iterator[tuple[int, int, int]]:
    """For each stretch of movements, from one boundary up to the next: what they took, without what ran out.

    That is the difference of the balances, and what came in between.
    """
    values = {"account": account_id, "begins": boundaries[0], "ends": boundaries[-1], "marks": json.dumps(boundaries)}
    balances = [int(row[0]) for row in conn.execute(_SELECT_BALANCES, values)]
    credits_in = conn.execute(_SELECT_CREDITS_IN, values).fetchall()
    index = 0
    for (begins, before), (ends, after) in pairwise(zip(boundaries, balances, strict=True)):
        spent = before - after
        while index < len(credits_in) and credits_in[index]["id"] < ends:
            spent += credits_in[index]["amount"]
            index += 1
        yield begins, ends, spent


def _find_last_movement(conn: sqlite3.Connection, account_id: int, movement_id: int) -> tuple[int, int]:
    """The last movement before one, and the balance after it, which changes where usage is added to it."""
    row = conn.execute(
        "SELECT id, balance_after FROM movements WHERE account_id = ? AND id < ? ORDER BY id DESC LIMIT 1",
        (account_id, movement_id),
    ).fetchone()
    return tuple(row) if row else (0, 0)
