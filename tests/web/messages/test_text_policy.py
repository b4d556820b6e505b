"""Texts that viewers don't see, or that aren't kept: in no page, file or answer is a word of them."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from portal.core import clock, db
from portal.core.config import Config
from portal.core.gsm0338 import Encoding
from portal.services.common.audit import SHELL
from portal.services.history import removal
from portal.services.messages import blacklist, deliveries, inbound, inbound_numbers, intake, text_policy
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.people import customers
from portal.web.core import live
from portal.web.core.access import AccessRule, get_access_rule
from tests.serving import start_server
from tests.support import Cast, Person, prepare_submit, wait_until
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser
from tests.web.core.test_live import OpenPage

Client = Callable[[Person], Browser]
NAME = "smpp-acme-1"
HISTORY, RECEIVED, BLACKLIST = (f"/accounts/{NAME}/{page}" for page in ("history", "received", "blacklist"))
HANDSET = "393337654321"
# In all texts; in binary ones, and in headers, as octets.
MARKER = "zanzibar"
_OCTETS = MARKER.encode()
GIVES_AWAY = re.compile("|".join((MARKER, _OCTETS.hex(), _OCTETS.hex(" "), _OCTETS.hex("-"))), re.IGNORECASE)


@pytest.fixture(autouse=True)
def message_ids(conn: db.Connection) -> list[int]:
    """Messages of every kind, sent and received, with the marker in each; returns their ids."""
    account = acting.get_account(conn, NAME)
    conn.execute("UPDATE accounts SET data_codings = ? WHERE id = ?", (str(Encoding.BINARY), account.id))
    sent = acting.send_texts(conn, NAME, f"{MARKER} one", f"two {MARKER}", f"three {MARKER}")
    sent += acting.send_in_parts(conn, NAME, f"the first {MARKER}", f" and {MARKER} again", total=3)
    udh = bytes([len(_OCTETS) + 2, 0x70, len(_OCTETS)]) + _OCTETS
    binary = prepare_submit(
        conn, account.id, udh + _OCTETS, data_coding=Encoding.BINARY, esm_class=0x40, registered_delivery=0
    )
    (message_id,) = intake.store_messages(conn, [binary]).message_ids
    assert message_id is not None
    acting.deliver_messages(conn, sent[0], message_id)
    acting.fail_messages(conn, sent[1])
    inbound_numbers.add_inbound_number(conn, SHELL, account, "48484")
    texts = [
        MobileOriginatedMessage(HANDSET, "48484", "STOP"),
        MobileOriginatedMessage(HANDSET, "48484", f"ciao {MARKER}", udh=udh),
    ]
    texts.append(MobileOriginatedMessage(HANDSET, "48484", "", Encoding.BINARY, udh, _OCTETS))
    inbound.store_inbound_messages(conn, texts)
    # As if a keyword had been among them, so that the blacklist has something to show.
    (stop,) = conn.execute("SELECT min(id) FROM received").fetchone()
    conn.execute("UPDATE received SET text = ? WHERE id = ?", (f"STOP {MARKER}", stop))
    blacklist.add_blacklist_number(conn, SHELL, account, "393331112223")
    # One whose message was deleted since.
    conn.execute(
        "UPDATE blacklist SET received_id = 7, said = ? WHERE number = '393331112223'",
        (f"STOP, you and your {MARKER}",),
    )
    return [*sent, message_id, *(row[0] for row in conn.execute("SELECT id FROM received"))]


@pytest.fixture
def hold(conn: db.Connection, cast: Cast) -> Callable[..., None]:
    """Sets what becomes of Acme's texts."""

    def hold(texts: str, **more: bool) -> None:
        text_policy.change_text_policy(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), texts, **more)

    return hold


@pytest.fixture
def bob(client: Client, cast: Cast) -> Browser:
    """A viewer."""
    return client(cast.bob)


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    """An owner."""
    return client(cast.alice)


def addresses(app: Flask, numbers: list[int]) -> Iterator[str]:
    """All that members may read of the account, with the search for the marker as well."""
    for rule in app.url_map.iter_rules():
        if get_access_rule(app, rule.endpoint) not in (
            AccessRule.ACCOUNT_ACCESS,
            AccessRule.LOGGED_IN,
        ) or "GET" not in (rule.methods or ()):
            continue
        numbered = set(re.findall(r"<int(?:\([^)]*\))?:(\w+)>", rule.rule))
        for number in [1, *numbers] if numbered else [1]:
            _, path = rule.build({each: number if each in numbered else NAME for each in rule.arguments}) or ("", "")
            yield path
            yield f"{path}?text={MARKER[:5]}&period=today"
    for page in live.fragments_by_page:
        yield f"/accounts/{NAME}/live?page={page}"
        yield f"/accounts/{NAME}/live?page={page}&text={MARKER[:5]}"


