"""Price lists in the operator's pages, and a customer's own prices."""

import csv
import html
import re
from collections.abc import Callable
from io import BytesIO, StringIO

import pytest

from portal.core import db
from portal.core.clock import DAY_MS, now_ms
from portal.services.common.audit import SHELL
from portal.services.people import authentication, customers, users
from portal.services.prices import price_lists, prices
from portal.services.prices.prices import PriceChange
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
DEFAULT = "/admin/prices"
SET = "/admin/prices/1/set"
IMPORT = "/admin/prices/1/import"
MINE = "/accounts/smpp-acme-1/credits/prices"
YEAR_2100 = 4_102_444_800_000


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


@pytest.fixture
def volume(conn: db.Connection) -> int:
    return price_lists.create_price_list(conn, SHELL, "Volume").id


def say(conn: db.Connection, list_id: int, *changes: PriceChange) -> None:
    prices.change_prices(conn, SHELL, list_id, changes, "UTC")


def row(conn: db.Connection, destination: str, list_id: int = price_lists.DEFAULT_LIST) -> prices.PriceRow:
    return prices.get_price_row(conn, list_id, destination, now_ms())


def names(page: str) -> list[str]:
    """The countries that a page lists, in their order."""
    return [html.unescape(re.sub("<[^>]+>", "", each)) for each in re.findall(r'<th scope="row">(.*?)</th>', page)]


def in_italian(conn: db.Connection, person: Person) -> None:
    users.set_user_language(conn, users.get_user_by_email(conn, person.email), "it")


# --- looking


@pytest.mark.slow
def test_the_default_list_page_by_page(olga: Browser) -> None:
    pages = [olga.get(DEFAULT).text]
    while 'rel="next"' in pages[-1]:
        query = pages[-1].split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0]
        pages.append(olga.get(DEFAULT + html.unescape(query)).text)
    listed = [name for page in pages for name in names(page)]
    assert len(listed) == len(set(listed)) == len(prices.read_initial_prices())
    assert (listed[0], listed[1], listed[-1]) == ("Afghanistan", "Åland Islands", "Zimbabwe")
    back = pages[1].split('rel="prev"')[0].rsplit('href="', 1)[1].split('"')[0]
    assert names(olga.get(DEFAULT + html.unescape(back)).text) == names(pages[0])
    assert names(olga.get(DEFAULT + "?page=99").text) == names(pages[-1])
    assert names(olga.get(DEFAULT + "?page=-1").text) == names(olga.get(DEFAULT + "?page=x").text) == names(pages[0])


@pytest.mark.parametrize("htmx", [False, "prices"])
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ital", ["Italy", "Italy"]),
        ("ALAND ISL", ["Åland Islands"]),
        ("cote d", ["Côte d’Ivoire"]),
        ("de", None),
        ("+49", ["Germany"]),
        ("39340", ["Italy", "Vatican City"]),
        ("+39 342 1234567", ["Italy", "Italy"]),
        ("393331234567", ["Italy"]),
        ("nowhere", []),
        ("<b>", []),
    ],
)
def test_a_search_finds_countries_and_the_price_of_a_number(
    olga: Browser, conn: db.Connection, words: str, found: list[str] | None, htmx: bool | str
) -> None:
    say(conn, price_lists.DEFAULT_LIST, PriceChange("39342", 1500))
    answer = olga.get(DEFAULT, query_string={"q": words}, htmx=htmx)
    if found is None:
        assert "Germany" in names(answer.text)
    else:
        assert names(answer.text) == found
    assert ("Nothing found" in answer.text) is (found == [])
    assert answer.text.lstrip().startswith("<!doctype" if not htmx else '<div id="prices"')


def test_names_and_order_are_the_reader_s(olga: Browser, cast: Cast, conn: db.Connection) -> None:
    in_italian(conn, cast.olga)
    listed = names(olga.get(DEFAULT).text)
    assert listed[:4] == ["Afghanistan", "Albania", "Algeria", "Andorra"]
    assert names(olga.get(DEFAULT + "?q=germania").text) == ["Germania"]


