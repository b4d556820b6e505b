"""Unusual traffic: what may mean that an account was stolen. It alerts the account's owners and the operators once,
until it is over, and holds the account where its brakes say so.

It is looked for behind the messages, from hourly counts and the last numbers of accounts that have just sent.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from statistics import median
from typing import Any

from portal.core import i18n
from portal.core.clock import DAY_MS, HOUR_MS, MINUTE_MS, now_ms
from portal.core.config import BrakeSettings
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.core.i18n import N_, gettext
from portal.services.accounts import account_messages
from portal.services.accounts.accounts import Account, record_account_action
from portal.services.brakes import brakes
from portal.services.common import audit, ids, mail
from portal.services.common.audit import SYSTEM, Actor
from portal.services.common.credit_amounts import THOUSANDTHS
from portal.services.people import customers, users
from portal.services.prices import countries
from portal.services.statistics.rollup import DAY, HOUR
from portal.services.upstreams import holds

# Kinds of events.
BUSY_HOUR, EXPENSIVE_COUNTRY, CONSECUTIVE_NUMBERS = "busy_hour", "expensive_country", "consecutive_numbers"

# What people answer: it was the account's own traffic; or what waited is cancelled.
OURS, CANCELLED = "ours", "cancelled"

_TEXTS = {
    BUSY_HOUR: N_(
        "%(messages)s messages in an hour. More than %(threshold)s are unusual for this account: in half of its hours"
        " it sends at most %(usual)s."
    ),
    EXPENSIVE_COUNTRY: N_("The first messages in %(days)s days to %(country)s, at %(price)s credits a part."),
    CONSECUTIVE_NUMBERS: N_("Of the last %(of)s numbers %(numbers)s are consecutive."),
}


@dataclass(frozen=True, slots=True)
class BrakeEvent:
    """Something unusual about an account's traffic; times in milliseconds, None: not yet.

    `country`: with EXPENSIVE_COUNTRY. `figures`: what `describe` says. `is_held`: the account was put on hold for it.
    Where it was on hold already it stays so.
    """

    id: int
    account_id: int
    account: str
    customer_id: int
    kind: str
    country: str
    began_at: int
    ended_at: int | None
    figures: Mapping[str, int]
    is_held: bool
    answer: str | None
    answered_at: int | None
    answered_by: str | None

    def describe(self) -> str:
        """What is unusual, in the language in use."""
        values: dict[str, Any] = {name: i18n.format_number(value) for name, value in self.figures.items()}
        if self.kind == EXPENSIVE_COUNTRY:
            values |= {
                "country": countries.get_country_name(self.country),
                "price": i18n.format_credits(self.figures["price"]),
            }
        return gettext(_TEXTS[self.kind], **values)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something unusual at this moment; the fields are those of `BrakeEvent`."""

    kind: str
    country: str
    figures: Mapping[str, int]


# --- the rules


def compute_busy_threshold(earlier_hours: Sequence[int], settings: BrakeSettings) -> tuple[int, int]:
    """More messages than this in an hour are unusual; and the median hour of the days before that it follows from.

    Args:
        earlier_hours: how many messages those hours had in which there were any.
    """
    hours_without = settings.busy_hour_days * 24 - len(earlier_hours)
    usual = round(median([*earlier_hours, *[0] * hours_without]))
    return max(settings.busy_hour_messages, settings.busy_hour_factor * usual), usual


def count_consecutive_numbers(numbers: Iterable[str]) -> int:
    """How many different numbers there are of which another one differs by one."""
    values = {int(each) for each in numbers}
    return sum(each - 1 in values or each + 1 in values for each in values)


def find_unusual_traffic(conn: sqlite3.Connection, account_id: int, settings: BrakeSettings, now: int) -> list[Finding]:
    """What is unusual about an account's traffic now (milliseconds)."""
    return [
        *_find_busy_hour(conn, account_id, settings, now),
        *_find_expensive_countries(conn, account_id, settings, now),
        *_find_consecutive_numbers(conn, account_id, settings, now),
    ]


