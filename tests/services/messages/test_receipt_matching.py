"""Which message a receipt is about, whatever its carrier makes of ids and numbers."""

from collections.abc import Sequence
from typing import Any

import pytest

from portal.core.clock import now_ms
from portal.core.db import Connection
from portal.services.common.message_states import DELIVERED, ENROUTE
from portal.services.messages import message_parts, sending
from portal.services.messages.message_parts import TextPart
from portal.services.messages.receipt_matching import UpstreamReceipt
from portal.services.messages.sending import AcceptedMessage
from portal.services.upstreams import unclaimed
from portal.services.upstreams.claims import Claim
from portal.services.upstreams.message_ids import LEARNED_AFTER
from tests.services.upstreams.waiting import add_upstream, queue_messages, queue_of_each

NUMBER, OTHER_NUMBER = "393401234567", "393337654321"


def send(conn: Connection, account_id: int, upstream_ids: Sequence[str], number: str = NUMBER) -> list[int]:
    """Have the upstream accept a message with each of these ids; returns ours."""
    message_ids = queue_of_each(conn, account_id, [number] * len(upstream_ids))
    while sending.claim_messages(conn, Claim(1, [()], 1_000), now_ms()).messages:
        pass
    accept(conn, message_ids, upstream_ids)
    return message_ids


def accept(conn: Connection, message_ids: Sequence[int], upstream_ids: Sequence[str]) -> None:
    pairs = zip(message_ids, upstream_ids, strict=True)
    sending.store_accepted_messages(conn, [AcceptedMessage(1, *pair, 1, now_ms()) for pair in pairs])


def build(*ids: str, source: str = NUMBER, **values: Any) -> UpstreamReceipt:
    defaults: dict[str, Any] = {
        "upstream": 1,
        "state": DELIVERED,
        "ptt": 0,
        "is_final": True,
        "status": "stat:DELIVRD err:000",
        "done_at": None,
        "destination": "ACME",
        "text": f"id:{ids[0]}" if ids else "",
    }
    return UpstreamReceipt(message_ids=ids, source=source, **defaults | values)


def receive(conn: Connection, *receipts: UpstreamReceipt) -> list[bool]:
    return sending.store_upstream_receipts(conn, receipts, now_ms()).matched


def states(conn: Connection, message_ids: Sequence[int]) -> list[int]:
    found = dict(conn.execute("SELECT id, state FROM messages").fetchall())
    return [found[each] for each in message_ids]


def tried(conn: Connection) -> list[str]:
    return [each.tried for each in unclaimed.list_kept(conn, unclaimed.UNMATCHED_RECEIPTS, None, 100)]


FORMS = [
    ("as-is", "ab12", "ab12"),
    ("as-is", "ab12", "AB12"),
    ("as-is", "AB12", "ab12"),
    ("as-is", "aB12", "AB12"),
    ("as-is", "0000ab12", "ab12"),
    ("as-is", "12", "00012"),
    ("as-is", "7F3-a", "7f3-A"),
    ("as-is", "0", "00"),
    ("dec-to-hex", "000", "0"),
    ("hex-to-dec", "0000AB12", "43794"),
    ("hex-to-dec", "ab12", "0000043794"),
    ("hex-to-dec", "f" * 32, str(16**32 - 1)),
    ("dec-to-hex", "43794", "0000AB12"),
    ("dec-to-hex", "0043794", "ab12"),
]


@pytest.mark.parametrize("setting", ["auto", "set"])
@pytest.mark.parametrize("is_early", [False, True])
@pytest.mark.parametrize(("form", "upstream_id", "receipt_id"), FORMS)
def test_each_form_finds_its_message_after_the_answer_and_before_it(
    conn, keys, cast, form, upstream_id, receipt_id, is_early, setting
):
    add_upstream(conn, keys, message_ids="auto" if setting == "auto" else form)
    if is_early:
        message_ids = queue_of_each(conn, cast.smpp_acme_1.id, [NUMBER])
        sending.claim_messages(conn, Claim(1, [()], 1), now_ms())
        assert receive(conn, build(receipt_id)) == [False]
        accept(conn, message_ids, [upstream_id])
    else:
        message_ids = send(conn, cast.smpp_acme_1.id, [upstream_id])
        assert receive(conn, build(receipt_id)) == [True]
    assert states(conn, message_ids) == [DELIVERED]
    # It stays as it came.
    assert conn.execute("SELECT upstream_id FROM messages").fetchone()[0] == upstream_id
    assert tried(conn) == []


