"""What pages are shown of the sessions that are open."""

from portal.core.clock import now_ms
from portal.services.accounts import session_records
from portal.services.accounts.session_records import SmppSessionProgress
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import HeaderOnlyPdu
from tests.smsc.esme import RawEsme, list_sessions, run_smsc, wait_until


def save_progress(server):
    """Have the server save the progress of its sessions, as if the time for it had come."""
    server.session_registry.save_progress(server.session_registry.progress_saved_at + 2)


async def shown(server, conn, account, condition):
    """Have it save once, and wait until the progress is in the database."""
    save_progress(server)
    return await wait_until(
        lambda: [each for each in session_records.list_open_smpp_sessions(conn, account.id) if condition(each)]
    )


async def test_what_has_passed_and_how_fast(config, cast, conn, account):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        messages = [esme.build_submit_sm() for _ in range(5)]
        esme.send(*messages)
        await esme.wait_for_responses(messages)
        for _ in messages:
            await esme.receive_deliver_sm()
        # Answered in order: then the server has read the answers to its receipts too.
        await esme.request(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 99))
        (seen,) = await shown(server, conn, account, lambda each: each.submitted)
        assert (seen.submitted, seen.delivered, seen.window, seen.rate_samples) == (5, 5, 0, (5,))
        assert abs(seen.seen_at - now_ms()) < 5_000
        await esme.submit()
        (seen,) = await shown(server, conn, account, lambda each: len(each.rate_samples) == 2)
        assert seen.rate_samples == (5, 0.5)


async def test_the_graph_goes_back_a_minute_and_then_is_empty(config, cast, conn, account):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        for _ in range(session_records.RATE_SAMPLE_COUNT):
            save_progress(server)
        assert await shown(server, conn, account, lambda each: each.submitted and not each.rate_samples)


async def test_nothing_is_written_of_a_session_that_does_nothing(config, cast, conn, account, monkeypatch):
    async with run_smsc(config) as server:
        await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        written: list[SmppSessionProgress] = []
        monkeypatch.setattr(server.storage, "update_session_progress", written.append)
        save_progress(server)
        assert len(written) == 1
        for _ in range(3):
            save_progress(server)
        assert len(written) == 1


async def test_messages_know_their_session_after_its_end(config, cast, conn, account):
    async with run_smsc(config) as server:
        quiet = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await quiet.close()
        await wait_until(lambda: not server.connection_limits.sessions)
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        (session_id,) = conn.execute("SELECT session_id FROM messages").fetchone()
        both = [session_id - 1, session_id]
        origin = session_records.find_smpp_session_summaries(conn, account.id, both)[session_id]
        assert (origin.address, origin.ended_at) == ("127.0.0.1", None)
        await esme.close()
        await wait_until(lambda: not session_records.list_open_smpp_sessions(conn, account.id))
        origins = session_records.find_smpp_session_summaries(conn, account.id, both)
        assert origins.keys() == {session_id}, "the quiet one is not kept"
        ended_at = origins[session_id].ended_at
        assert ended_at
        assert abs(ended_at - now_ms()) < 5_000


async def test_a_session_that_ends_before_its_message_is_answered_is_kept(config, cast, conn, account):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await wait_until(lambda: session_records.list_open_smpp_sessions(conn, account.id))
        conn.execute("BEGIN IMMEDIATE")
        esme.send(esme.build_submit_sm())
        (session,) = list_sessions(server)
        await wait_until(lambda: session.get_progress("").window)
        await esme.close()
        await wait_until(lambda: not server.connection_limits.sessions)
        conn.execute("ROLLBACK")
        (session_id,) = await wait_until(lambda: conn.execute("SELECT session_id FROM messages").fetchone())
        await wait_until(lambda: not session_records.list_open_smpp_sessions(conn, account.id))
        assert session_records.find_smpp_session_summaries(conn, account.id, [session_id]).keys() == {session_id}


async def test_a_message_that_was_refused_for_want_of_credits_knows_its_session(config, cast, conn, account):
    conn.execute("UPDATE accounts SET balance = 0")
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit()).status == CommandStatus.ESME_RSUBMITFAIL
        (session_id,) = conn.execute("SELECT session_id FROM messages").fetchone()
    assert session_records.find_smpp_session_summaries(conn, account.id, [session_id]).keys() == {session_id}


async def test_a_session_never_has_the_number_of_another_one(config, cast, conn, account):
    seen = []
    for _ in range(2):
        async with run_smsc(config) as server:
            for _ in range(2):
                esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
                (row,) = await wait_until(lambda: session_records.list_open_smpp_sessions(conn, account.id))
                seen.append(row.id)
                await esme.close()
                await wait_until(lambda: not session_records.list_open_smpp_sessions(conn, account.id))
    assert seen == sorted(set(seen))
