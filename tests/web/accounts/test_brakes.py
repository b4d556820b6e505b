"""Options › Brakes, and what an account's home says of unusual traffic and of refused messages."""

import re
from collections.abc import Callable

import pytest

from portal.core.clock import MINUTE_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.brakes import brakes, unusual_traffic
from portal.services.brakes.brakes import HOLD, NO_OWN_BRAKES, OFF, Brakes
from portal.services.brakes.unusual_traffic import BUSY_HOUR, CANCELLED, Finding
from portal.services.common import ids
from portal.services.common.audit import SHELL, Actor
from portal.services.messages import queue_works
from portal.services.operations import self_check
from portal.services.routing import route_table
from portal.services.upstreams import holds
from portal.services.upstreams.paths import DEFAULT_PATH
from tests.services.upstreams.waiting import add_upstream, queue_messages
from tests.support import Cast, Person, record_refused_messages
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
OWN = "/accounts/smpp-acme-1/options/brakes"
OPERATORS = "/admin/accounts/smpp-acme-1"


@pytest.fixture
def acme_1(conn: Connection, cast: Cast) -> Account:
    return acting.get_account(conn, "smpp-acme-1")


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


@pytest.fixture
def alert(conn: Connection, keys: Keys, acme_1: Account) -> Callable[..., None]:
    """Something unusual happens."""

    def alert(*, is_to_hold: bool = False) -> None:
        found = Finding(BUSY_HOUR, "", {"messages": 900, "threshold": 500, "usual": 3})
        unusual_traffic.record_event(conn, keys, acme_1.id, found, now_ms(), is_to_hold=is_to_hold)

    return alert


def fill(page: str, **values: str) -> dict[str, str]:
    """What the form of a page sends."""
    fields = {"countries": "", "day_messages": "", "day_credits": "", "hour_messages": "", "unusual": OFF}
    return fields | {"seen": get_field_value(page, "seen")} | values


def find_poll_address(page: str) -> str:
    """Where an open home page, or what it was answered, asks what is new."""
    seen = page.partition("seen=")[2].partition('"')[0].partition("&")[0]
    return f"/accounts/smpp-acme-1/live?page=home&seen={seen}"


# --- what is set


def test_an_owner_sets_stricter_brakes(alice: Browser, conn: Connection, acme_1: Account) -> None:
    page = alice.get(OWN).text
    assert "No limit" in page
    data = fill(page, countries="it fr", day_messages="100", day_credits="1,000.5", hour_messages="3", unusual=HOLD)
    answer = alice.post(OWN, data=data)
    assert answer.status_code == 303
    assert brakes.get_brakes(conn, acme_1.id).own == Brakes(frozenset(("IT", "FR")), 100, 1_000_500, 3, HOLD)
    page = alice.get(OWN).text
    assert "Your brakes were changed." in page
    assert get_field_value(page, "countries") == "FR IT"
    assert get_field_value(page, "day_credits") == "1,000.5"


def test_what_is_not_stricter_is_refused_and_stays_in_the_form(
    alice: Browser, conn: Connection, acme_1: Account
) -> None:
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(frozenset(("IT",)), 50))
    page = alice.get(OWN).text
    for field, value, sentence in (
        ("day_messages", "51", "The operator has set 50: here it can only be less."),
        ("countries", "FR", "The operator allows no messages to FR: here countries can only be left out."),
        ("day_messages", "many", "can&#39;t be a limit"),
        ("countries", "Italy", "“ITALY” is no country."),
        ("day_credits", "x", "isn&#39;t an amount of credits"),
    ):
        answer = alice.post(OWN, data=fill(page, **{field: value}), htmx=True)
        assert answer.status_code == 422
        assert sentence in answer.text
        assert get_field_value(answer.text, field) == value
    assert brakes.get_brakes(conn, acme_1.id).own == NO_OWN_BRAKES


def test_a_change_of_somebody_else_is_not_overwritten(
    alice: Browser, olga: Browser, conn: Connection, acme_1: Account
) -> None:
    for browser, path, post, change in (
        (alice, OWN, OWN, brakes.set_own_brakes),
        (olga, OPERATORS, f"{OPERATORS}/brakes", brakes.set_brakes),
    ):
        page = browser.get(path).text
        change(conn, SHELL, acme_1, Brakes(day_messages=7, unusual=HOLD))
        answer = browser.post(post, data=fill(page, day_messages="5", unusual=HOLD))
        assert answer.status_code == 422
        assert "Somebody else has changed the brakes meanwhile." in answer.text
        # Sent again, it is in force.
        assert browser.post(post, data=fill(answer.text, day_messages="5", unusual=HOLD)).status_code == 303
        assert brakes.get_brakes(conn, acme_1.id).in_force.day_messages == 5


