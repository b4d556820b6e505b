"""The main job, end to end: a customer looks after an SMPP account in a browser, and the SMPP server obeys."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect
from smpplib import consts

from tests.e2e.browsing import BrowserTab
from tests.mailbox import Mailbox
from tests.serving import find_child_pids
from tests.smpplib_esme import SmpplibEsme, try_bind
from tests.support import AccountLogin, Cast, RunningServer

OPTIONS = "/accounts/{}/options/smpp"


@pytest.fixture
def alice(open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast) -> BrowserTab:
    """Alice, the owner, who has logged in."""
    tab = open_tab(server)
    tab.open_as(cast.alice)
    return tab


@contextmanager
def bound(server: RunningServer, login: AccountLogin) -> Iterator[SmpplibEsme]:
    """A client, bound as transceiver."""
    with SmpplibEsme(server.port) as esme:
        assert esme.bind(login) == consts.SMPP_ESME_ROK
        yield esme


@contextmanager
def without_reload(page: Page) -> Iterator[None]:
    """Fails if the page was loaded again meanwhile."""
    page.evaluate("window.sameAsBefore = true")
    yield
    assert page.evaluate("window.sameAsBefore"), "the page was loaded again"


def test_the_list_tells_the_accounts_apart(alice: BrowserTab) -> None:
    rows = alice.page.get_by_role("table", name="Accounts").get_by_role("row")
    for number, (name, kind, status, left) in enumerate(
        [
            ("smpp-acme-1", "SMPP", "OK", "1,000"),
            ("smpp-acme-2", "SMPP", "Waiting for your IPs", "100"),
            ("sms-acme-1", "SMS", "OK", "50"),
        ],
        start=1,
    ):
        for text in (name, kind, status, left):
            expect(rows.nth(number)).to_contain_text(text)
    alice.page.get_by_role("link", name="smpp-acme-1").click()
    expect(alice.page.get_by_role("heading", name="smpp-acme-1")).to_be_visible()


def test_what_a_client_needs_can_be_copied_over_plain_http(alice: BrowserTab, server: RunningServer) -> None:
    alice.page.goto(OPTIONS.format("smpp-acme-1"))
    assert alice.page.evaluate("navigator.clipboard") is None
    general = alice.tile("General information")
    for what, value in {
        "SystemID": "smpp-acme-1",
        "Secured endpoint": f"127.0.0.1:{server.tls_port}",
        "Unsecured endpoint": f"127.0.0.1:{server.port}",
    }.items():
        general.get_by_role("button", name=f"Copy {what}").click()
        expect(general.get_by_role("button", name=f"Copied {what}")).to_be_focused()
        expect(alice.page.locator("body > .live")).to_have_text("Copied")
        assert alice.read_clipboard("IP address or range") == value
    expect(general).to_contain_text("10 messages at most")
    expect(general).to_contain_text("20 messages a second")


def test_a_new_account_waits_for_its_first_address(alice: BrowserTab, server: RunningServer, cast: Cast) -> None:
    account, page = cast.smpp_acme_2, alice.page
    page.goto(OPTIONS.format(account.name))
    alice.expect_account_status("Waiting for your IPs")
    assert try_bind(server, account) == consts.SMPP_ESME_RBINDFAIL
    expect(alice.button("Add an IP (0/10)")).to_be_enabled()

    with without_reload(page):
        alice.button("Add 127.0.0.1 (this computer)").click()
        alice.expect_toast("127.0.0.1 was added.")
        alice.expect_account_status("OK")
        expect(page.get_by_role("row", name="127.0.0.1")).to_be_visible()
    with bound(server, account):
        alice.page.goto(f"/accounts/{account.name}/sessions")
        expect(alice.tile("Connected now")).to_contain_text("127.0.0.1")
        expect(alice.tile("Refused attempts")).to_contain_text("No IP was authorised yet. It would be accepted now.")


def test_a_refused_client_is_let_in_with_one_click(alice: BrowserTab, server: RunningServer, cast: Cast) -> None:
    account = cast.smpp_acme_2
    alice.page.goto(f"/accounts/{account.name}")
    with without_reload(alice.page):
        assert try_bind(server, account) == consts.SMPP_ESME_RBINDFAIL
        alice.expect_text("No IP was authorised yet.")
        alice.button("Add 127.0.0.1").click()
        alice.expect_account_status("OK")
        expect(alice.page.locator("#refused")).to_be_empty()
    assert try_bind(server, account) == consts.SMPP_ESME_ROK


def test_addresses_that_make_no_sense_are_refused_and_what_was_typed_stays(alice: BrowserTab) -> None:
    page = alice.page
    page.goto(OPTIONS.format("smpp-acme-1"))
    field = page.get_by_label("IP address or range")
    page.get_by_label("Label").fill("Our office")
    for typed, why in {
        "203.0.113": "isn't an IP address or range",
        "127.0.0.1": "is already in the list",
        "0.0.0.0": "unspecified",
        "224.0.0.1": "multicast",
        "0.0.0.0/0": "a large part of the internet",
        "203.0.113.7/24": "Did you mean 203.0.113.7, or the range 203.0.113.0/24?",
    }.items():
        field.fill(typed)
        alice.button("Add an IP (2/10)").click()
        expect(page.locator("#ips-form .error")).to_contain_text(why)
        expect(field).to_have_value(typed)
        expect(field).to_be_focused()
        expect(page.get_by_label("Label")).to_have_value("Our office")

    field.fill("203.0.113.0/28")
    page.get_by_label("Expires").select_option(label="In 8 hours")
    alice.button("Add an IP (2/10)").click()
    expect(page.get_by_role("row", name="203.0.113.0/28")).to_contain_text("Our office")
    field.fill("2001:db8::/64")
    alice.button("Add an IP (3/10)").click()
    expect(page.get_by_role("row", name="2001:db8::/64")).to_contain_text("Never")
    field.fill("2001:db8::7")
    alice.button("Add an IP (4/10)").click()
    expect(page.locator("#ips-form .error")).to_contain_text("is already covered by 2001:db8::/64")


def test_the_badge_says_when_the_server_has_taken_a_change(alice: BrowserTab, server: RunningServer) -> None:
    alice.page.goto(OPTIONS.format("smpp-acme-1"))
    smsc = find_child_pids(server.process.pid)["smsc"]
    os.kill(smsc, signal.SIGSTOP)
    try:
        with without_reload(alice.page):
            alice.page.get_by_label("IP address or range").fill("203.0.113.7")
            alice.button("Add an IP (2/10)").click()
            alice.expect_account_status("Updating")
            expect(alice.button("Generate a new password")).to_be_disabled()
            os.kill(smsc, signal.SIGCONT)
            alice.expect_account_status("OK")
            expect(alice.button("Generate a new password")).to_be_enabled()
    finally:
        os.kill(smsc, signal.SIGCONT)


def test_a_new_password_is_asked_about_mailed_and_shown_once(
    serve: Callable[..., RunningServer], open_tab: Callable[..., BrowserTab], mailbox: Mailbox, cast: Cast
) -> None:
    server = serve(PORTAL_MAIL_URL=mailbox.url)
    account = cast.smpp_acme_1
    alice = open_tab(server)
    alice.open_as(cast.alice, f"/accounts/{account.name}")

    with bound(server, account) as client:
        alice.button("Generate a new password").click()
        expect(alice.dialog).to_contain_text("The password of smpp-acme-1 is about to change.")
        expect(alice.dialog).to_contain_text(re.compile(r"m\S*…?\S*@acme\.example"))
        expect(alice.dialog).not_to_contain_text("marta@acme.example")
        alice.dialog.get_by_role("link", name="Exit").click()
        expect(alice.dialog).to_have_count(0)
        assert client.send_text("Still good")

        alice.button("Generate a new password").click()
        alice.dialog.get_by_role("button", name="Send").click()
        expect(alice.dialog).to_contain_text("Your new password")
        password = alice.dialog.locator("code").inner_text()
        alice.dialog.get_by_role("button", name="Copy").click()
        expect(alice.dialog.get_by_role("button", name="Copied")).to_be_visible()
        client.wait_for_unbind()

    assert try_bind(server, account) == consts.SMPP_ESME_RINVPASWD
    assert try_bind(server, account, password=password) == consts.SMPP_ESME_ROK
    mail = mailbox.wait_for_mail()
    assert mail["To"] == "marta@acme.example"
    body = mail.get_body(("plain",))
    assert body is not None
    assert password in body.get_content()
    alice.dialog.get_by_role("link", name="Done").click()
    expect(alice.page.locator("#dialog")).to_be_empty()
    assert password not in alice.page.content()
    alice.page.reload()
    assert password not in alice.page.content()
    alice.page.goto(OPTIONS.format(account.name))
    assert alice.read_clipboard("IP address or range") == password


def test_the_old_password_stays_good_for_the_grace_that_was_chosen(
    alice: BrowserTab, server: RunningServer, cast: Cast
) -> None:
    account = cast.smpp_acme_1
    alice.page.goto(f"/accounts/{account.name}")
    with bound(server, account) as client:
        alice.button("Generate a new password").click()
        alice.dialog.get_by_label("stays good for 15 minutes").check()
        alice.dialog.get_by_role("button", name="Send").click()
        expect(alice.dialog).to_contain_text("The old one stays good for 15 minutes.")
        alice.dialog.get_by_role("link", name="Done").click()
        alice.expect_text("1 of them still uses the old password.")
        assert client.send_text("Still good")
    expect(alice.tile("Service status")).to_contain_text("No client is connected")
    assert try_bind(server, account) == consts.SMPP_ESME_ROK


def test_messages_show_on_open_pages_as_they_pass(
    alice: BrowserTab, open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    account = cast.smpp_acme_1
    home, history = alice, BrowserTab(alice.page.context.new_page(), server)
    home.page.goto(f"/accounts/{account.name}")
    history.page.goto(f"/accounts/{account.name}/history")
    with without_reload(home.page), without_reload(history.page), bound(server, account) as client:
        ids = client.send_text("Hello 😀") + client.send_text("A text of three parts. " * 16)
        assert len(ids) == 4
        expect(home.page.locator("#account-balance")).to_have_text("996 credits")
        for message_id in ids:
            assert client.wait_for_receipt(message_id).message_state == consts.SMPP_MESSAGE_STATE_DELIVERED
        rows = history.page.get_by_role("table", name="Sent messages").get_by_role("row")
        expect(rows).to_have_count(1 + 2)
        expect(rows.nth(1)).to_contain_text("A text of three parts. " * 3)
        expect(rows.nth(2)).to_contain_text("Hello 😀")
        for number in (1, 2):
            expect(rows.nth(number)).to_contain_text("Delivered")
        expect(home.tile("Statistics")).to_contain_text(re.compile(r"sent\s*4\D+delivered"))
    assert history.browser_errors == []


def test_removing_its_address_ends_a_client_and_undo_lets_it_return(
    alice: BrowserTab, server: RunningServer, cast: Cast
) -> None:
    account = cast.smpp_acme_1
    alice.page.goto(OPTIONS.format(account.name))
    with bound(server, account) as client, without_reload(alice.page):
        alice.button("Delete 127.0.0.1").click()
        expect(alice.dialog).to_contain_text("Clients can no longer connect from 127.0.0.1.")
        expect(alice.dialog).to_contain_text("1 session from there is closed at once.")
        alice.dialog.get_by_role("link", name="Exit").click()
        expect(alice.page.get_by_role("row", name="127.0.0.1")).to_be_visible()

        alice.button("Delete 127.0.0.1").click()
        alice.dialog.get_by_role("button", name="Delete 127.0.0.1").click()
        client.wait_for_unbind()
        alice.expect_toast("127.0.0.1 was removed.")
        expect(alice.page.get_by_role("row", name="127.0.0.1")).to_have_count(0)
        assert try_bind(server, account) == consts.SMPP_ESME_RINVPASWD

        alice.button("Undo").click()
        expect(alice.page.get_by_role("row", name="127.0.0.1")).to_be_visible()
        alice.expect_account_status("OK")
        assert try_bind(server, account) == consts.SMPP_ESME_ROK


def test_disabling_the_account_ends_its_clients_until_it_is_enabled(
    alice: BrowserTab, open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    account = cast.smpp_acme_1
    alice.page.goto(f"/accounts/{account.name}")
    olga = open_tab(server)
    olga.open_as(cast.olga, f"/admin/accounts/{account.name}")
    with bound(server, account) as client, without_reload(alice.page):
        olga.button(f"Disable {account.name}").click()
        olga.dialog.get_by_role("button", name=f"Disable {account.name}").click()
        client.wait_for_unbind()
        assert try_bind(server, account) == consts.SMPP_ESME_RBINDFAIL
        alice.expect_account_status("Disabled")

        olga.button(f"Enable {account.name}").click()
        alice.expect_account_status("OK")
    assert try_bind(server, account) == consts.SMPP_ESME_ROK


def test_the_language_is_remembered_with_the_user(
    alice: BrowserTab, open_tab: Callable[..., BrowserTab], cast: Cast
) -> None:
    alice.page.get_by_role("button", name="Italiano").click()
    expect(alice.page.locator("html")).to_have_attribute("lang", "it")
    elsewhere = open_tab(alice.server)
    elsewhere.log_in(cast.alice, step=1)
    expect(elsewhere.page.locator("html")).to_have_attribute("lang", "it")
    elsewhere.page.goto("/accounts/smpp-acme-1")
    expect(elsewhere.tile("Informazioni generali")).to_be_visible()
