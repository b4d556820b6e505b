"""Checks of the ledger: balances, transfers, refunds, orders, expiring credits."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from portal.core.clock import DAY_MS
from portal.core.i18n import N_
from portal.services.billing.orders import AUTOMATIC
from portal.services.common import ids
from portal.services.common.audit import SYSTEM
from portal.services.common.message_states import DELETED, DELIVERED, ENROUTE, PTT_BLACKLISTED, REJECTED
from portal.services.credits import ledger
from portal.services.messages import message_parts
from portal.services.operations.self_check.problem import AccountNames, Problem, ProblemParams, iterate_rows
from portal.services.upstreams import upstreams


def check_movements(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check that each movement follows from the previous one, the last one gives the balance, amounts have the right
    sign, and transfers come in pairs.
    """
    names = AccountNames(conn)
    balances: dict[int, int] = defaultdict(int)
    transfers = _TransferMatcher(conn, names)
    rows = iterate_rows(
        conn, "SELECT id, account_id, kind, amount, balance_after, counterpart_id FROM movements ORDER BY id"
    )
    for row, account_id, kind, amount, balance_after, counterpart_id in rows:
        expected = balances[account_id] + amount
        balances[account_id] = balance_after
        if balance_after != expected:
            sentence = N_(
                "%(account)s: movements row %(row)s leaves %(amount)s credits, but %(expected)s follow from the one"
                " before it"
            )
            yield Problem(
                sentence, {"account": names[account_id], "row": row, "amount": balance_after, "expected": expected}
            )
        if balance_after < 0:
            sentence = N_("%(account)s: movements row %(row)s leaves %(amount)s credits, less than none")
            yield Problem(sentence, {"account": names[account_id], "row": row, "amount": balance_after})
        if not ledger.has_valid_sign(kind, amount):
            sentence = N_("%(account)s: movements row %(row)s, %(kind)s, is of %(amount)s credits: the wrong sign")
            yield Problem(sentence, {"account": names[account_id], "row": row, "kind": kind, "amount": amount})
        if kind in (ledger.TRANSFER_OUT, ledger.TRANSFER_IN):
            yield from transfers.check_next_movement(
                _TransferMovement(row, account_id, kind, abs(amount), counterpart_id)
            )
    yield from transfers.check_next_movement(None)
    for account_id, balance in iterate_rows(conn, "SELECT id, balance FROM accounts ORDER BY id"):
        if balance != balances[account_id]:
            sentence = N_(
                "%(account)s: the balance (accounts row %(row)s) differs by %(difference)s from what the ledger adds up"
                " to"
            )
            difference = balance - balances[account_id]
            yield Problem(sentence, {"account": names[account_id], "row": account_id, "difference": difference})
        if balance < 0:
            sentence = N_("%(account)s: the balance (accounts row %(row)s) is less than nothing")
            yield Problem(sentence, {"account": names[account_id], "row": account_id})


@dataclass(frozen=True, slots=True)
class _TransferMovement:
    row: int
    account_id: int
    kind: str
    amount: int
    counterpart_id: int | None


