"""The page of what was refused: why, how often, and what helps, for a period; and the same as a file."""

import csv
import io
import re
from collections.abc import Callable

import pytest

from portal.core import clock, i18n
from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.db import Connection
from portal.services.accounts import refused_binds
from portal.services.accounts.accounts import Account
from portal.services.accounts.refusals import OTHERS
from portal.services.brakes import brakes
from portal.services.brakes.brakes import OFF, Brakes
from portal.services.common.audit import SHELL
from portal.services.messages import blacklist
from portal.services.prices import prices
from portal.services.senders import senders
from tests.support import Cast, Person, record_refused_messages
from tests.web import acting
from tests.web.acting import extract_text
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
HOME = "/accounts/smpp-acme-1"
REFUSED = f"{HOME}/refused"
ADMIN = "/admin/accounts/smpp-acme-1"


@pytest.fixture
def acme_1(conn: Connection, cast: Cast) -> Account:
    return acting.get_account(conn, "smpp-acme-1")


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


def list_rows(page: str, kind: str) -> list[tuple[str, list[str]]]:
    """The rows of the list of messages, or of binds: the text of each, and what its buttons lead to or add."""
    tile = page.partition(f'id="refused-{kind}"')[2].partition("</section>")[0]
    return [
        (extract_text(row), re.findall(r'<(?:a|button)[^>]* (?:href|value)="([^"]*)"', row))
        for row in re.findall(r"<tr>(.*?)</tr>", tile.partition("<tbody>")[2], re.DOTALL)
    ]


def find_poll_address(page: str) -> str:
    """Where an open page asks what is new, with what it says of its own query."""
    seen = page.partition("seen=")[2].partition('"')[0].partition("&")[0]
    args = re.findall(r'class="live-arg" name="(\w+)" value="([^"]*)"', page)
    return f"{HOME}/live?seen={seen}&" + "&".join(f"{name}={value}" for name, value in args)


def test_it_says_so_where_nothing_was_refused(alice: Browser) -> None:
    page = alice.get(REFUSED).text
    assert extract_text(page).count("Nothing was refused.") == 2
    assert f'href="{REFUSED}" aria-current="page"' in page
    assert f'href="{HOME}/sessions"' in page


@pytest.mark.parametrize(
    ("reason", "value", "sentence", "helps", "operators_help"),
    [
        ("sender", "NOT MINE&", "The sender NOT MINE& isn't approved.", [f"{HOME}/senders?sender=NOT%20MINE%26"], None),
        ("sender", "WAITS", "The sender WAITS isn't approved.", [f"{HOME}/senders?q=WAITS"], None),
        ("sender", OTHERS, "Other senders that aren't approved.", [], None),
        ("destination", "", "The recipient is no number in international form, such as 393401234567.", [], None),
        ("price", "JP", "There is no price for Japan", [f"{HOME}/ask/price?value=JP"], "price"),
        ("coding", "4", "data_coding 4 isn't supported", [f"{HOME}/ask/coding?value=4"], "coding"),
        ("throughput", "20", "The throughput of 20 messages", [f"{HOME}/ask/throughput"], "throughput"),
        ("window", "10", "The window of 10 unanswered messages was full.", [f"{HOME}/ask/windowing"], "windowing"),
        ("country", "FR", "This account sends no messages to France", [f"{HOME}/options/brakes"], None),
        ("country", "JP", "This account sends no messages to Japan", [f"{HOME}/ask/countries?value=JP"], "countries"),
        ("day_messages", "", "The most messages a day (50) were reached.", [f"{HOME}/options/brakes"], None),
        ("state", "receiver", "The session was bound as a receiver", [], None),
        ("length", "", "The text is too long.", [], None),
        ("format", "ESME_RINVPARLEN", "The PDU isn't as SMPP 3.4 has it (ESME_RINVPARLEN).", [], None),
        ("server", "", "The server could not store it at that moment.", [], None),
    ],
)
def test_each_reason_in_plain_words_with_what_helps(
    client: Client,
    cast: Cast,
    conn: Connection,
    acme_1: Account,
    reason: str,
    value: str,
    sentence: str,
    helps: list[str],
    operators_help: str | None,
) -> None:
    senders.add_sender(conn, SHELL, acme_1, "WAITS")
    prices.set_prices(conn, SHELL, {"JP": None})
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(frozenset(("IT", "FR")), day_messages=100))
    brakes.set_own_brakes(conn, SHELL, acme_1, Brakes(frozenset(("IT",)), day_messages=50, unusual=OFF))
    record_refused_messages(conn, acme_1.id, {(reason, value): 1_234})
    ((text, links),) = list_rows(client(cast.alice).get(REFUSED).text, "message")
    assert text.startswith(sentence)
    assert " 1,234 since " in text
    assert len(links) == len(helps)
    assert all(link.startswith(expected) for link, expected in zip(links, helps, strict=True)), links
    # Operators set it themselves; who may only look sees the same without buttons.
    ((_, links),) = list_rows(client(cast.olga).get(REFUSED).text, "message")
    assert [each for each in links if "/ask/" in each] == []
    assert bool(links) is bool(helps)
    if operators_help:
        assert links[0].startswith("/admin/")
    ((text, links),) = list_rows(client(cast.bob).get(REFUSED).text, "message")
    assert (text.startswith(sentence), links) == (True, [])


