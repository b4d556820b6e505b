"""query_sm, cancel_sm and data_sm: asking after a message, calling it back, and the other way to send one."""

import re
from typing import Any

import pytest

from portal.services.common import message_states
from portal.services.common.message_states import PTT_DELETED
from portal.services.credits import credits
from portal.services.operations import self_check
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import CancelSm, DataSm, HeaderOnlyPdu, Pdu, QuerySm, QuerySmResp
from tests.smsc.esme import RawEsme, get_account_config, run_smsc, wait_until

LATER = "000000010000000R"
PENDING = "393331230006"
REJECTED = "393331230011"
EXPIRED = "393331230002"


async def query(esme: RawEsme, message_id: str, source: str = "ACME") -> QuerySmResp:
    return await esme.request(QuerySm(next(esme.sequences), message_id, 5, 0, source))


async def cancel(esme: RawEsme, message_id: str = "", source: str = "ACME", destination: str = "") -> int:
    message = CancelSm(
        next(esme.sequences), message_id=message_id, source_ton=5, source=source, destination=destination
    )
    answer = await esme.request(message)
    assert answer.command == CommandId.CANCEL_SM_RESP
    return answer.status


def data_sm(esme: RawEsme, **fields: Any) -> DataSm:
    usual: dict[str, Any] = {
        "source": "ACME",
        "source_ton": 5,
        "destination": "393331234567",
        "registered_delivery": 1,
        "tlvs": {TlvTag.MESSAGE_PAYLOAD: b"hello"},
    }
    return DataSm(next(esme.sequences), **usual | fields)


def balance(conn, cast):
    return credits.get_balance(conn, cast.smpp_acme_1.id)


# --- query_sm


async def test_a_message_on_its_way_has_no_final_date(config, cast):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for message in (esme.build_submit_sm(PENDING), esme.build_submit_sm(schedule_delivery_time=LATER)):
            sent = await esme.request(message)
            answer = await query(esme, sent.message_id)
            assert (answer.status, answer.message_id) == (0, sent.message_id)
            assert (answer.final_date, answer.message_state, answer.error_code) == ("", message_states.ENROUTE, 0)


@pytest.mark.parametrize(
    ("destination", "state", "code"),
    [
        ("393331234567", message_states.DELIVERED, 0),
        (REJECTED, message_states.REJECTED, 53),
        (EXPIRED, message_states.EXPIRED, 0),
    ],
)
async def test_a_message_that_has_ended_tells_how_and_when(config, cast, destination, state, code):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = await esme.submit(destination)
        receipt = await esme.receive_deliver_sm()
        answer = await query(esme, sent.message_id)
        assert (answer.message_id, answer.message_state, answer.error_code) == (sent.message_id, state, code)
        assert re.fullmatch(r"\d{13}00\+", answer.final_date)
        assert b"done date:" + answer.final_date[:10].encode() in receipt.short_message


@pytest.mark.parametrize("message_id", ["", "1", "x", "99999999999999999999", "01", "²", "-1"])
async def test_nobody_has_a_message_of_that_id(config, cast, message_id):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await query(esme, message_id)).status == CommandStatus.ESME_RINVMSGID
        if message_id:
            assert await cancel(esme, message_id) == CommandStatus.ESME_RINVMSGID


async def test_anothers_message_is_no_message(config, cast, conn):
    async with run_smsc(config) as server:
        acme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        globex = await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1)
        sent = await acme.submit(schedule_delivery_time=LATER)
        assert (await query(globex, sent.message_id)).status == CommandStatus.ESME_RINVMSGID
        assert await cancel(globex, sent.message_id) == CommandStatus.ESME_RINVMSGID
        assert await cancel(globex, destination="393331234567") == CommandStatus.ESME_RCANCELFAIL
        assert (await query(acme, sent.message_id)).message_state == message_states.ENROUTE


