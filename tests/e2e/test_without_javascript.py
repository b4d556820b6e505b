"""The main job without JavaScript: by plain forms and links."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect
from smpplib import consts

from tests.e2e.browsing import BrowserTab
from tests.smpplib_esme import try_bind
from tests.support import Cast, RunningServer


@pytest.fixture
def open_plain_tab(open_tab: Callable[..., BrowserTab], server: RunningServer) -> Callable[[], BrowserTab]:
    return lambda: open_tab(server, java_script_enabled=False)


def test_looking_after_an_account(open_plain_tab: Callable[[], BrowserTab], server: RunningServer, cast: Cast) -> None:
    alice, account = open_plain_tab(), cast.smpp_acme_2
    page = alice.page
    alice.log_in(cast.alice)
    page.get_by_role("link", name=account.name).click()
    expect(alice.tile("General information")).to_contain_text(f"127.0.0.1:{server.tls_port}")
    # What can't work isn't there.
    expect(page.get_by_role("button", name="Copy")).to_have_count(0)

    page.get_by_role("link", name="Options").click()
    field = page.get_by_label("IP address or range")
    field.fill("0.0.0.0/0")
    page.get_by_label("Label").fill("Our office")
    alice.button("Add an IP (0/10)").click()
    expect(page.locator("#ips-form .error")).to_contain_text("a large part of the internet")
    expect(field).to_have_value("0.0.0.0/0")
    expect(page.get_by_label("Label")).to_have_value("Our office")
    field.fill("127.0.0.1")
    alice.button("Add an IP (0/10)").click()
    alice.expect_toast("127.0.0.1 was added.")
    expect(page.get_by_role("row", name="127.0.0.1")).to_contain_text("Our office")

    page.get_by_role("link", name="Home").click()
    alice.expect_account_status("OK")
    alice.button("Generate a new password").click()
    expect(page.get_by_role("main")).to_contain_text("The password of smpp-acme-2 is about to change.")
    alice.button("Exit").click()
    alice.button("Generate a new password").click()
    alice.button("Send").click()
    password = page.locator(".confirm code").inner_text()
    assert try_bind(server, account, password=password) == consts.SMPP_ESME_ROK
    alice.button("Done").click()
    expect(page.get_by_role("main")).not_to_contain_text(password)

    page.get_by_role("link", name="Sessions").click()
    expect(alice.tile("Connected now")).to_be_visible()
    page.get_by_role("link", name="Options").click()
    alice.button("Delete 127.0.0.1").click()
    alice.button("Delete 127.0.0.1").click()
    alice.expect_toast("127.0.0.1 was removed.")
    assert try_bind(server, account, password=password) == consts.SMPP_ESME_RBINDFAIL
    alice.button("Undo").click()
    expect(page.get_by_role("row", name="127.0.0.1")).to_be_visible()
    assert try_bind(server, account, password=password) == consts.SMPP_ESME_ROK


def test_senders_credits_and_history(open_plain_tab: Callable[[], BrowserTab], cast: Cast) -> None:
    alice = open_plain_tab()
    page = alice.page
    alice.log_in(cast.alice)
    page.get_by_role("link", name="smpp-acme-1").click()

    page.get_by_role("navigation", name="Account", exact=True).get_by_role("link", name="Senders").click()
    page.get_by_label("Sender", exact=True).fill("Acme Shop")
    alice.button("Add a sender").click()
    expect(page.get_by_role("row", name="Acme Shop")).to_be_visible()

    page.get_by_role("link", name="Credits", exact=True).click()
    page.get_by_role("link", name="Transfer credits").click()
    page.get_by_label("To").select_option("smpp-acme-2")
    page.get_by_label("Credits", exact=True).fill("12.5")
    alice.button("Transfer").click()
    expect(page.locator("#account-balance")).to_have_text(re.compile(r"987\.5\s+credits"))

    page.get_by_role("link", name="History", exact=True).click()
    alice.expect_text("No message yet")


def test_the_language_and_the_way_out(open_plain_tab: Callable[[], BrowserTab], cast: Cast) -> None:
    alice = open_plain_tab()
    alice.log_in(cast.alice)
    alice.button("Italiano").click()
    expect(alice.page.locator("html")).to_have_attribute("lang", "it")
    alice.page.locator("summary", has_text=cast.alice.email).click()
    alice.button("Esci").click()
    alice.page.wait_for_url("**/login")
    alice.page.goto("/accounts/smpp-acme-1")
    expect(alice.page).to_have_url(re.compile(r"/login\?next="))


def test_an_operator_disables_and_enables_an_account(
    open_plain_tab: Callable[[], BrowserTab], server: RunningServer, cast: Cast
) -> None:
    olga, account = open_plain_tab(), cast.smpp_acme_1
    olga.log_in(cast.olga)
    olga.page.get_by_role("link", name=account.name).click()
    olga.button(f"Disable {account.name}").click()
    olga.button(f"Disable {account.name}").click()
    olga.expect_toast(f"{account.name} was disabled.")
    assert try_bind(server, account) == consts.SMPP_ESME_RBINDFAIL
    olga.button(f"Enable {account.name}").click()
    olga.expect_toast(f"{account.name} was enabled.")
    assert try_bind(server, account) == consts.SMPP_ESME_ROK
