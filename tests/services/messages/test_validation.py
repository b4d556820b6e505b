import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from portal.core import gsm0338
from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.billing import statement
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED, ENROUTE, EXPIRED, REJECTED
from portal.services.credits import credits, ledger
from portal.services.messages import deliveries, intake, outcomes, query_cancel, smpp_config, validation
from portal.services.messages.deliveries import DeliveryReceipt
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.smpp_config import AccountConfig
from portal.services.messages.validation import SubmittedMessage
from portal.services.operations import self_check
from portal.services.prices import prices
from portal.services.statistics import daily_totals
from tests.services.submitting import store_messages
from tests.support import list_submitted, prepare_submit, validate_submit

ITALY = "393401234567"
FRANCE = "33612345678"
BOTH = 1
FAILURE_ONLY = 2


@pytest.fixture
def config_of(conn: Connection) -> Callable[[Account], AccountConfig]:
    return lambda account: next(each for each in smpp_config.load_account_configs(conn) if each.id == account.id)


@pytest.fixture
def prepare(
    conn: Connection, acme_1: Account, config_of: Callable[[Account], AccountConfig]
) -> Callable[..., SubmittedMessage]:
    """Prepares a submit of smpp-acme-1; the test may override its arguments."""

    def prepared(body: bytes = b"hello", account: AccountConfig | None = None, **overrides: object) -> SubmittedMessage:
        price_list = prices.load_account_price_list(conn, acme_1.id, now_ms())
        return validate_submit(account or config_of(acme_1), price_list, body, **{"esm_class": 3, **overrides})

    return prepared


# --- the rules


def test_a_message_is_decoded_and_priced(prepare):
    submit = prepare(b"\x01hello", destination=f"+{FRANCE}")
    assert (submit.text, submit.destination, submit.country) == ("£hello", FRANCE, "FR")
    assert (submit.parts, submit.price) == (1, 500)


@pytest.mark.parametrize("source", ["OTHER", "acme", "", "ACME "])
def test_a_sender_that_is_not_approved_is_refused(prepare, source):
    with pytest.raises(validation.InvalidSource):
        prepare(source=source)


def test_an_account_may_send_as_anyone_where_it_is_allowed_to(prepare, config_of, acme_1):
    assert prepare(account=replace(config_of(acme_1), any_sender=True), source="OTHER").source == "OTHER"


@pytest.mark.parametrize("destination", [ITALY, f"+{ITALY}", f"00{ITALY}"])
@pytest.mark.parametrize("ton", [0, 1, 2, 3, 6])
def test_destinations_are_read_as_e_164_whatever_their_ton(prepare, destination, ton):
    assert prepare(destination=destination, dest_ton=ton).destination == ITALY


def test_ton_2_is_refused_where_the_account_wants_that(prepare, config_of, acme_1):
    account = replace(config_of(acme_1), national_numbers="refused")
    with pytest.raises(validation.NationalDestination):
        prepare(account=account, destination=ITALY, dest_ton=2)
    assert prepare(account=account, destination=ITALY, dest_ton=1).destination == ITALY


@pytest.mark.parametrize(
    ("destination", "ton", "read"),
    [
        ("3401234567", 2, "393401234567"),
        ("+33612345678", 2, "33612345678"),
        ("0033612345678", 2, "33612345678"),
        ("33612345678", 1, "33612345678"),
        ("33612345678", 0, "33612345678"),
    ],
)
def test_ton_2_is_of_the_account_s_country(prepare, config_of, acme_1, destination, ton, read):
    account = replace(config_of(acme_1), national_numbers="IT")
    assert prepare(account=account, destination=destination, dest_ton=ton).destination == read


@pytest.mark.parametrize("destination", ["abc", "340-1234567", "1", "340123456712345678"])
def test_what_is_no_national_number_is_refused(prepare, config_of, acme_1, destination):
    account = replace(config_of(acme_1), national_numbers="IT")
    with pytest.raises(validation.InvalidDestination):
        prepare(account=account, destination=destination, dest_ton=2)


def test_a_sender_may_have_a_plus_or_00_in_front(prepare, config_of, acme_1):
    account = replace(config_of(acme_1), senders=frozenset((ITALY, "00123")))
    for source in (ITALY, f"+{ITALY}", f"00{ITALY}", "00123"):
        assert prepare(account=account, source=source).source == source
    with pytest.raises(validation.InvalidSource):
        prepare(account=account, source="123")


