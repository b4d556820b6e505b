"""Price lists as CSV: what is read, what is refused and why, and that what is written is read again as it was."""

import csv
import json
from collections.abc import Callable, Sequence
from io import StringIO

import pytest

from portal.core import i18n
from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.services.common.audit import SHELL
from portal.services.common.csv_import import InvalidCsvLines, NotUtf8
from portal.services.prices import price_csv, price_lists, prices
from portal.services.prices.price_csv import EmptyPriceFile, PriceFileTooBig, PriceImportPlan, WrongPriceColumns
from portal.services.prices.prices import PriceChange

ROME = "Europe/Rome"
NOW = 1_790_000_000_000
NEW_YEAR = 1_798_758_000_000  # 2027-01-01T00:00+01:00


def read(text: str | bytes) -> list[PriceChange]:
    return price_csv.parse_price_csv(text.encode() if isinstance(text, str) else text, ROME, NOW)


@pytest.fixture
def plan(conn: Connection) -> Callable[..., PriceImportPlan]:
    """Compares a file with a list."""

    def make(text: str, list_id: int = price_lists.DEFAULT_LIST) -> PriceImportPlan:
        return price_csv.plan_import(conn, list_id, text.encode(), ROME, now_ms())

    return make


@pytest.fixture
def carry_out(conn: Connection, plan: Callable[..., PriceImportPlan]) -> Callable[..., Sequence[PriceChange]]:
    """Imports a file."""

    def run(text: str, list_id: int = price_lists.DEFAULT_LIST) -> Sequence[PriceChange]:
        now, changes = now_ms(), plan(text, list_id).changes
        prices.change_prices(conn, SHELL, list_id, changes, ROME, now=now)
        return changes

    return run


@pytest.fixture
def volume(conn: Connection) -> int:
    return price_lists.create_price_list(conn, SHELL, "Volume").id


# --- reading


@pytest.mark.parametrize(
    "content",
    [
        "destination,price\nIT,0.8\n39342,1\nFR,-\nDE,\n",
        "destination;price\r\nIT;0,8\r\n39342;1,000\r\nFR;-\r\nDE;\r\n",
        "\ufeffdestination;price\nIT;0.8\n39342;1\nFR;-\nDE;",
        'Price , DESTINATION\n"0,8",it\n"1",+39342\n"-",fr\n"",de\n',
        "destination,country,price,valid_from\nIT,Italia,0.8,\n\n39342,,1.0,,,\n , ,,\nFR,Francia,-\nDE,Germania,\n",
    ],
)
def test_spreadsheets_write_it_in_their_ways(content):
    assert read(content) == [
        PriceChange("IT", 800),
        PriceChange("39342", 1000),
        PriceChange("FR", None),
        PriceChange("DE", None),
    ]


def test_dates_are_the_installation_s(conn):
    text = "destination,price,valid_from\nIT,1,2027-01-01\nFR,1,2027-01-01T00:00+01:00\nDE,1,\n"
    assert [each.valid_from for each in read(text)] == [NEW_YEAR, NEW_YEAR, None]


def test_each_bad_line_is_named_with_its_reason():
    text = (
        "destination,price,valid_from\n"
        "IT,1,\n"
        "XX,1,\n"
        "\n"
        "FR,cheap,\n"
        "FR,1.2345,\n"
        "FR,0,\n"
        "DE,1,soon\n"
        "DE,1,2020-01-01\n"
        "IT,2,\n"
        "ES,0,8,2\n"
        "GB\n"
    )
    with pytest.raises(InvalidCsvLines) as caught:
        read(text)
    assert caught.value.localized() == "Nothing was imported: 9 lines can't be read."
    reasons = dict(line.split(": ", 1) for line in map(str, caught.value.summarize_lines()))
    assert list(reasons) == [f"Line {number}" for number in (3, 5, 6, 7, 8, 9, 10, 11, 12)]
    assert reasons["Line 3"].startswith("“XX” is neither a country")
    assert reasons["Line 5"].startswith("“cheap” isn't a price")
    assert reasons["Line 7"].startswith("“0” isn't a price")
    assert reasons["Line 8"].startswith("“soon” isn't a date")
    assert reasons["Line 9"].startswith("1 Jan 2020, 00:00:00 CET is over")
    assert reasons["Line 10"] == "line 2 names IT with the same date."
    assert reasons["Line 11"] == "there are 4 fields for 3 columns. Prices with a comma need semicolons between."
    assert reasons["Line 12"] == "there are 1 fields for 3 columns. Prices with a comma need semicolons between."


