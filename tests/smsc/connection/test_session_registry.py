"""What pages are shown of the sessions that are open."""

from portal.core.clock import now_ms
from portal.services.accounts import session_records
from portal.smsc.protocol.constants import Command, Status
from portal.smsc.protocol.pdu import Plain
from tests.smsc.esme import Esme, eventually, smsc


class Clock:
    """An event loop of which only the time is asked."""

    def __init__(self, now):
        self._now = now

    def time(self):
        return self._now


def look(server):
    """Have the server look at its sessions as if the time for it had come."""
    session_registry = server._session_registry
    loop, session_registry._loop = session_registry._loop, Clock(session_registry._looked_at + 2)
    session_registry.look()
    session_registry._loop = loop


async def shown(server, conn, account, condition):
    """Have it look once, and wait until what it has seen is in the database."""
    look(server)
    return await eventually(lambda: [each for each in session_records.of_account(conn, account.id) if condition(each)])


async def test_what_has_passed_and_how_fast(config, cast, conn, account):
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        messages = [esme.message() for _ in range(5)]
        esme.send(*messages)
        await esme.answers_to(messages)
        for _ in messages:
            await esme.receipt()
        # Answered in order: then the server has read the answers to its receipts too.
        await esme.request(Plain(Command.ENQUIRE_LINK, 99))
        (seen,) = await shown(server, conn, account, lambda each: each.submitted)
        assert (seen.submitted, seen.delivered, seen.window, seen.rates) == (5, 5, 0, (5,))
        assert abs(seen.seen_at - now_ms()) < 5_000
        await esme.submit()
        (seen,) = await shown(server, conn, account, lambda each: len(each.rates) == 2)
        assert seen.rates == (5, 0.5)


async def test_the_graph_goes_back_a_minute_and_then_is_empty(config, cast, conn, account):
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        await esme.submit()
        for _ in range(session_records.RATES_KEPT):
            look(server)
        assert await shown(server, conn, account, lambda each: each.submitted and not each.rates)


async def test_nothing_is_written_of_a_session_that_does_nothing(config, cast, conn, account):
    async with smsc(config) as server:
        await Esme.bound(server.port, cast.smpp_acme_1)
        written = []
        server._storage.session_progressed = written.append
        look(server)
        assert len(written) == 1
        for _ in range(3):
            look(server)
        assert len(written) == 1


async def test_messages_know_their_session_after_its_end(config, cast, conn, account):
    async with smsc(config) as server:
        quiet = await Esme.bound(server.port, cast.smpp_acme_1)
        await quiet.close()
        await eventually(lambda: not server._connection_limits.sessions)
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        await esme.submit()
        (session_id,) = conn.execute("SELECT session_id FROM messages").fetchone()
        both = [session_id - 1, session_id]
        origin = session_records.origins(conn, account.id, both)[session_id]
        assert (origin.address, origin.ended_at) == ("127.0.0.1", None)
        await esme.close()
        await eventually(lambda: not session_records.of_account(conn, account.id))
        origins = session_records.origins(conn, account.id, both)
        assert origins.keys() == {session_id}, "the quiet one is not kept"
        assert abs(origins[session_id].ended_at - now_ms()) < 5_000


async def test_a_session_that_ends_before_its_message_is_answered_is_kept(config, cast, conn, account):
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        await eventually(lambda: session_records.of_account(conn, account.id))
        conn.execute("BEGIN IMMEDIATE")
        esme.send(esme.message())
        (session,) = server._connection_limits.sessions
        await eventually(lambda: session._in_flight)
        await esme.close()
        await eventually(lambda: not server._connection_limits.sessions)
        conn.execute("ROLLBACK")
        (session_id,) = await eventually(lambda: conn.execute("SELECT session_id FROM messages").fetchone())
        await eventually(lambda: not session_records.of_account(conn, account.id))
        assert session_records.origins(conn, account.id, [session_id]).keys() == {session_id}


async def test_a_message_that_was_refused_for_want_of_credits_knows_its_session(config, cast, conn, account):
    conn.execute("UPDATE accounts SET balance = 0")
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        assert (await esme.submit()).status == Status.ESME_RSUBMITFAIL
        (session_id,) = conn.execute("SELECT session_id FROM messages").fetchone()
    assert session_records.origins(conn, account.id, [session_id]).keys() == {session_id}


async def test_a_session_never_has_the_number_of_another_one(config, cast, conn, account):
    seen = []
    for _ in range(2):
        async with smsc(config) as server:
            for _ in range(2):
                esme = await Esme.bound(server.port, cast.smpp_acme_1)
                (row,) = await eventually(lambda: session_records.of_account(conn, account.id))
                seen.append(row.id)
                await esme.close()
                await eventually(lambda: not session_records.of_account(conn, account.id))
    assert seen == sorted(set(seen))
