"""Mails about an account's credits: notices of `alerts.add_credit_notice` become mails to those they concern."""

import sqlite3

from portal.core import i18n
from portal.core.clock import DAY_MS, HOUR_MS
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.services.billing import orders, packs
from portal.services.common import ids, mail, rate_limit
from portal.services.credits import alerts
from portal.services.people import customers, users

# To addresses that nobody has confirmed: who moves credits back and forth across the threshold must not flood them.
_MAX_ALERTS_PER_HOUR = 6
# In one transaction, which keeps others from writing meanwhile.
_BATCH_SIZE = 50

_SELECT_NOTICES = f"""
SELECT notice.id, account_id, notice.kind, at, notice.balance, order_id, name, customer_id, alert_below, alert_to,
       recredit_per_day
FROM credit_notices AS notice JOIN accounts ON accounts.id = account_id ORDER BY notice.id LIMIT {_BATCH_SIZE}
"""


def queue_credit_mails(conn: sqlite3.Connection, keys: Keys, billing: str = "auto") -> int:
    """Turn notices into mails. A notice is deleted in the transaction that queues its mails.

    Args:
        billing: the setting `[billing] enabled`; where nothing is sold no mail says so.

    An account that has fallen below its threshold several times since the last call gets one mail, about the last,
    and at most six at once, and then one each ten minutes.

    Returns:
        How many mails.
    """
    # Read without the write lock: mostly there is nothing.
    if conn.execute("SELECT 1 FROM credit_notices LIMIT 1").fetchone() is None:
        return 0
    can_buy = packs.is_billing_enabled(conn, billing)
    with write_transaction(conn):
        notices = conn.execute(_SELECT_NOTICES).fetchall()
        last_low = {each["account_id"]: each["id"] for each in notices if each["kind"] == alerts.LOW}
        count = sum(
            _queue_notice_mails(conn, keys, each, can_buy=can_buy)
            for each in notices
            if each["kind"] != alerts.LOW or last_low[each["account_id"]] == each["id"]
        )
        conn.executemany("DELETE FROM credit_notices WHERE id = ?", [(each["id"],) for each in notices])
    return count


def _queue_notice_mails(conn: sqlite3.Connection, keys: Keys, notice: sqlite3.Row, *, can_buy: bool) -> int:
    customer = customers.get_customer_by_id(conn, notice["customer_id"])
    contact, addresses = [customer.contact_email], notice["alert_to"].split()
    build_values = _build_order_values
    if notice["kind"] == alerts.LOW:
        try:
            rate_limit.take_token(conn, f"alert:{notice['account_id']}", _MAX_ALERTS_PER_HOUR, HOUR_MS)
        except rate_limit.TooManyAttempts:
            return 0
        build_values = _build_low_balance_values
        mails = [("credits_low", customer.language, addresses or contact)]
    elif notice["kind"] == alerts.RECREDITED:
        # Those who got the mail that credits run low want to know that some have come.
        recipients = alerts.deduplicate_addresses([*contact, *addresses])
        mails = [("credits_recredited", customer.language, recipients)]
    else:
        mails = [("credits_requested", customer.language, contact)]
        mails += [
            ("credits_asked_for", each.language or i18n.DEFAULT_LANGUAGE, [each.email])
            for each in users.list_users(conn, None)
        ]
    for template, language, recipients in mails:
        with i18n.override_language(language):
            values = build_values(conn, notice) | {"can_buy": can_buy}
        for recipient in recipients:
            mail.queue_mail(conn, keys, recipient, template, language, **values)
    return sum(len(recipients) for _template, _language, recipients in mails)


def _build_low_balance_values(conn: sqlite3.Connection, notice: sqlite3.Row) -> dict[str, object]:
    """What the template shows, in the language in use."""
    return {
        "account": notice["name"],
        "balance": i18n.format_credits(notice["balance"]),
        # The rule may have been removed since.
        "threshold": None if notice["alert_below"] is None else i18n.format_credits(notice["alert_below"]),
        "forecast": alerts.compute_forecast(conn, notice["account_id"], notice["at"]).to_text(notice["at"]),
    }


def _build_order_values(conn: sqlite3.Connection, notice: sqlite3.Row) -> dict[str, object]:
    order = orders.get_order_by_id(conn, notice["order_id"])
    (bought_until_then,) = conn.execute(
        "SELECT count(*) FROM orders WHERE account_id = ? AND origin = 'automatic' AND movement_id BETWEEN ? AND ?",
        (order.account_id, ids.min_id_at_time(notice["at"] // DAY_MS * DAY_MS), order.movement_id),
    ).fetchone()
    return {
        "account": order.account,
        "customer": order.customer,
        "customer_id": order.customer_id,
        "order": order.number,
        "credits": i18n.format_credits(order.credits),
        "price": i18n.format_money(order.price, order.currency),
        "balance": i18n.format_credits(notice["balance"]),
        "left_today": max(0, notice["recredit_per_day"] - bought_until_then),
    }
