"""An operator answers what a customer has asked for, by keyboard; and a customer asks for it in a page of its own."""

from collections.abc import Callable

from playwright.sync_api import expect

from portal.core import db
from portal.services.accounts import accounts
from portal.services.common.audit import Actor
from portal.services.messages import account_requests
from tests.e2e.browsing import BrowserTab
from tests.support import Cast, RunningServer


def test_a_customer_asks_and_an_operator_answers(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast, conn: db.Connection
) -> None:
    alice = open_tab(server)
    alice.open_as(cast.alice, "/accounts/smpp-acme-1/ask/throughput")
    alice.page.get_by_label("Note").fill("50 from Monday on")
    alice.page.get_by_role("button", name="Send").click()
    alice.expect_toast("The operator was asked. The answer comes by e-mail.")
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    account_requests.ask_operator(conn, Actor("alice@acme.example"), account, account_requests.ROUTE, "FR")

    olga = open_tab(server)
    olga.open_as(cast.olga, "/admin/")
    page = olga.page
    tile = olga.tile("Requests")
    expect(tile).to_contain_text("50 from Monday on")
    page.locator("#decline-1").focus()
    page.keyboard.press("Enter")
    expect(olga.dialog.get_by_role("heading")).to_have_text("Decline this request?")
    page.keyboard.press("Escape")
    expect(olga.dialog).to_be_hidden()
    expect(page.locator("#decline-1")).to_be_focused()
    page.locator("#done-1").press("Enter")
    olga.dialog.get_by_label("Comment").fill("It is 50 now")
    olga.dialog.get_by_role("button", name="Mark as done").click()
    olga.expect_toast("The request of smpp-acme-1 was marked as done.")
    expect(tile).not_to_contain_text("50 from Monday on")
    expect(tile).to_contain_text("A route to France")
    assert account_requests.get_request(conn, 1).comment == "It is 50 now"
