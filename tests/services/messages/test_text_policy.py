"""Texts that aren't kept: each is removed as soon as it is no longer needed, and so are its words in the index."""

import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from portal.core import db
from portal.core.clock import now_ms
from portal.core.db import Connection
from portal.core.gsm0338 import Encoding
from portal.services.accounts import account_messages, accounts
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED
from portal.services.history import history, removal, search, search_index
from portal.services.history.search import SearchQuery
from portal.services.messages import blacklist, deliveries, inbound, inbound_numbers, intake, outcomes, text_policy
from portal.services.messages.deliveries import DeliveryReceipt
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.messages.intake import StoredMessages
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.validation import DELIVERY_VALIDITY_MS, Segment
from portal.services.people import customers
from portal.services.people.customers import Customer
from tests.services.submitting import cancel_message, store_messages
from tests.support import Cast, prepare_submit

NUMBER, HANDSET = "393401234567", "393337654321"
QUIET = {"registered_delivery": 0}


@pytest.fixture
def acme(conn: Connection, cast: Cast) -> Customer:
    return customers.get_customer_by_id(conn, cast.acme)


@pytest.fixture
def not_kept(conn: Connection, acme: Customer) -> None:
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.NONE)


@pytest.fixture(autouse=True)
def routed(conn: Connection, acme_1: Account) -> None:
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "48484")


def submitted(conn: Connection, account: Account, text: str, **overrides: object) -> StoredMessages:
    return intake.store_messages(conn, [prepare_submit(conn, account.id, text.encode(), **overrides)])


def send(conn: Connection, account: Account, text: str, **overrides: object) -> int:
    (message_id,) = store_messages(conn, [prepare_submit(conn, account.id, text.encode(), **overrides)])
    return message_id


def end(conn: Connection, *message_ids: int) -> list[DeliveryReceipt]:
    return outcomes.finish_messages(conn, [MessageOutcome(each, DELIVERED, 0, now_ms()) for each in message_ids])


def row(conn: Connection, table: str = "messages") -> tuple[object, ...]:
    return tuple(conn.execute(f"SELECT text, body, udh, kept FROM {table} ORDER BY id DESC").fetchone())


GONE = ("", None, None, 0)


# --- when a text goes


@pytest.mark.usefixtures("not_kept")
def test_a_text_stays_until_its_message_ends(conn, acme_1):
    (sent,) = submitted(conn, acme_1, "secret", **QUIET).outbound
    assert row(conn)[0] == "secret"
    assert outcomes.list_outbound_messages(conn, [sent.id])[0].text == "secret", (
        "a restart gives it to the upstream again"
    )
    end(conn, sent.id)
    assert row(conn) == GONE
    (text,) = search.search_texts(conn, acme_1.id).texts
    assert (text.text, text.text_placeholder, text.parts, text.price) == ("", text_policy.TEXT_NOT_KEPT, 1, 1000)


@pytest.mark.usefixtures("not_kept")
def test_what_is_binary_and_headers_go_too(conn, acme_1):
    conn.execute("UPDATE accounts SET data_codings = ? WHERE id = ?", (str(Encoding.BINARY), acme_1.id))
    submit = prepare_submit(
        conn, acme_1.id, b"\x05\x00\x03\x07\x01\x01\xca\xfe", data_coding=Encoding.BINARY, **QUIET, esm_class=0x40
    )
    (message_id,) = store_messages(conn, [submit])
    assert row(conn)[1:] == (b"\xca\xfe", b"\x05\x00\x03\x07\x01\x01", 1)
    end(conn, message_id)
    assert row(conn) == GONE


@pytest.mark.usefixtures("not_kept")
def test_a_text_stays_until_its_receipt_was_accepted(conn, acme_1):
    message_id = send(conn, acme_1, "secret", registered_delivery=1)
    (receipt,) = end(conn, message_id)
    assert receipt.text == "secret"
    (waiting,) = deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready
    assert waiting.text == "secret", "after a restart it says what it would have said before"
    deliveries.schedule_retries(conn, [(waiting, now_ms())])
    assert row(conn)[0] == "secret"
    deliveries.remove_accepted_deliveries(conn, [receipt])
    assert row(conn) == GONE


