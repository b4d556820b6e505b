"""Who may see and do what: every route, with everyone of the cast. A new route is covered without a line here."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from flask import Flask

from portal.core import db
from portal.core.crypto import Keys
from portal.services.accounts import accounts
from portal.services.billing import orders, packs
from portal.services.common.audit import SHELL
from portal.services.messages import account_requests, inbound, intake
from portal.services.messages import inbound_numbers as numbers
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.web.core.access import AccessRule, get_access_rule
from tests.services.routing.adding import create_route
from tests.services.upstreams.waiting import add_upstream
from tests.support import Cast, Person, prepare_submit
from tests.web.conftest import Browser

# What anyone may open without a login: to add to this is a decision.
PUBLIC = {
    "static_files.serve_static_file",
    "language.choose_language",
    "login.login",
    "login.verify_second_factor",
    "login.send_unlock_link",
    "login.unlock",
    "login.enrol",
    "login.setup",
    "login.check_first_password",
    "payment_callback.receive_payment_callback",
}
# What everyone who is logged in may change, viewers too: their own login and the mails they get, and nothing else.
ONE_S_OWN = {
    "login.logout",
    "login.change_password",
    "login.check_password",
    "login.start_authenticator_change",
    "login.replace_authenticator",
    "login.renew_recovery_codes",
    "login.end_login_session",
    "sessions.set_refusal_mails",
}
# Addresses that are pages only with a query.
QUERIES = {"live.poll_changes": "?page=home"}
OF_AN_ACCOUNT = (AccessRule.ACCOUNT_ACCESS, AccessRule.ACCOUNT_CHANGE)
READING = ("GET", "HEAD")


@dataclass(frozen=True)
class Route:
    """One address with one method; its words are filled in from `values`, and numbers with 1."""

    endpoint: str
    rule: AccessRule | None
    method: str
    path: str
    numbered: bool

    @property
    def reads(self) -> bool:
        return self.method in READING


def routes(app: Flask, account: str) -> list[Route]:
    return list(_routes(app, account))


def _routes(app: Flask, account: str) -> Iterator[Route]:
    # The first order of all; it is Acme's.
    number = f"{datetime.now(UTC).year}-00001"
    words = {"name": account, "number": number, "token": "invented", "filename": "app.css", "subject": "throughput"}
    for each in app.url_map.iter_rules():
        numbers = set(re.findall(r"<int(?:\([^)]*\))?:(\w+)>", each.rule))
        # 1 is the first row of each table, and so one of Acme's.
        values = {name: 1 if name in numbers else words.get(name, "1") for name in each.arguments}
        _, path = each.build(values) or ("", "")
        path += QUERIES.get(each.endpoint, "")
        for method in sorted((each.methods or set()) - {"OPTIONS"}):
            # What a rule sets itself is nothing of its address, and a subject is no row.
            numbered = bool(each.arguments - {"name", "subject", *(each.defaults or ())})
            yield Route(each.endpoint, get_access_rule(app, each.endpoint), method, path, numbered)


def ask(browser: Browser, route: Route, htmx: bool = False) -> tuple[int, str]:
    """The status, and where it leads."""
    answer = browser.open(route.path, method=route.method, htmx=htmx)
    return answer.status_code, answer.headers.get("HX-Redirect") or answer.location or ""


def gets_in(browser: Browser, route: Route) -> bool:
    """A page is shown, or another one of the portal's is led to, but the login's."""
    status, where = ask(browser, route)
    return status in (200, 204) or (status == 302 and where.startswith("/") and not where.startswith("/login"))


def everything(conn: db.Connection) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables, but for the traces of looking: when a session was seen last, and counted attempts."""
    tables = [row[0] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    passing = {"throttle_buckets", "sqlite_stat1"}
    rows = {
        each: [tuple(row) for row in conn.execute(f"SELECT * FROM {each}")] for each in tables if each not in passing
    }
    rows["login_sessions"] = [tuple(row) for row in conn.execute("SELECT id, user_id FROM login_sessions")]
    return rows


def without_tokens(page: str) -> str:
    return re.sub(r"[\w-]{20,}\.[\w-]+\.[\w-]+", "", page)


@pytest.fixture(autouse=True)
def a_number(conn: db.Connection, cast: Cast) -> None:
    """Acme's first account has one, which is the first row of its table."""
    numbers.add_inbound_number(conn, SHELL, accounts.get_account(conn, cast.smpp_acme_1.name), "48484")


@pytest.fixture(autouse=True)
def an_order(conn: db.Connection, cast: Cast) -> None:
    """And an order of it, which is the first of its table too."""
    orders.place_order(conn, SHELL, accounts.get_account(conn, cast.smpp_acme_1.name), packs.list_packs(conn)[0])


@pytest.fixture(autouse=True)
def a_request(conn: db.Connection, cast: Cast) -> None:
    """And it has asked the operator for something."""
    account_requests.ask_operator(conn, SHELL, accounts.get_account(conn, cast.smpp_acme_1.name), "windowing", "")
    conn.execute("DELETE FROM throttle_buckets")


@pytest.fixture(autouse=True)
def a_message(conn: db.Connection, cast: Cast, a_number: None) -> None:
    """The same account has sent one, whose id is 1: so early it was."""
    (message_id,) = intake.store_messages(conn, [prepare_submit(conn, cast.smpp_acme_1.id)], now=0).message_ids
    assert message_id == 1


@pytest.fixture(autouse=True)
def from_a_handset(conn: db.Connection, cast: Cast, a_number: None) -> None:
    """And it has received one, whose id is 1 too; it put the handset on the blacklist."""
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage("393337654321", "48484", "STOP")])
    conn.execute("UPDATE received SET id = 1")
    conn.execute("UPDATE blacklist SET received_id = 1")
    conn.execute("DELETE FROM deliveries WHERE received_id IS NOT NULL")