@pytest.mark.parametrize(
    "source",
    ["+Acme", "00Acme", "+00Acme", "+7Up", "007Up", "0012345", "+0012345", f"+00{ITALY}", f"0000{ITALY}", f"++{ITALY}"],
)
def test_what_is_in_front_of_anything_else_is_part_of_the_sender(prepare, config_of, acme_1, source):
    account = replace(config_of(acme_1), senders=frozenset(("Acme", "7Up", "12345", ITALY)))
    with pytest.raises(validation.InvalidSource):
        prepare(account=account, source=source)
    assert prepare(account=account, source="+12345").source == "+12345"


@pytest.mark.parametrize(
    "destination",
    [
        "",
        "12",
        "00",
        "+",
        "000393401234567",
        "+00393401234567",
        "0401234567",
        "abc",
        "39340123456789012",
        "3934x1234567",
        "8501921234567",
    ],
)
def test_destinations_that_are_no_number_or_have_no_price_are_refused(prepare, destination):
    with pytest.raises(validation.InvalidDestination):
        prepare(destination=destination)


@pytest.mark.parametrize("data_coding", [1, 2, 3, 4, 0x14, 0xF5, 0xF8])
def test_codings_that_are_not_spoken_are_refused(prepare, data_coding):
    with pytest.raises(validation.UnsupportedDataCoding):
        prepare(data_coding=data_coding)


@pytest.mark.parametrize("body", ["è".encode(), b"a\x1b", b"\x1b\x1b\x1b"])
def test_what_is_not_gsm_is_refused(prepare, body):
    with pytest.raises(validation.UndecodableText):
        prepare(body)


@pytest.mark.parametrize(("body", "text"), [(b"a\x1bAb", "aAb"), (b"a\x1b\x1bb", "a b"), (b"\x1b\x1b", " ")])
def test_escapes_without_a_meaning_go_on_as_they_came(prepare, body, text):
    submit = prepare(body)
    assert (submit.text, submit.body, submit.parts) == (text, body, 1)
    assert prepare(b"\x1b\x1b" * 80).parts == 1
    assert prepare(b"\x1b\x1b" * 81).parts == 2


def test_half_a_character_is_refused(prepare):
    with pytest.raises(validation.BodyTooLong):
        prepare(b"\x00h\x00", data_coding=8)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("", 1), ("x" * 160, 1), ("x" * 161, 2), ("x" * 306, 2), ("x" * 307, 3), ("€" * 80, 1), ("€" * 81, 2)],
)
def test_parts_of_gsm_texts(prepare, text, parts):
    submit = prepare(gsm0338.encode(text))
    assert (submit.parts, submit.price) == (parts, parts * 1000)


@pytest.mark.parametrize(
    ("text", "parts"), [("я" * 70, 1), ("я" * 71, 2), ("я" * 134, 2), ("я" * 135, 3), ("📦" * 35, 1)]
)
def test_parts_of_ucs2_texts(prepare, text, parts):
    assert prepare(text.encode("utf-16-be"), data_coding=8).parts == parts


# --- codings by setting


@pytest.fixture
def allowed(config_of: Callable[[Account], AccountConfig], acme_1: Account) -> AccountConfig:
    """smpp-acme-1 with every coding that can be allowed."""
    return replace(config_of(acme_1), data_codings=frozenset((1, 3, 4)))


@pytest.fixture
def packing(config_of: Callable[[Account], AccountConfig], acme_1: Account) -> AccountConfig:
    """smpp-acme-1, whose GSM 03.38 comes packed."""
    return replace(config_of(acme_1), packed_gsm=True)


@pytest.mark.parametrize(
    ("text", "coding", "parts"),
    [
        ("{back`tick}", 1, 1),
        ("{" * 160, 1, 1),
        ("{" * 161, 1, 2),
        ("{" * 307, 1, 3),
        ("pêche à la ligne", 3, 1),
        ("è" * 140, 3, 1),
        ("è" * 141, 3, 2),
        ("x" * 268, 3, 2),
        ("x" * 269, 3, 3),
    ],
)
def test_latin_1_and_ascii_go_on_as_they_came(conn, prepare, allowed, text, coding, parts):
    submit = prepare(text.encode("latin-1"), account=allowed, data_coding=coding)
    assert (submit.text, submit.data_coding, submit.body) == (text, coding, None)
    assert (submit.parts, submit.price) == (parts, parts * 1000)
    intake.store_messages(conn, [submit])
    (stored,) = outcomes.list_outbound_messages(conn, outcomes.list_simulated_message_ids(conn))
    assert (stored.text, stored.data_coding) == (text, coding)


