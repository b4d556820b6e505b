"""Routes in the page: added, tried, changed by two operators at a time, moved by the keyboard, removed."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from playwright.sync_api import expect

from portal.core import db
from portal.core.crypto import Keys
from portal.services.common.audit import SHELL
from portal.services.routing import routes
from portal.services.routing.routes import RouteTexts
from portal.services.upstreams import upstreams
from tests.e2e.browsing import BrowserTab
from tests.e2e.keyboard import Keyboard
from tests.support import Cast, RunningServer

LIST = "/admin/routes"


@pytest.fixture
def conn(server: RunningServer) -> Iterator[db.Connection]:
    with closing(server.connect()) as conn:
        for name in ("north", "relay"):
            upstreams.create_upstream(conn, Keys.load(server.data), SHELL, name, kind=upstreams.SIMULATOR)
        yield conn


@pytest.fixture
def olga(open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast, conn: db.Connection) -> BrowserTab:
    tab = open_tab(server)
    tab.open_as(cast.olga, LIST)
    return tab


def list_ids(conn: db.Connection) -> list[int]:
    return [each.id for each in routes.list_routes(conn)]


def test_what_others_change_comes_by_itself_and_what_was_asked_stays(olga: BrowserTab, conn: db.Connection) -> None:
    test, listed = olga.tile("Which way would this go?"), olga.page.locator("#routes")
    routes.add_route(conn, SHELL, RouteTexts("relay", country="IT"))
    expect(listed.get_by_role("row", name="Italy")).to_be_visible()
    test.get_by_label("Account").fill("smpp-acme-1")
    test.get_by_label("Number").fill("+39 340 1234567")
    test.get_by_role("button", name="Show the way").click()
    expect(listed.locator("[aria-current]")).to_contain_text("Italy")
    upstreams.disable_upstream(conn, SHELL, upstreams.get_upstream(conn, "relay"))
    expect(listed).to_contain_text("relay (disabled)")
    expect(listed.locator("[aria-current]")).to_contain_text("Italy")
    expect(test.get_by_label("Number")).to_have_value("+39 340 1234567")


@pytest.mark.parametrize("java_script", [True, False])
def test_a_route_is_tried_before_it_is_saved_and_removed_again(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast, conn: db.Connection, java_script: bool
) -> None:
    olga = open_tab(server, java_script_enabled=java_script)
    page = olga.page
    if java_script:
        olga.open_as(cast.olga, LIST)
    else:
        olga.log_in(cast.olga)
        page.goto(LIST)
    expect(page.get_by_role("main")).to_contain_text("No route yet")
    page.get_by_role("link", name="Add a route").click()
    page.get_by_label("Country").fill("IT")
    page.get_by_label("Upstream 1").select_option("relay")
    page.get_by_label("Upstream 2").select_option("north")
    page.get_by_label("Replace the sender by").fill("48484")
    test = olga.tile("Which way would this go?")
    test.get_by_label("Account").fill(cast.smpp_acme_1.name)
    test.get_by_label("Number").fill("+39 340 1234567")
    # The Enter key tries it, and saves nothing.
    test.get_by_label("Number").press("Enter")
    expect(test).to_contain_text("relay, then north")
    expect(test).to_contain_text("The new route is the first that fits: country Italy.")
    expect(test).to_contain_text("Without the change that isn’t saved yet: No route fits, and north is the default")
    expect(page.get_by_label("Replace the sender by")).to_have_value("48484")
    assert list_ids(conn) == []
    olga.button("Add").click()
    olga.expect_toast("Route 1 was added.")
    row = page.get_by_role("row", name="country Italy")
    expect(row).to_contain_text("relay, then north")
    expect(row).to_contain_text("sender becomes 48484")

    test = olga.tile("Which way would this go?")
    test.get_by_label("Account").fill(cast.smpp_acme_1.name)
    test.get_by_label("Number").fill("393401234567")
    olga.button("Show the way").click()
    expect(test).to_contain_text("Route 1 is the first that fits: country Italy.")
    expect(page.locator("tr[aria-current]")).to_have_count(1)

    olga.button("Remove route 1").click()
    expect(page.get_by_text("take the next route that fits")).to_be_visible()
    olga.button("Remove route 1").last.click()
    olga.expect_toast("Route 1 was removed.")
    assert list_ids(conn) == []


def test_two_operators_at_a_time_overwrite_nothing_of_each_other(olga: BrowserTab, conn: db.Connection) -> None:
    routes.add_route(conn, SHELL, RouteTexts("relay", country="IT"))
    page = olga.page
    page.goto(f"{LIST}/1")
    routes.change_route(conn, SHELL, 1, RouteTexts("north", country="FR"))
    page.get_by_label("Country").fill("DE")
    olga.button("Save").click()
    expect(page.get_by_role("alert")).to_contain_text("Somebody else has changed this route meanwhile")
    expect(page.get_by_role("main")).to_contain_text("Now at place 1: country France → north")
    expect(page.get_by_label("Country")).to_have_value("DE")
    olga.button("Save").click()
    olga.expect_toast("Route 1 was changed.")
    assert routes.get_route(conn, 1).country == "DE"


def test_a_route_is_moved_by_the_keyboard(olga: BrowserTab, conn: db.Connection) -> None:
    for country in ("IT", "FR", "DE"):
        routes.add_route(conn, SHELL, RouteTexts("relay", country=country))
    page = olga.page
    page.reload()
    page.get_by_role("button", name="Move route 1 down").focus()
    Keyboard(page).press("Enter")
    olga.expect_toast("Route 1 is at place 2 now.")
    expect(page.get_by_role("row").nth(1)).to_contain_text("country France")
    assert list_ids(conn) == [2, 1, 3]
