"""Moving credits in the dialog, which shows both balances while the amount is typed, and without JavaScript."""

import re
from collections.abc import Callable

from playwright.sync_api import expect

from tests.e2e.browsing import BrowserTab
from tests.support import Cast, RunningServer

CREDITS = "/accounts/smpp-acme-1/credits"


def test_both_balances_follow_what_is_typed(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    alice = open_tab(server)
    alice.open_as(cast.alice, CREDITS)
    alice.page.get_by_role("link", name="Transfer credits").click()
    dialog = alice.dialog
    amount = dialog.get_by_label("Credits", exact=True)
    expect(dialog).to_contain_text("1,000 now")

    amount.press_sequentially("99.5")
    expect(dialog).to_contain_text("900.5 afterwards")
    expect(dialog).to_contain_text("199.5 afterwards")
    # Nothing was taken away from under the fingers.
    expect(amount).to_be_focused()
    expect(amount).to_have_value("99.5")
    dialog.get_by_label("To").select_option("sms-acme-1")
    expect(dialog).to_contain_text("149.5 afterwards")
    amount.fill("1,5")
    expect(dialog).to_contain_text("Write 15 or 1.5.")
    expect(dialog).not_to_contain_text("afterwards")

    dialog.get_by_role("button", name="Max").click()
    expect(amount).to_have_value("1,000")
    expect(amount).to_be_focused()
    expect(dialog).to_contain_text("1,050 afterwards")
    amount.press("Enter")
    alice.expect_toast("1,000 credits moved to sms-acme-1.")
    expect(alice.page.locator("#account-balance")).to_have_text(re.compile(r"^0\s+credits"))


def test_the_same_without_javascript(open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast) -> None:
    alice = open_tab(server, java_script_enabled=False)
    page = alice.page
    alice.open_as(cast.alice, CREDITS)
    page.get_by_role("link", name="Transfer credits").click()
    page.get_by_label("To").select_option("sms-acme-1")
    page.get_by_role("button", name="Max").click()
    amount = page.get_by_label("Credits", exact=True)
    expect(amount).to_have_value("1,000")
    expect(page.get_by_label("To")).to_have_value("sms-acme-1")
    amount.fill("40")
    page.get_by_role("button", name="Show the balances afterwards").click()
    alice.expect_text("960 afterwards")
    alice.expect_text("90 afterwards")
    amount.press("Enter")
    alice.expect_toast("40 credits moved to sms-acme-1.")
