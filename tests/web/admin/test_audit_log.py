"""The audit log's page for operators, and its files."""

import csv
import json
import re
from collections.abc import Callable
from urllib.parse import parse_qs

import pytest

from portal.core import db
from portal.services.accounts import accounts
from portal.services.common import audit
from portal.services.common.audit import SHELL, Actor
from portal.services.operations.audit_log import ACTION_LABELS
from tests.support import Cast, Person
from tests.web.acting import SCRIPT_INJECTION, extract_text
from tests.web.conftest import Browser

PAGE = "/admin/audit"
MARTA = Actor("marta@acme.example", "203.0.113.7")


@pytest.fixture(autouse=True)
def rows(olga: Browser, conn: db.Connection, cast: Cast) -> None:
    """Four rows and no others."""
    conn.execute("DELETE FROM audit_log")
    account = accounts.get_account(conn, "smpp-acme-1")
    audit.record_action(conn, SHELL, "customer.add", customer_id=cast.globex, name="Globex")
    accounts.record_account_action(conn, MARTA, "ip.add", account, network="192.0.2.1", label=SCRIPT_INJECTION)
    accounts.record_account_action(conn, SHELL, "credits.grant", account, amount=5_000_000)
    audit.record_action(
        conn,
        Actor("=1+1", "198.51.100.1"),
        "login.unknown_email",
        at=1_700_000_000_000,
        count=7,
        last_at=1_700_000_060_000,
    )
    audit.record_action(conn, Actor("", "2001:db8::/64"), "login.throttled", count=500, last_at=1_700_000_060_000)


def list_actions(page: str) -> list[str]:
    """The actions of the table's rows, in words."""
    return [extract_text(each) for each in re.findall(r'<th scope="row">.*?</th><td[^>]*>(.*?)</td>', page, re.DOTALL)]


def test_who_did_what_in_words(olga: Browser) -> None:
    page = olga.get(PAGE).text
    assert list_actions(page) == [
        "Login refused: too many attempts 500 times, until 14 Nov 2023, 22:14:20 UTC",
        "Login refused: unknown e-mail address 7 times, until 14 Nov 2023, 22:14:20 UTC",
        "Credits granted",
        "IP authorised",
        "Customer added",
    ]
    text = extract_text(page)
    for shown in ("marta@acme.example", "203.0.113.7", "smpp-acme-1", "network 192.0.2.1", "amount 5,000", "several"):
        assert shown in text
    assert SCRIPT_INJECTION in text
    assert SCRIPT_INJECTION not in page
    assert "Rows are kept for 730 days." in text


def test_in_italian(olga: Browser, conn: db.Connection) -> None:
    conn.execute("UPDATE users SET language = 'it'")
    page = olga.get(PAGE).text
    assert "fino al 14 nov 2023" in page
    assert list_actions(page)[2:] == ["Crediti accreditati", "IP autorizzato", "Cliente aggiunto"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("actor=MARTA@acme.example", ["IP authorised"]),
        ("action=ip.add", ["IP authorised"]),
        ("address=203.0.113.7&actor=", ["IP authorised"]),
        ("actor=System", []),
        (
            "actor=%3D1%2B1&period=all",
            ["Login refused: unknown e-mail address 7 times, until 14 Nov 2023, 22:14:20 UTC"],
        ),
        ("address=2001:db8:0::/64", ["Login refused: too many attempts 500 times, until 14 Nov 2023, 22:14:20 UTC"]),
        ("account=smpp-acme-1", ["Credits granted", "IP authorised"]),
        ("account=smpp-acme-1&actor=shell", ["Credits granted"]),
        (
            "from=2023-11-14&to=2023-11-14",
            ["Login refused: unknown e-mail address 7 times, until 14 Nov 2023, 22:14:20 UTC"],
        ),
        ("period=today&action=customer.add", ["Customer added"]),
    ],
)
def test_filters(olga: Browser, query: str, found: list[str]) -> None:
    assert list_actions(olga.get(f"{PAGE}?{query}").text) == found
    lines = olga.get(f"{PAGE}.jsonl?{query}").text.splitlines()
    assert [ACTION_LABELS[json.loads(each)["action"]] for each in lines] == [
        re.sub(r" \d+ times.*", "", each) for each in found
    ]


def test_the_filter_folds_on_a_phone_unless_it_is_used(olga: Browser) -> None:
    """The page's script folds what has no `data-on`."""
    for query, shown in (("", "open>"), ("?actor=shell", "open data-on>"), ("?address=203.0.113", "open data-on>")):
        assert f'<details class="asks" {shown}' in olga.get(f"{PAGE}{query}").text


