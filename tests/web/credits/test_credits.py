"""An account's balance, its movements, and moving credits to another account."""

from collections.abc import Callable

import pytest

from portal.core import db
from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
CREDITS = "/accounts/smpp-acme-1/credits"
TRANSFER = f"{CREDITS}/transfer"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


def balances(conn: db.Connection) -> dict[str, int]:
    return {row["name"]: row["balance"] for row in conn.execute("SELECT name, balance FROM accounts")}


def form(page: str, **changed: str) -> dict[str, str]:
    values = {"source": "smpp-acme-1", "target": "smpp-acme-2", "amount": "100", "form": get_field_value(page, "form")}
    return values | changed


# --- the ledger


def test_the_balance_and_every_movement(alice: Browser, conn: db.Connection) -> None:
    acting.send_texts(conn, "smpp-acme-1", "one", "two")
    alice.post(TRANSFER, data=form(alice.get(TRANSFER).text))
    page_text = extract_text(alice.get(CREDITS).text)
    assert "credits left 898" in page_text
    assert "Transfer to smpp-acme-2 alice@acme.example -100 898" in page_text
    assert "2 messages sent automatic -2 998" in page_text
    assert "Granted operator +1,000 1,000" in page_text
    assert "Transfer from smpp-acme-1 alice@acme.example +100 200" in extract_text(
        alice.get("/accounts/smpp-acme-2/credits").text
    )


