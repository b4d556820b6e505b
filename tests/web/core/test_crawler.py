"""A crawler: what it finds by itself, it sends wrong values to, others' ids, and forged forms.

It walks through the portal as nobody, as an owner and as an operator. It knows a page by the links that lead there, and
a form by the page that has it, or by the answer to another form. So new pages and forms are covered by themselves; a
route that it doesn't reach, and a form whose good values it doesn't know, fail `test_everything_is_reached`.

`pytest -s` on this file prints what it has sent.
"""

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from functools import cache
from pathlib import Path

import pyotp
import pytest
import segno
from argon2 import PasswordHasher
from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from portal.core import clock, db, paths
from portal.core.config import Config, PaymentSettings, load_config
from portal.core.crypto import Keys
from portal.services.common import mail
from portal.services.people import authentication, password_hashing, users
from portal.web.core import context
from tests.documents import PDF
from tests.support import Cast, Person, copy_data_folder
from tests.web.billing.ordering import SECRET
from tests.web.core.test_access import ONE_S_OWN, PUBLIC
from tests.web.crawling import values, walking, world
from tests.web.crawling.asking import Asker, find_injections, record_names
from tests.web.crawling.attacking import OPERATOR, Attacker
from tests.web.crawling.values import MARKER
from tests.web.crawling.walking import NOBODY, Case, Walker
from tests.web.crawling.world import Ledger, Links, Snapshot

pytestmark = pytest.mark.slow
OWNER = "owner"
NEW_PASSWORD = b"seven green bottles on a wall"

# What a person would type where a page leaves a field empty, by the endpoint and the field's name, or by its name.
GOOD = {
    "network": b"203.0.113.99",
    "sender": b"NEWNAME",
    "numbers": b"393401234567",
    "amount": b"1",
    "reason": b"A reason",
    "text": b"Hello",
    "name": b"Initech",
    "email": b"peter@initech.example",
    "account-name": b"smpp-new-1",
    "user-email": b"somebody@acme.example",
    "number": b"48999",
    "destination": b"FR",
    "price": b"0.05",
    "document": PDF,
    "file": b"number\n393401234568\n",
    "payment": b"Transfer",
    "prices.preview_import.file": b"destination,price\nFR,0.05\n",
    "login.send_unlock_link.email": b"bob@acme.example",
    "sessions.set_refusal_mails.wanted": b"1",
    "customer_policies.change_text_policy.texts": b"none",
    "day_messages": b"1000",
    "host": b"127.0.0.1",
    "system_id": b"acme",
    "test_account": b"smpp-acme-1",
    "test_number": b"393401234567",
    "queue.hold_account.account": b"smpp-acme-2",
    "queue.steer_messages.to": b"carrier",
    "routes.add_route.upstream": b"carrier",
    "unclaimed.add_number.account": b"smpp-acme-2",
    "unclaimed.add_number.number": b"48998",
    "upstream_tests.send_test_message.number": b"393401234567",
    "upstream_tests.test_connection.password": b"secret",
    "upstream_tests.test_new_connection.password": b"secret",
    "upstreams.add_upstream.password": b"secret",
    "upstreams.change_upstream.password": b"secret",
    "password": NEW_PASSWORD,
    "repeat": NEW_PASSWORD,
    "password-password": NEW_PASSWORD,
    "password-repeat": NEW_PASSWORD,
}
_MANY_NAMES = 10
# Forms that good values don't lead anywhere, or not to a change of the database, with the reason.
NEVER_TAKEN = {
    "senders.set_sender_enabled ()": "its buttons are in the list, which is empty for this account",
    "allowed_ips.add_allowed_ip ()": "its buttons are in the list, which is empty for this account",
    "routes.move_route (order)": "its buttons say which one",
}
CHANGES_NOTHING = {
    "blacklist.preview_import (file)": "it shows what would be imported",
    "credits.transfer_credits (amount, do, form, source, target)": "it shows what the balances would be",
    "language.choose_language (locale, next)": "of nobody: the cookie keeps it",
    "login.check_first_password (password)": "it says what is wrong with a password",
    "login.check_password (password-password)": "it says what is wrong with a password",
    "orders.change_packs (credits, currency, price)": "the packs that there are",
    "prices.estimate_cost (numbers, text)": "it counts what a text costs",
    "prices.preview_import (file)": "it shows what would be imported",
    "routes.add_route (19 fields)": "with its other button it shows which way a message would go",
    "routes.change_route (19 fields)": "with its other button it shows which way a message would go",
}
NOT_REACHED = {
    "GET upstream_tests.show_connection_test": "a test that isn't over leads there: see web/upstreams/test_trying.py",
    "POST payment_callback.receive_payment_callback": "what posts there is no browser: see the last test",
}
# What no page leads to.
UNLINKED = ("/healthz", "/readyz", "/metrics", "/accounts/smpp-acme-1/ips", "/static/app.css")


