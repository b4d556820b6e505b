"""Deleting messages from the pages: asked first with the count, without JavaScript, and only what is one's own."""

import re
from collections.abc import Callable
from html import unescape

import pytest

from portal.core import clock, db
from portal.services.common.audit import SHELL
from portal.services.history import deletion
from portal.services.messages import deliveries, inbound, inbound_numbers
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.operations import self_check
from portal.services.people import customers
from portal.web.core.context import PageLimits
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
HISTORY, RECEIVED = "/accounts/smpp-acme-1/history", "/accounts/smpp-acme-1/received"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


def accept(conn: db.Connection, name: str = "smpp-acme-1") -> None:
    """A client takes all that waits for it."""
    waiting = deliveries.list_due_deliveries(conn, acting.get_account(conn, name).id, clock.now_ms(), 1000)
    deliveries.remove_accepted_deliveries(conn, waiting.ready)


@pytest.fixture
def sent(conn: db.Connection) -> list[int]:
    """Twelve messages that have ended; the first one is about a parcel."""
    found = acting.send_texts(conn, "smpp-acme-1", "your parcel", *[f"text {number}" for number in range(11)])
    acting.deliver_messages(conn, *found)
    accept(conn)
    return found


@pytest.fixture
def replies(conn: db.Connection) -> list[int]:
    """Two received messages, of which a client has accepted the first."""
    account = acting.get_account(conn, "smpp-acme-1")
    inbound_numbers.add_inbound_number(conn, SHELL, account, "48484")
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage("393337654321", "48484", "Stop!")])
    accept(conn)
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage("393337654322", "48484", "Yes")])
    return [each.id for each in inbound.search_inbound_messages(conn, account.id).messages[::-1]]


def left(conn: db.Connection, table: str = "messages") -> list[int]:
    return [row[0] for row in conn.execute(f"SELECT id FROM {table} ORDER BY id")]


def answer(browser: Browser, question: str, **changed: str) -> str:
    """Press the button of a question; the page that follows, in words."""
    page = browser.get(question).text
    action = re.search(r'<form class="confirm" method="post" action="([^"]+)"', page)
    assert action, page
    fields = {name: get_field_value(page, name) for name in ("scope", "form", "total") if f'name="{name}"' in page}
    reply = browser.post(unescape(action[1]), data={**fields, **changed})
    assert reply.status_code == 303, reply.text
    return extract_text(browser.get(reply.location).text)


