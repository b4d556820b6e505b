"""Receipts as carriers write them."""

import datetime
from random import Random

import pytest

from portal.services.common.message_states import (
    ACCEPTED,
    DELETED,
    DELIVERED,
    ENROUTE,
    EXPIRED,
    REJECTED,
    UNDELIVERABLE,
    UNKNOWN,
)
from portal.smsc.protocol.constants import TlvTag
from portal.smsc.protocol.pdu import DataSm, DeliverSm
from portal.smsc.upstream.smpp_client.receipts import INTERMEDIATE_STATES, Receipt, parse_receipt


def parse_text(text: str, esm_class: int = 4) -> Receipt:
    receipt = parse_receipt(DeliverSm(1, esm_class=esm_class, short_message=text.encode("latin-1")))
    assert receipt
    return receipt


def parse_tlvs(text: str = "", **tlvs: bytes) -> Receipt:
    by_tag: dict[int, bytes] = {TlvTag[name.upper()]: value for name, value in tlvs.items()}
    receipt = parse_receipt(DeliverSm(1, esm_class=4, short_message=text.encode(), tlvs=by_tag))
    assert receipt
    return receipt


STANDARD = "id:0012aB sub:001 dlvrd:001 submit date:2611291200 done date:2611291201 stat:DELIVRD err:000 text:Ciao"
AT = int(datetime.datetime(2026, 11, 29, 12, 1, tzinfo=datetime.UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (STANDARD, Receipt(("0012aB",), DELIVERED, True, "DELIVRD", "000", AT)),
        # Jasmin and Kannel write `Text:`, some no space, some all in capitals, with commas, underlines or new lines.
        (STANDARD.replace("text:", "Text:"), Receipt(("0012aB",), DELIVERED, True, "DELIVRD", "000", AT)),
        (STANDARD.upper(), Receipt(("0012AB",), DELIVERED, True, "DELIVRD", "000", AT)),
        (
            "ID: 7, STAT: expired, ERR: 0x1F, done_date: 261129120100",
            Receipt(("7",), EXPIRED, True, "expired", "0x1F", AT),
        ),
        ("stat:UNDELIV\ndone date:20261129120100\nid:7", Receipt(("7",), UNDELIVERABLE, True, "UNDELIV", "", AT)),
        ("id:7 stat:DELIVRD", Receipt(("7",), DELIVERED, True, "DELIVRD")),
        ("id:7", Receipt(("7",), None, False)),
        ("id: stat:DELIVRD done date: err:", Receipt((), DELIVERED, True, "DELIVRD")),
        ("id:7 stat:WHATEVER done date:yesterday", Receipt(("7",), None, False, "WHATEVER")),
        ("id:7 done date:2613451201 stat:EXPIRED", Receipt(("7",), EXPIRED, True, "EXPIRED")),
        # With its time zone, in quarters of an hour.
        ("id:7 done date:261129130100004+ stat:EXPIRED", Receipt(("7",), EXPIRED, True, "EXPIRED", "", AT)),
        # What the message itself says is not the receipt's, wherever it stands.
        ("id:7 stat:EXPIRED text:id:8 stat:DELIVRD", Receipt(("7",), EXPIRED, True, "EXPIRED")),
        ("id:7 text:stat:DELIVRD err:5", Receipt(("7",), None, False)),
        ("text:valid:9 stat:DELIVRD id:7", Receipt(("7",), DELIVERED, True, "DELIVRD")),
        ("", Receipt((), None, False)),
        ("no receipt at all", Receipt((), None, False)),
        ("id:" + "9" * 200 + " stat:" + "X" * 200, Receipt(("9" * 64,), None, False, "X" * 20)),
    ],
)
def test_texts(text, expected):
    assert parse_text(text) == expected


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("ENROUTE", ENROUTE),
        ("ACCEPTD", ACCEPTED),
        ("ACCEPTED", ACCEPTED),
        ("BUFFERED", ENROUTE),
        ("DELIVRD", DELIVERED),
        ("delivered", DELIVERED),
        ("EXPIRED", EXPIRED),
        ("DELETED", DELETED),
        ("UNDELIV", UNDELIVERABLE),
        ("FAILED", UNDELIVERABLE),
        ("UNKNOWN", UNKNOWN),
        ("REJECTD", REJECTED),
    ],
)
def test_words(word, state):
    receipt = parse_text(f"id:1 stat:{word}")
    assert receipt.state == state
    assert receipt.is_final == (state not in INTERMEDIATE_STATES)