def test_a_mistake_on_the_way_does_not_hide_what_somebody_else_has_set(
    alice: Browser, olga: Browser, conn: Connection, acme_1: Account
) -> None:
    def set_defaults(conn: Connection, actor: Actor, _: Account, wanted: Brakes) -> None:
        brakes.set_default_brakes(conn, actor, wanted)

    for browser, path, post, change in (
        (alice, OWN, OWN, brakes.set_own_brakes),
        (olga, OPERATORS, f"{OPERATORS}/brakes", brakes.set_brakes),
        (olga, "/admin/brakes", "/admin/brakes", set_defaults),
    ):
        page = browser.get(path).text
        change(conn, SHELL, acme_1, Brakes(frozenset(("FR",)), day_messages=7, unusual=HOLD))
        answer = browser.post(post, data=fill(page, day_messages="500", countries="Italy"), htmx=True)
        assert "“ITALY” is no country." in answer.text
        assert "Somebody else" not in answer.text
        answer = browser.post(post, data=fill(answer.text, day_messages="500", countries="IT"), htmx=True)
        assert answer.status_code == 422
        text = extract_text(answer.text)
        shown = text[text.index("Somebody else has set:") :]
        assert "Countries FR Most messages a day 7 Most credits a day No limit" in shown
        assert "A mail, and messages wait until somebody releases them" in shown
        assert get_field_value(answer.text, "day_messages") == "500"
        assert browser.post(post, data=fill(answer.text, day_messages="500", countries="IT")).status_code == 303
    assert brakes.get_brakes(conn, acme_1.id).in_force == Brakes(frozenset(("IT",)), 500, unusual=OFF)
    assert brakes.get_default_brakes(conn) == Brakes(frozenset(("IT",)), 500, unusual=OFF)


def test_a_form_that_is_sent_twice_is_done_once(alice: Browser, conn: Connection) -> None:
    data = fill(alice.get(OWN).text, day_messages="5")
    for _ in range(2):
        assert alice.post(OWN, data=data).status_code == 303
    assert conn.execute("SELECT count(*) FROM audit_log WHERE action = 'brakes.own'").fetchone()[0] == 1


def test_an_operator_sets_an_accounts_brakes(olga: Browser, conn: Connection, acme_1: Account) -> None:
    data = fill(olga.get(OPERATORS).text, countries="IT", hour_messages="9", unusual=HOLD)
    assert olga.post(f"{OPERATORS}/brakes", data=data).location == OPERATORS
    assert brakes.get_brakes(conn, acme_1.id).operator == Brakes(frozenset(("IT",)), hour_messages=9, unusual=HOLD)
    answer = olga.post(f"{OPERATORS}/brakes", data=data | {"day_messages": "-1"}, htmx=True)
    assert answer.status_code == 422
    assert get_field_value(answer.text, "day_messages") == "-1"


def test_who_may_see_and_change_them(client: Client, cast: Cast, conn: Connection, acme_1: Account) -> None:
    viewer, stranger = client(cast.bob), client(cast.charlie)
    page = viewer.get(OWN)
    assert page.status_code == 200
    assert 'name="day_messages"' not in page.text
    for path in (OWN, "/accounts/smpp-acme-1/traffic", "/accounts/smpp-acme-1/traffic/cancel"):
        assert viewer.post(path).status_code == 403
        assert stranger.post(path).status_code == 404
    assert stranger.get(OWN).status_code == 404
    assert client(cast.alice).post(f"{OPERATORS}/brakes").status_code == 404


def test_a_classic_account_has_brakes_and_no_smpp_settings(alice: Browser) -> None:
    page = alice.get("/accounts/sms-acme-1/options/brakes").text
    assert "/accounts/sms-acme-1/options/smpp" not in page
    assert 'href="/accounts/sms-acme-1/options/brakes"' in alice.get("/accounts/sms-acme-1").text


# --- what the home page says


def test_unusual_traffic_is_on_the_home_page_until_somebody_answers(
    alice: Browser, olga: Browser, alert: Callable[..., None]
) -> None:
    alert()
    for browser, path in ((alice, "/accounts/smpp-acme-1"), (olga, OPERATORS)):
        text = extract_text(browser.get(path).text)
        assert "900 messages in an hour. More than 500 are unusual for this account" in text
        assert ("It is their own traffic" if browser is olga else "This was us") in text
    answer = alice.post("/accounts/smpp-acme-1/traffic")
    assert answer.location == "/accounts/smpp-acme-1"
    assert "Thank you. What waited goes on." in alice.get(answer.location).text
    assert "900 messages in an hour" not in alice.get("/accounts/smpp-acme-1").text
    # Two pages were open, or the button was pressed twice.
    alice.post("/accounts/smpp-acme-1/traffic")
    assert "Somebody has answered this already." in alice.get("/accounts/smpp-acme-1").text