@pytest.mark.usefixtures("not_kept")
def test_a_text_goes_when_its_receipt_is_given_up(conn, acme_1):
    message_id = send(conn, acme_1, "secret", registered_delivery=1)
    end(conn, message_id)
    deliveries.expire_deliveries(conn, now_ms())
    assert row(conn)[0] == "secret"
    deliveries.expire_deliveries(conn, now_ms() + DELIVERY_VALIDITY_MS + 1)
    assert row(conn) == GONE


@pytest.mark.usefixtures("not_kept")
def test_what_ends_as_it_comes_leaves_no_text(conn, acme_1):
    blacklist.add_blacklist_number(conn, SHELL, acme_1, NUMBER)
    submitted(conn, acme_1, "to who said STOP", destination=NUMBER, **QUIET)
    assert row(conn) == GONE
    (receipt,) = submitted(conn, acme_1, "to the same", destination=NUMBER, registered_delivery=1).receipts
    assert row(conn)[0] == "to the same"
    deliveries.remove_accepted_deliveries(conn, [receipt])
    assert row(conn) == GONE
    conn.execute("UPDATE accounts SET balance = 0 WHERE id = ?", (acme_1.id,))
    assert submitted(conn, acme_1, "no credits", destination=NUMBER[:-1] + "9").message_ids == [None]
    assert row(conn) == GONE


@pytest.mark.usefixtures("not_kept")
def test_a_message_that_is_called_back_leaves_no_text(conn, acme_1):
    at = now_ms() + 3_600_000
    message_id = send(conn, acme_1, "later", scheduled_at=at, **QUIET)
    assert row(conn)[0] == "later"
    cancel_message(conn, acme_1.id, message_id)
    assert row(conn) == GONE


@pytest.mark.usefixtures("not_kept")
@pytest.mark.parametrize("gives_up", [False, True])
def test_a_received_text_goes_when_it_was_accepted_or_given_up(conn, acme_1, gives_up):
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48484", "secret", udh=b"\x00")])
    assert row(conn, "received") == ("secret", None, b"\x00", 1)
    if gives_up:
        deliveries.expire_deliveries(conn, now_ms() + DELIVERY_VALIDITY_MS + 1)
    else:
        deliveries.remove_accepted_deliveries(conn, deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready)
    assert row(conn, "received") == GONE
    (message,) = inbound.search_inbound_messages(conn, acme_1.id).messages
    assert (message.content, message.text_placeholder) == ("", text_policy.TEXT_NOT_KEPT)


@pytest.mark.usefixtures("not_kept")
def test_stop_is_obeyed_and_its_text_goes(conn, acme_1):
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48484", "STOP")])
    deliveries.remove_accepted_deliveries(conn, deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready)
    (listed,) = blacklist.list_blacklist_page(conn, acme_1.id)
    assert (listed.number, listed.reason, listed.text_placeholder) == (HANDSET, "STOP", text_policy.TEXT_NOT_KEPT)


@pytest.mark.usefixtures("not_kept")
def test_the_segments_of_a_text_go_one_by_one(conn, acme_1):
    parts = [
        prepare_submit(
            conn, acme_1.id, each.encode("utf-16-be"), data_coding=Encoding.UCS2, segment=Segment(7, 2, number), **QUIET
        )
        for number, each in enumerate(("first ", "second"), 1)
    ]
    one, two = store_messages(conn, parts)
    end(conn, one)
    (text,) = search.search_texts(conn, acme_1.id).texts
    assert (text.text, text.text_placeholder) == ("[…]second", "")
    end(conn, two)
    (text,) = search.search_texts(conn, acme_1.id).texts
    assert (text.text, text.text_placeholder, text.parts) == ("", text_policy.TEXT_NOT_KEPT, 2)


