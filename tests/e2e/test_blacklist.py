"""What is put on the blacklist in the page holds for the next message of a client that is connected."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect
from smpplib import consts

from portal.services.accounts import accounts
from tests.e2e.browsing import BrowserTab
from tests.smpplib_esme import NUMBER, SmpplibEsme
from tests.support import Cast, RunningServer

PAGE = "/accounts/smpp-acme-1/blacklist"


@pytest.fixture
def alice(open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast) -> BrowserTab:
    tab = open_tab(server)
    tab.open_as(cast.alice)
    return tab


def test_a_client_that_is_connected_sends_nothing_to_a_number_that_was_just_added(
    alice: BrowserTab, server: RunningServer, cast: Cast
) -> None:
    conn, page = server.connect(), alice.page

    def balance() -> int:
        return accounts.get_account(conn, "smpp-acme-1").balance

    def outcome(esme: SmpplibEsme) -> bytes:
        (message_id,) = esme.send_text("hello")
        return bytes(esme.wait_for_receipt(message_id).short_message)

    with SmpplibEsme(server.port) as esme:
        assert esme.bind(cast.smpp_acme_1) == consts.SMPP_ESME_ROK
        assert b"stat:DELIVRD" in outcome(esme)
        page.goto(PAGE)
        page.get_by_role("textbox", name="Numbers").fill(f"+39 340 123 45 67\n{NUMBER}9")
        alice.button("Add to the blacklist").click()
        alice.expect_toast("2 numbers were added.")
        before = balance()
        rejected = outcome(esme)
        assert b"stat:REJECTD" in rejected
        assert b"err:053" in rejected
        assert balance() == before

        page.get_by_role("checkbox", name=NUMBER, exact=True).check()
        alice.button("Remove the selected ones").click()
        expect(alice.dialog).to_contain_text("Sending to somebody who said STOP may be unlawful.")
        alice.dialog.get_by_role("button", name=f"Remove {NUMBER}").click()
        alice.expect_toast(f"{NUMBER} was removed.")
        expect(page.get_by_role("checkbox")).to_have_count(1)
        assert b"stat:DELIVRD" in outcome(esme)
        assert balance() == before - 1000
    conn.close()


def test_by_keyboard_the_question_gives_the_focus_back(alice: BrowserTab) -> None:
    page = alice.page
    page.goto(PAGE)
    page.get_by_role("textbox", name="Numbers").fill(NUMBER)
    alice.button("Add to the blacklist").press("Enter")
    page.get_by_role("checkbox", name=NUMBER, exact=True).press("Space")
    button = alice.button("Remove the selected ones")
    button.press("Enter")
    expect(alice.dialog).to_be_visible()
    expect(alice.dialog.get_by_role("link", name="Exit")).to_be_focused()
    page.keyboard.press("Escape")
    expect(button).to_be_focused()


def test_without_javascript_a_file_is_imported_and_a_number_removed(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    tab = open_tab(server, java_script_enabled=False)
    tab.open_as(cast.alice, PAGE)
    page = tab.page
    tab.button("Import").click()
    page.get_by_label("CSV file").set_input_files(
        {"name": "numbers.csv", "mimeType": "text/csv", "buffer": f"number\n{NUMBER}\n393337654321\n".encode()}
    )
    tab.button("See what will change").click()
    tab.button("Add 2 numbers").click()
    tab.expect_toast("2 numbers were added.")
    page.get_by_role("checkbox", name=NUMBER, exact=True).check()
    tab.button("Remove the selected ones").click()
    tab.button(f"Remove {NUMBER}").click()
    tab.expect_toast(f"{NUMBER} was removed.")
    expect(page.get_by_role("checkbox")).to_have_count(1)
