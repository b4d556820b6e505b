"""What was refused of all accounts, as operators see it."""

import csv
import io
from collections.abc import Callable

import pytest

from portal.core import db
from portal.core.clock import DAY_MS, now_ms
from portal.services.accounts import accounts, refused_binds
from portal.services.accounts.accounts import Account
from portal.services.accounts.refused_binds import NOT_AUTHORISED, TOO_MANY_BINDS, RefusedBind
from portal.services.accounts.refused_messages import COUNTRY, PRICE, SENDER, THROUGHPUT, WINDOW
from portal.services.common.audit import SHELL
from portal.services.senders import senders
from portal.services.statistics import daily_totals
from tests.support import Cast, Person, record_refused_messages
from tests.web.acting import extract_text
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
REFUSED = "/admin/refused"


@pytest.fixture
def acme_1(conn: db.Connection) -> Account:
    return accounts.get_account(conn, "smpp-acme-1")


@pytest.fixture
def globex_1(conn: db.Connection) -> Account:
    return accounts.get_account(conn, "smpp-globex-1")


def record_binds(conn: db.Connection, *binds: RefusedBind) -> None:
    refused_binds.record_refused_binds(conn, binds)


def test_accounts_are_listed_by_how_much_was_refused_of_them(
    olga: Browser, conn: db.Connection, acme_1: Account, globex_1: Account
) -> None:
    now = now_ms()
    record_refused_messages(conn, acme_1.id, {(SENDER, "NOTMINE"): 1118}, now - 5)
    record_binds(conn, RefusedBind(globex_1.id, "203.0.113.7", NOT_AUTHORISED, now))
    page = extract_text(olga.get(REFUSED).text)
    assert page.index("smpp-acme-1") < page.index("smpp-globex-1")
    assert "The sender NOTMINE isn't approved. 1,118" in page
    assert "203.0.113.7 It is not an authorised IP. 1 " in page
    latest = extract_text(olga.get(f"{REFUSED}?sort=latest").text)
    assert latest.index("smpp-globex-1") < latest.index("smpp-acme-1")


def test_each_reason_has_the_operator_s_remedy(olga: Browser, conn: db.Connection, acme_1: Account) -> None:
    now = now_ms()

    def find_remedy(text: str) -> str:
        page = olga.get(REFUSED, query_string={"reason": text}).text
        return page.partition('<td class="act">')[2].partition('href="')[2].partition('"')[0]

    values = {SENDER: "NOTMINE", THROUGHPUT: "20", COUNTRY: "FR", PRICE: "FR", WINDOW: "10"}
    record_refused_messages(conn, acme_1.id, dict.fromkeys(values.items(), 1), now)
    record_binds(conn, RefusedBind(acme_1.id, "203.0.113.7", TOO_MANY_BINDS, now))
    account = "/admin/accounts/smpp-acme-1"
    assert find_remedy(THROUGHPUT) == find_remedy(WINDOW) == find_remedy(TOO_MANY_BINDS) == f"{account}#limits"
    assert find_remedy(COUNTRY) == f"{account}#brakes"
    assert find_remedy(PRICE) == "/admin/prices"
    assert find_remedy(SENDER) == "/accounts/smpp-acme-1/senders"
    waiting = senders.add_sender(conn, SHELL, acme_1, "NOTMINE", reason="ours")
    assert find_remedy(SENDER) == f"/admin/senders/{waiting.id}"


def test_what_the_history_has_counts_too(olga: Browser, conn: db.Connection, acme_1: Account) -> None:
    """Five without credits."""
    daily_totals.add_daily_totals(conn, [(acme_1.id, now_ms() // DAY_MS, 0, 0, 0, 0, 5, 0, 0)])
    answer = olga.get(REFUSED)
    assert "The credits didn't cover it. 5 " in extract_text(answer.text)
    assert "/admin/accounts/smpp-acme-1#grant" in answer.text


def test_it_is_filtered_by_period_reason_and_name(
    olga: Browser, conn: db.Connection, acme_1: Account, globex_1: Account
) -> None:
    now = now_ms()
    record_refused_messages(conn, acme_1.id, {(SENDER, "NOTMINE"): 1, (THROUGHPUT, "20"): 2}, now)
    record_refused_messages(conn, globex_1.id, {(SENDER, "OLD"): 1}, now - 5 * DAY_MS)

    def list_shown(**params: str) -> set[str]:
        page = olga.get(REFUSED, query_string=params).text
        return {each for each in ("NOTMINE", "OLD", "throughput of 20") if each in page}

    assert list_shown() == {"NOTMINE", "throughput of 20"}
    assert list_shown(period="7d") == {"NOTMINE", "OLD", "throughput of 20"}
    assert list_shown(period="7d", reason=SENDER) == {"NOTMINE", "OLD"}
    assert list_shown(period="7d", q="gLOBEX") == {"OLD"}
    assert list_shown(period="7d", q="ACME-1") == {"NOTMINE", "throughput of 20"}
    assert list_shown(q="%") == set()
    assert "Nothing found" in olga.get(f"{REFUSED}?q=nobody").text


def test_of_an_account_the_weightiest_are_shown_and_the_file_has_all(
    olga: Browser, conn: db.Connection, acme_1: Account
) -> None:
    record_refused_messages(conn, acme_1.id, {(SENDER, f"S{each}"): each for each in range(1, 9)}, now_ms())
    answer = olga.get(REFUSED)
    assert "S8" in answer.text
    assert "S5" not in answer.text
    assert "5 more of this account" in answer.text
    assert 'href="/accounts/smpp-acme-1/refused"' in answer.text
    rows = list(csv.DictReader(io.StringIO(olga.get(f"{REFUSED}.csv").text), delimiter=";"))
    assert [(each["value"], each["count"]) for each in rows] == [(f"S{each}", str(each)) for each in range(8, 0, -1)]
    assert {(each["account"], each["customer"], each["kind"], each["reason"]) for each in rows} == {
        ("smpp-acme-1", "Acme", "message", "sender")
    }
    assert rows[0]["text"] == "The sender S8 isn't approved."


def test_unknown_system_ids_are_listed_with_their_addresses(olga: Browser, conn: db.Connection) -> None:
    now = now_ms()
    record_binds(
        conn, *(RefusedBind(0, f"203.0.113.{each}", "", now - each, system_id="admin") for each in range(1, 28))
    )
    page = extract_text(olga.get(REFUSED).text)
    assert "admin 203.0.113.1 1 " in page
    assert "admin 203.0.113.25 1 " in page
    assert "203.0.113.26" not in page
    assert "2 more" in page
    assert "Nothing was refused" in page


def test_of_a_deleted_account_nothing_is_told(olga: Browser, conn: db.Connection, acme_1: Account) -> None:
    record_refused_messages(conn, acme_1.id, {(SENDER, "NOTMINE"): 1}, now_ms())
    conn.execute("UPDATE accounts SET deleted_at = 1 WHERE id = ?", (acme_1.id,))
    assert "NOTMINE" not in olga.get(REFUSED).text


@pytest.mark.parametrize("path", [REFUSED, f"{REFUSED}.csv"])
def test_customers_do_not_see_it(client: Client, cast: Cast, path: str) -> None:
    assert client(cast.alice).get(path).status_code == 404
    assert client(cast.olga).get(path).status_code == 200