def test_ticked_ones_are_asked_about_and_go(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    page = alice.get(HISTORY).text
    boxes = re.findall(r'<input type="checkbox" name="id" value="(\d+)">', page)
    assert boxes == [str(each) for each in reversed(sent)]

    question = extract_text(alice.get(f"{HISTORY}/delete?id={boxes[0]}&id={boxes[1]}").text)
    assert "2 messages will be deleted permanently." in question
    assert "This can’t be undone." in question
    assert left(conn) == sent

    page_text = answer(alice, f"{HISTORY}/delete?id={boxes[0]}&id={boxes[1]}")
    assert "2 messages were deleted." in page_text
    assert left(conn) == sent[:-2]
    assert self_check.list_problem_texts(conn) == []


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
    dialog = alice.get(question).text
    assert "11 messages will be deleted permanently." in extract_text(dialog)
    assert "all that the filter finds" in extract_text(dialog)
    later = acting.send_texts(conn, "smpp-acme-1", "text 12")
    acting.deliver_messages(conn, *later)
    accept(conn)

    fields = {name: get_field_value(dialog, name) for name in ("scope", "form", "total")}
    reply = alice.post(question, data=fields)

    assert reply.location == f"{HISTORY}?recipient=39340&text=text"
    assert left(conn) == [sent[0], *later]


def test_a_day_that_is_none_asks_for_nothing(alice: Browser, sent: list[int]) -> None:
    reply = alice.get(f"{HISTORY}/delete?all=1&period=range&from=nonsense")

    assert reply.status_code == 303
    assert alice.get(reply.location).status_code == 422


def test_what_stays_is_said_with_the_reason(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    acting.send_texts(conn, "smpp-acme-1", "on its way")
    (waits,) = acting.send_texts(conn, "smpp-acme-1", "its receipt waits")
    acting.deliver_messages(conn, waits)
    stays = "1 stays: it is on its way. 1 stays: its delivery receipt waits for a client."

    question = f"{HISTORY}/delete?all=1"
    dialog = extract_text(alice.get(question).text)
    assert "12 messages will be deleted permanently. These are all of this account." in dialog
    assert stays in dialog

    page_text = answer(alice, question)
    assert f"12 messages were deleted. {stays}" in page_text
    assert "Nothing to delete" in extract_text(alice.get(question).text)


def test_nothing_ticked_is_nothing_deleted(alice: Browser, sent: list[int]) -> None:
    assert "No message was selected" in extract_text(alice.get(f"{HISTORY}/delete").text)


def test_a_form_sent_twice_deletes_once(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    question = f"{HISTORY}/delete?id={sent[0]}"
    page = alice.get(question).text
    fields = {name: get_field_value(page, name) for name in ("scope", "form", "total")}

    alice.post(question, data=fields)
    again = extract_text(alice.get(alice.post(question, data=fields).location).text)

    assert "This form was sent before" in again
    assert conn.execute("SELECT count(*) FROM deletions").fetchone()[0] == 1


def test_within_the_page_the_question_is_a_dialog(alice: Browser, sent: list[int]) -> None:
    dialog = alice.get(f"{HISTORY}/delete?id={sent[0]}", htmx="dialog")
    assert "<html" not in dialog.text
    fields = {name: get_field_value(dialog.text, name) for name in ("scope", "form", "total")}

    reply = alice.post(f"{HISTORY}/delete", data=fields, htmx="dialog")

    assert (reply.status_code, reply.headers["HX-Redirect"]) == (204, HISTORY)


# --- received messages


def test_received_ones_go_one_by_one_or_all(alice: Browser, conn: db.Connection, replies: list[int]) -> None:
    link = f"{RECEIVED}/delete?id={replies[0]}"
    assert link in alice.get(f"{RECEIVED}/{replies[0]}").text
    assert f'name="id" value="{replies[0]}"' in alice.get(RECEIVED).text

    page_text = answer(alice, f"{RECEIVED}/delete?all=1")

    assert "1 message was deleted. 1 stays: it waits for a client." in page_text
    assert left(conn, "received") == replies[1:]
    listed = alice.get("/accounts/smpp-acme-1/blacklist").text
    assert "Stop!" in extract_text(listed)
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
    scope = str(deletion.build_selection_scope("sent", sent))
    assert bob.post(f"{page}/delete", data={"scope": scope}).status_code == 403
    assert left(conn) == sent


def test_another_customers_messages_are_nothing(
    client: Client, cast: Cast, conn: db.Connection, sent: list[int], replies: list[int]
) -> None:
    charlie = client(cast.charlie)
    for page in (HISTORY, RECEIVED):
        assert charlie.get(f"{page}/delete?all=1").status_code == 404
        assert (
            charlie.post(
                f"{page}/delete", data={"scope": str(deletion.build_selection_scope("sent", sent))}
            ).status_code
            == 404
        )
    for kind, mine, ids in (("sent", "history", sent), ("received", "received", replies)):
        own = f"/accounts/smpp-globex-1/{mine}/delete"
        assert "Nothing to delete" in extract_text(charlie.get(f"{own}?id={ids[0]}").text)
        charlie.post(own, data={"scope": str(deletion.build_selection_scope(kind, ids))})
    assert left(conn) == sent
    assert left(conn, "received") == replies


def test_without_the_token_nothing_goes(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    scope = str(deletion.build_selection_scope("sent", sent))

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


# A page has no time to count and to delete, and says how far it is at once.
without_time = pytest.mark.parametrize(
    "page_limits", [PageLimits(count_seconds=0, delete_seconds=0, untold_deletion_ms=-1)]
)


@pytest.mark.slow
@without_time
def test_many_go_on_behind_the_page_which_says_how_far_it_is(
    alice: Browser, conn: db.Connection, sent: list[int]
) -> None:
    # More than are read at once.
    acting.deliver_messages(conn, *acting.send_texts(conn, "smpp-acme-1", *["text"] * 2_488))
    accept(conn)
    dialog = extract_text(alice.get(f"{HISTORY}/delete?all=1").text).replace(",", "")
    assert "More than 2000 messages will be deleted permanently." in dialog

    page_text = answer(alice, f"{HISTORY}/delete?all=1")

    assert "The deletion has begun, and goes on by itself." in page_text
    assert "Messages are being deleted: they are counted first." in page_text
    (deletion_id,) = deletion.list_open_deletion_ids(conn)
    steps = deletion.run_deletion(conn, deletion_id)
    while deletion.get_deletion_by_id(conn, deletion_id).removed < 250:
        next(steps)
    for page in (HISTORY, RECEIVED):
        assert "Messages are being deleted: 250 of 2500 are gone." in extract_text(alice.get(page).text).replace(
            ",", ""
        )
    for _ in steps:
        pass
    assert "2500 messages were deleted." in extract_text(alice.get(HISTORY).text).replace(",", "")
    assert left(conn) == []


@without_time
def test_an_open_page_is_told_how_far_it_is(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    page = alice.get(f"{HISTORY}?text=parcel").text
    seen = re.search(r"seen=([0-9a-f.]+)", page) or re.search(r'name="seen" value="([0-9a-f.]+)"', page)
    assert seen, page
    account = acting.get_account(conn, "smpp-acme-1")
    deletion.create_deletion(conn, SHELL, account, deletion.build_selection_scope("sent", sent), total=12)

    update = alice.get(f"/accounts/smpp-acme-1/live?page=history&seen={seen[1]}&text=parcel", htmx=True).text

    assert "0 of 12 are gone" in extract_text(update)


def test_a_list_is_drawn_anew_when_one_of_it_has_gone(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    assert "your parcel" in extract_text(alice.get(f"{HISTORY}?text=parcel").text)

    answer(alice, f"{HISTORY}/delete?id={sent[0]}")

    assert "your parcel" not in extract_text(alice.get(f"{HISTORY}?text=parcel").text)


# --- how long messages are kept


def test_the_pages_say_how_long_messages_are_kept(alice: Browser, conn: db.Connection, cast: Cast) -> None:
    for page in (HISTORY, RECEIVED):
        assert "Messages are kept for 12 months." in extract_text(alice.get(page).text)
    customers.change_customer(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), messages_months=1)
    assert "Messages are kept for 1 month." in extract_text(alice.get(HISTORY).text)


def test_the_operator_sets_it_for_a_customer(olga: Browser, conn: db.Connection, cast: Cast) -> None:
    page, address = f"/admin/customers/{cast.acme}", f"/admin/customers/{cast.acme}/retention"
    assert "12 months, as in the settings" in extract_text(olga.get(page).text)

    assert olga.post(address, data={"months": "24"}).status_code == 303
    assert "24 months" in extract_text(olga.get(page).text)
    assert customers.get_customer_by_id(conn, cast.acme).messages_months == 24
    assert get_field_value(olga.get(address).text, "months") == "24"

    for wrong in ("0", "-1", "1201", "soon"):
        refused = olga.post(address, data={"months": wrong})
        assert refused.status_code == 422
        assert "can't be how long messages are kept" in extract_text(refused.text)
        assert get_field_value(refused.text, "months") == wrong
    olga.post(address, data={"months": ""})
    assert customers.get_customer_by_id(conn, cast.acme).messages_months == customers.DEFAULT_RETENTION
    assert olga.get("/admin/customers/99/retention").status_code == 404


def test_only_the_operator_sets_it(client: Client, cast: Cast) -> None:
    address = f"/admin/customers/{cast.acme}/retention"
    for person in (cast.alice, cast.charlie):
        assert client(person).get(address).status_code == 404
        assert client(person).post(address, data={"months": "1"}).status_code == 404


def test_it_speaks_italian(alice: Browser, conn: db.Connection, sent: list[int]) -> None:
    alice.post("/language", data={"locale": "it"})

    assert "12 messaggi verranno eliminati definitivamente." in extract_text(alice.get(f"{HISTORY}/delete?all=1").text)
    assert "I messaggi vengono conservati per 12 mesi." in extract_text(alice.get(HISTORY).text)