@dataclass
class Crawl:
    """The installation, and the way through it."""

    app: Flask
    conn: db.Connection
    keys: Keys
    cast: Cast
    links: Links
    walker: Walker
    start: Snapshot
    cookies: dict[str, dict[str, str]]
    seconds: float = 0.0

    def attack(self) -> Attacker:
        return Attacker(self.walker, self.conn, self.cast.acme, Ledger(self.conn))


@pytest.fixture(scope="module")
def crawl(
    template: tuple[Path, Cast],
    tmp_path_factory: pytest.TempPathFactory,
    build_app: Callable[[Config, Keys], Flask],
) -> Iterator[Crawl]:
    data, cast = copy_data_folder(template[0], tmp_path_factory.mktemp("crawler") / "data"), template[1]
    keys, conn = Keys.load(data), db.connect(data / db.FILE_NAME)
    with pytest.MonkeyPatch.context() as patch:
        # Real hashes, but cheap ones: thousands are made.
        patch.setattr(password_hashing, "_hasher", PasswordHasher(memory_cost=8, time_cost=1, parallelism=1))
        # One QR code is looked at thousands of times.
        patch.setattr(segno, "make", cache(segno.make))
        # What tests a connection is a process of its own.
        patch.setattr(paths, "get_program_command_line", lambda: ["true"])
        links = world.fill(conn, keys, cast)
        payments = PaymentSettings(instructions="IBAN", checkout_url="https://pay.example/?shop=7", secret=SECRET)
        app = build_app(replace(load_config(data=data, env={}), payments=payments), keys)
        app.testing = True
        record_names(app)
        with app.app_context():
            # Nobody turns the power off.
            context.get_conn().execute("PRAGMA synchronous = OFF")
        restorer = sqlite3.connect(data / db.FILE_NAME, isolation_level=None)
        for each in (conn, restorer):
            each.execute("PRAGMA synchronous = OFF")
        cookies = {each.email: _log_in(app, conn, each) for each in (cast.alice, cast.bob, cast.charlie, cast.olga)}
        # Otherwise each request that comes a minute later notes when somebody was last there.
        conn.execute("UPDATE login_sessions SET seen_at = seen_at + ?", (clock.HOUR_MS,))
        asker = Asker(app)
        walker = Walker(app, conn, asker, lambda case, name, filled: list(_fill_in(cast, case, name, filled)))
        made = Crawl(app, conn, keys, cast, links, walker, Snapshot(conn, restorer), cookies)
        begun = time.process_time()
        _walk(made, walker)
        made.seconds = time.process_time() - begun
        yield made
        asker.close()
        with app.app_context():
            context.get_conn().close()
        restorer.close()
        conn.close()


def _walk(crawl: Crawl, walker: Walker, *, only_look: bool = False, start: Snapshot | None = None) -> None:
    links, cast = crawl.links, crawl.cast
    for role, addresses, person in (
        (
            NOBODY,
            (
                "/login",
                "/login/link",
                f"/enrol/{links.enrolment}",
                f"/setup/{links.enrolment}",
                f"/login/link/{links.unlock}",
            ),
            None,
        ),
        (OWNER, ("/", *UNLINKED), cast.alice),
        (OPERATOR, ("/admin/",), cast.olga),
    ):
        cookies = crawl.cookies[person.email] if person else {}
        walker.walk(role, addresses, cookies, start or crawl.start, only_look=only_look)


def _log_in(app: Flask, conn: db.Connection, person: Person) -> dict[str, str]:
    user = users.get_user_by_email(conn, person.email)
    token = authentication.start_login_session(conn, user, "127.0.0.1", "the crawler")
    assert isinstance(app.session_interface, SecureCookieSessionInterface)
    serializer = app.session_interface.get_signing_serializer(app)
    assert serializer
    return {"portal_session": str(serializer.dumps({"_user_id": token, "_fresh": True}))}


