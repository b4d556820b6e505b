"""The page of routes: the list, changes, moves, removals, and which way a message would go."""

import html
import re
from typing import Any
from urllib.parse import urlencode

import pytest

from portal.core import db
from portal.core.crypto import Keys
from portal.services.common.audit import SHELL
from portal.services.people import users
from portal.services.prices import countries
from portal.services.routing import routes
from portal.services.routing.routes import RouteTexts
from portal.services.upstreams import upstreams
from tests.services.upstreams.waiting import add_upstream
from tests.support import Cast
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

LIST = "/admin/routes"
ADD = f"{LIST}/add"


@pytest.fixture(autouse=True)
def carriers(conn: db.Connection, keys: Keys) -> None:
    """A, the default upstream, B and C."""
    for name in "ABC":
        add_upstream(conn, keys, name)


def add(conn: db.Connection, upstreams_text: str, **texts: str) -> routes.Route:
    return routes.add_route(conn, SHELL, RouteTexts(upstreams_text, **texts))


def says(conn: db.Connection) -> list[tuple[int, str, str | None]]:
    return [(each.id, routes.format_route_upstreams(each.upstreams), each.country) for each in routes.list_routes(conn)]


def build_fields(page: str, upstream_names: str = "", **typed: Any) -> dict[str, Any]:
    """What a browser sends of a form that was typed into."""
    chosen = [each.partition(":") for each in upstream_names.split(",")]
    fields: dict[str, Any] = {
        name: get_field_value(page, name) for name in ("form", "version", "order", "shown_place", "place")
    }
    return {**fields, "upstream": [each[0] for each in chosen], "weight": [each[2] for each in chosen], **typed}


def list_places(page: str) -> list[int]:
    """The ids of the routes that a page lists, in their order."""
    return [int(each) for each in re.findall(r'id="route-(\d+)"', page)]


def poll(olga: Browser, page: str) -> str:
    """What an open page gets when it asks what has changed; empty: nothing has."""
    address = html.unescape(re.findall(r'<div id="live" hidden hx-get="([^"]+)"', page)[0])
    fields = re.findall(r'class="live-arg" name="(\w+)" value="(\w*)"', page)
    return olga.get(f"{address}?{urlencode(fields)}", htmx="live").text


def test_an_open_page_shows_what_others_change_and_what_upstreams_do(
    olga: Browser, conn: db.Connection, cast: Cast
) -> None:
    add(conn, "B", country="IT")
    way = f"{LIST}?account=smpp-acme-1&number=393331234567"
    page = olga.get(way).text
    assert poll(olga, page) == ""
    added = add(conn, "C", country="FR")
    page = poll(olga, page)
    assert 'id="routes" class="stack" hx-swap-oob="true"' in page
    assert list_places(page) == [1, 2]
    # What was asked is still marked.
    assert re.search(r'id="route-1" aria-current="true"', page)
    assert poll(olga, page) == ""
    carrier = upstreams.get_upstream(conn, "B")
    upstreams.drain_upstream(conn, SHELL, carrier)
    page = poll(olga, page)
    assert "B (being drained)" in extract_text(page)
    routes.remove_route(conn, SHELL, added, added.version)
    page = poll(olga, page)
    assert list_places(page) == [1]
    # The order that a move is compared with is that of the list that is shown.
    assert get_field_value(page, "order") == routes.fingerprint_order(routes.list_routes(conn))


def test_the_list_stands_in_its_deciding_order_and_says_where_the_rest_goes(olga: Browser, conn: db.Connection) -> None:
    text = extract_text(olga.get(LIST).text)
    assert "No route yet" in text
    assert "What no route takes goes to the default upstream, A." in text
    add(conn, "B:70,C:30,A", country="IT", sender="ACME")
    add(conn, "C,B", prefix="39340")
    routes.move_route(conn, SHELL, routes.get_route(conn, 2), 1)
    page = olga.get(LIST).text
    assert list_places(page) == [2, 1]
    text = extract_text(page)
    assert "country Italy, sender ACME" in text
    assert "first digits 39340" in text
    assert "then" in text
    assert "70 %" in text


