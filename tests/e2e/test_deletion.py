"""Messages are selected and deleted after a confirmation; the selection survives while others arrive."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from portal.core import clock
from portal.services.accounts import accounts
from portal.services.messages import deliveries
from tests.e2e.browsing import BrowserTab
from tests.support import Cast, RunningServer
from tests.web import acting

PAGE = "/accounts/smpp-acme-1/history"


@pytest.fixture
def alice(open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast) -> BrowserTab:
    tab = open_tab(server)
    tab.open_as(cast.alice)
    return tab


def send(server: RunningServer, *texts: str) -> None:
    """Messages that have ended, with their receipts."""
    conn = server.connect()
    acting.deliver_messages(conn, *acting.send_texts(conn, "smpp-acme-1", *texts))
    account = accounts.get_account(conn, "smpp-acme-1")
    deliveries.remove_accepted_deliveries(
        conn, deliveries.list_due_deliveries(conn, account.id, clock.now_ms(), 100).ready
    )
    conn.close()


def test_ticked_ones_are_deleted_from_a_page_that_moves(alice: BrowserTab, server: RunningServer) -> None:
    send(server, "apple", "pear", "plum")
    page = alice.page
    page.goto(PAGE)
    page.get_by_role("row").filter(has_text="pear").get_by_role("checkbox").check()

    send(server, "fig")
    expect(page.get_by_role("link", name="fig")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="pear").get_by_role("checkbox")).to_be_checked()
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(1)

    alice.button("Delete the selected ones").click()
    expect(alice.dialog).to_contain_text("1 message will be deleted permanently.")
    alice.dialog.get_by_role("button", name="Delete 1 message").click()
    alice.expect_toast("1 message was deleted.")
    expect(page.get_by_role("checkbox")).to_have_count(3)
    expect(page.get_by_role("link", name="pear")).to_have_count(0)


def test_a_row_opens_its_message_and_a_tick_does_not(alice: BrowserTab, server: RunningServer) -> None:
    send(server, "first")
    page = alice.page
    page.goto(PAGE)
    page.get_by_role("checkbox").check()
    expect(alice.dialog).to_have_count(0)

    page.get_by_role("link", name="first").click()
    expect(alice.dialog).to_contain_text("first")
    alice.dialog.get_by_role("link", name="Delete…").click()
    expect(alice.dialog).to_contain_text("1 message will be deleted permanently.")
    alice.dialog.get_by_role("button", name="Delete 1 message").click()
    alice.expect_toast("1 message was deleted.")
    expect(page.get_by_text("No message yet")).to_be_visible()
