"""Credits: an account's balance, and the ledger of every movement of it.

Everything is counted in thousandths of a credit, as integers. A balance changes only in the transaction that writes its
movement.
"""

import sqlite3
from dataclasses import dataclass

from portal import i18n
from portal.db import immediate, now_ms
from portal.i18n import N_
from portal.services import audit, once
from portal.services.accounts import Account
from portal.services.audit import SYSTEM, Actor
from portal.services.errors import Refused

THOUSANDTHS = 1000
_MOST = 10**12 * THOUSANDTHS
_MOST_DIGITS = 20
_ID_TIME_SHIFT = 20
# Counters of the highest id that was ever deleted from these tables; triggers keep them. Movements are never deleted.
_HIGHEST_DELETED = {"messages": "message_id", "received": "message_id", "movements": "movement_id"}


class InvalidAmount(Refused):
    sentence = N_("“%(text)s” isn't an amount of credits. Examples: 100, 0.5.")
    field = "amount"


class NotEnoughCredits(Refused):
    sentence = N_("%(account)s holds %(balance)s credits, which don't cover this.")
    field = "amount"


class SameAccount(Refused):
    sentence = N_("Source and target are the same account.")
    field = "target"


class OtherCustomer(Refused):
    sentence = N_("Credits can only move between accounts of the same customer.")
    field = "target"


@dataclass(frozen=True, slots=True)
class Movement:
    """One line of the ledger; amounts in thousandths, negative where credits left the account."""

    id: int
    kind: str
    amount: int
    balance_after: int
    actor: str
    note: str
    counterpart: str | None
    messages: int | None

    @property
    def at(self) -> int:
        """When, in milliseconds: the id holds it."""
        return time_of(self.id)


def time_of(row_id: int) -> int:
    """The time (milliseconds) in the id of a message or movement."""
    return row_id >> _ID_TIME_SHIFT


def first_id_at(at: int) -> int:
    """The smallest id that a message or movement of this moment (milliseconds) can have."""
    return at << _ID_TIME_SHIFT


def next_ids(conn: sqlite3.Connection, table: str, how_many: int, now: int | None = None) -> int:
    """Take ids that grow with time and are never given twice, not even when the clock is set back.

    Args:
        table: `messages`, `received` or `movements`.
        how_many: a block of so many.
        now: the time that they hold (milliseconds), for a history that is written afterwards; None: this moment.

    Returns:
        The first of the block. The caller is inside `immediate()`.
    """
    last = conn.execute(
        f"SELECT max(coalesce((SELECT max(id) FROM {table}), 0), (SELECT value FROM counters WHERE name = ?))",
        (_HIGHEST_DELETED[table],),
    ).fetchone()[0]
    return max(first_id_at(now_ms() if now is None else now), int(last) + 1)


def parse(text: str) -> int:
    """Read a positive amount as the language in use writes it: "0.5", in Italian "0,5", is 500 thousandths.

    Raises:
        InvalidAmount: not a number, not positive, or finer than a thousandth.
    """
    text = text.strip()
    try:
        # An amount has few digits; Decimal would round many without a word.
        amount = i18n.written_number(text if len(text) <= _MOST_DIGITS else "") * THOUSANDTHS
    except (ArithmeticError, ValueError):
        raise InvalidAmount(text=text) from None
    if not amount.is_finite() or not 0 < amount <= _MOST or amount != int(amount):
        raise InvalidAmount(text=text)
    return int(amount)


def plain(thousandths: int) -> int | float:
    """An amount as a JSON number: 8412500 is 8412.5, 500000 is 500."""
    whole, rest = divmod(thousandths, THOUSANDTHS)
    return thousandths / THOUSANDTHS if rest else whole


def balance(conn: sqlite3.Connection, account_id: int) -> int:
    return int(conn.execute("SELECT balance FROM accounts WHERE id = ?", (account_id,)).fetchone()[0])


