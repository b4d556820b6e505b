"""Automatic re-credit: a pack of credits is bought for an account whose messages take it below a threshold."""

import sqlite3

from portal.db import DAY_MS, now_ms
from portal.services import alerts, orders
from portal.services.audit import SYSTEM
from portal.services.packs import Pack

# One look at all that decides: an SMPP client waits meanwhile.
_RULE = f"""
SELECT balance, recredit_pack AS credits, packs.price, packs.currency,
       accounts.created_at <= :now - recredit_min_age_days * {DAY_MS} AS old_enough,
       (SELECT count(*) FROM orders WHERE account_id = accounts.id AND origin = 'automatic'
        AND movement_id IS NOT NULL AND created_at >= :today) < recredit_per_day AS under_cap,
       (SELECT coalesce(sum(credits), 0) FROM orders JOIN accounts AS own ON own.id = account_id
        WHERE own.customer_id = customers.id AND movement_id IS NOT NULL
        AND paid_at IS NULL AND cancelled_at IS NULL) + recredit_pack <= credit_line AS within_line,
       EXISTS (SELECT 1 FROM orders WHERE account_id = accounts.id AND origin = 'automatic'
        AND movement_id IS NULL AND paid_at IS NULL AND cancelled_at IS NULL) AS requested
FROM accounts JOIN customers ON customers.id = customer_id JOIN packs ON packs.credits = recredit_pack
WHERE accounts.id = :account
"""


def look(conn: sqlite3.Connection, account_id: int, now: int | None = None) -> int:
    """Buy an account its pack once, in the transaction of the debit that needs it. The caller is inside `immediate()`.

    The credits arrive at once where the customer's credit line covers what it owes and this pack too, the account is
    old enough, and it has not been bought as many today (UTC) as it may be. Otherwise the operator gets a request, one
    at a time; a day's last pack is followed by none until the next day.

    Args:
        now: as in `ids.next_ids`.

    Returns:
        The account's balance after it (thousandths of a credit).
    """
    at = now_ms() if now is None else now
    rule = conn.execute(_RULE, {"account": account_id, "now": at, "today": at // DAY_MS * DAY_MS}).fetchone()
    if rule is None:  # the pack isn't sold any more
        return int(conn.execute("SELECT balance FROM accounts WHERE id = ?", (account_id,)).fetchone()[0])
    permitted = rule["old_enough"] and rule["within_line"]
    if not rule["under_cap"] or (not permitted and rule["requested"]):
        return int(rule["balance"])
    pack = Pack(rule["credits"], rule["price"], rule["currency"])
    order_id = orders.enter(conn, SYSTEM, account_id, pack, orders.AUTOMATIC, at=at)
    if not permitted:
        alerts.note(conn, account_id, alerts.REQUESTED, at, rule["balance"], order_id)
        return int(rule["balance"])
    balance = orders.credit(conn, SYSTEM, order_id, now)
    alerts.note(conn, account_id, alerts.RECREDITED, at, balance, order_id)
    return balance
