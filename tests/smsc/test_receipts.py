"""Receipts: in order, until the ESME accepts them, over reconnects and restarts."""

import asyncio
import re

import pytest

from portal.smsc.pdu import MessageResp
from portal.smsc.simulator import FATES
from portal.smsc.status import Command, MessageState, Status, Tag
from tests.smsc.esme import Esme, eventually, smsc

TEXT = re.compile(
    r"id:(\d+) sub:(\d{3}) dlvrd:(\d{3}) submit date:\d{10} done date:\d{10} stat:([A-Z]{7}) err:(\d{3}) text:(.*)"
)


def waiting(conn):
    return conn.execute("SELECT count(*) FROM deliveries").fetchone()[0]


async def test_a_receipt_says_what_became_of_the_message(config, cast, conn):
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        answer = await esme.submit(text=b"hello, how are you today?", tlvs={Tag.USER_MESSAGE_REFERENCE: b"\x12\x34"})
        receipt = await esme.receipt()
        assert (receipt.source, receipt.destination, receipt.esm_class) == ("393331234567", "ACME", 4)
        assert (receipt.dest_ton, receipt.dest_npi) == (5, 0)
        text = TEXT.fullmatch(receipt.short_message.decode())
        assert text
        assert text.groups() == (answer.message_id, "001", "001", "DELIVRD", "000", "hello, how are you t")
        message_id = answer.message_id.encode() + b"\0"
        assert receipt.tlvs == {
            Tag.RECEIPTED_MESSAGE_ID: message_id,
            Tag.MESSAGE_STATE: bytes((MessageState.DELIVERED,)),
            Tag.NETWORK_ERROR_CODE: b"\x03\x00\x00",
            Tag.OUTGOING_ID: message_id,
            Tag.USER_MESSAGE_REFERENCE: b"\x12\x34",
        }
        await eventually(lambda: waiting(conn) == 0)


@pytest.mark.parametrize("ending", [digits for digits, fate in FATES.items() if fate and fate.delay < 1])
async def test_the_simulators_outcomes(config, cast, conn, ending):
    fate = FATES[ending]
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        answer = await esme.submit(destination=f"393331234{ending}")
        receipt = await esme.receipt()
        assert receipt.tlvs[Tag.MESSAGE_STATE][0] == fate.state
        assert TEXT.fullmatch(receipt.short_message.decode()).group(5) == f"{fate.ptt:03d}"
        row = conn.execute("SELECT state, ptt FROM messages WHERE id = ?", (int(answer.message_id),)).fetchone()
        assert tuple(row) == (fate.state, fate.ptt)


async def test_no_receipt_that_was_not_asked_for(config, cast, conn):
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        await esme.submit(registered_delivery=0)
        await esme.submit(registered_delivery=2)
        failed = await esme.submit(destination="393331234001", registered_delivery=2)
        assert (await esme.receipt()).tlvs[Tag.RECEIPTED_MESSAGE_ID] == failed.message_id.encode() + b"\0"
        assert waiting(conn) <= 1


async def test_receipts_go_to_the_receiver_and_not_to_the_transmitter(config, cast):
    async with smsc(config) as server:
        transmitter = await Esme.bound(server.port, cast.smpp_acme_1, Command.BIND_TRANSMITTER)
        receiver = await Esme.bound(server.port, cast.smpp_acme_1, Command.BIND_RECEIVER)
        await transmitter.submit()
        await receiver.receipt()


async def test_receipts_are_in_order_and_windowed(config, cast, change_account):
    change_account(windowing=3, throughput=0)
    async with smsc(config) as server:
        transmitter = await Esme.bound(server.port, cast.smpp_acme_1, Command.BIND_TRANSMITTER)
        ids = [(await transmitter.submit()).message_id for _ in range(10)]
        receiver = await Esme.bound(server.port, cast.smpp_acme_1, Command.BIND_RECEIVER)
        seen = [await receiver.next(Command.DELIVER_SM) for _ in range(3)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await receiver.read()
        receiver.send(*[MessageResp(Command.DELIVER_SM_RESP, each.sequence) for each in seen])
        seen += [await receiver.receipt() for _ in range(7)]
        assert [each.tlvs[Tag.RECEIPTED_MESSAGE_ID].decode().rstrip("\0") for each in seen] == ids


async def test_a_refused_receipt_comes_again(config, cast, conn):
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        await esme.submit()
        first = await esme.receipt(Status.ESME_RMSGQFUL)
        again = await esme.receipt()
        assert again.tlvs == first.tlvs
        await eventually(lambda: waiting(conn) == 0)


@pytest.mark.parametrize("leave", [Esme.abort, Esme.close])
async def test_an_unanswered_receipt_comes_again_after_a_reconnect(config, cast, conn, leave):
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        await esme.submit()
        first = await esme.next(Command.DELIVER_SM)
        left = leave(esme)
        if left:
            await left
        other = await eventually_bound(server, cast.smpp_acme_1)
        again = await other.receipt()
        assert again.tlvs == first.tlvs
        await eventually(lambda: waiting(conn) == 0)


async def eventually_bound(server, login):
    while True:
        esme = await Esme.connect(server.port)
        if await esme.bind(login.name, login.password) == 0:
            return esme
        await esme.close()


async def test_an_answer_after_our_unbind_counts(config, cast, conn, change_account):
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        await esme.submit()
        receipt = await esme.next(Command.DELIVER_SM)
        change_account(disabled_at=1)
        await esme.next(Command.UNBIND)
        esme.send(MessageResp(Command.DELIVER_SM_RESP, receipt.sequence))
        await eventually(lambda: waiting(conn) == 0)


async def test_receipts_wait_over_a_restart_and_unfinished_messages_go_on(config, cast, conn):
    async with smsc(config) as server:
        transmitter = await Esme.bound(server.port, cast.smpp_acme_1, Command.BIND_TRANSMITTER)
        first = await transmitter.submit()
        await eventually(lambda: waiting(conn) == 1)
        second = await transmitter.submit()
    async with smsc(config) as server:
        receiver = await Esme.bound(server.port, cast.smpp_acme_1, Command.BIND_RECEIVER)
        seen = [(await receiver.receipt()).tlvs[Tag.RECEIPTED_MESSAGE_ID].rstrip(b"\0").decode() for _ in range(2)]
        assert seen == [first.message_id, second.message_id]


async def test_several_receivers_share(config, cast, change_account):
    change_account(binds=0, windowing=2, throughput=0)
    async with smsc(config) as server:
        transmitter = await Esme.bound(server.port, cast.smpp_acme_1, Command.BIND_TRANSMITTER)
        receivers = [await Esme.bound(server.port, cast.smpp_acme_1, Command.BIND_RECEIVER) for _ in range(2)]
        for _ in range(4):
            await transmitter.submit()
        for receiver in receivers:
            for _ in range(2):
                await receiver.next(Command.DELIVER_SM)