def test_a_held_account_is_released_from_either_page(
    alice: Browser, olga: Browser, conn: Connection, acme_1: Account, alert: Callable[..., None]
) -> None:
    for browser, page in ((alice, "home"), (olga, "admin")):
        alert(is_to_hold=True)
        path = OPERATORS if page == "admin" else "/accounts/smpp-acme-1"
        text = extract_text(browser.get(path).text)
        assert re.search(r"On hold since \d\d:\d\d: messages are accepted and charged, and wait\.", text)
        assert browser.post("/accounts/smpp-acme-1/traffic").location == path
        assert holds.list_account_holds(conn) == []
        conn.execute("UPDATE brake_events SET ended_at = 1")


@pytest.mark.parametrize(
    ("who", "path", "count"),
    [
        ("alice", "/", 1),
        ("alice", "/accounts/smpp-acme-1", 3),
        ("olga", "/admin/", 1),
        ("olga", "/admin/customers/{customer_id}", 1),
        ("olga", OPERATORS, 2),
    ],
)
def test_the_status_of_an_account_on_hold_says_so(
    client: Client, cast: Cast, conn: Connection, acme_1: Account, who: str, path: str, count: int
) -> None:
    browser, address = client(getattr(cast, who)), path.format(customer_id=acme_1.customer_id)
    label = re.compile(r"(?:</svg>|<small>)On hold<")
    assert not label.search(browser.get(address).text)
    holds.hold_account(conn, SHELL, acme_1.id, "stolen?")
    page = browser.get(address).text
    assert len(label.findall(page)) == count
    assert '<span class="badge warn">' in page
    conn.execute("UPDATE accounts SET disabled_at = 1")
    page = browser.get(address).text
    assert not label.search(page)
    assert "Disabled" in page


def test_an_open_home_page_is_told(alice: Browser, alert: Callable[..., None]) -> None:
    page = alice.get("/accounts/smpp-acme-1").text
    poll = find_poll_address(page)
    assert alice.get(poll, htmx=True).status_code == 204
    alert()
    assert "900 messages in an hour" in alice.get(poll, htmx=True).text


def test_what_keeps_messages_waiting_is_told_at_once_to_its_people_alone(
    alice: Browser, client: Client, cast: Cast, conn: Connection, keys: Keys, acme_1: Account
) -> None:
    add_upstream(conn, keys, "milano")
    home = "/accounts/smpp-acme-1"
    slow = "Sending is slow since"
    (message_id,) = queue_messages(conn, acme_1.id)
    page = alice.get(home).text
    assert slow not in page
    # It was to go out two minutes ago.
    earlier_id = ids.min_id_at_time(now_ms() - 2 * MINUTE_MS)
    conn.execute("UPDATE messages SET id = ? WHERE id = ?", (earlier_id, message_id))
    conn.execute("UPDATE queued_messages SET message_id = ?", (earlier_id,))
    page = alice.get(find_poll_address(page), htmx=True).text
    text = extract_text(page)
    assert re.search(rf"{slow} \d\d:\d\d\.", text)
    assert "milano" not in text
    assert slow in extract_text(client(cast.bob).get(home).text)
    assert slow not in client(cast.charlie).get("/accounts/smpp-globex-1").text
    poll = find_poll_address(page)
    assert alice.get(poll, htmx=True).status_code == 204
    holds.hold_account(conn, SHELL, acme_1.id, "what its people don't read")
    text = extract_text(alice.get(poll, htmx=True).text)
    assert re.search(r"On hold since \d\d:\d\d: messages are accepted and charged, and wait\.", text)
    assert "don't read" not in text
    assert slow not in text
    alice.post("/language", data={"locale": "it", "next": "/"})
    assert "Sospeso, dalle " in extract_text(alice.get(home).text)


def test_what_brakes_have_refused_is_told_with_what_helps(alice: Browser, conn: Connection, acme_1: Account) -> None:
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(frozenset(("IT",)), 1000, 5_500, 3))
    record_refused_messages(
        conn, acme_1.id, {("day_messages", ""): 2, ("day_credits", ""): 3, ("hour_messages", ""): 4}
    )
    told = "The most messages an hour to one number (3) were reached.", "4 times, last"
    more = "The most credits a day (5.5) were reached.", "3 times", "The most messages a day (1,000) were reached."
    text = extract_text(alice.get("/accounts/smpp-acme-1").text)
    assert [each for each in (*told, *more, "2 times") if each not in text] == []
    record_refused_messages(conn, acme_1.id, {("country", "FR"): 5})
    page = alice.get("/accounts/smpp-acme-1").text
    assert "This account sends no messages to France: whoever has set its countries can add this one." in (
        extract_text(page)
    )
    assert 'href="/accounts/smpp-acme-1/ask/countries?value=FR" data-dialog' in page
    brakes.set_brakes(conn, SHELL, acme_1, Brakes())
    assert "Refused in the last 24 hours" not in alice.get("/accounts/smpp-acme-1").text