def test_of_many_bad_lines_the_first_are_said():
    with pytest.raises(InvalidCsvLines) as caught:
        read("destination,price\n" + "XX,1\n" * 25)
    assert len(caught.value.lines) == 25
    shown = list(map(str, caught.value.summarize_lines()))
    assert (len(shown), shown[-1]) == (21, "And 5 more.")


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        ("", WrongPriceColumns),
        ("IT,1\n", WrongPriceColumns),
        ("destination,price,valid_form\nIT,1,\n", WrongPriceColumns),
        ("destination,price,price\nIT,1,1\n", WrongPriceColumns),
        ("destination\tprice\nIT\t1\n", WrongPriceColumns),
        ("destination,price\n", EmptyPriceFile),
        ("destination,price\n,\n", EmptyPriceFile),
        ("destination,price\nIT,è\n".encode("latin-1"), NotUtf8),
        ("destination,price\nIT,1\n".encode("utf-16"), NotUtf8),
        ("destination,price\n" + "IT,1\n" * 30_000, PriceFileTooBig),
        ("destination,price\nIT," + "1" * 140_000, PriceFileTooBig),
        ('destination,price\nIT,"1\n', InvalidCsvLines),
        ("destination,price\nIT", InvalidCsvLines),
        ("destination,price\nIT,\x00\n", InvalidCsvLines),
    ],
)
def test_what_can_t_be_read_is_refused(content, refusal):
    with pytest.raises(refusal):
        read(content)


def test_a_file_of_too_many_lines_is_refused():
    lines = "".join(f"39{number},1\n" for number in range(10_000, 10_000 + price_csv.MAX_LINES + 1))
    assert len(read("destination,price\n" + lines.partition("\n")[2])) == price_csv.MAX_LINES
    with pytest.raises(PriceFileTooBig):
        read("destination,price\n" + lines)


# --- what it would do, and does


def test_what_a_file_would_do_is_told_before(conn, plan):
    made = plan("destination,price,valid_from\nIT,0.7,\nFR,0.5,\nDE,-,\nKP,4,\nIT,2,2030-01-01\n")
    assert [each.change.destination for each in made.changed] == ["IT", "DE"]
    assert [(each.change.destination, each.old_price) for each in made.new] == [("KP", None), ("IT", 1000)]
    assert made.unchanged_count == 1
    assert prices.get_price_row(conn, price_lists.DEFAULT_LIST, "IT", now_ms()).price == 1000


def test_a_list_of_its_own_begins_with_nothing(plan, volume):
    made = plan("destination,price\nIT,1\n", volume)
    assert [(each.change.destination, each.old_price) for each in made.new] == [("IT", 1000)]


