"""Receipts: in order, until the ESME accepts them, over reconnects and restarts."""

import asyncio
import re
import sqlite3
import struct
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from portal.core import db, gsm0338
from portal.core.clock import now_ms
from portal.services.common import message_states
from portal.services.messages import outcomes, validation
from portal.services.messages.deliveries import MAX_BLOCKING_ATTEMPTS, MAX_RETRY_DELAY_MS
from portal.services.messages.outcomes import MessageOutcome
from portal.smsc.limits import ServerLimits
from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import HeaderOnlyPdu, MessageResp
from portal.smsc.server import SmppServer
from portal.smsc.upstream.simulator.simulator import OUTCOMES_BY_SUFFIX
from tests.smsc.esme import DEADLINE_S, RawEsme, run_smsc, wait_until
from tests.support import Cast

TEXT = re.compile(
    r"id:(\d+) sub:(\d{3}) dlvrd:(\d{3}) submit date:\d{10} done date:\d{10} stat:([A-Z]{7}) err:(\d{3}) text:(.*)"
)


def waiting(conn):
    return conn.execute("SELECT count(*) FROM deliveries").fetchone()[0]


def about(receipt):
    """The id of the message that a receipt is about."""
    return receipt.tlvs[TlvTag.RECEIPTED_MESSAGE_ID].rstrip(b"\0").decode()


@pytest.fixture
def wait_for(cast: Cast, conn: db.Connection) -> Callable[[SmppServer, int], Awaitable[list[str]]]:
    """Has the receipts of so many messages wait; returns the messages' ids in the order of the receipts."""

    async def wait_for(server: SmppServer, how_many: int) -> list[str]:
        transmitter = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        before = waiting(conn)
        ids: list[str] = []
        for _ in range(how_many):
            ids.append((await transmitter.submit()).message_id)
            await wait_until(lambda: waiting(conn) == before + len(ids))
        await transmitter.request(HeaderOnlyPdu(CommandId.UNBIND, 4711))
        await transmitter.wait_for_close()
        return ids

    return wait_for


