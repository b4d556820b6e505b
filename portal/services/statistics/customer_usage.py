"""What customers have used in a month, for invoices."""

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from portal.services.statistics.months import format_month
from portal.services.statistics.rollup import MONTH


class CustomerUsage(NamedTuple):
    """What an account has sent to a country in a month; `credits` in thousandths, as they were charged."""

    customer: str
    account: str
    month: str
    country: str
    messages: int
    parts: int
    credits: int
    delivered: int
    failed: int


def iterate_customer_usage(conn: sqlite3.Connection, month: int) -> Iterator[CustomerUsage]:
    """What all accounts have sent in a month, by customer, account and country; those that are deleted, too.

    It is read account by account, as far as the statistics have been gathered (`rollup`): up to a second or two ago.
    """
    accounts = conn.execute(
        "SELECT accounts.id, customers.name, accounts.name FROM accounts JOIN customers ON customers.id = customer_id"
        " ORDER BY customers.name COLLATE NOCASE, accounts.name"
    ).fetchall()
    for account_id, customer, account in accounts:
        rows = conn.execute(
            "SELECT country, sum(sent), sum(parts), sum(price), sum(delivered), sum(failed) FROM statistics"
            " WHERE account_id = ? AND length = ? AND begins = ? GROUP BY country HAVING sum(sent) ORDER BY country",
            (account_id, MONTH, month),
        ).fetchall()
        for row in rows:
            yield CustomerUsage(customer, account, format_month(month), *row)