def giving_away(browser: Browser, found: Iterator[str]) -> set[str]:
    """Those of these addresses that show a word of a text."""
    shown, answered = set(), 0
    for address in found:
        for htmx in (False, True):
            answer = browser.get(address, htmx=htmx)
            answered += answer.status_code == 200
            if GIVES_AWAY.search(answer.text):
                shown.add(address.partition("?")[0])
    assert answered > 50
    return shown


@pytest.mark.slow
def test_a_viewer_finds_no_word_of_a_hidden_text_anywhere(
    app: Flask,
    client: Client,
    cast: Cast,
    bob: Browser,
    alice: Browser,
    hold: Callable[..., None],
    message_ids: list[int],
) -> None:
    pages = list(addresses(app, message_ids))
    before = giving_away(bob, iter(pages))
    assert {HISTORY, RECEIVED, BLACKLIST, f"{HISTORY}.csv", f"{RECEIVED}.jsonl", f"/accounts/{NAME}/live"} <= before
    hold(text_policy.HIDDEN)
    # First those who see all: what is drawn for them must not be kept for others.
    assert giving_away(alice, iter(pages)) == before
    assert giving_away(client(cast.olga), iter(pages)) >= before
    assert giving_away(bob, iter(pages)) == set()


@pytest.mark.slow
def test_who_does_not_keep_texts_hides_them_as_long_as_they_are_there(
    app: Flask, bob: Browser, hold: Callable[..., None], message_ids: list[int]
) -> None:
    hold(text_policy.NONE)
    assert giving_away(bob, addresses(app, message_ids)) == set()


@pytest.mark.slow
def test_what_was_removed_is_nowhere_for_nobody(
    app: Flask, alice: Browser, conn: db.Connection, hold: Callable[..., None], message_ids: list[int]
) -> None:
    hold(text_policy.NONE, remove_stored=True)
    acting.deliver_messages(conn, *(row[0] for row in conn.execute("SELECT id FROM messages WHERE state = 1")))
    deliveries.remove_accepted_deliveries(
        conn, deliveries.list_due_deliveries(conn, acting.get_account(conn, NAME).id, clock.now_ms(), 100).ready
    )
    for _ in removal.run_text_removals(conn):
        pass
    assert giving_away(alice, addresses(app, message_ids)) == set()


# --- what stands in their place


@pytest.mark.parametrize("page", [HISTORY, RECEIVED])
def test_a_viewer_can_t_ask_for_words(bob: Browser, alice: Browser, hold: Callable[..., None], page: str) -> None:
    def lines(browser: Browser, text: str) -> list[str]:
        return re.findall(r' id="([mr]\d+)"', browser.get(page, query_string={"text": text}).text)

    everything = lines(bob, "")
    assert len(everything) > 2
    assert lines(bob, "nothing says this") == []
    hold(text_policy.HIDDEN)
    assert 'name="text"' in alice.get(page).text
    assert lines(alice, "nothing says this") == []
    assert 'name="text"' not in bob.get(page).text
    for text in (MARKER, "nothing says this"):
        assert lines(bob, text) == everything
        assert f'value="{text}"' not in bob.get(page, query_string={"text": text}).text, "nor is it asked for later"


def test_pages_say_what_holds(bob: Browser, alice: Browser, conn: db.Connection, hold: Callable[..., None]) -> None:
    for page in (HISTORY, RECEIVED):
        assert "Texts are" not in alice.get(page).text
    hold(text_policy.HIDDEN)
    for page in (HISTORY, RECEIVED):
        assert "Texts are hidden from viewers. You see them." in extract_text(alice.get(page).text)
        assert "Texts are hidden from viewers, such as you." in extract_text(bob.get(page).text)
        assert "Text hidden" in bob.get(page).text
    hold(text_policy.NONE)
    for page in (HISTORY, RECEIVED):
        assert "Texts are not kept" in extract_text(alice.get(page).text)


def test_a_text_that_is_not_kept_has_parts_and_price(
    alice: Browser, conn: db.Connection, hold: Callable[..., None]
) -> None:
    hold(text_policy.NONE)
    account = acting.get_account(conn, NAME)
    (message_id,) = intake.store_messages(
        conn, [prepare_submit(conn, account.id, b"x" * 161, registered_delivery=0)]
    ).message_ids
    assert message_id is not None
    acting.deliver_messages(conn, message_id)
    assert re.search(r"Text not kept\s+2\s+2\s+Delivered", extract_text(alice.get(HISTORY).text))
    detail = extract_text(alice.get(f"{HISTORY}/{message_id}").text)
    assert "Text not kept" in detail
    assert "Parts 2" in detail
    line = next(csv.DictReader(io.StringIO(alice.get(f"{HISTORY}.csv").text), delimiter=";"))
    assert (line["id"], line["message"]) == (str(message_id), "")
    found = json.loads(alice.get(f"{HISTORY}.jsonl").text.splitlines()[0])
    assert (found["id"], found["message"], found["parts"], found["credits"]) == (str(message_id), None, 2, 2)