def test_a_list_of_its_own_says_what_is_its_own(olga: Browser, conn: db.Connection, volume: int) -> None:
    say(conn, volume, PriceChange("IT", 700), PriceChange("FR", None), PriceChange("ES", 900, YEAR_2100))
    italy, france, spain = (
        extract_text(olga.get(f"/admin/prices/{volume}?q={each}").text) for each in ("IT", "FR", "ES")
    )
    assert "Italy +39 0.7 this list" in italy
    assert "France +33 Nothing is sent there this list" in france
    assert "Spain +34 0.8 0.9 from 1 Jan 2100, 00:00:00 UTC on the default list" in spain


def test_a_list_that_is_not_there_is_404(olga: Browser) -> None:
    for path in ("", "/set", "/import", "/settings", ".csv"):
        assert olga.get(f"/admin/prices/99{path}").status_code == 404
    for path in ("/set", "/import", "/import/confirm", "/settings", "/delete", "/remove"):
        assert olga.post(f"/admin/prices/99{path}").status_code == 404


# --- setting a price


def test_a_price_is_set_at_once(olga: Browser, conn: db.Connection) -> None:
    page = olga.get(SET + "?destination=IT").text
    assert (get_field_value(page, "destination"), get_field_value(page, "price")) == ("IT", "1")
    answer = olga.post(SET, data={"destination": "it", "price": "0.75", "valid_from": ""})
    assert (answer.status_code, answer.location) == (303, f"{SET}?destination=IT")
    assert row(conn, "IT").price == 750
    page_text = extract_text(olga.get(answer.location).text)
    assert "The price of Italy was saved." in page_text
    assert "Credits a part 0.75" in page_text


@pytest.mark.slow
def test_it_is_read_in_the_reader_s_language_and_the_installation_s_time_zone(
    make_app: Callable[..., object], config: object, cast: Cast, conn: db.Connection, data: object
) -> None:
    from dataclasses import replace

    app = make_app(replace(config, timezone="Europe/Rome"))  # type: ignore[type-var]
    in_italian(conn, cast.olga)
    token = authentication.start_login_session(
        conn, users.get_user_by_email(conn, cast.olga.email), "127.0.0.1", "a test"
    )
    olga: Browser = app.test_client().use_login_session(token)  # type: ignore[attr-defined]
    olga.post(SET, data={"destination": "39342", "price": "1,5", "valid_from": "2100-01-01T00:00"})
    (coming,) = row(conn, "39342").scheduled
    assert (coming.price, coming.valid_from) == (1500, YEAR_2100 - 3_600_000)
    assert "1 gen 2100, 00:00:00 CET" in olga.get(f"{SET}?destination=39342").text


def test_a_destination_is_closed(olga: Browser, conn: db.Connection) -> None:
    olga.post(SET, data={"destination": "IT", "price": "1", "closed": "y"})
    assert (row(conn, "IT").price, row(conn, "IT").in_force) == (None, True)
    assert '<input checked id="closed"' in olga.get(SET + "?destination=IT").text


@pytest.mark.parametrize(
    ("form", "field", "sentence"),
    [
        ({"destination": "XX"}, "destination", "“XX” is neither a country"),
        ({"destination": acting.SCRIPT_INJECTION}, "destination", "is neither a country"),
        ({"price": ""}, "price", "“” isn't a price"),
        ({"price": "0,7"}, "price", "“0,7” isn't a price"),
        ({"price": "1001"}, "price", "“1001” isn't a price"),
        ({"valid_from": "2020-01-01T00:00"}, "valid_from", "1 Jan 2020, 00:00:00 UTC is over."),
        ({"valid_from": "soon"}, "valid_from", "“soon” isn't a date."),
    ],
)
def test_a_refused_price_keeps_what_was_typed(
    olga: Browser, conn: db.Connection, form: dict[str, str], field: str, sentence: str
) -> None:
    before = prices.list_price_rows(conn, price_lists.DEFAULT_LIST, now_ms())
    typed = {"destination": "IT", "price": "0.7", "valid_from": ""} | form
    answer = olga.post(SET, data=typed)
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert sentence in extract_text(answer.text)
    assert {name: get_field_value(answer.text, name) for name in typed} == typed
    assert acting.SCRIPT_INJECTION not in answer.text
    assert prices.list_price_rows(conn, price_lists.DEFAULT_LIST, now_ms()) == before


