"""Messages are ticked in the page, asked about in its dialog, and gone; what was ticked stays so while others come."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from portal.core import clock
from portal.services.accounts import accounts
from portal.services.messages import deliveries
from tests.e2e.browsing import Tab
from tests.support import Cast, Server
from tests.web import acting

PAGE = "/accounts/smpp-acme-1/history"


@pytest.fixture
def alice(open_tab: Callable[..., Tab], server: Server, cast: Cast) -> Tab:
    tab = open_tab(server)
    tab.log_in(cast.alice)
    return tab


def send(server: Server, *texts: str) -> None:
    """Messages that have ended, with their receipts."""
    conn = server.connect()
    acting.deliver(conn, *acting.send(conn, "smpp-acme-1", *texts))
    account = accounts.by_name(conn, "smpp-acme-1")
    deliveries.done(conn, deliveries.due(conn, account.id, clock.now_ms(), 100).now)
    conn.close()


def test_ticked_ones_are_deleted_from_a_page_that_moves(alice: Tab, server: Server) -> None:
    send(server, "apple", "pear", "plum")
    page = alice.page
    page.goto(PAGE)
    page.get_by_role("row").filter(has_text="pear").get_by_role("checkbox").check()

    send(server, "fig")
    expect(page.get_by_role("link", name="fig")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="pear").get_by_role("checkbox")).to_be_checked()
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(1)

    alice.button("Delete the ticked ones").click()
    expect(alice.dialog).to_contain_text("1 message goes for good.")
    alice.dialog.get_by_role("button", name="Delete 1 message").click()
    alice.is_told("1 message was deleted.")
    expect(page.get_by_role("checkbox")).to_have_count(3)
    expect(page.get_by_role("link", name="pear")).to_have_count(0)


def test_a_row_opens_its_message_and_a_tick_does_not(alice: Tab, server: Server) -> None:
    send(server, "first")
    page = alice.page
    page.goto(PAGE)
    page.get_by_role("checkbox").check()
    expect(alice.dialog).to_have_count(0)

    page.get_by_role("link", name="first").click()
    expect(alice.dialog).to_contain_text("first")
    alice.dialog.get_by_role("link", name="Delete…").click()
    expect(alice.dialog).to_contain_text("1 message goes for good.")
    alice.dialog.get_by_role("button", name="Delete 1 message").click()
    alice.is_told("1 message was deleted.")
    expect(page.get_by_text("No message yet")).to_be_visible()
