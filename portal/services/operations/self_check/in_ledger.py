"""Checks of the ledger: balances, transfers, refunds, orders, expiring credits."""

import sqlite3
from collections.abc import Iterator

from portal.core.clock import DAY_MS
from portal.core.i18n import N_
from portal.services.billing.orders import AUTOMATIC
from portal.services.common import ids
from portal.services.common.audit import SYSTEM
from portal.services.common.message_states import DELETED, DELIVERED, ENROUTE, PTT_BLACKLISTED, REJECTED
from portal.services.credits import ledger
from portal.services.messages import message_parts
from portal.services.operations.self_check.problem import AccountNames, Check, Problem, find_by_queries, iterate_rows
from portal.services.upstreams import upstreams

_MOVEMENT_CHECKS = (
    Check(
        "%(account)s: movements row %(row)s leaves %(amount)s credits, but %(expected)s follow from the one before it",
        "SELECT account, row, amount, expected FROM (SELECT account_id AS account, id AS row, balance_after AS amount,"
        " amount + lag(balance_after, 1, 0) OVER (PARTITION BY account_id ORDER BY id) AS expected FROM movements)"
        " WHERE amount <> expected ORDER BY row",
    ),
    Check(
        "%(account)s: movements row %(row)s leaves %(amount)s credits, less than none",
        "SELECT account_id AS account, id AS row, balance_after AS amount FROM movements WHERE balance_after < 0",
    ),
    Check(
        "%(account)s: movements row %(row)s, %(kind)s, is of %(amount)s credits: the wrong sign",
        "SELECT account_id AS account, id AS row, kind, amount FROM movements WHERE NOT has_valid_sign(kind, amount)",
    ),
)
_BALANCE_CHECKS = (
    Check(
        "%(account)s: the balance (accounts row %(row)s) differs by %(difference)s from what the ledger adds up to",
        "SELECT id AS account, id AS row, balance - coalesce((SELECT balance_after FROM movements"
        " WHERE account_id = accounts.id ORDER BY id DESC LIMIT 1), 0) AS difference FROM accounts"
        " WHERE difference <> 0",
    ),
    Check(
        "%(account)s: the balance (accounts row %(row)s) is less than nothing",
        "SELECT id AS account, id AS row FROM accounts WHERE balance < 0",
    ),
)
# The two movements of a transfer are written in one transaction, so no movement of another transfer is between them.
# `route` is the same in both.
_TRANSFERS = """
SELECT id AS row, account_id AS account, counterpart_id AS other, kind, abs(amount) AS amount, route,
    lead(id) OVER by_id AS next_row, lead(abs(amount)) OVER by_id AS next_amount,
    kind = 'transfer_out' AND lead(kind || route) OVER by_id = 'transfer_in' || route AS is_brought,
    kind = 'transfer_in' AND lag(kind || route) OVER by_id = 'transfer_out' || route AS is_sent
FROM (
    SELECT *, iif(kind = 'transfer_out', account_id || '>' || counterpart_id,
        counterpart_id || '>' || account_id) AS route
    FROM movements WHERE kind IN ('transfer_out', 'transfer_in')
) WINDOW by_id AS (ORDER BY id)
"""
_TRANSFER_CHECKS = (
    Check(
        "%(account)s: movements row %(row)s sends %(amount)s credits to %(other)s, and none brings them",
        f"SELECT account, row, amount, other FROM ({_TRANSFERS}) WHERE kind = 'transfer_out' AND is_brought IS NOT 1",
    ),
    Check(
        "%(account)s: movements row %(row)s brings %(amount)s credits from %(other)s, and none sends them",
        f"SELECT account, row, amount, other FROM ({_TRANSFERS}) WHERE kind = 'transfer_in' AND is_sent IS NOT 1",
    ),
    Check(
        "%(account)s: movements row %(row)s sends %(amount)s credits to %(other)s, where row %(other_row)s brings"
        " %(brought)s",
        "SELECT account, row, amount, other, next_row AS other_row, next_amount AS brought"
        f" FROM ({_TRANSFERS}) WHERE is_brought AND amount <> next_amount",
    ),
    Check(
        "%(account)s: movements row %(row)s sends %(amount)s credits to %(other)s, which is another customer's",
        f"SELECT account, row, amount, other FROM ({_TRANSFERS}) WHERE is_brought"
        " AND (SELECT customer_id FROM accounts WHERE id = account)"
        " IS NOT (SELECT customer_id FROM accounts WHERE id = other)",
    ),
)


