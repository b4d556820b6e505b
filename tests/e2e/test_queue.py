"""An operator steers what waits: how many messages that is, is asked first, and the open page tells how far it is."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from portal.core import db
from portal.core.crypto import Keys
from tests.e2e.browsing import BrowserTab
from tests.services.upstreams.waiting import add_upstream, queue_of_each
from tests.support import Cast, RunningServer, find_free_port

NUMBERS = [f"39333000000{each}" for each in range(5)]


@pytest.fixture
def olga(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast, conn: db.Connection, keys: Keys
) -> BrowserTab:
    # Nobody listens there.
    add_upstream(conn, keys, host="127.0.0.1", port=find_free_port())
    queue_of_each(conn, cast.smpp_acme_1.id, NUMBERS)
    queue_of_each(conn, cast.smpp_globex_1.id, NUMBERS[:2])
    tab = open_tab(server)
    tab.open_as(cast.olga, "/admin/queue")
    return tab


def answer(olga: BrowserTab, question: str, verb: str) -> None:
    expect(olga.dialog.get_by_role("heading")).to_have_text(question)
    olga.dialog.get_by_role("button", name=verb).click()


def test_what_waits_is_held_released_and_cancelled_while_the_page_is_open(olga: BrowserTab) -> None:
    page = olga.page
    olga.expect_text("7 messages wait for their turn.")
    page.get_by_role("link", name="Account", exact=True).click()
    row = page.get_by_role("row", name="smpp-acme-1")
    row.get_by_role("link", name="Hold smpp-acme-1").click()
    expect(olga.dialog).to_contain_text("5 messages, of one account: smpp-acme-1 (5)")
    answer(olga, "Hold these messages?", "Hold 5 messages")
    olga.expect_toast("The messages are being held.")
    expect(olga.tile("What was asked for")).to_contain_text("5 of 5 held")
    olga.expect_text("2 messages wait for their turn, 5 are on hold.")
    row.get_by_role("link", name="Release smpp-acme-1").click()
    answer(olga, "Release these messages?", "Release 5 messages")
    expect(olga.tile("What was asked for")).to_contain_text("5 of 5 released")
    page.get_by_role("link", name="Cancel all of these").click()
    expect(olga.dialog).to_contain_text("7 credits are given back.")
    answer(olga, "Cancel these messages?", "Cancel 7 messages")
    expect(olga.tile("What was asked for")).to_contain_text("7 of 7 cancelled, 7 credits given back")
    olga.expect_text("Messages that no upstream has room for, or can reach, are listed here.")


def test_an_account_is_held_by_keyboard_and_the_focus_comes_back(olga: BrowserTab) -> None:
    page = olga.page
    olga.expect_text("7 messages wait for their turn.")
    page.get_by_role("link", name="Hold an account").focus()
    page.keyboard.press("Enter")
    olga.dialog.get_by_label("Account").fill("smpp-nobody")
    olga.dialog.get_by_label("Reason").fill("unusual traffic")
    page.keyboard.press("Enter")
    expect(olga.dialog.locator(".error")).to_be_visible()
    expect(olga.dialog.get_by_label("Reason")).to_have_value("unusual traffic")
    olga.dialog.get_by_label("Account").fill("smpp-acme-1")
    page.keyboard.press("Enter")
    olga.expect_toast("smpp-acme-1 is on hold.")
    olga.expect_text("2 messages wait for their turn, 5 are on hold.")
    tile = olga.tile("Accounts on hold")
    expect(tile.get_by_role("row", name="smpp-acme-1")).to_contain_text("unusual traffic")
    tile.get_by_role("link", name="Release").click()
    answer(olga, "Release this account?", "Release smpp-acme-1")
    olga.expect_toast("smpp-acme-1 was released.")
