"""What was refused of all accounts, binds and messages, as operators see it."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.i18n import N_
from portal.services.accounts import refusals, refused_binds, refused_messages
from portal.services.accounts.refusals import RefusalGroup
from portal.services.messages import refusal_remedies
from portal.services.messages.refusal_remedies import BLACKLISTED, NO_CREDITS

REASON_LABELS = {
    refused_binds.WRONG_PASSWORD: N_("Wrong password"),
    refused_binds.REPLACED_PASSWORD: N_("Replaced password"),
    refused_binds.NOT_AUTHORISED: N_("Not an authorised IP"),
    refused_binds.NO_IP: N_("No IP authorised yet"),
    refused_binds.ACCOUNT_DISABLED: N_("Account disabled"),
    refused_binds.CLASSIC_ACCOUNT: N_("Classic account"),
    refused_binds.TOO_MANY_BINDS: N_("Too many sessions"),
    refused_binds.THROTTLED: N_("Too many failed attempts"),
    refused_messages.SENDER: N_("Sender not approved"),
    refused_messages.DESTINATION: N_("Recipient isn't a number"),
    refused_messages.NATIONAL_NUMBER: N_("National number"),
    refused_messages.PRICE: N_("No price"),
    refused_messages.ROUTE: N_("No route"),
    refused_messages.CODING: N_("Unsupported data_coding"),
    refused_messages.TEXT: N_("Text can't be decoded"),
    refused_messages.LENGTH: N_("Text too long"),
    refused_messages.TIME: N_("Invalid time"),
    refused_messages.FORMAT: N_("Malformed PDU"),
    refused_messages.THROUGHPUT: N_("Throughput reached"),
    refused_messages.WINDOW: N_("Window full"),
    refused_messages.COUNTRY: N_("Country not allowed"),
    refused_messages.DAY_MESSAGES: N_("Most messages a day"),
    refused_messages.DAY_CREDITS: N_("Most credits a day"),
    refused_messages.HOUR_MESSAGES: N_("Most messages an hour to a number"),
    refused_messages.STATE: N_("Session may not send"),
    refused_messages.SERVER: N_("Server couldn't store it"),
    NO_CREDITS: N_("Credits didn't cover it"),
    BLACKLISTED: N_("Recipient on the blacklist"),
}
"""In few words; those of binds first. No reason of binds is one of messages."""


@dataclass(frozen=True, slots=True)
class RefusalFilter:
    """What of all refusals is meant. `since`, `until`: milliseconds; of the hours that they are in (of days, where only
    these are counted), the whole is counted. `reason`: empty: any. `words`: part of an account's or a customer's name.
    """

    since: int
    until: int
    reason: str = ""
    words: str = ""


@dataclass(frozen=True, slots=True)
class RefusedAccount:
    """An account of which something was refused."""

    id: int
    name: str
    customer_id: int
    customer: str


# As the index has it, which holds no day on which there was nothing of the kind.
_DAY_HAS_SOME = "(refused > 0 OR stopped > 0)"
_IN_HISTORY = {"": "refused + stopped", NO_CREDITS: "refused", BLACKLISTED: "stopped"}
# Names are no patterns: % and _ in them are themselves.
_FOUND_BY_NAME = (
    "SELECT accounts.id FROM accounts JOIN customers ON customers.id = customer_id"
    " WHERE instr(lower(accounts.name), lower(:words)) OR instr(lower(customers.name), lower(:words))"
)


def _build_query(wanted: RefusalFilter, *, by_time: bool) -> str:
    """What is read goes in the order of the primary key, account by account, and one number of each is sorted by: so
    a hundred thousand rows take a twentieth of a second.
    """
    parts = []
    of_accounts = f"AND latest_refusals.account_id IN ({_FOUND_BY_NAME})" if wanted.words else ""
    if by_time and not wanted.reason and wanted.until > now_ms():
        # The latest ones of each are known without a look at the counts.
        parts.append(
            "SELECT account_id, max(at) AS weight FROM latest_refusals"
            f" WHERE at >= :first_hour * {HOUR_MS} {of_accounts} GROUP BY account_id"
        )
    elif wanted.reason not in (NO_CREDITS, BLACKLISTED):
        weight = "max(last_at)" if by_time else "sum(count)"
        of_reason = "AND reason = :reason" if wanted.reason else ""
        parts.append(
            # Accounts of which nothing was refused since then are not looked at, nor what was refused before.
            f"SELECT latest_refusals.account_id, {weight} AS weight FROM latest_refusals CROSS JOIN refusals"
            " ON refusals.account_id = latest_refusals.account_id AND refusals.is_bind = latest_refusals.is_bind"
            f" WHERE at >= :first_hour * {HOUR_MS} {of_accounts}"
            f" AND hour BETWEEN :first_hour AND :last_hour {of_reason}"
            " GROUP BY latest_refusals.account_id"
        )
    if column := _IN_HISTORY.get(wanted.reason):
        weight = f"min((max(day) + 1) * {DAY_MS} - 1, :now)" if by_time else f"sum({column})"
        parts.append(
            f"SELECT account_id, {weight} AS weight FROM daily_totals WHERE day BETWEEN :first_day AND :last_day"
            f" AND {_DAY_HAS_SOME} AND {column} > 0 GROUP BY account_id"
        )
    by_name = f"AND account_id IN ({_FOUND_BY_NAME})" if wanted.words else ""
    return (
        "SELECT accounts.id, accounts.name, customers.id, customers.name, account_count FROM ("
        f"SELECT account_id, {'max' if by_time else 'sum'}(weight) AS weight, count(*) OVER () AS account_count"
        f" FROM ({' UNION ALL '.join(parts)})"
        f" WHERE account_id NOT IN (SELECT id FROM accounts WHERE deleted_at IS NOT NULL) {by_name}"
        " GROUP BY account_id ORDER BY weight DESC, account_id LIMIT :limit)"
        " JOIN accounts ON accounts.id = account_id JOIN customers ON customers.id = customer_id"
        " ORDER BY weight DESC, account_id"
    )


def list_refused_accounts(
    conn: sqlite3.Connection, wanted: RefusalFilter, *, by_time: bool = False, limit: int = -1
) -> tuple[list[RefusedAccount], int]:
    """The accounts of which something was refused most often first, and how many there are.

    Args:
        by_time: the latest refusals first instead.
        limit: list so many at most; -1: all.
    """
    first_day, last_day = refusal_remedies.get_days_of_period(wanted.since, wanted.until)
    values = {
        "first_hour": wanted.since // HOUR_MS,
        "last_hour": (wanted.until - 1) // HOUR_MS,
        "first_day": first_day,
        "last_day": last_day,
        "now": now_ms(),
        "reason": wanted.reason,
        "words": wanted.words,
        "limit": limit,
    }
    rows = conn.execute(_build_query(wanted, by_time=by_time), values).fetchall()
    return [RefusedAccount(*row[:-1]) for row in rows], rows[0][-1] if rows else 0


def list_account_groups(
    conn: sqlite3.Connection, account_id: int, wanted: RefusalFilter, *, by_time: bool = False
) -> list[RefusalGroup]:
    """What was refused of an account by reason and value, most often first, or the latest first."""
    groups = [
        *refusals.list_refusals(conn, account_id, wanted.since, wanted.until),
        *refusal_remedies.list_refusals_in_history(conn, account_id, wanted.since, wanted.until),
    ]
    if wanted.reason:
        groups = [each for each in groups if each.reason == wanted.reason]
    if by_time:
        return sorted(groups, key=lambda each: (-each.last_at, -each.count, each.reason, each.value))
    return sorted(groups, key=lambda each: (-each.count, -each.last_at, each.reason, each.value))


def iterate_all_refusals(
    conn: sqlite3.Connection, wanted: RefusalFilter, *, by_time: bool = False
) -> Iterator[tuple[RefusedAccount, RefusalGroup]]:
    """All of it, account by account, in the order of the lists; no statement stays open meanwhile."""
    accounts, _ = list_refused_accounts(conn, wanted, by_time=by_time)
    for account in accounts:
        for group in list_account_groups(conn, account.id, wanted, by_time=by_time):
            yield account, group