async def test_the_source_has_to_be_that_of_the_message(config, cast):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = await esme.submit(schedule_delivery_time=LATER)
        assert (await query(esme, sent.message_id, "OTHER")).status == CommandStatus.ESME_RQUERYFAIL
        assert await cancel(esme, sent.message_id, "OTHER") == CommandStatus.ESME_RCANCELFAIL
        assert await cancel(esme, sent.message_id, destination="393330000000") == CommandStatus.ESME_RCANCELFAIL
        assert (await query(esme, sent.message_id)).message_state == message_states.ENROUTE


# --- cancel_sm


@pytest.mark.parametrize("fields", [{"schedule_delivery_time": LATER}, {"destination": PENDING}])
async def test_a_message_that_waits_is_called_back_and_its_price_given_back(config, cast, conn, fields):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = await esme.submit(text=b"x" * 161, **fields)
        assert balance(conn, cast) == 998_000
        assert await cancel(esme, sent.message_id) == 0
        assert balance(conn, cast) == 1_000_000
        receipt = await esme.receive_deliver_sm()
        assert receipt.tlvs[TlvTag.MESSAGE_STATE] == bytes((message_states.DELETED,))
        assert b"stat:DELETED err:802" in receipt.short_message
        answer = await query(esme, sent.message_id)
        assert answer.message_state == message_states.DELETED
        assert await cancel(esme, sent.message_id) == CommandStatus.ESME_RCANCELFAIL
    assert balance(conn, cast) == 1_000_000
    assert conn.execute("SELECT ptt FROM messages").fetchone()[0] == PTT_DELETED
    assert self_check.list_problem_texts(conn) == []


async def test_a_message_that_is_called_back_is_not_sent_after_a_restart(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = await esme.submit(schedule_delivery_time=LATER, registered_delivery=0)
        assert await cancel(esme, sent.message_id) == 0
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await query(esme, sent.message_id)).message_state == message_states.DELETED