def test_who_has_set_a_brake_is_led_to_it(alice: Browser, conn: Connection, acme_1: Account) -> None:
    record_refused_messages(conn, acme_1.id, {("day_messages", ""): 2})
    data = fill(alice.get(OWN).text, day_messages="100")
    assert alice.post(OWN, data=data).status_code == 303
    banner = alice.get("/accounts/smpp-acme-1").text.partition('id="refused"')[2].partition("</ul>")[0]
    assert "The most messages a day (100) were reached." in banner
    assert f'href="{OWN}"' in banner
    assert "/ask/" not in banner


@pytest.mark.parametrize("answer", ["hold", "cancel"])
def test_what_an_operator_has_answered_is_not_undone_by_the_owner(
    alice: Browser,
    client: Client,
    conn: Connection,
    keys: Keys,
    cast: Cast,
    acme_1: Account,
    alert: Callable[..., None],
    answer: str,
) -> None:
    add_upstream(conn, keys)
    queue_messages(conn, acme_1.id, 3)
    alert(is_to_hold=True)
    address = "/admin/queue/accounts/hold" if answer == "hold" else "/accounts/smpp-acme-1/traffic/cancel"
    olga = client(cast.olga)
    question = olga.get(address).text
    typed = {"form": get_field_value(question, "form"), "account": "smpp-acme-1", "reason": ""}
    if answer == "cancel":
        typed["selection"] = get_field_value(question, "selection")
    assert olga.post(address, data=typed).status_code == 303
    alice.post("/accounts/smpp-acme-1/traffic")
    assert [(each.reason, each.actor) for each in holds.list_account_holds(conn)] == [
        ("brake: busy_hour", "olga@portal.example")
    ]
    assert "An operator holds what waits" in extract_text(alice.get("/accounts/smpp-acme-1").text)


def test_what_is_on_hold_is_cancelled_once_that_is_confirmed(
    alice: Browser, conn: Connection, keys: Keys, cast: Cast, acme_1: Account, alert: Callable[..., None]
) -> None:
    cancel = "/accounts/smpp-acme-1/traffic/cancel"
    add_upstream(conn, keys)
    queue_messages(conn, acme_1.id, 3)
    queue_messages(conn, cast.smpp_globex_1.id, 2)
    balance = acting.get_account(conn, "smpp-acme-1").balance
    # Not on hold, or not any more.
    assert alice.post(cancel).location == "/accounts/smpp-acme-1"
    assert "Somebody has answered this already." in alice.get("/accounts/smpp-acme-1").text
    assert queue_works.list_queue_works(conn) == []
    alert(is_to_hold=True)
    assert 'href="/accounts/smpp-acme-1/traffic/cancel"' in alice.get("/accounts/smpp-acme-1").text
    question = alice.get(cancel).text
    assert "3 messages wait, and have cost 3 credits." in extract_text(question)
    fields = {name: get_field_value(question, name) for name in ("form", "selection")}
    for wrong in ("", "[]", fields["selection"].replace(f", {acme_1.id}, null", f", {cast.smpp_globex_1.id}, null")):
        assert alice.post(cancel, data=fields | {"selection": wrong}).status_code == 400
    # What comes after the question was not asked of.
    queue_messages(conn, acme_1.id, 4)
    # The second time it does nothing.
    for _ in range(2):
        answer = alice.post(cancel, data=fields)
        assert answer.location == "/accounts/smpp-acme-1"
    assert "What waited is being cancelled" in alice.get("/accounts/smpp-acme-1").text
    table = route_table.load_route_table(conn)
    while queue_works.run_queue_step(conn, table, lambda *_: DEFAULT_PATH)[1]:
        pass
    (work,) = queue_works.list_queue_works(conn)
    assert (work.action, work.asked_by, work.done_count) == ("cancel", "alice@acme.example", 3)
    assert acting.get_account(conn, "smpp-acme-1").balance == balance + 3000 - 4000
    # Its client may go on: it stays on hold until somebody releases it.
    (event,) = unusual_traffic.list_open_events(conn)
    assert event.answer == CANCELLED
    assert [each.account for each in holds.list_account_holds(conn)] == ["smpp-acme-1"]
    assert "On hold since" in alice.get("/accounts/smpp-acme-1").text
    alice.post("/accounts/smpp-acme-1/traffic")
    assert holds.list_account_holds(conn) == []
    assert self_check.list_problem_texts(conn) == []
