"""The main job with the keyboard alone: Tab, Enter and Esc, the focus always in sight."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Playwright, Route, expect
from smpplib import consts

from tests.e2e.browsing import BrowserTab
from tests.e2e.conftest import CHROMIUM_ARGUMENTS
from tests.e2e.keyboard import Keyboard
from tests.smpplib_esme import SmpplibEsme, try_bind
from tests.support import Cast, RunningServer


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Chromium as people have it, but for its window."""
    running = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM_ARGUMENTS)
    yield running
    running.close()


def test_looking_after_an_account(open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast) -> None:
    tab, account = open_tab(server), cast.smpp_acme_2
    page, keyboard = tab.page, Keyboard(tab.page)
    page.goto("/login")
    keyboard.type(cast.alice.email)
    keyboard.press("Tab")
    keyboard.type(cast.alice.password)
    keyboard.press("Enter")
    page.wait_for_url("**/login/totp*")
    keyboard.type(cast.alice.totp_code())
    keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Accounts")).to_be_visible()

    # Past the bar at the top in one step.
    keyboard.move_focus_to("Skip to the content")
    keyboard.press("Enter")
    keyboard.move_focus_to(account.name)
    keyboard.press("Enter")
    page.wait_for_url(f"**/accounts/{account.name}")
    keyboard.move_focus_to("Options")
    keyboard.press("Enter")
    page.wait_for_url("**/options/smpp")

    # A first address with one button, which is gone afterwards.
    keyboard.move_focus_to("Add 127.0.0.1 (this computer)")
    keyboard.press("Enter")
    expect(page.get_by_role("row", name="127.0.0.1")).to_be_visible()
    keyboard.expect_focus()
    tab.expect_account_status("OK")
    keyboard.expect_focus()

    # A second one, mistyped at first.
    field = page.get_by_label("IP address or range")
    keyboard.move_focus_to("IP address or range")
    keyboard.type("203.0.113.7/24")
    keyboard.press("Enter")
    expect(page.locator("#ips-form .error")).to_be_visible()
    expect(field).to_be_focused()
    keyboard.press("Control+A")
    keyboard.type("203.0.113.7")
    keyboard.press("Enter")
    expect(page.get_by_role("row", name="203.0.113.7")).to_be_visible()
    keyboard.expect_focus()
    tab.expect_account_status("OK")

    # Asked before deleting: Esc leaves, and leads back to the bin.
    keyboard.move_focus_to("Delete 203.0.113.7", key="Shift+Tab")
    keyboard.press("Enter")
    expect(tab.dialog).to_be_visible()
    keyboard.press("Escape")
    expect(tab.dialog).to_have_count(0)
    expect(page.get_by_role("link", name="Delete 203.0.113.7")).to_be_focused()
    keyboard.press("Enter")
    expect(tab.dialog).to_be_visible()
    keyboard.move_focus_to("Delete 203.0.113.7")
    keyboard.press("Enter")
    expect(page.get_by_role("row", name="203.0.113.7")).to_have_count(0)
    keyboard.expect_focus()
    tab.expect_account_status("OK")

    # A new password; the safe way out comes first.
    keyboard.move_focus_to("Generate a new password")
    keyboard.press("Enter")
    expect(tab.dialog).to_contain_text("is about to change")
    keyboard.move_focus_to("Exit")
    keyboard.move_focus_to("Send")
    keyboard.press("Enter")
    expect(tab.dialog.get_by_role("heading", name="Your new password")).to_be_focused()
    password = tab.dialog.locator("code").inner_text()
    keyboard.move_focus_to("Copy")
    keyboard.press("Enter")
    expect(tab.dialog.get_by_role("button", name="Copied")).to_be_focused()
    keyboard.press("Escape")
    expect(tab.dialog).to_have_count(0)
    expect(page.get_by_role("link", name="Generate a new password")).to_be_focused()
    assert try_bind(server, account, password=password) == consts.SMPP_ESME_ROK