def test_paging_there_and_back(alice: Browser, conn: db.Connection) -> None:
    account = acting.get_account(conn, "smpp-acme-1")
    for number in range(1, 81):
        credits.grant_credits(conn, SHELL, account, number * 1000, note=f"note {number}.")
    pages = [alice.get(CREDITS).text]
    while 'rel="next"' in pages[-1]:
        query = pages[-1].split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
        pages.append(alice.get(CREDITS + query).text)
    assert [page.count(" operator +") for page in map(extract_text, pages)] == [25, 25, 25, 6]
    assert [f"note {number}." in pages[0] for number in (80, 56, 55)] == [True, True, False]
    assert [f"note {number}." in pages[1] for number in (56, 55, 31, 30)] == [False, True, True, False]
    back = pages[2].split('rel="prev"')[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
    again = alice.get(CREDITS + back).text
    assert [f"note {number}." in again for number in (56, 55, 31, 30)] == [False, True, True, False]
    # The way back ends with a whole first page.
    first = again.split('rel="prev"')[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
    assert extract_text(alice.get(CREDITS + first).text).count(" operator +") == 25


@pytest.mark.parametrize("query", ["?before=x", "?before=-1", "?after=99999999999999999999", "?before="])
def test_a_place_that_is_none_is_the_first_page(alice: Browser, query: str) -> None:
    assert "Granted" in alice.get(CREDITS + query).text


def test_a_note_is_text(alice: Browser, conn: db.Connection) -> None:
    credits.grant_credits(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), 1000, note=acting.SCRIPT_INJECTION)
    assert acting.SCRIPT_INJECTION not in alice.get(CREDITS).text


# --- transfer


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_the_form_offers_the_customer_s_accounts_and_no_others(alice: Browser, htmx: bool | str) -> None:
    page = alice.get(TRANSFER, htmx=htmx).text
    assert '<option selected value="smpp-acme-1">smpp-acme-1 · 1,000</option>' in page
    assert '<option value="sms-acme-1">sms-acme-1 · 50</option>' in page
    assert "globex" not in page


def test_credits_move_at_once(alice: Browser, conn: db.Connection) -> None:
    before = balances(conn)
    answer = alice.post(TRANSFER, data=form(alice.get(TRANSFER).text, amount="99.5", target="sms-acme-1"))
    assert (answer.status_code, answer.location) == (303, CREDITS)
    assert "99.5 credits moved to sms-acme-1." in extract_text(alice.get(CREDITS).text)
    moved = {"smpp-acme-1": before["smpp-acme-1"] - 99_500, "sms-acme-1": before["sms-acme-1"] + 99_500}
    assert balances(conn) == before | moved


def test_with_htmx_the_credits_page_follows(alice: Browser, conn: db.Connection) -> None:
    answer = alice.post(TRANSFER, data=form(alice.get(TRANSFER).text), htmx="dialog")
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (204, CREDITS)
    assert "100 credits moved to smpp-acme-2." in extract_text(alice.get(CREDITS).text)


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_the_same_form_sent_again_moves_nothing(alice: Browser, conn: db.Connection, htmx: bool | str) -> None:
    filled = form(alice.get(TRANSFER).text)
    alice.post(TRANSFER, data=filled, htmx=htmx)
    after = balances(conn)
    alice.get(CREDITS)
    alice.post(TRANSFER, data=filled, htmx=htmx)
    assert balances(conn) == after
    assert "It was not done a second time." in extract_text(alice.get(CREDITS).text)


@pytest.mark.parametrize("htmx", [False, "dialog"])
@pytest.mark.parametrize(
    ("changed", "sentence", "field"),
    [
        ({"amount": ""}, "“” isn't an amount of credits.", "amount"),
        ({"amount": "-5"}, "“-5” isn't an amount of credits.", "amount"),
        ({"amount": acting.SCRIPT_INJECTION}, "isn't an amount of credits.", "amount"),
        ({"amount": "1000.001"}, "smpp-acme-1 holds 1", "amount"),
        ({"target": "smpp-acme-1"}, "Source and target are the same account.", "target"),
        ({"target": "smpp-globex-1"}, "There is no account “smpp-globex-1”.", "target"),
        ({"source": "smpp-globex-1"}, "There is no account “smpp-globex-1”.", "source"),
        ({"target": ""}, "There is no account “”.", "target"),
    ],
)
def test_a_refusal_says_why_at_the_field_and_keeps_what_was_typed(
    alice: Browser, conn: db.Connection, changed: dict[str, str], sentence: str, field: str, htmx: bool | str
) -> None:
    before = balances(conn)
    filled = form(alice.get(TRANSFER).text, **changed)
    answer = alice.post(TRANSFER, data=filled, htmx=htmx)
    assert answer.status_code == 422
    assert sentence in extract_text(answer.text)
    assert f'id="{field}-error"' in answer.text
    assert get_field_value(answer.text, "amount") == filled["amount"]
    assert acting.SCRIPT_INJECTION not in answer.text
    assert balances(conn) == before
    # It has moved nothing, so it can be mended and sent.
    assert get_field_value(answer.text, "form") == filled["form"]
    mended = form(answer.text)
    assert alice.post(TRANSFER, data=mended).status_code == 303
    assert balances(conn) != before


# --- before it moves


def test_the_form_shows_both_balances_as_they_are(alice: Browser) -> None:
    assert "smpp-acme-1 1,000 now smpp-acme-2 100 now" in extract_text(alice.get(TRANSFER).text)


@pytest.mark.parametrize("htmx", [False, "dialog", "after"])
def test_looking_shows_both_balances_before_and_after_and_moves_nothing(
    alice: Browser, conn: db.Connection, htmx: bool | str
) -> None:
    before = balances(conn)
    filled = form(alice.get(TRANSFER).text, amount="99.5", do="look")
    answer = alice.post(TRANSFER, data=filled, htmx=htmx)
    assert answer.status_code == 200
    page_text = extract_text(answer.text)
    assert "smpp-acme-1 1,000 now 900.5 afterwards smpp-acme-2 100 now 199.5 afterwards" in page_text
    assert balances(conn) == before
    if not htmx:
        # The whole form, ready to be sent.
        assert get_field_value(answer.text, "amount") == "99.5"
        assert alice.post(TRANSFER, data=form(answer.text, amount="99.5")).status_code == 303
        assert balances(conn)["smpp-acme-2"] == 199_500


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ({"amount": "1000.5"}, "smpp-acme-1 holds 1,000 credits, which don't cover this."),
        ({"amount": "1,5"}, "“1,5” isn't how numbers are written in this language. Write 15 or 1.5."),
        ({"amount": "x"}, "“x” isn't an amount of credits."),
        ({"target": "smpp-acme-1"}, "Source and target are the same account."),
    ],
)
def test_looking_at_what_can_t_be_says_why(alice: Browser, typed: dict[str, str], sentence: str) -> None:
    answer = alice.post(TRANSFER, data=form(alice.get(TRANSFER).text, **typed, do="look"), htmx="after")
    # With another status the dialog would be drawn anew under what is being typed.
    assert answer.status_code == 200
    assert sentence in extract_text(answer.text)
    assert "afterwards" not in answer.text


