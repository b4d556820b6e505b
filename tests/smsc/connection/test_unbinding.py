"""An unbind of the server's: what comes before it, and what is answered after it."""

import pytest

from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import DeliverSm, HeaderOnlyPdu, MessageResp
from portal.smsc.server import SmppServer
from tests.smsc.esme import RawEsme, list_sessions, run_smsc, wait_until
from tests.support import AccountLogin


def count_stored(conn):
    return conn.execute("SELECT count(*) FROM messages").fetchone()[0]


async def test_it_comes_after_the_answers_and_nothing_more_is_stored(config, cast, conn, connect, change_account):
    change_account(windowing=0, throughput=0)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        batch = [esme.build_submit_sm(registered_delivery=0) for _ in range(20)]
        late = esme.build_submit_sm()
        (session,) = list_sessions(server)
        # As long as nothing can be written nothing is answered.
        other = connect()
        other.execute("BEGIN IMMEDIATE")
        esme.send(*batch)
        await wait_until(lambda: session.get_progress("").window == len(batch))
        session.unbind("a test")
        esme.send(late)
        await wait_until(lambda: session.is_reading_paused)
        other.execute("COMMIT")
        answers = [await esme.read_response() for _ in batch]
        assert [(each.sequence, each.status) for each in answers] == [(each.sequence, 0) for each in batch]
        unbind = await esme.read_pdu()
        assert isinstance(unbind, HeaderOnlyPdu)
        assert unbind.command == CommandId.UNBIND
        assert (await esme.wait_for_response(late.sequence)).status == CommandStatus.ESME_RSYSERR
        esme.send(HeaderOnlyPdu(CommandId.UNBIND_RESP, unbind.sequence))
        await esme.wait_for_close()
        assert count_stored(conn) == len(batch)


async def unbind_with_receipt(server: SmppServer, login: AccountLogin) -> tuple[RawEsme, DeliverSm]:
    """A client that the server is about to unbind, and a receipt that it has not answered."""
    esme = await RawEsme.connect_and_bind(server.port, login)
    await esme.submit()
    receipt = await esme.wait_for_pdu(CommandId.DELIVER_SM)
    (session,) = list_sessions(server)
    session.unbind("a test")
    return esme, receipt


async def test_it_waits_for_the_answers_to_receipts(config, cast):
    async with run_smsc(config) as server:
        esme, receipt = await unbind_with_receipt(server, cast.smpp_acme_1)
        esme.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 99), MessageResp(CommandId.DELIVER_SM_RESP, receipt.sequence))
        assert (await esme.read_response()).sequence == 99
        await esme.wait_for_unbind()


async def test_what_comes_late_is_refused_after_the_answers_to_receipts_were_read(config, cast):
    async with run_smsc(config) as server:
        esme, receipt = await unbind_with_receipt(server, cast.smpp_acme_1)
        late = esme.build_submit_sm()
        esme.send(late)
        unbind = await esme.wait_for_pdu(CommandId.UNBIND)
        (session,) = list_sessions(server)
        await wait_until(lambda: session._outgoing)
        esme.send(MessageResp(CommandId.DELIVER_SM_RESP, receipt.sequence))
        assert (await esme.wait_for_response(late.sequence)).status == CommandStatus.ESME_RSYSERR
        esme.send(HeaderOnlyPdu(CommandId.UNBIND_RESP, unbind.sequence))
        await esme.wait_for_close()


@pytest.mark.slow
async def test_it_does_not_wait_for_them_for_ever(config, cast):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        await esme.wait_for_pdu(CommandId.DELIVER_SM)
        (session,) = list_sessions(server)
        session.unbind("a test")
        await esme.wait_for_unbind()


async def test_a_client_that_unbinds_meanwhile_is_answered_and_closed(config, cast, connect):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        (session,) = list_sessions(server)
        other = connect()
        other.execute("BEGIN IMMEDIATE")
        submit, late = esme.build_submit_sm(), esme.build_submit_sm()
        esme.send(submit)
        await wait_until(lambda: session.get_progress("").window)
        session.unbind("a test")
        esme.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 98), HeaderOnlyPdu(CommandId.UNBIND, 99), late)
        assert (await esme.read_response()).sequence == 98
        assert (await esme.read_response()).status == CommandStatus.ESME_RINVBNDSTS
        other.execute("COMMIT")
        assert [(await esme.read_response()).sequence for _ in range(2)] == [submit.sequence, 99]
        await esme.wait_for_close()


async def test_what_cannot_be_stored_in_time_while_it_stops_is_refused(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        server.storage.outbound.refuses_submits = True
        assert (await esme.submit()).status == CommandStatus.ESME_RSYSERR
        assert count_stored(conn) == 0
