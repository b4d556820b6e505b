"""Brakes in a browser: an owner who finds the account on hold, and an operator who sets its brakes."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from portal.core import db
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.services.brakes import brakes, unusual_traffic
from portal.services.brakes.brakes import Brakes
from portal.services.brakes.unusual_traffic import CONSECUTIVE_NUMBERS, Finding
from portal.services.upstreams import holds
from tests.e2e.browsing import BrowserTab
from tests.services.upstreams.waiting import add_upstream, queue_of_each
from tests.support import Cast, RunningServer, find_free_port, wait_until


@pytest.fixture
def hold(conn: db.Connection, keys: Keys, cast: Cast) -> Callable[[], None]:
    """Acme's first account has been held for unusual traffic."""

    def hold() -> None:
        found = Finding(CONSECUTIVE_NUMBERS, "", {"numbers": 77, "of": 100})
        unusual_traffic.record_event(conn, keys, cast.smpp_acme_1.id, found, now_ms(), is_to_hold=True)

    return hold


def test_an_open_home_page_tells_of_a_hold_which_is_cancelled_and_released(
    open_tab: Callable[..., BrowserTab],
    server: RunningServer,
    cast: Cast,
    conn: db.Connection,
    keys: Keys,
    hold: Callable[[], None],
) -> None:
    add_upstream(conn, keys, host="127.0.0.1", port=find_free_port())
    queue_of_each(conn, cast.smpp_acme_1.id, ["393330000001", "393330000002"])
    alice = open_tab(server)
    alice.open_as(cast.alice, "/accounts/smpp-acme-1")
    hold()
    alice.expect_text("messages are accepted and charged, and wait.")
    alice.expect_text("Of the last 100 numbers 77 are consecutive.")
    alice.page.get_by_role("link", name="Cancel what waits").click()
    expect(alice.dialog).to_contain_text("2 messages wait, and have cost 2 credits.")
    alice.dialog.get_by_role("button", name="Cancel them, with a refund").click()
    alice.expect_toast("What waited is being cancelled, and its credits come back. The account stays on hold.")
    wait_until(lambda: conn.execute("SELECT done_count = 2 FROM queue_works").fetchone()[0])
    alice.button("This was us: release").focus()
    alice.page.keyboard.press("Enter")
    alice.expect_toast("Thank you. What waited goes on.")
    expect(alice.page.locator("#traffic")).to_be_empty()
    assert holds.list_account_holds(conn) == []


def test_an_operator_sets_brakes_and_a_mistake_keeps_what_was_typed(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast, conn: db.Connection
) -> None:
    olga = open_tab(server)
    olga.open_as(cast.olga, "/admin/accounts/smpp-acme-1")
    tile = olga.tile("Brakes")
    tile.get_by_label("Countries").fill("IT Frankreich")
    tile.get_by_label("Most messages a day").fill("1000")
    tile.get_by_role("button", name="Save the brakes").click()
    expect(tile.locator(".error")).to_contain_text("“FRANKREICH” is no country.")
    expect(tile.get_by_label("Most messages a day")).to_have_value("1000")
    tile.get_by_label("Countries").fill("IT FR")
    tile.get_by_role("button", name="Save the brakes").click()
    olga.expect_toast("The brakes of smpp-acme-1 were changed.")
    expect(tile.locator("dl")).to_contain_text("FR IT")
    in_force = brakes.get_brakes(conn, cast.smpp_acme_1.id).in_force
    assert in_force == Brakes(frozenset(("IT", "FR")), 1000)
