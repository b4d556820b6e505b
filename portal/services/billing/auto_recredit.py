"""Automatic re-credit: a pack of credits is bought for an account whose messages take it below a threshold.

An account's owner or manager sets the rule; the operator decides by the customer's credit line, and by how old an
account must be, whether the pack arrives at once. Otherwise the rule makes a request to the operator.
"""

import json
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import immediate
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account
from portal.services.billing import orders
from portal.services.billing.packs import AUTOMATIC, NoSuchPack, Pack, everyone
from portal.services.common import audit, credit_amounts, ids
from portal.services.common.audit import SYSTEM, Actor
from portal.services.common.errors import Refused
from portal.services.credits import alerts
from portal.services.people import customers

MOST_PER_DAY = 10


class NoPack(Refused):
    sentence = N_("Choose the pack to buy.")
    field = "pack"


class InvalidPerDay(Refused):
    sentence = N_("“%(value)s” can't be how many packs a day: it is a whole number from 1 to %(most)s.")
    field = "per_day"


@dataclass(frozen=True, slots=True)
class Standing:
    """All that decides about an account's next pack. Thousandths of a credit; times in milliseconds.

    `pack` is None where there is no rule, or its pack isn't sold any more. `bought_today` counts by days in UTC. `owed`
    is what all accounts of the customer have got on the credit line and not paid yet. `request` is the open order that
    waits for the operator; `declined_today`: the operator has cancelled the last one, and isn't asked again today.
    """

    balance: int
    pack: Pack | None
    per_day: int
    bought_today: int
    owed: int
    credit_line: int
    min_age_days: int
    old_enough_at: int
    old_enough: bool
    request: int | None
    declined_today: bool

    @property
    def under_cap(self) -> bool:
        return self.bought_today < self.per_day

    @property
    def within_line(self) -> bool:
        return self.pack is not None and self.owed + self.pack.credits <= self.credit_line

    @property
    def permitted(self) -> bool:
        """Whether the pack arrives at once, rather than being asked for."""
        return self.old_enough and self.within_line

    @property
    def ready(self) -> bool:
        """Whether anything happens now when a message needs it: a pack is bought, or asked for."""
        asks = self.request is None and not self.declined_today
        return self.pack is not None and self.under_cap and (self.permitted or asks)


# What all accounts of a customer have got on credit and not paid yet.
_OWED = f"""
SELECT coalesce(sum(orders.credits), 0) FROM accounts AS own JOIN orders ON orders.account_id = own.id
WHERE own.customer_id = {{customer}} AND {orders.IS_OWED}
"""
# One look at all that decides, for several accounts at once: SMPP clients wait meanwhile.
_STANDING = f"""
SELECT accounts.id, balance, recredit_pack, packs.price, packs.currency, recredit_per_day,
       (SELECT count(*) FROM orders WHERE account_id = accounts.id AND origin = 'automatic' AND movement_id >= :today),
       ({_OWED.format(customer="accounts.customer_id")}), credit_line, recredit_min_age_days, accounts.created_at,
       (SELECT max(id) FROM orders WHERE account_id = accounts.id AND origin = 'automatic'
        AND movement_id IS NULL AND paid_at IS NULL AND cancelled_at IS NULL),
       (SELECT cancelled_at FROM orders WHERE account_id = accounts.id AND origin = 'automatic'
        ORDER BY id DESC LIMIT 1)
FROM accounts JOIN customers ON customers.id = customer_id LEFT JOIN packs ON packs.credits = recredit_pack
WHERE accounts.id IN (SELECT value FROM json_each(:accounts))
"""


def standing(conn: sqlite3.Connection, account_id: int, now: int | None = None) -> Standing:
    """What decides about an account's next pack.

    Args:
        now: milliseconds; None: this moment.
    """
    return _standings(conn, [account_id], now)[account_id]


def ready(conn: sqlite3.Connection, account_ids: Collection[int], now: int | None = None) -> set[int]:
    """Those of these accounts for which `look` would do something, found by one statement.

    Args:
        now: as in `look`.
    """
    return {account_id for account_id, found in _standings(conn, account_ids, now).items() if found.ready}


def _standings(conn: sqlite3.Connection, account_ids: Collection[int], now: int | None) -> dict[int, Standing]:
    at = now_ms() if now is None else now
    today = at // DAY_MS * DAY_MS
    values = {"accounts": json.dumps(list(account_ids)), "today": ids.first_id_at(today)}
    return {row[0]: _standing(*row[1:], at=at, today=today) for row in conn.execute(_STANDING, values)}


