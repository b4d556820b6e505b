"""Credits: amounts of them, and moving them by hand.

Everything is counted in thousandths of a credit, as integers.
"""

import sqlite3

from portal import i18n
from portal.db import immediate
from portal.i18n import N_
from portal.services import audit, ledger, once
from portal.services.accounts import Account
from portal.services.audit import Actor
from portal.services.errors import Refused

THOUSANDTHS = 1000
_MOST = 10**12 * THOUSANDTHS
_MOST_DIGITS = 20


class InvalidAmount(Refused):
    sentence = N_("“%(text)s” isn't an amount of credits. Examples: 100, 0.5.")
    field = "amount"


class SameAccount(Refused):
    sentence = N_("Source and target are the same account.")
    field = "target"


class OtherCustomer(Refused):
    sentence = N_("Credits can only move between accounts of the same customer.")
    field = "target"


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
        now: as in `ids.next_ids`.

    Returns:
        The balance after it.

    Raises:
        AlreadySent
    """
    with immediate(conn):
        once.spend(conn, form)
        _, after = ledger.move(conn, actor, account.id, ledger.GRANT, amount, note, now=now)
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
        _, source_after = ledger.move(conn, actor, source.id, ledger.TRANSFER_OUT, -amount, counterpart_id=target.id)
        _, target_after = ledger.move(conn, actor, target.id, ledger.TRANSFER_IN, amount, counterpart_id=source.id)
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
