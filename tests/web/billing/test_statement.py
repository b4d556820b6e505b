"""The statement's page: what is shown of the ledger, what it adds up to, its chart, its files, and its months."""

import csv
import io
import re
from collections.abc import Callable
from html import unescape

import pytest

from portal.core import clock, db, i18n
from portal.services.billing import orders, packs, statement
from portal.services.common import ids
from portal.services.common.audit import SHELL, SYSTEM, Actor
from portal.services.credits import credits, ledger
from portal.services.messages import intake
from portal.services.prices import prices
from portal.services.statistics import rollup
from tests.support import Cast, Person, prepare_submit
from tests.web import acting
from tests.web.acting import extract_text
from tests.web.conftest import Browser
from tests.web.core.test_live import OpenPage

Client = Callable[[Person], Browser]
CREDITS = "/accounts/smpp-acme-1/credits"
MONTHS = f"{CREDITS}/months"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


def move(conn: db.Connection, kind: str, amount: int, note: str = "", days_ago: int = 0, name: str = "") -> int:
    """One movement of smpp-acme-1, in the past too: the ones of the cast are made the oldest."""
    account = acting.get_account(conn, name or "smpp-acme-1")
    now = clock.now_ms() - days_ago * clock.DAY_MS
    with db.write_transaction(conn):
        found, _ = ledger.post_movement(conn, Actor("olga@portal.example"), account.id, kind, amount, note, now=now)
    return found


@pytest.fixture
def long_ago(conn: db.Connection) -> None:
    """The cast's first grants were four hundred days ago."""
    conn.execute("UPDATE movements SET id = id - ?", (ids.id_span(400 * clock.DAY_MS),))


def shown(page: str) -> list[str]:
    """The lines of the statement, in words."""
    table = re.search(r'aria-label="Movements".*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    return [extract_text(row) for row in table[1].split("<tr>")[1:]] if table else []


def linked(page: str, text: str) -> str:
    """Where the link with this text goes."""
    found = re.search(rf'href="([^"]+)"[^>]*>(?:<svg[^>]*><use[^>]*></svg>)?{re.escape(text)}', page)
    assert found, f"no link says {text}"
    return unescape(found[1])


def rows(answer: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(answer), delimiter=";"))


# --- a line


def test_a_line_says_who_why_how_many_and_what_was_left(alice: Browser, conn: db.Connection) -> None:
    first, last = acting.send_texts(conn, "smpp-acme-1", "one", "two")
    move(conn, ledger.CORRECTION, -500, "Counted twice")
    (single,) = acting.send_texts(conn, "smpp-acme-1", "three")
    move(conn, ledger.CORRECTION, 250)
    waits = acting.schedule_text(conn, "smpp-acme-1", "later", clock.now_ms() + clock.DAY_MS)
    acting.cancel_message(conn, "smpp-acme-1", waits)
    page = alice.get(CREDITS).text
    lines = [line.split("UTC ")[1] for line in shown(page)]
    assert lines == [
        "Refunded 1 message automatic +1 996.75",
        "1 message sent automatic -1 995.75",
        "Corrected olga@portal.example +0.25 996.75",
        "1 message sent automatic -1 996.5",
        "Corrected Counted twice olga@portal.example -0.5 997.5",
        "2 messages sent automatic -2 998",
        "Granted operator +1,000 1,000",
    ]
    assert page.count(f'href="history/{waits}"') == 2
    assert re.search(r'Refunded\s<a href="history', page)
    assert f'href="history/{single}"' in page
    assert f'href="history?before={last + 1}"' in page
    there = alice.get(f"/accounts/smpp-acme-1/history?before={last + 1}").text
    assert there.index(f"history/{last}") < there.index(f"history/{first}")
    assert f"history/{single}" not in there
    assert alice.get(f"/accounts/smpp-acme-1/history/{single}").status_code == 200


def test_what_the_history_has_lost_is_not_linked(alice: Browser, conn: db.Connection) -> None:
    acting.send_texts(conn, "smpp-acme-1", "one")
    conn.execute("DELETE FROM messages")
    page = alice.get(CREDITS).text
    assert "1 message sent automatic -1 999" in extract_text(page)
    assert 'href="history/' not in page