def _fill_in(cast: Cast, case: Case, name: str, filled: bool) -> Iterator[bytes]:
    person = cast.olga if case.role == OPERATOR else cast.alice
    endpoint = case.route.endpoint
    if f"{endpoint}.{name}" in GOOD:
        yield GOOD[f"{endpoint}.{name}"]
    elif filled:
        return
    elif endpoint == "login.login":
        yield {"email": person.email, "password": person.password}[name].encode()
    elif endpoint == "login.verify_second_factor":
        if name == "code":
            yield person.totp_code().encode()
        elif "code" not in case.form.fields:
            yield person.recovery_codes[0].encode()
    elif name == "code":
        secret = re.search(r"[?&;]secret=([A-Z2-7]+)", case.page)
        assert secret, "the page shows no secret"
        yield pyotp.TOTP(secret[1]).now().encode()
    elif name.endswith("current"):
        yield person.password.encode()
    elif name in GOOD:
        yield GOOD[name]


def _describe(case: Case) -> str:
    names = sorted(case.form.fields.keys() - {"csrf_token"})
    return f"{case.route.endpoint} ({', '.join(names) if len(names) < _MANY_NAMES else f'{len(names)} fields'})"


def test_everything_is_reached(crawl: Crawl) -> None:
    """Each route is led to, and each form is taken with good values: nothing is refused later because all is."""
    walker = crawl.walker
    print(
        f"\n{len(walker.opened)} pages, {len(walker.cases)} forms, {walker.asker.count} requests, {crawl.seconds:.1f} s"
    )
    assert walker.problems == []
    rules = [(each.endpoint, each.methods or set()) for each in crawl.app.url_map.iter_rules()]
    routes = {f"{method} {endpoint}" for endpoint, methods in rules for method in methods - {"HEAD", "OPTIONS"}}
    assert routes - {f"{method} {endpoint}" for endpoint, method in walker.reached} == NOT_REACHED.keys()
    refused = {_describe(case): case.refusal for case in walker.cases if not case.controlled}
    assert refused.keys() == NEVER_TAKEN.keys(), refused
    unchanged = {_describe(case) for case in walker.cases if case.controlled and not case.changed}
    assert sorted(unchanged ^ CHANGES_NOTHING.keys()) == []


def _report(attacker: Attacker, begun: float) -> None:
    print("", f"{time.process_time() - begun:.1f} s of CPU", sep="\n")
    print(*(f"{count:6} {what}" for what, count in sorted(attacker.counts.items())), sep="\n")
    print(*attacker.problems[:40], sep="\n")
    assert attacker.problems == []


def _list_parts(cases: list[Case], role: str) -> Iterator[tuple[Case, list[str], bool]]:
    """A role's forms, with the fields that no form before has had for the same address, and whether it is the first."""
    seen: set[tuple[str, ...]] = set()
    for case in cases:
        form = (case.form.method, case.route.endpoint)
        names = [each for each in (*case.form.fields, *sorted(case.more_fields)) if (*form, each) not in seen]
        if case.role == role and case.controlled:
            yield case, names, form not in seen
        if case.controlled:
            seen |= {form, *((*form, each) for each in names)}


@pytest.mark.parametrize("role", [NOBODY, OWNER, OPERATOR])
def test_no_value_breaks_a_form(crawl: Crawl, role: str) -> None:
    attacker, begun = crawl.attack(), time.process_time()
    for case, names, first in _list_parts(crawl.walker.cases, role):
        attacker.send_values(case, names)
        if first:
            attacker.send_addresses(case)
            attacker.send_shapes(case)
    _report(attacker, begun)


@pytest.mark.parametrize("role", [NOBODY, OWNER, OPERATOR])
def test_no_value_breaks_a_page(crawl: Crawl, role: str) -> None:
    """In its query and in its address; each page once, by the first role that sees it."""
    attacker, begun = crawl.attack(), time.process_time()
    seen: set[tuple[str, str]] = set()
    for page in crawl.walker.opened:
        names = {each for each in page.names if (page.route.endpoint, each) not in seen}
        is_new = (page.route.endpoint, "") not in seen
        seen |= {(page.route.endpoint, each) for each in (*names, "")}
        if page.role == role:
            attacker.ask_queries(page, names, crawl.start)
            if is_new:
                attacker.ask_addresses(page, crawl.start)
    _report(attacker, begun)