def test_the_menu_and_explanations_close_with_esc(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    tab = open_tab(server)
    keyboard = Keyboard(tab.page)
    tab.open_as(cast.alice, "/accounts/smpp-acme-1")
    for words, shown in (("Your menu:", "Log out"), ("What is SystemID?", "The login of your SMPP client")):
        keyboard.move_focus_to(words)
        keyboard.press("Enter")
        tab.expect_text(shown)
        keyboard.press("Escape")
        expect(tab.page.get_by_text(shown)).to_be_hidden()
        assert words in keyboard.focused_element()


def test_the_focus_stays_where_it_is_when_a_part_renews_itself(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    tab = open_tab(server)
    tab.open_as(cast.alice, "/accounts/smpp-acme-1")
    Keyboard(tab.page).move_focus_to("Generate a new password")
    with SmpplibEsme(server.port) as esme:
        esme.bind(cast.smpp_acme_1)
        expect(tab.tile("Service status")).to_contain_text("1 session")
        expect(tab.button("Generate a new password")).to_be_focused()


def test_the_focus_finds_the_next_row_where_a_part_renewed_itself_before_the_dialog_was_there(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    tab = open_tab(server)
    page, keyboard = tab.page, Keyboard(tab.page)
    tab.open_as(cast.alice, "/accounts/smpp-acme-1/options/smpp")
    held: list[Route] = []
    page.route("**/delete", lambda route: held.append(route))
    keyboard.move_focus_to("Delete 127.0.0.1")
    with page.expect_request("**/delete"):
        keyboard.press("Enter")
    with page.expect_response("**/live?*"):
        pass
    held[0].continue_()
    page.unroute("**/delete")
    expect(tab.dialog).to_be_visible()
    keyboard.move_focus_to("Delete 127.0.0.1")
    keyboard.press("Enter")
    expect(page.get_by_role("row", name="127.0.0.1")).to_have_count(0)
    expect(page.get_by_role("link", name="Delete ::1")).to_be_focused()


def test_what_is_wrong_with_a_new_password_is_said_when_its_field_is_left(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    tab = open_tab(server)
    tab.log_in(cast.alice)
    tab.page.goto("/profile")
    keyboard, said = Keyboard(tab.page), tab.page.get_by_role("status").filter(has_text="characters")
    tab.page.get_by_label("New password", exact=True).focus()
    for password, words in (("password12", "at least 12"), ("alice@acme.example", "This is too easy to guess")):
        keyboard.type(password)
        with tab.page.expect_request("**/profile/password/check") as request:
            keyboard.press("Tab")
        assert "current" not in str(request.value.post_data)
        expect(said).to_contain_text(words)
        assert keyboard.focused_element() == "INPUT The same password again"
        keyboard.press("Shift+Tab")
    keyboard.type("correct horse battery")
    keyboard.press("Tab")
    expect(said).to_have_count(0)


def test_what_is_refused_appears_and_is_mended_by_keys(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    tab = open_tab(server)
    page, keyboard = tab.page, Keyboard(tab.page)
    tab.open_as(cast.alice, "/accounts/smpp-acme-1")
    banner = page.locator("#refused")
    with SmpplibEsme(server.port) as client:
        assert client.bind(cast.smpp_acme_1) == consts.SMPP_ESME_ROK
        for _ in range(2):
            assert client.submit(b"hello", source="NOTMINE").status == consts.SMPP_ESME_RINVSRCADR
        expect(banner).to_contain_text("The sender NOTMINE isn't approved. 2 times")
        keyboard.move_focus_to("All that was refused")
        keyboard.press("Enter")
        page.wait_for_url("**/refused")
        row = page.get_by_role("row", name="The sender NOTMINE isn't approved.")
        expect(row).to_contain_text("2")

        # A page that is open counts on, and its buttons are reached with the next row under way.
        assert client.submit(b"hello", to="notanumber").status != consts.SMPP_ESME_ROK
        expect(page.get_by_role("row", name="The recipient is no number")).to_be_visible()
        keyboard.move_focus_to("Ask for it")
        keyboard.press("Enter")
        page.wait_for_url("**/senders?sender=NOTMINE*")
        expect(page.get_by_label("Sender", exact=True)).to_have_value("NOTMINE")
        keyboard.move_focus_to("Add a sender")
        keyboard.press("Enter")
        expect(page.get_by_role("row", name="NOTMINE")).to_be_visible()

    keyboard.move_focus_to("Home", key="Shift+Tab")
    keyboard.press("Enter")
    expect(banner).to_contain_text("The sender NOTMINE isn't approved.")
    keyboard.move_focus_to("See its status")
    keyboard.press("Enter")
    expect(page.get_by_role("row", name="NOTMINE")).to_contain_text("Waiting")