@pytest.mark.parametrize(("coding", "octets"), [(1, 153), (3, 134), (4, 134)])
def test_a_part_of_each_coding_has_its_own_length(prepare, allowed, coding, octets):
    header, body = b"\x05\x00\x03\x2a\x02\x01", b"\x7f" + b"x" * (octets - 1)
    assert prepare(header + body, account=allowed, data_coding=coding, esm_class=0x40).parts == 1
    with pytest.raises(validation.BodyTooLong):
        prepare(header + body + b"x", account=allowed, data_coding=coding, esm_class=0x40)


# GSM 03.38, section 4: with a class, of which 0 is flash. 0xF4 to 0xF7 are eight bits.
FLASH = {
    **dict.fromkeys((*range(0x10, 0x14), *range(0xF0, 0xF4)), (b"flash \x1be", "flash €")),
    **dict.fromkeys(range(0x18, 0x1C), ("flash я".encode("utf-16-be"), "flash я")),
    **dict.fromkeys(range(0xF4, 0xF8), (b"\x00\xff", "")),
}


@pytest.mark.parametrize("data_coding", FLASH)
def test_flash_goes_on_as_it_came(prepare, config_of, acme_1, data_coding):
    octets, text = FLASH[data_coding]
    binary = data_coding >= 0xF4
    account = replace(config_of(acme_1), data_codings=frozenset((4,) if binary else ()))
    submit = prepare(octets, account=account, data_coding=data_coding)
    assert (submit.text, submit.data_coding, submit.body) == (text, data_coding, octets if binary else None)


def test_no_other_data_coding_is_taken(prepare, allowed):
    for data_coding in set(range(256)) - {0, 1, 3, 4, 8, *FLASH}:
        with pytest.raises(validation.UnsupportedDataCoding):
            prepare(data_coding=data_coding, account=allowed)


def test_parts_of_flash_texts(prepare, packing):
    assert prepare(b"x" * 161, data_coding=0x10).parts == 2
    assert prepare("я".encode("utf-16-be") * 71, data_coding=0x18).parts == 2
    assert prepare(gsm0338.pack_septets(b"packed"), account=packing, data_coding=0xF0).text == "packed"
    with pytest.raises(validation.UndecodableText):
        prepare(b"\xe8", data_coding=0x10)


def test_what_is_not_ascii_is_refused(prepare, allowed):
    with pytest.raises(validation.UndecodableText):
        prepare(b"caff\xe8", account=allowed, data_coding=1)


@pytest.mark.parametrize(("octets", "parts"), [(0, 1), (140, 1), (141, 2), (268, 2), (269, 3)])
def test_binary_is_kept_as_it_is(conn, prepare, allowed, octets, parts):
    body = bytes(number % 256 for number in range(octets))
    submit = prepare(body, account=allowed, data_coding=4)
    assert (submit.body, submit.text, submit.data_coding, submit.parts) == (body, "", 4, parts)
    intake.store_messages(conn, [submit])
    (stored,) = outcomes.list_outbound_messages(conn, outcomes.list_simulated_message_ids(conn))
    assert (stored.body, stored.data_coding) == (body, 4)


def test_binary_beside_a_header(prepare, allowed):
    header = b"\x06\x05\x04\x0b\x84\x23\xf0"
    submit = prepare(header + b"\xff" * 133, account=allowed, data_coding=4, esm_class=0x40)
    assert (submit.udh, submit.body, submit.segment, submit.parts) == (header, b"\xff" * 133, None, 1)
    with pytest.raises(validation.BodyTooLong):
        prepare(header + b"\xff" * 134, account=allowed, data_coding=4, esm_class=0x40)


@pytest.mark.parametrize("data_coding", [1, 3, 4])
def test_each_coding_is_allowed_by_itself(prepare, allowed, data_coding):
    account = replace(allowed, data_codings=frozenset((1, 3, 4)) - {data_coding})
    with pytest.raises(validation.UnsupportedDataCoding):
        prepare(account=account, data_coding=data_coding)
    assert prepare(account=replace(account, data_codings=frozenset((data_coding,))), data_coding=data_coding)


@pytest.mark.parametrize("text", ["", "a", "1234567", "12345678", "caffè costa 5€", "x" * 160])
def test_packed_septets_are_unpacked(prepare, packing, text):
    submit = prepare(gsm0338.pack_septets(gsm0338.encode(text)), account=packing)
    assert (submit.text, submit.data_coding, submit.parts) == (text, 0, 1)