def grant(
    conn: sqlite3.Connection,
    actor: Actor,
    account: Account,
    amount: int,
    note: str = "",
    *,
    form: str = "",
    now: int | None = None,
) -> int:
    """Give an account credits out of nothing, as an operator.

    Args:
        note: stands in the ledger.
        form: a number of `once.new`: sent a second time, it gives nothing.
        now: as in `next_ids`.

    Returns:
        The balance after it.

    Raises:
        AlreadySent
    """
    with immediate(conn):
        once.spend(conn, form)
        after = _move(conn, actor, account.id, "grant", amount, note, now=now)
        audit.record(
            conn, actor, "credits.grant", customer_id=account.customer_id, account_id=account.id, amount=amount
        )
    return after


def transfer(
    conn: sqlite3.Connection, actor: Actor, source: Account, target: Account, amount: int, *, form: str = ""
) -> tuple[int, int]:
    """Move credits between two accounts of one customer, at once.

    Args:
        form: a number of `once.new`: sent a second time, it moves nothing.

    Returns:
        Both balances after it, the source's first.

    Raises:
        SameAccount, OtherCustomer, NotEnoughCredits, AlreadySent
    """
    if source.id == target.id:
        raise SameAccount()
    if source.customer_id != target.customer_id:
        raise OtherCustomer()
    with immediate(conn):
        once.spend(conn, form)
        source_after = _move(conn, actor, source.id, "transfer_out", -amount, counterpart_id=target.id)
        target_after = _move(conn, actor, target.id, "transfer_in", amount, counterpart_id=source.id)
        audit.record(
            conn,
            actor,
            "credits.transfer",
            customer_id=source.customer_id,
            account_id=source.id,
            target=target.name,
            amount=amount,
        )
    return source_after, target_after


def give_back(conn: sqlite3.Connection, account_id: int, amount: int, message_id: int) -> None:
    """Give back what a message cost that will not be sent. The caller is inside `immediate()`."""
    _move(conn, SYSTEM, account_id, "refund", amount, message_id=message_id)


def _move(
    conn: sqlite3.Connection,
    actor: Actor,
    account_id: int,
    kind: str,
    amount: int,
    note: str = "",
    counterpart_id: int | None = None,
    now: int | None = None,
    message_id: int | None = None,
) -> int:
    row = conn.execute("SELECT name, balance FROM accounts WHERE id = ?", (account_id,)).fetchone()
    after: int = row["balance"] + amount
    if after < 0:
        raise NotEnoughCredits(account=row["name"], balance=i18n.credits(row["balance"]))
    conn.execute("UPDATE accounts SET balance = ? WHERE id = ?", (after, account_id))
    conn.execute(
        "INSERT INTO movements (id, account_id, kind, amount, balance_after, actor, note, counterpart_id, messages,"
        " first_message_id, last_message_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            next_ids(conn, "movements", 1, now),
            account_id,
            kind,
            amount,
            after,
            actor.name,
            note,
            counterpart_id,
            None if message_id is None else 1,
            message_id,
            message_id,
        ),
    )
    return after


def movements(
    conn: sqlite3.Connection, account_id: int, *, before: int | None = None, after: int | None = None, limit: int = 50
) -> list[Movement]:
    """A page of the ledger, newest first.

    Args:
        before: only movements with a smaller id than this (the last one of the page before).
        after: the ones that follow upon this id, for the way back to newer ones.
    """
    if after is not None:
        return _select(conn, "movements.id > ? ORDER BY movements.id", account_id, after, limit)[::-1]
    furthest = before if before is not None else (1 << 63) - 1
    return _select(conn, "movements.id < ? ORDER BY movements.id DESC", account_id, furthest, limit)


def _select(conn: sqlite3.Connection, which: str, account_id: int, bound: int, limit: int) -> list[Movement]:
    rows = conn.execute(
        "SELECT movements.id, movements.kind, amount, balance_after, actor, note, other.name, messages FROM movements"
        f" LEFT JOIN accounts AS other ON other.id = counterpart_id WHERE account_id = ? AND {which} LIMIT ?",
        (account_id, bound, limit),
    )
    return [Movement(*row) for row in rows]