def _find_busy_hour(conn: sqlite3.Connection, account_id: int, settings: BrakeSettings, now: int) -> Iterator[Finding]:
    # The hour before, too: else what goes on for hours would be over at the beginning of each.
    last_hour = now // HOUR_MS - 1
    now_and_before = _list_hours(conn, account_id, last_hour, last_hour + 2)
    busiest = max(now_and_before, default=0)
    if busiest <= settings.busy_hour_messages:
        return
    first_hour = last_hour - settings.busy_hour_days * 24
    threshold, usual = compute_busy_threshold(_list_hours(conn, account_id, first_hour, last_hour), settings)
    if busiest > threshold:
        yield Finding(BUSY_HOUR, "", {"messages": busiest, "threshold": threshold, "usual": usual})


def _list_hours(conn: sqlite3.Connection, account_id: int, first: int, bound: int) -> list[int]:
    """How many messages were sent in each of an account's hours (since 1970) of a range; not of those without any."""
    rows = conn.execute(
        "SELECT sum(sent) FROM statistics WHERE account_id = ? AND length = ? AND begins >= ? AND begins < ?"
        " GROUP BY begins",
        (account_id, HOUR, first, bound),
    )
    return [row[0] for row in rows]


def _find_expensive_countries(
    conn: sqlite3.Connection, account_id: int, settings: BrakeSettings, now: int
) -> Iterator[Finding]:
    limit = int(Decimal(settings.expensive_credits) * THOUSANDTHS)
    if not limit:
        return
    today = now // DAY_MS
    rows = conn.execute(
        "SELECT country, max(price / parts) FROM statistics WHERE account_id = ? AND length = ? AND begins = ?"
        " AND parts > 0 GROUP BY country HAVING max(price / parts) > ?",
        (account_id, DAY, today, limit),
    ).fetchall()
    for country, price in rows:
        earlier = conn.execute(
            "SELECT 1 FROM statistics WHERE account_id = ? AND length = ? AND begins >= ? AND begins < ?"
            " AND country = ? AND sent > 0 LIMIT 1",
            (account_id, DAY, today - settings.expensive_days, today, country),
        ).fetchone()
        if earlier is None:
            yield Finding(EXPENSIVE_COUNTRY, country, {"price": price, "days": settings.expensive_days})


def _find_consecutive_numbers(
    conn: sqlite3.Connection, account_id: int, settings: BrakeSettings, now: int
) -> Iterator[Finding]:
    if not settings.consecutive_numbers:
        return
    # What is a day old is over.
    found = account_messages.list_account_messages(
        conn,
        account_id,
        ids.min_id_at_time(now - DAY_MS),
        ids.min_id_at_time(now + MINUTE_MS),
        "line.destination",
        newest_first=True,
        limit=settings.consecutive_of,
    )
    consecutive = count_consecutive_numbers(destination for (destination,) in found)
    if consecutive > settings.consecutive_numbers:
        yield Finding(CONSECUTIVE_NUMBERS, "", {"numbers": consecutive, "of": len(found)})


# --- looking for it


