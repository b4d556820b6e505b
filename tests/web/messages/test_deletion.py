"""Deleting messages from the pages: asked first with the count, without JavaScript, and only what is one's own."""

import re
from collections.abc import Callable
from html import unescape

import pytest

from portal.core import clock, db
from portal.services.common.audit import SHELL
from portal.services.history import deletion
from portal.services.messages import deliveries, inbound, inbound_numbers
from portal.services.messages.inbound import FromHandset
from portal.services.operations import self_check
from portal.services.people import customers
from portal.web.messages import deletion as pages
from portal.web.messages import deletion_progress
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import value_of, words
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
HISTORY, RECEIVED = "/accounts/smpp-acme-1/history", "/accounts/smpp-acme-1/received"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


def accept(conn: db.Connection, name: str = "smpp-acme-1") -> None:
    """A client takes all that waits for it."""
    waiting = deliveries.due(conn, acting.account(conn, name).id, clock.now_ms(), 1000)
    deliveries.done(conn, waiting.now)


@pytest.fixture
def sent(conn: db.Connection) -> list[int]:
    """Twelve messages that have ended, two pages of them; the first one is about a parcel."""
    found = acting.send(conn, "smpp-acme-1", "your parcel", *[f"text {number}" for number in range(11)])
    acting.deliver(conn, *found)
    accept(conn)
    return found


@pytest.fixture
def replies(conn: db.Connection) -> list[int]:
    """Two received messages, of which a client has accepted the first."""
    account = acting.account(conn, "smpp-acme-1")
    inbound_numbers.add(conn, SHELL, account, "48484")
    inbound.take_in(conn, [FromHandset("393337654321", "48484", "Stop!")])
    accept(conn)
    inbound.take_in(conn, [FromHandset("393337654322", "48484", "Yes")])
    return [each.id for each in inbound.find(conn, account.id).messages[::-1]]


def left(conn: db.Connection, table: str = "messages") -> list[int]:
    return [row[0] for row in conn.execute(f"SELECT id FROM {table} ORDER BY id")]


def answer(browser: Browser, question: str, **changed: str) -> str:
    """Press the button of a question; the page that follows, in words."""
    page = browser.get(question).text
    action = re.search(r'<form class="confirm" method="post" action="([^"]+)"', page)
    assert action, page
    fields = {name: value_of(page, name) for name in ("scope", "form", "total") if f'name="{name}"' in page}
    reply = browser.post(unescape(action[1]), data={**fields, **changed})
    assert reply.status_code == 303, reply.text
    return words(browser.get(reply.location).text)


