"""Proof that the file, the balances, the ledger, the messages and the totals agree.

What has to agree is read in the order of its ids and compared on the way: the time that this takes grows with the rows,
the memory with accounts, their senders and what operators do, not with messages.
"""

import sqlite3
from collections.abc import Iterator

from portal.core.i18n import N_
from portal.services.operations.self_check import in_ledger, in_messages
from portal.services.operations.self_check.copy import CopyFailed, NoRoom, copied, sweep
from portal.services.operations.self_check.problem import Names, Problem, rows_of, unreadable

__all__ = ["CopyFailed", "NoRoom", "Problem", "copied", "problems", "prove", "sweep", "unreadable"]

# Of what one look finds. Where there is more, it has one cause.
_MOST = 100


def problems(conn: sqlite3.Connection) -> list[str]:
    """What `prove` finds, in the language in use."""
    return [str(each) for each in prove(conn)]


def prove(conn: sqlite3.Connection) -> list[Problem]:
    """All that is off; empty when all is well. One snapshot is read, so it may run at any time."""
    found: list[Problem] = []
    try:
        conn.execute("BEGIN")
        for look in _LOOKS:
            found += _first(look(conn))
    except sqlite3.DatabaseError as error:
        found.append(unreadable(error))
    finally:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
    # Several looks come upon the same page that can't be read.
    return [each for at, each in enumerate(found) if each not in found[:at]]


def _first(look: Iterator[Problem]) -> list[Problem]:
    """What a look finds until it has ended, or can't read on: the others go on."""
    found: list[Problem] = []
    more = 0
    try:
        for each in look:
            if len(found) < _MOST:
                found.append(each)
            else:
                more += 1
    except sqlite3.DatabaseError as error:
        found.append(unreadable(error))
    if more:
        found.append(Problem(N_("%(count)s more were found like those before this line"), {"count": more}))
    return found


def _file(conn: sqlite3.Connection) -> Iterator[Problem]:
    for (line,) in rows_of(conn, "PRAGMA integrity_check"):
        if line != "ok":
            yield Problem(N_("file: %(line)s"), {"line": line})
    for table, row, parent, _ in rows_of(conn, "PRAGMA foreign_key_check"):
        # The rows of some tables have no number of their own.
        if row is None:
            sentence = N_("file: a row of %(table)s refers to a row of %(parent)s that isn't there")
            yield Problem(sentence, {"table": table, "parent": parent})
        else:
            sentence = N_("file: %(table)s row %(row)s refers to a row of %(parent)s that isn't there")
            yield Problem(sentence, {"table": table, "row": row, "parent": parent})


def _deliveries(conn: sqlite3.Connection) -> Iterator[Problem]:
    names = Names(conn)
    rows = rows_of(
        conn,
        "SELECT deliveries.account_id, min(deliveries.id), count(*) FROM deliveries"
        " LEFT JOIN messages ON messages.id = message_id AND messages.account_id = deliveries.account_id"
        " LEFT JOIN received ON received.id = received_id AND received.account_id = deliveries.account_id"
        " WHERE messages.id IS NULL AND received.id IS NULL GROUP BY deliveries.account_id",
    )
    for account_id, row, count in rows:
        sentence = N_(
            "%(account)s: what waits for receivers and belongs to no message: %(count)s, the first is deliveries row"
            " %(row)s"
        )
        yield Problem(sentence, {"account": names[account_id], "count": count, "row": row})


_LOOKS = (
    _file,
    in_ledger.movements,
    in_ledger.refunds,
    in_ledger.orders,
    in_ledger.expiries,
    in_messages.messages,
    _deliveries,
)
