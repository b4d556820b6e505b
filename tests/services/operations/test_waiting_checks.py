"""`check` names what is off with messages that wait for an upstream, and with refunds of what was not delivered."""

from types import SimpleNamespace

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL, SYSTEM
from portal.services.common.message_states import DELIVERED, UNDELIVERABLE
from portal.services.history import refunds
from portal.services.messages import outcomes
from portal.services.messages.outcomes import MessageOutcome
from portal.services.operations import self_check
from portal.services.statistics import rollup
from portal.services.upstreams import upstreams
from tests.services.submitting import store_messages
from tests.support import prepare_submit


@pytest.fixture
def waiting(conn: Connection, keys: Keys, acme_1: Account, acme_2: Account) -> SimpleNamespace:
    """Messages in all the places where one can be, of which nothing is off; `rows` has their ids."""
    conn.execute("PRAGMA foreign_keys = OFF")
    now = now_ms()
    account_id = acme_1.id
    submits = [prepare_submit(conn, account_id) for _ in range(7)]
    dated = prepare_submit(conn, account_id, scheduled_at=now + DAY_MS)
    names = ("simulated", "queued", "held", "behind", "sent", "trying", "ended", "dated")
    rows = dict(zip(names, store_messages(conn, [*submits, dated], now), strict=True))
    upstreams.create_upstream(conn, keys, SHELL, "sim", kind=upstreams.SIMULATOR)
    values = rows | {"account": account_id, "other": acme_2.id, "now": now}
    outcomes.finish_messages(conn, [MessageOutcome(rows["ended"], UNDELIVERABLE, 9, now)])
    conn.execute("UPDATE counters SET value = :simulated WHERE name = 'last_simulated_message'", values)
    conn.execute("UPDATE messages SET upstream = 1 WHERE id IN (:sent, :trying)", values)
    conn.execute("UPDATE messages SET upstream = NULL WHERE id NOT IN (:sent, :trying)", values)
    conn.execute("DELETE FROM queued_messages")
    conn.execute("INSERT INTO queue_paths VALUES (1, '1', 1)")
    conn.execute("INSERT INTO queued_messages VALUES (0, :account, 0, :queued)", values)
    conn.executemany(
        "INSERT INTO held_messages (account_id, destination, message_id, attempts, not_before, error)"
        " VALUES (:account, :to, :id, :attempts, :not_before, '')",
        [
            {"account": account_id, "to": "1", "id": rows["held"], "attempts": 2, "not_before": now},
            {"account": account_id, "to": "1", "id": rows["behind"], "attempts": 0, "not_before": None},
            {"account": account_id, "to": "2", "id": rows["trying"], "attempts": 1, "not_before": None},
        ],
    )
    rollup.roll_up_all(conn)
    return SimpleNamespace(conn=conn, rows=values)


def test_nothing_is_off(waiting):
    assert self_check.list_problem_texts(waiting.conn) == []