@pytest.mark.parametrize("length", range(1, 20))
@pytest.mark.parametrize("header", [b"\x05\x00\x03\x2a\x02\x01", b"\x06\x08\x04\x12\x2a\x02\x01"])
def test_packed_septets_after_a_header_begin_at_a_septet(prepare, packing, header, length):
    fill_bits = -8 * len(header) % 7
    text = "abcdefghijklmnopqrstuvwxyz"[:length]
    body = header + gsm0338.pack_septets(text.encode(), fill_bits)
    submit = prepare(body, account=packing, esm_class=0x40)
    assert (submit.text, submit.udh, submit.parts) == (text, header, 1)


def test_seven_bits_that_are_left_over_are_filling(prepare, packing):
    # Seven characters fill seven octets but for seven bits; so would an @ as the eighth.
    assert prepare(gsm0338.pack_septets(b"1234567"), account=packing).text == "1234567"
    assert prepare(gsm0338.pack_septets(b"1234567\x00"), account=packing).text == "1234567"
    assert prepare(gsm0338.pack_septets(b"123456\x00\x00\x00"), account=packing).text == "123456@@@"


def test_packed_septets_that_are_no_text_are_refused(prepare, packing):
    with pytest.raises(validation.UndecodableText):
        prepare(gsm0338.pack_septets(b"escape at the end\x1b"), account=packing)


def test_packed_septets_are_counted_as_septets(prepare, packing):
    assert prepare(gsm0338.pack_septets(b"x" * 161), account=packing).parts == 2
    header = b"\x05\x00\x03\x2a\x02\x01"
    assert len(header + gsm0338.pack_septets(b"x" * 153, 1)) == 140
    assert prepare(header + gsm0338.pack_septets(b"x" * 153, 1), account=packing, esm_class=0x40).parts == 1
    with pytest.raises(validation.BodyTooLong):
        prepare(header + gsm0338.pack_septets(b"x" * 154, 1), account=packing, esm_class=0x40)


# --- segments


SEGMENT = validation.Segment(0x1234, 3, 2)
PART = b"\x05\x00\x03\x4d\x02\x01"


@pytest.mark.parametrize(
    ("data_coding", "octets", "text"),
    [
        (0, b"x" * 152 + b"\x1b", "x" * 152),
        (0, b"e now", "e now"),
        (0, b"caff\xe8", "caff\ufffd"),
        (0x10, b"\x1b", ""),
        (1, b"caff\xe8", "caff\ufffd"),
        (3, b"\xfa" * 134, "ú" * 134),
        (8, b"\x00a\xd8\x3d", "a\ufffd"),
        (8, b"\x00a\xd8", "a\ufffd"),
    ],
)
def test_a_part_is_not_refused_for_what_only_the_whole_text_can_tell(prepare, allowed, data_coding, octets, text):
    by_header = prepare(PART + octets, account=allowed, data_coding=data_coding, esm_class=0x40)
    by_sar = prepare(octets, account=allowed, data_coding=data_coding, segment=SEGMENT)
    for each in (by_header, by_sar):
        assert (each.text, each.parts, each.data_coding) == (text, 1, data_coding)
        kept = each.body if each.body is not None else gsm0338.encode_body(text, gsm0338.ENCODINGS[data_coding])
        assert kept == octets


def test_a_packed_part_may_end_within_a_character(prepare, packing):
    septets = b"x" * 152 + b"\x1b"
    submit = prepare(PART + gsm0338.pack_septets(septets, 1), account=packing, esm_class=0x40)
    assert (submit.text, submit.body) == ("x" * 152, septets)
    assert prepare(PART, account=packing, esm_class=0x40).text == ""


@pytest.mark.parametrize(
    ("udh", "octets", "text"),
    [
        ("03240101", b"\x1bS\x1bi", "Şı"),
        ("03250101", b"\x1c\x07", "Şı"),
        ("06240103250103", b"\x1b[\x7b", "Ãã"),
        ("03240102", b"\x1ba\x1bA", "áÁ"),
        ("03240104", b"\x1ba", ""),  # Bengali
        ("03250105", b"abc", ""),
    ],
)
def test_tables_of_national_languages_go_on_untouched(conn, prepare, udh, octets, text):
    header = bytes.fromhex(udh)
    submit = prepare(header + octets, esm_class=0x40)
    assert (submit.text, submit.udh, submit.body, submit.parts) == (text, header, octets, 1)
    intake.store_messages(conn, [submit])
    (stored,) = outcomes.list_outbound_messages(conn, outcomes.list_simulated_message_ids(conn))
    assert (stored.udh, stored.body, stored.data_coding) == (header, octets, 0)
    with pytest.raises(validation.UndecodableText):
        prepare(header + b"\x80", esm_class=0x40)


