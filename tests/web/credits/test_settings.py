"""Alert and automatic re-credit as customers see and set them, the banner, the forecast, and the operator's side."""

import re
from collections.abc import Callable

import pytest

from portal.core import db
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit, orders, packs
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import alerts, credits
from portal.services.messages import intake
from portal.services.people import customers
from tests.services.audit_log import list_audit_entries
from tests.support import Cast, Person, prepare_submit
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
K = credit_amounts.THOUSANDTHS
HOME = "/accounts/smpp-acme-1"
SETTINGS = f"{HOME}/credits/settings"
ALERT, RECREDIT = f"{SETTINGS}/alert", f"{SETTINGS}/recredit"
RULE = {"recredit-below": "950", "recredit-pack": "100000", "recredit-per_day": "3"}


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


@pytest.fixture
def account(conn: db.Connection) -> Callable[[], Account]:
    """smpp-acme-1 as it is now."""
    return lambda: accounts.get_account(conn, "smpp-acme-1")


@pytest.fixture
def allow(conn: db.Connection, cast: Cast) -> Callable[..., None]:
    """What the operator allows Acme."""

    def allow(line: int, min_age_days: int = 0) -> None:
        customer = customers.get_customer_by_id(conn, cast.acme)
        customers.change_customer(conn, SHELL, customer, credit_line=line * K, min_age_days=min_age_days)

    return allow


def get_state_text(browser: Browser, part: str) -> str:
    """The text of one part of the settings page."""
    page = browser.get(SETTINGS).text
    return extract_text(re.split(rf'id="{part}-state"[^>]*>', page)[1].split("<form")[0].split("</section")[0])


# --- the alert


def test_without_a_rule(alice: Browser) -> None:
    page = alice.get(SETTINGS).text
    assert "No mail goes out when the credits run low." in extract_text(page)
    assert "Nothing is bought automatically." in extract_text(page)
    assert get_field_value(page, "alert-below") == ""


@pytest.mark.parametrize("htmx", [False, "alert"])
def test_an_alert_is_set_and_told_in_words(alice: Browser, account: Callable[[], Account], htmx: bool | str) -> None:
    filled = {"alert-below": "1,250.5", "alert-to": "ops@acme.example, night@acme.example"}
    answer = alice.post(ALERT, data=filled, htmx=htmx)
    assert (answer.status_code, answer.location) == ((200, None) if htmx else (303, SETTINGS))
    text = answer.text if htmx else alice.get(SETTINGS).text
    assert "The alert was set." in extract_text(text)
    sentence = "When the balance falls below 1,250.5 credits, a mail goes to ops@acme.example, night@acme.example."
    assert sentence in extract_text(text)
    assert get_field_value(text, "alert-below") == "1,250.5"
    assert account().alert_below == 1_250_500
    assert account().alert_to == ("ops@acme.example", "night@acme.example")


def test_without_addresses_it_goes_to_the_contact_address(alice: Browser) -> None:
    alice.post(ALERT, data={"alert-below": "100", "alert-to": " "})
    assert "a mail goes to the contact address, m•••a@acme.example." in get_state_text(alice, "alert")


@pytest.mark.parametrize("below", ["", " ", "0"])
def test_without_a_threshold_there_is_none(alice: Browser, account: Callable[[], Account], below: str) -> None:
    alice.post(ALERT, data={"alert-below": "100", "alert-to": ""})
    alice.post(ALERT, data={"alert-below": below, "alert-to": "ops@acme.example"})
    assert "The alert was switched off." in extract_text(alice.get(SETTINGS).text)
    assert (account().alert_below, account().alert_to) == (None, ())


@pytest.mark.parametrize("htmx", [False, "alert"])
@pytest.mark.parametrize(
    ("filled", "sentence", "field"),
    [
        ({"alert-below": "much"}, "“much” isn't an amount of credits.", "alert-below"),
        ({"alert-below": "-5"}, "“-5” isn't an amount of credits.", "alert-below"),
        ({"alert-below": "5", "alert-to": "nobody"}, "“nobody” isn't an e-mail address.", "alert-to"),
        ({"alert-below": "5", "alert-to": acting.SCRIPT_INJECTION}, "isn't an e-mail address.", "alert-to"),
        ({"alert-below": "5", "alert-to": "a@b.c,b@b.c,c@b.c,d@b.c,e@b.c,f@b.c"}, "at most 5 addresses", "alert-to"),
    ],
)
def test_an_alert_that_is_refused(
    alice: Browser,
    account: Callable[[], Account],
    filled: dict[str, str],
    sentence: str,
    field: str,
    htmx: bool | str,
) -> None:
    answer = alice.post(ALERT, data=filled, htmx=htmx)
    assert answer.status_code == 422
    assert sentence in extract_text(answer.text)
    assert f'id="{field}-error"' in answer.text
    assert get_field_value(answer.text, "alert-below") == filled["alert-below"]
    assert acting.SCRIPT_INJECTION not in answer.text
    assert account().alert_below is None