def test_an_upstream_that_gets_nothing_now_is_struck_through_with_its_reason(
    olga: Browser, conn: db.Connection
) -> None:
    add(conn, "B,C")
    upstreams.disable_upstream(conn, SHELL, upstreams.get_upstream(conn, "B"))
    page = olga.get(LIST).text
    assert "<s>B</s>" in page
    assert "disabled" in extract_text(page)


def test_a_route_that_is_never_reached_is_marked(olga: Browser, conn: db.Connection) -> None:
    add(conn, "A", country="IT")
    add(conn, "B", prefix="39340")
    assert "never reached: route 1 takes all of it" in extract_text(olga.get(LIST).text)


def test_a_route_is_added_where_it_was_wanted_once(olga: Browser, conn: db.Connection) -> None:
    add(conn, "A")
    page = olga.get(ADD).text
    sent = build_fields(page, "B:70,C:30", country="it", place="1", customer="Acme", sender="", account="")
    answer = olga.post(ADD, data=sent)
    assert (answer.status_code, answer.location) == (303, LIST)
    assert "Route 2 was added." in extract_text(olga.get(LIST).text)
    assert says(conn) == [(2, "B:70,C:30", "IT"), (1, "A", None)]
    olga.post(ADD, data=sent)
    assert len(says(conn)) == 2


@pytest.mark.parametrize(
    ("typed", "field", "sentence"),
    [
        ({"country": "Italy"}, "country", "“Italy” isn't a country"),
        ({"prefix": "0340"}, "prefix", "No number begins with “0340”"),
        ({"country": "IT", "prefix": "39"}, "prefix", "for a country or for first digits"),
        ({"customer": "Acme", "account": "smpp-acme-1"}, "account", "for a customer or for an account"),
        ({"customer": "Nobody"}, "customer", "There is no customer “Nobody”."),
        ({"account": "smpp-nobodys"}, "account", "There is no account “smpp-nobodys”."),
        ({"place": "7"}, "place", "“7” is no place in the list: a whole number from 1 to 1."),
        ({"sender": "?"}, "sender", "“?”"),
        ({"replace_sender": "?"}, "replace_sender", "“?”"),
        ({"quiet_hours": "22-8"}, "quiet_hours", "“22-8” can't be quiet hours"),
        ({"quiet_hours": "22:00-08:00 Europe/Nowhere"}, "quiet_hours", "can't be quiet hours"),
        ({"buying_price": "cheap"}, "buying_price", "“cheap” isn't an amount of credits"),
        ({"buying_price": "1000.001"}, "buying_price", "“1000.001” isn't a price"),
        ({"upstream": [""], "weight": [""]}, "upstreams", "A route leads to one upstream at least."),
        ({"upstream": ["A"], "weight": ["half"]}, "upstreams", "“half” can't be a share"),
        ({"upstream": ["A", "B"], "weight": ["70", ""]}, "upstreams", "two at least, and come first"),
    ],
)
def test_what_is_wrong_is_told_at_its_field_and_nothing_typed_is_lost(
    olga: Browser, conn: db.Connection, typed: dict[str, Any], field: str, sentence: str
) -> None:
    answer = olga.post(ADD, data=build_fields(olga.get(ADD).text, "A", **typed))
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert sentence in extract_text(answer.text)
    for name, value in typed.items():
        if isinstance(value, str):
            assert get_field_value(answer.text, name) == value
    assert says(conn) == []


def test_a_route_is_changed_in_its_place_or_at_another(olga: Browser, conn: db.Connection) -> None:
    add(conn, "A", country="IT")
    add(conn, "B", country="FR")
    here = f"{LIST}/1"
    page = olga.get(here).text
    assert get_field_value(page, "country") == "IT"
    answer = olga.post(here, data=build_fields(page, "C,A", country="DE"))
    assert (answer.status_code, answer.location) == (303, LIST)
    assert says(conn) == [(1, "C,A", "DE"), (2, "B", "FR")]
    olga.post(here, data=build_fields(olga.get(here).text, "C,A", country="DE", place="2"))
    assert [each[0] for each in says(conn)] == [2, 1]


