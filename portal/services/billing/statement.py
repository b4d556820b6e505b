"""An account's statement: its movements in a period, what they add up to, and how balance and usage went; and
everyone's balances.

None of it reads all that an account has done: usage is most of a ledger, and is worked out from the balances before and
after it; all else has an index of its own.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Unpack
from zoneinfo import ZoneInfo

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.db import Connection
from portal.services.billing import orders
from portal.services.common import ids, keyset
from portal.services.common.addresses import normalize_address
from portal.services.common.keyset import PageBounds
from portal.services.common.periods import ALL_TIME_PERIOD, FIRST_DAY, LAST_DAY, Period, day_start_ms
from portal.services.credits import ledger
from portal.services.statistics.daily_totals import month_from_day
from portal.services.statistics.rollup import MONTH

_MAX_DAY_STEPS = 92
NO_ALERT, ENOUGH, LOW = "none", "enough", "low"


@dataclass(frozen=True, slots=True)
class Movement:
    """One line of the ledger; amounts in thousandths, negative where credits left the account.

    `messages` are from `first_message_id` to `last_message_id`, between which there may be others' too; `in_history`:
    the last of them is still there.
    """

    id: int
    kind: str
    amount: int
    balance_after: int
    actor: str
    note: str
    counterpart: str | None
    messages: int | None
    first_message_id: int | None
    last_message_id: int | None
    in_history: bool

    @property
    def at(self) -> int:
        """When, in milliseconds: the id holds it."""
        return ids.time_from_id(self.id)

    @property
    def purchase_order_number(self) -> str:
        """The number of the order that the credits were bought with; empty where none were."""
        return self.note if self.kind == ledger.PURCHASE else ""


# --- movements


_SELECT = """
SELECT movements.id, movements.kind, amount, balance_after, actor, note, other.name, messages,
       first_message_id, last_message_id,
       EXISTS (SELECT 1 FROM messages AS sent WHERE sent.id = last_message_id AND sent.account_id = :account)
FROM movements LEFT JOIN accounts AS other ON other.id = counterpart_id WHERE movements.account_id = :account
"""
# By the index of what isn't usage: it is only taken where the query says so in its words.
_KIND_CONDITION = " AND movements.kind = :kind AND movements.kind <> 'usage'"


def list_movements_page(
    conn: sqlite3.Connection,
    account_id: int,
    period: Period = ALL_TIME_PERIOD,
    kind: str = "",
    **bounds: Unpack[PageBounds],
) -> list[Movement]:
    """A page of the ledger, newest first.

    Args:
        period: only movements in it.
        kind: only movements of this kind (`ledger.KINDS`); empty: of all.
    """
    of_kind = "" if not kind else " AND movements.kind = 'usage'" if kind == ledger.USAGE else _KIND_CONDITION
    rows = keyset.select_page(
        conn,
        _SELECT + of_kind,
        {"account": account_id, "kind": kind},
        id_column="movements.id",
        first_id=ids.min_id_at_time(period.since),
        end_id=ids.min_id_at_time(period.until),
        **bounds,
    )
    return [Movement(*row) for row in rows]


def iterate_movements(
    conn: sqlite3.Connection, account_id: int, period: Period = ALL_TIME_PERIOD, kind: str = "", batch: int = 1000
) -> Iterator[Movement]:
    """All movements of a period, newest first, in constant memory. The arguments: see `list_movements_page`."""
    list_page = partial(list_movements_page, conn, account_id, period, kind)
    return keyset.iterate_pages(list_page, batch, lambda each: each.id)


# --- what they add up to

# Seven searches of the index, whatever lies between: SQLite doesn't skip over kinds that the query doesn't list.
_OTHER_KINDS = ", ".join(f"'{each}'" for each in ledger.KINDS if each != ledger.USAGE)
_NOT_USAGE = f"account_id = :account AND kind IN ({_OTHER_KINDS}) AND kind <> 'usage'"
_BALANCE_BEFORE = (
    "coalesce((SELECT balance_after FROM movements WHERE account_id = :account AND id < {id} ORDER BY id DESC LIMIT 1),"
    " 0)"
)
# One statement, and so one state of the database: a debit between two statements would be counted on one side only.
_SELECT_SUMS = f"""
WITH others AS MATERIALIZED (
    SELECT kind, sum(max(amount, 0)) AS came, sum(min(amount, 0)) AS went FROM movements
    WHERE {_NOT_USAGE} AND id >= :least AND id < :bound GROUP BY kind
)
SELECT kind, came, went FROM others
UNION ALL
SELECT 'usage', 0, {_BALANCE_BEFORE.format(id=":bound")} - {_BALANCE_BEFORE.format(id=":least")}
    - coalesce((SELECT sum(came + went) FROM others), 0)
