"""The audit log as operators read it: who did what, from where, newest first."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Network, ip_address
from typing import Any

from portal.core import i18n
from portal.core.clock import HOUR_MS, now_ms
from portal.core.i18n import N_
from portal.services.accounts import accounts
from portal.services.common import keyset
from portal.services.common.audit import SHELL, SYSTEM
from portal.services.common.errors import NotFound, Refused
from portal.services.common.periods import ALL_TIME_PERIOD, Period
from portal.services.people import customers

ACTION_LABELS = {
    "login": N_("Logged in"),
    "login.recovery_code": N_("Logged in with a recovery code"),
    "login.unknown_email": N_("Login refused: unknown e-mail address"),
    "login.wrong_password": N_("Login refused: wrong password"),
    "login.wrong_code": N_("Login refused: wrong code"),
    "login.wrong_recovery_code": N_("Login refused: wrong recovery code"),
    "login.throttled": N_("Login refused: too many attempts"),
    "login.link_mail": N_("Link to log in mailed"),
    "login.link_use": N_("Link to log in used"),
    "user.wrong_password": N_("Wrong password when asked to confirm"),
    "user.add": N_("User added"),
    "user.enrol": N_("User enrolled"),
    "user.start_over": N_("New one-time link for a user"),
    "user.password": N_("Login password changed"),
    "user.totp": N_("Authenticator replaced"),
    "user.recovery_codes": N_("Recovery codes renewed"),
    "customer.add": N_("Customer added"),
    "customer.change": N_("Customer changed"),
    "account.add": N_("Account added"),
    "account.change": N_("Account changed"),
    "account.disable": N_("Account disabled"),
    "account.enable": N_("Account enabled"),
    "account.refused_pdus": N_("Refused PDUs kept, or not"),
    "request.ask": N_("Operator asked for a change"),
    "request.done": N_("Request marked as done"),
    "request.decline": N_("Request declined"),
    "password.regenerate": N_("SMPP password generated"),
    "session.end": N_("SMPP session ended"),
    "ip.add": N_("IP authorised"),
    "ip.remove": N_("IP removed"),
    "sender.add": N_("Sender requested"),
    "sender.approve": N_("Sender approved"),
    "sender.refuse": N_("Sender refused"),
    "sender.enable": N_("Sender enabled"),
    "sender.disable": N_("Sender disabled"),
    "sender.remove": N_("Sender removed"),
    "sender.restore": N_("Sender restored"),
    "number.add": N_("Number added"),
    "number.remove": N_("Number removed"),
    "blacklist.add": N_("Added to the blacklist"),
    "blacklist.import": N_("Imported into the blacklist"),
    "blacklist.remove": N_("Removed from the blacklist"),
    "history.delete": N_("Messages deleted"),
    "credits.grant": N_("Credits granted"),
    "credits.transfer": N_("Credits transferred"),
    "credits.correction": N_("Balance corrected"),
    "credits.refund": N_("Credits refunded"),
    "brakes.set": N_("Brakes changed"),
    "brakes.own": N_("The owner’s own brakes changed"),
    "brakes.default": N_("Brakes of new accounts changed"),
    "brakes.event": N_("Unusual traffic"),
    "brakes.answer": N_("Unusual traffic answered"),
    "alert.set": N_("Credit alert changed"),
    "recredit.set": N_("Automatic re-credit changed"),
    "recredit.buy": N_("Pack bought by automatic re-credit"),
    "recredit.request": N_("Pack requested by automatic re-credit"),
    "order.place": N_("Order made"),
    "order.pay": N_("Order paid"),
    "order.cancel": N_("Order cancelled"),
    "payment.unmatched": N_("Payment without an order"),
    "packs.change": N_("Packs changed"),
    "prices.assign": N_("Price list assigned"),
    "prices.put": N_("Default prices replaced"),
    "prices.change": N_("Prices changed"),
    "prices.remove": N_("Price removed"),
    "prices.call_off": N_("Announced price called off"),
    "prices.create_list": N_("Price list made"),
    "prices.rename_list": N_("Price list renamed"),
    "prices.delete_list": N_("Price list deleted"),
    "queue.hold": N_("Waiting messages held"),
    "queue.release": N_("Waiting messages released"),
    "queue.cancel": N_("Waiting messages cancelled"),
    "queue.move": N_("Waiting messages moved"),
    "queue.hold_account": N_("Messages of an account held"),
    "queue.release_account": N_("Messages of an account released"),
    "route.add": N_("Route added"),
    "route.change": N_("Route changed"),
    "route.move": N_("Route moved"),
    "route.remove": N_("Route removed"),
    "upstream.add": N_("Upstream added"),
    "upstream.change": N_("Upstream changed"),
    "upstream.enable": N_("Upstream enabled"),
    "upstream.disable": N_("Upstream disabled"),
    "upstream.drain": N_("Upstream drained"),
    "upstream.default": N_("Default upstream chosen"),
    "upstream.remove": N_("Upstream removed"),
    "upstream.test": N_("Connection of an upstream tested"),
    "upstream.test_message": N_("Test message sent through an upstream"),
    "upstream.trace": N_("PDUs of an upstream traced"),
    "upstream.trace_stop": N_("Trace of an upstream stopped"),
}
"""What is recorded, in words. A row of an older version may have another action."""


class NoSuchAction(NotFound, field="action"):
    sentence = N_("There is no action “%(action)s”. Possible: %(actions)s.")


class InvalidActor(Refused, field="actor"):
    sentence = N_("There is no “%(actor)s” in the audit log. Give a whole e-mail address, shell or system.")


class InvalidAddress(Refused, field="address"):
    sentence = N_(
        "“%(address)s” isn't a whole IP address. Example: 203.0.113.7."
        " Of networks, only a /64 of IPv6 can be looked for."
    )


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A row. `customer` and `account` are names, None where it is about none; `details` are what changed.

    Of refused logins that are counted together `count` says how many, `at` and `last_at` when the first and the last
    came (milliseconds); `actor` and `address` are empty where they are several.
    """

    id: int
    at: int
    last_at: int
    actor: str
    address: str
    customer: str | None
    account: str | None
    action: str
    count: int
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which rows are listed; None: all. `actor` is a whole e-mail address (or `shell`, `system`), in any case."""

    customer_id: int | None = None
    account_id: int | None = None
    actor: str | None = None
    action: str | None = None
    address: str | None = None
    period: Period = ALL_TIME_PERIOD


def build_audit_filter(
    conn: sqlite3.Connection,
    *,
    customer_id: int | None = None,
    account: str | None = None,
    actor: str | None = None,
    action: str | None = None,
    address: str | None = None,
    period: Period = ALL_TIME_PERIOD,
) -> AuditFilter:
    """The filter of what was typed; None or empty: all.

    Raises:
        NoSuchAccount, NoSuchAction, InvalidActor, InvalidAddress
    """
    if action and action not in (actions := list_actions(conn)):
        raise NoSuchAction(action=action, actions=", ".join(actions))
    if actor and not _is_actor(conn, actor):
        raise InvalidActor(actor=actor)
    return AuditFilter(
        customer_id,
        accounts.get_account(conn, account).id if account else None,
        actor or None,
        action or None,
        _parse_address(address) if address else None,
        period,
    )


def _is_actor(conn: sqlite3.Connection, name: str) -> bool:
    with suppress(customers.InvalidEmail):
        return bool(customers.parse_email(name))
    # Refused logins have what somebody typed in place of an e-mail address.
    query = "SELECT 1 FROM audit_log WHERE actor = ? COLLATE NOCASE LIMIT 1"
    return name.lower() in (SHELL.name, SYSTEM.name) or conn.execute(query, (name,)).fetchone() is not None


def _parse_address(text: str) -> str:
    """As it is recorded: an IPv6 address in its shortest form, or the /64 of many that are counted together.

    Other networks aren't: addresses are text, in whose order those of a network don't follow each other.
    """
    with suppress(ValueError):
        return str(ip_address(text))
    with suppress(ValueError):
        network = IPv6Network(text)
        if network.prefixlen == _NETWORK_BITS:
            return str(network)
    raise InvalidAddress(address=text)


def list_actions(conn: sqlite3.Connection) -> list[str]:
    """All that a row's action can be: what this version records, and what the log has of older ones."""
    # From one to the next in the index: DISTINCT would read all rows.
    rows = conn.execute(
        "WITH RECURSIVE found (action) AS (SELECT min(action) FROM audit_log UNION ALL"
        " SELECT (SELECT min(action) FROM audit_log WHERE action > found.action) FROM found WHERE action IS NOT NULL)"
        " SELECT action FROM found WHERE action IS NOT NULL"
    )
    return sorted({*ACTION_LABELS, *(row["action"] for row in rows)})


