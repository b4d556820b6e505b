"""Every page of the portal, with something on it: what tests of looks, weight and accessibility walk through."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from playwright.sync_api import Browser, Page

from portal.core.clock import now_ms
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts import accounts, allowed_ips, refused_binds, session_records
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit, packs, purchases
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL, Actor
from portal.services.common.message_states import DELIVERED, UNDELIVERABLE
from portal.services.credits import alerts, credits
from portal.services.messages import blacklist, deliveries, inbound, inbound_numbers, intake, outcomes
from portal.services.messages.inbound import FromHandset
from portal.services.messages.outcomes import Outcome
from portal.services.messages.validation import UCS2, Segment
from portal.services.people import customers, enrolment, users
from portal.services.prices import price_lists, prices
from portal.services.prices.prices import Change
from portal.services.senders import senders
from portal.services.statistics import rollup
from portal.web.app import create_app
from portal.web.core.access import Rule, rule_of
from tests.documents import PDF
from tests.e2e.browsing import Tab, address_of
from tests.support import Cast, Server, prepared

# Who looks at a page.
NOBODY, HALF_WAY, OWNER, MOVING, OPERATOR = "nobody", "half way", "the owner", "the owner, moving", "the operator"

_LOOKS = {
    Rule.PUBLIC: NOBODY,
    Rule.USER: OWNER,
    Rule.SEE_ACCOUNT: OWNER,
    Rule.CHANGE_ACCOUNT: OWNER,
    Rule.OPERATE: OPERATOR,
}
_LOOKS_OTHERWISE = {"login.totp": HALF_WAY, "profile.authenticator": MOVING}

# GET answers that are no pages, beside downloads: files, parts of open pages, ways to another page.
_NO_PAGES = {"senders.document", "static", "live.poll", "ips.listed", "orders.pay_order"}
_DOWNLOADS = (".csv", ".jsonl")


@dataclass(frozen=True)
class Exhibit:
    """A page, and who looks at it."""

    who: str
    address: str


@dataclass(frozen=True)
class Visit:
    """A page that is open in a tab; `html` is what came over the wire."""

    address: str
    tab: Tab
    html: bytes

    @property
    def page(self) -> Page:
        return self.tab.page


@dataclass(frozen=True)
class Gallery:
    """A server, its pages, and the cookies of those who look at them."""

    server: Server
    exhibits: list[Exhibit]
    cookies: dict[str, Any]

    @contextmanager
    def visits(self, browser: Browser, **options: Any) -> Iterator[Iterator[Visit]]:
        """Walks through: each page opened in a tab, one after the other. `options` are those of new contexts."""
        contexts = {
            who: browser.new_context(base_url=address_of(self.server), storage_state=cookies, **options)
            for who, cookies in self.cookies.items()
        }

        def walk() -> Iterator[Visit]:
            tabs = {who: Tab(context.new_page(), self.server) for who, context in contexts.items()}
            for each in self.exhibits:
                tab = tabs[each.who]
                answer = tab.page.goto(each.address, wait_until="load")
                assert answer is not None
                assert answer.status == (404 if each.address == _NOWHERE else 200), f"{each}: {answer.status}"
                yield Visit(each.address, tab, answer.body())

        yield walk()
        for context in contexts.values():
            context.close()


_NOWHERE = "/no-such-page"


def hang(browser: Browser, server: Server, config: Config, cast: Cast) -> Gallery:
    """Put something on each page of a server, and log everyone in."""
    keys = Keys.load(config.data)
    with closing(server.connect()) as conn:
        arguments = _fill(conn, keys, cast)
    return Gallery(server, _exhibits(config, keys, cast, arguments), _log_in(browser, server, cast))


def _fill(conn: Connection, keys: Keys, cast: Cast) -> dict[str, Any]:
    """Returns what stands for the variable parts of addresses."""
    account = accounts.by_name(conn, cast.smpp_acme_1.name)
    entry = allowed_ips.add(
        conn, SHELL, account, "203.0.113.0/28", label="Data centre", expires_at=now_ms() + 86_400_000
    )
    allowed_ips.add(conn, SHELL, account, "2001:db8:85a3:8d3:1319:8a2e:370:7348", label="A long one, with a long label")
    sender = senders.add(
        conn, SHELL, account, "Acme Shop", description="The web shop", reason="It is our name", document=PDF
    )
    senders.add(conn, SHELL, account, "393401112233")
    senders.decide(conn, SHELL, account, "393401112233", approve=False, comment="Not yours")
    # Looks like another customer's.
    senders.add(conn, SHELL, account, "GL0BEX", reason="A name as long as they can be, with a reason to match. " * 3)
    for number in range(10):
        senders.add(conn, SHELL, account, f"48{number:03}")
        senders.decide(conn, SHELL, account, f"48{number:03}", approve=True)
    credits.transfer(
        conn, SHELL, account, accounts.by_name(conn, cast.smpp_acme_2.name), 5 * credit_amounts.THOUSANDTHS
    )
    credits.grant(
        conn, SHELL, account, 250 * credit_amounts.THOUSANDTHS, "Welcome", expires_at=now_ms() + 30 * 86_400_000
    )
    inbound_numbers.add(conn, SHELL, account, "393401234999")
    route = inbound_numbers.add(conn, SHELL, account, "48000", "acme")
    pack = packs.everyone(conn)[0]
    purchases.pay(conn, keys, SHELL, purchases.place(conn, keys, SHELL, account, pack), "Transfer of 22 November")
    order = purchases.place(conn, keys, SHELL, account, pack)
    for number in range(12):
        credits.grant(conn, SHELL, account, 1_234_500, note=f"A welcome gift, number {number}")
    alerts.set_rule(
        conn, SHELL, account, 100 * credit_amounts.THOUSANDTHS, ["ops@acme.example", "a-long-name@mail.acme.example"]
    )
    auto_recredit.set_rule(conn, SHELL, account, 50 * credit_amounts.THOUSANDTHS, 250 * credit_amounts.THOUSANDTHS, 3)
    # Its balance is lower: each of its pages says so.
    alerts.set_rule(conn, SHELL, accounts.by_name(conn, cast.smpp_acme_2.name), 200 * credit_amounts.THOUSANDTHS)
    message_id = _send(conn, account.id)
    part_id = _send_parts(conn, account.id)
    rollup.gather_all(conn)
    # Shown, but not there: a client that binds would have to answer enquire_link all the while.
    session_records.opened(
        conn, [_session(1, account.id, "203.0.113.7", "TLSv1.3"), _session(2, account.id, "::1", "")]
    )
    session_records.progressed(conn, [session_records.Progress(1, now_ms(), 1200, 1100, 3, "5 0 12.5 " * 10)])
    for address, reason in (
        ("198.51.100.4", refused_binds.NOT_AUTHORISED),
        ("203.0.113.9", refused_binds.WRONG_PASSWORD),
        ("2001:db8:85a3:8d3:1319:8a2e:370:7348", refused_binds.REPLACED_PASSWORD),
    ):
        refused_binds.refused(conn, [refused_binds.RefusedBind(account.id, address, reason, now_ms())] * 3)
    newcomer = users.add(conn, keys, SHELL, "newcomer@acme.example", users.MANAGER, cast.acme)
    return {
        "name": account.name,
        "number": order.number,
        "ip_id": entry.id,
        "session_id": 1,
        "sender_id": sender.id,
        "route_id": route.id,
        "customer_id": cast.acme,
        "list_id": _price(conn, cast),
        "user_id": newcomer.id,
        "message_id": message_id,
        "part_id": part_id,
        "received_id": _receive(conn, account),
        "token": enrolment.new_link(conn, newcomer),
    }


def _price(conn: Connection, cast: Cast) -> int:
    """Acme pays by a list of its own, with changes to come; returns its id."""
    volume = price_lists.create(conn, SHELL, "Volume & partners")
    at = now_ms() + 86_400_000
    said = [Change("IT", 700), Change("39342", 1500), Change("DE", None), Change("IT", 750, at), Change("DE", 900, at)]
    prices.change(conn, SHELL, volume.id, said, "UTC")
    price_lists.assign(conn, SHELL, customers.by_id(conn, cast.acme), volume.id)
    return volume.id


def _send(conn: Connection, account_id: int) -> int:
    """Enough messages for a second page of the history, most of them delivered; returns the id of one."""
    texts = cycle(["Your code is 4711", "Die Zustellung ist unterwegs 🚚", "<b>no markup</b> " * 20])
    submits = [
        prepared(
            conn, account_id, next(texts).encode("utf-16-be"), destination=f"39340123{number:04}", data_coding=UCS2
        )
        for number in range(60)
    ]
    ids = [each for each in intake.store(conn, submits).ids if each is not None]
    ends = zip(ids[:-3], cycle([(DELIVERED, 0)] * 6 + [(UNDELIVERABLE, 3)]), strict=False)
    outcomes.finish(conn, [Outcome(each, state, ptt, now_ms()) for each, (state, ptt) in ends])
    return ids[0]


def _receive(conn: Connection, account: Account) -> int:
    """Enough from handsets for a second page, one of them binary, and a blacklist as long; returns the id of a STOP."""
    said = [f"Info {number}: quando arriva il mio pacco? " * 3 for number in range(20)]
    inbound.take_in(conn, [FromHandset(f"3934012345{n:02}", "393401234999", each) for n, each in enumerate(said)])
    deliveries.done(conn, deliveries.due(conn, account.id, now_ms(), 10).now)
    binary = FromHandset(
        "4915112345678", "393401234999", "", data_coding=4, udh=b"\x05\x00\x03\x07\x02\x01", body=b"\x00\xff" * 60
    )
    inbound.take_in(conn, [binary, FromHandset("393337654321", "393401234999", "Stop!")])
    blacklist.add_all(conn, Actor("alice@acme.example"), account, [f"39347123{number:04}" for number in range(40)])
    listed = next(each for each in blacklist.of_account(conn, account.id) if each.received_id is not None)
    assert listed.received_id is not None
    return listed.received_id


def _send_parts(conn: Connection, account_id: int) -> int:
    """Two of the three parts of a text, one of them delivered; returns the id of the other."""
    parts = [prepared(conn, account_id, b"a long text, " * 11, segment=Segment(7, 3, number)) for number in (1, 3)]
    first, last = intake.store(conn, parts).ids
    assert first is not None
    assert last is not None
    outcomes.finish(conn, [Outcome(first, DELIVERED, 0, now_ms())])
    return last


def _session(number: int, account_id: int, address: str, tls: str) -> session_records.Connection:
    return session_records.Connection(
        number, account_id, address, "transceiver", tls, 1, now_ms(), now_ms(), 1200, 1100, 3
    )


def _exhibits(config: Config, keys: Keys, cast: Cast, arguments: dict[str, Any]) -> list[Exhibit]:
    """Every address that answers GET with a page, asked of the program itself: a new page is walked through unasked."""
    app = create_app(config, keys)
    adapter = app.url_map.bind("portal.test")
    found = []
    for rule in app.url_map.iter_rules():
        decision = rule_of(app, rule.endpoint)
        shown = rule.endpoint not in _NO_PAGES and not rule.rule.endswith(_DOWNLOADS)
        if "GET" in (rule.methods or ()) and decision in _LOOKS and shown:
            address = adapter.build(rule.endpoint, {name: arguments[name] for name in rule.arguments})
            found.append(Exhibit(_LOOKS_OTHERWISE.get(rule.endpoint, _LOOKS[decision]), address))
    waiting, classic = cast.smpp_acme_2.name, cast.sms_acme_1.name
    others = [
        f"/accounts/{waiting}",
        f"/accounts/{waiting}/options/smpp",
        f"/accounts/{waiting}/sessions",
        f"/accounts/{waiting}/history",
        f"/accounts/{waiting}/password",
        f"/accounts/{classic}",
        f"/accounts/{arguments['name']}?period=all",
        f"/accounts/{arguments['name']}/credits/buy?pack=100000",
        f"/accounts/{waiting}/orders",
        f"/accounts/{waiting}/received",
        f"/accounts/{waiting}/blacklist",
        f"/accounts/{waiting}/statistics",
        f"/accounts/{arguments['name']}/statistics?period=7d&grain=hour",
        f"/accounts/{arguments['name']}/statistics?period=range&from=2026-11-01",
        f"/accounts/{arguments['name']}/received?sender=39340&text=pacco",
        f"/accounts/{arguments['name']}/blacklist/remove?number=393337654321&number=393471230001",
        f"/accounts/{arguments['name']}/history/{arguments['part_id']}",
        f"/accounts/{arguments['name']}/history/delete?all=1",
        f"/accounts/{arguments['name']}/received/delete?all=1&sender=39340",
        f"/accounts/{arguments['name']}/history?period=7d&text=code&status=delivered",
        f"/accounts/{arguments['name']}/history?status=failed",
        f"/accounts/{arguments['name']}/history?text=nothing&sender=ACME&period=range&from=2026-11-01",
        _NOWHERE,
    ]
    found.append(Exhibit(OPERATOR, f"/admin/prices/{arguments['list_id']}/set?destination=IT"))
    return found + [Exhibit(OWNER, each) for each in others]


def _log_in(browser: Browser, server: Server, cast: Cast) -> dict[str, Any]:
    cookies: dict[str, Any] = {}

    def remember(who: str, page: Page) -> None:
        cookies[who] = page.context.storage_state()

    for who, person in ((NOBODY, None), (HALF_WAY, cast.bob), (OWNER, cast.alice), (OPERATOR, cast.olga)):
        context = browser.new_context(base_url=address_of(server))
        tab = Tab(context.new_page(), server)
        if who == HALF_WAY:
            tab.give_password(cast.bob)
        elif person:
            tab.log_in(person)
        remember(who, tab.page)
        if who == OWNER:
            tab.move_authenticator(cast.alice)
            remember(MOVING, tab.page)
        context.close()
    return cookies