@pytest.mark.usefixtures("not_kept")
def test_others_keep_theirs(conn, acme_1, globex_1):
    ids = store_messages(
        conn,
        [
            prepare_submit(conn, acme_1.id, b"of Acme", **QUIET),
            prepare_submit(conn, globex_1.id, b"of Globex", **QUIET, source="GLOBEX"),
        ],
    )
    end(conn, *ids)
    assert [each[0] for each in conn.execute("SELECT text FROM messages ORDER BY id")] == ["", "of Globex"]


def test_texts_are_kept_unless_somebody_says_otherwise(conn, acme, acme_1):
    assert acme.texts == acme_1.texts == text_policy.SHOWN
    for texts in (text_policy.SHOWN, text_policy.HIDDEN):
        text_policy.change_text_policy(conn, SHELL, acme, texts)
        message_id = send(conn, acme_1, "kept", **QUIET)
        end(conn, message_id)
        assert row(conn)[0] == "kept"


@pytest.mark.usefixtures("not_kept")
def test_what_is_removed_is_overwritten(conn, acme_1, data):
    # Long enough that what is left of the row doesn't cover it by chance.
    text = " ".join(["zanzibar"] * 100)
    message_id = send(conn, acme_1, text, **QUIET)
    assert db.truncate_wal(conn)
    assert left_of(data) == ["portal.db"]
    end(conn, message_id)
    assert left_of(data) == ["portal.db"], "the page as it was"
    assert db.truncate_wal(conn)
    assert left_of(data) == []


def left_of(data: Path) -> list[str]:
    """The files of a data folder that contain the text."""
    # By another process: one that opens and closes a file loses its locks on it (fcntl), which are SQLite's.
    matching = subprocess.run(["grep", "-rlaF", "zanzibar", data], capture_output=True, text=True)
    return sorted(Path(each).name for each in matching.stdout.split())


# --- changing it


def test_a_change_is_in_the_audit_log(conn, acme, acme_1):
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.HIDDEN)
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.HIDDEN)
    entries = conn.execute("SELECT details FROM audit_log WHERE action = 'customer.change'").fetchall()
    assert [each[0] for each in entries] == ['{"texts": "hidden", "texts_removed": false}']
    assert (
        accounts.get_account(conn, acme_1.name).texts
        == customers.get_customer_by_id(conn, acme.id).texts
        == text_policy.HIDDEN
    )


def test_what_is_no_choice_is_refused(conn, acme):
    with pytest.raises(text_policy.InvalidTextPolicy):
        text_policy.change_text_policy(conn, SHELL, acme, "secret")


@pytest.mark.parametrize(
    ("texts", "role", "reads"),
    [
        ("shown", "viewer", True),
        ("hidden", "viewer", False),
        ("none", "viewer", False),
        ("hidden", "owner", True),
        ("hidden", "manager", True),
        ("none", "owner", True),
        ("hidden", "operator", True),
    ],
)
def test_who_reads(texts, role, reads):
    assert text_policy.may_read_texts(texts, role) is reads


def stored(conn: Connection) -> list[str | None]:
    return [each[0] for each in conn.execute("SELECT text FROM messages ORDER BY id")]


def run(conn: Connection) -> int:
    return sum(removal.run_text_removals(conn))


def test_what_is_stored_stays_unless_it_is_asked_for(conn, acme, acme_1):
    message_id = send(conn, acme_1, "before", **QUIET)
    end(conn, message_id)
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.NONE)
    assert run(conn) == 0
    assert stored(conn) == ["before"]
    assert not text_policy.is_removing_texts(conn, acme.id)
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.NONE, remove_stored=True)
    assert text_policy.is_removing_texts(conn, acme.id)
    assert run(conn) == 1
    assert stored(conn) == [""]
    assert not text_policy.is_removing_texts(conn, acme.id)