def test_ticked_ones_are_asked_about_and_go(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    page = alice.get(HISTORY).text
    boxes = re.findall(r'<input type="checkbox" name="id" value="(\d+)">', page)
    assert boxes == [str(each) for each in sent[:3:-1]]

    question = words(alice.get(f"{HISTORY}/delete?id={boxes[0]}&id={boxes[1]}").text)
    assert "2 messages go for good." in question
    assert "This can’t be undone." in question
    assert left(conn) == sent

    said = answer(alice, f"{HISTORY}/delete?id={boxes[0]}&id={boxes[1]}")
    assert "2 messages were deleted." in said
    assert left(conn) == sent[:-2]
    assert self_check.problems(conn) == []


def test_one_is_deleted_from_its_own_page(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    link = f"{HISTORY}/delete?id={sent[0]}"
    assert link in alice.get(f"{HISTORY}/{sent[0]}").text

    assert "1 message was deleted." in answer(alice, link)

    assert left(conn) == sent[1:]
    assert alice.get(f"{HISTORY}/{sent[0]}").status_code == 404


def test_all_that_the_filter_finds_go_and_what_comes_meanwhile_stays(
    alice: Browser, conn: db.Connection, sent: list[int]
) -> None:
    query = "recipient=39340&text=text"
    page = alice.get(f"{HISTORY}?{query}").text
    assert '<button class="btn" name="all">Delete all that were found</button>' in page
    hidden = re.findall(r'<input type="hidden" class="live-arg" name="(\w+)" value="(\w+)">', page)
    assert {("recipient", "39340"), ("text", "text")} <= set(hidden)
    question = f"{HISTORY}/delete?all=1&{query}"
    asked = alice.get(question).text
    assert "11 messages go for good." in words(asked)
    assert "all that the filter finds" in words(asked)
    later = acting.send(conn, "smpp-acme-1", "text 12")
    acting.deliver(conn, *later)
    accept(conn)

    fields = {name: value_of(asked, name) for name in ("scope", "form", "total")}
    reply = alice.post(question, data=fields)

    assert reply.location == f"{HISTORY}?recipient=39340&text=text"
    assert left(conn) == [sent[0], *later]


def test_a_day_that_is_none_asks_for_nothing(alice: Browser, sent: list[int]) -> None:
    reply = alice.get(f"{HISTORY}/delete?all=1&period=range&from=nonsense")

    assert reply.status_code == 303
    assert alice.get(reply.location).status_code == 422


def test_what_stays_is_said_with_the_reason(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    acting.send(conn, "smpp-acme-1", "on its way")
    (waits,) = acting.send(conn, "smpp-acme-1", "its receipt waits")
    acting.deliver(conn, waits)
    stays = "1 stays: it is on its way. 1 stays: its delivery receipt waits for a client."

    question = f"{HISTORY}/delete?all=1"
    asked = words(alice.get(question).text)
    assert "12 messages go for good. These are all of this account." in asked
    assert stays in asked

    said = answer(alice, question)
    assert f"12 messages were deleted. {stays}" in said
    assert "Nothing to delete" in words(alice.get(question).text)


def test_nothing_ticked_is_nothing_deleted(alice: Browser, sent: list[int]) -> None:
    assert "No message was ticked" in words(alice.get(f"{HISTORY}/delete").text)


def test_a_form_sent_twice_deletes_once(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    question = f"{HISTORY}/delete?id={sent[0]}"
    page = alice.get(question).text
    fields = {name: value_of(page, name) for name in ("scope", "form", "total")}

    alice.post(question, data=fields)
    again = words(alice.get(alice.post(question, data=fields).location).text)

    assert "This form was sent before" in again
    assert conn.execute("SELECT count(*) FROM deletions").fetchone()[0] == 1


def test_within_the_page_the_question_is_a_dialog(alice: Browser, sent: list[int]) -> None:
    asked = alice.get(f"{HISTORY}/delete?id={sent[0]}", htmx="dialog")
    assert "<html" not in asked.text
    fields = {name: value_of(asked.text, name) for name in ("scope", "form", "total")}

    reply = alice.post(f"{HISTORY}/delete", data=fields, htmx="dialog")

    assert (reply.status_code, reply.headers["HX-Redirect"]) == (204, HISTORY)


# --- received messages


def test_received_ones_go_one_by_one_or_all(alice: Browser, conn: db.Connection, replies: list[int]) -> None:
    link = f"{RECEIVED}/delete?id={replies[0]}"
    assert link in alice.get(f"{RECEIVED}/{replies[0]}").text
    assert f'name="id" value="{replies[0]}"' in alice.get(RECEIVED).text

    said = answer(alice, f"{RECEIVED}/delete?all=1")

    assert "1 message was deleted. 1 stays: it waits for a client." in said
    assert left(conn, "received") == replies[1:]
    listed = alice.get("/accounts/smpp-acme-1/blacklist").text
    assert "Stop!" in words(listed)
    assert f"received/{replies[0]}" not in listed


# --- whose they are


@pytest.mark.parametrize("page", [HISTORY, RECEIVED])
def test_a_viewer_is_refused_and_offered_nothing(
    client: Client, cast: Cast, conn: db.Connection, sent: list[int], replies: list[int], page: str
) -> None:
    bob = client(cast.bob)
    for shown in (page, f"{page}/{(sent if page == HISTORY else replies)[0]}"):
        text = bob.get(shown).text
        assert "delete" not in text
        assert 'type="checkbox"' not in text
    assert bob.get(f"{page}/delete?id={sent[0]}").status_code == 403
    scope = str(deletion.ticked("sent", sent))
    assert bob.post(f"{page}/delete", data={"scope": scope}).status_code == 403
    assert left(conn) == sent


def test_another_customers_messages_are_nothing(
    client: Client, cast: Cast, conn: db.Connection, sent: list[int], replies: list[int]
) -> None:
    charlie = client(cast.charlie)
    for page in (HISTORY, RECEIVED):
        assert charlie.get(f"{page}/delete?all=1").status_code == 404
        assert charlie.post(f"{page}/delete", data={"scope": str(deletion.ticked("sent", sent))}).status_code == 404
    for kind, mine, ids in (("sent", "history", sent), ("received", "received", replies)):
        own = f"/accounts/smpp-globex-1/{mine}/delete"
        assert "Nothing to delete" in words(charlie.get(f"{own}?id={ids[0]}").text)
        charlie.post(own, data={"scope": str(deletion.ticked(kind, ids))})
    assert left(conn) == sent
    assert left(conn, "received") == replies


def test_without_the_token_nothing_goes(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    scope = str(deletion.ticked("sent", sent))

    assert alice.post(f"{HISTORY}/delete", data={"scope": scope}, csrf=False).status_code == 400
    assert left(conn) == sent


@pytest.mark.parametrize(
    "posted", [{}, {"scope": "{}"}, {"scope": "nonsense"}, {"scope": '{"at":1,"before":2,"ids":[1]}', "total": "x"}]
)
def test_what_no_question_has_asked_is_refused(
    alice: Browser, conn: db.Connection, sent: list[int], posted: dict[str, str]
) -> None:
    assert alice.post(f"{HISTORY}/delete", data=posted).status_code == 400
    assert alice.get(f"{HISTORY}/delete?id=nonsense").status_code == 404
    assert left(conn) == sent


# --- many


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page has no time to count and to delete, and says how far it is at once."""
    monkeypatch.setattr(pages, "_COUNT_SECONDS", 0)
    monkeypatch.setattr(pages, "_WORK_SECONDS", 0)
    monkeypatch.setattr(deletion_progress, "_LONG_MS", -1)
    monkeypatch.setattr(deletion, "_AT_ONCE", 4)


@pytest.mark.usefixtures("slow")
def test_many_go_on_behind_the_page_which_says_how_far_it_is(
    alice: Browser, conn: db.Connection, sent: list[int]
) -> None:
    asked = words(alice.get(f"{HISTORY}/delete?all=1").text)
    assert "More than 4 messages go for good." in asked

    said = answer(alice, f"{HISTORY}/delete?all=1")

    assert "The deletion has begun, and goes on by itself." in said
    assert "Messages are being deleted: they are counted first." in said
    (deletion_id,) = deletion.open_ones(conn)
    steps = deletion.work(conn, deletion_id)
    while deletion.by_id(conn, deletion_id).removed < 8:
        next(steps)
    for page in (HISTORY, RECEIVED):
        assert "Messages are being deleted: 8 of 12 are gone." in words(alice.get(page).text)
    for _ in steps:
        pass
    assert "12 messages were deleted." in words(alice.get(HISTORY).text)
    assert left(conn) == []


@pytest.mark.usefixtures("slow")
def test_an_open_page_is_told_how_far_it_is(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    page = alice.get(f"{HISTORY}?text=parcel").text
    seen = re.search(r"seen=([0-9a-f.]+)", page) or re.search(r'name="seen" value="([0-9a-f.]+)"', page)
    assert seen, page
    account = acting.account(conn, "smpp-acme-1")
    deletion.begin(conn, SHELL, account, deletion.ticked("sent", sent), total=12)

    told = alice.get(f"/accounts/smpp-acme-1/live?page=history&seen={seen[1]}&text=parcel", htmx=True).text

    assert "0 of 12 are gone" in words(told)


def test_a_list_is_drawn_anew_when_one_of_it_has_gone(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    assert "your parcel" in words(alice.get(f"{HISTORY}?text=parcel").text)

    answer(alice, f"{HISTORY}/delete?id={sent[0]}")

    assert "your parcel" not in words(alice.get(f"{HISTORY}?text=parcel").text)


# --- how long messages are kept


def test_the_pages_say_how_long_messages_are_kept(alice: Browser, conn: db.Connection, cast: Cast) -> None:
    for page in (HISTORY, RECEIVED):
        assert "Messages are kept for 12 months." in words(alice.get(page).text)
    customers.change(conn, SHELL, customers.by_id(conn, cast.acme), messages_months=1)
    assert "Messages are kept for 1 month." in words(alice.get(HISTORY).text)


def test_the_operator_sets_it_for_a_customer(olga: Browser, conn: db.Connection, cast: Cast) -> None:
    page, address = f"/admin/customers/{cast.acme}", f"/admin/customers/{cast.acme}/retention"
    assert "12 months, as in the settings" in words(olga.get(page).text)

    assert olga.post(address, data={"months": "24"}).status_code == 303
    assert "24 months" in words(olga.get(page).text)
    assert customers.by_id(conn, cast.acme).messages_months == 24
    assert value_of(olga.get(address).text, "months") == "24"

    for wrong in ("0", "-1", "1201", "soon"):
        refused = olga.post(address, data={"months": wrong})
        assert refused.status_code == 422
        assert "can't be how long messages are kept" in words(refused.text)
        assert value_of(refused.text, "months") == wrong
    olga.post(address, data={"months": ""})
    assert customers.by_id(conn, cast.acme).messages_months == customers.USUAL
    assert olga.get("/admin/customers/99/retention").status_code == 404


def test_only_the_operator_sets_it(client: Client, cast: Cast) -> None:
    address = f"/admin/customers/{cast.acme}/retention"
    for person in (cast.alice, cast.charlie):
        assert client(person).get(address).status_code == 404
        assert client(person).post(address, data={"months": "1"}).status_code == 404


def test_it_speaks_italian(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    alice.post("/language", data={"locale": "it"})

    assert "12 messaggi verranno eliminati definitivamente." in words(alice.get(f"{HISTORY}/delete?all=1").text)
    assert "I messaggi vengono conservati per 12 mesi." in words(alice.get(HISTORY).text)
