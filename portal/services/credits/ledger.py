"""The ledger: one line for each movement of an account's balance, which changes in no other way.

Amounts are thousandths of a credit. What messages cost is written by `add_usage`, a line a minute; all else by
`post_movement`.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import count
from typing import NamedTuple

from portal.core import i18n
from portal.core.clock import MINUTE_MS
from portal.core.db import BulkInsert, BulkUpdate
from portal.core.i18n import N_
from portal.services.common import ids
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.credits import alerts

GRANT, PURCHASE, TRANSFER_OUT, TRANSFER_IN = "grant", "purchase", "transfer_out", "transfer_in"
USAGE, REFUND, CORRECTION, EXPIRY = "usage", "refund", "correction", "expiry"
KINDS = (GRANT, PURCHASE, TRANSFER_OUT, TRANSFER_IN, USAGE, REFUND, CORRECTION, EXPIRY)
LAST_USAGE_SQL = (
    "(SELECT iif(kind = 'usage', id, NULL) FROM movements WHERE movements.account_id = accounts.id"
    " ORDER BY id DESC LIMIT 1)"
)
"""SQL for the last movement of a row of `accounts`; NULL where that isn't usage. See `Usage`."""
USAGE_LINES_END_SQL = "(SELECT min(expires_at) FROM expiring_credits WHERE expired_at IS NULL)"
"""SQL for the moment (milliseconds) from which on each batch of usage has a line of its own; NULL: none. See
`add_usage`."""
_SIGNS = {GRANT: 1, PURCHASE: 1, TRANSFER_OUT: -1, TRANSFER_IN: 1, USAGE: -1, REFUND: 1, EXPIRY: -1}


class NotEnoughCredits(Refused, field="amount"):
    sentence = N_("%(account)s holds %(balance)s credits, which don't cover this.")


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
    expiry_dates: Mapping[int, int] | None = None,
    now: int | None = None,
) -> tuple[int, int]:
    """Change a balance and write why. The caller is inside `write_transaction()`.

    Args:
        kind: of KINDS, but USAGE.
        amount: negative where credits leave the account; never nothing.
        counterpart_id: the other account of a transfer.
        message_id: the message that credits are given back for.
        expiry_dates: when credits that come run out (milliseconds), with how many do then; those of no date stay. All
            else about such credits is the matter of `expiry`.
        now: as in `ids.allocate_id`.

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
    movement_id = ids.allocate_id(conn, "movements", now)
    conn.execute("UPDATE accounts SET balance = ? WHERE id = ?", (balance_after, account_id))
    conn.execute(
        "INSERT INTO movements (id, account_id, kind, amount, balance_after, actor, note, counterpart_id, messages,"
        " first_message_id, last_message_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, iif(?9 IS NULL, NULL, 1), ?9, ?9)",
        (movement_id, account_id, kind, amount, balance_after, actor.name, note, counterpart_id, message_id),
    )
    if expiry_dates:
        conn.executemany(
            "INSERT INTO expiring_credits (account_id, movement_id, expires_at, amount) VALUES (?, ?, ?, ?)",
            [(account_id, movement_id, *each) for each in expiry_dates.items()],
        )
    if alerts.is_threshold_crossed(row["alert_below"], row["balance"], balance_after):
        alerts.add_credit_notice(conn, account_id, alerts.LOW, ids.time_from_id(movement_id), balance_after)
    return movement_id, balance_after


class Usage(NamedTuple):
    """What messages of an account cost: `amount` (thousandths, more than nothing) and the balance after them.

    `last_usage` is the account's last movement where that is usage (`LAST_USAGE_SQL`).
    """

    account_id: int
    last_usage: int | None
    amount: int
    balance_after: int
    messages: int
    first_message_id: int
    last_message_id: int


# Messages of before: a batch's ids could go over into the next minute, and its movement had the time of the first.
_MAX_ID_LEAD_MS = 1_000


def min_usage_id(message_id: int) -> int:
    """The smallest id that the usage line can have which charges this message."""
    return ids.min_id_at_time((ids.time_from_id(message_id) - _MAX_ID_LEAD_MS) // MINUTE_MS * MINUTE_MS)


_UPDATE_BALANCES = BulkUpdate("accounts", "balance")
# The conflict is with the account's line of this minute.
_UPSERT_USAGE = BulkInsert(
    "movements",
    "id, account_id, kind, amount, balance_after, actor, messages, first_message_id, last_message_id",
    "ON CONFLICT (id) DO UPDATE SET amount = amount + excluded.amount, balance_after = excluded.balance_after,"
    " messages = messages + excluded.messages, last_message_id = excluded.last_message_id",
)


def add_usage(conn: sqlite3.Connection, usages: Sequence[Usage], at: int, lines_end_at: int | None) -> None:
    """Charge accounts for messages. The caller is inside `write_transaction()`.

    What an account uses within a minute is one line, unless another movement comes in between, or credits run out:
    with a line for each commit the ledger would grow nearly as fast as the messages. In each time zone hours, days and
    months begin with a minute, so a line never belongs to two of them.

    Args:
        usages: one for each account.
        at: the time of the messages' ids (milliseconds): the usage of a month in the ledger is then that of the month's
            messages.
        lines_end_at: `USAGE_LINES_END_SQL`: the first date at which anybody's credits run out. Once it has come, each
            batch is a line until they have been taken away.
    """
    _UPDATE_BALANCES.run(conn, [(each.account_id, each.balance_after) for each in usages])
    minute = at // MINUTE_MS if lines_end_at is None or at < lines_end_at else None
    line_ids = [
        each.last_usage
        if each.last_usage is not None and ids.time_from_id(each.last_usage) // MINUTE_MS == minute
        else None
        for each in usages
    ]
    new_ids = count(ids.allocate_id(conn, "movements", at)) if None in line_ids else iter(())
    _UPSERT_USAGE.run(
        conn,
        [
            (
                next(new_ids) if line_id is None else line_id,
                each.account_id,
                USAGE,
                -each.amount,
                each.balance_after,
                "system",
                each.messages,
                each.first_message_id,
                each.last_message_id,
            )
            for each, line_id in zip(usages, line_ids, strict=True)
        ],
    )
