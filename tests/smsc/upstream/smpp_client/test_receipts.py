"""Receipts as carriers write them."""

import datetime
from random import Random
from time import process_time
from typing import NamedTuple

import pytest

from portal.core import gsm0338
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
from portal.services.upstreams.mappings import ALWAYS_INTERMEDIATE
from portal.services.upstreams.settings import DEFAULTS, UpstreamSettings
from portal.smsc.protocol.constants import TlvTag
from portal.smsc.protocol.pdu import DataSm, DeliverSm
from portal.smsc.upstream.smpp_client.deliver_sm import parse_receipt


class Receipt(NamedTuple):
    """What a receipt says, but for its text; `status` as it says it."""

    message_ids: tuple[str, ...]
    state: int | None
    is_final: bool
    status: str = "stat: err:"
    done_at: int | None = None


def read_receipt(message: DeliverSm | DataSm, settings: UpstreamSettings = DEFAULTS) -> Receipt | None:
    receipt = parse_receipt(message, 1, settings)
    if receipt is None:
        return None
    return Receipt(receipt.message_ids, receipt.state, receipt.is_final, receipt.status, receipt.done_at)


def parse_text(text: str, esm_class: int = 4, settings: UpstreamSettings = DEFAULTS) -> Receipt:
    receipt = read_receipt(DeliverSm(1, esm_class=esm_class, short_message=text.encode("latin-1")), settings)
    assert receipt
    return receipt


def parse_tlvs(text: str = "", settings: UpstreamSettings = DEFAULTS, **tlvs: bytes) -> Receipt:
    by_tag: dict[int, bytes] = {TlvTag[name.upper()]: value for name, value in tlvs.items()}
    receipt = read_receipt(DeliverSm(1, esm_class=4, short_message=text.encode(), tlvs=by_tag), settings)
    assert receipt
    return receipt