def test_a_change_to_come_is_called_off(olga: Browser, conn: db.Connection) -> None:
    say(conn, price_lists.DEFAULT_LIST, PriceChange("IT", 1500, YEAR_2100))
    page = olga.get(SET + "?destination=IT").text
    assert "1 Jan 2100, 00:00:00 UTC 1.5" in extract_text(page)
    data = {"destination": "IT", "valid_from": get_field_value(page.split("<tbody>")[1], "valid_from")}
    for expected_text in ("The change for Italy was cancelled.", "The list says nothing about IT."):
        answer = olga.post("/admin/prices/1/remove", data=data)
        assert expected_text in extract_text(olga.get(answer.location).text)
    assert (row(conn, "IT").price, row(conn, "IT").scheduled) == (1000, ())


@pytest.mark.parametrize("crafted", ["9" * 30, "-1", "x", ""])
def test_a_date_that_nobody_wrote_calls_nothing_off(olga: Browser, conn: db.Connection, crafted: str) -> None:
    answer = olga.post("/admin/prices/1/remove", data={"destination": "IT", "valid_from": crafted})
    assert "The list says nothing about IT." in extract_text(olga.get(answer.location).text)
    assert row(conn, "IT").price == 1000


@pytest.mark.slow
def test_a_list_costs_as_the_default_one_again(olga: Browser, conn: db.Connection, volume: int) -> None:
    say(conn, volume, PriceChange("IT", 700))
    answer = olga.post(f"/admin/prices/{volume}/remove", data={"destination": "IT"})
    page_text = extract_text(olga.get(answer.location).text)
    assert "The list says nothing about Italy any more." in page_text
    assert "Credits a part 1 As in the default list." in page_text
    assert not row(conn, "IT", volume).has_own_entry


@pytest.mark.slow
def test_a_range_is_removed_from_the_default_list(olga: Browser, conn: db.Connection) -> None:
    say(conn, price_lists.DEFAULT_LIST, PriceChange("39342", 1500))
    answer = olga.post("/admin/prices/1/remove", data={"destination": "39342"})
    assert answer.location == DEFAULT
    assert "The list says nothing about +39342 any more." in extract_text(olga.get(answer.location).text)


# --- files


def upload(browser: Browser, content: bytes, path: str = IMPORT) -> tuple[int, str]:
    answer = browser.post(path, data={"file": (BytesIO(content), "prices.csv")})
    return answer.status_code, answer.text


def agree(browser: Browser, page: str, path: str = IMPORT) -> tuple[int, str]:
    data = {name: get_field_value(page, name) for name in ("mark", "content")}
    answer = browser.post(f"{path}/confirm", data=data)
    return answer.status_code, answer.text if answer.status_code != 303 else browser.get(answer.location).text


FILE = "destination;price;valid_from\r\nIT;0,7;\r\nFR;0,5;\r\nDE;-;\r\nKP;4;2100-01-01\r\n".encode("utf-8-sig")


@pytest.mark.slow
def test_a_file_is_shown_before_it_is_imported(olga: Browser, conn: db.Connection) -> None:
    status, page = upload(olga, FILE)
    page_text = extract_text(page)
    assert status == 200
    assert "new 1 changed 2 unchanged 1" in page_text
    assert "Italy 1 0.7 at once" in page_text
    assert "Germany 1 nothing is sent at once" in page_text
    assert "North Korea – 4 1 Jan 2100, 00:00:00 UTC" in page_text
    assert row(conn, "IT").price == 1000
    status, page = agree(olga, page)
    assert "3 prices were imported." in extract_text(page)
    assert (row(conn, "IT").price, row(conn, "DE").price, row(conn, "KP").scheduled[0].price) == (700, None, 4000)