@dataclass
class TrafficWatch:
    """Looks at the accounts that have sent since it looked last."""

    settings: BrakeSettings
    keys: Keys
    _sent: dict[int, int] = field(default_factory=dict)

    def look(self, conn: sqlite3.Connection, now: int | None = None) -> None:
        """Record what is unusual now and wasn't before, and end what is over.

        Args:
            now: milliseconds; None: this moment.
        """
        at = now_ms() if now is None else now
        open_events: dict[int, dict[tuple[str, str], BrakeEvent]] = {}
        for event in list_open_events(conn):
            open_events.setdefault(event.account_id, {})[event.kind, event.country] = event
        for account_id in self._find_active_accounts(conn, at) | open_events.keys():
            reaction = brakes.get_brakes(conn, account_id).in_force.unusual
            found = [] if reaction == brakes.OFF else find_unusual_traffic(conn, account_id, self.settings, at)
            before = open_events.get(account_id, {})
            # What somebody has released without an answer isn't held again.
            is_to_hold = reaction == brakes.HOLD and not any(each.is_held for each in before.values())
            for each in found:
                known = before.get((each.kind, each.country))
                if known is None:
                    record_event(conn, self.keys, account_id, each, at, is_to_hold=reaction == brakes.HOLD)
                elif is_to_hold and not known.answer:
                    hold_for_event(conn, self.keys, known)
            is_unusual = {(each.kind, each.country) for each in found}
            # What somebody is to release goes on until they do.
            waits = is_held_by_brake(conn, account_id)
            over = [
                each.id
                for key, each in before.items()
                if key not in is_unusual and (each.answer or not (each.is_held and waits))
            ]
            if over:
                conn.execute(
                    "UPDATE brake_events SET ended_at = ? WHERE id IN (SELECT value FROM json_each(?))",
                    (at, json.dumps(over)),
                )

    def _find_active_accounts(self, conn: sqlite3.Connection, now: int) -> set[int]:
        # Yesterday's, too: of the last seconds before midnight.
        rows = conn.execute(
            "SELECT accounts.id, sum(sent) FROM accounts CROSS JOIN daily_totals"
            " ON account_id = accounts.id AND day >= ? WHERE deleted_at IS NULL GROUP BY accounts.id",
            (now // DAY_MS - 1,),
        )
        sent_before, self._sent = self._sent, {account_id: sent for account_id, sent in rows if sent}
        return {account_id for account_id, sent in self._sent.items() if sent_before.get(account_id) != sent}


# --- events

_SELECT_EVENTS = """
SELECT brake_events.id, account_id, accounts.name, customer_id, brake_events.kind, country, began_at, ended_at, figures,
    is_held, answer, answered_at, answered_by
FROM brake_events JOIN accounts ON accounts.id = account_id
"""


def _event_from_row(row: Sequence[Any]) -> BrakeEvent:
    values = list(row)
    values[8:10] = json.loads(values[8]), bool(values[9])
    return BrakeEvent(*values)


def record_event(
    conn: sqlite3.Connection, keys: Keys, account_id: int, finding: Finding, at: int, *, is_to_hold: bool
) -> BrakeEvent | None:
    """Record that something is unusual, tell the account's owners and the operators, and hold the account if so asked.

    All that alerts about unusual traffic goes through here, and is in `list_latest_events`.

    Returns:
        None where it was recorded before, and is not over.
    """
    with write_transaction(conn):
        row = conn.execute(
            "INSERT INTO brake_events (account_id, kind, country, began_at, figures, is_held) VALUES (?, ?, ?, ?, ?, 0)"
            " ON CONFLICT DO NOTHING RETURNING id",
            (account_id, finding.kind, finding.country, at, json.dumps(finding.figures)),
        ).fetchone()
        if row is None:
            return None
        event = _event_from_row(conn.execute(f"{_SELECT_EVENTS} WHERE brake_events.id = ?", (row[0],)).fetchone())
        if is_to_hold and _hold_account(conn, event):
            event = replace(event, is_held=True)
        details: dict[str, Any] = {"kind": event.kind, "country": event.country, "held": event.is_held, **event.figures}
        customer_id = event.customer_id
        audit.record_action(conn, SYSTEM, "brakes.event", customer_id=customer_id, account_id=account_id, **details)
        _queue_mails(conn, keys, event)
    return event


def _hold_account(conn: sqlite3.Connection, event: BrakeEvent) -> bool:
    """Hold an account for an event; returns False where it is on hold already."""
    is_new = holds.hold_account(conn, SYSTEM, event.account_id, f"brake: {event.kind}")
    if is_new:
        conn.execute("UPDATE brake_events SET is_held = 1 WHERE id = ?", (event.id,))
    return is_new


def hold_for_event(conn: sqlite3.Connection, keys: Keys, event: BrakeEvent) -> None:
    """Hold an account for what goes on and has only led to an alert so far, and say so, unless it has been answered."""
    with write_transaction(conn):
        is_open = any(each.id == event.id and not each.answer for each in list_open_events(conn, event.account_id))
        if is_open and _hold_account(conn, event):
            _queue_mails(conn, keys, replace(event, is_held=True))


def _queue_mails(conn: sqlite3.Connection, keys: Keys, event: BrakeEvent) -> None:
    customer = customers.get_customer_by_id(conn, event.customer_id)
    owners = [each for each in users.list_users(conn, customer.id) if each.role == users.OWNER]
    recipients = [(each.email, each.language or customer.language, False) for each in owners]
    recipients = recipients or [(customer.contact_email, customer.language, False)]
    recipients += [(each.email, each.language or i18n.DEFAULT_LANGUAGE, True) for each in users.list_users(conn, None)]
    for recipient, language, is_operator in recipients:
        with i18n.override_language(language):
            text = event.describe()
        mail.queue_mail(
            conn,
            keys,
            recipient,
            "unusual_traffic",
            language,
            account=event.account,
            customer=customer.name,
            text=text,
            is_held=event.is_held,
            is_operator=is_operator,
        )


def list_open_events(conn: sqlite3.Connection, account_id: int | None = None) -> list[BrakeEvent]:
    """What is unusual at this time, the latest first; None: of all accounts."""
    rows = conn.execute(
        f"{_SELECT_EVENTS} WHERE ended_at IS NULL AND (?1 IS NULL OR account_id = ?1) ORDER BY brake_events.id DESC",
        (account_id,),
    )
    return [_event_from_row(row) for row in rows]


def list_latest_events(conn: sqlite3.Connection, limit: int | None = None) -> list[BrakeEvent]:
    """The latest events of all accounts, those that go on first, and of them those that nobody has answered.

    Args:
        limit: how many at most; None: all.
    """
    found = sorted(list_open_events(conn), key=lambda each: each.answer is not None)
    rows = conn.execute(
        f"{_SELECT_EVENTS} WHERE ended_at IS NOT NULL ORDER BY brake_events.id DESC LIMIT ?",
        (-1 if limit is None else max(limit - len(found), 0),),
    )
    return [*found, *map(_event_from_row, rows)][:limit]


def purge_events(conn: sqlite3.Connection, before: int) -> None:
    """Delete what was over before a moment (milliseconds)."""
    conn.execute("DELETE FROM brake_events WHERE ended_at < ?", (before,))


def is_held_by_brake(conn: sqlite3.Connection, account_id: int) -> bool:
    """Whether an account is on hold for unusual traffic. What operators hold, they release."""
    query = "SELECT 1 FROM account_holds WHERE account_id = ? AND actor = ?"
    return conn.execute(query, (account_id, SYSTEM.name)).fetchone() is not None


def answer_events(
    conn: sqlite3.Connection, actor: Actor, account: Account, answer: str, *, by_operator: bool = False
) -> bool:
    """Answer what is open of an account, so that nobody is alerted again until it is over.

    Args:
        answer: OURS: what is on hold of it goes on. CANCELLED: it stays on hold.
        by_operator: what `actor` leaves on hold is not released by its owner any more.

    Returns:
        Whether there was anything to answer; somebody else may have been faster.
    """
    with write_transaction(conn):
        answered = conn.execute(
            "UPDATE brake_events SET answer = ?1, answered_at = ?2, answered_by = ?3"
            " WHERE account_id = ?4 AND ended_at IS NULL AND (answer IS NULL OR answer <> ?1)",
            (answer, now_ms(), actor.name, account.id),
        ).rowcount
        is_held = is_held_by_brake(conn, account.id)
        is_released = answer == OURS and is_held
        if is_released:
            holds.release_account(conn, actor, account.id)
        elif is_held and by_operator:
            holds.hold_account(conn, actor, account.id, "")
        if answered or is_released:
            record_account_action(conn, actor, "brakes.answer", account, answer=answer)
        return bool(answered or is_released)