# --- automatic re-credit


@pytest.mark.parametrize("htmx", [False, "recredit"])
def test_a_rule_is_set_and_told_in_words(
    alice: Browser, account: Callable[[], Account], allow: Callable[..., None], htmx: bool | str
) -> None:
    allow(1000)
    answer = alice.post(RECREDIT, data=RULE, htmx=htmx)
    assert (answer.status_code, answer.location) == ((200, None) if htmx else (303, SETTINGS))
    text = answer.text if htmx else alice.get(SETTINGS).text
    assert "Automatic re-credit was set." in extract_text(text)
    assert "When a message takes the balance below 950 credits, 100 credits are bought for €7.00." in extract_text(text)
    assert "Today (UTC) 0 of at most 3 packs were bought." in extract_text(text)
    assert '<option selected value="100000">100 credits · €7.00</option>' in text
    assert (account().recredit_below, account().recredit_pack, account().recredit_per_day) == (950 * K, 100 * K, 3)


def test_it_is_switched_off(alice: Browser, account: Callable[[], Account]) -> None:
    alice.post(RECREDIT, data=RULE)
    alice.post(RECREDIT, data={**RULE, "recredit-below": ""})
    assert "Automatic re-credit was switched off." in extract_text(alice.get(SETTINGS).text)
    assert account().recredit_below is None


@pytest.mark.parametrize("htmx", [False, "recredit"])
@pytest.mark.parametrize(
    ("changed", "sentence", "field"),
    [
        ({"recredit-below": "much"}, "“much” isn't an amount of credits.", "below"),
        ({"recredit-pack": ""}, "Choose the pack to buy.", "pack"),
        ({"recredit-pack": "300000"}, "There is no such pack.", "pack"),
        ({"recredit-pack": "x"}, "Choose the pack to buy.", "pack"),
        ({"recredit-pack": "9" * 18}, "There is no such pack.", "pack"),
        ({"recredit-pack": "9" * 5000}, "Choose the pack to buy.", "pack"),
        ({"recredit-per_day": "11"}, "it is a whole number from 1 to 10.", "per_day"),
        ({"recredit-per_day": "often"}, "“often” can't be how many packs a day", "per_day"),
    ],
)
def test_a_rule_that_is_refused(
    alice: Browser,
    account: Callable[[], Account],
    changed: dict[str, str],
    sentence: str,
    field: str,
    htmx: bool | str,
) -> None:
    answer = alice.post(RECREDIT, data=RULE | changed, htmx=htmx)
    assert answer.status_code == 422
    assert sentence in extract_text(answer.text)
    assert f'id="recredit-{field}-error"' in answer.text
    assert get_field_value(answer.text, "recredit-below") == (RULE | changed)["recredit-below"]
    assert account().recredit_below is None


def test_why_a_pack_does_not_arrive_at_once(alice: Browser, conn: db.Connection, allow: Callable[..., None]) -> None:
    alice.post(RECREDIT, data=RULE)
    text = get_state_text(alice, "recredit")
    assert "100 credits for €7.00 are requested from the operator." in text
    assert "The operator has opened no credit line for you" in text
    allow(50)
    text = get_state_text(alice, "recredit")
    assert "Of your credit line of 50 credits, 0 are not paid yet." in text
    assert "A pack doesn’t fit into what is left, so it is requested instead." in text
    allow(500, 60)
    text = get_state_text(alice, "recredit")
    assert "Packs arrive at once for accounts that are 60 days old: this one from" in text
    assert "requested from the operator" in text
    allow(500)
    text = get_state_text(alice, "recredit")
    assert "They arrive at once, before the message is charged." in text
    assert "requested" not in text


def test_what_was_bought_and_what_is_owed(alice: Browser, conn: db.Connection, allow: Callable[..., None]) -> None:
    allow(500)
    alice.post(RECREDIT, data=RULE)
    acting.send_texts(conn, "smpp-acme-1", *["hello"] * 51)
    text = get_state_text(alice, "recredit")
    assert "Today (UTC) 1 of at most 3 packs were bought." in text
    assert "Of your credit line of 500 credits, 100 are not paid yet." in text


def test_a_request_and_what_became_of_it(alice: Browser, conn: db.Connection) -> None:
    alice.post(RECREDIT, data=RULE)
    acting.send_texts(conn, "smpp-acme-1", *["hello"] * 51)
    found = auto_recredit.get_recredit_status(conn, acting.get_account(conn, "smpp-acme-1").id)
    assert found.open_order_id is not None
    order = orders.get_order_by_id(conn, found.open_order_id)
    assert f"Order {order.number} waits for the operator." in get_state_text(alice, "recredit")
    orders.cancel_order(conn, SHELL, order)
    assert "The operator has declined the last request" in get_state_text(alice, "recredit")


