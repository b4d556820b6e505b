"""Two tabs of one browser, in which somebody logs in and out; and what is pasted."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from portal.core.pasted_text import remove_invisible_marks
from tests.core.test_pasted_text import MARKS
from tests.e2e.browsing import BrowserTab
from tests.support import Cast, RunningServer

SETTINGS = "/accounts/smpp-acme-2/options/smpp"
LOGGED_OUT = "You are no longer logged in, so nothing has been changed."
OpenTab = Callable[..., BrowserTab]


@pytest.fixture
def server(serve_alone: Callable[..., RunningServer]) -> RunningServer:
    """The portal alone: these tests need nothing of SMPP."""
    return serve_alone("web")


def open_beside(tab: BrowserTab) -> BrowserTab:
    """Another tab of the same browser."""
    return BrowserTab(tab.page.context.new_page(), tab.server)


def stop_polling(page: Page) -> None:
    """Otherwise its next poll leads to the login before anything is sent."""
    page.route("**/live*", lambda route: route.fulfill(status=204))


def log_out(tab: BrowserTab) -> None:
    tab.page.goto("/profile")
    tab.page.locator("summary", has_text="alice").click()
    tab.button("Log out").click()
    tab.page.wait_for_url("**/login")


def fill_in_password(page: Page, cast: Cast) -> None:
    page.get_by_label("E-mail address").fill(cast.alice.email)
    page.get_by_label("Password").fill(cast.alice.password)


def expect_reload_sends_nothing(page: Page) -> None:
    with page.expect_request(page.url) as request:
        page.reload()
    assert request.value.method == "GET"


@pytest.mark.parametrize("java_script", [True, False])
def test_a_form_after_the_logout_in_another_tab(
    open_tab: OpenTab, server: RunningServer, cast: Cast, java_script: bool
) -> None:
    here = open_tab(server, java_script_enabled=java_script)
    stop_polling(here.page)
    here.log_in(cast.alice)
    here.page.goto(SETTINGS)
    there = open_beside(here)
    log_out(there)

    here.page.get_by_label("IP address or range").fill("203.0.113.7")
    here.button("Add an IP (0/10)").click()
    here.page.wait_for_url(f"**/login?next={SETTINGS}")
    expect(here.page.locator("form [role=alert]")).to_contain_text(LOGGED_OUT)
    expect_reload_sends_nothing(here.page)
    fill_in_password(here.page, cast)
    here.button("Log in").click()
    here.page.get_by_label("Code", exact=True).fill(cast.alice.totp_code(1))
    here.button("Log in").click()
    here.page.wait_for_url(f"**{SETTINGS}")
    here.page.get_by_label("IP address or range").fill("203.0.113.7")
    here.button("Add an IP (0/10)").click()
    here.expect_toast("203.0.113.7")
    assert there.browser_errors == []


@pytest.mark.parametrize(
    ("page", "label"),
    [("/credits/transfer", "Credits"), ("/options/smpp", "IP address or range"), ("/credits/cost", "Numbers")],
)
def test_what_is_typed_stays_after_a_logout_in_another_tab(
    open_tab: OpenTab, server: RunningServer, cast: Cast, page: str, label: str
) -> None:
    here = open_tab(server)
    here.log_in(cast.alice)
    path = f"/accounts/smpp-acme-2{page}"
    here.page.goto(path)
    there = open_beside(here)
    log_out(there)
    field = here.page.locator("main").get_by_label(label)
    field.press_sequentially("203")
    # What the page asks by itself says so, once, and the page stays.
    here.expect_toast("You are no longer logged in. What you have typed is still here.")
    field.press_sequentially(".0")
    expect(here.page.locator(".toast")).to_have_count(1)
    expect(field).to_have_value("203.0")
    here.page.locator(".toast").get_by_role("link", name="Log in").click()
    here.page.wait_for_url(f"**/login?next={path}")
    assert there.browser_errors == []


@pytest.mark.parametrize("label", ["Packs a day at most", "Pack"])
def test_what_is_chosen_stays_after_a_logout_in_another_tab(
    open_tab: OpenTab, server: RunningServer, cast: Cast, label: str
) -> None:
    here = open_tab(server)
    here.log_in(cast.alice)
    here.page.goto("/accounts/smpp-acme-2/credits/settings")
    field = here.page.get_by_label(label, exact=True)
    before = field.input_value()
    field.select_option(index=2)
    chosen = field.input_value()
    assert chosen != before
    log_out(open_beside(here))
    here.expect_toast("You are no longer logged in. What you have typed is still here.")
    expect(field).to_have_value(chosen)


def test_a_page_in_which_nothing_is_typed_ends_with_its_session(
    open_tab: OpenTab, server: RunningServer, cast: Cast
) -> None:
    here = open_tab(server)
    here.log_in(cast.alice)
    here.page.goto(SETTINGS)
    log_out(open_beside(here))
    here.page.wait_for_url(f"**/login?next={SETTINGS}")
    expect(here.page.locator("form [role=alert]")).to_contain_text("You are no longer logged in. Log in to go on.")


def test_two_login_pages(open_tab: OpenTab, server: RunningServer, cast: Cast) -> None:
    here = open_tab(server)
    there = open_beside(here)
    there.page.goto(f"/login?next={SETTINGS}")
    fill_in_password(there.page, cast)
    here.log_in(cast.alice)
    # The form of before the login.
    there.button("Log in").click()
    there.page.wait_for_url(f"**{SETTINGS}")
    assert there.browser_errors == []


def test_a_login_page_whose_cookie_has_gone(open_tab: OpenTab, server: RunningServer, cast: Cast) -> None:
    tab = open_tab(server)
    tab.page.goto("/login")
    fill_in_password(tab.page, cast)
    tab.page.context.clear_cookies()
    tab.button("Log in").click()
    tab.expect_text("This page was out of date. Enter your password once more")
    expect(tab.page.get_by_label("E-mail address")).to_have_value(cast.alice.email)
    expect(tab.page.get_by_label("Password")).to_have_value("")
    tab.page.get_by_label("Password").fill(cast.alice.password)
    tab.button("Log in").click()
    tab.page.wait_for_url("**/login/totp*")


def test_a_form_of_the_login_session_before(open_tab: OpenTab, server: RunningServer, cast: Cast) -> None:
    here = open_tab(server)
    stop_polling(here.page)
    here.log_in(cast.alice)
    here.page.goto(SETTINGS)
    there = open_beside(here)
    log_out(there)
    there.log_in(cast.alice, step=1)

    here.page.get_by_label("IP address or range").fill("203.0.113.7")
    here.button("Add an IP (0/10)").click()
    here.expect_toast("This page was out of date, so nothing has been changed.")
    expect_reload_sends_nothing(here.page)
    here.page.get_by_label("IP address or range").fill("203.0.113.7")
    here.button("Add an IP (0/10)").click()
    here.expect_toast("203.0.113.7")
    assert there.browser_errors == []


def paste(page: Page, label: str, text: str) -> None:
    field = page.get_by_label(label, exact=True)
    field.focus()
    field.evaluate(
        """(field, text) => {
          const clipboardData = new DataTransfer();
          clipboardData.setData('text/plain', text);
          const paste = new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true });
          if (field.dispatchEvent(paste)) document.execCommand('insertText', false, text);
        }""",
        text,
    )


def test_what_is_pasted_is_what_is_seen(open_tab: OpenTab, server: RunningServer, cast: Cast) -> None:
    tab = open_tab(server)
    tab.page.goto("/login")
    paste(tab.page, "E-mail address", f"\u202a{cast.alice.email}\u202c\u200b")
    expect(tab.page.get_by_label("E-mail address")).to_have_value(cast.alice.email)
    # A password is what it is.
    paste(tab.page, "Password", "a\u200bb")
    expect(tab.page.get_by_label("Password")).to_have_value("a\u200bb")
    tab.page.get_by_label("Password").fill(cast.alice.password)
    tab.button("Log in").click()
    paste(tab.page, "Code", f"\u202a\u202a\u202a\u200b{cast.alice.totp_code()}\u202c\u202c\u202c")
    tab.button("Log in").click()
    tab.page.wait_for_url(lambda url: "/login" not in url)


def test_what_is_pasted_is_what_the_server_takes_it_for(open_tab: OpenTab, server: RunningServer) -> None:
    tab = open_tab(server)
    tab.page.goto("/login")
    field = tab.page.get_by_label("E-mail address")
    addresses = [f"{mark}a{mark}lice@acme.example{mark}" for mark in f"{MARKS}\u00a0\u2007\u202f"]
    # Joiners that have a meaning, and one beside ASCII.
    for text in (*addresses, "می\u200cخواهم", "\u200cمی\u200c\u200dخ\u200d", "👩\u200d💻", "👩\u200dx"):
        field.fill("")
        paste(tab.page, "E-mail address", text)
        expect(field).to_have_value(remove_invisible_marks(text))
