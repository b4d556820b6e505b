"""Every page of the portal, with data on it, for tests of layout, size and accessibility."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from playwright.sync_api import Browser, Page

from portal.core.clock import now_ms
from portal.core.config import Config
from portal.core.crypto import Keys, hash_token
from portal.core.db import Connection, insert_row
from portal.core.gsm0338 import Encoding
from portal.services.accounts import accounts, allowed_ips, refusals, refused_binds, session_records
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit, orders, packs
from portal.services.brakes import brakes, unusual_traffic
from portal.services.brakes.brakes import Brakes
from portal.services.brakes.unusual_traffic import Finding
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL, Actor
from portal.services.common.message_states import DELIVERED, UNDELIVERABLE
from portal.services.credits import alerts, credits
from portal.services.messages import (
    account_requests,
    blacklist,
    deliveries,
    inbound,
    inbound_numbers,
    intake,
    outcomes,
    sending,
)
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.sending import AcceptedMessage, UnsentMessage, UnsentReason
from portal.services.messages.validation import Segment
from portal.services.operations import alerts as operators_alerts
from portal.services.people import authentication, customers, users
from portal.services.prices import countries, price_lists, prices
from portal.services.prices.prices import PriceChange
from portal.services.routing import routes
from portal.services.routing.route_usage import RouteUse
from portal.services.routing.routes import RouteTexts
from portal.services.senders import senders
from portal.services.statistics import rollup
from portal.services.upstreams import binds, traces, unclaimed
from portal.services.upstreams.claims import Claim
from portal.services.upstreams.traces import TracedPdu
from portal.services.upstreams.upstreams import Upstream
from portal.web.app import create_app
from portal.web.core.access import AccessRule, get_access_rule
from tests.documents import PDF
from tests.e2e.browsing import BrowserTab, portal_url
from tests.services.submitting import store_messages
from tests.services.upstreams.waiting import add_upstream
from tests.support import Cast, RunningServer, find_free_port, prepare_submit, record_refused_messages, wait_until

# The user who opens a page.
ANONYMOUS, AFTER_PASSWORD, OWNER, CHANGING_AUTHENTICATOR, OPERATOR = (
    "nobody",
    "half way",
    "the owner",
    "the owner, moving",
    "the operator",
)

_VIEWERS_BY_RULE = {
    AccessRule.PUBLIC: ANONYMOUS,
    AccessRule.LOGGED_IN: OWNER,
    AccessRule.ACCOUNT_ACCESS: OWNER,
    AccessRule.ACCOUNT_CHANGE: OWNER,
    AccessRule.OPERATOR: OPERATOR,
}
_VIEWERS_BY_ENDPOINT = {
    "login.verify_second_factor": AFTER_PASSWORD,
    "login.show_new_authenticator": CHANGING_AUTHENTICATOR,
}

# GET routes that are no pages, besides downloads: files, fragments, redirects.
_NON_PAGE_ENDPOINTS = {
    "senders.download_document",
    "static_files.serve_static_file",
    "live.poll_changes",
    "queue.poll_queue",
    "routes.poll_list",
    "upstreams.poll_changes",
    "allowed_ips.list_allowed_ips",
    "orders.pay_order",
}
_DOWNLOAD_SUFFIXES = (".csv", ".jsonl")


# Carriers' ids of messages, as submit_sm_resp has them; receipts have them in decimal.
_FIRST_ID = 0xAB00
_HEX_IDS = [f"{_FIRST_ID + number:x}" for number in range(8)]

_REFUSED_MESSAGES = {
    ("sender", "NOTMINE"): 12_345,
    ("sender", "GL0BEX"): 44,
    ("sender", refusals.OTHERS): 3,
    ("throughput", "20"): 118,
    ("window", "10"): 12,
    ("price", "CU"): 7,
    ("route", "NP"): 6,
    ("country", "US"): 5,
    ("coding", "4"): 4,
    ("state", "receiver"): 3,
    ("format", "ESME_RINVOPTPARAMVAL"): 2,
    ("length", ""): 1,
}
"""By reason and value."""

ALL, *HALVES = slice(None), slice(0, None, 2), slice(1, None, 2)
"""Shares of the pages: what takes long is done in two tests, so that no worker is left alone with it at the end."""


@dataclass(frozen=True)
class GalleryPage:
    """A page, and the user who opens it."""

    viewer: str
    address: str


@dataclass(frozen=True)
class PageVisit:
    """A page that is open in a tab; `html` is the response body."""

    viewer: str
    address: str
    tab: BrowserTab
    html: bytes

    @property
    def page(self) -> Page:
        return self.tab.page


@dataclass(frozen=True)
class PageGallery:
    """A server, its pages, and the cookies of their users."""

    server: RunningServer
    pages: list[GalleryPage]
    cookies: dict[str, Any]

    @contextmanager
    def visit_pages(self, browser: Browser, share: slice = ALL, **options: Any) -> Iterator[Iterator[PageVisit]]:
        """Open each page of a share in a tab, one after the other. `options` are those of new contexts."""
        contexts = {
            viewer: browser.new_context(base_url=portal_url(self.server), storage_state=cookies, **options)
            for viewer, cookies in self.cookies.items()
        }

        def visit_each() -> Iterator[PageVisit]:
            tabs = {viewer: BrowserTab(context.new_page(), self.server) for viewer, context in contexts.items()}
            for each in self.pages[share]:
                tab = tabs[each.viewer]
                answer = tab.page.goto(each.address, wait_until="load")
                assert answer is not None
                assert answer.status == (404 if each.address == _MISSING_PAGE else 200), f"{each}: {answer.status}"
                yield PageVisit(each.viewer, each.address, tab, answer.body())

        yield visit_each()
        for context in contexts.values():
            context.close()


_MISSING_PAGE = "/no-such-page"


def create_gallery(browser: Browser, server: RunningServer, config: Config, cast: Cast) -> PageGallery:
    """Put something on each page of a server, and log everyone in."""
    keys = Keys.load(config.data)
    with closing(server.connect()) as conn:
        arguments = _create_content(conn, keys, cast)
        # An account is on hold, and nothing is told of what is too new.
        operators_alerts.watch(conn, config, keys)
    return PageGallery(server, _list_pages(config, keys, cast, arguments), _log_in_viewers(browser, server, cast))


def _create_content(conn: Connection, keys: Keys, cast: Cast) -> dict[str, Any]:
    """Returns what stands for the variable parts of addresses."""
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    entry = allowed_ips.add_allowed_ip(
        conn, SHELL, account, "203.0.113.0/28", label="Data centre", expires_at=now_ms() + 86_400_000
    )
    allowed_ips.add_allowed_ip(
        conn, SHELL, account, "2001:db8:85a3:8d3:1319:8a2e:370:7348", label="A long one, with a long label"
    )
    sender = senders.add_sender(
        conn, SHELL, account, "Acme Shop", description="The web shop", reason="It is our name", document=PDF
    )
    senders.add_sender(conn, SHELL, account, "393401112233")
    senders.decide_sender(conn, SHELL, account, "393401112233", approve=False, comment="Not yours")
    # Looks like another customer's.
    senders.add_sender(
        conn, SHELL, account, "GL0BEX", reason="A name as long as they can be, with a reason to match. " * 3
    )
    for number in range(10):
        senders.add_sender(conn, SHELL, account, f"48{number:03}")
        senders.decide_sender(conn, SHELL, account, f"48{number:03}", approve=True)
    credits.transfer_credits(
        conn, SHELL, account, accounts.get_account(conn, cast.smpp_acme_2.name), 5 * credit_amounts.THOUSANDTHS
    )
    credits.grant_credits(
        conn, SHELL, account, 250 * credit_amounts.THOUSANDTHS, "Welcome", expires_at=now_ms() + 30 * 86_400_000
    )
    inbound_numbers.add_inbound_number(conn, SHELL, account, "393401234999")
    route = inbound_numbers.add_inbound_number(conn, SHELL, account, "48000", "acme")
    pack = packs.list_packs(conn)[0]
    orders.confirm_payment(
        conn, keys, SHELL, orders.purchase_pack(conn, keys, SHELL, account, pack), "Transfer of 22 November"
    )
    order = orders.purchase_pack(conn, keys, SHELL, account, pack)
    for number in range(12):
        credits.grant_credits(conn, SHELL, account, 1_234_500, note=f"A welcome gift, number {number}")
    _create_brakes(conn, keys, account, accounts.get_account(conn, cast.smpp_acme_2.name))
    alerts.set_alert_rule(
        conn, SHELL, account, 100 * credit_amounts.THOUSANDTHS, ["ops@acme.example", "a-long-name@mail.acme.example"]
    )
    auto_recredit.set_recredit_rule(
        conn, SHELL, account, 50 * credit_amounts.THOUSANDTHS, 250 * credit_amounts.THOUSANDTHS, 3
    )
    # Its balance is lower: each of its pages says so.
    alerts.set_alert_rule(
        conn, SHELL, accounts.get_account(conn, cast.smpp_acme_2.name), 200 * credit_amounts.THOUSANDTHS
    )
    message_id = _store_messages(conn, account.id)
    part_id = _store_message_parts(conn, account.id)
    forwarded_ids = _store_forwarded_messages(conn, keys, account.id)
    rollup.roll_up_all(conn)
    # Shown, but not there: a client that binds would have to answer enquire_link all the while.
    session_records.insert_smpp_sessions(
        conn, [_session_record(1, account.id, "203.0.113.7", "TLSv1.3"), _session_record(2, account.id, "::1", "")]
    )
    session_records.update_smpp_session_progress(
        conn, [session_records.SmppSessionProgress(1, now_ms(), 1200, 1100, 3, "5 0 12.5 " * 10, 118)]
    )
    for address, reason in (
        ("198.51.100.4", refused_binds.NOT_AUTHORISED),
        ("203.0.113.9", refused_binds.WRONG_PASSWORD),
        ("2001:db8:85a3:8d3:1319:8a2e:370:7348", refused_binds.REPLACED_PASSWORD),
    ):
        refused_binds.record_refused_binds(conn, [refused_binds.RefusedBind(account.id, address, reason, now_ms())] * 3)
    note = "We need 50 from the first of next month on, for the campaign of our largest customer. " * 2
    account_requests.ask_operator(conn, Actor("alice@acme.example"), account, account_requests.WINDOWING, "", note)
    account_requests.ask_operator(conn, Actor("alice@acme.example"), account, account_requests.ROUTE, "FR")
    unknown = refused_binds.RefusedBind(
        0, "2001:db8:85a3:8d3:1319:8a2e:370:7348", "", now_ms(), system_id="smpp-nobody-1"
    )
    refused_binds.record_refused_binds(conn, [unknown] * 3)
    record_refused_messages(conn, account.id, _REFUSED_MESSAGES)
    newcomer = users.create_user(conn, keys, SHELL, "newcomer@acme.example", users.MANAGER, cast.acme)
    token = authentication.create_enrolment_link(conn, newcomer)
    # Both kinds of links have one name in the addresses.
    insert_row(conn, "unlock_links", token_hash=hash_token(token), user_id=newcomer.id, expires_at=now_ms() + 3_600_000)
    return {
        "name": account.name,
        "number": order.number,
        "ip_id": entry.id,
        "session_id": 1,
        "sender_id": sender.id,
        "number_id": route.id,
        "customer_id": cast.acme,
        "list_id": _create_price_list(conn, cast),
        "user_id": newcomer.id,
        "message_id": message_id,
        "part_id": part_id,
        "route_id": 1,
        "forwarded_ids": forwarded_ids,
        "upstream_id": 1,
        "test_id": 1,
        "received_id": _store_inbound_messages(conn, account),
        "token": token,
        "subject": account_requests.THROUGHPUT,
        "request_id": 1,
    }


def _create_price_list(conn: Connection, cast: Cast) -> int:
    """Acme pays by a list of its own, with changes to come; returns its id."""
    volume = price_lists.create_price_list(conn, SHELL, "Volume & partners")
    at = now_ms() + 86_400_000
    changes = [
        PriceChange("IT", 700),
        PriceChange("39342", 1500),
        PriceChange("DE", None),
        PriceChange("IT", 750, at),
        PriceChange("DE", 900, at),
    ]
    prices.change_prices(conn, SHELL, volume.id, changes, "UTC")
    price_lists.assign_price_list(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), volume.id)
    return volume.id


def _store_messages(conn: Connection, account_id: int) -> int:
    """Enough messages for a second page of the history, most of them delivered; returns the id of one."""
    texts = cycle(["Your code is 4711", "Die Zustellung ist unterwegs 🚚", "<b>no markup</b> " * 20])
    submits = [
        prepare_submit(
            conn,
            account_id,
            next(texts).encode("utf-16-be"),
            destination=f"39340123{number:04}",
            data_coding=Encoding.UCS2,
        )
        for number in range(60)
    ]
    ids = [each for each in intake.store_messages(conn, submits).message_ids if each is not None]
    ends = zip(ids[:-3], cycle([(DELIVERED, 0)] * 6 + [(UNDELIVERABLE, 3)]), strict=False)
    outcomes.finish_messages(conn, [MessageOutcome(each, state, ptt, now_ms()) for each, (state, ptt) in ends])
    return ids[0]


def _store_inbound_messages(conn: Connection, account: Account) -> int:
    """Enough from handsets for a second page, one of them binary, and a blacklist as long; returns the id of a STOP."""
    texts = [f"Info {number}: quando arriva il mio pacco? " * 3 for number in range(20)]
    inbound.store_inbound_messages(
        conn, [MobileOriginatedMessage(f"3934012345{n:02}", "393401234999", each) for n, each in enumerate(texts)]
    )
    deliveries.remove_accepted_deliveries(conn, deliveries.list_due_deliveries(conn, account.id, now_ms(), 10).ready)
    binary = MobileOriginatedMessage(
        "4915112345678", "393401234999", "", data_coding=4, udh=b"\x05\x00\x03\x07\x02\x01", body=b"\x00\xff" * 60
    )
    inbound.store_inbound_messages(conn, [binary, MobileOriginatedMessage("393337654321", "393401234999", "Stop!")])
    blacklist.add_blacklist_numbers(
        conn, Actor("alice@acme.example"), account, [f"39347123{number:04}" for number in range(40)]
    )
    stop_entry = next(each for each in blacklist.list_blacklist(conn, account.id) if each.received_id is not None)
    assert stop_entry.received_id is not None
    return stop_entry.received_id


def _store_message_parts(conn: Connection, account_id: int) -> int:
    """Two of the three parts of a text, one of them delivered; returns the id of the other."""
    parts = [
        prepare_submit(conn, account_id, b"a long text, " * 11, segment=Segment(7, 3, number)) for number in (1, 3)
    ]
    first, last = intake.store_messages(conn, parts).message_ids
    assert first is not None
    assert last is not None
    outcomes.finish_messages(conn, [MessageOutcome(first, DELIVERED, 0, now_ms())])
    return last


def _store_forwarded_messages(conn: Connection, keys: Keys, account_id: int) -> list[int]:
    """A carrier that is not there, and messages for it; returns the ids of one that it has accepted, one that it has
    refused for the moment, and one that waits.
    """
    upstream = add_upstream(conn, keys, "a-carrier-with-a-long-name", host="127.0.0.1", port=find_free_port())
    outcomes.mark_last_simulated_message(conn)
    destinations = ["393331110000"] * len(_HEX_IDS) + ["393331110001", "393331110002", "393331110003"]
    submits = [prepare_submit(conn, account_id, destination=each) for each in destinations]
    for each in submits:
        each.is_queued = True
    *reported, accepted, held, queued = store_messages(conn, submits)
    now = now_ms()
    claimed = sending.claim_messages(conn, Claim(upstream.id, [()], len(reported) + 2), now)
    assert [each.id for each in claimed.messages] == [*reported, accepted, held]
    upstream_id = "0193751d-4f7e-7a07-b1d2-9f5f3a1c2e44"
    use = RouteUse(1, "IT", 1, 1_000, 700, "48484")
    sending.store_accepted_messages(conn, [AcceptedMessage(upstream.id, accepted, upstream_id, 1, now, None, use)])
    answers = zip(reported, _HEX_IDS, strict=True)
    sending.store_accepted_messages(conn, [AcceptedMessage(upstream.id, *each, 1, now) for each in answers])
    flow = (account_id, submits[-2].destination)
    unsent = UnsentMessage(upstream.id, held, UnsentReason.HELD, flow, status="ESME_RSYSERR 0x08")
    sending.store_unsent_messages(conn, [unsent], now)
    # The messages above take none of them.
    texts = RouteTexts(upstream.name, country="GB", sender="EXPARCEL")
    routes.add_route(conn, SHELL, replace(texts, replace_sender="48484", quiet_hours="22:00-08:00 Europe/London"))
    routes.add_route(conn, SHELL, RouteTexts(upstream.name, country="FR", buying_price="0.7"))
    insert_row(
        conn,
        "test_messages",
        upstream=upstream.id,
        created_at=now,
        source="ACME",
        destination="393331110009",
        text="Test",
        state="accepted",
        upstream_id=upstream_id,
    )
    _leave_what_is_nobodys(conn, upstream)
    # Pages of operators say why nothing takes it.
    wait_until(lambda: any(each.error for each in binds.list_bind_states(conn)[upstream.id]))
    return [accepted, held, queued]


def _leave_what_is_nobodys(conn: Connection, upstream: Upstream) -> None:
    """Receipts that another setting would find, messages that no account takes, and traced PDUs."""
    now = now_ms()
    # Enough for a second page. They name no number, so that the form of their ids has to be set.
    for number in range(_FIRST_ID, _FIRST_ID + 27):
        insert_row(
            conn,
            "unmatched_receipts",
            upstream=upstream.id,
            received_at=now,
            message_id=str(number),
            source="",
            destination="ACME",
            state=DELIVERED,
            ptt=0,
            status="stat:DELIVRD err:000",
            text=f"id:{number} sub:001 dlvrd:001 submit date:2611291200 done date:2611291201 stat:DELIVRD err:000",
            tried=f"{number}, {number:x}",
        )
    unclaimed.keep_unowned_messages(
        conn, [(now, upstream.id, "393331110001", "48489", "<b>Hello?</b> is there anybody who reads this " * 5)] * 26
    )
    traces.start_trace(conn, SHELL, upstream, 60)
    fields = {"source_addr": "ACME", "destination_addr": "3933******01", "data_coding": "0", "sm_length": "160"}
    traces.store_pdus(
        conn,
        upstream.id,
        [
            TracedPdu(now, True, 1, number, "submit_sm", "", {**fields, "short_message": "***"})
            if number % 2
            else TracedPdu(now, False, 1, number, "submit_sm_resp", "ESME_RTHROTTLED 0x58")
            for number in range(1, 120)
        ],
        7,
    )


def _session_record(number: int, account_id: int, address: str, tls: str) -> session_records.SmppSessionRecord:
    return session_records.SmppSessionRecord(
        number, account_id, address, "transceiver", tls, 1, now_ms(), now_ms(), 1200, 1100, 3
    )


def _create_brakes(conn: Connection, keys: Keys, account: Account, held_account: Account) -> None:
    """One account with brakes, and another one that is on hold, and of which some have refused messages."""
    # Its messages above are unusual traffic, which would be noticed while somebody looks at its pages.
    limits = Brakes(countries.COUNTRIES - {"US"}, 1_000_000, 12_345_500, 10, brakes.OFF)
    brakes.set_brakes(conn, SHELL, account, limits)
    reasons = (("country", "US"), ("day_messages", ""), ("day_credits", ""), ("hour_messages", ""))
    record_refused_messages(conn, held_account.id, dict.fromkeys(reasons, 1234))
    for found in (
        Finding(unusual_traffic.BUSY_HOUR, "", {"messages": 12_345, "threshold": 500, "usual": 34}),
        Finding(unusual_traffic.EXPENSIVE_COUNTRY, "CU", {"price": 4000, "days": 90}),
        Finding(unusual_traffic.CONSECUTIVE_NUMBERS, "", {"numbers": 87, "of": 100}),
    ):
        unusual_traffic.record_event(conn, keys, held_account.id, found, now_ms(), is_to_hold=True)


def _list_pages(config: Config, keys: Keys, cast: Cast, arguments: dict[str, Any]) -> list[GalleryPage]:
    """Every address that answers GET with a page, from the application's own routes, so that a new page is included."""
    app = create_app(config, keys)
    adapter = app.url_map.bind("portal.test")
    pages = []
    for rule in app.url_map.iter_rules():
        decision = get_access_rule(app, rule.endpoint)
        is_page = rule.endpoint not in _NON_PAGE_ENDPOINTS and not rule.rule.endswith(_DOWNLOAD_SUFFIXES)
        if "GET" in (rule.methods or ()) and decision in _VIEWERS_BY_RULE and is_page:
            address = adapter.build(
                rule.endpoint, {name: arguments[name] for name in rule.arguments - (rule.defaults or {}).keys()}
            )
            pages.append(GalleryPage(_VIEWERS_BY_ENDPOINT.get(rule.endpoint, _VIEWERS_BY_RULE[decision]), address))
    waiting_account, classic_account = cast.smpp_acme_2.name, cast.sms_acme_1.name
    other_addresses = [
        f"/accounts/{waiting_account}",
        f"/accounts/{waiting_account}/options/smpp",
        f"/accounts/{waiting_account}/sessions",
        f"/accounts/{waiting_account}/history",
        f"/accounts/{waiting_account}/password",
        f"/accounts/{classic_account}",
        f"/accounts/{arguments['name']}/ask/windowing",
        f"/accounts/{arguments['name']}/ask/coding?value=3",
        f"/accounts/{arguments['name']}?period=all",
        f"/accounts/{arguments['name']}/credits/buy?pack=100000",
        f"/accounts/{waiting_account}/orders",
        f"/accounts/{waiting_account}/received",
        f"/accounts/{waiting_account}/blacklist",
        f"/accounts/{waiting_account}/statistics",
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
        _MISSING_PAGE,
    ]
    pages.append(GalleryPage(OPERATOR, f"/admin/prices/{arguments['list_id']}/set?destination=IT"))
    asked = f"account={arguments['name']}&number=447911123456&sender=EXPARCEL"
    pages.append(GalleryPage(OPERATOR, f"/admin/routes?{asked}"))
    for each in arguments["forwarded_ids"]:
        address = f"/accounts/{arguments['name']}/history/{each}"
        pages += [GalleryPage(OWNER, address), GalleryPage(OPERATOR, address)]
    return pages + [GalleryPage(OWNER, each) for each in other_addresses]


def _log_in_viewers(browser: Browser, server: RunningServer, cast: Cast) -> dict[str, Any]:
    cookies: dict[str, Any] = {}

    def save_cookies(who: str, page: Page) -> None:
        cookies[who] = page.context.storage_state()

    for viewer, person in ((ANONYMOUS, None), (AFTER_PASSWORD, cast.bob), (OWNER, cast.alice), (OPERATOR, cast.olga)):
        context = browser.new_context(base_url=portal_url(server))
        tab = BrowserTab(context.new_page(), server)
        if viewer == AFTER_PASSWORD:
            tab.submit_password(cast.bob)
        elif person:
            tab.log_in(person)
        save_cookies(viewer, tab.page)
        if viewer == OWNER:
            tab.start_authenticator_change(cast.alice)
            save_cookies(CHANGING_AUTHENTICATOR, tab.page)
        context.close()
    return cookies
