"""Checks of the messages against the movements that charge them, the totals of days and months, their index, the
parts of texts that were cut, and what waits for receivers.

What customers have deleted is in `deleted_messages`, and counts like the messages that are there. Former versions have
left sums of it (`deleted_days`, `deleted_charges`). Everything older than an account's retention is left out on both
sides, whether it has been removed yet or not.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from portal.core.clock import DAY_MS
from portal.core.i18n import N_
from portal.services.accounts.account_messages import MARK_SQL
from portal.services.common import ids
from portal.services.common.message_states import DELIVERED, ENROUTE
from portal.services.operations.self_check.problem import AccountNames, Check, Problem, iterate_rows
from portal.services.statistics import rollup
from portal.services.statistics.daily_totals import (
    COLUMNS_SQL,
    COUNT_COLUMNS,
    MESSAGE_COUNT_SQL,
    SUMS_SQL,
    build_month_sql,
    month_from_day,
)

# How messages end is counted when they do, so the months by country and sender may be behind with it.
_MONTH_COLUMNS = tuple(each for each in COUNT_COLUMNS if each not in ("delivered", "failed"))


@dataclass(slots=True)
class _UsageCharge:
    """A usage movement: the messages that it charges, how many it says for which amount, and those that were found,
    deleted ones included.
    """

    row: int
    first: int
    last: int
    said: int
    amount: int
    first_found: int = 0
    last_found: int = 0
    count: int = 0
    cost: int = 0

    def add_found(self, first: int, last: int, count: int, price: int) -> None:
        self.first_found = min(self.first_found or first, first)
        self.last_found = max(self.last_found, last)
        self.count += count
        self.cost += price


_CHARGED_SQL = "SELECT id, 1, account_id, NULL, id, id, 1, price FROM {} WHERE price"
# A movement comes before the messages that it charges.
_CHARGES_QUERY = f"""
SELECT coalesce(first_message_id, 0), 0, account_id, id, coalesce(first_message_id, 0), coalesce(last_message_id, 0),
    coalesce(messages, 0), -amount FROM movements WHERE kind = 'usage'
UNION ALL {_CHARGED_SQL.format("messages NOT INDEXED")}
UNION ALL {_CHARGED_SQL.format("deleted_messages")}
UNION ALL SELECT charged_from, 1, account_id, NULL, first_id, last_id, messages, price FROM deleted_charges
ORDER BY 1, 2
"""


def check_charges(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check that the usage movements of each account charge its messages one after the other, and all of them."""
    names = AccountNames(conn)
    first_kept_ids = {
        account_id: ids.min_id_at_time(day * DAY_MS) for account_id, day in _read_kept_since(conn).items()
    }
    # Those of different accounts overlap where messages of several accounts were stored together.
    current: dict[int, _UsageCharge] = {}
    uncharged: dict[int, _UsageCharge] = {}
    for position, _, account_id, row, first, last, count, price in iterate_rows(conn, _CHARGES_QUERY):
        charge = current.get(account_id)
        if row is not None:
            if charge is not None:
                yield from _check_charge(names[account_id], charge, first_kept_ids.get(account_id, 0))
            current[account_id] = _UsageCharge(row, first, last, count, price)
        elif charge is not None and position <= charge.last:
            charge.add_found(first, last, count, price)
        elif last >= first_kept_ids.get(account_id, 0):
            # A charge of nothing, which gathers what was found.
            uncharged.setdefault(account_id, _UsageCharge(0, 0, 0, 0, 0)).add_found(first, last, count, price)
    for account_id, charge in sorted(current.items()):
        yield from _check_charge(names[account_id], charge, first_kept_ids.get(account_id, 0))
    for account_id, found in sorted(uncharged.items()):
        sentence = N_(
            "%(account)s: messages that no movement charges: %(count)s, for %(cost)s credits, the first is messages"
            " row %(row)s"
        )
        params = {"count": found.count, "row": found.first_found, "cost": found.cost}
        yield Problem(sentence, {"account": names[account_id], **params})