def test_states_that_end_nothing():
    assert {ENROUTE, ACCEPTED} == INTERMEDIATE_STATES
    # A notification ends nothing, whatever it says.
    assert not parse_text("id:1 stat:UNDELIV", esm_class=0x20).is_final


def test_tlvs_come_first():
    receipt = parse_tlvs(
        STANDARD, receipted_message_id=b"1198763\0", message_state=b"\x05", network_error_code=b"\x03\x00\x1b"
    )
    assert receipt == Receipt(("1198763", "0012aB"), UNDELIVERABLE, True, "DELIVRD", "27", AT)


def test_the_same_id_is_there_once():
    assert parse_tlvs("id:7 stat:DELIVRD", receipted_message_id=b"7\0").message_ids == ("7",)


@pytest.mark.parametrize(
    "tlvs",
    [
        {"receipted_message_id": b""},
        {"receipted_message_id": b"\0"},
        {"message_state": b""},
        {"message_state": b"\x63"},
        {"message_state": b"\x02\x02"},
        {"network_error_code": b"\x03"},
    ],
)
def test_where_a_tlv_says_nothing_the_text_does(tlvs):
    assert parse_tlvs(STANDARD, **tlvs) == parse_text(STANDARD)


@pytest.mark.parametrize(("value", "state"), [(0, ENROUTE), (1, ENROUTE), (2, DELIVERED), (8, REJECTED), (9, REJECTED)])
def test_message_states(value, state):
    assert parse_tlvs(receipted_message_id=b"7\0", message_state=bytes((value,))).state == state


def test_data_sm_and_other_forms():
    tlvs: dict[int, bytes] = {TlvTag.RECEIPTED_MESSAGE_ID: b"7\0", TlvTag.MESSAGE_STATE: b"\x02"}
    assert parse_receipt(DataSm(1, esm_class=4, tlvs=tlvs)) == Receipt(("7",), DELIVERED, True)
    # Some don't set esm_class; the TLV comes from the network all the same.
    assert parse_receipt(DeliverSm(1, tlvs=tlvs)) == Receipt(("7",), DELIVERED, True)
    payload: dict[int, bytes] = {TlvTag.MESSAGE_PAYLOAD: STANDARD.encode()}
    assert parse_receipt(DeliverSm(1, esm_class=4, tlvs=payload)) == parse_text(STANDARD)
    ucs2 = DeliverSm(1, esm_class=4, data_coding=8, short_message=STANDARD.encode("utf-16-be"))
    assert parse_receipt(ucs2) == parse_text(STANDARD)
    udh = DeliverSm(1, esm_class=0x44, short_message=b"\x05\0\3\1\1\1" + STANDARD.encode())
    assert parse_receipt(udh) == parse_text(STANDARD)


@pytest.mark.parametrize("esm_class", [0, 0x40, 0x08, 0x10])
def test_a_handset_cannot_write_a_receipt(esm_class):
    assert parse_receipt(DeliverSm(1, esm_class=esm_class, short_message=STANDARD.encode())) is None


def test_usual_texts_are_read_as_unusual_ones():
    random = Random(16)
    for _ in range(5_000):
        octets = bytearray(STANDARD.encode())
        for _ in range(random.randrange(4)):
            octets[random.randrange(len(octets))] = random.choice(b" \0,;:_idtx0A\n\xa0")
        text = octets.decode("latin-1")
        # With a new line in front it is not in the usual form any more, and says the same.
        assert parse_text(text) == parse_text("\n" + text)


def test_whatever_comes_is_read():
    random = Random(16)
    for _ in range(5_000):
        octets = bytearray(STANDARD.encode())
        for _ in range(random.randrange(20)):
            octets[random.randrange(len(octets))] = random.randrange(256)
        tlvs = {random.choice((0x1E, 0x423, 0x427)): random.randbytes(random.randrange(70))}
        esm_class, data_coding = random.choice((4, 0x20, 0x44)), random.choice((0, 8))
        receipt = parse_receipt(
            DeliverSm(1, esm_class=esm_class, data_coding=data_coding, short_message=bytes(octets), tlvs=tlvs)
        )
        assert receipt
        assert all(0 < len(each) <= 64 for each in receipt.message_ids)
