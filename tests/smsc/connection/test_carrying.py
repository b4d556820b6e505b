"""What a message carries beyond its text: codings by setting, segments, optional parameters; and esm_class."""

import pytest

from portal.core import gsm0338
from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.messages import outcomes
from portal.smsc.protocol.constants import CommandStatus, TlvTag
from portal.smsc.protocol.pdu import DataSm
from tests.smsc.esme import RawEsme, run_smsc


def sar(reference, total, number):
    return {
        TlvTag.SAR_MSG_REF_NUM: reference.to_bytes(2),
        TlvTag.SAR_TOTAL_SEGMENTS: bytes((total,)),
        TlvTag.SAR_SEGMENT_SEQNUM: bytes((number,)),
    }


def stored(conn):
    return conn.execute("SELECT * FROM messages ORDER BY id").fetchall()


@pytest.mark.parametrize(("data_coding", "text"), [(1, "hello {you}"), (3, "perché è così"), (3, "pêche à la ligne")])
async def test_ascii_and_latin_1_where_the_account_may(config, cast, conn, account, data_coding, text):
    octets = text.encode("latin-1")
    accounts.change_account(conn, SHELL, account, data_codings={data_coding})
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(text=octets, data_coding=data_coding)).status == 0
        others = {1, 3, 4} - {data_coding}
        refused = {(await esme.submit(text=octets, data_coding=each)).status for each in others}
        assert refused == {CommandStatus.ESME_RUNSDATACODING}
    (row,) = stored(conn)
    assert (row["text"], row["data_coding"], row["body"]) == (text, data_coding, None)


async def test_binary_where_the_account_may(config, cast, conn, account):
    accounts.change_account(conn, SHELL, account, data_codings={4})
    body = bytes(range(256)) + bytes(44)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        tlvs = {TlvTag.MESSAGE_PAYLOAD: body}
        assert (await esme.submit("393331230006", text=b"", data_coding=4, tlvs=tlvs)).status == 0
    (row,) = stored(conn)
    assert (row["body"], row["text"], row["data_coding"], row["parts"]) == (body, "", 4, 3)
    assert outcomes.list_outbound_messages(conn, outcomes.list_simulated_message_ids(conn))[0].body == body


async def test_octets_that_are_not_the_coding_are_refused(config, cast, conn, account):
    accounts.change_account(conn, SHELL, account, data_codings={1, 3, 4})
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(text=b"\xe8", data_coding=1)).status == CommandStatus.ESME_RINVGSM7CODING
        assert (await esme.submit(text=b"\xe8", data_coding=0)).status == CommandStatus.ESME_RINVGSM7CODING
        assert (await esme.submit(text=b"\x1b", data_coding=0)).status == CommandStatus.ESME_RINVGSM7CODING
        assert (await esme.submit(text=b"\x00h\x00", data_coding=8)).status == CommandStatus.ESME_RINVMSGLEN
    assert stored(conn) == []


async def test_packed_septets_where_the_account_sends_them(config, cast, conn, account):
    accounts.change_account(conn, SHELL, account, packed_gsm=True)
    text = "caffè per 5€ 😀"[:-1]
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(text=gsm0338.pack_septets(gsm0338.encode(text)))).status == 0
        header = b"\x05\x00\x03\x2a\x02\x01"
        body = header + gsm0338.pack_septets(gsm0338.encode("x" * 153), 1)
        assert (await esme.submit(text=body, esm_class=0x40)).status == 0
        escape = gsm0338.pack_septets(b"\x1b")
        assert (await esme.submit(text=escape)).status == CommandStatus.ESME_RINVGSM7CODING
    first, second = stored(conn)
    assert (first["text"], first["parts"]) == (text, 1)
    assert (second["text"], second["udh"], second["parts"]) == ("x" * 153, header, 1)


async def test_a_part_is_kept_as_it_came(config, cast, conn, account):
    accounts.change_account(conn, SHELL, account, data_codings={3})
    header = bytes.fromhex("0500034d0201")
    latin_1 = "ú".encode("latin-1") + b"x" * 133
    parts = [(header + b"x" * 152 + b"\x1b", 0), (header + latin_1, 3)]
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for octets, data_coding in parts:
            assert (await esme.submit(text=octets, esm_class=0x40, data_coding=data_coding)).status == 0
        too_long = await esme.submit(text=header + latin_1 + b"x", esm_class=0x40, data_coding=3)
        assert too_long.status == CommandStatus.ESME_RINVMSGLEN
    cut, latin = stored(conn)
    assert (cut["udh"], cut["body"], cut["text"]) == (header, b"x" * 152 + b"\x1b", "x" * 152)
    assert (latin["text"].encode("latin-1"), latin["data_coding"], latin["parts"]) == (latin_1, 3, 1)


