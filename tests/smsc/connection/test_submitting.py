"""submit_sm: what is stored, what is refused and with which status, and who is slowed down."""

import asyncio
import dataclasses
import logging
from collections import Counter
from functools import partial

import pytest

from portal.core import gsm0338
from portal.services.accounts import accounts
from portal.services.common import credit_amounts, message_states
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import DataSm, HeaderOnlyPdu
from tests.smsc.esme import DEADLINE_S, RawEsme, get_account_config, run_smsc, wait_until

ITALIAN = "393331234567"


def stored(conn):
    return conn.execute("SELECT * FROM messages ORDER BY id").fetchall()


async def test_an_acknowledged_message_is_stored_and_paid(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit(text=gsm0338.encode("perché costa 5€?"))
        assert answer.status == 0
        (row,) = stored(conn)
        assert (str(row["id"]), row["text"], row["destination"]) == (answer.message_id, "perché costa 5€?", ITALIAN)
        assert credits.get_balance(conn, cast.smpp_acme_1.id) == 999_000


async def test_ids_are_unique_and_answers_keep_the_order(config, cast, change_account):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        batch = [esme.build_submit_sm() for _ in range(10)]
        esme.send(*batch)
        answers = [await esme.wait_for_pdu(CommandId.SUBMIT_SM_RESP) for _ in batch]
        assert [each.sequence for each in answers] == [each.sequence for each in batch]
        assert len({each.message_id for each in answers}) == 10


async def test_long_and_unicode_texts_are_paid_by_the_part(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit(text=b"a" * 161)
        await esme.submit(text="😀".encode("utf-16-be") * 40, data_coding=8)
        await esme.submit(text=b"", tlvs={TlvTag.MESSAGE_PAYLOAD: b"b" * 400})
        await esme.submit(text=b"\x05\x00\x03\x01\x02\x01" + b"c" * 153, esm_class=0x43)
        rows = stored(conn)
    assert [row["parts"] for row in rows] == [2, 2, 3, 1]
    assert rows[1]["text"] == "😀" * 40
    assert (rows[3]["udh"], rows[3]["text"]) == (b"\x05\x00\x03\x01\x02\x01", "c" * 153)


def submit_sm(esme, destination, ton):
    return dataclasses.replace(esme.build_submit_sm(destination), dest_ton=ton)


def data_sm(esme, destination, ton):
    return DataSm(
        next(esme.sequences),
        source="ACME",
        source_ton=5,
        dest_ton=ton,
        destination=destination,
        tlvs={TlvTag.MESSAGE_PAYLOAD: b"hello"},
    )


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"source": "OTHER"}, CommandStatus.ESME_RINVSRCADR),
        ({"destination": "12"}, CommandStatus.ESME_RINVDSTADR),
        ({"destination": "not a number"}, CommandStatus.ESME_RINVDSTADR),
        ({"destination": "88299999999"}, CommandStatus.ESME_RINVDSTADR),
        ({"data_coding": 0xF5}, CommandStatus.ESME_RUNSDATACODING),
        ({"text": b"\x80abc"}, CommandStatus.ESME_RINVGSM7CODING),
        ({"text": b"\x05\x00\x03\x01\x02\x01" + b"c" * 154, "esm_class": 0x40}, CommandStatus.ESME_RINVMSGLEN),
        ({"text": b"", "tlvs": {TlvTag.MESSAGE_PAYLOAD: b"a" * 40_000}}, CommandStatus.ESME_RINVMSGLEN),
        ({"schedule_delivery_time": "tomorrow"}, CommandStatus.ESME_RINVSCHED),
        ({"validity_period": "991399999999999+"}, CommandStatus.ESME_RINVEXPIRY),
        ({"tlvs": {TlvTag.SAR_MSG_REF_NUM: b"x"}}, CommandStatus.ESME_RINVPARLEN),
        ({"tlvs": {TlvTag.SAR_SEGMENT_SEQNUM: b"\x00"}}, CommandStatus.ESME_RINVOPTPARAMVAL),
    ],
)
async def test_what_is_refused(config, cast, conn, fields, status):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(**fields)).status == status
        assert stored(conn) == []
        assert (await esme.submit()).status == 0