def test_another_customer_s_names_and_ids_get_nothing(crawl: Crawl) -> None:
    """In the addresses and in the fields of each form, and in the addresses and queries of each page."""
    attacker, begun, cast = crawl.attack(), time.process_time(), crawl.cast
    ids = Ledger(crawl.conn).list_ids(crawl.start.rows, cast.globex)
    order = f"{datetime.now(UTC).year}-00006"
    names = [cast.smpp_globex_1.name, cast.charlie.email, "48485", "393405550002", "GLOBEX", order]
    assert len(ids) > 6
    for case, fields, first in _list_parts(crawl.walker.cases, OWNER):
        attacker.send_others_ids(case, fields, names, ids, address=first)
    seen: set[str] = set()
    for page in crawl.walker.opened:
        if page.role == OWNER and page.route.endpoint not in seen:
            attacker.ask_others_ids(page, crawl.start, names, ids)
            seen.add(page.route.endpoint)
    _report(attacker, begun)


@pytest.mark.parametrize("role", [NOBODY, OWNER, OPERATOR])
def test_a_forged_form_changes_nothing(crawl: Crawl, role: str) -> None:
    """Without its token, with another's, or from another site."""
    attacker, begun = crawl.attack(), time.process_time()
    other = crawl.walker.asker.ask("GET", "/profile", crawl.cookies[crawl.cast.charlie.email])
    for case, _, first in _list_parts(crawl.walker.cases, role):
        if first:
            attacker.send_forged(case, walking.find_token(other))
    _report(attacker, begun)


def test_a_viewer_s_form_changes_nothing(crawl: Crawl) -> None:
    attacker, begun = crawl.attack(), time.process_time()
    profile = crawl.walker.asker.ask("GET", "/profile", crawl.cookies[crawl.cast.bob.email])
    for case, _, first in _list_parts(crawl.walker.cases, OWNER):
        if first and case.route.endpoint not in ONE_S_OWN | PUBLIC:
            attacker.send_as(case, profile.cookies, walking.find_token(profile))
    _report(attacker, begun)


def test_what_was_taken_is_escaped_wherever_it_is_shown(crawl: Crawl) -> None:
    """All that takes a script gets it; then everybody looks at everything, and the mails are sent."""
    begun, walker = time.process_time(), crawl.walker
    attacker = crawl.attack()
    for script in values.PLANTED:
        crawl.start.restore()
        for role in (OWNER, OPERATOR):
            for case, _, _ in _list_parts(walker.cases, role):
                attacker.plant(case, script)
        assert attacker.counts["fields that have taken it"] > 20
        looker = Walker(crawl.app, crawl.conn, walker.asker, walker.fill_in, rows=1)
        _walk(crawl, looker, only_look=True, start=crawl.start.take_another(crawl.conn))
        attacker.problems += [f"{script.name}: {each}" for each in looker.problems]
        attacker.counts["pages"] += len(looker.opened)
        for name, html in _send_mails(crawl):
            attacker.counts["mails"] += 1
            attacker.counts["mails that show it"] += MARKER in html
            attacker.problems += [f"mail {name}: {each}" for each in find_injections(html)]
        attacker.counts["pages that show it"] += looker.marked
    assert attacker.counts["pages that show it"] > 60
    _report(attacker, begun)


def _send_mails(crawl: Crawl) -> Iterator[tuple[str, str]]:
    """The subjects and HTML of the mails that wait."""
    with crawl.app.app_context():
        config = context.get_config()
    assert all(mail.send_due_mails(crawl.conn, config, crawl.keys))
    for file in sorted((config.data / "outbox").iterdir()):
        message = message_from_bytes(file.read_bytes(), policy=policy.default)
        body = message.get_body(["html"])
        assert body is not None
        yield str(message["Subject"]), body.get_content()
        file.unlink()


def test_a_callback_of_the_payment_page_is_refused_or_taken(crawl: Crawl) -> None:
    """With JSON of every type in each of its fields, signed by who has the secret; and unsigned."""
    attacker, begun = crawl.attack(), time.process_time()
    good = {
        "order": f"{datetime.now(UTC).year}-00003",
        "amount": 700,
        "currency": "EUR",
        "status": "paid",
        "payment": "p1",
    }
    attacker.call_back(crawl.start, good)
    _report(attacker, begun)
