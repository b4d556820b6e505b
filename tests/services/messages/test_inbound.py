import sqlite3
from collections.abc import Sequence

import pytest

from portal.core import db
from portal.core.clock import now_ms
from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.messages import blacklist, deliveries, inbound, inbound_numbers
from portal.services.messages.deliveries import InboundDelivery
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.operations import self_check
from portal.services.upstreams import unclaimed

HANDSET = "393337654321"


@pytest.fixture
def shared(conn: Connection, acme_1: Account, globex_1: Account) -> None:
    """48484: acme and info are Acme's, globex Globex's, the rest nobody's."""
    for account, keyword in ((acme_1, "acme"), (acme_1, "info"), (globex_1, "globex")):
        inbound_numbers.add_inbound_number(conn, SHELL, account, "48484", keyword)


def texts(conn: Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in conn.execute("SELECT account_id, keyword, text FROM received ORDER BY id")]


def stopped(conn: Connection, account: Account) -> list[str]:
    return [each.number for each in blacklist.list_blacklist(conn, account.id)]


# --- whom it is for


def match_recipients(conn: Connection, text: str) -> inbound.InboundRecipients:
    return inbound.match_recipients(inbound_numbers.get_accounts_by_keyword(conn, "48484"), text)


@pytest.mark.parametrize("text", ["acme", "Acme, hello", "ÀCMÉ: hello", "  acme\nhello", "ACME!", "acme-club"])
def test_the_keyword_that_a_text_begins_with(conn, shared, acme_1, text):
    assert match_recipients(conn, text) == inbound.InboundRecipients((acme_1.id,), "ACME", is_stop_request=False)


@pytest.mark.parametrize("text", ["acmes", "hello acme", "", "4711", "💥", "a c m e"])
def test_what_begins_with_no_keyword_is_for_whom_has_the_rest(conn, shared, acme_2, text):
    assert match_recipients(conn, text).account_ids == ()
    inbound_numbers.add_inbound_number(conn, SHELL, acme_2, "48484")
    assert match_recipients(conn, text) == inbound.InboundRecipients((acme_2.id,), "", is_stop_request=False)


@pytest.mark.parametrize(
    "text",
    ["stop", "STOP", " Stop. ", "stop!!!", "Stop SMS", "STOP  sms", "stopsms", "Arrêt", "arret", "ARRÊT.", "«Stop»"],
)
def test_stop_in_all_its_forms(conn, shared, acme_1, globex_1, text):
    everyone = (acme_1.id, globex_1.id)
    assert match_recipients(conn, text) == inbound.InboundRecipients(everyone, "", is_stop_request=True)
    for stop_text in (f"{text} globex", f"Globex {text}"):
        assert match_recipients(conn, stop_text) == inbound.InboundRecipients(
            (globex_1.id,), "GLOBEX", is_stop_request=True
        )


@pytest.mark.parametrize(
    "text", ["don't stop", "stop it", "stop by at 9", "non stop", "s t o p", "stop stop", "stopp", "acme stop it"]
)
def test_what_is_no_stop(conn, shared, acme_2, text):
    inbound_numbers.add_inbound_number(conn, SHELL, acme_2, "48484")
    assert not match_recipients(conn, text).is_stop_request


def test_a_stop_without_a_keyword_is_for_all_that_share_the_number(conn, shared, acme_1, acme_2, globex_1):
    inbound_numbers.add_inbound_number(conn, SHELL, acme_2, "48484")
    everyone = [acme_1, acme_2, globex_1]
    assert inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48484", "STOP")]) == {
        each.id for each in everyone
    }
    assert [stopped(conn, each) for each in everyone] == [[HANDSET]] * 3
    assert {row[0] for row in texts(conn)} == {each.id for each in everyone}


# --- taking it in


def test_each_waits_for_its_account_and_the_rest_is_let_go(conn, shared, acme_1, globex_1):
    messages = [MobileOriginatedMessage(HANDSET, "48484", text) for text in ("acme 1", "nobody", "globex 2", "info 3")]
    assert inbound.store_inbound_messages(conn, messages) == {acme_1.id, globex_1.id}
    assert texts(conn) == [
        (acme_1.id, "ACME", "acme 1"),
        (globex_1.id, "GLOBEX", "globex 2"),
        (acme_1.id, "INFO", "info 3"),
    ]
    waits = deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready
    assert [type(each) for each in waits] == [InboundDelivery, InboundDelivery]
    assert [(each.source, each.destination, each.text) for each in waits] == [
        (HANDSET, "48484", "acme 1"),
        (HANDSET, "48484", "info 3"),
    ]
    assert self_check.list_problem_texts(conn) == []


def test_a_second_stop_changes_nothing_and_by_hand_neither(conn, shared, acme_1):
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48484", "STOP ACME")])
    first = blacklist.list_blacklist(conn, acme_1.id)
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48484", "STOP ACME")])
    assert blacklist.add_blacklist_number(conn, SHELL, acme_1, f"+{HANDSET}") == first[0]
    assert blacklist.list_blacklist(conn, acme_1.id) == first
    assert conn.execute("SELECT text FROM received WHERE id = ?", (first[0].received_id,)).fetchone()[0] == "STOP ACME"


def test_one_from_the_shell_is_taken_in_once_however_often_it_comes(conn, shared, acme_1):
    inbound.simulate_inbound_message(conn, HANDSET, "48484", "acme")
    waiting = inbound.list_simulated_messages(conn, 0)
    inbound.store_inbound_messages(conn, waiting + waiting)
    inbound.store_inbound_messages(conn, waiting)
    assert len(texts(conn)) == 1
    assert inbound.list_simulated_messages(conn, 0) == []