class _TransferMatcher:
    """Finds the two movements of each transfer.

    They are written in one transaction, so no movement of another transfer is between them.
    """

    def __init__(self, conn: sqlite3.Connection, names: AccountNames) -> None:
        self._names = names
        self._customers = dict(iterate_rows(conn, "SELECT id, customer_id FROM accounts"))
        self._unmatched: _TransferMovement | None = None

    def check_next_movement(self, movement: _TransferMovement | None) -> Iterator[Problem]:
        """Check the next movement of a transfer, in the order of the ledger; None: there are no more."""
        sent, self._unmatched = self._unmatched, None
        if movement is not None and movement.kind == ledger.TRANSFER_OUT:
            self._unmatched, movement = movement, None
        if (
            sent
            and movement
            and (sent.counterpart_id, movement.counterpart_id) == (movement.account_id, sent.account_id)
        ):
            yield from self._check_pair(sent, movement)
            return
        if sent:
            yield self._report_unmatched_transfer(
                sent,
                N_("%(account)s: movements row %(row)s sends %(amount)s credits to %(other)s, and none brings them"),
            )
        if movement:
            yield self._report_unmatched_transfer(
                movement,
                N_("%(account)s: movements row %(row)s brings %(amount)s credits from %(other)s, and none sends them"),
            )

    def _check_pair(self, sent: _TransferMovement, received: _TransferMovement) -> Iterator[Problem]:
        params: ProblemParams = {
            "account": self._names[sent.account_id],
            "row": sent.row,
            "amount": sent.amount,
            "other": self._names[received.account_id],
        }
        if sent.amount != received.amount:
            sentence = N_(
                "%(account)s: movements row %(row)s sends %(amount)s credits to %(other)s, where row %(other_row)s"
                " brings %(brought)s"
            )
            yield Problem(sentence, {**params, "other_row": received.row, "brought": received.amount})
        if self._customers.get(sent.account_id) != self._customers.get(received.account_id):
            sentence = N_(
                "%(account)s: movements row %(row)s sends %(amount)s credits to %(other)s, which is another customer's"
            )
            yield Problem(sentence, params)

    def _report_unmatched_transfer(self, movement: _TransferMovement, sentence: str) -> Problem:
        other = self._names[movement.counterpart_id] if movement.counterpart_id is not None else "?"
        params: ProblemParams = {
            "account": self._names[movement.account_id],
            "row": movement.row,
            "amount": movement.amount,
            "other": other,
        }
        return Problem(sentence, params)


# --- the ledger compared with messages, orders and expiring credits