@pytest.mark.parametrize(
    ("setting", "upstream_id", "receipt_id"),
    [
        ("as-is", "ab12", "43794"),
        ("as-is", "43794", "ab12"),
        ("hex-to-dec", "ab12", "ab12"),
        ("hex-to-dec", "43794", "ab12"),
        ("dec-to-hex", "43794", "43794"),
        ("dec-to-hex", "ab12", "43794"),
        ("auto", "ab12", "ab120"),
        ("auto", "", "0"),
        ("auto", "0", ""),
    ],
)
@pytest.mark.parametrize("is_early", [False, True])
def test_no_other_form_does(conn, keys, cast, setting, upstream_id, receipt_id, is_early):
    add_upstream(conn, keys, message_ids=setting)
    if is_early:
        receive(conn, build(receipt_id))
    message_ids = send(conn, cast.smpp_acme_1.id, [upstream_id])
    if not is_early:
        assert receive(conn, build(receipt_id)) == [False]
    assert states(conn, message_ids) == [ENROUTE]
    assert len(tried(conn)) == 1


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (NUMBER, "ACME"),
        (f"+{NUMBER}", "ACME"),
        (f"00{NUMBER}", "ACME"),
        # National, and with digits of a carrier's own in front.
        (NUMBER[2:], "ACME"),
        (f"0{NUMBER[2:]}", "ACME"),
        (f"4477{NUMBER}", "ACME"),
        # The other way round, and without any number.
        ("ACME", NUMBER),
        ("390399123456", NUMBER),
        ("", ""),
        ("ACME", ""),
        ("48484", "ACME"),
    ],
)
def test_the_number_agrees(conn, keys, cast, source, destination):
    add_upstream(conn, keys)
    send(conn, cast.smpp_acme_1.id, ["ab12"])
    assert receive(conn, build("ab12", source=source, destination=destination)) == [True]


@pytest.mark.parametrize("source", [OTHER_NUMBER, f"+{OTHER_NUMBER}", NUMBER[:-1] + "8", NUMBER[2:-1]])
@pytest.mark.parametrize("is_early", [False, True])
def test_one_to_another_number_is_another_one(conn, keys, cast, source, is_early):
    add_upstream(conn, keys)
    if is_early:
        receive(conn, build("ab12", source=source))
    message_ids = send(conn, cast.smpp_acme_1.id, ["ab12"])
    if not is_early:
        assert receive(conn, build("ab12", source=source)) == [False]
        assert tried(conn) == ["ab12, 43794: its message went to another number"]
    assert states(conn, message_ids) == [ENROUTE]


def test_among_several_the_number_then_the_form_then_the_id_as_it_came_then_the_newest_decide(conn, keys, cast):
    add_upstream(conn, keys)
    account_id = cast.smpp_acme_1.id
    (elsewhere,) = send(conn, account_id, ["1234"], OTHER_NUMBER)
    (hexadecimal,) = send(conn, account_id, ["4d2"])
    assert receive(conn, build("1234")) == [True]
    assert states(conn, [elsewhere, hexadecimal]) == [ENROUTE, DELIVERED]
    # The form of the last one is the likeliest, as long as nothing else is known.
    older, altered, newer, hexadecimal = sent = send(conn, account_id, ["1234", "01234", "1234", "04D2"])
    order = []
    for _ in sent:
        before = states(conn, sent)
        receive(conn, build("1234"))
        order += [
            each for each, *change in zip(sent, before, states(conn, sent), strict=True) if change[0] != change[1]
        ]
    assert order == [hexadecimal, newer, older, altered]