def _check_charge(account: str, charge: _UsageCharge, first_kept_id: int) -> Iterator[Problem]:
    if 0 < charge.first < first_kept_id:
        return
    named = ("row", "said", "amount", "count", "cost", "first", "last")
    params = {"account": account} | {name: getattr(charge, name) for name in named}
    if (charge.count, charge.cost) != (charge.said, charge.amount):
        sentence = N_(
            "%(account)s: movements row %(row)s charges messages: %(said)s, credits: %(amount)s; found are"
            " messages: %(count)s, credits: %(cost)s"
        )
        yield Problem(sentence, params)
    elif (charge.first_found, charge.last_found) != (charge.first, charge.last):
        sentence = N_(
            "%(account)s: movements row %(row)s doesn't charge just its messages from row %(first)s to row %(last)s"
        )
        yield Problem(sentence, params)


_COUNTED_SQL = f"""
SELECT account_id, {ids.build_time_sql("id")} / {DAY_MS} AS day, country, source,
    id <= (SELECT message_id FROM gathered) AS rolled_up,
    {", ".join(f"sum({sql}) AS {name}" for name, sql in MESSAGE_COUNT_SQL.items())}
FROM {{}} GROUP BY 1, 2, 3, 4, 5
"""
_NEGATED_SQL = ", ".join(f"-{name}" for name in COUNT_COLUMNS)
# What is stored minus what was counted, of each day and each month where there is a difference.
_DIFFERENCES_QUERY = f"""
WITH counted AS MATERIALIZED (
    {_COUNTED_SQL.format("messages NOT INDEXED")}
    UNION ALL {_COUNTED_SQL.format("deleted_messages")}
    UNION ALL SELECT account_id, day, country, source, true, {COLUMNS_SQL} FROM deleted_days
)
SELECT 'day', day, account_id, NULL, NULL, {SUMS_SQL} FROM (
    SELECT day, account_id, {COLUMNS_SQL} FROM daily_totals
    UNION ALL SELECT day, account_id, {_NEGATED_SQL} FROM counted
) GROUP BY day, account_id HAVING {" OR ".join(f"sum({name})" for name in COUNT_COLUMNS)}
UNION ALL
SELECT 'month', month, account_id, country, source, {SUMS_SQL} FROM (
    SELECT begins AS month, account_id, country, source, {COLUMNS_SQL} FROM statistics WHERE length = {rollup.MONTH}
    UNION ALL SELECT {build_month_sql("day")}, account_id, country, source, {_NEGATED_SQL}
    FROM counted WHERE rolled_up
) GROUP BY month, account_id, country, source HAVING {" OR ".join(f"sum({name})" for name in _MONTH_COLUMNS)}
"""


