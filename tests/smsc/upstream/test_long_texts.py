"""Texts that are cut on their way to a carrier, through the whole server (pain 2)."""

import asyncio

import pytest

from portal.core import db
from portal.core.clock import now_ms
from portal.services.common import message_states
from portal.services.messages import message_parts
from portal.services.operations import self_check
from portal.services.upstreams import counters
from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import CancelSm, HeaderOnlyPdu, SubmitSm
from tests.smsc.esme import DEADLINE_S, RawEsme, run_smsc, wait_until
from tests.smsc.upstream.running import build_receipt, count_waiting, read_message, run_bound
from tests.smsc.upstream.smpp_client.carrier import CarrierConnection, run_carrier

TEXT = b"a" * 153 + b"b" * 153 + b"c" * 20
DESTINATION = "393331234567"


def get_number(submit: SubmitSm) -> int:
    """Which part it is, by its user data header."""
    assert submit.short_message[:3] == b"\x05\x00\x03"
    return submit.short_message[5]


def get_reference(submit: SubmitSm) -> int:
    return submit.short_message[3]


def answer(carrier: CarrierConnection, submit: SubmitSm, status: int = 0) -> None:
    """Answer a part, with an id that is made of its number."""
    carrier.answer(submit, status, f"id{get_number(submit)}")


async def submit_text(esme: RawEsme, destination: str = DESTINATION, text: bytes = TEXT) -> str:
    answered = await esme.submit(destination, b"", tlvs={TlvTag.MESSAGE_PAYLOAD: text})
    assert answered.status == CommandStatus.ESME_ROK
    return answered.message_id


def list_states(conn: db.Connection, message_id: str) -> list[int | None]:
    return [each.state for each in message_parts.read_message_parts(conn, [int(message_id)])[int(message_id)]]


