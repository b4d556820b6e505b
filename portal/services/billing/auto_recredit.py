"""Automatic re-credit: a pack of credits is bought for an account whose messages take it below a threshold.

An account's owner or manager sets the rule; the operator decides by the customer's credit line, and by how old an
account must be, whether the pack arrives at once. Otherwise the rule makes a request to the operator.
"""

import json
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import update_row, write_transaction
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account, record_account_action
from portal.services.billing import orders
from portal.services.billing.packs import RECREDIT_PACK_SIZES, NoSuchPack, Pack, list_packs
from portal.services.common import credit_amounts, ids
from portal.services.common.audit import SYSTEM, Actor
from portal.services.common.errors import Refused, parse_whole_number
from portal.services.credits import alerts
from portal.services.people import customers

MAX_PACKS_PER_DAY = 10


class RecreditPackMissing(Refused, field="pack"):
    sentence = N_("Choose the pack to buy.")


class InvalidPacksPerDay(Refused, field="per_day"):
    sentence = N_("“%(value)s” can't be how many packs a day: it is a whole number from 1 to %(most)s.")


@dataclass(frozen=True, slots=True)
class RecreditStatus:
    """All that decides about an account's next pack. Thousandths of a credit; times in milliseconds.

    `pack` is what would be bought; None where there is no rule, or its pack isn't sold any more. `bought_today` counts
    by days in UTC. `owed_credits` is what all accounts of the customer have got on the credit line and not paid yet.
    `open_order_id` is the order that waits for the operator; `declined_today`: the operator has cancelled the last one,
    and isn't asked again today.
    """

    balance: int
    pack: Pack | None
    per_day: int
    bought_today: int
    owed_credits: int
    credit_line: int
    min_age_days: int
    old_enough_at: int
    old_enough: bool
    open_order_id: int | None
    declined_today: bool

    @property
    def is_under_daily_limit(self) -> bool:
        return self.bought_today < self.per_day

    @property
    def is_within_credit_line(self) -> bool:
        return self.pack is not None and self.owed_credits + self.pack.credits <= self.credit_line

    @property
    def is_credited_at_once(self) -> bool:
        """Whether the pack arrives at once, rather than being asked for."""
        return self.old_enough and self.is_within_credit_line

    @property
    def may_buy_or_request(self) -> bool:
        """Whether anything happens now when a message needs it: a pack is bought, or asked for."""
        may_request = self.open_order_id is None and not self.declined_today
        return self.pack is not None and self.is_under_daily_limit and (self.is_credited_at_once or may_request)


# What all accounts of a customer have got on credit and not paid yet.
_SELECT_OWED = f"""
SELECT coalesce(sum(orders.credits), 0) FROM accounts AS own JOIN orders ON orders.account_id = own.id
WHERE own.customer_id = {{customer}} AND {orders.IS_OWED}
"""
# All that decides in one statement, for several accounts at once: SMPP clients wait meanwhile.
_SELECT_STATUS = f"""
SELECT accounts.id, balance, packs.credits, packs.price, packs.currency, recredit_per_day,
       (SELECT count(*) FROM orders
        WHERE account_id = accounts.id AND origin = 'automatic' AND movement_id >= :first_id_today),
       ({_SELECT_OWED.format(customer="accounts.customer_id")}), credit_line, recredit_min_age_days,
       accounts.created_at + recredit_min_age_days * {DAY_MS},
       accounts.created_at + recredit_min_age_days * {DAY_MS} <= :now,
       (SELECT max(id) FROM orders WHERE account_id = accounts.id AND origin = 'automatic'
        AND movement_id IS NULL AND paid_at IS NULL AND cancelled_at IS NULL),
       coalesce((SELECT cancelled_at >= :today FROM orders WHERE account_id = accounts.id AND origin = 'automatic'
                 ORDER BY id DESC LIMIT 1), 0)
FROM accounts JOIN customers ON customers.id = customer_id LEFT JOIN packs ON packs.credits = recredit_pack
WHERE accounts.id IN (SELECT value FROM json_each(:accounts))
"""


def get_recredit_status(conn: sqlite3.Connection, account_id: int, now: int | None = None) -> RecreditStatus:
    """What decides about an account's next pack.

    Args:
        now: milliseconds; None: this moment.
    """
    return _read_statuses(conn, [account_id], now)[account_id]


def find_accounts_to_recredit(
    conn: sqlite3.Connection, account_ids: Collection[int], now: int | None = None
) -> set[int]:
    """Those of these accounts for which `buy_or_request_pack` would do something, found by one statement.

    Args:
        now: as in `buy_or_request_pack`.
    """
    return {
        account_id for account_id, status in _read_statuses(conn, account_ids, now).items() if status.may_buy_or_request
    }


