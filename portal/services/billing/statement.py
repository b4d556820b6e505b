"""An account's statement: its movements in a period, what they add up to, and how balance and usage went.

None of it reads all that an account has done: usage is most of a ledger, and is worked out from the balances before and
after it; all else has an index of its own.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from portal.core.clock import HOUR_MS, now_ms
from portal.services.common import ids
from portal.services.common.periods import EVER, FIRST_DAY, LAST_DAY, Period, midnight
from portal.services.credits import ledger
from portal.services.statistics.daily_totals import month_of
from portal.services.statistics.rollup import MONTH

_MOST_DAYS = 92


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
        return ids.time_of(self.id)

    @property
    def order(self) -> str:
        """The number of the order that the credits were bought with; empty where none were."""
        return self.note if self.kind == ledger.PURCHASE else ""


# --- movements


_SELECT = """
SELECT movements.id, movements.kind, amount, balance_after, actor, note, other.name, messages,
       first_message_id, last_message_id,
       EXISTS (SELECT 1 FROM messages AS sent WHERE sent.id = last_message_id AND sent.account_id = :account)
FROM movements LEFT JOIN accounts AS other ON other.id = counterpart_id
WHERE movements.account_id = :account AND movements.id >= :least AND movements.id < :bound
"""
# By the index of what isn't usage: it is only taken where the query says so in its words.
_OF_KIND = " AND movements.kind = :kind AND movements.kind <> 'usage'"


def movements(
    conn: sqlite3.Connection,
    account_id: int,
    within: Period = EVER,
    kind: str = "",
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
) -> list[Movement]:
    """A page of the ledger, newest first.

    Args:
        within: only movements of this period.
        kind: only movements of this kind (`ledger.KINDS`); empty: of all.
        before: only movements with a smaller id than this (the last one of the page before).
        after: the ones that follow upon this id, for the way back to newer ones.
    """
    values: dict[str, object] = {
        "account": account_id,
        "kind": kind,
        "least": max(ids.first_id_at(within.since), 0 if after is None else after + 1),
        "bound": min(ids.first_id_at(within.until), _bound(before)),
        "limit": limit,
    }
    rows = conn.execute(_query(kind, "DESC" if after is None else "ASC"), values)
    found = [Movement(*row) for row in rows]
    return found if after is None else found[::-1]


def _bound(before: int | None) -> int:
    return (1 << 63) - 1 if before is None else before


def _query(kind: str, direction: str) -> str:
    of_kind = "" if not kind else " AND movements.kind = 'usage'" if kind == ledger.USAGE else _OF_KIND
    return f"{_SELECT}{of_kind} ORDER BY movements.id {direction} LIMIT :limit"


def each(
    conn: sqlite3.Connection, account_id: int, within: Period = EVER, kind: str = "", batch: int = 1000
) -> Iterator[Movement]:
    """All movements of a period, newest first, in constant memory. The arguments: see `movements`."""
    before = None
    while found := movements(conn, account_id, within, kind, before=before, limit=batch):
        yield from found
        before = found[-1].id


# --- what they add up to

# Seven looks into the index, whatever lies between: SQLite doesn't skip over kinds that it isn't told.
_OTHER_KINDS = ", ".join(f"'{each}'" for each in ledger.KINDS if each != ledger.USAGE)
_NOT_USAGE = f"account_id = :account AND kind IN ({_OTHER_KINDS}) AND kind <> 'usage'"
_BALANCE_BEFORE = (
    "coalesce((SELECT balance_after FROM movements WHERE account_id = :account AND id < {id} ORDER BY id DESC LIMIT 1),"
    " 0)"
)
# One statement, and so one state of the database: a debit between two of them would be counted on one side only.
_SUMS = f"""
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
class Sums:
    """What the movements of a period add up to, in thousandths: by kind what came, and what went (negative)."""

    kinds: Mapping[str, tuple[int, int]]

    @property
    def came(self) -> int:
        return sum(came for came, _ in self.kinds.values())

    @property
    def went(self) -> int:
        return sum(went for _, went in self.kinds.values())

    def of(self, kind: str) -> int:
        """What came less what went of one kind."""
        return sum(self.kinds.get(kind, (0, 0)))


def sums(conn: sqlite3.Connection, account_id: int, within: Period = EVER, kind: str = "") -> Sums:
    """Add up a period's movements; kinds without any are left out. The arguments: see `movements`."""
    values = {"account": account_id, "least": ids.first_id_at(within.since), "bound": ids.first_id_at(within.until)}
    found = {row["kind"]: (row["came"], row["went"]) for row in conn.execute(_SUMS, values)}
    shown = [each for each in ledger.KINDS if each in found and any(found[each]) and kind in ("", each)]
    return Sums({each: found[each] for each in shown})


# --- how balance and usage went