"""


@dataclass(frozen=True, slots=True)
class MovementSums:
    """What the movements of a period add up to, in thousandths: by kind what came, and what went (negative)."""

    by_kind: Mapping[str, tuple[int, int]]

    @property
    def total_in(self) -> int:
        return sum(amount for amount, _ in self.by_kind.values())

    @property
    def total_out(self) -> int:
        return sum(amount for _, amount in self.by_kind.values())


def sum_movements(
    conn: sqlite3.Connection, account_id: int, period: Period = ALL_TIME_PERIOD, kind: str = ""
) -> MovementSums:
    """Add up a period's movements; kinds without any are left out. The arguments: see `list_movements_page`."""
    values = {
        "account": account_id,
        "least": ids.min_id_at_time(period.since),
        "bound": ids.min_id_at_time(period.until),
    }
    sums_by_kind = {row["kind"]: (row["came"], row["went"]) for row in conn.execute(_SELECT_SUMS, values)}
    kinds = [each for each in ledger.KINDS if each in sums_by_kind and any(sums_by_kind[each]) and kind in ("", each)]
    return MovementSums({each: sums_by_kind[each] for each in kinds})


# --- how balance and usage went

_SELECT_STEPS = f"""
SELECT {_BALANCE_BEFORE.format(id="step.value ->> 1")} AS balance,
       coalesce((SELECT sum(amount) FROM movements WHERE {_NOT_USAGE}
                 AND id >= step.value ->> 0 AND id < step.value ->> 1), 0) AS others
FROM json_each(:steps) AS step ORDER BY step.key
"""


@dataclass(frozen=True, slots=True)
class BalanceChartStep:
    """A day of a chart, or an hour, or a month: when it begins (milliseconds), what was used in it, what else came or
    went, and the balance at its end; in thousandths."""

    at: int
    usage: int
    others: int
    balance: int


@dataclass(frozen=True, slots=True)
class BalanceHistory:
    """How balance and usage went: `unit` is `hour`, `day` or `month`; `opening_balance`: before the first step."""

    unit: str
    opening_balance: int
    steps: Sequence[BalanceChartStep]

    @property
    def total_credits_used(self) -> int:
        return sum(each.usage for each in self.steps)


def load_balance_history(
    conn: sqlite3.Connection, account_id: int, period: Period, timezone: str, now: int
) -> BalanceHistory | None:
    """How an account's balance and usage went in a period.

    By hours where it is one day, by days up to three months of them, then by months; not before the account's first
    movement nor after this moment. None where there is nothing between these.

    Args:
        timezone: IANA name; that of the days.
        now: this moment (milliseconds).
    """
    (first_id,) = conn.execute("SELECT min(id) FROM movements WHERE account_id = ?", (account_id,)).fetchone()
    if first_id is None:
        return None
    zone = ZoneInfo(timezone)
    oldest, today = (datetime.fromtimestamp(at / 1000, zone).date() for at in (ids.time_from_id(first_id), now))
    first, last = max(period.first or oldest, oldest), min(period.last, today)
    if last < first:
        return None
    unit, bounds = _compute_chart_step_bounds(first, last, zone)
    # No step begins after this moment: a line into the evening would say at noon what nobody knows.
    bounds = bounds[:1] + [ends for begins, ends in pairwise(bounds) if begins <= now]
    bound_ids = [ids.min_id_at_time(each) for each in bounds]
    steps = json.dumps([(bound_ids[0], bound_ids[0]), *pairwise(bound_ids)])
    rows = conn.execute(_SELECT_STEPS, {"account": account_id, "steps": steps}).fetchall()
    history_steps = [
        BalanceChartStep(at, before["balance"] + row["others"] - row["balance"], row["others"], row["balance"])
        for at, (before, row) in zip(bounds, pairwise(rows), strict=False)
    ]
    return BalanceHistory(unit, rows[0]["balance"], history_steps)


