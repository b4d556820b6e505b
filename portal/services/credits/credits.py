"""Credits: amounts of them, and moving them by hand. What an operator gives or takes needs a reason, and is audited.

Everything is counted in thousandths of a credit, as integers.
"""

import sqlite3

from portal.core.clock import now_ms
from portal.core.db import immediate
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account
from portal.services.common import audit, idempotency
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.credits import expiry, ledger


class ReasonMissing(Refused):
    sentence = N_("Say why: the reason stands in the ledger, where the customer reads it.")
    field = "reason"


class SameAccount(Refused):
    sentence = N_("Source and target are the same account.")
    field = "target"


class OtherCustomer(Refused):
    sentence = N_("Credits can only move between accounts of the same customer.")
    field = "target"


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