_STEPS = f"""
SELECT step.value ->> 0 AS since, step.value ->> 1 AS until,
       {_BALANCE_BEFORE.format(id="(step.value ->> 1) << 20")} AS balance,
       coalesce((SELECT sum(amount) FROM movements WHERE {_NOT_USAGE}
                 AND id >= (step.value ->> 0) << 20 AND id < (step.value ->> 1) << 20), 0) AS others
FROM json_each(:steps) AS step ORDER BY since, until
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A day of a chart, or an hour, or a month: when it begins (milliseconds), what was used in it, what else came or
    went, and the balance at its end; in thousandths."""

    at: int
    used: int
    others: int
    balance: int


@dataclass(frozen=True, slots=True)
class Course:
    """How balance and usage went: `unit` is `hour`, `day` or `month`; `opening` the balance before the first step."""

    unit: str
    opening: int
    steps: Sequence[Step]

    @property
    def used(self) -> int:
        return sum(each.used for each in self.steps)


def course(conn: sqlite3.Connection, account_id: int, within: Period, timezone: str, now: int) -> Course | None:
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
    oldest, today = (datetime.fromtimestamp(at / 1000, zone).date() for at in (ids.time_of(first_id), now))
    first, last = max(within.first or oldest, oldest), min(within.last, today)
    if last < first:
        return None
    unit, bounds = _bounds(first, last, zone)
    # No step begins after this moment: a line into the evening would say at noon what nobody knows.
    bounds = bounds[:1] + [ends for begins, ends in pairwise(bounds) if begins <= now]
    steps = json.dumps([(bounds[0], bounds[0]), *pairwise(bounds)])
    opening, *rows = conn.execute(_STEPS, {"account": account_id, "steps": steps})
    found, before = [], opening["balance"]
    for row in rows:
        found.append(Step(row["since"], before + row["others"] - row["balance"], row["others"], row["balance"]))
        before = row["balance"]
    return Course(unit, opening["balance"], found)


def _bounds(first: date, last: date, zone: ZoneInfo) -> tuple[str, list[int]]:
    """The unit of the steps from one day to another, and where they begin, with the end of the last one."""
    end = midnight(last + timedelta(1), zone)
    days = (last - first).days + 1
    if days == 1:
        return "hour", [*range(midnight(first, zone), end, HOUR_MS), end]
    if days <= _MOST_DAYS:
        return "day", [midnight(first + timedelta(number), zone) for number in range(days + 1)]
    months = [date(year, number, 1) for year in range(first.year, last.year + 1) for number in range(1, 13)]
    return "month", [*(midnight(max(each, first), zone) for each in months if _is_within(each, first, last)), end]


def _is_within(first_of_month: date, first: date, last: date) -> bool:
    return first.replace(day=1) <= first_of_month <= last


# --- what a month's messages cost


@dataclass(frozen=True, slots=True)
class Use:
    """What messages to a country, or from a sender, cost in a month; `price` in thousandths."""

    country: str
    source: str
    messages: int
    parts: int
    price: int


def months(conn: sqlite3.Connection, account_id: int) -> list[int]:
    """The months (`totals.month_of`) since an account's first movement, newest first; this one at least."""
    (first_id,) = conn.execute("SELECT min(id) FROM movements WHERE account_id = ?", (account_id,)).fetchone()
    latest = _month_at(now_ms())
    first = latest if first_id is None else min(latest, _month_at(ids.time_of(first_id)))
    return list(range(latest, first - 1, -1))


def _month_at(at: int) -> int:
    return month_of((datetime.fromtimestamp(at / 1000, UTC).date() - date(1970, 1, 1)).days)


def month_number(text: str) -> int | None:
    """Read a month ("2026-11") into a number of `totals.month_of`; None where it is none, or no id can hold it."""
    try:
        day = date.fromisoformat(f"{text}-01")
    except ValueError:
        return None
    return day.year * 12 + day.month - 1 if FIRST_DAY < day <= LAST_DAY else None


def month_text(number: int) -> str:
    """A number of `totals.month_of` as "2026-11"."""
    return f"{number // 12:04}-{number % 12 + 1:02}"


_USE = f"FROM statistics WHERE account_id = ? AND length = {MONTH} AND begins = ? AND sent > 0"


def used(conn: sqlite3.Connection, account_id: int, number: int) -> Iterator[Use]:
    """What was used in a month by country and sender, as the table has them, in constant memory."""
    for row in conn.execute(f"SELECT country, source, sent, parts, price {_USE}", (account_id, number)):
        yield Use(*row)


def used_by_country(conn: sqlite3.Connection, account_id: int, number: int) -> list[Use]:
    """What was used in a month by country, the dearest first."""
    rows = conn.execute(
        f"SELECT country, '', sum(sent), sum(parts), sum(price) {_USE} GROUP BY country ORDER BY sum(price) DESC,"
        " country",
        (account_id, number),
    )
    return [Use(*row) for row in rows]


def used_by_sender(conn: sqlite3.Connection, account_id: int, number: int, limit: int) -> list[Use]:
    """What was used in a month by sender, the dearest first."""
    rows = conn.execute(
        f"SELECT '', source, sum(sent), sum(parts), sum(price) {_USE} GROUP BY source ORDER BY sum(price) DESC,"
        " source LIMIT ?",
        (account_id, number, limit),
    )
    return [Use(*row) for row in rows]