def test_what_somebody_else_has_changed_meanwhile_is_not_overwritten_silently(
    olga: Browser, conn: db.Connection
) -> None:
    add(conn, "A", country="IT")
    here = f"{LIST}/1"
    page = olga.get(here).text
    routes.change_route(conn, SHELL, 1, RouteTexts("B", country="FR"))
    answer = olga.post(here, data=build_fields(page, "C", country="DE"))
    assert answer.status_code == 422
    text = extract_text(answer.text)
    assert "Somebody else has changed this route meanwhile" in text
    assert "country France → B" in text
    assert says(conn) == [(1, "B", "FR")]
    assert get_field_value(answer.text, "country") == "DE"
    assert olga.post(here, data=build_fields(answer.text, "C", country="DE")).status_code == 303
    assert says(conn) == [(1, "C", "DE")]


def test_a_change_of_somebody_else_is_told_also_after_another_mistake_with_all_that_it_says(
    olga: Browser, conn: db.Connection
) -> None:
    add(conn, "A", country="IT")
    here = f"{LIST}/1"
    page = olga.get(here).text
    quiet = "22:00-08:00 Europe/Rome"
    routes.change_route(conn, SHELL, 1, RouteTexts("A", country="IT", quiet_hours=quiet, buying_price="0.7"))
    answer = olga.post(here, data=build_fields(page, "A", country="IT", sender="ACME", place="99"))
    assert "“99” is no place in the list" in extract_text(answer.text)
    typed = build_fields(answer.text, "A", country="IT", sender="ACME", place="1")
    answer = olga.post(here, data=typed)
    assert answer.status_code == 422
    text = extract_text(answer.text)
    assert "Somebody else has changed this route meanwhile" in text
    assert f"Now at place 1: country Italy → A, quiet {quiet}, bought at 0.7" in text
    assert str(routes.get_route(conn, 1).quiet_hours) == quiet


def test_a_route_that_somebody_else_has_moved_stays_there_where_its_place_was_not_changed(
    olga: Browser, conn: db.Connection
) -> None:
    for name in "ABC":
        add(conn, name)
    here = f"{LIST}/1"
    page = olga.get(here).text
    routes.move_route(conn, SHELL, routes.get_route(conn, 1))
    assert olga.post(here, data=build_fields(page, "A", sender="ACME")).status_code == 303
    assert [each[0] for each in says(conn)] == [2, 3, 1]
    # Both was changed: what it says, by which the form is refused, and its place.
    page = olga.get(here).text
    routes.change_route(conn, SHELL, 1, RouteTexts("C"))
    routes.move_route(conn, SHELL, routes.get_route(conn, 1), 3)
    answer = olga.post(here, data=build_fields(page, "A"))
    assert get_field_value(answer.text, "place") == "2"
    assert olga.post(here, data=build_fields(answer.text, "A")).status_code == 303
    assert says(conn) == [(2, "B", None), (1, "A", None), (3, "C", None)]
    # Who wants another place has seen the order.
    page = olga.get(here).text
    routes.move_route(conn, SHELL, routes.get_route(conn, 3), 2)
    answer = olga.post(here, data=build_fields(page, "A", place="1"))
    assert "Somebody else has changed the order meanwhile" in extract_text(answer.text)
    assert olga.post(here, data=build_fields(answer.text, "A", place="1")).status_code == 303
    assert [each[0] for each in says(conn)] == [1, 3, 2]