def test_once_a_form_is_learned_it_is_looked_for_alone_and_another_one_is_not_lost(conn, keys, cast):
    add_upstream(conn, keys)
    account_id = cast.smpp_acme_1.id
    numbers = range(1_000, 1_000 + LEARNED_AFTER)
    message_ids = send(conn, account_id, [f"{each:x}" for each in numbers])
    assert all(receive(conn, *(build(str(each)) for each in numbers)))
    assert states(conn, message_ids) == [DELIVERED] * LEARNED_AFTER
    learned = conn.execute("SELECT form, matches FROM learned_ids").fetchone()
    assert tuple(learned) == ("hex-to-dec", LEARNED_AFTER)
    # Of two that it may be, the one in the form that was learned.
    as_it_is, in_its_form = send(conn, account_id, ["2000", "7d0"])
    assert receive(conn, build("2000")) == [True]
    assert states(conn, [as_it_is, in_its_form]) == [ENROUTE, DELIVERED]
    # The carrier has changed its ways.
    assert receive(conn, build("2000")) == [True]
    assert states(conn, [as_it_is]) == [DELIVERED]
    assert tuple(conn.execute("SELECT form, matches FROM learned_ids").fetchone()) == ("as-is", 1)


def test_an_early_receipt_with_one_id_is_of_no_message_whose_id_is_zero(conn, keys, cast):
    add_upstream(conn, keys)
    receive(conn, build("ab12"))
    account_id = cast.smpp_acme_1.id
    (zero,) = send(conn, account_id, ["0"])
    (elsewhere,) = send(conn, account_id, ["ab12"], OTHER_NUMBER)
    assert states(conn, [zero, elsewhere]) == [ENROUTE, ENROUTE]
    assert len(tried(conn)) == 1


def test_early_receipts_teach_too(conn, keys, cast):
    add_upstream(conn, keys)
    numbers = range(1_000, 1_000 + LEARNED_AFTER)
    receive(conn, *(build(str(each)) for each in numbers))
    message_ids = send(conn, cast.smpp_acme_1.id, [f"{each:x}" for each in numbers])
    assert states(conn, message_ids) == [DELIVERED] * LEARNED_AFTER
    assert tuple(conn.execute("SELECT form, matches FROM learned_ids").fetchone()) == ("hex-to-dec", LEARNED_AFTER)


@pytest.mark.parametrize("is_early", [False, True])
@pytest.mark.parametrize("addresses", [("ACME", "ACME"), ("", ""), ("48484", "ACME")])
@pytest.mark.parametrize(("of_first", "of_second", "given"), [("10", "16", "10"), ("16", "10", "16")])
def test_before_a_form_is_learned_one_that_is_not_as_it_was_given_needs_the_number(
    conn, keys, cast, is_early, addresses, of_first, of_second, given
):
    add_upstream(conn, keys)
    send(conn, cast.smpp_acme_1.id, [of_first])
    receipt = build(given, source=addresses[0], destination=addresses[1])
    assert receive(conn, receipt) == [True]
    # The same once more is not another customer's, whose id it is in another form.
    if is_early:
        receive(conn, receipt)
    message_ids = send(conn, cast.smpp_globex_1.id, [of_second], OTHER_NUMBER)
    if not is_early:
        assert receive(conn, receipt) == [False]
        assert tried(conn)[0].endswith(": a message has it in another form, and it names no number (see message_ids)")
    assert states(conn, message_ids) == [ENROUTE]
    # With the number it is.
    assert receive(conn, build(given, source=OTHER_NUMBER)) == [True]


def test_a_receipt_that_is_looked_for_again_is_of_no_message_with_its_id_in_another_form(conn, keys, cast):
    add_upstream(conn, keys)
    receipt = build("10")
    receipt.is_counted = True
    message_ids = send(conn, cast.smpp_globex_1.id, ["16"])
    assert receive(conn, receipt) == [False]
    assert states(conn, message_ids) == [ENROUTE]
    receipt.is_counted = False
    assert receive(conn, receipt) == [True]


@pytest.mark.parametrize("is_early", [False, True])
@pytest.mark.parametrize("addresses", [("ACME", "ACME"), ("", ""), ("48484", "ACME")])
def test_once_a_form_is_learned_another_one_needs_the_number(conn, keys, cast, is_early, addresses):
    add_upstream(conn, keys)
    account_id = cast.smpp_acme_1.id
    numbers = range(1_000, 1_000 + LEARNED_AFTER)
    send(conn, account_id, [f"{each:x}" for each in numbers])
    receive(conn, *(build(str(each)) for each in numbers))
    receipt = build("4096", source=addresses[0], destination=addresses[1])
    if is_early:
        assert receive(conn, receipt) == [False]
    message_ids = send(conn, account_id, ["4096", "1000"])
    if not is_early:
        assert receive(conn, receipt) == [True]
    assert receive(conn, receipt) == [False]
    assert tried(conn) == [
        "4096, 1000, 16534: a message has it in another form, and it names no number (see message_ids)"
    ]
    assert states(conn, message_ids) == [ENROUTE, DELIVERED]
    assert receive(conn, build("4096", source="ACME", destination=NUMBER)) == [True]
    assert states(conn, message_ids) == [DELIVERED, DELIVERED]