async def test_a_receipt_says_what_became_of_the_message(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit(text=b"hello, how are you today?", tlvs={TlvTag.USER_MESSAGE_REFERENCE: b"\x12\x34"})
        receipt = await esme.receive_deliver_sm()
        assert (receipt.source, receipt.destination, receipt.esm_class) == ("393331234567", "ACME", 4)
        assert (receipt.dest_ton, receipt.dest_npi) == (5, 0)
        text = TEXT.fullmatch(receipt.short_message.decode())
        assert text
        assert text.groups() == (answer.message_id, "001", "001", "DELIVRD", "000", "hello, how are you t")
        message_id = answer.message_id.encode() + b"\0"
        assert receipt.tlvs == {
            TlvTag.RECEIPTED_MESSAGE_ID: message_id,
            TlvTag.MESSAGE_STATE: bytes((message_states.DELIVERED,)),
            TlvTag.NETWORK_ERROR_CODE: b"\x03\x00\x00",
            TlvTag.OUTGOING_ID: message_id,
            TlvTag.USER_MESSAGE_REFERENCE: b"\x12\x34",
        }
        await wait_until(lambda: waiting(conn) == 0)


async def test_a_receipt_names_the_sender_as_it_came(config, cast, change_account):
    change_account(any_sender=True)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for source in ("393401230000", "+393401230000", "00393401230000"):
            await esme.submit(source=source)
            assert (await esme.receive_deliver_sm()).destination == source


@pytest.mark.slow
async def test_its_text_reads_alike_as_gsm_and_as_ascii(config, cast):
    printable = "".join(map(chr, range(32, 127)))
    alike = "".join(each for each in printable if gsm0338.decode(each.encode()) == each)
    assert set(printable) - set(alike) == set("@$_[]{}\\^~|`")
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for text in (*(printable[start : start + 20] for start in range(0, len(printable), 20)), "è£\n😀"):
            assert (await esme.submit(data_coding=8, text=text.encode("utf-16-be"))).status == 0
            shown = TEXT.fullmatch((await esme.receive_deliver_sm()).short_message.decode("ascii"))
            assert shown
            assert shown[6] == "".join(each if each in alike else "?" for each in text)


@pytest.mark.parametrize(
    ("ending", "fate"), [(digits, fate) for digits, fate in OUTCOMES_BY_SUFFIX.items() if fate and fate.delay < 1]
)
async def test_the_simulators_outcomes(config, cast, conn, ending, fate):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit(destination=f"393331234{ending}")
        receipt = await esme.receive_deliver_sm()
        assert receipt.tlvs[TlvTag.MESSAGE_STATE][0] == fate.state
        text = receipt.short_message.decode()
        shown = TEXT.fullmatch(text)
        assert shown
        assert shown[5] == f"{fate.ptt:03d}"
        state, ptt, upstream_status = conn.execute(
            "SELECT state, ptt, upstream_status FROM messages WHERE id = ?", (int(answer.message_id),)
        ).fetchone()
        assert (state, ptt) == (fate.state, fate.ptt)
        assert upstream_status in text
        assert upstream_status.startswith("stat:")


@pytest.mark.slow
async def test_the_simulator_has_an_id_of_its_own_for_each(config, cast, conn):
    for _ in range(2):
        async with run_smsc(config) as server:
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            messages = [esme.build_submit_sm() for _ in range(5)]
            esme.send(*messages)
            for _ in messages:
                await esme.receive_deliver_sm()
    own = [row[0] for row in conn.execute("SELECT upstream_id FROM messages")]
    assert len(set(own)) == len(own) == 10
    assert None not in own


async def test_no_receipt_that_was_not_asked_for(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit(registered_delivery=0)
        await esme.submit(registered_delivery=2)
        failed = await esme.submit(destination="393331234001", registered_delivery=2)
        assert (await esme.receive_deliver_sm()).tlvs[TlvTag.RECEIPTED_MESSAGE_ID] == failed.message_id.encode() + b"\0"
        assert waiting(conn) <= 1


async def test_receipts_go_to_the_receiver_and_not_to_the_transmitter(config, cast):
    async with run_smsc(config) as server:
        transmitter = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        await transmitter.submit()
        await receiver.receive_deliver_sm()


@pytest.mark.slow
async def test_receipts_are_in_order_and_windowed(config, cast, change_account):
    change_account(windowing=3, throughput=0)
    async with run_smsc(config) as server:
        transmitter = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        ids = [(await transmitter.submit()).message_id for _ in range(10)]
        receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        seen = [await receiver.wait_for_pdu(CommandId.DELIVER_SM) for _ in range(3)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await receiver.read_pdu()
        receiver.send(*[MessageResp(CommandId.DELIVER_SM_RESP, each.sequence) for each in seen])
        seen += [await receiver.receive_deliver_sm() for _ in range(7)]
        assert [each.tlvs[TlvTag.RECEIPTED_MESSAGE_ID].decode().rstrip("\0") for each in seen] == ids


@pytest.mark.slow
async def test_receipts_are_in_order_where_a_start_finds_a_message_that_was_just_submitted(
    config, cast, conn, monkeypatch
):
    may_look, has_looked, may_tell = (threading.Event() for _ in range(3))
    list_simulated_message_ids = outcomes.list_simulated_message_ids

    def list_slowly(conn: sqlite3.Connection, upstream_id: int | None) -> list[int]:
        may_look.wait(DEADLINE_S)
        found = list_simulated_message_ids(conn, upstream_id)
        has_looked.set()
        may_tell.wait(DEADLINE_S)
        return found

    monkeypatch.setattr(outcomes, "list_simulated_message_ids", list_slowly)
    async with run_smsc(config) as server:
        transmitter = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        told: list[int] = []
        store_outcomes = server.simulator._on_outcomes

        def store_and_note(reported: Sequence[MessageOutcome]) -> None:
            store_outcomes(reported)
            told.extend(each.message_id for each in reported)

        server.simulator._on_outcomes = store_and_note
        first = await transmitter.submit()
        may_look.set()
        await wait_until(has_looked.is_set)
        second = await transmitter.submit()
        # The writer waits with a third one, so that all outcomes are stored together.
        conn.execute("BEGIN IMMEDIATE")
        third = transmitter.build_submit_sm()
        transmitter.send(third)
        may_tell.set()
        await wait_until(lambda: len(told) == 3)
        conn.execute("ROLLBACK")
        answers = [first, second, *await transmitter.wait_for_responses([third])]
        ids = [int(each.message_id) for each in answers]
        assert told[:3] == [ids[0], ids[1], ids[0]]
        receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        assert [int(about(await receiver.receive_deliver_sm())) for _ in ids] == ids


@pytest.mark.slow
async def test_a_refused_receipt_comes_again(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        first = await esme.receive_deliver_sm(CommandStatus.ESME_RMSGQFUL)
        again = await esme.receive_deliver_sm()
        assert again.tlvs == first.tlvs
        await wait_until(lambda: waiting(conn) == 0)


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", b"\0\0", b"abc", b"x" * 70, b"\0\x14\x01\0\x09cut", b"\0\x04\x27\0\0"],
    ids=["none", "empty", "spare", "no NUL", "long", "cut", "no value"],
)
async def test_the_status_of_an_answer_decides_whatever_its_body_is(config, cast, conn, body):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        receipt = await esme.wait_for_pdu(CommandId.DELIVER_SM)
        esme.send_octets(framed_answer(0, receipt.sequence, body))
        await wait_until(lambda: waiting(conn) == 0)


@pytest.mark.slow
async def test_a_refusal_with_any_body_is_one(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        first = await esme.wait_for_pdu(CommandId.DELIVER_SM)
        esme.send_octets(framed_answer(CommandStatus.ESME_RX_T_APPN, first.sequence, b"abc"))
        assert (await esme.receive_deliver_sm()).tlvs == first.tlvs
        await wait_until(lambda: waiting(conn) == 0)


def framed_answer(status, sequence, body):
    return struct.pack(">IIII", 16 + len(body), CommandId.DELIVER_SM_RESP, status, sequence) + body


@pytest.mark.slow
async def test_a_generic_nack_refuses_a_receipt(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        first = await esme.wait_for_pdu(CommandId.DELIVER_SM)
        esme.send(HeaderOnlyPdu(CommandId.GENERIC_NACK, first.sequence))
        again = await esme.receive_deliver_sm()
        assert again.tlvs == first.tlvs
        await wait_until(lambda: waiting(conn) == 0)


@pytest.mark.parametrize("leave", [RawEsme.abort, RawEsme.close])
async def test_an_unanswered_receipt_comes_again_after_a_reconnect(config, cast, conn, leave):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        first = await esme.wait_for_pdu(CommandId.DELIVER_SM)
        left = leave(esme)
        if left:
            await left
        other = await eventually_bound(server, cast.smpp_acme_1)
        again = await other.receive_deliver_sm()
        assert again.tlvs == first.tlvs
        await wait_until(lambda: waiting(conn) == 0)


async def eventually_bound(server, login):
    while True:
        esme = await RawEsme.connect(server.port)
        if await esme.bind(login.name, login.password) == 0:
            return esme
        await esme.close()


@pytest.mark.slow
async def test_an_answer_after_our_unbind_counts(config, cast, conn, change_account):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        receipt = await esme.wait_for_pdu(CommandId.DELIVER_SM)
        change_account(disabled_at=1)
        await esme.wait_for_pdu(CommandId.UNBIND)
        esme.send(MessageResp(CommandId.DELIVER_SM_RESP, receipt.sequence))
        await wait_until(lambda: waiting(conn) == 0)


@pytest.mark.slow
async def test_receipts_wait_over_a_restart_and_unfinished_messages_go_on(config, cast, conn):
    async with run_smsc(config) as server:
        transmitter = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        first = await transmitter.submit()
        await wait_until(lambda: waiting(conn) == 1)
        second = await transmitter.submit()
    async with run_smsc(config) as server:
        receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        seen = [
            (await receiver.receive_deliver_sm()).tlvs[TlvTag.RECEIPTED_MESSAGE_ID].rstrip(b"\0").decode()
            for _ in range(2)
        ]
        assert seen == [first.message_id, second.message_id]


async def test_several_receivers_share(config, cast, change_account):
    change_account(binds=0, windowing=2, throughput=0)
    async with run_smsc(config) as server:
        transmitter = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        receivers = [
            await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER) for _ in range(2)
        ]
        for _ in range(4):
            await transmitter.submit()
        for receiver in receivers:
            for _ in range(2):
                await receiver.wait_for_pdu(CommandId.DELIVER_SM)


# --- what is refused, or never answered


@pytest.mark.slow
async def test_those_behind_a_refused_one_wait_for_it(config, cast, conn, change_account, wait_for):
    change_account(windowing=1)
    async with run_smsc(config) as server:
        ids = await wait_for(server, 3)
        receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        refusals = [CommandStatus.ESME_RX_T_APPN, CommandStatus.ESME_RTHROTTLED]
        assert [about(await receiver.receive_deliver_sm(each)) for each in refusals] == [ids[0]] * 2
        assert [about(await receiver.receive_deliver_sm()) for _ in ids] == ids
        await wait_until(lambda: waiting(conn) == 0)


@pytest.mark.slow
@pytest.mark.parametrize("status", [CommandStatus.ESME_RX_P_APPN, CommandStatus.ESME_RX_R_APPN])
async def test_those_behind_one_that_is_refused_for_good_pass_it(config, cast, conn, change_account, wait_for, status):
    change_account(windowing=1)
    async with run_smsc(config) as server:
        ids = await wait_for(server, 3)
        receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        assert about(await receiver.receive_deliver_sm(status)) == ids[0]
        assert [about(await receiver.receive_deliver_sm()) for _ in ids[1:]] == ids[1:]
        await wait_until(lambda: waiting(conn) == 1)
        # It is not given up, though.
        row = conn.execute("SELECT attempts, next_attempt_at - ? FROM deliveries", (now_ms(),)).fetchone()
        assert row[0] == MAX_BLOCKING_ATTEMPTS
        assert 100_000 < row[1] <= MAX_RETRY_DELAY_MS
        conn.execute("UPDATE deliveries SET next_attempt_at = ?", (now_ms(),))
        await receiver.close()
        again = await eventually_bound(server, cast.smpp_acme_1)
        assert about(await again.receive_deliver_sm()) == ids[0]
        await wait_until(lambda: waiting(conn) == 0)


@pytest.mark.slow
async def test_one_that_is_refused_too_often_is_passed(config, cast, conn, change_account, wait_for):
    change_account(windowing=1)
    async with run_smsc(config) as server:
        ids = await wait_for(server, 2)
        conn.execute(
            "UPDATE deliveries SET attempts = ? WHERE message_id = ?", (MAX_BLOCKING_ATTEMPTS - 1, int(ids[0]))
        )
        receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        assert about(await receiver.receive_deliver_sm(CommandStatus.ESME_RSYSERR)) == ids[0]
        assert about(await receiver.receive_deliver_sm()) == ids[1]


@pytest.mark.slow
async def test_the_line_is_held_over_a_restart(config, cast, conn, change_account, wait_for):
    change_account(windowing=1)
    async with run_smsc(config) as server:
        ids = await wait_for(server, 2)
        receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        await receiver.receive_deliver_sm(CommandStatus.ESME_RX_T_APPN)
        await wait_until(lambda: conn.execute("SELECT max(attempts) FROM deliveries").fetchone()[0] == 1)
    async with run_smsc(config) as server:
        receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        assert [about(await receiver.receive_deliver_sm()) for _ in ids] == ids


@pytest.mark.slow
async def test_a_client_that_ends_over_one_receipt_gets_the_others(config, cast, conn, wait_for):
    """Such as one that can't read a character: it connects again, and meets the same receipt again."""
    async with run_smsc(config) as server:
        poison, *others = await wait_for(server, 4)
        seen = []
        for _ in range(MAX_BLOCKING_ATTEMPTS):
            receiver = await eventually_bound(server, cast.smpp_acme_1)
            assert about(await receiver.wait_for_pdu(CommandId.DELIVER_SM)) == poison
            receiver.abort()
        receiver = await eventually_bound(server, cast.smpp_acme_1)
        seen = [about(await receiver.receive_deliver_sm()) for _ in others]
        assert seen == others
        await wait_until(lambda: waiting(conn) == 1)


@pytest.mark.slow
async def test_what_comes_for_the_third_time_comes_alone(config, cast, conn, wait_for):
    async with run_smsc(config) as server:
        ids = await wait_for(server, 3)
        for _ in range(2):
            receiver = await eventually_bound(server, cast.smpp_acme_1)
            assert [about(await receiver.wait_for_pdu(CommandId.DELIVER_SM)) for _ in ids] == ids
            receiver.abort()
        receiver = await eventually_bound(server, cast.smpp_acme_1)
        first = await receiver.wait_for_pdu(CommandId.DELIVER_SM)
        receiver.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 4711))
        answer = await receiver.read_pdu()
        assert (about(first), answer.command) == (ids[0], CommandId.ENQUIRE_LINK_RESP)
        receiver.send(MessageResp(CommandId.DELIVER_SM_RESP, first.sequence))
        assert [about(await receiver.receive_deliver_sm()) for _ in ids[1:]] == ids[1:]


@pytest.mark.slow
async def test_who_never_answers_is_cut_off_and_another_gets_it(config, limited, cast, conn, change_account, wait_for):
    change_account(binds=0, windowing=1)
    async with run_smsc(config) as server:
        ids = await wait_for(server, 1)
    async with run_smsc(
        limited(enquire_link_seconds=0.1, response_seconds=0.2), ServerLimits(deliver_response_seconds=0.3)
    ) as server:
        silent = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        assert about(await silent.wait_for_pdu(CommandId.DELIVER_SM)) == ids[0]
        # It is there, and says so: that alone doesn't do.
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await answering_enquire_links(silent)
        other = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        assert about(await answering_enquire_links(other)) == ids[0]


async def answering_enquire_links(esme):
    """Read until something else comes."""
    async with asyncio.timeout(DEADLINE_S):
        while isinstance(seen := await esme.read_pdu(), HeaderOnlyPdu) and seen.command == CommandId.ENQUIRE_LINK:
            esme.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK_RESP, seen.sequence))
    return seen