@pytest.mark.parametrize("htmx", [False, "routes"])
def test_a_route_is_moved_by_a_place(olga: Browser, conn: db.Connection, htmx: bool | str) -> None:
    for name in "ABC":
        add(conn, name)
    order = get_field_value(olga.get(LIST).text, "order")
    answer = olga.post(f"{LIST}/move", data={"down": "1", "order": order}, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    assert list_places(olga.get(LIST).text if not htmx else answer.text) == [2, 1, 3]
    # The list that was looked at is another one now.
    answer = olga.post(f"{LIST}/move", data={"up": "3", "order": order}, htmx=htmx)
    assert "Somebody else has changed the order meanwhile" in extract_text(answer.text if htmx else olga.get(LIST).text)
    assert [each[0] for each in says(conn)] == [2, 1, 3]


def test_a_route_is_removed_once_that_is_confirmed_and_as_it_was_seen(olga: Browser, conn: db.Connection) -> None:
    add(conn, "A", country="IT")
    here = f"{LIST}/1/remove"
    page = olga.get(here).text
    assert "country Italy" in extract_text(page)
    routes.change_route(conn, SHELL, 1, RouteTexts("B"))
    olga.post(here, data={"version": get_field_value(page, "version")})
    assert len(says(conn)) == 1
    olga.post(here, data={"version": get_field_value(olga.get(here).text, "version")})
    assert says(conn) == []
    assert olga.get(here).status_code == 404


@pytest.mark.parametrize("htmx", [False, "test"])
def test_the_page_says_which_way_a_message_would_go(olga: Browser, conn: db.Connection, htmx: bool | str) -> None:
    add(conn, "B", customer="Globex")
    add(conn, "C,A", country="IT", replace_sender="48484", buying_price="0.7")
    answer = olga.get(LIST, query_string={"account": "smpp-acme-1", "number": "+39 340 1234567"}, htmx=htmx)
    text = extract_text(answer.text)
    assert "Route 2 is the first that fits: country Italy." in text
    assert "The sender 48484 goes out in place of its own." in text
    assert "A part is bought for 0.7 credits and sold for 1." in text
    assert "Route 1 doesn’t fit: the customer is another." in text
    assert re.search(r'id="route-2"[^>]* aria-current="true"', answer.text)


def test_a_number_that_can_t_be_read_is_told_at_its_field(olga: Browser) -> None:
    for htmx in (False, "test"):
        answer = olga.get(LIST, query_string={"account": "smpp-acme-1", "number": "12"}, htmx=htmx)
        assert answer.status_code == 422
        assert 'id="number-error"' in answer.text


def test_a_change_is_tried_before_it_is_saved(olga: Browser, conn: db.Connection) -> None:
    add(conn, "A", country="IT")
    message = {"test_account": "smpp-acme-1", "test_number": "393401234567", "test": "1"}
    answer = olga.post(f"{LIST}/1", data=build_fields(olga.get(f"{LIST}/1").text, "B,C", country="IT", **message))
    assert answer.status_code == 200
    text = extract_text(answer.text)
    assert "B, then C" in text
    assert "Without the change that isn’t saved yet: Route 1 is the first that fits: country Italy." in text
    answer = olga.post(ADD, data=build_fields(olga.get(ADD).text, "C", place="1", **message))
    text = extract_text(answer.text)
    assert "The new route is the first that fits: all messages." in text
    answer = olga.post(ADD, data=build_fields(olga.get(ADD).text, "C", **message))
    assert "Without the change that isn’t saved yet: the same way." in extract_text(answer.text)
    assert says(conn) == [(1, "A", "IT")]
    answer = olga.post(ADD, data=build_fields(olga.get(ADD).text, "C", **{**message, "test_number": "12"}))
    assert 'id="test_number-error"' in answer.text


def test_a_long_list_has_pages(olga: Browser, conn: db.Connection) -> None:
    for _ in range(30):
        add(conn, "A", country="IT")
    assert len(list_places(olga.get(LIST).text)) == 25
    assert list_places(olga.get(f"{LIST}?page=2").text) == [26, 27, 28, 29, 30]
    assert list_places(olga.get(f"{LIST}?page=99").text) == [26, 27, 28, 29, 30]


def test_only_the_routes_that_a_page_shows_are_compared_with_the_others(
    olga: Browser, conn: db.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    find_prefix_country = countries.find_prefix_country

    def find_and_note(digits: str) -> str | None:
        compared.append(digits)
        return find_prefix_country(digits)

    for number in range(60):
        add(conn, "A", prefix=f"393{number:02}")
    monkeypatch.setattr(countries, "find_prefix_country", find_and_note)
    page = olga.get(f"{LIST}?page=2").text
    assert set(compared) == {f"393{number:02}" for number in range(25, 50)}
    compared.clear()
    assert poll(olga, page) == ""
    assert set(compared) == {f"393{number:02}" for number in range(25, 50)}


def test_the_page_is_in_the_reader_s_language(olga: Browser, conn: db.Connection, cast: Cast) -> None:
    users.set_user_language(conn, users.get_user_by_email(conn, cast.olga.email), "it")
    add(conn, "B", country="FR", buying_price="0.5")
    text = extract_text(olga.get(LIST, query_string={"account": "smpp-acme-1", "number": "33612345678"}).text)
    assert "Francia" in text
    assert "0,5" in text
    page = olga.get(f"{LIST}/1").text
    assert get_field_value(page, "buying_price") == "0,5"