@pytest.mark.parametrize(
    ("udh", "data_coding", "octets"),
    [
        *((f"050003{reference:02x}0201", 0, b"text") for reference in (0x24, 0x25)),
        *((f"06080400{reference:02x}0201", 0x10, b"text") for reference in (0x24, 0x25)),
        *((udh, 8, "я".encode("utf-16-be")) for udh in ("0500032a0201", "050003240201", "03240101", "03250103")),
        *((udh, 3, b"\xe8") for udh in ("050003250201", "03240101")),
        ("03250101", 1, b"text"),
    ],
)
def test_without_national_tables_the_text_is_all_that_is_kept(prepare, allowed, udh, data_coding, octets):
    submit = prepare(bytes.fromhex(udh) + octets, account=allowed, data_coding=data_coding, esm_class=0x40)
    assert (submit.text, submit.body) == (gsm0338.decode_body(octets, gsm0338.ENCODINGS[data_coding]), None)


@pytest.mark.parametrize(
    ("udh", "segment", "septets"),
    [
        ("03240101", None, 155),
        ("06240101250101", None, 152),
        ("0800032a0201240101", None, 149),
        ("03240101", SEGMENT, 149),  # the header will have 05 00 03 … too
    ],
)
def test_the_elements_of_national_languages_take_room(prepare, udh, segment, septets):
    header = bytes.fromhex(udh)
    assert prepare(header + b"x" * septets, esm_class=0x40, segment=segment).parts == 1
    with pytest.raises(validation.BodyTooLong):
        prepare(header + b"x" * (septets + 1), esm_class=0x40, segment=segment)


@pytest.mark.parametrize(
    ("udh", "segment"),
    [
        (b"\x05\x00\x03\x2a\x03\x02", (0x2A, 3, 2)),
        (b"\x06\x08\x04\x12\x34\x03\x02", (0x1234, 3, 2)),
        (b"\x0b\x05\x04\x23\xf4\x00\x00\x00\x03\x2a\x03\x02", (0x2A, 3, 2)),
        (b"\x05\x00\x03\x2a\x03\x04", None),
        (b"\x05\x00\x03\x2a\x03\x00", None),
        (b"\x05\x00\x03\x2a\x01\x01", None),
        (b"\x03\x00\x03\x2a", None),
        (b"\x00", None),
    ],
)
def test_what_a_header_says_of_concatenation(prepare, udh, segment):
    assert prepare(udh + b"text", esm_class=0x40).segment == segment


def test_a_header_says_more_than_sar_does(prepare):
    concatenates = prepare(b"\x05\x00\x03\x2a\x02\x01text", esm_class=0x40, segment=SEGMENT)
    assert concatenates.segment == (0x2A, 2, 1)
    assert prepare(b"\x06\x05\x04\x23\xf4\x00\x00text", esm_class=0x40, segment=SEGMENT).segment == SEGMENT


def test_a_segment_has_to_fit_a_part(prepare):
    assert prepare(b"x" * 153, segment=SEGMENT).parts == 1
    with pytest.raises(validation.BodyTooLong):
        prepare(b"x" * 154, segment=SEGMENT)
    alone = prepare(b"x" * 160, segment=validation.Segment(7, 1, 1))
    assert (alone.parts, alone.segment) == (1, None)


def test_a_message_has_at_most_255_parts(prepare):
    assert prepare(b"x" * 153 * 255).parts == 255
    with pytest.raises(validation.BodyTooLong):
        prepare(b"x" * (153 * 255 + 1))


def test_a_part_with_a_header_of_its_own_counts_as_one(prepare):
    header = b"\x05\x00\x03\x2a\x02\x01"
    submit = prepare(header + b"x" * 153, esm_class=0x43)
    assert (submit.udh, submit.text, submit.parts) == (header, "x" * 153, 1)
    with pytest.raises(validation.BodyTooLong):
        prepare(header + b"x" * 154, esm_class=0x43)


@pytest.mark.parametrize(("length", "segment"), [(140, None), (135, SEGMENT)])
def test_a_header_alone_has_to_fit_a_part_too(prepare, length, segment):
    """Otherwise a header would carry more octets than are paid for."""

    def make_header(length):
        return bytes((length - 1, 0x05, length - 3)) + bytes(length - 3)

    assert prepare(make_header(length), esm_class=0x40, segment=segment).parts == 1
    with pytest.raises(validation.BodyTooLong):
        prepare(make_header(length + 1), esm_class=0x40, segment=segment)