def check_movements(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check that each movement follows from the previous one, the last one gives the balance, amounts have the right
    sign, and transfers come in pairs.
    """
    conn.create_function("has_valid_sign", 2, ledger.has_valid_sign)
    return find_by_queries(conn, (*_MOVEMENT_CHECKS, *_TRANSFER_CHECKS, *_BALANCE_CHECKS))


# --- the ledger compared with messages, orders and expiring credits

_SECOND_REFUNDS = Check(
    "%(account)s: movements row %(row)s gives back what messages row %(message)s cost once more",
    "SELECT account_id AS account, max(id) AS row, first_message_id AS message FROM movements"
    " WHERE kind = 'refund' AND first_message_id IS NOT NULL GROUP BY first_message_id HAVING count(*) > 1",
)


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
        f" coalesce(kept_since, 0), total, {message_parts.COUNT_REFUSED_SQL}, {message_parts.COUNT_UNDELIVERED_SQL}"
        " FROM movements"
        " LEFT JOIN messages ON messages.id = first_message_id AND messages.account_id = movements.account_id"
        " LEFT JOIN cut_messages ON cut_messages.message_id = messages.id"
        " LEFT JOIN deleted_messages AS gone ON gone.id = first_message_id AND gone.account_id = movements.account_id"
        " LEFT JOIN deleted_refunds AS former ON former.message_id = first_message_id"
        "  AND former.account_id = movements.account_id"
        " LEFT JOIN accounts ON accounts.id = movements.account_id"
        " WHERE movements.kind = 'refund' AND first_message_id IS NOT NULL ORDER BY movements.id",
    )
    for account_id, row, actor, amount, message, price, state, ptt, kept_since, total, *undelivered in rows:
        params = {"account": names[account_id], "row": row, "amount": amount, "message": message}
        if price is None and ids.time_from_id(message) < kept_since * DAY_MS:
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
    yield from find_by_queries(conn, [_SECOND_REFUNDS])


_ORDERS = """
SELECT orders.account_id AS account, orders.id AS row, origin, credits AS amount, paid_at, cancelled_at,
    movement_id AS movement, amount AS brought, note AS noted,
    strftime('%Y-', orders.created_at / 1000, 'unixepoch') || format('%05d', orders.id) AS number,
    kind = 'purchase' AND movements.account_id = orders.account_id AS is_own
FROM orders LEFT JOIN movements ON movements.id = movement_id ORDER BY orders.id
"""
ORDER_CHECKS = (
    Check(
        "%(account)s: orders row %(row)s is paid, and its credits have not arrived",
        f"SELECT account, row FROM ({_ORDERS}) WHERE movement IS NULL AND paid_at IS NOT NULL",
    ),
    Check(
        "%(account)s: orders row %(row)s names movements row %(movement)s, not a purchase of its own",
        f"SELECT account, row, movement FROM ({_ORDERS}) WHERE movement IS NOT NULL AND is_own IS NOT 1",
    ),
    Check(
        "%(account)s: orders row %(row)s is about %(amount)s credits, and movements row %(movement)s has brought"
        " %(brought)s",
        f"SELECT account, row, movement, amount, brought FROM ({_ORDERS}) WHERE is_own AND brought <> amount",
    ),
    Check(
        "%(account)s: movements row %(movement)s is said to be of order %(noted)s, and is of orders row %(row)s",
        f"SELECT account, row, movement, noted FROM ({_ORDERS}) WHERE is_own AND brought = amount AND noted <> number",
    ),
    Check(
        "%(account)s: orders row %(row)s isn't paid, and its credits have arrived",
        f"SELECT account, row FROM ({_ORDERS})"
        f" WHERE movement IS NOT NULL AND paid_at IS NULL AND origin <> '{AUTOMATIC}'",
    ),
    Check(
        "%(account)s: orders row %(row)s is cancelled, and its credits have arrived",
        f"SELECT account, row FROM ({_ORDERS}) WHERE movement IS NOT NULL AND cancelled_at IS NOT NULL",
    ),
    Check(
        "%(account)s: movements row %(row)s is a purchase that no order is about",
        "SELECT movements.account_id AS account, movements.id AS row FROM movements"
        " LEFT JOIN orders ON movement_id = movements.id WHERE kind = 'purchase' AND orders.id IS NULL ORDER BY row",
    ),
)
"""Each purchase belongs to one order, with its credits and number, and a paid order has a purchase; an unpaid one only
has one if it is of automatic re-credit.
"""

EXPIRY_CHECKS = (
    Check(
        "%(account)s: expiring_credits of movements row %(row)s are %(amount)s credits, and it has brought %(brought)s",
        "SELECT expiring.account_id AS account, movement_id AS row, sum(expiring.amount) AS amount,"
        " coalesce(movements.amount, 0) AS brought FROM expiring_credits AS expiring"
        " LEFT JOIN movements ON movements.id = movement_id AND movements.account_id = expiring.account_id"
        " GROUP BY expiring.account_id, movement_id HAVING brought < sum(expiring.amount)",
    ),
    Check(
        "%(account)s: movements row %(row)s lets %(amount)s credits run out, for which expiring_credits have no date",
        "SELECT movements.account_id AS account, movements.id AS row, -movements.amount AS amount FROM movements"
        " LEFT JOIN expiring_credits AS expired"
        " ON expiry_id = movements.id AND expired.account_id = movements.account_id"
        f" AND expired.amount >= -movements.amount AND expired_at <= {ids.build_time_sql('movements.id')}"
        " WHERE kind = 'expiry' AND kind <> 'usage' AND expired.account_id IS NULL"
        " ORDER BY movements.account_id, movements.id",
    ),
)
"""Credits that expire came with a movement, and each expiry takes credits whose date has come."""