def test_what_is_needed_still_goes_later(conn, acme, acme_1):
    underway, waits, over = (send(conn, acme_1, text, registered_delivery=1) for text in "abc")
    receipt, over_receipt = end(conn, waits, over)
    deliveries.remove_accepted_deliveries(conn, [over_receipt])
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48484", text) for text in "de"])
    waiting = {each.text: each for each in deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready}
    deliveries.remove_accepted_deliveries(conn, [waiting["d"]])
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.NONE, remove_stored=True)
    assert run(conn) == 2
    assert stored(conn) == ["a", "b", ""]
    assert [each[0] for each in conn.execute("SELECT text FROM received ORDER BY id")] == ["", "e"]
    deliveries.remove_accepted_deliveries(conn, [receipt, waiting["e"]])
    deliveries.remove_accepted_deliveries(conn, end(conn, underway))
    assert stored(conn) == ["", "", ""]
    assert row(conn, "received") == GONE


def test_a_removal_goes_in_steps_and_on_where_it_was_left(conn, acme, acme_1, monkeypatch):
    monkeypatch.setattr(removal, "_TEXT_BATCH_SIZE", 3)
    sent = [send(conn, acme_1, f"text {number}", **QUIET) for number in range(10)]
    end(conn, *sent)
    for number in range(7):
        inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48484", f"answer {number}")])
    deliveries.remove_accepted_deliveries(conn, deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready)
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.NONE, remove_stored=True)
    steps = removal.run_text_removals(conn)
    assert [next(steps), next(steps)] == [3, 3]
    assert isinstance(steps, Generator)
    steps.close()
    assert stored(conn).count("") == 6
    assert [each for each in removal.run_text_removals(conn) if each] == [3, 1, 3, 3, 1]
    assert not any(stored(conn))


@pytest.mark.parametrize("indexed", [0, 3, 7])
def test_stored_texts_go_however_many_are_in_the_index(conn, acme, acme_1, indexed, monkeypatch):
    monkeypatch.setattr(removal, "_TEXT_BATCH_SIZE", 2)
    end(conn, *(send(conn, acme_1, f"text {number}", **QUIET) for number in range(7)))
    if indexed:
        account_messages.index_message_batch(conn, max_messages=indexed)
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.NONE, remove_stored=True)
    assert sum(removal.run_text_removals(conn)) == 7
    assert stored(conn) == [""] * 7


def test_who_thinks_better_of_it_keeps_what_is_left(conn, acme, acme_1, monkeypatch):
    monkeypatch.setattr(removal, "_TEXT_BATCH_SIZE", 1)
    end(conn, *(send(conn, acme_1, text, **QUIET) for text in ("one", "two", "three")))
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.NONE, remove_stored=True)
    steps = removal.run_text_removals(conn)
    next(steps)
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.HIDDEN)
    assert list(steps) == []
    assert stored(conn) == ["", "two", "three"]


# --- what searches know


def build(conn: Connection) -> None:
    while sum(search_index.build_search_chunks(conn, chunk_size=3)):
        pass


def index_has_word(conn: Connection, account: Account, word: str) -> bool:
    """Whether a chunk of the account has the bits of a word's beginnings. (All of them by chance: one in 10^4.)"""
    contained = []
    for bits in conn.execute("SELECT bits FROM history_chunks WHERE account_id = ?", (account.id,)):
        size = len(bits[0]) * 8
        terms = [f"t{word[:length]}" for length in (8, 5, 3)]
        positions = [position for term in terms for position in search_index.get_bloom_filter_bits(term, size)]
        contained.append(all(bits[0][position >> 3] >> (position & 7) & 1 for position in positions))
    return any(contained)


