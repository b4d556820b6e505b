"""Operators' test messages: through one upstream, of no account, free; what comes of them is told in their row."""

import pytest

from portal.core import db, wakeup
from portal.services.common.audit import SYSTEM
from portal.services.messages import trial_messages as trials
from portal.services.messages.trial_messages import UpstreamNotBound, UpstreamTestMessage
from portal.services.operations import self_check
from portal.services.upstreams import binds, health, upstreams
from portal.smsc.protocol.constants import CommandId
from portal.smsc.protocol.pdu import SubmitSm
from tests.smsc.esme import RawEsme, run_smsc, wait_until
from tests.smsc.upstream.running import build_receipt, run_bound
from tests.smsc.upstream.smpp_client.carrier import CarrierConnection, run_carrier

NUMBER = "393331234567"


async def send(
    conn: db.Connection, wakeup_sender: wakeup.WakeupSender, name: str = "carrier", text: str = "hello @ é"
) -> UpstreamTestMessage:
    upstream = upstreams.get_upstream(conn, name)
    await wait_until(lambda: binds.get_upstream_state(conn, upstream.id).state == binds.BOUND)
    sent = trials.send_test_message(conn, SYSTEM, upstream, "ACME", "+39 333 1234567", text)
    wakeup_sender.send()
    return sent


async def wait_for_state(conn: db.Connection, message_id: int, state: str) -> UpstreamTestMessage:
    await wait_until(lambda: trials.get_test_message(conn, message_id).state == state)
    return trials.get_test_message(conn, message_id)


async def read_sent(connection: CarrierConnection) -> SubmitSm:
    submit = await connection.read_submit()
    assert (submit.destination, submit.source) == (NUMBER, "ACME")
    assert submit.short_message == b"hello \0 \5"
    return submit


@pytest.mark.parametrize(("stat", "state"), [("DELIVRD", "delivered"), ("UNDELIV", "undelivered")])
async def test_it_is_accepted_and_its_receipt_tells_the_rest(config, conn, add_upstream, wakeup_sender, stat, state):
    movement_count = conn.execute("SELECT count(*) FROM movements").fetchone()[0]
    async with run_bound(config, add_upstream) as (_, _, connection):
        sent = await send(conn, wakeup_sender)
        submit = await read_sent(connection)
        connection.answer(submit, message_id="00ff")
        accepted = await wait_for_state(conn, sent.id, "accepted")
        assert (accepted.upstream_id, accepted.is_over) == ("00ff", False)
        # In another form, as for any other message.
        connection.send(build_receipt(submit, "255", stat))
        ended = await wait_for_state(conn, sent.id, state)
        assert stat in ended.status
        assert ended.is_over
        assert (await connection.read_response()).status == 0
    # It is no message, nothing is charged, and its receipt isn't nobody's.
    for table in ("messages", "unmatched_receipts"):
        assert conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0
    assert conn.execute("SELECT count(*) FROM movements").fetchone()[0] == movement_count
    assert self_check.list_problem_texts(conn) == []


async def test_a_receipt_before_the_answer_is_found(config, conn, add_upstream, wakeup_sender):
    async with run_bound(config, add_upstream) as (_, _, connection):
        sent = await send(conn, wakeup_sender)
        submit = await read_sent(connection)
        connection.send(build_receipt(submit, "x1"))
        await connection.wait_for_pdu(CommandId.DELIVER_SM_RESP)
        connection.answer(submit, message_id="x1")
        await wait_for_state(conn, sent.id, "delivered")
        assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 0


@pytest.mark.parametrize("status", [0x45, 0x08], ids=["for good", "for the moment"])
async def test_a_refusal_is_told_and_nothing_is_sent_again(config, conn, cast, add_upstream, wakeup_sender, status):
    async with run_bound(config, add_upstream) as (server, _, connection):
        sent = await send(conn, wakeup_sender)
        connection.answer(await read_sent(connection), status)
        refused = await wait_for_state(conn, sent.id, "refused")
        assert f"0x{status:02X}" in refused.status
        # A customer's message goes on.
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        assert (await connection.read_submit()).short_message != b"hello \0 \5"
        await connection.expect_nothing()
        await esme.close()


async def test_an_answer_makes_a_failing_upstream_well_again(config, conn, cast, add_upstream, wakeup_sender):
    async with run_bound(config, add_upstream, failover_seconds=1, response_seconds=3600) as (server, _, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        await connection.read_submit()  # and says nothing
        await wait_until(lambda: health.list_health(conn).get(1, health.UpstreamHealth("")).state == health.FAILING)
        await send(conn, wakeup_sender)
        connection.answer(await read_sent(connection), message_id="1")
        await wait_until(lambda: health.list_health(conn)[1].state == health.GOOD)
        await esme.close()


async def test_a_lost_connection_leaves_it_unanswered(config, conn, add_upstream, wakeup_sender):
    async with run_bound(config, add_upstream) as (_, carrier, connection):
        sent = await send(conn, wakeup_sender)
        await read_sent(connection)
        connection.abort()
        await wait_for_state(conn, sent.id, "unanswered")
        again = await carrier.accept()
        await again.expect_nothing()


async def test_a_restart_sends_none_again(config, conn, add_upstream):
    async with run_carrier() as carrier:
        upstream = add_upstream(carrier.port)
        # As if the server had been killed before it has seen it.
        conn.execute(
            "INSERT INTO test_messages (upstream, created_at, source, destination, text, state)"
            " VALUES (?, 1, 'ACME', ?, 'hello', 'waiting')",
            (upstream.id, NUMBER),
        )
        async with run_smsc(config):
            connection = await carrier.accept()
            await wait_for_state(conn, 1, "unanswered")
            await connection.expect_nothing()


async def test_a_drained_upstream_sends_it_and_one_that_is_not_bound_refuses(config, conn, add_upstream, wakeup_sender):
    async with run_bound(config, add_upstream) as (_, _, connection):
        await wait_until(lambda: binds.get_upstream_state(conn, 1).state == binds.BOUND)
        upstreams.drain_upstream(conn, SYSTEM, upstreams.get_upstream(conn, "carrier"))
        sent = await send(conn, wakeup_sender)
        connection.answer(await read_sent(connection), message_id="1")
        await wait_for_state(conn, sent.id, "accepted")
    with pytest.raises(UpstreamNotBound):
        trials.send_test_message(conn, SYSTEM, upstreams.get_upstream(conn, "carrier"), "", NUMBER, "hello")
