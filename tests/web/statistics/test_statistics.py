"""The page of an account's statistics: figures, chart, tables and files of what was asked for."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape

import pytest
from flask import Flask

from portal.core import clock, db
from portal.core.config import Config
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED
from portal.services.messages import blacklist, intake, outcomes
from portal.services.people import authentication, users
from portal.services.statistics import rollup
from tests.serving import start_server
from tests.support import Cast, Person, prepare_submit, record_refused_messages, wait_until
from tests.web import acting
from tests.web.acting import extract_text
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
HOME = "/accounts/smpp-acme-1"
STATISTICS = f"{HOME}/statistics"
# 10:30 of a Monday.
NOW = int(datetime(2026, 11, 23, 10, 30, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


@pytest.fixture(autouse=True)
def monday(conn: db.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is at that moment, and what the cast has done is older."""
    monkeypatch.setattr("portal.web.statistics.statistics.now_ms", lambda: NOW)
    monkeypatch.setattr("portal.web.core.periods.now_ms", lambda: NOW)


def send(conn: db.Connection, days_ago: float, *endings: int | None, source: str = "ACME", seconds: int = 4) -> None:
    """A message for each of these ("ptt"; None: still on its way), that took so long to end."""
    at = NOW - int(days_ago * clock.DAY_MS)
    conn.execute("UPDATE accounts SET any_sender = 1")
    message_ids = acting.send_texts(conn, "smpp-acme-1", *("x" for _ in endings), source=source, at=at)
    for ptt, message_id in zip(endings, message_ids, strict=True):
        if ptt is not None:
            state = DELIVERED if ptt == 0 else 5
            outcomes.finish_messages(
                conn, [outcomes.MessageOutcome(message_id, state, ptt, ids.time_from_id(message_id) + seconds * 1000)]
            )
    rollup.roll_up_all(conn)


def stats(page: str) -> dict[str, str]:
    """The large figures by their names, with what stands behind these."""
    found = re.search(r'<dl class="stats.*?</dl>', page, re.DOTALL)
    assert found
    pairs = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", found[0], re.DOTALL)
    return {extract_text(label): extract_text(value) for label, value in pairs}


def table(page: str, label: str) -> list[list[str]]:
    """The lines of a table, its head first."""
    found = re.search(rf'<table[^>]* aria-label="{re.escape(label)}">(.*?)</table>', page, re.DOTALL)
    assert found, f"no table is called {label}"
    return [
        [extract_text(cell) for cell in re.split(r"<t[hd][^>]*>", row)[1:]] for row in re.split(r"<tr>", found[1])[1:]
    ]


def rows(answer: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(answer), delimiter=";"))


# --- what is shown


def test_the_figures_stand_beside_those_of_the_period_before(alice: Browser, conn: db.Connection) -> None:
    send(conn, 9, 0, 0, 0, 9, seconds=8)
    blacklist.add_blacklist_number(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), "393401234567")
    send(conn, 8, 0, 0)
    conn.execute("DELETE FROM blacklist")
    send(conn, 2, 0, 0, 0, 9, 9, None, seconds=2)
    page = alice.get(f"{STATISTICS}?period=7d").text
    assert stats(page) == {
        "sent +50 %": "6",
        "delivered 0 %": "3",
        "failed +100 %": "2",
        "stopped -100 %": "0",
        "on their way": "1",
        "delivery rate -15 points": "60 %",
        "median time to delivery -75 %": "≈ 2 s",
        "95 % delivered within -75 %": "≈ 2 s",
        "parts +50 %": "6",
        "credits used +50 %": "6",
    }
    assert "17 Nov – 23 Nov 2026. Days and months begin and end at midnight UTC." in extract_text(page)
    before = "Compared with 10 Nov – 16 Nov 2026, until 11:00"
    lines = {line[0]: line[1:] for line in table(page, before)}
    assert lines[""] == ["This period", "Before", "Change"]
    assert lines["sent"] == ["6", "4", "+50 %"]
    assert lines["stopped"] == ["0", "2", "-100 %"]
    assert lines["delivery rate"] == ["60 %", "75 %", "-15 points"]
    assert lines["median time to delivery"] == ["≈ 2 s", "≈ 7.9 s", "-75 %"]
    assert "on their way" not in lines


