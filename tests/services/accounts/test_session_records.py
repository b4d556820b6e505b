from dataclasses import replace

import pytest

from portal.core.clock import now_ms
from portal.core.db import Connection
from portal.services.accounts import session_records
from portal.services.accounts.accounts import Account
from portal.services.accounts.session_records import (
    SmppSessionEnd,
    SmppSessionProgress,
    SmppSessionRecord,
    SmppSessionSummary,
)
from portal.services.common.audit import SHELL, Actor
from portal.services.messages import smpp_config
from portal.services.messages.smpp_config import AccountConfig
from tests.services.audit_log import list_audit_entries


@pytest.fixture
def session(acme_1: Account) -> SmppSessionRecord:
    now = now_ms()
    return SmppSessionRecord(1, acme_1.id, "127.0.0.1", "transceiver", "TLSv1.3", 1, now, now)


def test_open_sessions_are_seen_while_they_are_open(conn, acme_1, acme_2, session):
    session_records.insert_smpp_sessions(conn, [session])
    assert session_records.list_open_smpp_sessions(conn, acme_1.id) == [session]
    assert session_records.list_open_smpp_sessions(conn, acme_2.id) == []
    session_records.update_smpp_session_progress(
        conn, [SmppSessionProgress(1, session.seen_at + 5, 10, 7, 3, "0.5 0 12")]
    )
    (seen,) = session_records.list_open_smpp_sessions(conn, acme_1.id)
    assert (seen.seen_at, seen.submitted, seen.delivered, seen.window) == (session.seen_at + 5, 10, 7, 3)
    assert seen.rate_samples == (0.5, 0.0, 12.0)
    session_records.close_smpp_sessions(conn, [session_end(session)])
    assert session_records.list_open_smpp_sessions(conn, acme_1.id) == []


def test_a_column_that_is_added_to_the_table_changes_nothing(conn, acme_1, session):
    conn.execute("ALTER TABLE connections ADD COLUMN added_later INTEGER")
    session_records.insert_smpp_sessions(conn, [session])
    assert session_records.list_open_smpp_sessions(conn, acme_1.id) == [session]
    assert session_records.get_open_smpp_session_by_id(conn, acme_1.id, session.id) == session


def session_end(session: SmppSessionRecord, *, keep_record: bool = False) -> SmppSessionEnd:
    return SmppSessionEnd(session.id, session.bound_at + 1_000, keep_record)


def test_none_outlives_the_server(conn, acme_1, session):
    session_records.insert_smpp_sessions(conn, [session])
    session_records.close_all_smpp_sessions(conn)
    assert session_records.list_open_smpp_sessions(conn, acme_1.id) == []


def test_where_messages_came_from_is_known_after_the_end_of_the_session(conn, acme_1, acme_2, session):
    silent, other = replace(session, id=2), replace(session, id=3, account_id=acme_2.id)
    session_records.insert_smpp_sessions(conn, [session, silent, other])
    origin = SmppSessionSummary(1, "127.0.0.1", "transceiver", "TLSv1.3", session.bound_at, None)
    assert session_records.find_smpp_session_summaries(conn, acme_1.id, [1, 3, 4]) == {1: origin}
    session_records.close_smpp_sessions(
        conn, [session_end(session, keep_record=True), session_end(silent), session_end(other, keep_record=True)]
    )
    origin = replace(origin, ended_at=session.bound_at + 1_000)
    assert session_records.find_smpp_session_summaries(conn, acme_1.id, [1, 2, 3]) == {1: origin}
    assert session_records.find_smpp_session_summaries(conn, acme_2.id, [1, 2, 3]).keys() == {3}


def test_a_session_is_looked_up_by_its_id_however_many_the_account_has_had(conn, acme_1):
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    session_records.find_smpp_session_summaries(conn, acme_1.id, [1, 2])
    conn.set_trace_callback(None)
    steps = [row["detail"] for row in conn.execute(f"EXPLAIN QUERY PLAN {statements[0]}")]
    assert any("ended_sessions USING INTEGER PRIMARY KEY" in each for each in steps), steps


