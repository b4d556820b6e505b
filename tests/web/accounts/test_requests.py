"""Asking the operator for what only they can change, without JavaScript and with htmx."""

import re
from collections.abc import Callable

import pytest

from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts import accounts
from portal.services.brakes import brakes
from portal.services.brakes.brakes import Brakes
from portal.services.common.audit import SHELL
from portal.services.messages import account_requests
from portal.services.messages.account_requests import AccountRequest
from portal.services.people import users
from tests.support import Cast, Person, record_refused_messages
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

ASK = "/accounts/smpp-acme-1/ask"
HERE = "http://localhost/accounts/smpp-acme-1/sessions?x=1"


@pytest.fixture
def alice(client: Callable[[Person], Browser], cast: Cast) -> Browser:
    return client(cast.alice)


def open_requests(conn: Connection) -> list[AccountRequest]:
    return account_requests.list_open_requests(conn)


def test_it_is_asked_for_without_javascript(alice: Browser, conn: Connection) -> None:
    page = alice.get(f"{ASK}/throughput", headers={"Referer": HERE}).text
    text = extract_text(page)
    assert "More than 20 messages a second for smpp-acme-1" in text
    assert "How many are needed, from when on, and what for." in text
    assert 'href="/accounts/smpp-acme-1/sessions?x=1"' in page
    data = {"note": "50 from Monday on", "back": get_field_value(page, "back")}
    answer = alice.post(f"{ASK}/throughput", data=data)
    assert (answer.status_code, answer.location) == (303, "/accounts/smpp-acme-1/sessions?x=1")
    (asked,) = open_requests(conn)
    assert (asked.account, asked.subject, asked.note) == ("smpp-acme-1", "throughput", "50 from Monday on")
    assert asked.asked_by == "alice@acme.example"
    assert "The operator was asked." in alice.get(answer.location).text
    assert [each[0] for each in conn.execute("SELECT recipient FROM mails")] == ["olga@portal.example"]


def test_the_dialog_leads_back_to_the_page_that_it_was_opened_on(alice: Browser, conn: Connection) -> None:
    dialog = alice.get(f"{ASK}/route?value=FR", htmx=True, headers={"HX-Current-URL": HERE}).text
    assert "<html" not in dialog
    assert "A route to France for smpp-acme-1" in dialog
    assert f'hx-post="{ASK}/route?value=FR"' in dialog
    data = {"back": get_field_value(dialog, "back")}
    answer = alice.post(f"{ASK}/route?value=FR", data=data, htmx="dialog")
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (204, "/accounts/smpp-acme-1/sessions?x=1")
    assert [(each.subject, each.value) for each in open_requests(conn)] == [("route", "FR")]


@pytest.mark.parametrize("page", ["", "http://elsewhere.example/accounts", "http://[", f"http://localhost{ASK}/binds"])
def test_from_elsewhere_it_leads_to_the_account(alice: Browser, page: str) -> None:
    assert 'name="back" value="/accounts/smpp-acme-1"' in alice.get(f"{ASK}/binds", headers={"Referer": page}).text
    odd = alice.post(f"{ASK}/windowing", data={"back": "/accounts/€"}, htmx=True)
    assert odd.headers["HX-Redirect"] == "/accounts/smpp-acme-1"
    answer = alice.post(f"{ASK}/binds", data={"back": "//elsewhere.example"})
    assert answer.location == "/accounts/smpp-acme-1"


def test_what_was_asked_for_is_shown_instead_of_the_form(alice: Browser, conn: Connection) -> None:
    alice.post(f"{ASK}/throughput", data={"note": acting.SCRIPT_INJECTION})
    for value in ("", "?value=20"):
        page = alice.get(f"{ASK}/throughput{value}").text
        assert "· waiting" in extract_text(page)
        assert "Asked on " in page
        assert acting.SCRIPT_INJECTION not in page
        assert 'name="note"' not in page
    # It was open in another tab.
    answer = alice.post(f"{ASK}/throughput", htmx="dialog")
    assert answer.status_code == 422
    assert "That was asked for already" in answer.text
    assert len(open_requests(conn)) == 1


def test_the_refused_page_says_what_was_asked_for(alice: Browser, olga: Browser, conn: Connection, cast: Cast) -> None:
    brakes.set_brakes(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), Brakes(frozenset(("IT",))))
    counts = {("throughput", "20"): 118, ("country", "FR"): 2, ("country", "DE"): 1}
    record_refused_messages(conn, cast.smpp_acme_1.id, counts)
    refused = "/accounts/smpp-acme-1/refused"
    addresses = [f"{ASK}/throughput", f"{ASK}/countries?value=FR", f"{ASK}/countries?value=DE"]
    page = alice.get(refused).text
    assert [address in page for address in addresses] == [True, True, True]
    assert "· waiting" not in page
    for address in addresses[:2]:
        alice.post(address)
    page = alice.get(refused).text
    assert [address in page for address in addresses] == [False, False, True]
    assert len(re.findall(r"Asked on [^<]+ · waiting", page)) == 2
    # Operators set it.
    page = olga.get(refused).text
    assert 'href="/admin/accounts/smpp-acme-1#limits"' in page
    assert 'href="/admin/accounts/smpp-acme-1#brakes"' in page
    assert "· waiting" not in page