def test_importing_does_it_and_leaves_the_rest(conn, carry_out):
    before = {each.destination: each for each in prices.list_price_rows(conn, price_lists.DEFAULT_LIST, now_ms())}
    text = "destination,price,valid_from\nIT,0.7,\nFR,0.5,\nDE,-,\nKP,4,\nIT,2,2030-01-01T00:00\n"
    assert len(carry_out(text)) == 4
    after = {each.destination: each for each in prices.list_price_rows(conn, price_lists.DEFAULT_LIST, now_ms())}
    assert (after["IT"].price, after["DE"].price, after["KP"].price) == (700, None, 4000)
    assert [each.price for each in after["IT"].scheduled] == [2000]
    assert {key: row for key, row in after.items() if key not in ("IT", "DE", "KP")} == {
        key: row for key, row in before.items() if key not in ("IT", "DE")
    }
    again = carry_out(text)
    assert again == []
    actions = conn.execute("SELECT details FROM audit_log WHERE action = 'prices.change'").fetchall()
    assert [[line[:3] for line in json.loads(each["details"])["prices"]] for each in actions] == [
        [["IT", 1000, 700], ["DE", 1000, None], ["KP", None, 4000], ["IT", 1000, 2000]]
    ]


def test_a_file_with_a_bad_line_changes_nothing(conn, carry_out):
    before = prices.list_price_rows(conn, price_lists.DEFAULT_LIST, now_ms())
    with pytest.raises(InvalidCsvLines):
        carry_out("destination,price\nIT,0.7\nXX,1\n")
    assert prices.list_price_rows(conn, price_lists.DEFAULT_LIST, now_ms()) == before


def test_a_plan_is_told_from_one_of_other_prices(conn, plan):
    text = "destination,price\nIT,0.7\n"
    mark = plan(text).fingerprint
    assert plan(text).fingerprint == mark
    prices.set_prices(conn, SHELL, {"IT": 900})
    assert plan(text).fingerprint != mark


# --- writing


@pytest.mark.parametrize("decimal_comma", [False, True])
def test_what_is_written_is_read_again_as_it_was(conn, plan, volume, decimal_comma):
    now = now_ms()
    changes = [
        PriceChange("IT", 750),
        PriceChange("39342", 1),
        PriceChange("DE", None),
        PriceChange("FR", 1500, now + DAY_MS),
        PriceChange("IT", None, now + 2 * DAY_MS),
    ]
    for list_id in (price_lists.DEFAULT_LIST, volume):
        prices.change_prices(conn, SHELL, list_id, changes, ROME, now=now)
        text = price_csv.format_price_csv(prices.list_price_rows(conn, list_id, now), ROME, decimal_comma=decimal_comma)
        made = plan(text, list_id)
        assert (made.changes, made.unchanged_count) == ([], text.count("\r\n") - 1)
    # What is inherited stays so.
    assert made.unchanged_count == len(changes)


def test_what_a_customer_reads_has_the_inherited_prices_too(conn, volume):
    now = now_ms()
    prices.change_prices(conn, SHELL, volume, [PriceChange("IT", 750)], ROME, now=now)
    prices.change_prices(
        conn, SHELL, price_lists.DEFAULT_LIST, [PriceChange("FR", 600, 4_000_000_000_000)], ROME, now=now
    )
    rows = prices.list_price_rows(conn, volume, now)
    lines = list(csv.DictReader(StringIO(price_csv.format_price_csv(rows, "UTC", own_only=False))))
    assert {"destination": "IT", "country": "Italy", "price": "0.75", "valid_from": ""} in lines
    assert [each["price"] for each in lines if each["destination"] == "FR"] == ["0.5", "0.6"]
    assert lines[-1].keys() == dict.fromkeys(price_csv.COLUMNS).keys()


@pytest.mark.parametrize("language", list(i18n.LANGUAGES))
def test_no_cell_is_a_formula(conn, language):
    i18n.use_language(language)
    prices.change_prices(
        conn,
        SHELL,
        price_lists.DEFAULT_LIST,
        [PriceChange("IT", None), PriceChange("39342", 1, 4_000_000_000_000)],
        ROME,
    )
    text = price_csv.format_price_csv(prices.list_price_rows(conn, price_lists.DEFAULT_LIST, now_ms()), ROME)
    cells = [cell for line in csv.reader(StringIO(text)) for cell in line]
    assert len(cells) > 900
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
