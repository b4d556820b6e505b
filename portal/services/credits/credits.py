"""Credits: amounts of them, and moving them by hand. What an operator gives or takes needs a reason, and is audited.

Everything is counted in thousandths of a credit, as integers.
"""

import sqlite3

from babel.numbers import NumberFormatError

from portal.core import i18n
from portal.core.db import immediate, now_ms
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account
from portal.services.common import audit, idempotency
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.credits import expiry, ledger

THOUSANDTHS = 1000
_MOST = 10**12 * THOUSANDTHS
_MOST_DIGITS = 20
# Word processors and phones make a true minus (U+2212) of a hyphen.
_MINUS = ("-", "\u2212")
_SIGNS = ("+", *_MINUS)


class InvalidAmount(Refused):
    sentence = N_("“%(text)s” isn't an amount of credits. Examples: 100, 0.5.")
    field = "amount"


class InvalidChange(Refused):
    sentence = N_("“%(text)s” isn't a change of credits. Examples: 100, -0.5.")
    field = "amount"


class ReasonMissing(Refused):
    sentence = N_("Say why: the reason stands in the ledger, where the customer reads it.")
    field = "reason"


class AmbiguousAmount(InvalidAmount):
    sentence = N_("“%(text)s” isn't how numbers are written in this language. Write %(meant)s.")


class SameAccount(Refused):
    sentence = N_("Source and target are the same account.")
    field = "target"


class OtherCustomer(Refused):
    sentence = N_("Credits can only move between accounts of the same customer.")
    field = "target"


def parse(text: str) -> int:
    """Read a positive amount as the language in use writes it: "0.5", in Italian "0,5", is 500 thousandths.

    Raises:
        AmbiguousAmount: its separators are another language's, "1.5" in Italian.
        InvalidAmount: not a number, not positive, or finer than a thousandth.
    """
    amount = _thousandths(text.strip())
    if amount is None or amount <= 0:
        raise InvalidAmount(text=text.strip())
    return amount


def parse_change(text: str) -> int:
    """Read an amount with a sign or without, in the language in use: "-1,234.5" is -1234500, in Italian "-1.234,5" is.

    Raises:
        AmbiguousAmount: its separators are another language's.
        InvalidChange: not a number, nothing, or finer than a thousandth.
    """
    text = text.strip()
    amount = _thousandths(text[1:].lstrip() if text.startswith(_SIGNS) else text)
    if not amount or amount < 0:
        raise InvalidChange(text=text)
    return -amount if text.startswith(_MINUS) else amount


def _thousandths(text: str) -> int | None:
    """A number as the language in use writes it; None where it is none, too large, or finer than a thousandth.

    Raises:
        AmbiguousAmount
    """
    try:
        # An amount has few digits; Decimal would round many without a word.
        amount = i18n.written_number(text if len(text) <= _MOST_DIGITS else "") * THOUSANDTHS
    except NumberFormatError as error:
        meant = [each for each in error.suggestions or () if _thousandths(each) is not None]
        if meant:
            raise AmbiguousAmount(text=text, meant=i18n.either(meant)) from None
        return None
    except ArithmeticError:
        return None
    return int(amount) if amount.is_finite() and abs(amount) <= _MOST and amount == int(amount) else None


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
    expires_at: int | None = None,
    form: str = "",
    now: int | None = None,
) -> int:
    """Give an account credits out of nothing, as an operator.

    Args:
        note: stands in the ledger.
        expires_at: when what is left of them runs out (milliseconds); None: never.
        form: a number of `once.new`: sent a second time, it gives nothing.
        now: as in `ids.next_ids`.

    Returns:
        The balance after it.

    Raises:
        DateOutOfRange, AlreadySent
    """
    if expires_at is not None:
        expiry.check(expires_at, now)
    with immediate(conn):
        idempotency.spend(conn, form)
        movement_id, after = ledger.move(conn, actor, account.id, ledger.GRANT, amount, note, now=now)
        if expires_at is not None:
            expiry.put(conn, account.id, movement_id, {expires_at: amount})
        _record(conn, actor, "credits.grant", account, amount=amount, expires_at=expires_at)
    return after


def correct(
    conn: sqlite3.Connection, actor: Actor, account: Account, amount: int, reason: str, *, form: str = ""
) -> int:
    """Put a balance right, as an operator; never below nothing.

    Args:
        amount: negative to take credits away.
        reason: stands in the ledger.
        form: as in `grant`.

    Returns:
        The balance after it.

    Raises:
        ReasonMissing, NotEnoughCredits, AlreadySent
    """
    return _move_for_a_reason(conn, actor, account, ledger.CORRECTION, amount, reason, form)


def refund(
    conn: sqlite3.Connection,
    actor: Actor,
    account: Account,
    amount: int,
    reason: str,
    *,
    message_id: int | None = None,
    form: str = "",
) -> int:
    """Give credits back, as an operator. The arguments and what comes of it: see `correct`.

    Args:
        message_id: the message that they are given back for; see `refunds`, which makes sure that it is done once.

    Raises:
        ReasonMissing, AlreadySent
    """
    return _move_for_a_reason(conn, actor, account, ledger.REFUND, amount, reason, form, message_id)


def _move_for_a_reason(
    conn: sqlite3.Connection,
    actor: Actor,
    account: Account,
    kind: str,
    amount: int,
    reason: str,
    form: str,
    message_id: int | None = None,
) -> int:
    reason = " ".join(reason.split())
    if not reason:
        raise ReasonMissing()
    with immediate(conn):
        idempotency.spend(conn, form)
        _, after = ledger.move(conn, actor, account.id, kind, amount, reason, message_id=message_id)
        _record(conn, actor, f"credits.{kind}", account, amount=amount, reason=reason, message=message_id)
    return after


def _record(conn: sqlite3.Connection, actor: Actor, action: str, account: Account, **details: object) -> None:
    said = {name: value for name, value in details.items() if value is not None}
    audit.record(conn, actor, action, customer_id=account.customer_id, account_id=account.id, **said)


def transfer(
    conn: sqlite3.Connection, actor: Actor, source: Account, target: Account, amount: int, *, form: str = ""
) -> tuple[int, int]:
    """Move credits between two accounts of one customer, at once. Those that run out go first, and keep their dates.

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
        idempotency.spend(conn, form)
        # One moment for all: credits whose date came in between would run out at both accounts.
        now = now_ms()
        dates = expiry.hand_over(expiry.upcoming(conn, source.id, now), amount)
        _, source_after = ledger.move(
            conn, actor, source.id, ledger.TRANSFER_OUT, -amount, counterpart_id=target.id, now=now
        )
        movement_id, target_after = ledger.move(
            conn, actor, target.id, ledger.TRANSFER_IN, amount, counterpart_id=source.id, now=now
        )
        expiry.put(conn, target.id, movement_id, dates)
        _record(conn, actor, "credits.transfer", source, target=target.name, amount=amount)
    return source_after, target_after