@pytest.mark.parametrize("body", [b"", b"\x05", b"\xff" + b"x" * 100])
def test_a_header_that_is_not_all_there_is_refused(prepare, body):
    with pytest.raises(validation.BodyTooLong):
        prepare(body, esm_class=0x40)


# --- storing


def test_a_stored_message_is_paid_for(conn, prepare, acme_1):
    (message_id,) = store_messages(conn, [prepare(b"x" * 161)])
    assert credits.get_balance(conn, acme_1.id) == 998_000
    stored = list_submitted(conn, acme_1.id)[0]
    assert (stored.id, stored.parts, stored.price, stored.state, stored.ptt) == (message_id, 2, 2000, ENROUTE, 254)
    assert abs(stored.submitted_at - now_ms()) < 10_000
    movement = statement.list_movements_page(conn, acme_1.id)[0]
    assert (movement.kind, movement.amount, movement.messages) == ("usage", -2000, 1)
    assert self_check.list_problem_texts(conn) == []


def test_a_batch_is_one_line_an_account_in_the_ledger(conn, prepare, config_of, acme_1, globex_1):
    globex = replace(config_of(globex_1), any_sender=True)
    batch = [prepare(), prepare(account=globex), prepare(), prepare(destination=FRANCE)]
    ids = store_messages(conn, batch)
    assert ids == sorted(ids)
    assert [each.amount for each in statement.list_movements_page(conn, acme_1.id, limit=2)] == [-2500, 1_000_000]
    assert [each.messages for each in statement.list_movements_page(conn, globex_1.id, limit=1)] == [1]
    assert self_check.list_problem_texts(conn) == []


def test_messages_with_and_without_extras_keep_their_order_and_all_they_carry(conn, prepare, acme_1):
    soon = now_ms() + 60_000
    batch = [
        prepare(b"one"),
        prepare(b"two", reference=7),
        prepare(b"\x05\x00\x03\x2a\x02\x01three", esm_class=0x43),
        prepare(b"four", expires_at=soon),
        prepare(b"five"),
    ]
    ids = store_messages(conn, batch)
    rows = conn.execute(
        "SELECT id, text, reference, udh, segment_total, expires_at, due_at, done_at, price, state, ptt FROM messages"
        " ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [
        (ids[0], "one", None, None, None, None, None, None, 1000, ENROUTE, 254),
        (ids[1], "two", 7, None, None, None, None, None, 1000, ENROUTE, 254),
        (ids[2], "three", None, b"\x05\x00\x03\x2a\x02\x01", 2, None, None, None, 1000, ENROUTE, 254),
        (ids[3], "four", None, None, None, soon, soon, None, 1000, ENROUTE, 254),
        (ids[4], "five", None, None, None, None, None, None, 1000, ENROUTE, 254),
    ]
    assert self_check.list_problem_texts(conn) == []


def test_what_the_credits_do_not_cover_is_refused_and_the_rest_is_not(conn, prepare, config_of, acme_1, acme_2):
    credits.transfer_credits(conn, SHELL, acme_1, acme_2, 997_000)
    globex = replace(config_of(acme_2), any_sender=True)
    ids = intake.store_messages(
        conn, [prepare(b"x" * 300), prepare(b"x" * 300), prepare(), prepare(), prepare(account=globex)]
    ).message_ids
    assert [each is not None for each in ids] == [True, False, True, False, True]
    assert credits.get_balance(conn, acme_1.id) == 0
    refused = [each for each in list_submitted(conn, acme_1.id) if each.ptt == 10]
    assert [(each.state, each.price, each.done_at is not None) for each in refused] == [(REJECTED, 0, True)] * 2
    assert daily_totals.sum_daily_totals(conn, acme_1.id, 1).refused == 2
    assert self_check.list_problem_texts(conn) == []