_SELECT = """
SELECT audit_log.id, at, actor, address, customers.name AS customer, accounts.name AS account, action, details
FROM audit_log LEFT JOIN customers ON customers.id = audit_log.customer_id
LEFT JOIN accounts ON accounts.id = audit_log.account_id
"""
# What is given of a filter, and its condition, as an index has it.
_CONDITIONS = {
    "account_id": "audit_log.account_id = :account_id",
    "actor": "actor = :actor COLLATE NOCASE",
    "address": "address = :address",
    "customer_id": "audit_log.customer_id = :customer_id",
    "action": "action = :action",
}
# Of an IPv6 network of which many addresses are counted together.
_NETWORK_BITS = 64
_MAX_COUNTED = 20_000
# So long after it happened a row may be written.
_WRITTEN_WITHIN_MS = HOUR_MS


def list_audit_page(
    conn: sqlite3.Connection,
    audit_filter: AuditFilter,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
) -> list[AuditEntry]:
    """A page of the audit log, newest first; `before`, `after` and `limit` as in `keyset.select_page`."""
    period = audit_filter.period
    first_id, end_id = _find_id_range(conn, period)
    values = {name: getattr(audit_filter, name) for name in _CONDITIONS} | {"first": first_id, "end": end_id}
    conditions = [condition for name, condition in _CONDITIONS.items() if values[name] is not None]
    # The plus keeps SQLite from the index of times, whose rows it would have to sort.
    conditions = [*_put_rarest_first(conn, conditions, values), "+at >= :since AND +at < :until"]
    rows = keyset.select_page(
        conn,
        f"{_SELECT} WHERE {' AND '.join(conditions)}",
        {**values, "since": period.since, "until": period.until},
        before=before,
        after=after,
        limit=limit,
        id_column="audit_log.id",
        first_id=first_id,
        end_id=end_id,
    )
    return [_entry_from_row(row) for row in rows]