def test_a_balance_that_is_below_already(alice: Browser) -> None:
    alice.post(RECREDIT, data=RULE | {"recredit-below": "1000"})
    assert "already" not in get_state_text(alice, "recredit")
    alice.post(RECREDIT, data=RULE | {"recredit-below": "1000.5"})
    assert "The balance is below that already: the next message does it." in get_state_text(alice, "recredit")


def test_a_pack_that_is_not_sold_any_more(alice: Browser, conn: db.Connection) -> None:
    alice.post(RECREDIT, data=RULE)
    conn.execute("DELETE FROM packs WHERE credits = 100000")
    assert "Nothing is bought: packs of 100 credits are not sold any more." in get_state_text(alice, "recredit")
    assert "100 credits ·" not in alice.get(SETTINGS).text


def test_the_page_follows_what_happens(alice: Browser, conn: db.Connection, allow: Callable[..., None]) -> None:
    allow(500)
    alice.post(RECREDIT, data=RULE)
    seen = re.findall(r"seen=([^\"]+)", alice.get(SETTINGS).text)[0]
    address = f"{HOME}/live?page=credit-settings&seen={seen}"
    assert alice.get(address, htmx=True).status_code == 204
    allow(0)
    answer = alice.get(address, htmx=True).text
    assert "The operator has opened no credit line for you" in extract_text(answer)
    assert "No mail goes out" not in extract_text(answer)


# --- the banner


def test_nothing_is_said_of_a_balance_that_does(alice: Browser, conn: db.Connection) -> None:
    alerts.set_alert_rule(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), 1000 * K)
    assert "The balance is below" not in extract_text(alice.get(HOME).text)


@pytest.mark.parametrize("page", ["", "/options/smpp", "/senders", "/credits", "/credits/settings", "/history"])
def test_a_balance_that_is_low_stands_over_the_pages(alice: Browser, conn: db.Connection, page: str) -> None:
    alerts.set_alert_rule(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), 1001 * K)
    text = alice.get(HOME + page).text
    assert "The balance is below 1,001 credits." in extract_text(text)
    assert f'href="{HOME}/credits/buy"' in text.split('id="shortage"')[1]


@pytest.mark.slow
def test_a_message_that_was_refused_stands_there_until_credits_come(alice: Browser, conn: db.Connection) -> None:
    account = acting.get_account(conn, "smpp-acme-1")
    seen = re.findall(r"seen=([^\"]+)", alice.get(HOME).text)[0]
    intake.store_messages(conn, [prepare_submit(conn, account.id)] * 1001)
    answer = alice.get(f"{HOME}/live?page=home&seen={seen}", htmx=True).text
    sentence = "The last message was refused: the 0 credits left don’t cover it."
    assert sentence in extract_text(answer)
    assert sentence in extract_text(alice.get(HOME).text)
    credits.grant_credits(conn, SHELL, account, K)
    assert sentence not in extract_text(alice.get(HOME).text)


def test_messages_do_not_move_a_banner_that_stays(alice: Browser, conn: db.Connection) -> None:
    alerts.set_alert_rule(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), 1001 * K)
    seen = re.findall(r"seen=([^\"]+)", alice.get(HOME).text)[0]
    acting.send_texts(conn, "smpp-acme-1", "hello")
    answer = alice.get(f"{HOME}/live?page=home&seen={seen}", htmx=True)
    assert answer.status_code == 200
    assert 'id="shortage"' not in answer.text


def test_a_viewer_reads_it_without_buttons(client: Client, cast: Cast, conn: db.Connection) -> None:
    alerts.set_alert_rule(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), 1001 * K)
    text = client(cast.bob).get(HOME).text.split('id="shortage"')[1]
    assert "The balance is below 1,001 credits." in extract_text(text)
    assert "credits/buy" not in text


# --- the forecast


def test_the_credits_page_says_how_long_they_last(alice: Browser, conn: db.Connection) -> None:
    assert "No messages in the last 7 days." in extract_text(alice.get(f"{HOME}/credits").text)
    acting.send_texts(conn, "smpp-acme-1", *["hello"] * 10)
    assert "At the rate of the last 7 days, the credits last for about 99 days" in extract_text(
        alice.get(f"{HOME}/credits").text
    )


# --- who may


def test_a_viewer_reads_the_rules_and_changes_none(client: Client, cast: Cast, account: Callable[[], Account]) -> None:
    bob = client(cast.bob)
    page = bob.get(SETTINGS).text
    assert "Nothing is bought automatically." in extract_text(page)
    assert "<textarea" not in page
    assert "alert-below" not in page
    assert bob.post(ALERT, data={"alert-below": "1"}).status_code == 403
    assert bob.post(RECREDIT, data=RULE).status_code == 403
    assert (account().alert_below, account().recredit_below) == (None, None)