def test_a_purchase_leads_to_its_order(alice: Browser, conn: db.Connection) -> None:
    account = acting.get_account(conn, "smpp-acme-1")
    with db.write_transaction(conn):
        order_id = orders.insert_order(
            conn, SYSTEM, account.id, packs.Pack(100_000, 700, "EUR"), orders.AUTOMATIC, at=clock.now_ms()
        )
        orders.credit_order(conn, SYSTEM, order_id)
    number = statement.list_movements_page(conn, account.id)[0].purchase_order_number
    assert re.fullmatch(r"\d{4}-\d{5}", number)
    page = alice.get(CREDITS).text
    assert f"Bought order {number} automatic +100 1,100" in extract_text(page)
    assert linked(page, f"order {number}") == f"orders/{number}"


# --- the filter


@pytest.mark.usefixtures("long_ago")
@pytest.mark.parametrize(
    ("query", "notes"),
    [
        ("", ["today", "six", "twenty-nine"]),
        ("?period=today", ["today"]),
        ("?period=7d", ["today", "six"]),
        ("?period=30d", ["today", "six", "twenty-nine"]),
        ("?period=all", ["today", "six", "twenty-nine", "hundred", "operator"]),
        ("?period=nonsense&kind=nonsense", ["today", "six", "twenty-nine"]),
        ("?period=all&kind=correction", ["six"]),
        ("?period=all&kind=usage", []),
    ],
)
def test_the_address_says_which_movements(alice: Browser, conn: db.Connection, query: str, notes: list[str]) -> None:
    move(conn, ledger.GRANT, 1000, "hundred", 100)
    move(conn, ledger.EXPIRY, -1000, "twenty-nine", 29)
    move(conn, ledger.CORRECTION, 2500, "six", 6)
    move(conn, ledger.GRANT, 1000, "today")
    page = alice.get(CREDITS + query).text
    lines = shown(page)
    assert [note in line for note, line in zip(notes, lines, strict=True)] == [True] * len(notes)
    assert ("No movement here" in page) == (not notes)


@pytest.mark.usefixtures("long_ago")
def test_from_one_day_to_another(alice: Browser, conn: db.Connection) -> None:
    for days in (5, 4, 3, 2):
        move(conn, ledger.GRANT, days * 1000, f"{days} ago", days)
    of = {
        name: i18n.format_iso8601(clock.now_ms() - days * clock.DAY_MS)[:10] for name, days in (("from", 4), ("to", 3))
    }
    page = alice.get(f"{CREDITS}?period=range&from={of['from']}&to={of['to']}").text
    assert [line.split(" ago")[0][-1] for line in shown(page)] == ["3", "4"]
    assert f'value="{of["from"]}"' in page
    assert "came in +7 went out 0" in extract_text(page)
    for each in ("credits.csv", "credits/course"):
        assert f"{each}?period=range&amp;from={of['from']}&amp;to={of['to']}" in page


@pytest.mark.parametrize(
    ("query", "field", "sentence"),
    [
        ("from=2026-13-01", "from", "“2026-13-01” isn't a date. Example: 2026-11-22."),
        ("to=tomorrow", "to", "“tomorrow” isn't a date."),
        ("from=2026-11-02&to=2026-11-01", "to", "This day comes before the first one."),
        ("from=%3Cscript%3Ealert(1)%3C/script%3E", "from", "isn't a date."),
    ],
)
def test_days_that_are_none_are_refused_at_the_field(alice: Browser, query: str, field: str, sentence: str) -> None:
    address = f"{CREDITS}?period=range&{query}"
    answer = alice.get(address)
    assert answer.status_code == 422
    assert sentence in extract_text(answer.text)
    assert f'id="{field}-error"' in answer.text
    assert acting.SCRIPT_INJECTION not in answer.text
    assert '<option selected value="range">' in answer.text
    # What can't be read is no reason for a file of something else.
    refused = alice.get(address.replace("credits?", "credits.csv?"))
    assert (refused.status_code, refused.location) == (303, address)


def test_the_filter_stays_while_pages_are_turned(alice: Browser, conn: db.Connection) -> None:
    for number in range(40):
        move(conn, ledger.GRANT, 1000, f"note {number}.")
        move(conn, ledger.CORRECTION, -1000)
    page = alice.get(f"{CREDITS}?period=7d&kind=grant").text
    older = linked(page, "Older")
    assert older.startswith("?period=7d&kind=grant&before=")
    second = alice.get(CREDITS + older).text
    assert [line.split(" +")[0].split()[-2] for line in shown(second)[:5]] == ["14.", "13.", "12.", "11.", "10."]
    assert "Corrected" not in "".join(shown(second))
    assert linked(second, "Newer").startswith("?period=7d&kind=grant&after=")
    assert '<option selected value="grant">' in second