@pytest.mark.usefixtures("not_kept")
def test_chunks_of_who_keeps_no_texts_know_no_words(conn, acme_1):
    for _ in range(7):
        submitted(conn, acme_1, "extraordinary")
    build(conn)
    assert conn.execute("SELECT count(*), sum(worded) FROM history_chunks").fetchone()[:] == (2, 0)
    assert not index_has_word(conn, acme_1, "extraord")
    # As long as they are there, they are found, and by number and sender as ever.
    assert len(search.search_texts(conn, acme_1.id, SearchQuery(text="extra")).texts) == 7
    assert len(search.search_texts(conn, acme_1.id, SearchQuery(recipient=NUMBER[:6], sender="acme")).texts) == 7
    assert search.search_texts(conn, acme_1.id, SearchQuery(sender="other")).texts == []


@pytest.mark.parametrize("stored_too", [False, True])
def test_chunks_forget_words_of_what_will_go(conn, acme, acme_1, stored_too):
    before = [send(conn, acme_1, "tremendous", **QUIET) for _ in range(3)]
    end(conn, *before)
    underway = [send(conn, acme_1, "extraordinary", **QUIET) for _ in range(3)]
    build(conn)
    assert index_has_word(conn, acme_1, "tremendo")
    assert index_has_word(conn, acme_1, "extraord")
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.NONE, remove_stored=stored_too)
    run(conn)
    end(conn, *underway)
    assert not index_has_word(conn, acme_1, "extraord")
    assert index_has_word(conn, acme_1, "tremendo") is not stored_too
    assert len(search.search_texts(conn, acme_1.id, SearchQuery(text="tremendous")).texts) == (0 if stored_too else 3)
    assert len(search.search_texts(conn, acme_1.id, SearchQuery(recipient=NUMBER)).texts) == 6


def test_a_text_from_the_time_between_is_found_afterwards(conn, acme, acme_1):
    """It was indexed when its customer kept no texts, and ended when it did again."""
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.NONE)
    sent = [send(conn, acme_1, "extraordinary", **QUIET) for _ in range(3)]
    build(conn)
    text_policy.change_text_policy(conn, SHELL, acme, text_policy.SHOWN)
    end(conn, *sent)
    assert len(search.search_texts(conn, acme_1.id, SearchQuery(text="extra")).texts) == 3


def test_chunks_made_before_a_change_are_not_written_after_it(conn, connect, acme, acme_1):
    for _ in range(3):
        submitted(conn, acme_1, "extraordinary")
    account_messages.index_message_batch(conn)
    other = connect()

    def change_meanwhile(sql: str) -> None:
        if sql.startswith("BEGIN"):
            conn.set_trace_callback(None)
            text_policy.change_text_policy(other, SHELL, acme, text_policy.NONE)

    conn.set_trace_callback(change_meanwhile)
    build(conn)
    assert conn.execute("SELECT count(*) FROM history_chunks").fetchone()[0] == 0
    build(conn)
    assert conn.execute("SELECT count(*) FROM history_chunks").fetchone()[0] == 1
    assert not index_has_word(conn, acme_1, "extraord")


# --- what its reader may not see


def test_a_hidden_text_has_parts_and_price_only(conn, acme_1):
    submitted(conn, acme_1, "secret")
    (text,) = search.search_texts(conn, acme_1.id).texts
    for each in text.messages:
        each.hide_text()
    assert (text.text, text.text_placeholder, text.parts, text.price) == ("", text_policy.TEXT_HIDDEN, 1, 1000)
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48484", "secret", udh=b"\x00")])
    (message,) = [each.without_text() for each in inbound.search_inbound_messages(conn, acme_1.id).messages]
    assert (message.content, message.udh, message.text_placeholder) == ("", None, text_policy.TEXT_HIDDEN)


def test_an_empty_text_is_not_a_missing_one(conn, acme_1):
    submitted(conn, acme_1, "")
    (text,) = search.search_texts(conn, acme_1.id).texts
    assert (text.text, text.text_placeholder) == ("", "")
    assert history.get_sent_text_by_message_id(conn, acme_1.id, text.id).text_placeholder == ""