def test_a_received_text_that_is_not_kept(alice: Browser, conn: db.Connection, hold: Callable[..., None]) -> None:
    hold(text_policy.NONE)
    deliveries.remove_accepted_deliveries(
        conn, deliveries.list_due_deliveries(conn, acting.get_account(conn, NAME).id, clock.now_ms(), 100).ready
    )
    assert extract_text(alice.get(RECEIVED).text).count("Text not kept") == 3
    assert "STOP Text not kept" in extract_text(alice.get(BLACKLIST).text)
    found = [json.loads(line) for line in alice.get(f"{RECEIVED}.jsonl").text.splitlines()]
    assert [each["message"] for each in found] == [None] * 3


def test_an_open_page_hides_texts_at_once(bob: Browser, hold: Callable[..., None]) -> None:
    page = OpenPage(bob, HISTORY)
    assert page.ask().status_code == 204
    hold(text_policy.HIDDEN)
    answer = page.ask()
    assert answer.status_code == 200
    assert "Text hidden" in answer.text
    assert page.ask().status_code == 204


# --- the operator's choice


@pytest.mark.parametrize("htmx", [False, True])
def test_the_operator_chooses(olga: Browser, conn: db.Connection, cast: Cast, htmx: bool) -> None:
    address = f"/admin/customers/{cast.acme}/texts"
    assert "shown to everybody" in extract_text(olga.get(f"/admin/customers/{cast.acme}").text)
    assert re.search(r'<input checked[^>]*value="shown"', olga.get(address).text)
    answer = olga.post(address, data={"texts": "none", "remove_stored": "y"}, htmx=htmx)
    assert (answer.headers.get("HX-Redirect") or answer.location) == f"/admin/customers/{cast.acme}"
    assert customers.get_customer_by_id(conn, cast.acme).texts == text_policy.NONE
    page = extract_text(olga.get(f"/admin/customers/{cast.acme}").text)
    assert "not kept Those that were stored are being removed." in page
    for _ in removal.run_text_removals(conn):
        pass
    assert "are being removed" not in olga.get(f"/admin/customers/{cast.acme}").text


def test_what_is_no_choice_is_refused(olga: Browser, alice: Browser, conn: db.Connection, cast: Cast) -> None:
    address = f"/admin/customers/{cast.acme}/texts"
    answer = olga.post(address, data={"texts": "secret"})
    assert answer.status_code == 422
    assert "“secret” isn't among" in extract_text(answer.text)
    answer = olga.post(address, data={"texts": "hidden", "remove_stored": "y"})
    assert answer.status_code == 422
    assert "Stored texts are removed only where texts are not kept." in extract_text(answer.text)
    assert re.search(r'<input checked[^>]*value="hidden"', answer.text)
    assert alice.get(address).status_code == 404
    assert alice.post(address, data={"texts": "hidden"}).status_code == 404
    assert olga.get("/admin/customers/999/texts").status_code == 404
    assert customers.get_customer_by_id(conn, cast.acme).texts == text_policy.SHOWN
    assert get_field_value(olga.get(address).text, "csrf_token")


@pytest.mark.slow
def test_the_server_removes_what_is_stored_and_empties_the_log(
    config: Config, conn: db.Connection, hold: Callable[..., None], message_ids: list[int]
) -> None:
    acting.deliver_messages(conn, *(row[0] for row in conn.execute("SELECT id FROM messages WHERE state = 1")))
    deliveries.remove_accepted_deliveries(
        conn, deliveries.list_due_deliveries(conn, acting.get_account(conn, NAME).id, clock.now_ms(), 100).ready
    )
    hold(text_policy.NONE, remove_stored=True)
    log = config.database_file.with_name(f"{config.database_file.name}-wal")
    assert _OCTETS in log.read_bytes()
    with start_server(config, "web"):
        wait_until(lambda: not conn.execute("SELECT 1 FROM text_removals").fetchone())
        # Not that it is empty: other jobs write to it again.
        wait_until(lambda: _OCTETS not in log.read_bytes())
    for table in ("messages", "received"):
        assert conn.execute(f"SELECT sum(kept) FROM {table}").fetchone()[0] == 0