def test_times_stay_in_one_line(olga: Browser) -> None:
    """As `app.css` says of `<time>` in tables."""
    shown = '<th scope="row"><time datetime="2023-11-14T22:13:20Z">14 Nov 2023, 22:13:20 UTC</time></th>'
    assert shown in olga.get(PAGE).text


def test_by_customer(olga: Browser, cast: Cast) -> None:
    page = olga.get(f"{PAGE}?customer={cast.globex}").text
    assert list_actions(page) == ["Customer added"]
    assert f'<option selected value="{cast.globex}">' in page


def test_what_is_not_found_says_so(olga: Browser) -> None:
    text = extract_text(olga.get(f"{PAGE}?actor=nobody@acme.example").text)
    assert "No row matches." in text
    assert "Show all" in text


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("account=smpp-nobodys&action=ip.add", "There is no account “smpp-nobodys”."),
        ("from=yesterday&action=ip.add", "“yesterday” isn't a date. Example: 2026-11-22."),
        ("actor=marta&action=ip.add", "There is no “marta” in the audit log. Give a whole"),
        ("address=203.0.113&action=ip.add", "“203.0.113” isn't a whole IP address. Example: 203.0.113.7."),
        ("address=203.0.113.0/24", "Of networks, only a /64 of IPv6 can be looked for."),
        ("address=2001:db8::/48", "Of networks, only a /64 of IPv6 can be looked for."),
    ],
)
def test_what_is_invalid_is_said_at_its_field_and_kept(olga: Browser, query: str, sentence: str) -> None:
    answer = olga.get(f"{PAGE}?{query}")
    assert answer.status_code == 422
    assert sentence in extract_text(answer.text)
    typed = next(iter(parse_qs(query).values()))[0]
    assert re.search(rf'aria-invalid="true"[^>]* value="{re.escape(typed)}"', answer.text)
    # Nor rows of a filter without it.
    assert not list_actions(answer.text)
    assert "Download" not in answer.text
    assert "No row matches." not in answer.text
    for ending in ("csv", "jsonl"):
        refused = olga.get(f"{PAGE}.{ending}?{query}")
        assert (refused.status_code, refused.location) == (303, f"{PAGE}?{query}")


def test_an_action_of_an_older_version_can_be_chosen(olga: Browser, conn: db.Connection) -> None:
    db.insert_row(conn, "audit_log", at=1, actor="shell", address="", action="zone.change", details="{}")
    page = olga.get(f"{PAGE}?action=zone.change").text
    assert list_actions(page) == ["zone.change"]
    assert '<option selected value="zone.change">zone.change</option>' in page


@pytest.mark.parametrize("query", ["customer=x", "customer=99999999999999999999", "action=none", "before=x"])
def test_forged_queries_are_no_error(olga: Browser, query: str) -> None:
    assert olga.get(f"{PAGE}?{query}").status_code in (200, 404)


def test_pages_keep_the_filter(olga: Browser, conn: db.Connection) -> None:
    for number in range(30):
        audit.record_action(conn, MARTA, "order.pay", order=str(number))
    page = olga.get(f"{PAGE}?action=order.pay").text
    assert len(list_actions(page)) == 25
    older = re.search(r'href="\?(action=order\.pay&amp;before=\d+)"', page)
    assert older
    assert len(list_actions(olga.get(f"{PAGE}?{older[1].replace('&amp;', '&')}").text)) == 5


def test_csv(olga: Browser) -> None:
    answer = olga.get(f"{PAGE}.csv?bom=1")
    assert answer.text.startswith("\ufeffid;at;actor;address;customer;account;action;count;last;details\r\n")
    rows = list(csv.DictReader(answer.text.lstrip("\ufeff").splitlines(), delimiter=";"))
    assert [each["action"] for each in rows[1:3]] == ["login.unknown_email", "credits.grant"]
    assert (
        rows[1].items()
        >= {"actor": "'=1+1", "count": "7", "at": "2023-11-14T22:13:20Z", "last": "2023-11-14T22:14:20Z"}.items()
    )
    assert json.loads(rows[2]["details"]) == {"amount": 5_000_000}


def test_customers_see_nothing_of_it(client: Callable[[Person], Browser], cast: Cast) -> None:
    for person in (cast.alice, cast.bob):
        browser = client(person)
        for path in (PAGE, f"{PAGE}.csv", f"{PAGE}.jsonl", f"{PAGE}?account=smpp-acme-1"):
            assert browser.get(path).status_code == 404
        assert PAGE not in browser.get("/").text