@pytest.mark.parametrize("crafted", ["smpp-globex-1", "SMPP-GLOBEX-1", "nobody", ""])
def test_looking_tells_nothing_of_another_customer_s_account(alice: Browser, crafted: str) -> None:
    for side in ("source", "target"):
        typed = form(alice.get(TRANSFER).text, **{side: crafted}, do="look")
        answer = alice.post(TRANSFER, data=typed, htmx="after")
        assert answer.status_code == 200
        assert "globex" not in answer.text.lower()
        assert "500" not in answer.text


@pytest.mark.parametrize(("language", "written"), [("en", "1,234.5"), ("it", "1.234,5")])
def test_max_fills_in_all_that_the_source_holds(
    alice: Browser, conn: db.Connection, language: str, written: str
) -> None:
    credits.grant_credits(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), 234_500)
    before = balances(conn)
    headers = {"Accept-Language": language}
    filled = form(alice.get(TRANSFER, headers=headers).text, source="smpp-acme-1", target="sms-acme-1", amount="7")
    answer = alice.post(TRANSFER, data=filled | {"do": "max"}, headers=headers)
    assert answer.status_code == 200
    assert get_field_value(answer.text, "amount") == written
    assert balances(conn) == before
    sent = form(answer.text, target="sms-acme-1", amount=get_field_value(answer.text, "amount"))
    assert alice.post(TRANSFER, data=sent, headers=headers).status_code == 303
    assert balances(conn) == before | {"smpp-acme-1": 0, "sms-acme-1": 50_000 + 1_234_500}


def test_max_of_another_customer_s_account_is_nothing(alice: Browser) -> None:
    answer = alice.post(TRANSFER, data=form(alice.get(TRANSFER).text, source="smpp-globex-1", do="max"))
    assert get_field_value(answer.text, "amount") == ""
    assert "globex" not in answer.text


def test_the_enter_key_transfers(alice: Browser) -> None:
    # It presses the first button of the form, wherever that stands.
    inside = alice.get(TRANSFER).text.split('action="/accounts/smpp-acme-1/credits/transfer"')[1].split("</form>")[0]
    assert "name=" not in inside.split("<button")[1].split(">")[0]


# --- Italian


@pytest.mark.parametrize(("typed", "moved"), [("1,5", 1_500), ("0,001", 1), ("1.000", 1_000_000), ("99", 99_000)])
def test_amounts_are_read_as_italians_write_them(alice: Browser, conn: db.Connection, typed: str, moved: int) -> None:
    headers = {"Accept-Language": "it"}
    alice.post(TRANSFER, data=form(alice.get(TRANSFER).text, amount=typed), headers=headers)
    assert balances(conn)["smpp-acme-2"] == 100_000 + moved


def test_an_amount_that_could_be_two_is_asked_for_again(alice: Browser, conn: db.Connection) -> None:
    before = balances(conn)
    filled = form(alice.get(TRANSFER).text, amount="1.5")
    answer = alice.post(TRANSFER, data=filled, headers={"Accept-Language": "it"})
    assert answer.status_code == 422
    assert "“1.5” non è scritto come si scrivono i numeri in questa lingua. Scrivere 15 o 1,5." in extract_text(
        answer.text
    )
    assert balances(conn) == before