def test_a_note_that_is_too_long_stays_in_the_form(alice: Browser, conn: Connection) -> None:
    answer = alice.post(f"{ASK}/throughput", data={"note": 501 * "x"})
    assert answer.status_code == 422
    assert "At most 500 characters." in answer.text
    assert 501 * "x" in answer.text
    assert open_requests(conn) == []


def test_too_many_a_day_are_refused(alice: Browser, conn: Connection) -> None:
    for code in ("FR", "DE", "ES", "PT", "GB", "IE", "BE", "NL", "AT", "CH"):
        assert alice.post(f"{ASK}/route?value={code}").status_code == 303
    answer = alice.post(f"{ASK}/route?value=PL")
    assert answer.status_code == 429
    assert "Too many attempts." in answer.text
    assert len(open_requests(conn)) == 10


@pytest.mark.parametrize("address", ["sender", "x", "price", "price?value=XX", "countries?value=001", "coding?value=8"])
def test_what_nobody_can_ask_for_is_not_found(alice: Browser, conn: Connection, address: str) -> None:
    brakes.set_brakes(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), Brakes(frozenset(("IT",))))
    assert alice.get(f"{ASK}/{address}").status_code == 404
    assert alice.post(f"{ASK}/{address}").status_code == 404
    assert open_requests(conn) == []


def test_what_is_so_already_needs_no_asking(alice: Browser, conn: Connection) -> None:
    accounts.change_account(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), data_codings=[3])
    for htmx in (False, True):
        answer = alice.get(f"{ASK}/coding?value=3", htmx=htmx)
        assert answer.status_code == 200
        assert "There is nothing to ask for any more" in answer.text
        assert "<textarea" not in answer.text
    assert "There is nothing to ask for any more" in alice.post(f"{ASK}/coding?value=3").text
    assert open_requests(conn) == []


def test_a_disabled_account_can_ask(alice: Browser, conn: Connection) -> None:
    accounts.disable_account(conn, SHELL, acting.get_account(conn, "smpp-acme-1"))
    assert "That smpp-acme-1 is enabled again" in alice.get(f"{ASK}/account").text
    assert alice.post(f"{ASK}/account").status_code == 303


def test_another_customer_finds_nothing(client: Callable[[Person], Browser], cast: Cast, conn: Connection) -> None:
    charlie = client(cast.charlie)
    assert charlie.get(f"{ASK}/throughput").status_code == 404
    assert charlie.post(f"{ASK}/throughput").status_code == 404
    assert open_requests(conn) == []


def test_viewers_ask_for_nothing(client: Callable[[Person], Browser], cast: Cast, conn: Connection) -> None:
    bob = client(cast.bob)
    # As with everything that they see and can't change.
    assert bob.get(f"{ASK}/throughput").status_code == 403
    assert bob.post(f"{ASK}/throughput").status_code == 403
    assert open_requests(conn) == []


@pytest.mark.parametrize(
    ("address", "place"),
    [("windowing", "/admin/accounts/smpp-acme-1#limits"), ("day_credits", "/admin/accounts/smpp-acme-1#brakes"),
     ("account", "/admin/accounts/smpp-acme-1#status"), ("price?value=FR", "/admin/prices"),
     ("route?value=FR", "/admin/routes")],
)  # fmt: skip
def test_operators_are_led_to_where_it_is_changed(olga: Browser, conn: Connection, address: str, place: str) -> None:
    for answer in (olga.get(f"{ASK}/{address}"), olga.post(f"{ASK}/{address}")):
        assert (answer.status_code, answer.location) == (302, place)
    assert olga.get(f"{ASK}/{address}", htmx=True).headers["HX-Redirect"] == place
    page = olga.get(place).text
    assert "#" not in place or f'id="{place.partition("#")[2]}"' in page
    assert open_requests(conn) == []
    assert olga.get(f"{ASK}/sender").status_code == 404


def test_in_italian(alice: Browser, conn: Connection, cast: Cast, keys: Keys) -> None:
    users.set_user_language(conn, users.get_user_by_id(conn, cast.alice.id), "it")
    text = extract_text(alice.get(f"{ASK}/throughput").text)
    for each in ("Chiedere all’operatore", "Più di 20 messaggi al secondo per smpp-acme-1", "Inviare", "Annullare"):
        assert each in text
    alice.post(f"{ASK}/throughput")
    assert "· in attesa" in extract_text(alice.get(f"{ASK}/throughput").text)