def test_an_open_page_keeps_its_filter(alice: Browser, conn: db.Connection) -> None:
    acting.confirm_changes(conn)
    opened = OpenPage(alice, f"{CREDITS}?period=7d&kind=grant")
    move(conn, ledger.CORRECTION, -1000, "not to be seen")
    answer = opened.ask().text
    assert "not to be seen" not in answer
    assert 'id="chart"' in answer
    move(conn, ledger.GRANT, 2000, "to be seen")
    answer = opened.ask().text
    assert "to be seen" in answer
    assert "came in" in answer
    assert opened.ask().status_code == 204


# --- sums and the chart


def test_what_a_period_adds_up_to(alice: Browser, conn: db.Connection) -> None:
    acting.send_texts(conn, "smpp-acme-1", "one", "two")
    move(conn, ledger.CORRECTION, -500)
    page = alice.get(CREDITS).text
    page_text = extract_text(page)
    assert "credits left 997.5 came in +1,000 went out -2.5" in page_text
    assert "Granted +1,000 · Messages sent -2 · Corrected -0.5" in page_text
    assert linked(page, "Messages sent") == "?period=30d&kind=usage"
    page_text = extract_text(alice.get(f"{CREDITS}?kind=usage").text)
    assert "came in 0 went out -2 Messages sent -2" in page_text


@pytest.mark.usefixtures("long_ago")
def test_the_chart_and_its_table(alice: Browser, conn: db.Connection) -> None:
    move(conn, ledger.USAGE, -100_000, days_ago=2)
    move(conn, ledger.USAGE, -300_000, days_ago=1)
    page = alice.get(f"{CREDITS}?period=7d").text
    drawing = re.search(r'<svg viewBox="0 -160 70 160".*?</svg>', page)
    assert drawing
    assert "the balance went from 1,000 to 600, 400 were used." in drawing[0]
    assert 'd="M1.5 0h40v-20h7V0h3v-60h7V0"' in drawing[0]
    assert 'd="M0 -160L10 -160L20 -160L30 -160L40 -160L50 -151L60 -124L70 -124"' in drawing[0]
    address = linked(page, "As a table")
    assert address == f"{CREDITS}/course?period=7d"
    for htmx in (False, "dialog"):
        table = [extract_text(row) for row in alice.get(address, htmx=htmx).text.split("<tr>")[2:]]
        assert [row.split(" ", 2)[2] for row in table[:3]] == ["0 0 600", "300 0 600", "100 0 900"]
        assert len(table) == 7


def test_where_nothing_was_there_is_nothing_to_draw(alice: Browser) -> None:
    query = "?period=range&from=2020-01-01&to=2020-02-01"
    page = alice.get(CREDITS + query).text
    assert 'class="chart"' not in page
    assert 'id="chart"' in page
    assert "Nothing moved in this period." in alice.get(f"{CREDITS}/course{query}").text


# --- the file


