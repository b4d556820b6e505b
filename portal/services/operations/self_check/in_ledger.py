"""The ledger by itself, and beside what it is about: transfers, refunds, orders, credits that run out."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from portal.core.clock import DAY_MS
from portal.core.i18n import N_
from portal.services.billing.orders import AUTOMATIC
from portal.services.common import ids
from portal.services.common.audit import SYSTEM
from portal.services.common.message_states import DELETED, ENROUTE, PTT_BLACKLISTED, REJECTED
from portal.services.credits import ledger
from portal.services.operations.self_check.problem import Names, Params, Problem, rows_of


def movements(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Each movement follows from the one before it, and the last one leaves the balance; signs; transfers in pairs."""
    names = Names(conn)
    left: dict[int, int] = defaultdict(int)
    transfers = _Transfers(conn, names)
    rows = rows_of(
        conn, "SELECT id, account_id, kind, amount, balance_after, counterpart_id FROM movements ORDER BY id"
    )
    for row, account_id, kind, amount, after, counterpart_id in rows:
        expected = left[account_id] + amount
        left[account_id] = after
        if after != expected:
            sentence = N_(
                "%(account)s: movements row %(row)s leaves %(amount)s credits, but %(expected)s follow from the one"
                " before it"
            )
            yield Problem(sentence, {"account": names[account_id], "row": row, "amount": after, "expected": expected})
        if after < 0:
            sentence = N_("%(account)s: movements row %(row)s leaves %(amount)s credits, less than none")
            yield Problem(sentence, {"account": names[account_id], "row": row, "amount": after})
        if not ledger.goes_its_way(kind, amount):
            sentence = N_("%(account)s: movements row %(row)s, %(kind)s, is of %(amount)s credits: the wrong sign")
            yield Problem(sentence, {"account": names[account_id], "row": row, "kind": kind, "amount": amount})
        if kind in (ledger.TRANSFER_OUT, ledger.TRANSFER_IN):
            yield from transfers.next(_Transfer(row, account_id, kind, abs(amount), counterpart_id))
    yield from transfers.next(None)
    for account_id, balance in rows_of(conn, "SELECT id, balance FROM accounts ORDER BY id"):
        if balance != left[account_id]:
            sentence = N_(
                "%(account)s: the balance (accounts row %(row)s) differs by %(difference)s from what the ledger adds up"
                " to"
            )
            difference = balance - left[account_id]
            yield Problem(sentence, {"account": names[account_id], "row": account_id, "difference": difference})
        if balance < 0:
            sentence = N_("%(account)s: the balance (accounts row %(row)s) is less than nothing")
            yield Problem(sentence, {"account": names[account_id], "row": account_id})


@dataclass(frozen=True, slots=True)
class _Transfer:
    row: int
    account_id: int
    kind: str
    amount: int
    counterpart_id: int | None


class _Transfers:
    """Both movements of a transfer are written in one transaction, so no other transfer's lies between them."""

    def __init__(self, conn: sqlite3.Connection, names: Names) -> None:
        self._names = names
        self._customers = dict(rows_of(conn, "SELECT id, customer_id FROM accounts"))
        self._sent: _Transfer | None = None

    def next(self, each: _Transfer | None) -> Iterator[Problem]:
        """Look at the next one in the order of the ledger; None: there is no more."""
        sent, self._sent = self._sent, None
        if each is not None and each.kind == ledger.TRANSFER_OUT:
            self._sent, each = each, None
        if sent and each and (sent.counterpart_id, each.counterpart_id) == (each.account_id, sent.account_id):
            yield from self._pair(sent, each)
            return
        if sent:
            yield self._alone(
                sent,
                N_("%(account)s: movements row %(row)s sends %(amount)s credits to %(other)s, and none brings them"),
            )
        if each:
            yield self._alone(
                each,
                N_("%(account)s: movements row %(row)s brings %(amount)s credits from %(other)s, and none sends them"),
            )

    def _pair(self, sent: _Transfer, brought: _Transfer) -> Iterator[Problem]:
        said: Params = {
            "account": self._names[sent.account_id],
            "row": sent.row,
            "amount": sent.amount,
            "other": self._names[brought.account_id],
        }
        if sent.amount != brought.amount:
            sentence = N_(
                "%(account)s: movements row %(row)s sends %(amount)s credits to %(other)s, where row %(other_row)s"
                " brings %(brought)s"
            )
            yield Problem(sentence, {**said, "other_row": brought.row, "brought": brought.amount})
        if self._customers.get(sent.account_id) != self._customers.get(brought.account_id):
            sentence = N_(
                "%(account)s: movements row %(row)s sends %(amount)s credits to %(other)s, which is another customer's"
            )
            yield Problem(sentence, said)

    def _alone(self, each: _Transfer, sentence: str) -> Problem:
        other = self._names[each.counterpart_id] if each.counterpart_id is not None else "?"
        said: Params = {"account": self._names[each.account_id], "row": each.row, "amount": each.amount, "other": other}
        return Problem(sentence, said)


# --- the ledger beside what it is about