def check_refunds(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check that a refund gives back what one message cost, or its parts that have not arrived, once; the message may
    have been deleted since.

    A refund by the system needs a cancelled or blacklisted message, one by an operator a finished message. Where an
    upstream has ever existed, the system gives back what wasn't delivered, too, if the upstream is set so.
    """
    names = AccountNames(conn)
    has_had_upstream = upstreams.has_ever_had_upstream(conn)
    rows = iterate_rows(
        conn,
        "SELECT movements.account_id, movements.id, actor, amount, first_message_id,"
        " coalesce(messages.price, gone.refunded, gone.price, former.price),"
        " coalesce(messages.state, gone.state, former.state), coalesce(messages.ptt, gone.ptt, former.ptt),"
        f" total, {message_parts.COUNT_REFUSED_SQL}, {message_parts.COUNT_UNDELIVERED_SQL}"
        " FROM movements"
        " LEFT JOIN messages ON messages.id = first_message_id AND messages.account_id = movements.account_id"
        " LEFT JOIN cut_messages ON cut_messages.message_id = messages.id"
        " LEFT JOIN deleted_messages AS gone ON gone.id = first_message_id AND gone.account_id = movements.account_id"
        " LEFT JOIN deleted_refunds AS former ON former.message_id = first_message_id"
        "  AND former.account_id = movements.account_id"
        " WHERE kind = 'refund' AND first_message_id IS NOT NULL ORDER BY movements.id",
    )
    kept_since = dict(iterate_rows(conn, "SELECT id, kept_since FROM accounts"))
    for account_id, row, actor, amount, message, price, state, ptt, total, *undelivered in rows:
        params = {"account": names[account_id], "row": row, "amount": amount, "message": message}
        if price is None and ids.time_from_id(message) < kept_since.get(account_id, 0) * DAY_MS:
            # Older than the account's retention.
            continue
        if price is None:
            sentence = N_(
                "%(account)s: movements row %(row)s gives back what another one's messages row %(message)s cost"
            )
            yield Problem(sentence, params)
        elif price != amount and not (
            # Of a text that was sent in parts those that have not arrived.
            total and amount in [message_parts.compute_share(price, each, total) for each in undelivered]
        ):
            sentence = N_(
                "%(account)s: movements row %(row)s gives back %(amount)s credits for messages row %(message)s, which"
                " cost %(cost)s"
            )
            yield Problem(sentence, {**params, "cost": price})
        elif not (
            state == DELETED
            or (state == REJECTED and ptt == PTT_BLACKLISTED)
            or (state != ENROUTE and actor != SYSTEM.name)
            or (state not in (ENROUTE, DELIVERED) and has_had_upstream)
        ):
            sentence = N_(
                "%(account)s: movements row %(row)s gives back what messages row %(message)s cost, which was neither"
                " called back nor stopped"
            )
            yield Problem(sentence, params)
    rows = iterate_rows(
        conn,
        "SELECT account_id, max(id), first_message_id FROM movements"
        " WHERE kind = 'refund' AND first_message_id IS NOT NULL GROUP BY first_message_id HAVING count(*) > 1",
    )
    for account_id, row, message in rows:
        sentence = N_("%(account)s: movements row %(row)s gives back what messages row %(message)s cost once more")
        yield Problem(sentence, {"account": names[account_id], "row": row, "message": message})


def check_purchase_orders(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check that each purchase belongs to one order, with its credits and number, and that a paid order has a purchase.

    An unpaid order has one only if it is of automatic re-credit.
    """
    names = AccountNames(conn)
    rows = iterate_rows(
        conn,
        "SELECT orders.account_id, orders.id, origin, credits, paid_at, cancelled_at, movement_id, kind, amount,"
        " movements.account_id, strftime('%Y-', orders.created_at / 1000, 'unixepoch') || format('%05d', orders.id),"
        " note FROM orders LEFT JOIN movements ON movements.id = movement_id ORDER BY orders.id",
    )
    for account_id, row, origin, credits, paid_at, cancelled_at, movement, kind, amount, owner_id, number, note in rows:
        params = {"account": names[account_id], "row": row, "movement": movement, "amount": credits}
        if movement is None:
            if paid_at is not None:
                yield Problem(N_("%(account)s: orders row %(row)s is paid, and its credits have not arrived"), params)
            continue
        if kind != ledger.PURCHASE or owner_id != account_id:
            sentence = N_("%(account)s: orders row %(row)s names movements row %(movement)s, not a purchase of its own")
            yield Problem(sentence, params)
        elif amount != credits:
            sentence = N_(
                "%(account)s: orders row %(row)s is about %(amount)s credits, and movements row %(movement)s has"
                " brought %(brought)s"
            )
            yield Problem(sentence, {**params, "brought": amount})
        elif note != number:
            sentence = N_(
                "%(account)s: movements row %(movement)s is said to be of order %(noted)s, and is of orders row %(row)s"
            )
            yield Problem(sentence, {**params, "noted": note})
        if paid_at is None and origin != AUTOMATIC:
            sentence = N_("%(account)s: orders row %(row)s isn't paid, and its credits have arrived")
            yield Problem(sentence, params)
        if cancelled_at is not None:
            yield Problem(N_("%(account)s: orders row %(row)s is cancelled, and its credits have arrived"), params)
    rows = iterate_rows(
        conn,
        "SELECT movements.account_id, movements.id FROM movements LEFT JOIN orders ON movement_id = movements.id"
        " WHERE kind = 'purchase' AND orders.id IS NULL ORDER BY movements.id",
    )
    for account_id, row in rows:
        sentence = N_("%(account)s: movements row %(row)s is a purchase that no order is about")
        yield Problem(sentence, {"account": names[account_id], "row": row})


def check_credit_expiries(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check that expiring credits came with a movement, and that each expiry takes credits whose date has come."""
    names = AccountNames(conn)
    rows = iterate_rows(
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
            params = {"account": names[account_id], "row": movement, "amount": amount, "brought": brought or 0}
            yield Problem(sentence, params)
    rows = iterate_rows(
        conn,
        "SELECT movements.account_id, movements.id, -movements.amount FROM movements"
        " LEFT JOIN expiring_credits AS expired"
        " ON expiry_id = movements.id AND expired.account_id = movements.account_id"
        f" AND expired.amount >= -movements.amount AND expired_at <= {ids.build_time_sql('movements.id')}"
        " WHERE kind = 'expiry' AND kind <> 'usage' AND expired.account_id IS NULL"
        " ORDER BY movements.account_id, movements.id",
    )
    for account_id, row, amount in rows:
        sentence = N_(
            "%(account)s: movements row %(row)s lets %(amount)s credits run out, for which expiring_credits have no"
            " date"
        )
        yield Problem(sentence, {"account": names[account_id], "row": row, "amount": amount})