@pytest.mark.parametrize("build", [submit_sm, data_sm])
async def test_a_plus_or_00_before_the_country_code_is_no_part_of_the_destination(config, cast, conn, build):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for destination in ("393331234567", "+393331234567", "00393331234567"):
            assert (await esme.request(build(esme, destination, 1))).status == 0
    assert {row["destination"] for row in stored(conn)} == {"393331234567"}


def reads_national_numbers(server, cast, meaning):
    return get_account_config(server, cast.smpp_acme_1.name).national_numbers == meaning


@pytest.mark.parametrize("build", [submit_sm, data_sm])
async def test_ton_2_means_what_the_account_says(config, cast, conn, change_account, build):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.request(build(esme, "393331234567", 2))).status == 0
        for meaning, number, status in (
            ("refused", "393331234567", CommandStatus.ESME_RINVDSTTON),
            ("IT", "3331234567", 0),
        ):
            change_account(national_numbers=meaning)
            await wait_until(partial(reads_national_numbers, server, cast, meaning))
            assert (await esme.request(build(esme, number, 2))).status == status
    assert [row["destination"] for row in stored(conn)] == ["393331234567", "393331234567"]


async def test_times_that_can_be_read_are_taken(config, cast):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(validity_period="000001000000000R")).status == 0


async def test_without_credits_nothing_is_sent(config, cast, conn):
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    other = accounts.get_account(conn, cast.smpp_acme_2.name)
    credits.transfer_credits(conn, SHELL, account, other, 999 * credit_amounts.THOUSANDTHS)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        batch = [esme.build_submit_sm(text=b"a" * 161), esme.build_submit_sm(), esme.build_submit_sm()]
        esme.send(*batch)
        statuses = [answer.status for answer in await esme.wait_for_responses(batch)]
        assert statuses == [CommandStatus.ESME_RSUBMITFAIL, 0, CommandStatus.ESME_RSUBMITFAIL]
    assert credits.get_balance(conn, cast.smpp_acme_1.id) == 0
    assert [row["ptt"] for row in stored(conn)].count(message_states.PTT_NO_CREDIT) == 2


async def test_more_than_the_window_is_throttled(config, cast, change_account):
    change_account(windowing=3, throughput=0)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        batch = [esme.build_submit_sm() for _ in range(10)]
        esme.send(*batch)
        statuses = [answer.status for answer in await esme.wait_for_responses(batch)]
        assert statuses[:3] == [0, 0, 0]
        assert set(statuses[3:]) == {CommandStatus.ESME_RTHROTTLED}
        assert (await esme.submit()).status == 0


async def test_more_than_the_throughput_is_throttled_and_a_change_holds_at_once(config, cast, change_account):
    change_account(windowing=0, throughput=5)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        batch = [esme.build_submit_sm() for _ in range(20)]
        esme.send(*batch)
        statuses = [answer.status for answer in await esme.wait_for_responses(batch)]
        assert statuses.count(0) == 5
        change_account(throughput=0)
        await wait_until(lambda: get_account_config(server, cast.smpp_acme_1.name).throughput == 0)
        batch = [esme.build_submit_sm() for _ in range(100)]
        esme.send(*batch)
        assert {answer.status for answer in await esme.wait_for_responses(batch)} == {0}


async def test_kannels_way_of_asking(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(registered_delivery=0x11, esm_class=3)).status == 0
        assert (await esme.receive_deliver_sm()).esm_class == 4


@pytest.mark.slow
async def test_without_windowing_a_client_waits_instead_of_being_throttled(
    config, cast, conn, change_account, monkeypatch
):
    change_account(windowing=0, throughput=0)
    async with run_smsc(config) as server:
        in_flight, most = 0, 0
        accept = server.storage.outbound.store_submit

        def counted(submit, resolve):
            nonlocal in_flight, most
            in_flight += 1
            most = max(most, in_flight)

            def resolved(result):
                nonlocal in_flight
                in_flight -= 1
                resolve(result)

            accept(submit, resolved)

        monkeypatch.setattr(server.storage.outbound, "store_submit", counted)
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        batch = [esme.build_submit_sm(registered_delivery=0) for _ in range(6_000)]
        # As long as nothing can be written nothing is answered, and everything would be heard.
        conn.execute("BEGIN IMMEDIATE")
        esme.send(*batch)
        await wait_until(lambda: most >= 1_000)
        conn.execute("COMMIT")
        async with asyncio.timeout(DEADLINE_S):
            statuses = Counter([(await esme.read_response()).status for _ in batch])
        # The account has credits for a thousand.
        assert statuses == {CommandStatus.ESME_ROK: 1_000, CommandStatus.ESME_RSUBMITFAIL: 5_000}
        assert most == 1_000