@pytest.mark.slow
def test_who_agreed_to_something_else_is_asked_again(olga: Browser, conn: db.Connection) -> None:
    _, page = upload(olga, FILE)
    say(conn, price_lists.DEFAULT_LIST, PriceChange("IT", 900))
    status, page = agree(olga, page)
    assert status == 422
    assert "Prices have changed since you looked." in extract_text(page)
    assert "Italy 0.9 0.7 at once" in extract_text(page)
    assert row(conn, "IT").price == 900
    agree(olga, page)
    assert row(conn, "IT").price == 700


def test_a_form_that_is_sent_twice_imports_once(olga: Browser, conn: db.Connection) -> None:
    _, page = upload(olga, FILE)
    agree(olga, page)
    status, again = agree(olga, page)
    assert status == 422
    assert "The list says all of this already." in extract_text(again)
    noted = conn.execute("SELECT count(*) FROM audit_log WHERE action = 'prices.change'").fetchone()[0]
    assert noted == 1


@pytest.mark.parametrize(
    ("content", "sentences"),
    [
        (b"", ["The first line has to name the columns"]),
        (b"destination,price\nIT,\xff\n", ["The file isn't in UTF-8."]),
        (b"x" * 200_000, ["The file is too big"]),
        (
            b"destination,price\nIT,0.7\nXX,1\nFR,<b>\n",
            [
                "Nothing was imported: 2 lines can't be read.",
                "Line 3: “XX” is neither a country",
                "Line 4: “<b>” isn't a price",
            ],
        ),
    ],
)
def test_a_file_that_can_t_be_read_is_refused_line_by_line(
    olga: Browser, conn: db.Connection, content: bytes, sentences: list[str]
) -> None:
    status, page = upload(olga, content)
    assert status == 422
    assert [each for each in sentences if each not in extract_text(page)] == []
    assert 'id="file-error"' in page
    assert row(conn, "IT").price == 1000


def test_no_file_and_nothing_to_agree_to_are_refused(olga: Browser) -> None:
    assert olga.post(IMPORT).status_code == 422
    assert olga.post(f"{IMPORT}/confirm").status_code == 422


def test_what_is_exported_is_imported_as_it_was(olga: Browser, cast: Cast, conn: db.Connection, volume: int) -> None:
    changes = [PriceChange("IT", 750), PriceChange("39342", None), PriceChange("FR", 600, now_ms() + DAY_MS)]
    for list_id in (price_lists.DEFAULT_LIST, volume):
        say(conn, list_id, *changes)
    for language, first in (("en", "destination,country"), ("it", "destination;country")):
        users.set_user_language(conn, users.get_user_by_email(conn, cast.olga.email), language)
        for list_id in (price_lists.DEFAULT_LIST, volume):
            answer = olga.get(f"/admin/prices/{list_id}.csv")
            assert answer.headers["Content-Disposition"].startswith('attachment; filename="prices')
            assert answer.data.decode("utf-8-sig").startswith(first)
            status, page = upload(olga, answer.data, f"/admin/prices/{list_id}/import")
            assert status == 200
            assert 'name="mark"' not in page


# --- the lists


def test_a_list_is_added_renamed_and_deleted(olga: Browser, conn: db.Connection) -> None:
    answer = olga.post("/admin/prices/lists", data={"name": " Volume "})
    made = price_lists.get_price_list(conn, "Volume")
    assert answer.location == f"/admin/prices/{made.id}"
    assert "Volume was added." in extract_text(olga.get(answer.location).text)
    assert "Volume 0 0" in extract_text(olga.get("/admin/prices/lists").text)
    here = f"/admin/prices/{made.id}/settings"
    olga.post(here, data={"name": "Big"})
    assert price_lists.get_price_list_by_id(conn, made.id).name == "Big"
    assert "No customer has this list." in extract_text(olga.get(here).text)
    answer = olga.post(f"/admin/prices/{made.id}/delete")
    assert "Big was deleted." in extract_text(olga.get(answer.location).text)
    assert len(price_lists.list_price_lists(conn)) == 1