def _find_id_range(conn: sqlite3.Connection, period: Period) -> tuple[int, int]:
    """The ids from which on, and up to which, rows of a period are.

    Ids are in the order of time but for an hour: refused logins are written after they came. Where the clock was wrong
    they aren't: one that was decades off must hide nothing, so a period without a beginning or an end has no such id.
    """
    first_id, end_id = 0, (1 << 63) - 1
    # The plus keeps SQLite from looking at all rows in the order of their ids.
    if period.since > 0:
        query = (
            "SELECT min(+id) FROM audit_log"
            " WHERE at >= ?1 AND at <= (SELECT min(at) FROM audit_log WHERE at >= ?1) + ?2"
        )
        (found,) = conn.execute(query, (period.since, _WRITTEN_WITHIN_MS)).fetchone()
        first_id = end_id if found is None else found
    if period.until <= now_ms():
        query = (
            "SELECT max(+id) FROM audit_log WHERE at < ?1 AND at >= (SELECT max(at) FROM audit_log WHERE at < ?1) - ?2"
        )
        (found,) = conn.execute(query, (period.until, _WRITTEN_WITHIN_MS)).fetchone()
        end_id = 0 if found is None else found + 1
    return first_id, end_id


def _put_rarest_first(conn: sqlite3.Connection, conditions: list[str], values: Mapping[str, Any]) -> list[str]:
    """The conditions, of which the one with the fewest rows alone is looked for by its index: SQLite would guess.

    An actor may have a dozen rows or half of all. To count them in an index takes a fiftieth of looking at them.
    """
    if len(conditions) < 2:
        return conditions
    counts = {
        each: conn.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM audit_log WHERE {each} AND id >= :first AND id < :end"
            f" LIMIT {_MAX_COUNTED})",
            values,
        ).fetchone()[0]
        for each in conditions
    }
    rarest, *others = sorted(conditions, key=lambda each: int(counts[each]))
    return [rarest, *(f"+{each}" for each in others)]


def iterate_audit_log(conn: sqlite3.Connection, audit_filter: AuditFilter, batch: int = 1000) -> Iterator[AuditEntry]:
    """All rows, newest first, in constant memory."""
    return keyset.iterate_pages(partial(list_audit_page, conn, audit_filter), batch, lambda each: each.id)


def _entry_from_row(row: sqlite3.Row) -> AuditEntry:
    values, details = dict(row), json.loads(row["details"])
    # Other actions have details of these names, too.
    is_counted = "last_at" in details
    return AuditEntry(
        **values
        | {
            "last_at": details.pop("last_at") if is_counted else row["at"],
            "count": details.pop("count") if is_counted else 1,
            "details": details,
        }
    )


def audit_entry_to_dict(entry: AuditEntry) -> dict[str, object]:
    """A row as scripts read it."""
    return {
        "id": entry.id,
        "at": i18n.format_iso8601(entry.at),
        "actor": entry.actor,
        "address": entry.address,
        "customer": entry.customer,
        "account": entry.account,
        "action": entry.action,
        "count": entry.count,
        "last": i18n.format_iso8601(entry.last_at),
        "details": entry.details,
    }