# --- several receivers, and none


async def test_receivers_take_turns(config, cast, change_account):
    change_account(binds=0, throughput=0)
    async with run_smsc(config) as server:
        receivers = [
            await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER) for _ in range(3)
        ]
        transmitter = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        ids = [(await transmitter.submit()).message_id for _ in range(9)]
        # Each has room for all of them.
        seen = [about(await receiver.receive_deliver_sm()) for receiver in receivers for _ in range(3)]
        assert sorted(seen) == ids


@pytest.mark.slow
async def test_a_receiver_that_does_not_answer_holds_nobody_up(config, cast, conn, change_account, wait_for):
    change_account(binds=0, windowing=1)
    async with run_smsc(config) as server:
        ids = await wait_for(server, 5)
        slow, quick = [
            await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER) for _ in range(2)
        ]
        first = await slow.wait_for_pdu(CommandId.DELIVER_SM)
        seen = [about(await quick.receive_deliver_sm()) for _ in ids[1:]]
        assert (about(first), seen) == (ids[0], ids[1:])
        slow.send(MessageResp(CommandId.DELIVER_SM_RESP, first.sequence))
        await wait_until(lambda: waiting(conn) == 0)


@pytest.mark.slow
async def test_nothing_looks_for_what_waits_while_nobody_is_there_to_get_it(config, cast, conn, wait_for):
    async with run_smsc(config) as server:
        # That nothing is done has no other way to be seen.
        connection, retry_timers = server.storage._read_connection, server.storage._retry_timers
        queries = []
        connection.set_trace_callback(lambda sql: queries.append(sql) if "deliveries" in sql else None)
        await wait_for(server, 5)
        assert (queries, retry_timers) == ([], {})
        # Neither for whom nothing waits.
        idle = await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1, CommandId.BIND_RECEIVER)
        await wait_until(lambda: queries)
        query_count = len(queries)
        await wait_for(server, 5)
        assert (len(queries), retry_timers) == (query_count, {})
        # One that is put off is waited for with one timer, which goes with the receiver.
        receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        await receiver.receive_deliver_sm(CommandStatus.ESME_RX_P_APPN)
        await wait_until(lambda: list(retry_timers) == [cast.smpp_acme_1.id])
        await receiver.close()
        await wait_until(lambda: retry_timers == {})
        idle.abort()


@pytest.mark.slow
async def test_what_is_too_old_is_given_up_in_steps(config, cast, conn, wait_for):
    async with run_smsc(config, ServerLimits(expiry_batch_size=2)) as server:
        await wait_for(server, 5)
        # The one timer of it comes every ten minutes.
        server.storage.expire_deliveries(now_ms() + validation.DELIVERY_VALIDITY_MS + 60_000)
        await wait_until(lambda: waiting(conn) == 0)
