"""Messages on their way through an upstream: the whole server, and a carrier that does what a test tells it to."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from portal.services.common import message_states
from portal.services.common.audit import SYSTEM
from portal.services.messages import inbound_numbers, intake
from portal.services.operations import self_check
from portal.services.upstreams import counters, upstreams
from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import CancelSm, DataSm, DeliverSm, MessageResp, QuerySm, SubmitSm
from portal.smsc.storage.interface import UpstreamConfig
from portal.smsc.upstream.channel import UpstreamChannel
from tests.services.upstreams.waiting import prepare_waiting
from tests.smsc.esme import DEADLINE_S, RawEsme, list_sessions, run_smsc, wait_until
from tests.smsc.upstream.running import build_receipt, count_waiting, read_message, run_bound
from tests.smsc.upstream.smpp_client.carrier import run_carrier
from tests.support import prepare_submit


async def test_a_message_goes_out_and_its_receipt_comes_back(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit(text=b"to the carrier")
        assert answer.status == 0
        submit = await carrier.read_submit()
        assert (submit.source, submit.source_ton, submit.source_npi) == ("ACME", 5, 0)
        assert (submit.destination, submit.dest_ton, submit.dest_npi) == ("393331234567", 1, 1)
        assert (submit.short_message, submit.data_coding, submit.registered_delivery) == (b"to the carrier", 0, 1)
        carrier.answer(submit, message_id="ab12")
        await wait_until(lambda: read_message(conn, answer.message_id)["upstream_id"] == "ab12")
        message = read_message(conn, answer.message_id)
        assert (message["state"], message["bind"], message["upstream"]) == (message_states.ENROUTE, 1, 1)
        assert message["sent_at"] is not None
        carrier.send(build_receipt(submit, "ab12"))
        receipt = await esme.receive_deliver_sm()
        assert f"id:{answer.message_id} " in receipt.short_message.decode()
        assert "stat:DELIVRD" in receipt.short_message.decode()
        response = await carrier.read_pdu()
        assert isinstance(response, MessageResp)
        assert (response.command, response.status) == (CommandId.DELIVER_SM_RESP, 0)
        message = read_message(conn, answer.message_id)
        assert (message["state"], message["upstream_id"]) == (message_states.DELIVERED, "ab12")
        assert message["upstream_status"] == "stat:DELIVRD err:000"
        assert not count_waiting(conn)
        assert self_check.list_problem_texts(conn) == []


async def test_without_a_bind_messages_wait_and_go_out_in_their_order(config, cast, conn, add_upstream):
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        async with run_smsc(config) as server:
            bind = await carrier.wait_for_connection()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            first = [await esme.submit(text=f"{each}".encode()) for each in range(3)]
            # Reserved: 5.2.14 knows no more than 3.
            urgent = await esme.submit(text=b"urgent", priority=9)
            assert {each.status for each in (*first, urgent)} == {0}
            assert count_waiting(conn) == 4
            await bind.accept_bind()
            submits = await bind.read_submits(4)
            assert [each.short_message for each in submits] == [b"urgent", b"0", b"1", b"2"]
            assert submits[0].priority == 3
            for each in submits:
                bind.answer(each)
            await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 4)
            assert upstreams.count_waiting_messages(conn) == {}
            # The same holds for one that waits for nothing.
            await esme.submit(text=b"direct", priority=9)
            assert (await bind.read_submit()).priority == 3


async def test_clients_that_never_pause_keep_their_order_for_each_number(
    config, cast, conn, change_account, add_upstream
):
    change_account(windowing=0, throughput=0, balance=1_000_000)
    async with run_bound(config, add_upstream, window=8) as (server, _, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        texts = (str(each).encode() for each in range(600))

        def submit() -> None:
            if text := next(texts, None):
                esme.send(esme.build_submit_sm(destination=f"39333123450{int(text) % 5}", text=text))

        async def keep_window_full() -> None:
            for _ in range(12):
                submit()
            for _ in range(600):
                assert (await esme.wait_for_pdu(CommandId.SUBMIT_SM_RESP)).status == 0
                submit()

        client = asyncio.create_task(keep_window_full())
        arrived: dict[str, list[int]] = {}
        for _ in range(600):
            received = await connection.read_submit()
            arrived.setdefault(received.destination, []).append(int(received.short_message))
            connection.answer(received)
        await client
        assert arrived == {each: sorted(numbers) for each, numbers in arrived.items()}
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 600)
        assert counters.get_counters(conn, 1)["unsure"] == 0


async def test_what_the_upstream_refuses_for_good_has_failed(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit()
        carrier.answer(await carrier.read_submit(), CommandStatus.ESME_RINVDSTADR)
        receipt = await esme.receive_deliver_sm()
        assert "stat:REJECTD err:100" in receipt.short_message.decode()
        message = read_message(conn, answer.message_id)
        assert (message["state"], message["ptt"]) == (message_states.REJECTED, 100)
        assert message["upstream_status"] == "ESME_RINVDSTADR 0x0B"


async def test_a_lost_connection_sends_again_what_was_not_answered(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream) as (server, carrier, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit(text=b"lost")
        await connection.read_submit()
        await connection.close()
        connection = await carrier.accept()
        submit = await connection.read_submit()
        assert submit.short_message == b"lost"
        connection.answer(submit)
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"])
        counted = counters.get_counters(conn, 1)
        assert (counted["unsure"], counted["resent"]) == (1, 1)


async def test_what_is_claimed_ahead_waits_again_when_the_connection_is_lost(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream, window=2) as (server, carrier, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for each in range(10):
            await esme.submit(text=str(each).encode())
        taken = [each.short_message for each in await connection.read_submits(2)]
        # No more than as many again as the window are claimed ahead.
        assert count_waiting(conn) == 6
        await connection.close()
        connection = await carrier.accept()
        for _ in range(10):
            submit = await connection.read_submit()
            connection.answer(submit)
            taken.append(submit.short_message)
        assert taken == [b"0", b"1", *(str(each).encode() for each in range(10))]
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 10)
        assert counters.get_counters(conn, 1)["unsure"] == 2


async def test_a_temporary_refusal_holds_up_its_destination_and_no_other(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit(text=b"first")
        carrier.answer(await carrier.read_submit(), CommandStatus.ESME_RSYSERR)
        await wait_until(lambda: count_waiting(conn) == 1)
        await esme.submit(text=b"second")
        await esme.submit("393337654321", text=b"elsewhere")
        assert (await carrier.read_submit()).short_message == b"elsewhere"
        await wait_until(lambda: conn.execute("SELECT count(*) FROM held_messages").fetchone()[0] == 2)
        # The time of the next try has come.
        conn.execute("UPDATE held_messages SET not_before = 1 WHERE not_before IS NOT NULL")
        await esme.submit("393337654321", text=b"wakes the queue")
        submits = await carrier.read_submits(2)
        assert {each.short_message for each in submits} == {b"first", b"wakes the queue"}
        carrier.answer(next(each for each in submits if each.short_message == b"first"))
        assert (await carrier.read_submit()).short_message == b"second"


async def test_while_a_message_is_held_others_of_its_account_go_out_at_once(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit("393331111111", text=b"held")
        carrier.answer(await carrier.read_submit(), CommandStatus.ESME_RX_T_APPN, "")
        await wait_until(lambda: conn.execute("SELECT count(*) FROM held_messages").fetchone()[0])
        await esme.submit(text=b"first")
        carrier.answer(await carrier.read_submit())
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"])
        conn.execute("CREATE TABLE waited AS SELECT * FROM queued_messages")
        conn.execute(
            "CREATE TRIGGER note_waiting AFTER INSERT ON queued_messages"
            " BEGIN INSERT INTO waited SELECT * FROM queued_messages; END"
        )
        for each in range(5):
            await esme.submit(text=b"%d" % each)
            submit = await carrier.read_submit()
            assert submit.short_message == b"%d" % each
            carrier.answer(submit)
        assert conn.execute("SELECT count(*) FROM waited").fetchone()[0] == 0
        behind = await esme.submit("393331111111", text=b"behind")
        assert read_message(conn, behind.message_id)["upstream"] is None
        assert conn.execute("SELECT count(*) FROM waited").fetchone()[0] == 1


async def test_a_handset_whose_queue_is_full_holds_up_no_other_and_gets_its_messages_in_their_order(
    config, cast, conn, add_upstream
):
    async with run_bound(config, add_upstream, throttle_seconds=1) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for each in range(10):
            await esme.submit(text=b"%d" % each)
        for submit in await carrier.read_submits(10):
            carrier.answer(submit, CommandStatus.ESME_RMSGQFUL)
        await wait_until(lambda: count_waiting(conn) == 10)
        await esme.submit("393337654321", text=b"elsewhere")
        submit = await carrier.read_submit()
        assert submit.short_message == b"elsewhere"
        carrier.answer(submit)
        # The time of the next try has come.
        conn.execute("UPDATE held_messages SET not_before = 1 WHERE not_before IS NOT NULL")
        await esme.submit("393337654321", text=b"wakes the queue")
        taken = []
        for _ in range(11):
            submit = await carrier.read_submit()
            carrier.answer(submit)
            taken.append(submit.short_message)
        taken.remove(b"wakes the queue")
        assert taken == [b"%d" % each for each in range(10)]


async def test_no_more_room_is_kept_for_a_claim_than_messages_wait(config, cast, conn, add_upstream, monkeypatch):
    async with run_bound(config, add_upstream, window=10) as (server, _, carrier):
        outbound, limits = server.storage.outbound, []
        claim_messages = outbound.claim_messages

        def claim(claim, resolve):
            limits.append(claim.limit)
            claim_messages(claim, resolve)

        monkeypatch.setattr(outbound, "claim_messages", claim)
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for _ in range(12):
            await esme.submit()
        for each in await carrier.read_submits(10):
            carrier.answer(each)
        await carrier.read_submits(2)
        # The first one looks for what there is.
        assert limits[1:]
        assert max(limits[1:]) <= 2, limits


@pytest.mark.parametrize("others", [0, 2], ids=["claimed ahead", "in the queue"])
async def test_what_waits_is_called_back_and_what_is_sent_is_not(config, cast, conn, add_upstream, others):
    async with run_bound(config, add_upstream, window=1) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = await esme.submit(text=b"sent")
        for _ in range(others):
            await esme.submit(text=b"before it", registered_delivery=0)
        waiting = await esme.submit(text=b"waits")
        submit = await carrier.read_submit()
        addresses: dict[str, Any] = {"source": "ACME", "destination": "393331234567"}

        async def cancel(message_id: str) -> int:
            return (await esme.request(CancelSm(next(esme.sequences), message_id=message_id, **addresses))).status

        assert await cancel(sent.message_id) == CommandStatus.ESME_RCANCELFAIL
        async with asyncio.timeout(DEADLINE_S):
            # While it is being claimed, it can't be told where it is.
            while (status := await cancel(waiting.message_id)) == CommandStatus.ESME_RCANCELFAIL:
                pass
        assert status == CommandStatus.ESME_ROK
        assert "stat:DELETED" in (await esme.receive_deliver_sm()).short_message.decode()
        carrier.answer(submit)
        for _ in range(others):
            submit = await carrier.read_submit()
            assert submit.short_message == b"before it"
            carrier.answer(submit)
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 1 + others)
        assert not count_waiting(conn)
        query = QuerySm(next(esme.sequences), message_id=sent.message_id, source="ACME")
        assert (await esme.request(query)).message_state == message_states.ENROUTE
        assert self_check.list_problem_texts(conn) == []


async def test_what_the_upstream_may_have_goes_on_when_it_is_called_back(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream, window=1) as (server, carrier, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        unsure = await esme.submit(text=b"unsure")
        await connection.read_submit()
        await connection.close()
        await wait_until(lambda: counters.get_counters(conn, 1)["unsure"])
        # This account's turn comes first, whoever had the last one.
        other = await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1)
        await other.submit(source="GLOBEX", text=b"elsewhere")
        connection = await carrier.accept()
        submit = await connection.read_submit()
        assert submit.short_message == b"elsewhere"
        # Claimed again, and waits for room.
        await wait_until(lambda: read_message(conn, unsure.message_id)["upstream"] == 1)
        cancel = CancelSm(next(esme.sequences), message_id=unsure.message_id, source="ACME", destination="393331234567")
        assert (await esme.request(cancel)).status == CommandStatus.ESME_RCANCELFAIL
        connection.answer(submit)
        submit = await connection.read_submit()
        assert submit.short_message == b"unsure"
        connection.answer(submit)
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 2)
        assert not count_waiting(conn)


async def test_the_log_tells_how_many_receipts_had_no_message(config, cast, add_upstream, caplog):
    caplog.set_level(logging.INFO)
    async with run_bound(config, add_upstream) as (server, _, carrier):
        for message_id in ("1", "2", "2"):
            text = f"id:{message_id} stat:DELIVRD err:000 text:".encode()
            carrier.send(DeliverSm(7, source="393331234567", destination="ACME", esm_class=4, short_message=text))
            assert (await carrier.read_response()).status == 0
        server.dispatcher._channels[1].log_counts()  # noqa: SLF001
    assert "2 receipts of upstream carrier had no message when they came" in caplog.text


async def test_the_log_tells_of_some_kinds_of_refusals_and_of_the_others_together(config, add_upstream, caplog):
    upstream = add_upstream(1)
    async with run_smsc(config) as server:
        channel = UpstreamChannel(UpstreamConfig(upstream, None), server.dispatcher, server.storage.outbound)
        for each in range(15):
            channel.count_refusals(f"0x{each:02X}")
        channel.log_counts()
        channel.count_refusals("0x0E")
    told = [each.getMessage() for each in caplog.records if each.name == "portal.smsc.upstream.channel"]
    at_once = [f"upstream carrier refuses messages: 0x{each:02X}" for each in range(10)]
    assert told == [
        *at_once,
        "upstream carrier refuses messages: other statuses",
        "upstream carrier has refused 5 messages: other statuses",
        "upstream carrier refuses messages: 0x0E",
    ]


async def test_what_waits_to_be_tried_again_is_called_back(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream, throttle_seconds=3600) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        waiting = await esme.submit()
        carrier.answer(await carrier.read_submit(), CommandStatus.ESME_RTHROTTLED)
        await wait_until(lambda: counters.get_counters(conn, 1)["throttled"])
        cancel = CancelSm(1, message_id=waiting.message_id, source="ACME", destination="393331234567")
        assert (await esme.request(replace(cancel, sequence=next(esme.sequences)))).status == CommandStatus.ESME_ROK
        assert "stat:DELETED" in (await esme.receive_deliver_sm()).short_message.decode()
        assert self_check.list_problem_texts(conn) == []


async def test_what_has_expired_is_not_sent_again(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream, throttle_seconds=2) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit(text=b"short-lived", validity_period="000000000001000R")
        await esme.submit("393337654321", text=b"other", validity_period="000000001000000R", registered_delivery=0)
        second, first = sorted(await carrier.read_submits(2), key=lambda each: each.short_message)
        for each in (first, second):
            carrier.answer(each, CommandStatus.ESME_RTHROTTLED)
        assert "stat:EXPIRED" in (await esme.receive_deliver_sm()).short_message.decode()
        again = await carrier.read_submit()
        assert again.short_message == b"other"
        # It says how long it is still valid, and not how long it was.
        assert (second.validity_period, again.validity_period) > ("000000000959000R", "000000000955000R")
        assert again.validity_period < second.validity_period


async def test_a_receipt_before_the_answer_finds_its_message(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        submit = await carrier.read_submit()
        carrier.send(build_receipt(submit, "early"))
        response = await carrier.read_pdu()
        assert isinstance(response, MessageResp)
        assert response.status == 0
        assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 1
        carrier.answer(submit, message_id="early")
        assert "stat:DELIVRD" in (await esme.receive_deliver_sm()).short_message.decode()
        assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 0
        # The same once more says nothing new.
        carrier.send(build_receipt(submit, "early"))
        await carrier.read_pdu()
        assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 0


async def test_as_many_receipts_are_known_again_as_are_said_to_be(config, cast, conn, add_upstream, monkeypatch):
    monkeypatch.setattr("portal.smsc.upstream.channel._KNOWN_RECEIPTS", 3)
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        receipts = []
        for each in range(3):
            await esme.submit()
            submit = await carrier.read_submit()
            carrier.answer(submit, message_id=f"{each}")
            await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == each + 1)  # noqa: B023
            receipts.append(build_receipt(submit, f"{each}"))
            carrier.send(receipts[-1])
            assert (await carrier.read_response()).status == 0
        # The same again say nothing new.
        for receipt in receipts:
            carrier.send(receipt)
            assert (await carrier.read_response()).status == 0
        assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 0


async def test_an_intermediate_receipt_and_the_final_one_may_both_come_before_the_answer(
    config, cast, conn, add_upstream
):
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        submit = await carrier.read_submit()
        carrier.send(build_receipt(submit, "early", "ACCEPTD"), build_receipt(submit, "early"))
        assert {(await carrier.read_response()).status for _ in range(2)} == {0}
        carrier.answer(submit, message_id="early")
        assert "stat:DELIVRD" in (await esme.receive_deliver_sm()).short_message.decode()
        assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 0


async def test_a_message_of_a_handset_reaches_its_account(config, cast, conn, account, add_upstream):
    inbound_numbers.add_inbound_number(conn, SYSTEM, account, "44555")
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        carrier.send(DeliverSm(9, source="+393331234567", destination="44555", short_message=b"hello"))
        response = await carrier.read_pdu()
        assert isinstance(response, MessageResp)
        assert response.status == 0
        delivered = await esme.receive_deliver_sm()
        assert (delivered.source, delivered.destination, delivered.short_message) == ("393331234567", "44555", b"hello")


@pytest.mark.parametrize(
    ("refused", "status", "longest", "charset"),
    [
        (("3" * 21, 5), CommandStatus.ESME_RINVSRCADR, ("+" + "3" * 20, 5), "auto"),
        (("39333", 255 * 153 + 1), CommandStatus.ESME_RINVMSGLEN, ("39333", 255 * 153), "auto"),
        # An extension character is one octet here, and two in GSM 03.38.
        (("39333", 255 * 76 + 1), CommandStatus.ESME_RINVMSGLEN, ("39333", 255 * 76), "latin-1"),
    ],
)
async def test_one_of_a_handset_that_no_deliver_sm_can_hold_is_refused(
    config, cast, conn, account, add_upstream, caplog, refused, status, longest, charset
):
    inbound_numbers.add_inbound_number(conn, SYSTEM, account, "44555")
    character, septets = (b"{", 2) if charset == "latin-1" else (b"x", 1)
    async with run_bound(config, add_upstream, receipt_charset=charset) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        statuses = []
        for source, octets in (refused, refused, longest):
            payload: dict[int, bytes] = {TlvTag.MESSAGE_PAYLOAD: character * octets}
            carrier.send(DataSm(1, source=source, destination="44555", tlvs=payload))
            statuses.append((await carrier.read_response()).status)
        assert statuses == [status, status, CommandStatus.ESME_ROK]
        delivered = await esme.receive_deliver_sm()
        assert (delivered.source, len(delivered.body)) == (longest[0].lstrip("+"), longest[1] * septets)
        assert conn.execute("SELECT count(*) FROM received").fetchone()[0] == 1
        for _ in range(2):
            server.dispatcher._channels[1].log_counts()  # noqa: SLF001
        reason = f"refused with {status.name} 0x{status:02X}"
        assert [each for each in caplog.messages if "refused" in each] == [
            f"a message or receipt of upstream carrier was {reason}",
            f"2 messages or receipts of upstream carrier were {reason}",
        ]
        assert refused[0] not in caplog.text


async def test_what_was_under_way_at_the_end_is_unsure_at_the_start(config, cast, conn, add_upstream):
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        async with run_smsc(config) as server:
            connection = await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            await esme.submit(text=b"never answered")
            await connection.read_submit()
        assert counters.get_counters(conn, 1)["unsure"] == 1
        async with run_smsc(config):
            connection = await carrier.accept()
            assert (await connection.read_submit()).short_message == b"never answered"
            # Once at the end, and nothing since: what was claimed meanwhile, and not sent, is not unsure.
            assert counters.get_counters(conn, 1)["unsure"] == 1


async def test_pain_3_throttling_slows_down_and_loses_nothing(config, cast, conn, change_account, add_upstream):
    change_account(windowing=0, throughput=0)
    async with run_bound(config, add_upstream, window=50) as (server, _, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        submits = [esme.build_submit_sm(f"39333{each:07d}", str(each).encode()) for each in range(30)]
        esme.send(*submits)
        assert {each.status for each in await esme.wait_for_responses(submits)} == {0}
        taken: dict[bytes, int] = {}
        refused = 0
        while len(taken) < 30:
            submit = await connection.read_submit()
            if refused < 5:
                refused += 1
                connection.answer(submit, CommandStatus.ESME_RTHROTTLED)
            else:
                taken[submit.short_message] = taken.get(submit.short_message, 0) + 1
                connection.answer(submit)
        assert set(taken.values()) == {1}
        await wait_until(lambda: counters.get_counters(conn, 1)["throttled"] == 5)
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 30)


async def test_another_account_s_message_passes_a_hundred_thousand_that_wait(
    config, cast, conn, add_upstream, wakeup_sender
):
    ids = intake.store_messages(conn, [prepare_waiting(conn, cast.smpp_globex_1.id)]).message_ids
    # As many rows as a campaign leaves, of one message: the queue does not look at more than it takes.
    conn.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
        " INSERT INTO queued_messages SELECT path, account_id, priority_rank, message_id + i FROM queued_messages, n"
    )
    conn.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
        " INSERT INTO messages (id, account_id, source, source_ton, source_npi, destination, country, text,"
        " data_coding, registered_delivery, parts, price, state, ptt) SELECT id + i, account_id, source, source_ton,"
        " source_npi, destination, country, text, data_coding, registered_delivery, parts, 0, state, ptt"
        " FROM messages, n WHERE id = ?",
        ids,
    )
    async with run_bound(config, add_upstream, throughput=100, window=10) as (server, _, connection):
        for _ in range(5):
            connection.answer(await connection.read_submit())
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit(text=b"mine")
        before = 0
        while (submit := await connection.read_submit()).short_message != b"mine":
            connection.answer(submit)
            before += 1
        # What is in the window, what was claimed already, and one turn of the other.
        assert before <= 25


@pytest.mark.slow
async def test_what_cannot_be_stored_is_to_come_again(config, cast, conn, connect, add_upstream):
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        submit = await carrier.read_submit()
        carrier.answer(submit, message_id="1")
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 1)
        other = connect()
        other.execute("BEGIN IMMEDIATE")
        # Longer than the writer waits for its turn.
        unknown = build_receipt(submit, "unknown")
        carrier.send(build_receipt(submit, "1"), unknown, DeliverSm(9, source="393331234567", destination="44555"))
        statuses = [await carrier.read_response() for _ in range(3)]
        assert {each.status for each in statuses} == {CommandStatus.ESME_RX_T_APPN}
        other.execute("ROLLBACK")
        carrier.send(build_receipt(submit, "1"), unknown, unknown)
        assert "stat:DELIVRD" in (await esme.receive_deliver_sm()).short_message.decode()
        assert {(await carrier.read_response()).status for _ in range(3)} == {0}
        # What comes twice is kept once.
        assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 1


async def test_what_a_receipt_quotes_of_its_message_is_not_kept_with_it(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream) as (_, __, carrier):
        receipt = build_receipt(SubmitSm(0, destination="393331234567", source="ACME"), "unknown")
        receipt.short_message += b"a secret"
        carrier.send(receipt)
        assert isinstance(await carrier.read_pdu(), MessageResp)
        (text,) = conn.execute("SELECT text FROM unmatched_receipts").fetchone()
        assert text.endswith("stat:DELIVRD err:000")


async def test_what_a_commit_in_doubt_has_left_is_found(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit(text=b"under way")
        submit = await carrier.read_submit()
        # Stored as the upstream's, and nobody here knows of it.
        stray = prepare_submit(conn, cast.smpp_acme_1.id, b"stray", destination="393330000001")
        stray.upstream = 1
        intake.store_messages(conn, [stray])

        def is_found() -> bool:
            # Twice where nothing is being written meanwhile.
            server.dispatcher.check_strays()
            return counters.get_counters(conn, 1)["unsure"] == 1

        await wait_until(is_found)
        assert (await carrier.read_submit()).short_message == b"stray"
        assert counters.get_counters(conn, 1)["unsure"] == 1
        carrier.answer(submit)


async def test_nothing_passes_a_message_that_is_refused_while_the_next_is_being_stored(
    config, cast, conn, add_upstream, connect
):
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit(text=b"first")
        submit = await carrier.read_submit()
        lock = connect()
        lock.execute("BEGIN IMMEDIATE")
        second = esme.build_submit_sm(text=b"second")
        esme.send(second)
        (session,) = list_sessions(server)
        await wait_until(lambda: session.get_progress("").window == 1)
        carrier.answer(submit, CommandStatus.ESME_RSYSERR)
        # The refusal is known before anything can be written.
        await carrier.expect_nothing()
        lock.execute("ROLLBACK")
        await esme.wait_for_response(second.sequence)
        await esme.submit("393337654321", text=b"elsewhere")
        assert (await carrier.read_submit()).short_message == b"elsewhere"
        await wait_until(lambda: conn.execute("SELECT count(*) FROM held_messages").fetchone()[0] == 2)


async def test_what_there_is_no_room_for_passes_no_message_that_is_refused_meanwhile(
    config, cast, conn, add_upstream, connect
):
    async with run_bound(config, add_upstream, window=2) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit(text=b"first")
        await esme.submit("393337654321", text=b"fills the window")
        first, other = await carrier.read_submits(2)
        messages = [prepare_submit(conn, cast.smpp_acme_1.id, text) for text in (b"elsewhere", b"second")]
        for message, destination in zip(messages, ("393337654322", first.destination), strict=True):
            message.destination = destination
            message.upstream = 1
        intake.store_messages(conn, messages)
        lock = connect()
        lock.execute("BEGIN IMMEDIATE")
        carrier.answer(first, CommandStatus.ESME_RX_T_APPN)
        # The refusal is known before anything can be written.
        await carrier.expect_nothing()
        server.dispatcher.handle_submits_stored([], messages)
        assert (await carrier.read_submit()).short_message == b"elsewhere"
        lock.execute("ROLLBACK")
        await wait_until(lambda: count_waiting(conn) > 0)
        carrier.answer(other)
        await wait_until(lambda: count_waiting(conn) == 2)
