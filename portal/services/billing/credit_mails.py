"""Mails about an account's credits: what `alerts.note` has remembered becomes mails to those whom it concerns."""

import sqlite3
from collections.abc import Callable, Sequence

from portal.core import i18n
from portal.core.clock import DAY_MS, HOUR_MS
from portal.core.crypto import Keys
from portal.core.db import immediate
from portal.core.i18n import DEFAULT_LANGUAGE
from portal.services.billing import orders
from portal.services.common import ids, mail, rate_limit
from portal.services.credits import alerts, forecast
from portal.services.people import customers, users

# To addresses that nobody has confirmed: who moves credits back and forth across the threshold must not flood them.
_MOST_ALERTS_AN_HOUR = 6
# In one transaction, which keeps others from writing meanwhile.
_MOST_AT_ONCE = 50

_WAITING = f"""
SELECT notice.id, account_id, notice.kind, at, notice.balance, order_id, name, customer_id, alert_below, alert_to,
       recredit_per_day
FROM credit_notices AS notice JOIN accounts ON accounts.id = account_id ORDER BY notice.id LIMIT {_MOST_AT_ONCE}
"""


def queue_due(conn: sqlite3.Connection, keys: Keys) -> int:
    """Turn what was noted into mails. A note is gone when its mails are queued, in the same transaction.

    An account that has fallen below its threshold several times since the look before gets one mail, about the last,
    and at most six in an hour.

    Returns:
        How many mails.
    """
    # Asked for without the write lock: mostly there is nothing.
    if conn.execute("SELECT 1 FROM credit_notices LIMIT 1").fetchone() is None:
        return 0
    with immediate(conn):
        waiting = conn.execute(_WAITING).fetchall()
        last_low = {each["account_id"]: each["id"] for each in waiting if each["kind"] == alerts.LOW}
        count = sum(
            _queue(conn, keys, each)
            for each in waiting
            if each["kind"] != alerts.LOW or last_low[each["account_id"]] == each["id"]
        )
        conn.executemany("DELETE FROM credit_notices WHERE id = ?", [(each["id"],) for each in waiting])
    return count


def _queue(conn: sqlite3.Connection, keys: Keys, notice: sqlite3.Row) -> int:
    customer = customers.by_id(conn, notice["customer_id"])
    contact, addresses = customer.contact_email, notice["alert_to"].split()
    if notice["kind"] == alerts.LOW:
        try:
            rate_limit.take(conn, f"alert:{notice['account_id']}", _MOST_ALERTS_AN_HOUR, HOUR_MS)
        except rate_limit.TooManyAttempts:
            return 0
        return _send(conn, keys, "credits_low", customer.language, addresses or [contact], _low(conn, notice))
    if notice["kind"] == alerts.RECREDITED:
        # Those who were told that credits run out want to know that some have come.
        readers = alerts.each_once([contact, *addresses])
        return _send(conn, keys, "credits_recredited", customer.language, readers, _recredited(conn, notice))
    count = _send(conn, keys, "credits_requested", customer.language, [contact], _order(conn, notice))
    for each in users.of_customer(conn, None):
        language = each.language or DEFAULT_LANGUAGE
        count += _send(conn, keys, "credits_asked_for", language, [each.email], _order(conn, notice))
    return count


def _send(
    conn: sqlite3.Connection,
    keys: Keys,
    template: str,
    language: str,
    recipients: Sequence[str],
    words: Callable[[], dict[str, object]],
) -> int:
    """`words`: what the template shows, in the language in use."""
    with i18n.speaking(language):
        shown = words()
    for recipient in recipients:
        mail.queue(conn, keys, recipient, template, language, **shown)
    return len(recipients)


def _low(conn: sqlite3.Connection, notice: sqlite3.Row) -> Callable[[], dict[str, object]]:
    lasts = forecast.of_account(conn, notice["account_id"], notice["at"])
    return lambda: {
        "account": notice["name"],
        "balance": i18n.credits(notice["balance"]),
        # The rule may have been taken away since.
        "threshold": None if notice["alert_below"] is None else i18n.credits(notice["alert_below"]),
        "forecast": lasts.words(notice["at"]),
    }


def _recredited(conn: sqlite3.Connection, notice: sqlite3.Row) -> Callable[[], dict[str, object]]:
    day, shown = notice["at"] // DAY_MS * DAY_MS, _order(conn, notice)
    bought = conn.execute(
        "SELECT count(*) FROM orders WHERE account_id = ? AND origin = 'automatic' AND movement_id BETWEEN ?"
        " AND (SELECT movement_id FROM orders WHERE id = ?)",
        (notice["account_id"], ids.first_id_at(day), notice["order_id"]),
    ).fetchone()[0]
    return lambda: shown() | {"left_today": max(0, notice["recredit_per_day"] - bought)}


def _order(conn: sqlite3.Connection, notice: sqlite3.Row) -> Callable[[], dict[str, object]]:
    order = orders.by_id(conn, notice["order_id"])
    return lambda: {
        "account": order.account,
        "customer": order.customer,
        "customer_id": order.customer_id,
        "order": order.number,
        "credits": i18n.credits(order.credits),
        "price": i18n.money(order.price, order.currency),
        "balance": i18n.credits(notice["balance"]),
    }