DAMAGES = {
    "queued, and ended": (
        "UPDATE messages SET state = 5, ptt = 9 WHERE id = :queued",
        "smpp-acme-1: rows of queued_messages that are of none of its messages under way: 1, the first names messages"
        " row {queued}",
    ),
    "queued, and removed": (
        "UPDATE queued_messages SET message_id = 1",
        "smpp-acme-1: rows of queued_messages that are of none of its messages under way: 1, the first names messages"
        " row 1",
    ),
    "queued as another account's": (
        "UPDATE queued_messages SET account_id = :other",
        "smpp-acme-2: rows of queued_messages that are of none of its messages under way: 1, the first names messages"
        " row {queued}",
    ),
    "held, and ended": (
        "UPDATE messages SET state = 5, ptt = 9 WHERE id = :behind",
        "smpp-acme-1: rows of held_messages that are of none of its messages under way: 1, the first names messages row"
        " {behind}",
    ),
    "held as another account's": (
        "UPDATE held_messages SET account_id = :other WHERE message_id = :held",
        "smpp-acme-2: rows of held_messages that are of none of its messages under way: 1, the first names messages row"
        " {held}",
    ),
    "queued, and an upstream has it": (
        "UPDATE messages SET upstream = 1 WHERE id = :queued",
        "smpp-acme-1: messages that wait in queued_messages, and that an upstream has: 1, the first is messages row"
        " {queued}",
    ),
    "queued and held": (
        "INSERT INTO queued_messages VALUES (0, :account, 3, :held)",
        "smpp-acme-1: messages that are in queued_messages and in held_messages: 1, the first is messages row {held}",
    ),
    "queued on two paths": (
        "INSERT INTO queued_messages SELECT (SELECT max(id) FROM queue_paths), account_id, priority_rank, message_id"
        " FROM queued_messages WHERE message_id = :queued",
        "smpp-acme-1: messages that wait on more than one path in queued_messages: 1, the first is messages row"
        " {queued}",
    ),
    "queued on a path that was removed": (
        "UPDATE queued_messages SET path = 99",
        "smpp-acme-1: messages that wait on a path which there isn't: 1, the first is messages row {queued}",
    ),
    "held on a path that was removed": (
        "UPDATE held_messages SET path = 99 WHERE message_id = :behind",
        "smpp-acme-1: messages that wait on a path which there isn't: 1, the first is messages row {behind}",
    ),
    "held, and not tried again": (
        "UPDATE held_messages SET not_before = NULL WHERE message_id = :held",
        "smpp-acme-1: destinations in held_messages to which nothing is tried again: 1, the first message to one of"
        " them is messages row {held}",
    ),
    "held, and no longer under way": (
        "UPDATE messages SET upstream = NULL WHERE id = :trying",
        "smpp-acme-1: destinations in held_messages to which nothing is tried again: 1, the first message to one of"
        " them is messages row {trying}",
    ),
    "no longer queued": (
        "DELETE FROM queued_messages",
        "smpp-acme-1: messages that no upstream has, and that wait for none: 1, the first is messages row {queued}",
    ),
    "no longer held": (
        "DELETE FROM held_messages WHERE message_id = :behind",
        "smpp-acme-1: messages that no upstream has, and that wait for none: 1, the first is messages row {behind}",
    ),
    "no upstream's any more": (
        "UPDATE messages SET upstream = NULL WHERE id = :sent",
        "smpp-acme-1: messages that no upstream has, and that wait for none: 1, the first is messages row {sent}",
    ),
    "its date has come": (
        "UPDATE messages SET due_at = due_at + 1 WHERE id = :dated",
        "smpp-acme-1: messages that no upstream has, and that wait for none: 1, the first is messages row {dated}",
    ),
    "not the simulator's": (
        "UPDATE counters SET value = 1 WHERE name = 'last_simulated_message'",
        "smpp-acme-1: messages that no upstream has, and that wait for none: 1, the first is messages row {simulated}",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_off_is_named(waiting, damage, sentence):
    waiting.conn.execute(damage, waiting.rows)
    assert sentence.format(**waiting.rows) in self_check.list_problem_texts(waiting.conn)


def test_without_an_upstream_all_messages_are_the_simulators(waiting):
    waiting.conn.execute("DELETE FROM queued_messages")
    waiting.conn.execute("UPDATE counters SET value = 1 WHERE name = 'last_simulated_message'")
    assert self_check.list_problem_texts(waiting.conn)
    waiting.conn.execute("DELETE FROM upstreams")
    assert self_check.list_problem_texts(waiting.conn) == []


def test_until_the_server_has_seen_the_first_upstream_too(waiting):
    waiting.conn.execute("DELETE FROM queued_messages")
    waiting.conn.execute("UPDATE counters SET value = 0 WHERE name = 'last_simulated_message'")
    assert self_check.list_problem_texts(waiting.conn) == []


def test_the_system_gives_back_what_was_not_delivered_where_there_was_an_upstream(waiting, acme_1):
    ended = waiting.rows["ended"]
    refunds.refund_message(waiting.conn, SYSTEM, acme_1, ended, "not delivered")
    assert self_check.list_problem_texts(waiting.conn) == []
    waiting.conn.execute("UPDATE messages SET state = ? WHERE id = ?", (DELIVERED, ended))
    refunded = f"gives back what messages row {ended} cost, which was neither called back nor stopped"
    assert any(refunded in each for each in self_check.list_problem_texts(waiting.conn))
    waiting.conn.execute("UPDATE messages SET state = ? WHERE id = ?", (UNDELIVERABLE, ended))
    waiting.conn.execute("DELETE FROM upstreams")
    assert any(refunded in each for each in self_check.list_problem_texts(waiting.conn))
