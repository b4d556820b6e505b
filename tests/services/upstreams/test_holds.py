"""Accounts on hold: what waits of them is not claimed, until they are released."""

import sqlite3

import pytest

from portal.core.db import Connection, write_transaction
from portal.services.common.audit import SYSTEM, Actor
from portal.services.upstreams import claims, holds, queue, waiting_counts
from portal.services.upstreams.claims import Claim, ClaimedIds
from tests.services.upstreams.waiting import queue_messages, queue_of_each

NOW = 1_800_000_000_000
ANNA = Actor("anna@example.com")


def claim(conn: Connection, limit: int, now: int = NOW) -> ClaimedIds:
    with write_transaction(conn):
        return claims.claim_message_ids(conn, Claim(1, [()], limit), now)


def test_of_an_account_on_hold_nothing_is_claimed_and_of_others_all_is(conn, cast):
    held = queue_messages(conn, cast.smpp_acme_1.id, 5)
    others = queue_messages(conn, cast.smpp_globex_1.id, 3)
    assert holds.hold_account(conn, ANNA, cast.smpp_acme_1.id, "too many in an hour")
    claimed = claim(conn, 10)
    assert claimed.message_ids == others
    # Or the server would ask again and again.
    assert claimed.left_count == 0
    assert waiting_counts.count_waiting_messages_by_path(conn) == {(): 5}
    assert queue.list_waiting_accounts(conn) == {((), cast.smpp_acme_1.id)}
    assert holds.release_account(conn, ANNA, cast.smpp_acme_1.id)
    assert claim(conn, 10).message_ids == held


def test_what_is_left_is_that_of_other_accounts(conn, cast):
    queue_messages(conn, cast.smpp_acme_1.id, 50)
    queue_messages(conn, cast.smpp_globex_1.id, 5)
    holds.hold_account(conn, ANNA, cast.smpp_acme_1.id, "")
    assert claim(conn, 3).left_count == 2


def test_what_is_to_be_tried_again_is_put_off_and_holds_up_no_one(conn, cast):
    tried = queue_of_each(conn, cast.smpp_acme_1.id, [f"39333{each:07d}" for each in range(30)])
    claim(conn, 30)
    (other,) = queue_messages(conn, cast.smpp_globex_1.id)
    claim(conn, 1)
    with write_transaction(conn):
        for each in (*tried, other):
            queue.hold_message(conn, each, "ESME_RSYSERR 0x08", NOW)
    holds.hold_account(conn, ANNA, cast.smpp_acme_1.id, "")
    later = NOW + 5_000
    claimed = ClaimedIds([], [], None, 0)
    for _ in range(10):
        if claimed.left_count != 0:
            claimed = claim(conn, 10, later)
    assert conn.execute("SELECT upstream FROM messages WHERE id = ?", (other,)).fetchone()[0] == 1
    assert claimed.left_count == 0
    assert queue.get_next_retry_time(conn) == later + 60_000
    holds.release_account(conn, ANNA, cast.smpp_acme_1.id)
    assert claim(conn, 100, later + 60_000).message_ids == tried


def test_the_first_hold_counts_and_both_ends_are_in_the_audit_log(conn, cast):
    account_id = cast.smpp_acme_1.id
    assert holds.hold_account(conn, ANNA, account_id, "stolen?")
    assert not holds.hold_account(conn, Actor("bob@example.com"), account_id, "again")
    (hold,) = holds.list_account_holds(conn)
    assert (hold.account_id, hold.account, hold.reason, hold.actor) == (account_id, "smpp-acme-1", "stolen?", ANNA.name)
    assert holds.release_account(conn, ANNA, account_id)
    assert not holds.release_account(conn, ANNA, account_id)
    assert holds.list_account_holds(conn) == []
    rows = conn.execute(
        "SELECT action, account_id, customer_id, details FROM audit_log WHERE action LIKE 'queue.%' ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [
        (action, account_id, cast.acme, '{"reason": "stolen?"}')
        for action in ("queue.hold_account", "queue.release_account")
    ]


def test_what_the_system_holds_becomes_the_hold_of_who_holds_it_too(conn, cast):
    globex_1, acme_1 = cast.smpp_globex_1.id, cast.smpp_acme_1.id
    for account_id, reason in ((acme_1, "stolen"), (globex_1, "")):
        assert holds.hold_account(conn, SYSTEM, account_id, "brake: busy_hour")
        (since,) = conn.execute("SELECT since FROM account_holds WHERE account_id = ?", (account_id,)).fetchone()
        assert not holds.hold_account(conn, SYSTEM, account_id, "brake: expensive_country")
        assert holds.hold_account(conn, ANNA, account_id, reason)
        assert not holds.hold_account(conn, SYSTEM, account_id, "brake: expensive_country")
        (hold,) = [each for each in holds.list_account_holds(conn) if each.account_id == account_id]
        assert (hold.reason, hold.actor, hold.since) == (reason or "brake: busy_hour", ANNA.name, since)
    query = "SELECT account_id, details FROM audit_log WHERE action = 'queue.hold_account' AND actor = ? ORDER BY id"
    assert [tuple(row) for row in conn.execute(query, (ANNA.name,))] == [
        (acme_1, '{"reason": "stolen"}'),
        (globex_1, '{"reason": "brake: busy_hour"}'),
    ]


def test_an_account_that_is_none_cannot_be_held(conn):
    with pytest.raises(sqlite3.IntegrityError):
        holds.hold_account(conn, ANNA, 99, "")