def _read_statuses(
    conn: sqlite3.Connection, account_ids: Collection[int], now: int | None
) -> dict[int, RecreditStatus]:
    at = now_ms() if now is None else now
    today = at // DAY_MS * DAY_MS
    values = {
        "accounts": json.dumps(list(account_ids)),
        "now": at,
        "today": today,
        "first_id_today": ids.min_id_at_time(today),
    }
    return {
        account_id: RecreditStatus(balance, None if price is None else Pack(credits, price, currency), *rest)
        for account_id, balance, credits, price, currency, *rest in conn.execute(_SELECT_STATUS, values)
    }


def get_owed_credits(conn: sqlite3.Connection, customer_id: int) -> int:
    """What a customer's accounts have got on its credit line and not paid yet, in thousandths of a credit."""
    return int(conn.execute(_SELECT_OWED.format(customer="?"), (customer_id,)).fetchone()[0])


def buy_or_request_pack(conn: sqlite3.Connection, account_id: int, now: int | None = None) -> int:
    """Buy an account its pack once, in the transaction of the debit that needs it.

    The caller is inside `write_transaction()`.

    The credits arrive at once where the customer's credit line covers what it owes and this pack too, the account is
    old enough, and it has not been bought as many today (UTC) as it may be; a request that waits for the operator is
    cancelled, for it has become needless. Otherwise the operator gets a request: one at a time, and none on the day on
    which one was cancelled. A day's last pack is followed by none until the next day.

    Args:
        now: as in `ids.allocate_id`.

    Returns:
        The account's balance after it (thousandths of a credit).
    """
    at = now_ms() if now is None else now
    status = get_recredit_status(conn, account_id, at)
    if status.pack is None or not status.may_buy_or_request:
        return status.balance
    if not status.is_credited_at_once:
        order_id = _insert_order(conn, account_id, status.pack, at, "recredit.request")
        alerts.add_credit_notice(conn, account_id, alerts.REQUESTED, at, status.balance, order_id)
        return status.balance
    if status.open_order_id is not None:
        orders.cancel_order(conn, SYSTEM, orders.get_order_by_id(conn, status.open_order_id))
    order_id = _insert_order(conn, account_id, status.pack, at, "recredit.buy")
    balance = orders.credit_order(conn, SYSTEM, order_id, now)
    alerts.add_credit_notice(conn, account_id, alerts.RECREDITED, at, balance, order_id)
    return balance


def _insert_order(conn: sqlite3.Connection, account_id: int, pack: Pack, at: int, action: str) -> int:
    order_id = orders.insert_order(conn, SYSTEM, account_id, pack, orders.AUTOMATIC, at=at)
    orders.record_order_action(conn, SYSTEM, action, orders.get_order_by_id(conn, order_id))
    return order_id


# --- the rule


def list_auto_recredit_packs(conn: sqlite3.Connection) -> list[Pack]:
    """The packs that can be bought automatically: those of `packs.RECREDIT_PACK_SIZES` that are sold."""
    return [each for each in list_packs(conn) if each.credits in RECREDIT_PACK_SIZES]


def set_recredit_rule(
    conn: sqlite3.Connection, actor: Actor, account: Account, below: int | None, pack: int | None, per_day: int
) -> None:
    """Set when a pack is bought for an account, and which.

    A request that waits for the operator is cancelled if it was for another pack.

    Args:
        below: the threshold (thousandths of a credit); None: none is bought any more, and the rest doesn't matter.
        pack: its credits (thousandths).
        per_day: how many a day (UTC) at most.

    Raises:
        RecreditPackMissing, NoSuchPack, InvalidPacksPerDay
    """
    if below is not None:
        if pack is None:
            raise RecreditPackMissing()
        if pack not in [each.credits for each in list_auto_recredit_packs(conn)]:
            raise NoSuchPack()
        if not 1 <= per_day <= MAX_PACKS_PER_DAY:
            raise InvalidPacksPerDay(value=per_day, most=MAX_PACKS_PER_DAY)
    else:
        pack, per_day = None, 1
    with write_transaction(conn):
        update_row(conn, "accounts", account.id, recredit_below=below, recredit_pack=pack, recredit_per_day=per_day)
        record_account_action(conn, actor, "recredit.set", account, below=below, pack=pack, per_day=per_day)
        open_order_id = get_recredit_status(conn, account.id).open_order_id
        if open_order_id is not None:
            order = orders.get_order_by_id(conn, open_order_id)
            if order.credits != pack:
                orders.cancel_order(conn, actor, order)


def parse_packs_per_day(text: str) -> int:
    """Read how many packs a day, as it was typed.

    Raises:
        InvalidPacksPerDay: not a whole number.
    """
    return parse_whole_number(text, InvalidPacksPerDay(value=text, most=MAX_PACKS_PER_DAY))


def parse_credit_line(text: str) -> int:
    """Read a credit line as it was typed, in the language in use: credits, or 0 for none.

    Raises:
        InvalidCreditLine
    """
    try:
        return credit_amounts.parse_amount_or_zero(text)
    except credit_amounts.InvalidAmount:
        raise customers.InvalidCreditLine(value=text.strip()) from None