def test_one_that_could_not_be_stored_is_still_there(conn, connect, shared, acme_1):
    inbound.simulate_inbound_message(conn, HANDSET, "48484", "acme")
    other = connect()
    waiting = inbound.list_simulated_messages(other, 0)
    with pytest.raises(sqlite3.ProgrammingError):
        _take_in_and_die(other, waiting)
    assert texts(conn) == []
    assert [each.text for each in inbound.list_simulated_messages(conn, 0)] == ["acme"]


def _take_in_and_die(conn: Connection, messages: Sequence[MobileOriginatedMessage]) -> None:
    with db.write_transaction(conn):
        inbound.store_inbound_messages(conn, messages)
        raise sqlite3.ProgrammingError("no commit comes")


# --- simulating


def test_what_is_simulated_says_whom_it_is_for(conn, shared, acme_1):
    found = inbound.simulate_inbound_message(conn, f"+{HANDSET}", "+48484", "Acme 😀")
    assert found == inbound.InboundRecipients((acme_1.id,), "ACME", is_stop_request=False)
    assert inbound.list_simulated_messages(conn, 0) == [
        MobileOriginatedMessage(HANDSET, "48484", "Acme 😀", data_coding=8, simulated_id=1)
    ]
    assert inbound.list_simulated_messages(conn, 1) == []


@pytest.mark.parametrize(
    ("source", "destination", "text", "refusal", "message"),
    [
        (
            HANDSET,
            "48485",
            "acme",
            inbound.NumberNotAssigned,
            "reaches no account. Give it to one: number add ACCOUNT 48485",
        ),
        (HANDSET, "48484", "x", inbound.KeywordNotAssigned, "begins with one of: ACME, GLOBEX, INFO"),
        ("0393337654321", "48484", "acme", blacklist.InvalidHandsetNumber, "“0393337654321” is no phone number"),
        ("ACME", "48484", "acme", blacklist.InvalidHandsetNumber, "“ACME” is no phone number"),
        (HANDSET, "48484", "acme \udcff", inbound.InvalidInboundText, "it isn't Unicode"),
        (HANDSET, "48484", "acme " + "x" * 255 * 153, inbound.InvalidInboundText, "too long"),
    ],
)
def test_what_no_handset_can_send(conn, shared, source, destination, text, refusal, message):
    with pytest.raises(refusal, match=message):
        inbound.simulate_inbound_message(conn, source, destination, text)
    assert inbound.list_simulated_messages(conn, 0) == []


def test_messages_to_numbers_that_nobody_has_are_told_together(conn, monkeypatch, caplog):
    def store(count, log_seconds):
        monkeypatch.setattr(unclaimed, "_LOG_SECONDS", log_seconds)
        inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48480", "hello")] * count)
        lines = [each.getMessage() for each in caplog.records]
        caplog.clear()
        return lines

    store(1, log_seconds=0)
    assert store(1, log_seconds=0) == ["no account takes a message to 48480: it was kept (upstream unowned)"]
    assert store(300, log_seconds=30) == []
    assert store(1, log_seconds=0) == [
        "no account takes 301 messages, the last one to 48480: they were kept (upstream unowned)"
    ]


def test_the_rest_of_them_is_told_though_no_other_comes(conn, monkeypatch, caplog):
    monkeypatch.setattr(unclaimed, "_LOG_SECONDS", 0)
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48480", "hello")])
    monkeypatch.setattr(unclaimed, "_LOG_SECONDS", 30)
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48481", "hello")] * 20)
    caplog.clear()
    inbound.release_old_parts(conn, now_ms())
    assert caplog.messages == []
    monkeypatch.setattr(unclaimed, "_LOG_SECONDS", 0)
    inbound.release_old_parts(conn, now_ms())
    inbound.release_old_parts(conn, now_ms())
    assert caplog.messages == ["no account takes 20 messages, the last one to 48481: they were kept (upstream unowned)"]


def test_what_no_account_takes_is_kept_for_operators(conn, shared, monkeypatch):
    monkeypatch.setattr(unclaimed, "MAX_KEPT", 3)
    at = now_ms()
    messages = [
        MobileOriginatedMessage(HANDSET, "48480", "to no number", upstream=1),
        MobileOriginatedMessage(HANDSET, "48484", "acme takes this", upstream=1),
        MobileOriginatedMessage(HANDSET, "48484", "no keyword", upstream=2),
        MobileOriginatedMessage(HANDSET, "48480", "", 4, body=b"\x01\xff", upstream=1),
        MobileOriginatedMessage(HANDSET, "48480", "x" * 2_000, upstream=1),
    ]
    inbound.store_inbound_messages(conn, messages, at)
    kept = unclaimed.list_kept(conn, unclaimed.UNOWNED_MESSAGES, None, 10)
    assert [(each.upstream, each.destination, each.text) for each in kept] == [
        (1, "48480", "x" * 1_600),
        (1, "48480", "01 ff"),
        (2, "48484", "no keyword"),
    ]
    assert {(each.received_at, each.source) for each in kept} == {(at, HANDSET)}
    assert [each.text for each in unclaimed.list_kept(conn, unclaimed.UNOWNED_MESSAGES, 2, 10)] == ["no keyword"]
    assert len(unclaimed.list_kept(conn, unclaimed.UNOWNED_MESSAGES, None, 1)) == 1