async def test_national_tables_and_escapes_are_kept_as_they_came(config, cast, conn):
    turkish = bytes.fromhex("03240101")
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(text=turkish + b"\x1bs" * 77, esm_class=0x40)).status == 0
        too_long = await esme.submit(text=turkish + b"\x1bs" * 78, esm_class=0x40)
        assert too_long.status == CommandStatus.ESME_RINVMSGLEN
        assert (await esme.submit(text=b"a\x1bA\x1b\x1bb")).status == 0
    national, escaped = stored(conn)
    assert (national["text"], national["udh"], national["body"]) == ("ş" * 77, turkish, b"\x1bs" * 77)
    assert (escaped["text"], escaped["body"]) == ("aA b", b"a\x1bA\x1b\x1bb")


async def test_flash_messages(config, cast, conn, account):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for data_coding in (0x10, 0xF0, 0x18):
            assert (await esme.submit(text=b"\x00h\x00i", data_coding=data_coding)).status == 0
        for data_coding in (0xF4, 0x14):
            status = (await esme.submit(text=b"\xff", data_coding=data_coding)).status
            assert status == CommandStatus.ESME_RUNSDATACODING
    assert [(row["data_coding"], row["text"]) for row in stored(conn)] == [(0x10, "@h@i"), (0xF0, "@h@i"), (0x18, "hi")]


async def test_sar_parameters_make_a_message_a_segment(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for number in (2, 1):
            assert (await esme.submit(text=b"x" * 153, tlvs=sar(0x1234, 2, number))).status == 0
    first, second = stored(conn)
    assert [(row["segment_reference"], row["segment_total"], row["segment_number"]) for row in (first, second)] == [
        (0x1234, 2, 2),
        (0x1234, 2, 1),
    ]
    assert (first["joined_to"], second["joined_to"]) == (None, first["id"])
    assert [row["price"] for row in (first, second)] == [1000, 1000]


@pytest.mark.parametrize("missing", [TlvTag.SAR_MSG_REF_NUM, TlvTag.SAR_TOTAL_SEGMENTS, TlvTag.SAR_SEGMENT_SEQNUM])
async def test_sar_parameters_that_are_not_all_there_are_ignored(config, cast, conn, missing):
    tlvs = sar(7, 2, 1)
    del tlvs[missing]
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(text=b"x" * 160, tlvs=tlvs)).status == 0
    (row,) = stored(conn)
    assert (row["segment_total"], row["parts"]) == (None, 1)


def build_data_sm(esme, tlvs):
    tlvs = {TlvTag.MESSAGE_PAYLOAD: b"hello", **tlvs}
    return DataSm(next(esme.sequences), source="ACME", source_ton=5, destination="393331234567", tlvs=tlvs)


@pytest.mark.parametrize(
    ("tlvs", "status"),
    [
        (sar(7, 2, 3), CommandStatus.ESME_RINVOPTPARAMVAL),
        (sar(7, 0, 1), CommandStatus.ESME_RINVOPTPARAMVAL),
        (sar(7, 2, 0), CommandStatus.ESME_RINVOPTPARAMVAL),
        ({TlvTag.SAR_MSG_REF_NUM: b"\x01"}, CommandStatus.ESME_RINVPARLEN),
        ({TlvTag.SAR_TOTAL_SEGMENTS: b"\x01\x02"}, CommandStatus.ESME_RINVPARLEN),
        ({TlvTag.USER_MESSAGE_REFERENCE: b"\x01"}, CommandStatus.ESME_RINVPARLEN),
        ({TlvTag.DEST_ADDR_SUBUNIT: b""}, CommandStatus.ESME_RINVPARLEN),
        ({TlvTag.MESSAGE_PAYLOAD: b"beside short_message"}, CommandStatus.ESME_RINVOPTPARAMVAL),
    ],
)
async def test_optional_parameters_that_are_refused(config, cast, conn, tlvs, status):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(tlvs=tlvs)).status == status
        assert (await esme.submit(tlvs={0x1499: b"unknown ones are ignored"})).status == 0
    assert len(stored(conn)) == 1