@pytest.fixture(autouse=True)
def a_route(conn: db.Connection, keys: Keys) -> None:
    """The first of its table, and so is the upstream that it leads to."""
    add_upstream(conn, keys)
    create_route(conn, "carrier")


@pytest.fixture
def acme(app: Flask, cast: Cast) -> list[Route]:
    """Every route, of an account of Acme where it is about one."""
    return routes(app, cast.smpp_acme_1.name)


@pytest.fixture
def globex(app: Flask, cast: Cast) -> list[Route]:
    return routes(app, cast.smpp_globex_1.name)


# --- decisions


def test_every_route_has_a_decision(acme: list[Route]) -> None:
    assert {each.endpoint for each in acme if each.rule is None} == set()


def test_public_is_what_is_said_here(acme: list[Route]) -> None:
    assert {each.endpoint for each in acme if each.rule is AccessRule.PUBLIC} == PUBLIC


def test_everyone_changes_their_own_login_only(acme: list[Route]) -> None:
    assert {each.endpoint for each in acme if each.rule is AccessRule.LOGGED_IN and not each.reads} == ONE_S_OWN


def test_who_may_only_see_an_account_is_offered_nothing_that_changes_it(acme: list[Route]) -> None:
    posted = {each.endpoint for each in acme if each.rule is AccessRule.ACCOUNT_ACCESS and not each.reads}
    # A text is posted so that it stands in no address. That this changes nothing is seen to below.
    assert posted == {"prices.estimate_cost"}


def test_an_account_s_pages_are_decided_by_its_owner(acme: list[Route]) -> None:
    strays = [each for each in acme if each.path.startswith("/accounts/") and each.rule not in OF_AN_ACCOUNT]
    assert strays == []


# --- nobody


def test_nobody_is_sent_to_the_login(acme: list[Route], browser: Browser) -> None:
    for route in acme:
        if route.rule not in (AccessRule.PUBLIC, AccessRule.MONITORING):
            status, where = ask(browser, route)
            assert (status, where.partition("?")[0]) == (302, "/login"), route
            status, where = ask(browser, route, htmx=True)
            assert (status, where.partition("?")[0]) == (204, "/login"), route


def test_nobody_changes_anything(acme: list[Route], browser: Browser, conn: db.Connection) -> None:
    before = everything(conn)
    for route in acme:
        ask(browser, route)
    assert everything(conn) == before


@pytest.mark.slow
def test_head_is_answered_as_get_is_and_counts_nothing(
    acme: list[Route], browser: Browser, client: Callable[[Person], Browser], cast: Cast, conn: db.Connection
) -> None:
    """`curl -I` of the login is no refused login."""
    for asking in (browser, client(cast.olga)):
        for route in acme:
            if route.method == "HEAD":
                assert ask(asking, route) == ask(asking, replace(route, method="GET")), route
    assert not conn.execute("SELECT * FROM throttle_buckets").fetchall()


# --- another customer


def test_another_customer_finds_nothing(
    acme: list[Route], client: Callable[[Person], Browser], cast: Cast, conn: db.Connection
) -> None:
    charlie = client(cast.charlie)
    before = everything(conn)
    for route in acme:
        if route.rule in OF_AN_ACCOUNT:
            assert ask(charlie, route)[0] == 404, route
            assert ask(charlie, route, htmx=True)[0] == 404, route
    assert everything(conn) == before