# --- disabled accounts


@pytest.mark.parametrize(("source", "target"), [("smpp-acme-1", "smpp-acme-2"), ("smpp-acme-2", "smpp-acme-1")])
def test_a_disabled_account_gives_and_takes_and_the_form_says_so(
    alice: Browser, conn: db.Connection, source: str, target: str
) -> None:
    accounts.disable_account(conn, SHELL, acting.get_account(conn, "smpp-acme-2"))
    before = balances(conn)
    page = alice.get(TRANSFER).text
    assert ">smpp-acme-2 · 100 · Disabled</option>" in page
    looked = alice.post(TRANSFER, data=form(page, source=source, target=target, amount="10", do="look"))
    assert extract_text(looked.text).count("This account is disabled") == 1
    assert alice.post(TRANSFER, data=form(page, source=source, target=target, amount="10")).status_code == 303
    assert balances(conn) == before | {source: before[source] - 10_000, target: before[target] + 10_000}


def test_who_has_one_account_only_has_nowhere_to_move_them(client: Client, cast: Cast) -> None:
    page_text = extract_text(client(cast.charlie).get("/accounts/smpp-globex-1/credits/transfer").text)
    assert "There is no other account to move credits to." in page_text


def test_an_operator_moves_them_for_the_customer(client: Client, cast: Cast, conn: db.Connection) -> None:
    olga = client(cast.olga)
    assert olga.post(TRANSFER, data=form(olga.get(TRANSFER).text)).status_code == 303
    assert balances(conn)["smpp-acme-2"] == 200_000


# --- who may


def test_a_viewer_sees_the_ledger_and_moves_nothing(client: Client, cast: Cast, conn: db.Connection) -> None:
    bob = client(cast.bob)
    before = balances(conn)
    page = bob.get(CREDITS).text
    assert "Granted" in page
    assert "Transfer credits" not in page
    assert bob.get(TRANSFER).status_code == 403
    assert bob.post(TRANSFER, data={"target": "smpp-acme-2", "amount": "1"}).status_code == 403
    assert balances(conn) == before


def test_another_customer_finds_nothing(client: Client, cast: Cast, conn: db.Connection) -> None:
    charlie = client(cast.charlie)
    before = balances(conn)
    assert charlie.get(CREDITS).status_code == 404
    crafted = {"source": "smpp-acme-1", "target": "smpp-globex-1", "amount": "1"}
    assert charlie.post(TRANSFER, data=crafted).status_code == 404
    assert charlie.post("/accounts/smpp-globex-1/credits/transfer", data=crafted).status_code == 422
    assert balances(conn) == before


@pytest.mark.parametrize("who", ["alice", "olga"])
@pytest.mark.parametrize("named", ["{name}", "{upper}", " {name}", "{id}", "0{id}", "%{name}"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_no_crafted_request_moves_credits_between_customers(
    client: Client, cast: Cast, conn: db.Connection, who: str, named: str, side: str
) -> None:
    person = client(getattr(cast, who))
    other = cast.smpp_globex_1
    crafted = named.format(name=other.name, upper=other.name.upper(), id=other.id)
    before = balances(conn)
    filled = form(person.get(TRANSFER).text, amount="1", **{side: crafted})
    answer = person.post(TRANSFER, data=filled)
    assert answer.status_code == 422
    assert f'id="{side}-error"' in answer.text
    assert balances(conn) == before
    # Twice in one form: the first counts, and what was refused stays so.
    assert person.post(TRANSFER, data=filled | {side: [crafted, "smpp-acme-2"]}).status_code == 422
    assert balances(conn) == before


def test_an_account_is_the_same_in_capitals(alice: Browser, conn: db.Connection) -> None:
    before = balances(conn)
    filled = form(alice.get(TRANSFER).text, target="SMPP-ACME-1")
    answer = alice.post(TRANSFER, data=filled)
    assert answer.status_code == 422
    assert "Source and target are the same account." in extract_text(answer.text)
    assert balances(conn) == before