@pytest.mark.slow
def test_batches_and_transfers_at_the_same_time_never_spend_twice(connect, prepare, acme_1, acme_2):
    submit, start = prepare(), threading.Barrier(4)
    stored: list[int] = []
    moved: list[int] = []

    def send() -> None:
        conn = connect()
        start.wait()
        for _ in range(30):
            stored.extend(each for each in intake.store_messages(conn, [submit] * 10).message_ids if each)

    def transfer() -> None:
        conn = connect()
        start.wait()
        for _ in range(30):
            try:
                credits.transfer_credits(conn, SHELL, acme_1, acme_2, 10_000)
            except ledger.NotEnoughCredits:
                continue
            moved.append(10_000)

    threads = [threading.Thread(target=target) for target in (send, send, transfer, transfer)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    conn = connect()
    assert len(set(stored)) == len(stored)
    assert credits.get_balance(conn, acme_1.id) == 1_000_000 - 1000 * len(stored) - sum(moved)
    assert self_check.list_problem_texts(conn) == []


def test_a_history_can_be_written_afterwards(conn, prepare, acme_1):
    conn.execute("UPDATE counters SET value = 0")
    conn.execute("DELETE FROM movements")
    conn.execute("UPDATE accounts SET balance = 0")
    yesterday = now_ms() - 86_400_000
    credits.grant_credits(conn, SHELL, acme_1, 5_000, now=yesterday - 1)
    intake.store_messages(conn, [prepare()], now=yesterday)
    assert list_submitted(conn, acme_1.id)[0].submitted_at == yesterday
    assert statement.list_movements_page(conn, acme_1.id)[0].at == yesterday
    assert daily_totals.sum_daily_totals(conn, acme_1.id, 1).sent == 0
    assert daily_totals.sum_daily_totals(conn, acme_1.id, 2).sent == 1
    assert self_check.list_problem_texts(conn) == []


# --- outcomes and receipts


def finish(conn: Connection, message_id: int, state: int = DELIVERED, ptt: int = 0) -> list[DeliveryReceipt]:
    return outcomes.finish_messages(conn, [MessageOutcome(message_id, state, ptt, now_ms())])


def test_an_outcome_counts_once(conn, prepare, acme_1):
    (message_id,) = store_messages(conn, [prepare()])
    (receipt,) = finish(conn, message_id)
    assert (receipt.account_id, receipt.message_id, receipt.state) == (acme_1.id, message_id, DELIVERED)
    assert finish(conn, message_id, EXPIRED, 801) == []
    assert list_submitted(conn, acme_1.id)[0].state == DELIVERED
    totals = daily_totals.sum_daily_totals(conn, acme_1.id, 1)
    assert (totals.sent, totals.delivered, totals.failed) == (1, 1, 0)
    assert self_check.list_problem_texts(conn) == []


def test_receipts_are_in_the_order_of_the_first_outcomes(conn, prepare, acme_1):
    # The simulator may be given a message twice at a start, and tells of it again then.
    one, two, three = store_messages(conn, [prepare() for _ in range(3)])
    ends = [MessageOutcome(each, DELIVERED, 0, now_ms()) for each in (one, two, one, three, two)]
    assert [each.message_id for each in outcomes.finish_messages(conn, ends)] == [one, two, three]
    due = deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready
    assert [each.message_id for each in due if isinstance(each, DeliveryReceipt)] == [one, two, three]


def test_what_the_upstream_said_is_kept_with_the_first_outcome(conn, prepare, acme_1):
    one, two, three = store_messages(conn, [prepare() for _ in range(3)])
    at = now_ms()
    ends = [
        MessageOutcome(one, DELIVERED, 0, at, "1a", "stat:DELIVRD err:000"),
        MessageOutcome(two, DELIVERED, 0, at, "1b", "stat:DELIVRD err:001"),
        MessageOutcome(three, EXPIRED, 801, at),
    ]
    outcomes.finish_messages(conn, ends)
    outcomes.finish_messages(conn, [MessageOutcome(one, EXPIRED, 801, at, "2a", "stat:EXPIRED err:801")])
    rows = conn.execute("SELECT state, upstream_id, upstream_status, done_at FROM messages ORDER BY id").fetchall()
    assert [tuple(row) for row in rows] == [
        (DELIVERED, "1a", "stat:DELIVRD err:000", at),
        (DELIVERED, "1b", "stat:DELIVRD err:001", at),
        (EXPIRED, None, None, at),
    ]


def test_outcomes_are_written_without_a_look_at_other_messages(conn, prepare):
    (message_id,) = store_messages(conn, [prepare()])
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    finish(conn, message_id)
    conn.set_trace_callback(None)
    (update,) = [each for each in statements if each.startswith("UPDATE messages")]
    steps = [row["detail"] for row in conn.execute(f"EXPLAIN QUERY PLAN {update}")]
    assert any("messages USING INTEGER PRIMARY KEY" in each for each in steps)
    assert not [each for each in steps if each.startswith("SCAN messages")]


def test_an_outcome_of_nothing_is_ignored(conn):
    assert finish(conn, 4711) == []


@pytest.mark.parametrize(
    ("registered_delivery", "state", "receipts"),
    [
        (0, DELIVERED, 0),
        (1, DELIVERED, 1),
        (1, EXPIRED, 1),
        (FAILURE_ONLY, DELIVERED, 0),
        (FAILURE_ONLY, EXPIRED, 1),
        (0x11, DELIVERED, 1),
    ],
)
def test_receipts_are_for_those_who_asked(conn, prepare, acme_1, registered_delivery, state, receipts):
    (message_id,) = store_messages(conn, [prepare(registered_delivery=registered_delivery)])
    finish(conn, message_id, state, 801)
    assert len(deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready) == receipts


def test_receipts_come_in_order_and_go_when_they_are_accepted(conn, prepare, acme_1):
    ids = store_messages(conn, [prepare(reference=number) for number in range(3)])
    for message_id in ids:
        finish(conn, message_id)
    due = deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready
    receipts = [(each.message_id, each.reference) for each in due if isinstance(each, DeliveryReceipt)]
    assert receipts == list(zip(ids, range(3), strict=True))
    deliveries.remove_accepted_deliveries(conn, [due[0]])
    assert [each.id for each in deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready] == [
        each.id for each in due[1:]
    ]


def test_a_receipt_that_failed_waits_for_its_time(conn, prepare, acme_1):
    (message_id,) = store_messages(conn, [prepare()])
    finish(conn, message_id)
    (receipt,) = deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready
    later = now_ms() + 5_000
    receipt.attempts += 1
    deliveries.schedule_retries(conn, [(receipt, later)])
    assert deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready == []
    assert deliveries.list_due_deliveries(conn, acme_1.id, later - 1, 10).ready == []
    assert deliveries.list_due_deliveries(conn, acme_1.id, later, 10).ready[0].attempts == 1


def test_receipts_are_given_up_after_seven_days(conn, prepare, acme_1):
    (message_id,) = store_messages(conn, [prepare()])
    finish(conn, message_id)
    week = 7 * 86_400_000
    assert deliveries.expire_deliveries(conn, now_ms() + week - 60_000) == 0
    assert deliveries.expire_deliveries(conn, now_ms() + week + 60_000) == 1
    assert deliveries.list_due_deliveries(conn, acme_1.id, now_ms() + week, 10).ready == []


def test_what_has_no_final_state_is_given_to_the_upstream_again(conn, prepare):
    first, second, third = store_messages(conn, [prepare(), prepare(b"two"), prepare()])
    finish(conn, first)
    assert outcomes.list_simulated_message_ids(conn) == [second, third]
    assert [each.text for each in outcomes.list_outbound_messages(conn, [third, second])] == ["two", "hello"]
    assert [each.id for each in outcomes.list_outbound_messages(conn, [first, third])] == [third]


def test_a_campaign_that_waits_for_its_date_costs_nothing_to_look_past(conn, prepare, acme_1):
    now, waiting = now_ms(), 500
    submit = prepare(scheduled_at=now + DAY_MS)
    intake.store_messages(conn, [submit] * waiting, now=now - 2 * validation.DEFAULT_VALIDITY_MS)
    queries = [
        lambda: outcomes.has_due_messages(conn, now),
        lambda: query_cancel.find_unfinished_messages(conn, acme_1.id, "ACME", FRANCE),
        lambda: outcomes.process_due_messages(conn, now).expired_ids,
    ]
    for query in queries:
        steps: list[int] = []
        conn.set_progress_handler(partial(steps.append, 1), 1)
        assert not query()
        conn.set_progress_handler(None, 0)
        # Of SQLite's virtual machine; reading one row takes some.
        assert len(steps) < waiting
    assert len(query_cancel.find_unfinished_messages(conn, acme_1.id, "ACME", ITALY)) == waiting


def test_a_segment_that_is_there_already_begins_another_text(conn, prepare):
    first, again, second, of_three = store_messages(
        conn,
        [prepare(segment=validation.Segment(7, total, number)) for total, number in ((2, 1), (2, 1), (2, 2), (3, 2))],
    )
    joined = dict(conn.execute("SELECT id, joined_to FROM messages").fetchall())
    assert joined == {first: None, again: None, second: again, of_three: None}


def test_looking_for_one_message_among_many_compares_no_fields(conn, cast):
    first, second = (prepare_submit(conn, cast.smpp_acme_1.id) for _ in range(2))
    assert first != second
    assert [first, second].index(second) == 1