@pytest.mark.parametrize("name", ["", "VOLUME", "x" * 61])
def test_a_refused_name_keeps_what_was_typed(olga: Browser, conn: db.Connection, volume: int, name: str) -> None:
    other = price_lists.create_price_list(conn, SHELL, "Other").id
    for path in ("/admin/prices/lists", f"/admin/prices/{other}/settings"):
        answer = olga.post(path, data={"name": name})
        assert answer.status_code == 422
        assert 'id="name-error"' in answer.text
        assert get_field_value(answer.text, "name") == name
    assert [each.name for each in price_lists.list_price_lists(conn)] == ["", "Other", "Volume"]


def test_lists_that_are_needed_stay(olga: Browser, cast: Cast, conn: db.Connection, volume: int) -> None:
    price_lists.assign_price_list(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), volume)
    for list_id, sentence in ((volume, "“Volume” is the list of Acme."), (1, "The default list can't be")):
        assert sentence in extract_text(olga.get(f"/admin/prices/{list_id}/settings").text)
        answer = olga.post(f"/admin/prices/{list_id}/delete")
        assert answer.status_code == 422
        assert sentence in extract_text(answer.text)
    assert len(price_lists.list_price_lists(conn)) == 2


def test_a_customer_is_given_a_list(olga: Browser, cast: Cast, conn: db.Connection, volume: int) -> None:
    page = f"/admin/customers/{cast.acme}"
    for list_id, expected_text in ((volume, "Acme pays by Volume now."), (1, "Acme pays by Default prices now.")):
        answer = olga.post(f"{page}/prices", data={"price_list": list_id})
        assert answer.location == page
        shown = olga.get(page).text
        assert expected_text in extract_text(shown)
        assert f'<option value="{list_id}" selected>' in shown
        assert customers.get_customer_by_id(conn, cast.acme).price_list_id == list_id
    for crafted, read in (("99", "99"), ("9" * 30, "0"), ("-1", "0")):
        answer = olga.post(f"{page}/prices", data={"price_list": crafted})
        assert f"There is no price list “{read}”." in extract_text(olga.get(answer.location).text)
    assert olga.post("/admin/customers/99/prices", data={"price_list": "1"}).status_code == 404


# --- a customer's own


def test_a_customer_sees_the_prices_of_its_list(client: Client, cast: Cast, conn: db.Connection, volume: int) -> None:
    say(conn, volume, PriceChange("IT", 700), PriceChange("39342", 1500), PriceChange("IT", 800, YEAR_2100))
    price_lists.assign_price_list(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), volume)
    page_text = extract_text(client(cast.bob).get(f"{MINE}?q=italy").text)
    assert "Italy +39 0.7 0.8 from 1 Jan 2100, 00:00:00 UTC on" in page_text
    assert "Italy +39342… 1.5" in page_text
    assert "this list" not in page_text
    theirs = extract_text(client(cast.charlie).get("/accounts/smpp-globex-1/credits/prices?q=italy").text)
    assert "Italy +39 1" in theirs
    assert "39342" not in theirs


def test_the_search_answers_htmx_with_the_rows(alice: Browser) -> None:
    answer = alice.get(f"{MINE}?q=france", htmx="prices")
    assert answer.text.lstrip().startswith('<div id="prices"')
    assert names(answer.text) == ["France"]
    assert "/admin/" not in answer.text