def test_binds_stand_beside_with_their_remedies(alice: Browser, conn: Connection) -> None:
    for number, reason in enumerate(
        (refused_binds.NOT_AUTHORISED, refused_binds.WRONG_PASSWORD, refused_binds.THROTTLED), 7
    ):
        acting.refuse_binds(conn, "smpp-acme-1", f"203.0.113.{number}", reason, times=10 - number)
    rows = list_rows(alice.get(REFUSED).text, "bind")
    assert [text.split()[0] for text, _ in rows] == ["203.0.113.7", "203.0.113.8", "203.0.113.9"]
    assert [links for _, links in rows] == [["203.0.113.7"], [f"{HOME}/password"], []]
    alice.post(f"{HOME}/ips", data={"network": "203.0.113.7"})
    rows = list_rows(alice.get(REFUSED).text, "bind")
    assert [text.split()[0] for text, _ in rows] == ["203.0.113.8", "203.0.113.9", "203.0.113.7"]
    assert "It would be accepted now." in rows[2][0]
    assert rows[2][1] == []


def test_what_the_history_has_is_among_them(alice: Browser, conn: Connection, acme_1: Account) -> None:
    blacklist.add_blacklist_number(conn, SHELL, acme_1, "393401234567")
    acting.send_texts(conn, acme_1.name, "one", "two")
    conn.execute("DELETE FROM blacklist")
    conn.execute("UPDATE accounts SET balance = 0")
    acting.send_texts(conn, acme_1.name, "three")
    rows = dict(list_rows(alice.get(REFUSED).text, "message"))
    assert {text.partition(".")[0]: links for text, links in rows.items()} == {
        "The recipient is on the blacklist": [f"{HOME}/blacklist"],
        "The credits didn't cover it": [f"{HOME}/credits"],
    }


def test_of_a_period_and_of_a_kind(alice: Browser, conn: Connection, acme_1: Account) -> None:
    acting.refuse_binds(conn, acme_1.name, "203.0.113.7")
    for days_ago, sender in ((0, "TODAY"), (4, "THISWEEK"), (20, "THISMONTH"), (40, "LONGAGO")):
        record_refused_messages(conn, acme_1.id, {("sender", sender): 1}, now_ms() - days_ago * DAY_MS)
    record_refused_messages(conn, acting.get_account(conn, "smpp-acme-2").id, {("sender", "OTHERS"): 1}, now_ms())

    def listed(query: str) -> set[str]:
        text = extract_text(alice.get(f"{REFUSED}?{query}").text)
        return set(re.findall(r"The sender (\w+) isn't", text)) | set(re.findall(r"203\.0\.113\.7", text))

    week = {"TODAY", "THISWEEK", "203.0.113.7"}
    assert listed("period=today") == {"TODAY", "203.0.113.7"}
    assert listed("") == listed("period=7d") == listed("period=nonsense&kind=nonsense") == week
    assert listed("period=30d") == week | {"THISMONTH"}
    assert listed("period=30d&kind=message") == {"TODAY", "THISWEEK", "THISMONTH"}
    assert listed("period=30d&kind=bind") == {"203.0.113.7"}
    first, last = (i18n.format_iso8601(now_ms() - days * DAY_MS)[:10] for days in (21, 3))
    assert listed(f"period=range&from={first}&to={last}") == {"THISWEEK", "THISMONTH"}
    # All that is kept, not what was older and isn't deleted yet.
    assert listed("period=range") == week | {"THISMONTH"}
    page = alice.get(f"{REFUSED}?period=range&from=soon").text
    assert "“soon” isn't a date." in extract_text(page)