def check_totals(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check that the totals of days, and the months by country and sender, are what their messages say."""
    names = AccountNames(conn)
    kept_since = _read_kept_since(conn)
    for length, begins, account_id, country, source, *amounts in iterate_rows(conn, _DIFFERENCES_QUERY):
        params = {"account": names[account_id]}
        first_kept_day = kept_since.get(account_id, 0)
        if length == "day" and begins >= first_kept_day:
            sentence = N_(
                "%(account)s: the row of daily_totals for %(day)s is off from what the messages of that day say:"
                " %(differences)s"
            )
            day = datetime.fromtimestamp(begins * DAY_MS / 1000, UTC).strftime("%Y-%m-%d")
            yield Problem(sentence, params | {"day": day, "differences": _format_differences(COUNT_COLUMNS, amounts)})
        # Of the month in which the first kept day is, some days may be missing.
        elif length == "month" and (not first_kept_day or begins > month_from_day(first_kept_day - 1)):
            sentence = N_(
                "%(account)s: the row of statistics for %(month)s, %(country)s, %(source)s is off from what the"
                " messages of that month say: %(differences)s"
            )
            month = f"{begins // 12}-{begins % 12 + 1:02}"
            differences = _format_differences(_MONTH_COLUMNS, amounts)
            yield Problem(
                sentence, params | {"month": month, "country": country, "source": source, "differences": differences}
            )


def _format_differences(columns: Sequence[str], amounts: Sequence[int]) -> str:
    """Format differences with the names of their columns: "delivered +1, price -0.5"."""
    return ", ".join(
        f"{name} {amount / 1000 if name == 'price' else amount:+.12g}"
        for name, amount in zip(COUNT_COLUMNS, amounts, strict=True)
        if amount and name in columns
    )


def _read_kept_since(conn: sqlite3.Connection) -> dict[int, int]:
    """By account id: the first day (days since 1970) whose messages are kept."""
    return dict(iterate_rows(conn, "SELECT id, kept_since FROM accounts"))


_IS_INDEXED = (
    "EXISTS (SELECT 1 FROM account_messages AS own"
    " WHERE own.account_id = messages.account_id AND own.message_id = messages.id)"
)
INDEX_CHECKS = (
    Check(
        "%(account)s: messages that account_messages doesn't have: %(count)s, the first is messages row %(row)s",
        "SELECT account_id AS account, min(id) AS row, count(*) AS count FROM messages NOT INDEXED"
        f" WHERE id <= {MARK_SQL} AND NOT {_IS_INDEXED} GROUP BY account_id",
    ),
    Check(
        "%(account)s: rows of account_messages that are none of its messages: %(count)s, the first names messages"
        " row %(row)s",
        "SELECT account_id AS account, min(message_id) AS row, count(*) AS count FROM account_messages AS own"
        # As many as there should be are the right ones, for none is there twice: mostly they need not be looked up.
        " WHERE (SELECT count(*) FROM account_messages)"
        f" <> (SELECT count(*) FROM messages NOT INDEXED WHERE id <= {MARK_SQL} AND {_IS_INDEXED})"
        f" AND (message_id > {MARK_SQL} OR NOT EXISTS"
        "  (SELECT 1 FROM messages WHERE id = own.message_id AND messages.account_id = own.account_id))"
        " GROUP BY account_id",
    ),
)
"""The index of the accounts' messages has each message up to its mark, and nothing else."""

# Grouped by nothing in particular, so that no row comes where nothing is found.
_IF_ANY = " GROUP BY NULL"
_CUT_MESSAGES = "SELECT min(id) AS row, count(*) AS count FROM cut_messages AS c JOIN messages ON id = message_id WHERE"
PART_CHECKS = (
    Check(
        "cut_messages: rows that are of no message: %(count)s, the first is row %(row)s",
        "SELECT min(message_id) AS row, count(*) AS count FROM cut_messages"
        f" WHERE message_id NOT IN (SELECT id FROM messages){_IF_ANY}",
    ),
    Check(
        "message_parts: parts that are of no text that was cut: %(count)s, the first is of messages row %(row)s",
        "SELECT min(p.message_id) AS row, count(*) AS count FROM message_parts AS p"
        " LEFT JOIN cut_messages AS c USING (message_id)"
        f" WHERE total IS NULL OR number NOT BETWEEN 1 AND total{_IF_ANY}",
    ),
    Check(
        "messages that have ended, and not all of whose parts have: %(count)s, the first is messages row %(row)s",
        f"{_CUT_MESSAGES} messages.state <> {ENROUTE} AND total > (SELECT count(*) FROM message_parts AS p"
        f"  WHERE p.message_id = c.message_id AND p.state <> {ENROUTE}){_IF_ANY}",
    ),
    Check(
        "messages all of whose parts have ended, and that have not: %(count)s, the first is messages row %(row)s",
        f"{_CUT_MESSAGES} messages.state = {ENROUTE} AND total = (SELECT count(*) FROM message_parts AS p"
        f"  WHERE p.message_id = c.message_id AND p.state <> {ENROUTE}){_IF_ANY}",
    ),
    Check(
        "messages that are delivered and have a part that isn't, or the other way round: %(count)s, the first is"
        " messages row %(row)s",
        f"{_CUT_MESSAGES} messages.state <> {ENROUTE} AND (messages.state = {DELIVERED}) <> (total = (SELECT count(*)"
        f"  FROM message_parts AS p WHERE p.message_id = c.message_id AND p.state = {DELIVERED})){_IF_ANY}",
    ),
)
"""A text that was cut is there, with its parts, and has ended as these have."""

DELIVERY_CHECK = Check(
    "%(account)s: what waits for receivers and belongs to no message: %(count)s, the first is deliveries row %(row)s",
    "SELECT deliveries.account_id AS account, min(deliveries.id) AS row, count(*) AS count FROM deliveries"
    " LEFT JOIN messages ON messages.id = message_id AND messages.account_id = deliveries.account_id"
    " LEFT JOIN received ON received.id = received_id AND received.account_id = deliveries.account_id"
    " WHERE messages.id IS NULL AND received.id IS NULL GROUP BY deliveries.account_id",
)
