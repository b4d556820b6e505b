"""Who is connected, while somebody looks: a client comes, sends, and is disconnected, on a page that is loaded once."""

import re
from collections.abc import Callable

from playwright.sync_api import expect
from smpplib import consts

from tests.e2e.browsing import BrowserTab
from tests.smpplib_esme import SmpplibEsme, try_bind
from tests.support import Cast, RunningServer

SESSIONS = "/accounts/smpp-acme-1/sessions"


def test_a_client_comes_sends_and_is_disconnected(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    alice = open_tab(server)
    alice.open_as(cast.alice, SESSIONS)
    tile = alice.tile("Connected now")
    expect(tile).to_contain_text("No client is connected")

    with SmpplibEsme(server.port) as client:
        assert client.bind(cast.smpp_acme_1) == consts.SMPP_ESME_ROK
        row = tile.get_by_role("row", name="127.0.0.1")
        expect(row).to_contain_text("Transceiver")
        for _ in range(3):
            client.submit(b"hello")
        expect(row.get_by_role("img", name=re.compile("In the last minute at most [0-9.]+ a second"))).to_be_visible()
        expect(row.locator(".spark path")).to_have_count(2)

        row.get_by_role("link", name="Disconnect").click()
        expect(alice.dialog).to_contain_text("Its client may connect again at once")
        alice.dialog.get_by_role("link", name="Exit").click()
        expect(row.get_by_role("link", name="Disconnect")).to_be_focused()
        row.get_by_role("link", name="Disconnect").click()
        alice.dialog.get_by_role("button", name="Disconnect 127.0.0.1").click()
        alice.expect_toast("The session of 127.0.0.1 is being disconnected.")
        client.wait_for_unbind()
    expect(tile).to_contain_text("No client is connected")
    assert try_bind(server, cast.smpp_acme_1) == consts.SMPP_ESME_ROK


def test_the_mails_are_switched_on_by_a_click_and_without_javascript(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    label = "Tell me by mail when binds or messages are refused as none were before"
    alice = open_tab(server)
    alice.open_as(cast.alice, SESSIONS)
    alice.page.get_by_label(label).check()
    alice.expect_toast("Mails about refused binds and messages are on.")

    plain = open_tab(server, java_script_enabled=False, storage_state=alice.page.context.storage_state())
    plain.page.goto(SESSIONS)
    expect(plain.page.get_by_label(label)).to_be_checked()
    plain.page.get_by_label(label).uncheck()
    plain.button("Save").click()
    plain.expect_toast("Mails about refused binds and messages are off.")
    expect(plain.page.get_by_label(label)).not_to_be_checked()