def test_what_was_refused_is_told_with_where_it_is_listed(alice: Browser, conn: db.Connection) -> None:
    account_id = acting.get_account(conn, "smpp-acme-1").id
    day = clock.DAY_MS
    for days_ago, count in ((0, 1), (5, 10), (10, 100), (30, 1_000), (32, 100_000)):
        record_refused_messages(conn, account_id, {("sender", "NOTMINE"): count}, NOW - days_ago * day)
    other = acting.get_account(conn, "smpp-acme-2").id
    record_refused_messages(conn, other, {("sender", "OTHERS"): 7}, NOW)

    def told(query: str) -> tuple[str, str]:
        page = alice.get(f"{STATISTICS}?{query}").text
        found = re.search(rf'<p class="muted small">\s*<a href="{HOME}/refused\?(.*?)">.*?</p>', page, re.DOTALL)
        return (extract_text(found[0]), unescape(found[1])) if found else ("", "")

    # Where nothing was sent at all, and where something was.
    assert told("period=today") == (
        "1 message was refused and is not counted here.", "kind=message&period=today",
    )  # fmt: skip
    send(conn, 0.1, 0)
    assert told("period=7d") == ("11 messages were refused and are not counted here.", "kind=message&period=7d")
    assert told("period=30d")[0] == "111 messages were refused and are not counted here."
    cut = "1,111 messages were refused and are not counted here. Only those of the last 31 days are known."
    assert told("period=12m") == (cut, "kind=message&period=range&to=2026-11-23&from=2025-12-01")
    assert told("period=all") == (cut, "kind=message&period=range&to=2026-11-23")
    assert told("period=range&from=2026-11-12&to=2026-11-18") == (
        "110 messages were refused and are not counted here.",
        "kind=message&period=range&to=2026-11-18&from=2026-11-12",
    )
    assert told("period=range&from=2026-11-19&to=2026-11-22") == ("", "")
    assert told("period=range&from=2026-09-01&to=2026-10-01") == ("", "")
    alice.post("/language", data={"locale": "it", "next": "/"})
    assert told("period=all")[0] == (
        "1.111 messaggi sono stati rifiutati e non sono contati qui. Si conoscono solo quelli degli ultimi 31 giorni."
    )


def test_each_table_tells_its_part(alice: Browser, conn: db.Connection) -> None:
    send(conn, 1, 0, 0, 0, 800, None)
    send(conn, 0.1, 0, source="<b>Shop")
    page = alice.get(STATISTICS).text
    assert table(page, "By status") == [
        ["Status", "Messages", "Share"],
        ["Delivered 0", "4", "66.7 %"],
        ["On its way 254", "1", "16.7 %"],
        ["Undeliverable 800", "1", "16.7 %"],
    ]
    assert table(page, "By country")[1:] == [["Italy", "6", "4", "1", "80 %"]]
    assert table(page, "By sender")[1:] == [["ACME", "5", "3", "1", "75 %"], ["<b>Shop", "1", "1", "0", "100 %"]]
    assert table(page, "Time to delivery")[1:] == [["5 s", "100 %"]]
    assert "<b>Shop" not in page


def test_the_chart_stacks_what_became_of_them(alice: Browser, conn: db.Connection) -> None:
    send(conn, 2, *[0] * 6, 9, 9, None, None)
    send(conn, 0, *[0] * 5)
    page = alice.get(f"{STATISTICS}?period=7d").text
    label = 'aria-label="Messages from 17 Nov to 23 Nov; delivered: 11; failed: 2; on their way: 2"'
    assert label in page
    drawn = dict(re.findall(r'<path(?: class="(\w+)")? d="(M1\.5[^"]+)"', page.split(label)[1].split("</svg>")[0]))
    assert drawn == {
        # The highest layer is drawn first: those below hide it, but for its own part.
        "c": "M1.5 0h40v-120h7V0",
        "b": "M1.5 0h40v-96h7V0",
        "": "M1.5 0h40v-72h7V0h13v-60h7V0",
    }
    assert list(drawn) == ["c", "b", ""]
    assert "Highest: 10" in page
    assert page.count('<span class="key') == 3
    shown = table(alice.get(f"{STATISTICS}/table?period=7d").text, "Statistics")
    assert shown[0] == ["Day", "Sent", "Delivered", "Failed", "On their way"]
    assert shown[1] == ["23 Nov", "5", "5", "0", "0"]
    assert shown[3] == ["21 Nov", "10", "6", "2", "2"]
    assert len(shown) == 8


@pytest.mark.slow
def test_one_that_failed_of_many_is_seen(alice: Browser, conn: db.Connection) -> None:
    send(conn, 1, *[0] * 131)
    # On the chart's scale, 11 and 12 are of one height.
    send(conn, 0, *[0] * 11, 9)
    page = alice.get(f"{STATISTICS}?from=2026-11-22&to=2026-11-23").text
    assert 'aria-label="Messages from 22 Nov, 00:00 to' in page
    page = alice.get(f"{STATISTICS}?from=2026-11-22&to=2026-11-23&grain=day").text
    assert 'class="b" d="M1.5 0h10v-11h7V0"' in page
    assert '<path d="M1.5 0v-120h7V0h3v-10h7V0"' in page