def test_another_s_account_answers_as_one_that_does_not_exist(
    app: Flask, acme: list[Route], client: Callable[[Person], Browser], cast: Cast
) -> None:
    charlie = client(cast.charlie)
    for theirs, nobodys in zip(acme, routes(app, "smpp-nobodys"), strict=True):
        if theirs.rule in OF_AN_ACCOUNT and theirs.reads:
            answers = [charlie.open(each.path, method=each.method) for each in (theirs, nobodys)]
            assert [each.status_code for each in answers] == [404, 404], theirs
            # The way back after a switch of the language names the address; nothing else may differ.
            texts = [
                answer.text.replace(route.path, "") for answer, route in zip(answers, (theirs, nobodys), strict=True)
            ]
            assert without_tokens(texts[0]) == without_tokens(texts[1]), theirs


def test_numbers_of_another_customer_s_rows_do_not_work_under_one_s_own_account(
    globex: list[Route], client: Callable[[Person], Browser], cast: Cast, conn: db.Connection
) -> None:
    """/accounts/<mine>/ips/<theirs>: the number alone decides nothing."""

    def acmes() -> list[tuple[object, ...]]:
        queries = (
            "SELECT * FROM accounts WHERE customer_id = :acme",
            "SELECT * FROM allowed_ips WHERE account_id IN (SELECT id FROM accounts WHERE customer_id = :acme)",
            "SELECT * FROM senders WHERE account_id IN (SELECT id FROM accounts WHERE customer_id = :acme)",
            "SELECT * FROM orders WHERE account_id IN (SELECT id FROM accounts WHERE customer_id = :acme)",
            "SELECT * FROM smpp_passwords WHERE account_id IN (SELECT id FROM accounts WHERE customer_id = :acme)",
        )
        return [tuple(row) for query in queries for row in conn.execute(query, {"acme": cast.acme})]

    charlie = client(cast.charlie)
    before = acmes()
    for route in globex:
        if route.rule in OF_AN_ACCOUNT and route.numbered:
            assert ask(charlie, route)[0] in (404, 422), route
            assert ask(charlie, route, htmx=True)[0] in (404, 422), route
    assert acmes() == before


# --- a viewer of the same customer


@pytest.mark.slow
def test_a_viewer_sees_every_page_and_changes_nothing(
    acme: list[Route], client: Callable[[Person], Browser], cast: Cast, conn: db.Connection
) -> None:
    bob = client(cast.bob)
    before = everything(conn)
    for route in acme:
        if route.rule is AccessRule.ACCOUNT_CHANGE:
            assert ask(bob, route)[0] == 403, route
            assert ask(bob, route, htmx=True)[0] == 403, route
        elif route.rule is AccessRule.ACCOUNT_ACCESS and not route.numbered:
            # What is posted is no page but a question, and an empty one is refused.
            assert gets_in(bob, route) if route.reads else ask(bob, route)[0] == 422, route
    assert everything(conn) == before


# --- the owner


@pytest.mark.slow
def test_the_owner_sees_every_page_of_every_account(
    app: Flask, client: Callable[[Person], Browser], cast: Cast
) -> None:
    alice = client(cast.alice)
    for account in (cast.smpp_acme_1, cast.smpp_acme_2):
        for route in routes(app, account.name):
            if route.rule in OF_AN_ACCOUNT and route.reads and not route.numbered:
                assert gets_in(alice, route), route


@pytest.mark.slow
def test_looking_changes_nothing(
    acme: list[Route], client: Callable[[Person], Browser], cast: Cast, conn: db.Connection
) -> None:
    for person in (cast.alice, cast.olga):
        browser = client(person)
        before = everything(conn)
        for route in acme:
            if route.reads:
                ask(browser, route)
                ask(browser, route, htmx=True)
        assert everything(conn) == before


# --- operators


@pytest.mark.slow
def test_the_operator_s_pages_are_not_there_for_customers(
    acme: list[Route], client: Callable[[Person], Browser], cast: Cast, conn: db.Connection
) -> None:
    browsers = [client(each) for each in (cast.alice, cast.bob, cast.charlie)]
    before = everything(conn)
    for browser in browsers:
        for route in acme:
            if route.rule is AccessRule.OPERATOR:
                assert ask(browser, route)[0] == 404, route
                assert ask(browser, route, htmx=True)[0] == 404, route
    assert everything(conn) == before


@pytest.mark.slow
def test_operators_open_every_page_of_every_customer(
    acme: list[Route], globex: list[Route], client: Callable[[Person], Browser], cast: Cast
) -> None:
    olga = client(cast.olga)
    for route in [*acme, *globex]:
        decided = route.rule in (*OF_AN_ACCOUNT, AccessRule.OPERATOR)
        if decided and route.reads and not (route.rule in OF_AN_ACCOUNT and route.numbered):
            assert gets_in(olga, route), route


def test_the_start_leads_operators_to_their_side(client: Callable[[Person], Browser], cast: Cast) -> None:
    assert client(cast.olga).get("/").location == "/admin/"