@pytest.mark.usefixtures("long_ago")
def test_the_csv_is_what_the_page_is_filtered_to(alice: Browser, conn: db.Connection) -> None:
    move(conn, ledger.GRANT, 1_500, "=HYPERLINK(1)", 3)
    credits.transfer_credits(
        conn, SHELL, acting.get_account(conn, "smpp-acme-1"), acting.get_account(conn, "sms-acme-1"), 2_000
    )
    first, last = acting.send_texts(conn, "smpp-acme-1", "one", "two")
    answer = alice.get(f"{CREDITS}.csv?period=7d")
    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="smpp-acme-1-credits.csv"'
    assert answer.is_streamed
    head, *lines = rows(answer.text)
    assert ";".join(head) == "id;date;kind;credits;balance;by;note;account;order;messages;first_message;last_message"
    assert [line[2:] for line in lines] == [
        ["usage", "-2", "997.5", "system", "", "", "", "2", str(first), str(last)],
        ["transfer_out", "-2", "999.5", "shell", "", "sms-acme-1", "", "", "", ""],
        ["grant", "1.5", "1001.5", "olga@portal.example", "'=HYPERLINK(1)", "", "", "", "", ""],
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", lines[0][1])
    assert len(rows(alice.get(f"{CREDITS}.csv?period=all").text)) == 5
    only = rows(alice.get(f"{CREDITS}.csv?period=all&kind=usage").text)
    assert [line[2] for line in only[1:]] == ["usage"]


@pytest.mark.slow
def test_the_csv_of_many_is_whole(alice: Browser, conn: db.Connection) -> None:
    for _ in range(1203):
        move(conn, ledger.GRANT, 1)
    found = [int(row[0]) for row in rows(alice.get(f"{CREDITS}.csv").text)[1:]]
    assert len(found) == 1204
    assert found == sorted(found, reverse=True)


# --- months


def test_numbers_of_no_country_are_named_in_a_month(alice: Browser, conn: db.Connection) -> None:
    prices.set_prices(conn, SHELL, {"88213": 2000})
    submit = prepare_submit(conn, acting.get_account(conn, "smpp-acme-1").id, source="ACME", destination="882131234567")
    intake.store_messages(conn, [submit])
    rollup.roll_up_all(conn)
    assert "International networks 1 1 2" in extract_text(alice.get(MONTHS).text)


def test_a_month_by_country_and_sender(alice: Browser, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET any_sender = 1")
    acting.send_texts(conn, "smpp-acme-1", "one", "x" * 100)
    acting.send_texts(conn, "smpp-acme-1", "three", source="<b>SHOP</b>")
    waits = acting.schedule_text(conn, "smpp-acme-1", "later", clock.now_ms() + clock.DAY_MS)
    acting.cancel_message(conn, "smpp-acme-1", waits)
    answer = alice.get(MONTHS)
    page_text = extract_text(answer.text)
    assert "credits used 5 messages 4 parts 5" in page_text
    assert "Refunded in this month: 1." in page_text
    assert "Italy 4 5 5 100 % Total 4 5 5" in page_text
    assert "ACME 3 4 4 80 % <b>SHOP</b> 1 1 1 20 % Total 4 5 5" in page_text
    month = re.search(r'<option value="(\d{4}-\d\d)" selected>', answer.text)
    assert month
    assert month[1] == statement.format_month(
        statement.list_statement_months(conn, acting.get_account(conn, "smpp-acme-1").id)[0]
    )
    download = linked(answer.text, "Download as CSV")
    file = alice.get(download)
    assert file.headers["Content-Disposition"] == f'attachment; filename="smpp-acme-1-{month[1]}.csv"'
    assert rows(file.text) == [
        ["month", "country", "sender", "messages", "parts", "credits"],
        [month[1], "IT", "<b>SHOP</b>", "1", "1", "1"],
        [month[1], "IT", "ACME", "3", "4", "4"],
    ]
    assert "Italia 4 5 5 100 %" in extract_text(alice.get(MONTHS, headers={"Accept-Language": "it"}).text)


def test_a_month_of_many_senders_shows_the_dearest(alice: Browser, conn: db.Connection) -> None:
    account = acting.get_account(conn, "smpp-acme-1")
    month = statement.list_statement_months(conn, account.id)[0]
    for number in range(60):
        values = (account.id, rollup.MONTH, month, "IT", f"=S{number}", 1, 0, 0, 0, 0, 1, 1000 + number)
        conn.execute("INSERT INTO statistics VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    page = alice.get(MONTHS).text
    assert "=S59" in page
    assert "=S10" in page
    assert "=S9<" not in page
    assert "These are the 50 senders that cost most." in extract_text(page)
    file = rows(alice.get(f"{MONTHS}.csv").text)
    assert len(file) == 61
    assert all(line[2].startswith("'=S") for line in file[1:])


@pytest.mark.usefixtures("long_ago")
def test_another_month_is_chosen_in_the_address(alice: Browser, conn: db.Connection) -> None:
    acting.send_texts(conn, "smpp-acme-1", "one")
    months = statement.list_statement_months(conn, acting.get_account(conn, "smpp-acme-1").id)
    assert len(months) >= 13
    page = alice.get(f"{MONTHS}?month={statement.format_month(months[3])}").text
    assert f'<option value="{statement.format_month(months[3])}" selected>' in page
    assert "credits used 0" in extract_text(page)
    for wrong in ("x", "2026-13", "99999-01"):
        assert alice.get(f"{MONTHS}?month={wrong}").status_code == 404
        assert alice.get(f"{MONTHS}.csv?month={wrong}").status_code == 404


# --- who may


def test_a_viewer_sees_it_all_and_another_customer_nothing(client: Client, cast: Cast, conn: db.Connection) -> None:
    for address in (CREDITS, f"{CREDITS}.csv", f"{CREDITS}/course", MONTHS, f"{MONTHS}.csv"):
        assert client(cast.bob).get(address).status_code == 200
        assert client(cast.olga).get(address).status_code == 200
        assert client(cast.charlie).get(address).status_code == 404