@pytest.mark.parametrize("is_one_batch", [True, False])
@pytest.mark.parametrize("early", [0, 1, 2])
def test_an_id_that_all_parts_of_a_text_have(conn, keys, cast, early, is_one_batch):
    add_upstream(conn, keys)
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id, body=b"x" * 200, destination=NUMBER)
    sending.claim_messages(conn, Claim(1, [()], 1), now_ms())
    receipts = [build("ab12", text=f"id:ab12 {each}") for each in range(2)]
    receive(conn, *receipts[:early])
    parts = [AcceptedMessage(1, message_id, "ab12", 1, now_ms(), TextPart(number, 2, "{}")) for number in (1, 2)]
    for batch in [parts] if is_one_batch else [[each] for each in parts]:
        sending.store_accepted_messages(conn, batch)
    assert receive(conn, *receipts[early:]) == [True] * (2 - early)
    assert states(conn, [message_id]) == [DELIVERED]
    assert tried(conn) == []


@pytest.mark.parametrize("is_early", [False, True])
@pytest.mark.parametrize(("form", "upstream_id", "receipt_id"), [FORMS[1], FORMS[4], FORMS[8], FORMS[-2]])
def test_each_form_finds_the_part_of_a_text(conn, keys, cast, form, upstream_id, receipt_id, is_early):
    add_upstream(conn, keys, message_ids=form)
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id, body=b"x" * 200, destination=NUMBER)
    sending.claim_messages(conn, Claim(1, [()], 1), now_ms())
    receipts = [build(receipt_id), build("another", source=OTHER_NUMBER), build("other", status="stat:DELIVRD err:002")]
    if is_early:
        receive(conn, *receipts)
    sending.store_accepted_messages(
        conn,
        [
            AcceptedMessage(1, message_id, each, 1, now_ms(), TextPart(number, 2, "{}"))
            for number, each in enumerate((upstream_id, "other"), start=1)
        ],
    )
    if not is_early:
        assert receive(conn, receipts[0]) == [True]
        assert states(conn, [message_id]) == [ENROUTE]
        receive(conn, *receipts[1:])
    # The words have no other form.
    found = [each.state for each in message_parts.read_message_parts(conn, [message_id])[message_id]]
    assert found == [DELIVERED, DELIVERED if form == "as-is" else ENROUTE]
    assert states(conn, [message_id]) == [DELIVERED if form == "as-is" else ENROUTE]


def test_a_batch_costs_as_many_statements_as_one_receipt(conn, keys, cast):
    add_upstream(conn, keys)
    account_id = cast.smpp_acme_1.id

    def count_statements(receipts: Sequence[UpstreamReceipt]) -> int:
        statements: list[str] = []
        conn.set_trace_callback(statements.append)
        receive(conn, *receipts)
        conn.set_trace_callback(None)
        return sum("INDEXED BY messages_upstream" in each for each in statements)

    send(conn, account_id, [f"a{each}" for each in range(30)])
    assert count_statements([build(f"a{each}") for each in range(30)]) == 1
    assert count_statements([build("unknown")]) <= 2

    receive(conn, *(build(f"b{each}") for each in range(30)))
    message_ids = queue_of_each(conn, account_id, [NUMBER] * 30)
    sending.claim_messages(conn, Claim(1, [()], 100), now_ms())
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    accept(conn, message_ids, [f"b{each}" for each in range(30)])
    conn.set_trace_callback(None)
    assert sum("JOIN unmatched_receipts" in each for each in statements) == 1
    assert states(conn, message_ids) == [DELIVERED] * 30


def test_what_was_looked_for_is_told_with_each_id_as_it_came(conn, keys, cast):
    add_upstream(conn, keys)
    receive(conn, build("0AB12", "x-1"))
    assert tried(conn) == ["0AB12, x-1, 43794"]