@pytest.mark.parametrize("order", [(3, 1, 2), (1, 2, 3)])
@pytest.mark.parametrize("failing", [None, 2])
async def test_pain_2_receipts_of_all_parts_in_any_order_make_one_receipt(
    config, cast, conn, add_upstream, order, failing
):
    async with run_bound(config, add_upstream, refund="undelivered") as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message_id = await submit_text(esme)
        submits = await carrier.read_submits(3)
        assert [get_number(each) for each in submits] == [1, 2, 3]
        assert b"".join(each.short_message[6:] for each in submits) == TEXT
        assert len({get_reference(each) for each in submits}) == 1
        for each in submits:
            answer(carrier, each)
        await wait_until(lambda: read_message(conn, message_id)["upstream_id"] == "")
        price = read_message(conn, message_id)["price"]
        for number in order:
            stat = ("UNDELIV", "001") if number == failing else ("DELIVRD", "000")
            carrier.send(build_receipt(submits[number - 1], f"id{number}", *stat))
            assert (await carrier.read_response()).status == 0
        receipt = (await esme.receive_deliver_sm()).short_message.decode()
        assert f"id:{message_id} " in receipt
        assert ("stat:UNDELIV err:005" if failing else "stat:DELIVRD err:000") in receipt
        refunds = conn.execute("SELECT sum(amount) FROM movements WHERE kind = 'refund'").fetchone()[0]
        assert refunds == (price // 3 if failing else None)
        assert conn.execute("SELECT count(*) FROM deliveries").fetchone()[0] <= 1
        assert self_check.list_problem_texts(conn) == []


async def test_pain_2_a_connection_that_ends_in_the_middle_sends_only_the_other_parts_again(
    config, cast, conn, add_upstream
):
    async with run_bound(config, add_upstream, window=2) as (server, carrier, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message_id = await submit_text(esme)
        follower = await esme.submit(DESTINATION, b"behind it")
        first, second = await connection.read_submits(2)
        answer(connection, first)
        third = await connection.read_submit()
        assert [get_number(each) for each in (first, second, third)] == [1, 2, 3]
        await wait_until(lambda: conn.execute("SELECT count(*) FROM message_parts").fetchone()[0] == 1)
        await connection.close()
        connection = await carrier.accept()
        again = await connection.read_submits(2)
        assert [get_number(each) for each in again] == [2, 3]
        assert {get_reference(each) for each in again} == {get_reference(first)}
        for each in again:
            answer(connection, each)
        submit = await connection.read_submit()
        assert submit.short_message == b"behind it"
        connection.answer(submit)
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 2)
        assert counters.get_counters(conn, 1)["unsure"] == 1
        assert list_states(conn, message_id) == [message_states.ENROUTE] * 3
        assert read_message(conn, follower.message_id)["upstream_id"] == "id of behind it"
        assert not count_waiting(conn)
        assert self_check.list_problem_texts(conn) == []


async def test_pain_2_a_restart_in_the_middle_sends_only_the_other_parts_again(config, cast, conn, add_upstream):
    async with run_carrier() as carrier:
        upstream = add_upstream(carrier.port, long_texts="udh8")
        async with run_smsc(config) as server:
            connection = await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            message_id = await submit_text(esme)
            submits = await connection.read_submits(3)
            answer(connection, submits[1])
            await wait_until(lambda: conn.execute("SELECT count(*) FROM message_parts").fetchone()[0] == 1)
        reference = conn.execute("SELECT settings ->> '$.reference' FROM cut_messages").fetchone()[0]
        assert reference & 0xFF == get_reference(submits[0])
        # What is sent again is cut as it was, whatever is set meanwhile.
        conn.execute(
            "UPDATE upstreams SET settings = json_set(settings, '$.long_texts', 'sar') WHERE id = ?", (upstream.id,)
        )
        async with run_smsc(config):
            connection = await carrier.accept()
            again = await connection.read_submits(2)
            assert [each.short_message for each in again] == [submits[0].short_message, submits[2].short_message]
            for each in again:
                answer(connection, each)
            await wait_until(lambda: read_message(conn, message_id)["upstream_id"] == "")
            for number in (2, 3, 1):
                connection.send(build_receipt(submits[0], f"id{number}"))
                assert (await connection.read_response()).status == 0
            await wait_until(lambda: read_message(conn, message_id)["state"] == message_states.DELIVERED)
            assert self_check.list_problem_texts(conn) == []


async def test_a_part_that_is_refused_for_good_ends_the_text_and_the_others_stay_here(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream, window=2, refund="refused") as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message_id = await submit_text(esme)
        first, second = await carrier.read_submits(2)
        answer(carrier, second, CommandStatus.ESME_RSUBMITFAIL)
        # The third one has no room before that is answered, and none is sent then.
        await esme.submit(DESTINATION, b"behind it", registered_delivery=0)
        submit = await carrier.read_submit()
        assert submit.short_message == b"behind it"
        carrier.answer(submit)
        answer(carrier, first)
        carrier.send(build_receipt(first, "id1"))
        assert "stat:REJECTD" in (await esme.receive_deliver_sm()).short_message.decode()
        assert list_states(conn, message_id) == [message_states.DELIVERED, *[message_states.REJECTED] * 2]
        message = read_message(conn, message_id)
        assert message["upstream_status"] == "ESME_RSUBMITFAIL 0x45"
        refunds = conn.execute("SELECT sum(amount) FROM movements WHERE kind = 'refund'").fetchone()[0]
        assert refunds == message["price"] // 3 * 2
        assert self_check.list_problem_texts(conn) == []


async def test_a_text_that_is_refused_whole_is_one_message_that_has_failed(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message_id = await submit_text(esme)
        for each in await carrier.read_submits(3):
            answer(carrier, each, CommandStatus.ESME_RINVDSTADR)
        assert "stat:REJECTD err:100" in (await esme.receive_deliver_sm()).short_message.decode()
        assert read_message(conn, message_id)["upstream_status"] == "ESME_RINVDSTADR 0x0B"
        assert counters.get_counters(conn, 1)["failed"] == 1
        assert self_check.list_problem_texts(conn) == []


async def test_a_refusal_of_the_moment_holds_the_rest_of_the_text_and_what_is_behind_it(
    config, cast, conn, add_upstream
):
    async with run_bound(config, add_upstream, window=2) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message_id = await submit_text(esme)
        await esme.submit(DESTINATION, b"behind it")
        first, second = await carrier.read_submits(2)
        answer(carrier, second, CommandStatus.ESME_RSYSERR)
        await wait_until(lambda: conn.execute("SELECT count(*) FROM held_messages").fetchone()[0] == 2)
        cancel = CancelSm(next(esme.sequences), message_id=message_id, source="ACME", destination=DESTINATION)
        assert (await esme.request(cancel)).status == CommandStatus.ESME_RCANCELFAIL
        # It waits once the first part is answered, too.
        answer(carrier, first)
        await wait_until(lambda: read_message(conn, message_id)["upstream"] is None)
        assert list_states(conn, message_id) == [message_states.ENROUTE, None, None]
        cancel = CancelSm(next(esme.sequences), message_id=message_id, source="ACME", destination=DESTINATION)
        assert (await esme.request(cancel)).status == CommandStatus.ESME_RCANCELFAIL
        conn.execute("UPDATE held_messages SET not_before = 1 WHERE not_before IS NOT NULL")
        await esme.submit("393337654321", b"wakes the queue")
        taken: list[int | bytes] = []
        for _ in range(4):
            submit = await carrier.read_submit()
            if submit.esm_class:
                taken.append(get_number(submit))
                answer(carrier, submit)
            else:
                taken.append(submit.short_message)
                carrier.answer(submit)
        taken.remove(b"wakes the queue")
        assert taken == [2, 3, b"behind it"]
        await wait_until(lambda: read_message(conn, message_id)["upstream_id"] == "")
        assert self_check.list_problem_texts(conn) == []


async def test_a_text_is_not_called_back_of_which_a_part_was_lost_while_it_waited(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream, window=2, refund="refused") as (server, carrier, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message_id = await submit_text(esme)
        _, second = await connection.read_submits(2)
        answer(connection, second, CommandStatus.ESME_RSYSERR)
        await wait_until(lambda: conn.execute("SELECT count(*) FROM held_messages").fetchone()[0] == 1)
        await connection.close()
        await carrier.accept()
        # The first part may be at the handset.
        await wait_until(lambda: counters.get_counters(conn, 1)["unsure"] == 1)
        cancel = CancelSm(next(esme.sequences), message_id=message_id, source="ACME", destination=DESTINATION)
        assert (await esme.request(cancel)).status == CommandStatus.ESME_RCANCELFAIL
        assert read_message(conn, message_id)["state"] == message_states.ENROUTE


@pytest.mark.parametrize("unanswered", ["resend", "fail"])
async def test_a_stop_while_parts_are_under_way_leaves_a_text_unsure_that_was_refused_for_the_moment(
    config, cast, conn, add_upstream, unanswered
):
    async with run_carrier() as carrier:
        add_upstream(carrier.port, unanswered=unanswered)
        async with run_smsc(config) as server:
            connection = await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            message_id = await submit_text(esme)
            submits = await connection.read_submits(3)
            answer(connection, submits[1], CommandStatus.ESME_RSYSERR)
            await wait_until(lambda: conn.execute("SELECT count(*) FROM held_messages").fetchone()[0] == 1)
            await connection.close()
        counted = counters.get_counters(conn, 1)
        assert (counted["unsure"], counted["resent"]) == (1, int(unanswered == "resend"))
        state = message_states.UNKNOWN if unanswered == "fail" else message_states.ENROUTE
        assert read_message(conn, message_id)["state"] == state
        assert self_check.list_problem_texts(conn) == []


async def test_throttled_parts_go_on_in_their_order(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream, throttle_seconds=1) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message_id = await submit_text(esme)
        for each in await carrier.read_submits(3):
            answer(carrier, each, CommandStatus.ESME_RTHROTTLED if get_number(each) > 1 else 0)
        numbers = []
        for _ in range(2):
            submit = await carrier.read_submit()
            numbers.append(get_number(submit))
            answer(carrier, submit)
        assert numbers == [2, 3]
        await wait_until(lambda: read_message(conn, message_id)["upstream_id"] == "")
        assert counters.get_counters(conn, 1)["unsure"] == 0


async def test_the_window_counts_parts(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream, window=2) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await submit_text(esme)
        first, second = await carrier.read_submits(2)
        # What had been sent behind them would come before the answer.
        carrier.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 9))
        assert await carrier.read_pdu() == HeaderOnlyPdu(CommandId.ENQUIRE_LINK_RESP, 9)
        answer(carrier, first)
        third = await carrier.read_submit()
        assert [get_number(each) for each in (first, second, third)] == [1, 2, 3]


async def test_pain_3_the_throughput_counts_parts(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream, throughput=20) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        began = asyncio.get_running_loop().time()
        for each in range(3):
            await submit_text(esme, f"39333123456{each}")
        for _ in range(9):
            answer(carrier, await carrier.read_submit())
        # Nine parts, of which one or two may go out at once.
        assert asyncio.get_running_loop().time() - began > 7 / 20 * 0.9


async def test_a_text_is_called_back_while_none_of_its_parts_has_gone_out(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream, window=1) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = await esme.submit("393337654321", b"sent")
        waiting = await submit_text(esme)
        submit = await carrier.read_submit()
        assert submit.short_message == b"sent"
        await wait_until(lambda: read_message(conn, waiting) is not None)
        status = CommandStatus.ESME_RCANCELFAIL
        until = now_ms() + DEADLINE_S * 1000
        while status and now_ms() < until:
            # While it is being claimed, it can't be told where it is.
            cancel = CancelSm(next(esme.sequences), message_id=waiting, source="ACME", destination=DESTINATION)
            status = CommandStatus((await esme.request(cancel)).status)
        assert status == CommandStatus.ESME_ROK
        assert "stat:DELETED" in (await esme.receive_deliver_sm()).short_message.decode()
        carrier.answer(submit)
        begun = await submit_text(esme)
        submit = await carrier.read_submit()
        assert get_number(submit) == 1
        cancel = CancelSm(next(esme.sequences), message_id=begun, source="ACME", destination=DESTINATION)
        assert (await esme.request(cancel)).status == CommandStatus.ESME_RCANCELFAIL
        assert read_message(conn, sent.message_id)["state"] == message_states.ENROUTE
        for number in (1, 2, 3):
            assert get_number(submit) == number
            answer(carrier, submit)
            if number < 3:
                submit = await carrier.read_submit()
        await wait_until(lambda: read_message(conn, begun)["upstream_id"] == "")
        assert self_check.list_problem_texts(conn) == []


async def test_a_text_goes_whole_where_the_carrier_cuts_it(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream, long_texts="payload") as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message_id = await submit_text(esme)
        submit = await carrier.read_submit()
        assert (submit.short_message, submit.tlvs) == (b"", {TlvTag.MESSAGE_PAYLOAD: TEXT})
        carrier.answer(submit, message_id="whole")
        await wait_until(lambda: read_message(conn, message_id)["upstream_id"] == "whole")
        carrier.send(build_receipt(submit, "whole"))
        assert "stat:DELIVRD" in (await esme.receive_deliver_sm()).short_message.decode()
        assert conn.execute("SELECT count(*) FROM cut_messages").fetchone()[0] == 0