def refunds(conn: sqlite3.Connection) -> Iterator[Problem]:
    """A refund gives back what one message cost, once; it may have been deleted since. Operators may give back what a
    finished one cost.
    """
    names = Names(conn)
    rows = rows_of(
        conn,
        "SELECT movements.account_id, movements.id, actor, amount, first_message_id,"
        " coalesce(messages.price, gone.price), coalesce(messages.state, gone.state), coalesce(messages.ptt, gone.ptt)"
        " FROM movements"
        " LEFT JOIN messages ON messages.id = first_message_id AND messages.account_id = movements.account_id"
        " LEFT JOIN deleted_refunds AS gone ON message_id = first_message_id AND gone.account_id = movements.account_id"
        " WHERE kind = 'refund' AND first_message_id IS NOT NULL ORDER BY movements.id",
    )
    kept = dict(rows_of(conn, "SELECT id, kept_since FROM accounts"))
    for account_id, row, actor, amount, message, price, state, ptt in rows:
        said = {"account": names[account_id], "row": row, "amount": amount, "message": message}
        if price is None and ids.time_of(message) < kept.get(account_id, 0) * DAY_MS:
            # Older than what the account keeps.
            continue
        if price is None:
            sentence = N_(
                "%(account)s: movements row %(row)s gives back what another one's messages row %(message)s cost"
            )
            yield Problem(sentence, said)
        elif price != amount:
            sentence = N_(
                "%(account)s: movements row %(row)s gives back %(amount)s credits for messages row %(message)s, which"
                " cost %(cost)s"
            )
            yield Problem(sentence, {**said, "cost": price})
        elif not (
            state == DELETED
            or (state == REJECTED and ptt == PTT_BLACKLISTED)
            or (state != ENROUTE and actor != SYSTEM.name)
        ):
            sentence = N_(
                "%(account)s: movements row %(row)s gives back what messages row %(message)s cost, which was neither"
                " called back nor stopped"
            )
            yield Problem(sentence, said)
    rows = rows_of(
        conn,
        "SELECT account_id, max(id), first_message_id FROM movements"
        " WHERE kind = 'refund' AND first_message_id IS NOT NULL GROUP BY first_message_id HAVING count(*) > 1",
    )
    for account_id, row, message in rows:
        sentence = N_("%(account)s: movements row %(row)s gives back what messages row %(message)s cost once more")
        yield Problem(sentence, {"account": names[account_id], "row": row, "message": message})


def orders(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Each purchase is the credits of one order, which it names, and an order that is paid has its credits; without
    being paid only one of automatic re-credit has them.
    """
    names = Names(conn)
    rows = rows_of(
        conn,
        "SELECT orders.account_id, orders.id, origin, credits, paid_at, cancelled_at, movement_id, kind, amount,"
        " movements.account_id, strftime('%Y-', orders.created_at / 1000, 'unixepoch') || format('%05d', orders.id),"
        " note FROM orders LEFT JOIN movements ON movements.id = movement_id ORDER BY orders.id",
    )
    for account_id, row, origin, credits, paid_at, cancelled_at, movement, kind, amount, owner_id, number, note in rows:
        said = {"account": names[account_id], "row": row, "movement": movement, "amount": credits}
        if movement is None:
            if paid_at is not None:
                yield Problem(N_("%(account)s: orders row %(row)s is paid, and its credits have not arrived"), said)
            continue
        if kind != ledger.PURCHASE or owner_id != account_id:
            sentence = N_("%(account)s: orders row %(row)s names movements row %(movement)s, not a purchase of its own")
            yield Problem(sentence, said)
        elif amount != credits:
            sentence = N_(
                "%(account)s: orders row %(row)s is about %(amount)s credits, and movements row %(movement)s has"
                " brought %(brought)s"
            )
            yield Problem(sentence, {**said, "brought": amount})
        elif note != number:
            sentence = N_(
                "%(account)s: movements row %(movement)s is said to be of order %(noted)s, and is of orders row %(row)s"
            )
            yield Problem(sentence, {**said, "noted": note})
        if paid_at is None and origin != AUTOMATIC:
            sentence = N_("%(account)s: orders row %(row)s isn't paid, and its credits have arrived")
            yield Problem(sentence, said)
        if cancelled_at is not None:
            yield Problem(N_("%(account)s: orders row %(row)s is cancelled, and its credits have arrived"), said)
    rows = rows_of(
        conn,
        "SELECT movements.account_id, movements.id FROM movements LEFT JOIN orders ON movement_id = movements.id"
        " WHERE kind = 'purchase' AND orders.id IS NULL ORDER BY movements.id",
    )
    for account_id, row in rows:
        sentence = N_("%(account)s: movements row %(row)s is a purchase that no order is about")
        yield Problem(sentence, {"account": names[account_id], "row": row})


def expiries(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Credits that run out came with a movement; what an expiry takes away had a date that has come."""
    names = Names(conn)
    rows = rows_of(
        conn,
        "SELECT expiring.account_id, movement_id, sum(expiring.amount), movements.amount FROM expiring_credits AS"
        " expiring LEFT JOIN movements ON movements.id = movement_id AND movements.account_id = expiring.account_id"
        " GROUP BY expiring.account_id, movement_id",
    )
    for account_id, movement, amount, brought in rows:
        if brought is None or brought < amount:
            sentence = N_(
                "%(account)s: expiring_credits of movements row %(row)s are %(amount)s credits, and it has brought"
                " %(brought)s"
            )
            said = {"account": names[account_id], "row": movement, "amount": amount, "brought": brought or 0}
            yield Problem(sentence, said)
    rows = rows_of(
        conn,
        "SELECT movements.account_id, movements.id, -movements.amount FROM movements"
        " LEFT JOIN expiring_credits AS expired"
        " ON expiry_id = movements.id AND expired.account_id = movements.account_id"
        " AND expired.amount >= -movements.amount AND expired_at <= movements.id >> 20"
        " WHERE kind = 'expiry' AND kind <> 'usage' AND expired.account_id IS NULL"
        " ORDER BY movements.account_id, movements.id",
    )
    for account_id, row, amount in rows:
        sentence = N_(
            "%(account)s: movements row %(row)s lets %(amount)s credits run out, for which expiring_credits have no"
            " date"
        )
        yield Problem(sentence, {"account": names[account_id], "row": row, "amount": amount})
