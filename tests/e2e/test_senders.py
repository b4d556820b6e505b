"""Senders, from the wish for one to the message that carries it: customer, operator and client, each at work."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from smpplib import consts

from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.senders import senders
from tests.documents import JPEG, PDF, create_png
from tests.e2e.browsing import BrowserTab
from tests.smpplib_esme import SmpplibEsme
from tests.support import Cast, RunningServer

SENDERS = "/accounts/smpp-acme-1/senders"
REFUSED = consts.SMPP_ESME_RINVSRCADR
OK = consts.SMPP_ESME_ROK


@pytest.fixture
def alice(open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast) -> BrowserTab:
    tab = open_tab(server)
    tab.open_as(cast.alice, SENDERS)
    return tab


@contextmanager
def bound(server: RunningServer, cast: Cast) -> Iterator[SmpplibEsme]:
    with SmpplibEsme(server.port) as esme:
        assert esme.bind(cast.smpp_acme_1) == OK
        yield esme


@contextmanager
def without_reload(page: Page) -> Iterator[None]:
    page.evaluate("window.sameAsBefore = true")
    yield
    assert page.evaluate("window.sameAsBefore"), "the page was loaded again"


def paper(content: bytes, name: str = "paper.pdf") -> Any:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def ask(alice: BrowserTab, sender: str, content: bytes | None = PDF) -> None:
    """Fill the form in and send it."""
    alice.page.get_by_label("Sender", exact=True).fill(sender)
    alice.page.get_by_label("Description").fill("A web site")
    alice.page.get_by_label("What it is for").fill("Order confirmations")
    if content is not None:
        alice.page.get_by_label("Supporting document").set_input_files([paper(content)])
    alice.button("Add a sender").click()


def has_confirmed(alice: BrowserTab) -> None:
    """The page says so once the SMPP server works by the change."""
    alice.expect_account_status("OK")


def test_a_sender_is_asked_for_with_a_document_approved_and_used(
    alice: BrowserTab, open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast, tmp_path: Path
) -> None:
    with bound(server, cast) as client, without_reload(alice.page):
        ask(alice, "GL0BEX SHOP", b"MZ no document")
        expect(alice.page.locator("#document-error")).to_contain_text("This file isn't a PDF, PNG or JPEG")
        expect(alice.page.get_by_label("Description")).to_have_value("A web site")
        ask(alice, "Glob ex", JPEG)
        alice.expect_toast("Glob ex was added.")
        row = alice.page.get_by_role("row", name="Glob ex")
        expect(row).to_contain_text("Waiting for a decision")
        has_confirmed(alice)
        assert client.submit(b"x", source="Glob ex").status == REFUSED

        olga = open_tab(server)
        olga.open_as(cast.olga)
        olga.expect_text("1 sender waits for your decision.")
        olga.button("Decide").click()
        request = olga.tile("Glob ex")
        expect(request).to_contain_text("Looks like GLOBEX of Globex (smpp-globex-1)")
        expect(request).to_contain_text("Order confirmations")
        with olga.page.expect_download() as download:
            request.get_by_role("link", name="Document (JPEG)").click()
        download.value.save_as(tmp_path / "document")
        assert (tmp_path / "document").read_bytes() == JPEG
        assert download.value.suggested_filename.endswith(".jpeg")
        with without_reload(olga.page):
            request.get_by_label("Comment").fill("By your licence of 2019")
            request.get_by_role("button", name="Approve Glob ex").click()
            olga.expect_toast("Glob ex was approved.")
            expect(request).to_contain_text("Enabled")
            olga.expect_text("No sender waits for a decision.")

        expect(row).to_contain_text("Enabled")
        expect(row).to_contain_text("By your licence of 2019")
        has_confirmed(alice)
        assert client.submit(b"x", source="Glob ex").status == OK


def test_a_sender_is_switched_off_and_on_while_a_client_sends(
    alice: BrowserTab, server: RunningServer, cast: Cast
) -> None:
    row = alice.page.get_by_role("row", name="ACME")
    with bound(server, cast) as client, without_reload(alice.page):
        assert client.submit(b"x").status == OK
        alice.button("Disable ACME").click()
        alice.expect_toast("ACME was disabled. Messages from it are refused.")
        expect(row).to_contain_text("Disabled")
        has_confirmed(alice)
        assert client.submit(b"x").status == REFUSED
        alice.button("Undo").click()
        alice.expect_toast("ACME was enabled.")
        expect(row).to_contain_text("Enabled")
        has_confirmed(alice)
        assert client.submit(b"x").status == OK


def test_several_are_removed_at_once_and_come_back(alice: BrowserTab, server: RunningServer, cast: Cast) -> None:
    for each in ("SHOP", "NEWS"):
        ask(alice, each, None)
        alice.expect_toast(f"{each} was added.")
    page = alice.page
    with bound(server, cast) as client, without_reload(page):
        alice.button("Delete the selected ones").click()
        expect(alice.dialog).to_contain_text("No sender was selected")
        page.keyboard.press("Escape")
        for each in ("ACME", "NEWS"):
            page.get_by_role("checkbox", name=each).check()
        # Something happens to the list meanwhile: what is selected stays selected.
        with server.connect() as conn:
            account = accounts.get_account(conn, "smpp-acme-1")
            senders.decide_sender(conn, SHELL, account, "SHOP", approve=False, comment="Say more.")
        expect(page.get_by_role("row", name="SHOP")).to_contain_text("Say more.")
        expect(page.get_by_role("checkbox", name="ACME")).to_be_checked()

        alice.button("Delete the selected ones").click()
        expect(alice.dialog).to_contain_text("Messages from NEWS, ACME are refused from now on.")
        alice.button("Delete them").click()
        alice.expect_toast("2 senders were removed.")
        expect(page.get_by_role("row", name="ACME")).to_have_count(0)
        has_confirmed(alice)
        assert client.submit(b"x").status == REFUSED
        alice.button("Undo").click()
        alice.expect_toast("2 senders are back in the list.")
        expect(page.get_by_role("row", name="ACME")).to_contain_text("Enabled")
        has_confirmed(alice)
        assert client.submit(b"x").status == OK


def test_the_order_is_in_the_address_and_the_way_back_leads_to_the_one_before(alice: BrowserTab) -> None:
    ask(alice, "SHOP", None)
    alice.expect_toast("SHOP was added.")
    page = alice.page
    rows = page.get_by_role("table", name="Senders").locator("tbody tr")
    expect(rows.first).to_contain_text("SHOP")
    page.get_by_role("columnheader", name="Sender").get_by_role("link").click()
    expect(page).to_have_url(re.compile(r"\?sort=sender$"))
    expect(page.get_by_role("columnheader", name="Sender")).to_have_attribute("aria-sort", "ascending")
    expect(rows.first).to_contain_text("ACME")
    page.go_back()
    expect(rows.first).to_contain_text("SHOP")


def test_a_file_that_is_too_large_is_not_even_sent(alice: BrowserTab) -> None:
    requests: list[str] = []
    alice.page.on("request", lambda request: requests.append(request.method))
    ask(alice, "SHOP", create_png(padding=5 * 1024 * 1024))
    field = alice.page.get_by_label("Supporting document")
    assert "too large" in field.evaluate("field => field.validationMessage")
    assert "POST" not in requests
    most = 5 * 1024 * 1024
    largest = create_png(padding=most - len(create_png()))
    assert len(largest) == most
    field.set_input_files([paper(largest)])
    alice.button("Add a sender").click()
    alice.expect_toast("SHOP was added.")
    expect(alice.page.get_by_role("link", name="Document (PNG)")).to_be_visible()


def test_all_of_it_without_javascript(open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast) -> None:
    alice, olga = (open_tab(server, java_script_enabled=False) for _ in range(2))
    alice.open_as(cast.alice, SENDERS)
    ask(alice, "SHOP", PDF[:-30])
    expect(alice.page.locator("#document-error")).to_be_visible()
    ask(alice, "SHOP")
    alice.expect_toast("SHOP was added.")

    olga.open_as(cast.olga)
    olga.button("Decide").click()
    olga.page.get_by_label("Comment").fill("Not yours")
    olga.button("Refuse SHOP").click()
    olga.expect_toast("SHOP was refused.")
    olga.page.get_by_role("link", name="SHOP").click()
    olga.button("Approve SHOP").click()
    olga.expect_toast("SHOP was approved.")

    alice.page.goto(f"{SENDERS}?sort=sender")
    alice.button("Disable SHOP").click()
    expect(alice.page.get_by_role("row", name="SHOP")).to_contain_text("Disabled")
    alice.button("Undo").click()
    expect(alice.page.get_by_role("row", name="SHOP")).to_contain_text("Enabled")
    alice.page.get_by_role("checkbox", name="SHOP").check()
    alice.page.get_by_role("checkbox", name="ACME").check()
    alice.button("Delete the selected ones").click()
    alice.button("Delete them").click()
    alice.expect_toast("2 senders were removed.")
    expect(alice.page).to_have_url(re.compile(r"\?sort=sender$"))
    alice.expect_text("No sender yet")
    alice.button("Undo").click()
    expect(alice.page.get_by_role("row", name="SHOP")).to_be_visible()