async def test_unbinding_answers_what_was_submitted_first(config, cast, change_account):
    change_account(windowing=0, throughput=0)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        batch = [esme.build_submit_sm() for _ in range(50)]
        esme.send(*batch, HeaderOnlyPdu(CommandId.UNBIND, 999))
        seen = [(await esme.read_pdu()).sequence for _ in range(51)]
        assert seen == [each.sequence for each in batch] + [999]
        await esme.wait_for_close()


@pytest.mark.parametrize(
    "last",
    [
        pytest.param((HeaderOnlyPdu(CommandId.UNBIND, 998), HeaderOnlyPdu(CommandId.UNBIND, 999)), id="unbind-twice"),
        pytest.param(
            (HeaderOnlyPdu(CommandId.UNBIND, 998), HeaderOnlyPdu(CommandId.UNBIND_RESP, 7)), id="unbind-and-an-answer"
        ),
    ],
)
async def test_every_farewell_is_answered(config, cast, last):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        submit = esme.build_submit_sm(registered_delivery=0)
        esme.send(submit, *last)
        owed = [submit.sequence] + [each.sequence for each in last if each.command == CommandId.UNBIND]
        assert [(await esme.read_pdu()).sequence for _ in owed] == owed
        await esme.wait_for_close()


async def test_what_was_submitted_before_a_bad_length_is_answered(config, cast, conn, change_account):
    change_account(windowing=0, throughput=0)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        batch = [esme.build_submit_sm(registered_delivery=0) for _ in range(50)]
        bad_length, junk = bytes((0, 0, 0, 15)) + bytes(12), batch[0].encode()
        esme.send_octets(b"".join(each.encode() for each in batch) + bad_length + junk)
        esme.send_octets(junk)
        seen = [(await esme.read_pdu()).sequence for _ in range(51)]
        assert seen == [each.sequence for each in batch] + [0]
        await esme.wait_for_close()
    assert len(stored(conn)) == 50


async def test_why_messages_are_refused_is_logged_once_a_session(config, cast, conn, caplog):
    caplog.set_level(logging.INFO)
    conn.execute("UPDATE accounts SET balance = 0")
    async with run_smsc(config) as server:
        for _ in range(2):
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            segment = {TlvTag.SAR_MSG_REF_NUM: b"\0\1", TlvTag.SAR_TOTAL_SEGMENTS: b"\2"}
            wrong_formats = {"esm_class": 0x3C}, {"tlvs": segment | {TlvTag.SAR_SEGMENT_SEQNUM: b"\3"}}
            for fields in ({"data_coding": 1}, {"data_coding": 1}, {"source": "OTHER"}, *2 * wrong_formats, {}, {}):
                await esme.submit(**fields)
            await esme.request(HeaderOnlyPdu(CommandId.UNBIND, 99))
    logged = [each.getMessage() for each in caplog.records if "refused" in each.getMessage()]
    assert [each.partition(" refused: ")[2].partition("; others")[0] for each in logged] == [
        "ESME_RUNSDATACODING 0x401 (coding '1'; sender 'ACME', data_coding 1)",
        "ESME_RINVSRCADR 0x0A (sender 'OTHER'; sender 'OTHER', data_coding 0)",
        "ESME_RINVESMCLASS 0x43 (format 'ESME_RINVESMCLASS'; sender 'ACME', data_coding 0)",
        "ESME_RINVOPTPARAMVAL 0xC4 (format 'ESME_RINVOPTPARAMVAL'; sender 'ACME', data_coding 0)",
        "ESME_RSUBMITFAIL 0x45 (no credits ''; sender 'ACME', data_coding 0)",
    ] * 2
    assert logged[0].startswith("message of smpp-acme-1 from 127.0.0.1, session ")
    assert not any(ITALIAN in each for each in logged)
