"""The ledger: one line for each movement of an account's balance, which changes in no other way.

Amounts are thousandths of a credit. What messages cost is written by `intake`, many at once; all else by
`post_movement`.
"""

import sqlite3

from portal.core import i18n
from portal.core.i18n import N_
from portal.services.common import ids
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.credits import alerts

GRANT, PURCHASE, TRANSFER_OUT, TRANSFER_IN = "grant", "purchase", "transfer_out", "transfer_in"
USAGE, REFUND, CORRECTION, EXPIRY = "usage", "refund", "correction", "expiry"
KINDS = (GRANT, PURCHASE, TRANSFER_OUT, TRANSFER_IN, USAGE, REFUND, CORRECTION, EXPIRY)
_SIGNS = {GRANT: 1, PURCHASE: 1, TRANSFER_OUT: -1, TRANSFER_IN: 1, USAGE: -1, REFUND: 1, EXPIRY: -1}


class NotEnoughCredits(Refused):
    sentence = N_("%(account)s holds %(balance)s credits, which don't cover this.")
    field = "amount"


def has_valid_sign(kind: str, amount: int) -> bool:
    """Whether an amount has the sign that movements of its kind have: a correction may have either, none is nothing."""
    return amount * _SIGNS.get(kind, amount) > 0


def post_movement(
    conn: sqlite3.Connection,
    actor: Actor,
    account_id: int,
    kind: str,
    amount: int,
    note: str = "",
    *,
    counterpart_id: int | None = None,
    message_id: int | None = None,
    now: int | None = None,
) -> tuple[int, int]:
    """Change a balance and write why. The caller is inside `write_transaction()`.

    Args:
        kind: of KINDS, but USAGE.
        amount: negative where credits leave the account; never nothing.
        counterpart_id: the other account of a transfer.
        message_id: the message that credits are given back for.
        now: as in `ids.allocate_ids`.

    Returns:
        The movement's id, and the balance after it.

    Raises:
        NotEnoughCredits
        ValueError: credits of this kind go the other way. A minus that a caller let through would take away what is
            granted, and turn a transfer round.
    """
    if not has_valid_sign(kind, amount):
        raise ValueError(f"{kind} of {amount}")
    row = conn.execute("SELECT name, balance, alert_below FROM accounts WHERE id = ?", (account_id,)).fetchone()
    balance_after: int = row["balance"] + amount
    if balance_after < 0:
        raise NotEnoughCredits(account=row["name"], balance=i18n.format_credits(row["balance"]))
    movement_id = ids.allocate_ids(conn, "movements", 1, now)
    conn.execute("UPDATE accounts SET balance = ? WHERE id = ?", (balance_after, account_id))
    conn.execute(
        "INSERT INTO movements (id, account_id, kind, amount, balance_after, actor, note, counterpart_id, messages,"
        " first_message_id, last_message_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            movement_id,
            account_id,
            kind,
            amount,
            balance_after,
            actor.name,
            note,
            counterpart_id,
            None if message_id is None else 1,
            message_id,
            message_id,
        ),
    )
    if alerts.is_threshold_crossed(row["alert_below"], row["balance"], balance_after):
        alerts.add_credit_notice(conn, account_id, alerts.LOW, ids.time_from_id(movement_id), balance_after)
    return movement_id, balance_after