async def test_what_has_been_sent_cannot_be_called_back(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = await esme.submit()
        assert await cancel(esme, sent.message_id) == CommandStatus.ESME_RCANCELFAIL
        await esme.receive_deliver_sm()
        assert await cancel(esme, sent.message_id) == CommandStatus.ESME_RCANCELFAIL
        assert (await query(esme, sent.message_id)).message_state == message_states.DELIVERED
    assert balance(conn, cast) == 999_000


async def test_without_an_id_all_between_two_addresses_are_called_back(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        meant = [await esme.submit(schedule_delivery_time=LATER) for _ in range(3)]
        other = await esme.submit("393331234568", schedule_delivery_time=LATER)
        assert await cancel(esme, source="OTHER", destination="393331234567") == CommandStatus.ESME_RCANCELFAIL
        assert await cancel(esme, destination="+393331234567") == 0
        for each in meant:
            assert (await query(esme, each.message_id)).message_state == message_states.DELETED
        assert (await query(esme, other.message_id)).message_state == message_states.ENROUTE
        assert await cancel(esme, destination="393331234567") == CommandStatus.ESME_RCANCELFAIL
    assert balance(conn, cast) == 999_000
    assert self_check.list_problem_texts(conn) == []


async def test_addresses_are_compared_without_what_stands_before_the_country_code(config, cast, conn, change_account):
    number = "393401230000"
    change_account(any_sender=True, national_numbers="IT")
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = await esme.submit(source=number, schedule_delivery_time=LATER)
        assert await cancel(esme, sent.message_id, f"+{number}", "00393331234567") == 0
        for source in (number, f"+{number}", f"00{number}"):
            sent = await esme.submit(source=source, schedule_delivery_time=LATER)
            for asked in (number, f"+{number}", f"00{number}"):
                assert (await query(esme, sent.message_id, asked)).status == 0
        assert await cancel(esme, source=f"00{number}", destination="00393331234567") == 0
        assert await cancel(esme, source=number, destination="393331234567") == CommandStatus.ESME_RCANCELFAIL
        await esme.submit(source=number, schedule_delivery_time=LATER)
        national = CancelSm(next(esme.sequences), source=number, dest_ton=2, destination="3331234567")
        assert (await esme.request(national)).status == 0
        change_account(national_numbers="refused")
        await wait_until(lambda: get_account_config(server, cast.smpp_acme_1.name).national_numbers == "refused")
        national.sequence = next(esme.sequences)
        assert (await esme.request(national)).status == CommandStatus.ESME_RINVDSTTON
    assert {row[0] for row in conn.execute("SELECT state FROM messages")} == {message_states.DELETED}


async def test_a_short_code_is_another_one_with_00_in_front(config, cast, change_account):
    change_account(any_sender=True)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        other = await esme.submit(source="123", schedule_delivery_time=LATER)
        meant = await esme.submit(source="00123", schedule_delivery_time=LATER)
        assert (await query(esme, other.message_id, "00123")).status == CommandStatus.ESME_RQUERYFAIL
        assert await cancel(esme, source="00123", destination="393331234567") == 0
        assert (await query(esme, meant.message_id, "00123")).message_state == message_states.DELETED
        assert (await query(esme, other.message_id, "123")).message_state == message_states.ENROUTE


async def test_a_destination_that_is_left_out_has_no_ton(config, cast, change_account):
    change_account(national_numbers="refused")
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = await esme.submit(schedule_delivery_time=LATER)
        by_id = CancelSm(next(esme.sequences), message_id=sent.message_id, source="ACME", dest_ton=2)
        assert (await esme.request(by_id)).status == 0
        nothing = CancelSm(next(esme.sequences), source="ACME", dest_ton=2)
        assert (await esme.request(nothing)).status == CommandStatus.ESME_RCANCELFAIL


async def test_one_search_at_a_time_holds_up_nobody(config, cast, change_account):
    change_account(windowing=0, throughput=0)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        meant = [esme.build_submit_sm(schedule_delivery_time=LATER, registered_delivery=0) for _ in range(600)]
        esme.send(*meant)
        assert {each.status for each in await esme.wait_for_responses(meant)} == {0}
        cancels = [CancelSm(9_000 + number, source="ACME", destination="393331234567") for number in range(2)]
        esme.send(*cancels, HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 9_999))
        answered = [await esme.read_response() for _ in range(3)]
        assert [each.sequence for each in answered] == [9_001, 9_999, 9_000]
        assert [each.status for each in answered] == [CommandStatus.ESME_RTHROTTLED, 0, 0]
        assert await cancel(esme, destination="393331234567") == CommandStatus.ESME_RCANCELFAIL


@pytest.mark.slow
async def test_a_cancel_that_cannot_be_written_leaves_the_message_on_its_way(config, cast, conn, connect):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = await esme.submit("393331230010")
        other = connect()
        other.execute("BEGIN IMMEDIATE")
        assert await cancel(esme, sent.message_id) == CommandStatus.ESME_RSYSERR
        other.execute("ROLLBACK")
        assert balance(conn, cast) == 999_000
        assert int(sent.message_id) in server.simulator.cancellable_ids
        assert await cancel(esme, sent.message_id) == 0


# --- data_sm


async def test_data_sm_sends_a_message(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.request(
            data_sm(esme, tlvs={TlvTag.MESSAGE_PAYLOAD: b"x" * 400, TlvTag.USER_MESSAGE_REFERENCE: b"\x01\x02"})
        )
        assert (answer.command, answer.status) == (CommandId.DATA_SM_RESP, 0)
        receipt = await esme.receive_deliver_sm()
        assert receipt.tlvs[TlvTag.RECEIPTED_MESSAGE_ID] == answer.message_id.encode() + b"\0"
        assert receipt.tlvs[TlvTag.USER_MESSAGE_REFERENCE] == b"\x01\x02"
        (row,) = conn.execute("SELECT id, text, parts, price FROM messages")
        assert tuple(row) == (int(answer.message_id), "x" * 400, 3, 3000)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"source": "OTHER"}, CommandStatus.ESME_RINVSRCADR),
        ({"source": "X" * 64}, CommandStatus.ESME_RINVSRCADR),
        ({"destination": "3" * 64}, CommandStatus.ESME_RINVDSTADR),
        ({"data_coding": 0xF5}, CommandStatus.ESME_RUNSDATACODING),
        ({"esm_class": 0x04}, CommandStatus.ESME_RINVESMCLASS),
        ({"tlvs": {TlvTag.QOS_TIME_TO_LIVE: b"\x01"}}, CommandStatus.ESME_RINVPARLEN),
    ],
)
async def test_data_sm_obeys_the_same_rules(config, cast, conn, change_account, fields, status):
    change_account(any_sender=int(len(fields.get("source", "")) > 20))
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.request(data_sm(esme, **fields))
        assert (answer.command, answer.status) == (CommandId.DATA_SM_RESP, status)
        assert conn.execute("SELECT count(*) FROM messages").fetchone()[0] == 0