STANDARD = "id:0012aB sub:001 dlvrd:001 submit date:2611291200 done date:2611291201 stat:DELIVRD err:000 text:Ciao"
AT = int(datetime.datetime(2026, 11, 29, 12, 1, tzinfo=datetime.UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (STANDARD, Receipt(("0012aB",), DELIVERED, True, "stat:DELIVRD err:000", AT)),
        # Jasmin and Kannel write `Text:`, some no space, some all in capitals, with commas, underlines or new lines.
        (STANDARD.replace("text:", "Text:"), Receipt(("0012aB",), DELIVERED, True, "stat:DELIVRD err:000", AT)),
        (STANDARD.upper(), Receipt(("0012AB",), DELIVERED, True, "stat:DELIVRD err:000", AT)),
        (
            "ID: 7, STAT: expired, ERR: 0x1F, done_date: 261129120100",
            Receipt(("7",), EXPIRED, True, "stat:expired err:0x1F", AT),
        ),
        ("stat:UNDELIV\ndone date:20261129120100\nid:7", Receipt(("7",), UNDELIVERABLE, True, "stat:UNDELIV err:", AT)),
        ("id:7 stat:DELIVRD", Receipt(("7",), DELIVERED, True, "stat:DELIVRD err:")),
        ("id:7", Receipt(("7",), None, False)),
        ("id: stat:DELIVRD done date: err:", Receipt((), DELIVERED, True, "stat:DELIVRD err:")),
        ("id:7 stat:WHATEVER done date:yesterday", Receipt(("7",), None, False, "stat:WHATEVER err:")),
        ("id:7 done date:2613451201 stat:EXPIRED", Receipt(("7",), EXPIRED, True, "stat:EXPIRED err:")),
        # With its time zone, in quarters of an hour.
        ("id:7 done date:261129130100004+ stat:EXPIRED", Receipt(("7",), EXPIRED, True, "stat:EXPIRED err:", AT)),
        # What the message itself says is not the receipt's, wherever it stands.
        ("id:7 stat:EXPIRED text:id:8 stat:DELIVRD", Receipt(("7",), EXPIRED, True, "stat:EXPIRED err:")),
        ("id:7 text:stat:DELIVRD err:5", Receipt(("7",), None, False)),
        ("text:valid:9 stat:DELIVRD id:7", Receipt(("7",), DELIVERED, True, "stat:DELIVRD err:")),
        ("", Receipt((), None, False)),
        ("no receipt at all", Receipt((), None, False)),
        ("id:" + "9" * 200 + " stat:" + "X" * 200, Receipt(("9" * 64,), None, False, f"stat:{'X' * 20} err:")),
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
    assert receipt.is_final == (state not in ALWAYS_INTERMEDIATE)


def test_states_that_end_nothing():
    assert {ENROUTE, ACCEPTED} == ALWAYS_INTERMEDIATE
    # A notification ends nothing, whatever it says.
    assert not parse_text("id:1 stat:UNDELIV", esm_class=0x20).is_final


def test_tlvs_come_first():
    receipt = parse_tlvs(
        STANDARD, receipted_message_id=b"1198763\0", message_state=b"\x05", network_error_code=b"\x03\x00\x1b"
    )
    assert receipt == Receipt(("1198763", "0012aB"), UNDELIVERABLE, True, "stat:DELIVRD err:27", AT)


def build_settings(**settings: str) -> UpstreamSettings:
    return UpstreamSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("id_from", "pattern", "ids"),
    [
        ("both", "", ("1198763", "0012aB")),
        ("tlv", "", ("1198763",)),
        ("text", "", ("0012aB",)),
        ("text", "id:00(..)", ("12",)),
        ("both", "date:([0-9]+) done", ("1198763", "2611291200")),
        ("text", "ref:(.+)", ()),
        # Nothing is looked for where no receipt has an id.
        ("text", "Ciao{1,9}(x+)", ()),
        ("text", "o(x)", ()),
    ],
)
def test_the_id_is_where_the_settings_say(id_from, pattern, ids):
    settings = build_settings(receipt_id_from=id_from, receipt_id_pattern=pattern)
    text = f"{STANDARD}{'o' * 200}x"
    assert parse_tlvs(text, settings, receipted_message_id=b"1198763\0").message_ids == ids


def test_states_that_are_set_to_end_nothing_do_not():
    settings = build_settings(intermediate_states="UNKNOWN, undeliv")
    for word in ("UNKNOWN", "UNDELIVERED", "ENROUTE", "ACCEPTD"):
        assert not parse_text(f"id:1 stat:{word}", settings=settings).is_final
    assert not parse_tlvs("", settings, receipted_message_id=b"1", message_state=b"\x07").is_final
    assert parse_text("id:1 stat:EXPIRED", settings=settings).is_final


@pytest.mark.parametrize(
    "date",
    ["2607011401", "260701140100", "20260701140100", "260701120100000+", "260701140100008+"],
    ids=["minutes", "seconds", "four digits", "in UTC by 7.1.1", "with its own zone"],
)
def test_dates_are_in_the_time_zone_that_is_set_unless_they_say_theirs(date):
    settings = build_settings(receipt_timezone="Europe/Rome")
    at = int(datetime.datetime(2026, 7, 1, 12, 1, tzinfo=datetime.UTC).timestamp() * 1000)
    assert parse_text(f"id:1 stat:DELIVRD done date:{date}", settings=settings).done_at == at


@pytest.mark.parametrize(
    ("charset", "octets"),
    [
        ("auto", b"id:a_1 stat:DELIVRD"),
        ("gsm", b"id:a\x111 stat:DELIVRD"),
        ("gsm-packed", gsm0338.pack_septets(b"id:a\x111 stat:DELIVRD")),
        ("utf-8", b"id:a_1 stat:DELIVRD text:\xc3\xa9"),
        ("ascii", b"id:a_1 stat:DELIVRD text:\xff"),
    ],
)
def test_a_receipt_in_the_charset_that_is_set(charset, octets):
    message = DeliverSm(1, esm_class=4, short_message=octets)
    receipt = read_receipt(message, build_settings(receipt_charset=charset))
    assert receipt
    assert (receipt.message_ids, receipt.state) == (("a_1",), DELIVERED)


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
    assert read_receipt(DataSm(1, esm_class=4, tlvs=tlvs)) == Receipt(("7",), DELIVERED, True, "stat:DELIVRD err:000")
    # Some don't set esm_class; the TLV comes from the network all the same.
    assert read_receipt(DeliverSm(1, tlvs=tlvs)) == Receipt(("7",), DELIVERED, True, "stat:DELIVRD err:000")
    payload: dict[int, bytes] = {TlvTag.MESSAGE_PAYLOAD: STANDARD.encode()}
    assert read_receipt(DeliverSm(1, esm_class=4, tlvs=payload)) == parse_text(STANDARD)
    ucs2 = DeliverSm(1, esm_class=4, data_coding=8, short_message=STANDARD.encode("utf-16-be"))
    assert read_receipt(ucs2) == parse_text(STANDARD)
    udh = DeliverSm(1, esm_class=0x44, short_message=b"\x05\0\3\1\1\1" + STANDARD.encode())
    assert read_receipt(udh) == parse_text(STANDARD)


@pytest.mark.parametrize("esm_class", [0, 0x40, 0x08, 0x10])
def test_a_handset_cannot_write_a_receipt(esm_class):
    assert read_receipt(DeliverSm(1, esm_class=esm_class, short_message=STANDARD.encode())) is None


def test_no_more_of_a_text_is_looked_at_than_a_receipt_has():
    assert parse_tlvs(message_payload=b"x " * 498 + b"id:7").message_ids == ("7",)
    assert parse_tlvs(message_payload=b"x " * 500 + b"id:7").message_ids == ()


def test_what_can_not_be_read_of_64_kib_takes_no_time():
    # Lone surrogates, each of which is replaced.
    tlvs: dict[int, bytes] = {TlvTag.MESSAGE_PAYLOAD: b"\xd8\x00" * 32_000}
    message = DeliverSm(1, esm_class=4, data_coding=8, tlvs=tlvs)
    durations = []
    for _ in range(5):
        began_at = process_time()
        assert read_receipt(message)
        durations.append(process_time() - began_at)
    assert min(durations) < 0.003


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
        receipt = read_receipt(
            DeliverSm(1, esm_class=esm_class, data_coding=data_coding, short_message=bytes(octets), tlvs=tlvs)
        )
        assert receipt
        assert all(0 < len(each) <= 64 for each in receipt.message_ids)
