"""Everyone's balances: what the customers' accounts hold, use and owe, as an operator sees them."""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from portal.core.clock import DAY_MS, now_ms
from portal.services.billing import orders

NO_ALERT, ENOUGH, LOW = "none", "enough", "low"


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """An account's credits, in thousandths.

    `spent_7_days` and `spent_30_days` are what its messages cost in the last 7 and 30 days (UTC, today included);
    `owed` is what came by automatic re-credit and hasn't been paid; below `alert_below` a mail goes out (None: none).
    """

    account: str
    kind: str
    customer_id: int
    customer: str
    balance: int
    spent_7_days: int
    spent_30_days: int
    owed: int
    alert_below: int | None

    @property
    def alert_state(self) -> str:
        """NO_ALERT where none is set; LOW below its threshold; otherwise ENOUGH."""
        if self.alert_below is None:
            return NO_ALERT
        return LOW if self.balance < self.alert_below else ENOUGH


# A few rows an account, by its primary keys: a sum over everyone's days would read them all.
_SELECT_BALANCES = f"""
SELECT accounts.name, kind, customers.id, customers.name, balance,
       (SELECT coalesce(sum(price), 0) FROM daily_totals WHERE account_id = accounts.id AND day > :today - 7),
       (SELECT coalesce(sum(price), 0) FROM daily_totals WHERE account_id = accounts.id AND day > :today - 30),
       (SELECT coalesce(sum(credits), 0) FROM orders WHERE account_id = accounts.id AND {orders.IS_OWED}),
       alert_below
FROM accounts JOIN customers ON customers.id = customer_id WHERE deleted_at IS NULL
ORDER BY customers.name COLLATE NOCASE, kind, accounts.name
"""


def list_all_balances(conn: sqlite3.Connection) -> list[AccountBalance]:
    """All accounts, by customer."""
    return [AccountBalance(*row) for row in conn.execute(_SELECT_BALANCES, {"today": now_ms() // DAY_MS})]


def sum_balances(balances: Collection[AccountBalance]) -> dict[str, int]:
    """What several accounts hold, use and owe together, by the names in `AccountBalance`, and their `account_count`."""
    summed = ("balance", "spent_7_days", "spent_30_days", "owed")
    return {"account_count": len(balances)} | {name: sum(getattr(each, name) for each in balances) for name in summed}