# --- who may, and when


def requests(esme: RawEsme) -> list[DataSm | QuerySm | CancelSm]:
    return [data_sm(esme), QuerySm(next(esme.sequences), "1"), CancelSm(next(esme.sequences), message_id="1")]


async def test_only_those_who_may_send_may_ask(config, cast):
    async with run_smsc(config) as server:
        receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        unbound = await RawEsme.connect(server.port)
        for esme in (receiver, unbound):
            for message in requests(esme):
                answer = await esme.request(message)
                assert (answer.command, answer.status) == (
                    message.COMMAND | RESPONSE_BIT,
                    CommandStatus.ESME_RINVBNDSTS,
                )
        transmitter = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        assert [(await transmitter.request(each)).status for each in requests(transmitter)] == [
            0,
            CommandStatus.ESME_RINVMSGID,
            CommandStatus.ESME_RINVMSGID,
        ]


async def test_nothing_is_asked_of_a_session_that_leaves(config, cast, change_account):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        change_account(disabled_at=1)
        await esme.wait_for_pdu(CommandId.UNBIND)
        messages = [*requests(esme), esme.build_submit_sm()]
        esme.send(*messages)
        assert {each.status for each in await esme.wait_for_responses(messages)} == {CommandStatus.ESME_RSYSERR}


async def test_a_cancel_is_answered_before_the_farewell(config, cast):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        sent = await esme.submit(schedule_delivery_time=LATER)
        calling_back = CancelSm(50, message_id=sent.message_id, source="ACME")
        esme.send(calling_back, HeaderOnlyPdu(CommandId.UNBIND, 51))
        assert [(each.sequence, each.status) for each in [await esme.read_response(), await esme.read_response()]] == [
            (50, 0),
            (51, 0),
        ]
        await esme.wait_for_close()


async def test_window_and_throughput_count_cancels_and_data_sm(config, cast, change_account):
    change_account(windowing=2, throughput=0)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = [await esme.submit(schedule_delivery_time=LATER) for _ in range(3)]
        batch: list[Pdu] = [
            *(CancelSm(next(esme.sequences), message_id=each.message_id, source="ACME") for each in sent),
            data_sm(esme),
            *(QuerySm(next(esme.sequences), each.message_id, source="ACME") for each in sent),
        ]
        esme.send(*batch)
        statuses = [answer.status for answer in await esme.wait_for_responses(batch)]
        assert statuses == [0, 0, CommandStatus.ESME_RTHROTTLED, CommandStatus.ESME_RTHROTTLED, 0, 0, 0]
        change_account(throughput=1)
        await wait_until(lambda: get_account_config(server, cast.smpp_acme_1.name).throughput == 1)
        batch = [data_sm(esme), data_sm(esme)]
        esme.send(*batch)
        assert [each.status for each in await esme.wait_for_responses(batch)] == [0, CommandStatus.ESME_RTHROTTLED]
