"""Proof that the file, the balances, the ledger, the messages and the totals agree."""

import sqlite3
from collections.abc import Iterator

from portal.services import credits
from portal.services.messages import DELETED, DELIVERED, ENROUTE, PTT_BLACKLISTED, REJECTED


def problems(conn: sqlite3.Connection) -> list[str]:
    """All that is off, one sentence each; empty when all is well. One snapshot is read, so it may run at any time."""
    found: list[str] = []
    conn.execute("BEGIN")
    try:
        for look in (_file, _ledger, _usage, _totals, _deliveries):
            found.extend(look(conn))
    except sqlite3.DatabaseError as error:
        found.append(f"file: {error}")
    finally:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
    return found


def _file(conn: sqlite3.Connection) -> Iterator[str]:
    for (line,) in conn.execute("PRAGMA integrity_check"):
        if line != "ok":
            yield f"file: {line}"
    for table, rowid, parent, _ in conn.execute("PRAGMA foreign_key_check"):
        yield f"file: {table} row {rowid} refers to a row of {parent} that isn't there"


def _ledger(conn: sqlite3.Connection) -> Iterator[str]:
    for name, balance, total in conn.execute(
        "SELECT name, balance, coalesce((SELECT sum(amount) FROM movements WHERE account_id = accounts.id), 0) AS total"
        " FROM accounts WHERE balance <> total"
    ):
        yield f"{name}: the balance is {credits.plain(balance)}, the ledger adds up to {credits.plain(total)}"
    for name, row_id in conn.execute(
        "SELECT accounts.name, chain.id FROM (SELECT id, account_id, balance_after, amount,"
        " lag(balance_after, 1, 0) OVER (PARTITION BY account_id ORDER BY id) AS before FROM movements) AS chain"
        " JOIN accounts ON accounts.id = chain.account_id WHERE before + amount <> balance_after"
    ):
        yield f"{name}: movement {row_id} doesn't follow from the one before it"


def _usage(conn: sqlite3.Connection) -> Iterator[str]:
    for name, charged, priced in conn.execute(
        "SELECT name, coalesce((SELECT -sum(amount) FROM movements WHERE account_id = accounts.id AND kind = 'usage'),"
        " 0) AS charged, coalesce((SELECT sum(price) FROM messages WHERE account_id = accounts.id), 0) AS priced"
        " FROM accounts WHERE charged <> priced"
    ):
        yield f"{name}: {credits.plain(charged)} credits were charged, its messages cost {credits.plain(priced)}"
    for name, row_id, said, found in conn.execute(
        "SELECT name, movement, said, found FROM (SELECT movements.id AS movement, account_id, messages AS said,"
        " (SELECT count(*) FROM messages WHERE messages.account_id = movements.account_id AND price > 0"
        "  AND messages.id BETWEEN first_message_id AND last_message_id) AS found"
        " FROM movements WHERE kind = 'usage') JOIN accounts ON accounts.id = account_id WHERE said <> found"
    ):
        yield f"{name}: movement {row_id} is about {said} messages, {found} are there"
    for name, row_id in conn.execute(
        "SELECT accounts.name, movements.id FROM movements JOIN accounts ON accounts.id = movements.account_id"
        " LEFT JOIN messages ON messages.id = first_message_id AND messages.account_id = movements.account_id"
        f"  AND (state = {DELETED} OR (state = {REJECTED} AND ptt = {PTT_BLACKLISTED})) AND price = amount"
        " WHERE movements.kind = 'refund' AND first_message_id IS NOT NULL AND messages.id IS NULL"
    ):
        yield f"{name}: movement {row_id} gives back what no message cost that was called back, or stopped"


def _totals(conn: sqlite3.Connection) -> Iterator[str]:
    for name, kept, counted in conn.execute(
        "SELECT name, kept.amounts, counted.amounts FROM accounts"
        " LEFT JOIN (SELECT account_id, sum(sent) || ' sent, ' || sum(delivered) || ' delivered, ' || sum(failed) ||"
        "   ' failed, ' || sum(parts) || ' parts' AS amounts FROM daily_totals WHERE sent > 0 GROUP BY account_id)"
        "   AS kept ON kept.account_id = accounts.id"
        " LEFT JOIN (SELECT account_id, count(*) || ' sent, ' ||"
        f"   sum(state = {DELIVERED}) || ' delivered, ' || sum(state NOT IN ({ENROUTE}, {DELIVERED})) || ' failed, ' ||"
        "   sum(parts) || ' parts' AS amounts FROM messages"
        "   WHERE price > 0 GROUP BY account_id) AS counted ON counted.account_id = accounts.id"
        " WHERE kept.amounts IS NOT counted.amounts"
    ):
        yield f"{name}: the daily totals say {kept or 'nothing'}, the messages {counted or 'nothing'}"


def _deliveries(conn: sqlite3.Connection) -> Iterator[str]:
    for name, count in conn.execute(
        "SELECT accounts.name, count(*) FROM deliveries LEFT JOIN accounts ON accounts.id = deliveries.account_id"
        " LEFT JOIN messages ON messages.id = message_id AND messages.account_id = deliveries.account_id"
        " LEFT JOIN received ON received.id = received_id AND received.account_id = deliveries.account_id"
        " WHERE messages.id IS NULL AND received.id IS NULL GROUP BY deliveries.account_id"
    ):
        yield f"{name}: {count} of what waits for its receivers belongs to no message"
