"""Credits: amounts of them, and moving them by hand. What an operator gives or takes needs a reason, and is audited.

Everything is counted in thousandths of a credit, as integers.
"""

import sqlite3
from collections.abc import Sequence
from functools import partial

from portal.core.clock import now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account, record_account_action
from portal.services.common.audit import SYSTEM, Actor
from portal.services.common.errors import Refused
from portal.services.credits import expiry, ledger


class ReasonMissing(Refused, field="reason"):
    sentence = N_("Say why: the reason stands in the ledger, where the customer reads it.")


class TransferToSameAccount(Refused, field="target"):
    sentence = N_("Source and target are the same account.")


class CrossCustomerTransfer(Refused, field="target"):
    sentence = N_("Credits can only move between accounts of the same customer.")


def get_balance(conn: sqlite3.Connection, account_id: int) -> int:
    return int(conn.execute("SELECT balance FROM accounts WHERE id = ?", (account_id,)).fetchone()[0])


def grant_credits(
    conn: sqlite3.Connection,
    actor: Actor,
    account: Account,
    amount: int,
    note: str = "",
    *,
    expires_at: int | None = None,
    now: int | None = None,
) -> int:
    """Give an account credits out of nothing, as an operator.

    Args:
        note: stands in the ledger.
        expires_at: when what is left of them runs out (milliseconds); None: never.
        now: as in `ids.allocate_id`.

    Returns:
        The balance after it.

    Raises:
        DateOutOfRange
    """
    expiry_dates = {}
    if expires_at is not None:
        expiry.check_credit_expiry_date(expires_at, now)
        expiry_dates[expires_at] = amount
    with write_transaction(conn):
        _, balance_after = ledger.post_movement(
            conn, actor, account.id, ledger.GRANT, amount, note, expiry_dates=expiry_dates, now=now
        )
        _record_audit(conn, actor, "credits.grant", account, amount=amount, expires_at=expires_at)
    return balance_after


def correct_balance(
    conn: sqlite3.Connection,
    actor: Actor,
    account: Account,
    amount: int,
    reason: str,
    *,
    kind: str = ledger.CORRECTION,
    message_id: int | None = None,
) -> int:
    """Put a balance right, as an operator; never below nothing.

    Args:
        amount: negative to take credits away.
        reason: stands in the ledger.
        kind: of the movement.
        message_id: the message that credits are given back for; see `refunds`, which makes sure that it is done once.

    Returns:
        The balance after it.

    Raises:
        ReasonMissing, NotEnoughCredits
    """
    reason = " ".join(reason.split())
    if not reason:
        raise ReasonMissing()
    with write_transaction(conn):
        _, balance_after = ledger.post_movement(conn, actor, account.id, kind, amount, reason, message_id=message_id)
        _record_audit(conn, actor, f"credits.{kind}", account, amount=amount, reason=reason, message=message_id)
    return balance_after


refund_credits = partial(correct_balance, kind=ledger.REFUND)
"""Give credits back, as an operator: a correction of its own kind, whose amount is positive."""


def refund_unsent_messages(conn: sqlite3.Connection, account_id: int, message_costs: Sequence[tuple[int, int]]) -> None:
    """Give back what messages of an account cost that will not be sent. The caller is inside `write_transaction()`.

    Credits get the date back that they had: who schedules messages and calls them back would be rid of it otherwise.
    Where its date has come meanwhile, they leave the account with the next round of `expiry.expire_credits`.

    Args:
        message_costs: a message's id and what it cost (thousandths) each.
    """
    dates = expiry.find_spent_expiry_dates(conn, account_id, message_costs)
    for (message_id, price), expiry_dates in zip(message_costs, dates, strict=True):
        ledger.post_movement(
            conn, SYSTEM, account_id, ledger.REFUND, price, message_id=message_id, expiry_dates=expiry_dates
        )


def _record_audit(conn: sqlite3.Connection, actor: Actor, action: str, account: Account, **details: object) -> None:
    present_details = {name: value for name, value in details.items() if value is not None}
    record_account_action(conn, actor, action, account, **present_details)


def transfer_credits(
    conn: sqlite3.Connection, actor: Actor, source: Account, target: Account, amount: int
) -> tuple[int, int]:
    """Move credits between two accounts of one customer, at once. Those that run out go first, and keep their dates.

    Returns:
        Both balances after it, the source's first.

    Raises:
        TransferToSameAccount, CrossCustomerTransfer, NotEnoughCredits
    """
    if source.id == target.id:
        raise TransferToSameAccount()
    if source.customer_id != target.customer_id:
        raise CrossCustomerTransfer()
    with write_transaction(conn):
        # One moment for all: credits whose date came in between would run out at both accounts.
        now = now_ms()
        lots = expiry.list_expiring_credit_lots(conn, source.id, now)
        expiry_dates = expiry.split_amount_by_expiry_date([(each.expires_at, each.remaining) for each in lots], amount)
        _, source_after = ledger.post_movement(
            conn, actor, source.id, ledger.TRANSFER_OUT, -amount, counterpart_id=target.id, now=now
        )
        _, target_after = ledger.post_movement(
            conn,
            actor,
            target.id,
            ledger.TRANSFER_IN,
            amount,
            counterpart_id=source.id,
            expiry_dates=expiry_dates,
            now=now,
        )
        _record_audit(conn, actor, "credits.transfer", source, target=target.name, amount=amount)
    return source_after, target_after
