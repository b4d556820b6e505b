"""Everyone's balances: what the customers' accounts hold, use and owe, as an operator sees them."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from portal.core.clock import DAY_MS, now_ms
from portal.services.billing import orders

NONE, ENOUGH, LOW = "none", "enough", "low"


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's credits, in thousandths. `week` and `month` are what its messages cost in the last 7 and 30 days
    (UTC, today included); `owed` is what came by automatic re-credit and hasn't been paid; below `alert_below` a mail
    goes out, None: not asked for.
    """

    account: str
    kind: str
    customer_id: int
    customer: str
    balance: int
    week: int
    month: int
    owed: int
    alert_below: int | None

    @property
    def alert(self) -> str:
        """NONE where no alert was asked for, otherwise LOW below its threshold, and ENOUGH."""
        if self.alert_below is None:
            return NONE
        return LOW if self.balance < self.alert_below else ENOUGH


@dataclass(frozen=True, slots=True)
class Totals:
    """What several accounts hold, use and owe together; see `Balance`."""

    accounts: int
    balance: int
    week: int
    month: int
    owed: int


# A few rows an account, by its primary keys: a sum over everyone's days would read them all.
_QUERY = f"""
SELECT accounts.name, kind, customers.id, customers.name, balance,
       (SELECT coalesce(sum(price), 0) FROM daily_totals WHERE account_id = accounts.id AND day > :today - 7),
       (SELECT coalesce(sum(price), 0) FROM daily_totals WHERE account_id = accounts.id AND day > :today - 30),
       (SELECT coalesce(sum(credits), 0) FROM orders WHERE account_id = accounts.id AND {orders.IS_OWED}),
       alert_below
FROM accounts JOIN customers ON customers.id = customer_id WHERE deleted_at IS NULL
ORDER BY customers.name COLLATE NOCASE, kind, accounts.name
"""


def everyone(conn: sqlite3.Connection) -> list[Balance]:
    """All accounts, by customer."""
    return [Balance(*row) for row in conn.execute(_QUERY, {"today": now_ms() // DAY_MS})]


def together(balances: Iterable[Balance]) -> Totals:
    """What these come to."""
    rows = list(balances)
    return Totals(
        len(rows),
        sum(each.balance for each in rows),
        sum(each.week for each in rows),
        sum(each.month for each in rows),
        sum(each.owed for each in rows),
    )