def _standing(
    balance: int,
    size: int,
    price: int | None,
    currency: str,
    per_day: int,
    bought_today: int,
    owed: int,
    credit_line: int,
    min_age_days: int,
    created_at: int,
    request: int | None,
    cancelled_at: int | None,
    *,
    at: int,
    today: int,
) -> Standing:
    old_enough_at = created_at + min_age_days * DAY_MS
    return Standing(
        balance=balance,
        pack=None if price is None else Pack(size, price, currency),
        per_day=per_day,
        bought_today=bought_today,
        owed=owed,
        credit_line=credit_line,
        min_age_days=min_age_days,
        old_enough_at=old_enough_at,
        old_enough=old_enough_at <= at,
        request=request,
        declined_today=cancelled_at is not None and cancelled_at >= today,
    )


def owed(conn: sqlite3.Connection, customer_id: int) -> int:
    """What a customer's accounts have got on its credit line and not paid yet, in thousandths of a credit."""
    return int(conn.execute(_OWED.format(customer="?"), (customer_id,)).fetchone()[0])


def look(conn: sqlite3.Connection, account_id: int, now: int | None = None) -> int:
    """Buy an account its pack once, in the transaction of the debit that needs it. The caller is inside `immediate()`.

    The credits arrive at once where the customer's credit line covers what it owes and this pack too, the account is
    old enough, and it has not been bought as many today (UTC) as it may be; a request that waits for the operator is
    cancelled, for it has become needless. Otherwise the operator gets a request: one at a time, and none on the day on
    which one was cancelled. A day's last pack is followed by none until the next day.

    Args:
        now: as in `ids.next_ids`.

    Returns:
        The account's balance after it (thousandths of a credit).
    """
    at = now_ms() if now is None else now
    found = standing(conn, account_id, at)
    if found.pack is None or not found.ready:
        return found.balance
    if not found.permitted:
        order_id = _enter(conn, account_id, found.pack, at, "recredit.request")
        alerts.note(conn, account_id, alerts.REQUESTED, at, found.balance, order_id)
        return found.balance
    if found.request is not None:
        orders.cancel(conn, SYSTEM, orders.by_id(conn, found.request))
    order_id = _enter(conn, account_id, found.pack, at, "recredit.buy")
    balance = orders.credit(conn, SYSTEM, order_id, now)
    alerts.note(conn, account_id, alerts.RECREDITED, at, balance, order_id)
    return balance


def _enter(conn: sqlite3.Connection, account_id: int, pack: Pack, at: int, action: str) -> int:
    order_id = orders.enter(conn, SYSTEM, account_id, pack, orders.AUTOMATIC, at=at)
    order = orders.by_id(conn, order_id)
    audit.record(
        conn,
        SYSTEM,
        action,
        customer_id=order.customer_id,
        account_id=account_id,
        order=order.number,
        credits=pack.credits,
        price=pack.price,
        currency=pack.currency,
    )
    return order_id


# --- the rule


def choices(conn: sqlite3.Connection) -> list[Pack]:
    """The packs that can be bought automatically: those of `packs.AUTOMATIC` that are sold."""
    return [each for each in everyone(conn) if each.credits in AUTOMATIC]


def set_rule(
    conn: sqlite3.Connection, actor: Actor, account: Account, below: int | None, pack: int | None, per_day: int
) -> None:
    """Say when a pack is bought for an account, and which; a request that waits for the operator is cancelled if it was
    for another pack.

    Args:
        below: the threshold (thousandths of a credit); None: none is bought any more, and the rest doesn't matter.
        pack: its credits (thousandths).
        per_day: how many a day (UTC) at most.

    Raises:
        NoPack, NoSuchPack, InvalidPerDay
    """
    if below is not None:
        if pack is None:
            raise NoPack()
        if pack not in [each.credits for each in choices(conn)]:
            raise NoSuchPack()
        if not 1 <= per_day <= MOST_PER_DAY:
            raise InvalidPerDay(value=per_day, most=MOST_PER_DAY)
    else:
        pack, per_day = None, 1
    with immediate(conn):
        conn.execute(
            "UPDATE accounts SET recredit_below = ?, recredit_pack = ?, recredit_per_day = ? WHERE id = ?",
            (below, pack, per_day, account.id),
        )
        audit.record(
            conn,
            actor,
            "recredit.set",
            customer_id=account.customer_id,
            account_id=account.id,
            below=below,
            pack=pack,
            per_day=per_day,
        )
        request = standing(conn, account.id).request
        if request is not None:
            order = orders.by_id(conn, request)
            if order.credits != pack:
                orders.cancel(conn, actor, order)


def parse_per_day(text: str) -> int:
    """Read how many packs a day, as it was typed.

    Raises:
        InvalidPerDay: not a whole number.
    """
    try:
        return int(text)
    except ValueError:
        raise InvalidPerDay(value=text, most=MOST_PER_DAY) from None


def parse_credit_line(text: str) -> int:
    """Read a credit line as it was typed, in the language in use: credits, or 0 for none.

    Raises:
        InvalidCreditLine
    """
    if text.strip() == "0":
        return 0
    try:
        return credit_amounts.parse(text)
    except credit_amounts.InvalidAmount:
        raise customers.InvalidCreditLine(value=text.strip()) from None