def test_an_open_page_counts_on_in_its_own_period_and_kind(alice: Browser, conn: Connection, acme_1: Account) -> None:
    acting.refuse_binds(conn, acme_1.name, "203.0.113.7")
    record_refused_messages(conn, acme_1.id, {("sender", "LASTWEEK"): 1}, now_ms() - 9 * DAY_MS)
    poll = find_poll_address(alice.get(f"{REFUSED}?period=30d&kind=message").text)
    assert alice.get(poll, htmx=True).status_code == 204
    record_refused_messages(conn, acme_1.id, {("sender", "NOTMINE"): 2})
    part = alice.get(poll, htmx=True).text
    assert {text.partition(" isn't")[0] for text, _ in list_rows(part, "message")} == {
        "The sender LASTWEEK",
        "The sender NOTMINE",
    }
    assert "203.0.113.7" not in part


def test_the_most_frequent_come_first_and_the_file_has_all(alice: Browser, conn: Connection, acme_1: Account) -> None:
    at = clock.now_ms() - HOUR_MS
    record_refused_messages(conn, acme_1.id, {("sender", f"S{number}"): number for number in range(1, 61)}, at)
    acting.refuse_binds(conn, acme_1.name, "203.0.113.7")
    page = alice.get(REFUSED).text
    rows = list_rows(page, "message")
    assert len(rows) == 50
    assert rows[0][0].startswith("The sender S60 isn't approved. 60 ")
    assert "10 more, which came less often, are in the file." in extract_text(page)
    assert f'href="{REFUSED}.csv?period=7d"' in page

    answer = alice.get(f"{REFUSED}.csv?period=7d&kind=message")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="smpp-acme-1-refused.csv"'
    head, *lines = csv.reader(io.StringIO(answer.text), delimiter=";")
    assert head == ["kind", "reason", "value", "count", "first", "latest", "why"]
    assert len(lines) == 60
    time = i18n.format_iso8601(at)
    assert lines[0] == ["message", "sender", "S60", "60", time, time, "The sender S60 isn't approved."]
    _, *lines = csv.reader(io.StringIO(alice.get(f"{REFUSED}.csv?kind=bind").text), delimiter=";")
    assert [line[:4] for line in lines] == [["bind", "not_authorised", "203.0.113.7", "1"]]
    assert alice.get(f"{REFUSED}.csv?period=range&from=soon").status_code == 303


def test_a_value_is_neither_markup_nor_a_formula(alice: Browser, conn: Connection, acme_1: Account) -> None:
    record_refused_messages(conn, acme_1.id, {("sender", "<b>=1+1"): 1, ("sender", "=1+1"): 1})
    assert "<b>=1" not in alice.get(REFUSED).text
    rows = list(csv.reader(io.StringIO(alice.get(f"{REFUSED}.csv").text), delimiter=";"))
    assert {row[2] for row in rows[1:]} == {"<b>=1+1", "'=1+1"}


def test_in_italian(alice: Browser, conn: Connection, acme_1: Account) -> None:
    record_refused_messages(conn, acme_1.id, {("sender", "NOTMINE"): 1_234, ("throughput", "20"): 2})
    acting.refuse_binds(conn, acme_1.name, "203.0.113.7")
    alice.post("/language", data={"locale": "it", "next": "/"})
    text = extract_text(alice.get(REFUSED).text)
    for sentence in (
        "Messaggi rifiutati 1.236",
        "Il mittente NOTMINE non è approvato. 1.234",
        "È stata raggiunta la velocità autorizzata di 20 messaggi al secondo.",
        "Chiedi di più",
        "Connessioni rifiutate 1",
        "Non è un IP autorizzato.",
    ):
        assert sentence in text
    assert "Il mittente NOTMINE non è approvato." in alice.get(f"{REFUSED}.csv").text


@pytest.mark.parametrize("address", [REFUSED, f"{REFUSED}.csv"])
def test_who_sees_it(client: Client, cast: Cast, conn: Connection, acme_1: Account, address: str) -> None:
    record_refused_messages(conn, acme_1.id, {("sender", "NOTMINE"): 1})
    for person in (cast.alice, cast.bob, cast.olga):
        assert "NOTMINE" in client(person).get(address).text
    assert client(cast.charlie).get(address).status_code == 404


def test_a_classic_account_has_no_such_page(alice: Browser) -> None:
    assert alice.get("/accounts/sms-acme-1/refused").status_code == 404
    assert alice.get("/accounts/sms-acme-1/refused.csv").status_code == 404