def _compute_chart_step_bounds(first: date, last: date, zone: ZoneInfo) -> tuple[str, list[int]]:
    """The unit of the steps from one day to another, and where they begin, with the end of the last one."""
    end = day_start_ms(last + timedelta(1), zone)
    days = (last - first).days + 1
    if days == 1:
        return "hour", [*range(day_start_ms(first, zone), end, HOUR_MS), end]
    if days <= _MAX_DAY_STEPS:
        return "day", [day_start_ms(first + timedelta(number), zone) for number in range(days + 1)]
    begins = [first]
    while (following := (begins[-1].replace(day=1) + timedelta(31)).replace(day=1)) <= last:
        begins.append(following)
    return "month", [*(day_start_ms(each, zone) for each in begins), end]


# --- what a month's messages cost


@dataclass(frozen=True, slots=True)
class MonthlyUsage:
    """What messages to a country, or from a sender, cost in a month; `price` in thousandths."""

    country: str
    source: str
    messages: int
    parts: int
    price: int


def list_statement_months(conn: sqlite3.Connection, account_id: int) -> list[int]:
    """The months (`daily_totals.month_from_day`) since an account's first movement, newest first; this one at least."""
    (first_id,) = conn.execute("SELECT min(id) FROM movements WHERE account_id = ?", (account_id,)).fetchone()
    latest = month_from_day(now_ms() // DAY_MS)
    first = latest if first_id is None else min(latest, month_from_day(ids.time_from_id(first_id) // DAY_MS))
    return list(range(latest, first - 1, -1))


def parse_month(text: str) -> int | None:
    """Read a month ("2026-11") as a number of `daily_totals.month_from_day`; None where it is none, or out of range."""
    try:
        day = date.fromisoformat(f"{text}-01")
    except ValueError:
        return None
    return day.year * 12 + day.month - 1 if FIRST_DAY < day <= LAST_DAY else None


def format_month(number: int) -> str:
    """A number of `daily_totals.month_from_day` as "2026-11"."""
    return f"{number // 12:04}-{number % 12 + 1:02}"


_MONTHLY_USAGE = f"FROM statistics WHERE account_id = ? AND length = {MONTH} AND begins = ? AND sent > 0"
# Of `MonthlyUsage.country` and `source`, in SQL: what usage is summed by. A sender is one however it was written.
BY_COUNTRY, BY_SENDER = "country, ''", "'', normalize_address(source)"


def list_monthly_usage(conn: sqlite3.Connection, account_id: int, number: int) -> list[MonthlyUsage]:
    """What was used in a month by country and sender, as the table has them."""
    rows = conn.execute(f"SELECT country, source, sent, parts, price {_MONTHLY_USAGE}", (account_id, number))
    return [MonthlyUsage(*row) for row in rows.fetchall()]


def list_dearest_usage(conn: Connection, account_id: int, number: int, by: str, limit: int = -1) -> list[MonthlyUsage]:
    """What was used in a month, the dearest first.

    Args:
        by: BY_COUNTRY or BY_SENDER.
        limit: how many at most; -1: all.
    """
    conn.register_function("normalize_address", 1, normalize_address)
    rows = conn.execute(
        f"SELECT {by}, sum(sent), sum(parts), sum(price) {_MONTHLY_USAGE}"
        " GROUP BY 1, 2 ORDER BY sum(price) DESC, 1, 2 LIMIT ?",
        (account_id, number, limit),
    )
    return [MonthlyUsage(*row) for row in rows]


# --- everyone's balances


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