def test_a_customer_downloads_its_prices(alice: Browser, cast: Cast, conn: db.Connection, volume: int) -> None:
    say(conn, volume, PriceChange("IT", 700))
    price_lists.assign_price_list(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), volume)
    answer = alice.get(f"{MINE}.csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="smpp-acme-1-prices.csv"'
    lines = {each["destination"]: each for each in csv.DictReader(StringIO(answer.data.decode("utf-8-sig")))}
    assert (lines["IT"]["price"], lines["FR"]["price"], lines["FR"]["country"]) == ("0.7", "0.5", "France")


def test_another_customer_finds_nothing(client: Client, cast: Cast) -> None:
    charlie = client(cast.charlie)
    for path in (MINE, f"{MINE}.csv", "/accounts/smpp-acme-1/credits/cost", DEFAULT, SET, "/admin/prices/1.csv"):
        assert charlie.get(path).status_code == 404


# --- what it will cost

COST = "/accounts/smpp-acme-1/credits/cost"


@pytest.mark.parametrize("htmx", [False, "cost"])
def test_a_text_and_numbers_are_priced(alice: Browser, htmx: bool | str) -> None:
    data = {"text": "Ciao 📦 " * 10, "numbers": "+39 340 1234567\r\n33612345678"}
    answer = alice.post(COST, data=data, htmx=htmx)
    page_text = extract_text(answer.text)
    assert answer.status_code == 200
    assert "credits in total 3 parts 2 credits left after 997" in page_text
    assert "UCS-2 Because of: 📦" in page_text
    assert "80 of 134 characters" in page_text
    assert "+393401234567 Italy 1 2" in page_text
    assert "+33612345678 France 0.5 1" in page_text
    assert answer.text.lstrip().startswith('<section class="tile" id="cost"' if htmx else "<!doctype")
    if not htmx:
        assert "Ciao 📦 Ciao" in page_text.split("Nothing is sent or kept.")[0]


def test_what_is_short_is_gsm(alice: Browser) -> None:
    page_text = extract_text(alice.post(COST, data={"text": "5 € è poco", "numbers": "393401234567"}).text)
    assert "GSM 03.38" in page_text
    assert "11 of 160 characters" in page_text


@pytest.mark.parametrize(
    ("typed", "sentence", "status"),
    [
        ({"text": "hello", "numbers": ""}, "Enter a number.", 422),
        ({"text": "hello", "numbers": "1\n" * 101}, "At most 100 numbers at once.", 422),
        ({"text": "a" * 40_000, "numbers": "393401234567"}, "a message has at most 255 parts", 422),
        ({"text": "hello", "numbers": "0340 123"}, "“0340 123” isn't a number: it begins with the country's code", 200),
        ({"text": "hello", "numbers": "850 192 123 4567"}, "(North Korea): there is no price for it.", 200),
        ({"text": "hello", "numbers": acting.SCRIPT_INJECTION}, "isn't a number", 200),
    ],
)
def test_what_can_t_be_priced_says_why(alice: Browser, typed: dict[str, str], sentence: str, status: int) -> None:
    answer = alice.post(COST, data=typed)
    assert answer.status_code == status
    assert sentence in extract_text(answer.text)
    assert acting.SCRIPT_INJECTION not in answer.text
    part = alice.post(COST, data=typed, htmx="cost")
    # As long as no number has been typed, nobody has asked.
    assert part.status_code == (status if typed["numbers"] else 200)
    assert (sentence in extract_text(part.text)) is bool(typed["numbers"])


def test_more_than_there_is_is_said(alice: Browser) -> None:
    page_text = extract_text(alice.post(COST, data={"text": "a" * 153 * 11, "numbers": "393401234567\n" * 100}).text)
    assert "credits left after -100" in page_text
    assert "100 credits are missing" in page_text


def test_a_viewer_may_ask_and_nothing_is_kept(client: Client, cast: Cast, conn: db.Connection) -> None:
    bob = client(cast.bob)
    before = conn.execute("SELECT count(*) FROM messages").fetchone()[0]
    assert bob.post(COST, data={"text": "secret", "numbers": "393401234567"}).status_code == 200
    assert conn.execute("SELECT count(*) FROM messages").fetchone()[0] == before
    # A text in the address would end up in logs and histories.
    assert "secret" not in bob.get(f"{COST}?text=secret&numbers=393401234567").text.split("<main")[1]
    assert client(cast.charlie).post(COST, data={"text": "x", "numbers": "393401234567"}).status_code == 404