@pytest.mark.parametrize(
    ("query", "first", "last", "steps"),
    [
        ("period=today", "00:00", "10:00", 11),
        ("period=7d&grain=hour", "17 Nov, 00:00", "23 Nov, 10:00", 6 * 24 + 11),
        ("", "25 Oct", "23 Nov", 30),
        ("period=month", "1 Nov", "23 Nov", 23),
        ("period=last-month", "1 Oct", "31 Oct", 31),
        ("period=12m", "December 2025", "November 2026", 12),
        ("period=nonsense&grain=nonsense", "25 Oct", "23 Nov", 30),
        ("from=2026-11-03&to=2026-11-05", "3 Nov", "5 Nov", 3),
        ("period=range&from=2026-09-03&to=2026-11-05&grain=month", "September 2026", "November 2026", 3),
        ("period=all", "2 Sept", "23 Nov", 83),
        ("period=all&grain=month", "September 2026", "November 2026", 3),
    ],
)
def test_the_address_says_which_period_and_how_it_is_cut_up(
    alice: Browser, conn: db.Connection, query: str, first: str, last: str, steps: int
) -> None:
    for days_ago in (82, 30, 19, 0):
        send(conn, days_ago, 0)
    page = alice.get(f"{STATISTICS}?{query}").text
    assert f'aria-label="Messages from {first} to {last};' in page
    assert len(rows(alice.get(f"{STATISTICS}.csv?{query}").text)) == steps + 1
    assert "by day at most 92" not in page


def test_too_many_bars_are_fewer_and_the_page_says_so(alice: Browser, conn: db.Connection) -> None:
    send(conn, 0, 0)
    page = alice.get(f"{STATISTICS}?period=30d&grain=hour").text
    assert 'aria-label="Messages from 25 Oct to 23 Nov;' in page
    assert "By hour at most 7 days are shown, and the last 93; by day at most 92." in page
    assert '<option selected value="hour">' in page


def test_days_are_utc_wherever_the_installation_is(
    make_app: Callable[[Config], Flask], config: Config, cast: Cast, conn: db.Connection
) -> None:
    # Where it is Tuesday.
    app = make_app(replace(config, timezone="Pacific/Kiritimati"))
    token = authentication.start_login_session(
        conn, users.get_user_by_email(conn, cast.alice.email), "127.0.0.1", "a test"
    )
    browser = app.test_client()
    assert isinstance(browser, Browser)
    alice = browser.use_login_session(token)
    send(conn, 0, 0)
    lines = rows(alice.get(f"{STATISTICS}.csv?period=today").text)
    assert (lines[1][0], lines[-1][0]) == ("2026-11-23T00:00:00Z", "2026-11-23T10:00:00Z")


# --- files


def test_the_csv_has_what_the_page_shows(alice: Browser, conn: db.Connection) -> None:
    send(conn, 1, 0, 0, 0, 9, None)
    send(conn, 0, 0, source="=1+1")
    answer = alice.get(f"{STATISTICS}.csv?period=7d")
    assert answer.mimetype == "text/csv"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="smpp-acme-1-statistics-time.csv"'
    head, *lines = rows(answer.text)
    assert head == "begins;sent;delivered;failed;pending;stopped;refused;parts;credits;rate".split(";")
    assert lines[4] == ["2026-11-21T00:00:00Z", *["0"] * 8, ""]
    assert lines[5] == ["2026-11-22T00:00:00Z", "5", "3", "1", "1", "0", "0", "5", "5", "0.7500"]
    by_country = rows(alice.get(f"{STATISTICS}.csv?of=country").text)
    assert by_country[1:] == [["IT", "6", "4", "1", "1", "0", "0", "6", "6", "0.8000"]]
    by_sender = rows(alice.get(f"{STATISTICS}.csv?of=sender").text)
    assert [line[0] for line in by_sender] == ["sender", "ACME", "'=1+1"]
    by_status = rows(alice.get(f"{STATISTICS}.csv?of=status").text)
    assert by_status == [
        ["ptt", "description", "messages"],
        ["0", "Delivered", "4"],
        ["9", "Undeliverable", "1"],
        ["254", "On its way", "1"],
    ]
    assert alice.get(f"{STATISTICS}.csv?of=nonsense&bom=1").text.startswith("\ufeffbegins;")
    page = alice.get(f"{STATISTICS}?period=7d&grain=day").text
    for of in ("time", "country", "sender", "status"):
        assert f'href="{STATISTICS}.csv?period=7d&amp;grain=day&amp;of={of}"' in page


