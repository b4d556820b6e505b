"""Mails about an account's credits: notices of `alerts.add_credit_notice` become mails to those they concern."""

import sqlite3
from collections.abc import Callable, Sequence

from portal.core import i18n
from portal.core.clock import DAY_MS, HOUR_MS
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.core.i18n import DEFAULT_LANGUAGE
from portal.services.billing import orders
from portal.services.common import ids, mail, rate_limit
from portal.services.credits import alerts, forecast
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


def queue_credit_mails(conn: sqlite3.Connection, keys: Keys) -> int:
    """Turn notices into mails. A notice is deleted in the transaction that queues its mails.

    An account that has fallen below its threshold several times since the last call gets one mail, about the last,
    and at most six in an hour.

    Returns:
        How many mails.
    """
    # Read without the write lock: mostly there is nothing.
    if conn.execute("SELECT 1 FROM credit_notices LIMIT 1").fetchone() is None:
        return 0
    with write_transaction(conn):
        notices = conn.execute(_SELECT_NOTICES).fetchall()
        last_low = {each["account_id"]: each["id"] for each in notices if each["kind"] == alerts.LOW}
        count = sum(
            _queue_notice_mails(conn, keys, each)
            for each in notices
            if each["kind"] != alerts.LOW or last_low[each["account_id"]] == each["id"]
        )
        conn.executemany("DELETE FROM credit_notices WHERE id = ?", [(each["id"],) for each in notices])
    return count


def _queue_notice_mails(conn: sqlite3.Connection, keys: Keys, notice: sqlite3.Row) -> int:
    customer = customers.get_customer_by_id(conn, notice["customer_id"])
    contact, addresses = customer.contact_email, notice["alert_to"].split()
    if notice["kind"] == alerts.LOW:
        try:
            rate_limit.take_token(conn, f"alert:{notice['account_id']}", _MAX_ALERTS_PER_HOUR, HOUR_MS)
        except rate_limit.TooManyAttempts:
            return 0
        return _queue_mails(
            conn,
            keys,
            "credits_low",
            customer.language,
            addresses or [contact],
            _low_balance_mail_context(conn, notice),
        )
    if notice["kind"] == alerts.RECREDITED:
        # Those who got the mail that credits run low want to know that some have come.
        recipients = alerts.deduplicate_addresses([contact, *addresses])
        return _queue_mails(
            conn, keys, "credits_recredited", customer.language, recipients, _recredit_mail_context(conn, notice)
        )
    count = _queue_mails(
        conn, keys, "credits_requested", customer.language, [contact], _order_mail_context(conn, notice)
    )
    for each in users.list_users(conn, None):
        language = each.language or DEFAULT_LANGUAGE
        count += _queue_mails(
            conn, keys, "credits_asked_for", language, [each.email], _order_mail_context(conn, notice)
        )
    return count


def _queue_mails(
    conn: sqlite3.Connection,
    keys: Keys,
    template: str,
    language: str,
    recipients: Sequence[str],
    build_context: Callable[[], dict[str, object]],
) -> int:
    """`build_context`: what the template shows, in the language in use."""
    with i18n.override_language(language):
        context = build_context()
    for recipient in recipients:
        mail.queue_mail(conn, keys, recipient, template, language, **context)
    return len(recipients)


def _low_balance_mail_context(conn: sqlite3.Connection, notice: sqlite3.Row) -> Callable[[], dict[str, object]]:
    credit_forecast = forecast.compute_forecast(conn, notice["account_id"], notice["at"])
    return lambda: {
        "account": notice["name"],
        "balance": i18n.format_credits(notice["balance"]),
        # The rule may have been removed since.
        "threshold": None if notice["alert_below"] is None else i18n.format_credits(notice["alert_below"]),
        "forecast": credit_forecast.to_text(notice["at"]),
    }


def _recredit_mail_context(conn: sqlite3.Connection, notice: sqlite3.Row) -> Callable[[], dict[str, object]]:
    day, build_order_context = notice["at"] // DAY_MS * DAY_MS, _order_mail_context(conn, notice)
    bought = conn.execute(
        "SELECT count(*) FROM orders WHERE account_id = ? AND origin = 'automatic' AND movement_id BETWEEN ?"
        " AND (SELECT movement_id FROM orders WHERE id = ?)",
        (notice["account_id"], ids.min_id_at_time(day), notice["order_id"]),
    ).fetchone()[0]
    return lambda: build_order_context() | {"left_today": max(0, notice["recredit_per_day"] - bought)}


def _order_mail_context(conn: sqlite3.Connection, notice: sqlite3.Row) -> Callable[[], dict[str, object]]:
    order = orders.get_order_by_id(conn, notice["order_id"])
    return lambda: {
        "account": order.account,
        "customer": order.customer,
        "customer_id": order.customer_id,
        "order": order.number,
        "credits": i18n.format_credits(order.credits),
        "price": i18n.format_money(order.price, order.currency),
        "balance": i18n.format_credits(notice["balance"]),
    }