@pytest.mark.parametrize("build", [RawEsme.build_submit_sm, build_data_sm], ids=["submit_sm", "data_sm"])
async def test_optional_parameters_that_are_not_used_and_reserved_values_are_ignored(config, cast, conn, build):
    unused = (
        *((tag, value) for tag in (TlvTag.OUTGOING_ID, TlvTag.INCOMING_ID) for value in (b"", b"x" * 80)),
        (TlvTag.RECEIPTED_MESSAGE_ID, b""),
        # source_addr_subunit, privacy_indicator, more_messages_to_send.
        *((0x000D, b"\xff"), (0x0201, b"\xff"), (0x0426, b"\x02")),
        (TlvTag.DEST_ADDR_SUBUNIT, b"\x05"),
    )
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for tag, value in unused:
            assert (await esme.request(build(esme, tlvs={tag: value}))).status == 0, (tag, value)
        assert (await esme.request(build(esme, tlvs=dict(unused)))).status == 0
    assert [row["subunit"] for row in stored(conn)] == [None] * (len(unused) + 1)


async def test_one_nul_behind_short_message_is_tolerated(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for spare, status in ((b"\0", 0), (b"\0\0", CommandStatus.ESME_RINVOPTPARSTREAM)):
            message = esme.build_submit_sm().encode() + spare
            esme.send_octets(len(message).to_bytes(4) + message[4:])
            assert (await esme.wait_for_response(int.from_bytes(message[12:16]))).status == status
    assert [row["text"] for row in stored(conn)] == ["hello"]


@pytest.mark.parametrize("octets", [b"\x02", b"\x02\x04\x00\x09\x01", b"\x02\x04\x00\x02\x01"])
async def test_optional_parameters_that_end_too_soon(config, cast, conn, octets):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message = esme.build_submit_sm().encode() + octets
        esme.send_octets(len(message).to_bytes(4) + message[4:])
        answer = await esme.wait_for_response(int.from_bytes(message[12:16]))
        assert answer.status == CommandStatus.ESME_RINVOPTPARSTREAM
    assert stored(conn) == []


async def test_a_payload_is_paid_by_all_its_parts(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(text=b"", tlvs={TlvTag.MESSAGE_PAYLOAD: b"x" * 153 * 255})).status == 0
        answer = await esme.submit(text=b"", tlvs={TlvTag.MESSAGE_PAYLOAD: b"x" * (153 * 255 + 1)})
        assert answer.status == CommandStatus.ESME_RINVMSGLEN
    (row,) = stored(conn)
    assert (row["parts"], row["price"]) == (255, 255_000)


async def test_subunit_and_reference(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        tlvs = {TlvTag.DEST_ADDR_SUBUNIT: b"\x01", TlvTag.USER_MESSAGE_REFERENCE: b"\xab\xcd"}
        await esme.submit(tlvs=tlvs)
        assert (await esme.receive_deliver_sm()).tlvs[TlvTag.USER_MESSAGE_REFERENCE] == b"\xab\xcd"
        await esme.submit("393331230006", tlvs={TlvTag.DEST_ADDR_SUBUNIT: b"\x01"})
    assert [row["subunit"] for row in stored(conn)] == [1, 1]
    assert outcomes.list_outbound_messages(conn, outcomes.list_simulated_message_ids(conn))[0].subunit == 1


@pytest.mark.parametrize(
    ("esm_class", "status"),
    [
        *((mode, 0) for mode in range(4)),
        (0x08, 0),
        (0x10, 0),
        (0x80, 0),
        (0x04, CommandStatus.ESME_RINVESMCLASS),
        (0x0C, CommandStatus.ESME_RINVESMCLASS),
        (0x18, CommandStatus.ESME_RINVESMCLASS),
        (0x20, CommandStatus.ESME_RINVESMCLASS),
        (0x3F, CommandStatus.ESME_RINVESMCLASS),
        (0x40, CommandStatus.ESME_RINVMSGLEN),
        (0xC0, CommandStatus.ESME_RINVMSGLEN),
    ],
)
async def test_esm_class(config, cast, esm_class, status):
    # What begins with h (104) would be a header that is longer than the message.
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(esm_class=esm_class)).status == status


@pytest.mark.parametrize(
    ("registered_delivery", "receipts"),
    [(0, {"001": 0, "567": 0}), (1, {"001": 1, "567": 1}), (2, {"001": 1, "567": 0}), (0x10, {"001": 0, "567": 0})],
)
async def test_registered_delivery(config, cast, registered_delivery, receipts):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        endings = {}
        for ending in receipts:
            answer = await esme.submit(f"393331234{ending}", registered_delivery=registered_delivery)
            endings[answer.message_id] = ending
        # Its receipt comes last, for all end after the same time.
        last = await esme.submit()
        seen = dict.fromkeys(receipts, 0)
        while (
            message_id := (await esme.receive_deliver_sm()).tlvs[TlvTag.RECEIPTED_MESSAGE_ID].rstrip(b"\0").decode()
        ) != last.message_id:
            seen[endings[message_id]] += 1
        assert seen == receipts