def test_another_customer_finds_nothing(client: Client, cast: Cast, account: Callable[[], Account]) -> None:
    charlie = client(cast.charlie)
    assert charlie.get(SETTINGS).status_code == 404
    assert charlie.post(ALERT, data={"alert-below": "1"}).status_code == 404
    assert charlie.post(RECREDIT, data=RULE).status_code == 404
    assert (account().alert_below, account().recredit_below) == (None, None)


def test_it_is_written_down_who_did_it(alice: Browser, cast: Cast, conn: db.Connection) -> None:
    alice.post(ALERT, data={"alert-below": "100"})
    alice.post(RECREDIT, data=RULE)
    entries = list_audit_entries(conn, cast.smpp_acme_1.id)[:2]
    assert [(each.actor, each.action) for each in entries] == [
        (cast.alice.email, "recredit.set"),
        (cast.alice.email, "alert.set"),
    ]


# --- the operator's side


def test_the_operator_sees_what_is_owed(
    olga: Browser, cast: Cast, conn: db.Connection, allow: Callable[..., None]
) -> None:
    page = f"/admin/customers/{cast.acme}"
    assert "Not paid yet 0 credits" in extract_text(olga.get(page).text)
    assert "asks you for each pack" in extract_text(olga.get(page).text)
    allow(500, 30)
    assert "Not paid yet 0 of 500 credits" in extract_text(olga.get(page).text)
    assert "at once, for accounts that are 30 days old" in extract_text(olga.get(page).text)
    allow(500)
    assert "at once" in extract_text(olga.get(page).text)
    assert "days old" not in extract_text(olga.get(page).text)
    account = acting.get_account(conn, "smpp-acme-1")
    auto_recredit.set_recredit_rule(conn, SHELL, account, 950 * K, 100 * K, 3)
    acting.send_texts(conn, "smpp-acme-1", *["hello"] * 51)
    orders.place_order(conn, SHELL, account, packs.get_pack(conn, 200 * K))
    assert "Not paid yet 100 of 500 credits" in extract_text(olga.get(page).text)
    allow(50)
    assert "Not paid yet 100 of 50 credits More than the credit line." in extract_text(olga.get(page).text)


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_the_operator_sets_line_and_age(olga: Browser, cast: Cast, conn: db.Connection, htmx: bool | str) -> None:
    address = f"/admin/customers/{cast.acme}/credit-line"
    page = olga.get(address, htmx=htmx).text
    assert (get_field_value(page, "credit_line"), get_field_value(page, "min_age")) == ("0", "60")
    answer = olga.post(address, data={"credit_line": "1,500", "min_age": "30"}, htmx=htmx)
    assert answer.status_code == (204 if htmx else 303)
    assert "The credit line of Acme was changed." in extract_text(olga.get(f"/admin/customers/{cast.acme}").text)
    found = customers.get_customer_by_id(conn, cast.acme)
    assert (found.credit_line, found.recredit_min_age_days) == (1500 * K, 30)
    assert get_field_value(olga.get(address).text, "credit_line") == "1,500"


@pytest.mark.parametrize("htmx", [False, "dialog"])
@pytest.mark.parametrize(
    ("filled", "sentence", "field"),
    [
        ({"credit_line": "much", "min_age": "1"}, "“much” can't be a credit line", "credit_line"),
        ({"credit_line": "-1", "min_age": "1"}, "“-1” can't be a credit line", "credit_line"),
        ({"credit_line": "1", "min_age": "-1"}, "“-1” can't be an account's age", "min_age"),
        ({"credit_line": "1", "min_age": "old"}, "“old” can't be an account's age", "min_age"),
    ],
)
def test_what_no_operator_means_is_refused(
    olga: Browser,
    cast: Cast,
    conn: db.Connection,
    filled: dict[str, str],
    sentence: str,
    field: str,
    htmx: bool | str,
) -> None:
    answer = olga.post(f"/admin/customers/{cast.acme}/credit-line", data=filled, htmx=htmx)
    assert answer.status_code == 422
    assert sentence in extract_text(answer.text)
    assert f'id="{field}-error"' in answer.text
    assert get_field_value(answer.text, "credit_line") == filled["credit_line"]
    assert customers.get_customer_by_id(conn, cast.acme).credit_line == 0


def test_nobody_else_sets_it(alice: Browser, olga: Browser, cast: Cast, conn: db.Connection) -> None:
    address = f"/admin/customers/{cast.acme}/credit-line"
    assert alice.get(address).status_code == 404
    assert alice.post(address, data={"credit_line": "1000", "min_age": "0"}).status_code == 404
    assert customers.get_customer_by_id(conn, cast.acme).credit_line == 0
    assert olga.get("/admin/customers/999/credit-line").status_code == 404