def test_after_a_server_that_was_killed_each_session_that_could_send_is_kept(conn, acme_1, session):
    session_records.insert_smpp_sessions(conn, [session, replace(session, id=2, bind_type="receiver")])
    session_records.update_smpp_session_progress(conn, [SmppSessionProgress(1, session.seen_at + 5, 1, 1, 0)])
    session_records.close_all_smpp_sessions(conn)
    (origin,) = session_records.find_smpp_session_summaries(conn, acme_1.id, [1, 2]).values()
    assert (origin.id, origin.ended_at) == (1, session.seen_at + 5)


def test_an_id_is_not_given_again(conn, session):
    assert session_records.get_last_smpp_session_id(conn) == 0
    session_records.insert_smpp_sessions(conn, [replace(session, id=2), session])
    assert session_records.get_last_smpp_session_id(conn) == 2
    session_records.close_smpp_sessions(conn, [session_end(replace(session, id=2))])
    session_records.insert_smpp_sessions(conn, [replace(session, id=3)])
    session_records.close_all_smpp_sessions(conn)
    assert session_records.get_last_smpp_session_id(conn) == 3


def config_of(conn: Connection, account: Account) -> AccountConfig:
    return next(each for each in smpp_config.load_account_configs(conn) if each.id == account.id)


@pytest.mark.slow
def test_somebody_asks_for_the_end_of_a_session(conn, acme_1, session):
    session_records.insert_smpp_sessions(conn, [session, replace(session, id=2)])
    before = config_of(conn, acme_1)
    alice = Actor("alice@acme.example", "198.51.100.1")
    assert session_records.request_smpp_session_end(conn, alice, acme_1, 2).address == "127.0.0.1"
    after = config_of(conn, acme_1)
    assert (before.ending_session_ids, after.ending_session_ids) == (frozenset(), frozenset({2}))
    assert after.version > before.version
    assert [each.ending_at is not None for each in session_records.list_open_smpp_sessions(conn, acme_1.id)] == [
        False,
        True,
    ]
    session_records.request_smpp_session_end(conn, alice, acme_1, 2)
    (entry,) = (each for each in list_audit_entries(conn, acme_1.id) if each.action == "session.end")
    assert (entry.actor, entry.details) == ("alice@acme.example", {"client": "127.0.0.1", "bind_type": "transceiver"})


def test_what_passes_through_a_session_is_no_change_of_its_account(conn, acme_1, session):
    before = config_of(conn, acme_1).version
    session_records.insert_smpp_sessions(conn, [session])
    session_records.update_smpp_session_progress(conn, [SmppSessionProgress(1, session.seen_at + 5, 10, 7, 3, "5")])
    session_records.close_smpp_sessions(conn, [session_end(session, keep_record=True)])
    assert config_of(conn, acme_1).version == before


def test_nobody_ends_a_session_of_another_account_or_one_that_has_ended(conn, acme_1, acme_2, session):
    session_records.insert_smpp_sessions(conn, [session])
    with pytest.raises(session_records.NoSuchSmppSession):
        session_records.request_smpp_session_end(conn, SHELL, acme_2, 1)
    session_records.close_smpp_sessions(conn, [session_end(session, keep_record=True)])
    with pytest.raises(session_records.NoSuchSmppSession):
        session_records.request_smpp_session_end(conn, SHELL, acme_1, 1)


def test_a_heart_that_stops_beating_is_noticed(conn):
    assert not session_records.is_component_alive(conn, "smsc")
    session_records.record_component_heartbeat(conn, "smsc", now_ms())
    assert session_records.is_component_alive(conn, "smsc")
    conn.execute("UPDATE components SET seen_at = seen_at - 60000")
    assert not session_records.is_component_alive(conn, "smsc")
    session_records.record_component_heartbeat(conn, "smsc", now_ms())
    session_records.remove_component_heartbeat(conn, "smsc")
    assert not session_records.is_component_alive(conn, "smsc")