@pytest.mark.slow
def test_the_page_shows_fifty_senders_and_the_csv_all(alice: Browser, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET balance = 10000000")
    for number in range(52):
        send(conn, 0, *[0] * (2 if number == 51 else 1), source=f"S{number:02}")
    page = alice.get(STATISTICS).text
    shown = [line[0] for line in table(page, "By sender")[1:]]
    assert shown == ["S51", *(f"S{number:02}" for number in range(49))]
    assert "These are the 50 with the most messages. The CSV has all of them." in page
    assert len(rows(alice.get(f"{STATISTICS}.csv?of=sender").text)) == 53
    assert len(page.encode()) < 16_000


# --- who, and what can't be read


def test_a_bad_date_is_said_at_its_field(alice: Browser, conn: db.Connection) -> None:
    send(conn, 0, 0)
    bad = "period=range&from=yesterday&to=2026-11-23"
    answer = alice.get(f"{STATISTICS}?{bad}")
    assert answer.status_code == 422
    assert "“yesterday” isn&#39;t a date" in answer.text or "“yesterday” isn't a date" in answer.text
    assert 'value="yesterday"' in answer.text
    assert "25 Oct – 23 Nov 2026" in answer.text
    answer = alice.get(f"{STATISTICS}?from=2026-11-20&to=2026-11-10")
    assert answer.status_code == 422
    assert "This day comes before the first one." in answer.text
    for each in (".csv", "/table"):
        answer = alice.get(f"{STATISTICS}{each}?{bad}")
        assert (answer.status_code, answer.location) == (303, f"{STATISTICS}?{bad}")


def test_an_account_without_messages_says_what_will_be_here(alice: Browser, conn: db.Connection) -> None:
    for query in ("", "?period=all", "?period=today"):
        page = alice.get(STATISTICS + query).text
        assert "No message yet" in page
        assert ".csv" not in page
    assert "Nothing was sent in this period." in alice.get(f"{STATISTICS}/table").text
    for of in ("time", "status"):
        assert len(rows(alice.get(f"{STATISTICS}.csv?of={of}").text)) == 1
    send(conn, 40, 0)
    page = alice.get(f"{STATISTICS}?period=today").text
    assert "Nothing was sent in this period." in page
    assert 'href="?period=all"' in page


def test_nothing_now_after_something_before_is_a_figure_too(alice: Browser, conn: db.Connection) -> None:
    send(conn, 10, 0)
    page = alice.get(f"{STATISTICS}?period=7d").text
    assert stats(page)["sent -100 %"] == "0"
    assert stats(page)["delivery rate"] == stats(page)["median time to delivery"] == "–"
    assert "By country" not in page


def test_what_was_refused_for_want_of_credits_is_told(alice: Browser, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET balance = 1000")
    acting.send_texts(conn, "smpp-acme-1", "one", "two", at=NOW)
    page = alice.get(STATISTICS).text
    assert stats(page)["not sent: no credits"] == "1"
    assert ["Not enough credits 10", "1", "50 %"] in table(page, "By status")


def test_viewers_may_look_and_strangers_find_nothing(client: Client, cast: Cast, conn: db.Connection) -> None:
    send(conn, 0, 0)
    bob, charlie = client(cast.bob), client(cast.charlie)
    for each in ("", "/table", ".csv"):
        assert bob.get(f"{STATISTICS}{each}").status_code == 200
        assert charlie.get(f"{STATISTICS}{each}").status_code == 404


def test_in_italian(alice: Browser, conn: db.Connection) -> None:
    send(conn, 9, 0, 9)
    send(conn, 0, *[0] * 3, 9, None)
    page = alice.get(f"{STATISTICS}?period=7d", headers={"Accept-Language": "it"}).text
    assert stats(page)["tasso di consegna +25 punti"] == "75 %"
    assert "I giorni e i mesi cominciano e finiscono a mezzanotte UTC." in page
    assert table(page, "Per paese")[0] == ["Paese", "Inviati", "Consegnati", "Non riusciti", "Tasso"]
    assert 'aria-label="Messaggi da 17 nov a 23 nov; consegnati: 3; non riusciti: 1; in transito: 1"' in page


def test_the_tabs_and_the_home_lead_there(alice: Browser) -> None:
    page = alice.get(HOME).text
    assert page.count(f'href="{STATISTICS}"') == 2
    assert f'<a href="{STATISTICS}" aria-current="page">' in alice.get(STATISTICS).text


@pytest.mark.slow
def test_the_server_counts_what_comes_and_forgets_old_hours(config: Config, conn: db.Connection) -> None:
    (old,) = acting.send_texts(conn, "smpp-acme-1", "x", at=clock.now_ms() - 100 * clock.DAY_MS)
    (new,) = intake.store_messages(conn, [prepare_submit(conn, acting.get_account(conn, "smpp-acme-1").id)]).message_ids
    assert new is not None
    hours = "SELECT begins FROM statistics WHERE length = 0 ORDER BY begins"
    assert [row[0] for row in conn.execute(hours)] == [ids.time_from_id(old) // 3_600_000]
    with start_server(config, "web"):
        wait_until(lambda: [row[0] for row in conn.execute(hours)] == [ids.time_from_id(new) // 3_600_000])
