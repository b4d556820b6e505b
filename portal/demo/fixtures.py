"""The demo's data: customers, users, accounts, addresses, senders, prices, upstreams, in the language in use."""

import sqlite3
from contextlib import closing
from pathlib import Path

from portal import migrations
from portal.core import clock, db
from portal.core.crypto import Keys
from portal.core.i18n import current_language, gettext
from portal.core.progress import Progress
from portal.demo import documents, history_seed
from portal.services.accounts import accounts, allowed_ips, credentials, refusals, refused_binds, refused_messages
from portal.services.accounts.accounts import Account
from portal.services.accounts.refusals import RefusalKey
from portal.services.billing import auto_recredit, orders, packs
from portal.services.billing.packs import Pack
from portal.services.common.audit import Actor
from portal.services.common.credit_amounts import THOUSANDTHS
from portal.services.credits import alerts, credits
from portal.services.messages import blacklist, inbound_numbers, text_policy
from portal.services.people import authentication, customers, two_factor, users
from portal.services.people.customers import Customer
from portal.services.prices import price_lists, prices
from portal.services.prices.prices import PriceChange
from portal.services.routing import routes
from portal.services.routing.routes import RouteTexts
from portal.services.senders import senders
from portal.services.statistics import rollup
from portal.services.upstreams import upstreams

OWNER = "marta@acme.example"
VIEWER = "bruno@acme.example"
OPERATOR = "olga@portal.example"
SENDING_ACCOUNT = "smpp-demo-1"
LIVE_ACCOUNT = "smpp-demo-live"
"""The account of the client that sends all the while (`client.send_all_the_while`)."""
SENDER = "ACME"
VIRTUAL_NUMBER = "447700900123"  # from the range that is reserved for fiction

_OPERATOR_ACTOR = Actor(OPERATOR)
_OWNER_ACTOR = Actor(OWNER)
# In cents, by how many credits a pack has.
_PACK_PRICES = {100: 700, 200: 1360, 250: 1650, 500: 3150, 1000: 6000, 5000: 28500, 10000: 54000}


def create_demo_data(folder: Path, password: str, progress: Progress) -> tuple[dict[str, str], dict[str, str]]:
    """Create the key and the database of the demo.

    Args:
        folder: an empty folder.
        password: the login password of all users.
        progress: as for `history_seed.seed_history`.

    Returns:
        TOTP secrets by e-mail address, and SMPP passwords by account name.
    """
    Keys.create(folder)
    keys = Keys.load(folder)
    migrations.migrate(folder / db.FILE_NAME)
    (folder / db.FILE_NAME).chmod(0o600)
    with closing(db.connect(folder / db.FILE_NAME)) as conn:
        with db.write_transaction(conn):
            prices.set_prices(conn, _OPERATOR_ACTOR, prices.read_initial_prices())
            acme = customers.create_customer(conn, _OPERATOR_ACTOR, "Acme Logistics", OWNER, current_language())
            globex = customers.create_customer(conn, _OPERATOR_ACTOR, "Globex", "hank@globex.example", "it")
            people = {
                email: _create_user(conn, keys, email, role, customer_id, password)
                for email, role, customer_id in (
                    (OWNER, users.OWNER, acme.id),
                    (VIEWER, users.VIEWER, acme.id),
                    (OPERATOR, users.OPERATOR, None),
                )
            }
            passwords = _create_accounts(conn, keys, acme.id, globex.id)
            text_policy.change_text_policy(conn, _OPERATOR_ACTOR, globex, text_policy.NONE)
            customers.change_customer(conn, _OPERATOR_ACTOR, globex, messages_months=3)
        history_seed.seed_history(conn, _OPERATOR_ACTOR, progress)
        rollup.roll_up_all(conn)
        with db.write_transaction(conn):
            source, target = (accounts.get_account(conn, name) for name in (SENDING_ACCOUNT, "smpp-demo-2"))
            history_seed.seed_inbound_messages(conn, source, VIRTUAL_NUMBER)
            blacklist.add_blacklist_number(conn, _OWNER_ACTOR, source, "+39 340 555 0199")
            credits.transfer_credits(conn, _OWNER_ACTOR, source, target, 250 * THOUSANDTHS)
            sold = [Pack(size * THOUSANDTHS, price, "EUR") for size, price in _PACK_PRICES.items()]
            packs.replace_packs(conn, _OPERATOR_ACTOR, sold)
            customers.change_customer(conn, _OPERATOR_ACTOR, acme, credit_line=2000 * THOUSANDTHS, min_age_days=0)
            auto_recredit.set_recredit_rule(conn, _OWNER_ACTOR, source, 200 * THOUSANDTHS, 500 * THOUSANDTHS, 2)
            alerts.set_alert_rule(conn, _OWNER_ACTOR, source, 500 * THOUSANDTHS)
            # Its balance is lower, so its pages show the warning.
            alerts.set_alert_rule(conn, _OWNER_ACTOR, target, 300 * THOUSANDTHS)
            paid, _open = (orders.place_order(conn, _OWNER_ACTOR, source, each) for each in sold[:2])
            orders.pay_order(conn, _OPERATOR_ACTOR, paid, gettext("Transfer of this morning"))
            in_a_month = clock.now_ms() + 30 * clock.DAY_MS
            _create_price_lists(conn, acme, in_a_month // clock.DAY_MS * clock.DAY_MS)
            credits.grant_credits(
                conn, _OPERATOR_ACTOR, source, 200 * THOUSANDTHS, gettext("Winter bonus"), expires_at=in_a_month
            )
            _create_upstreams(conn, keys)
    return people, passwords


def _create_upstreams(conn: sqlite3.Connection, keys: Keys) -> None:
    """Create two simulators with a route each: where one is switched off, the other one takes over."""
    for name in ("milano", "roma"):
        upstreams.create_upstream(conn, keys, _OPERATOR_ACTOR, name, kind=upstreams.SIMULATOR)
    routes.add_route(conn, _OPERATOR_ACTOR, RouteTexts("milano,roma", country="IT"))
    routes.add_route(conn, _OPERATOR_ACTOR, RouteTexts("roma,milano"))


def _create_price_lists(conn: sqlite3.Connection, acme: Customer, in_a_month: int) -> None:
    """Create a price list for Acme, and price changes with a date to come."""
    partners = price_lists.create_price_list(conn, _OPERATOR_ACTOR, gettext("Partners")).id
    partner_prices = [
        PriceChange("DE", 900),
        PriceChange("GB", 950),
        PriceChange("GB", 900, in_a_month),
        PriceChange("4470", None),
    ]
    prices.change_prices(conn, _OPERATOR_ACTOR, partners, partner_prices, "UTC")
    announced = [PriceChange("IT", 1100, in_a_month), PriceChange("FR", 600, in_a_month)]
    prices.change_prices(conn, _OPERATOR_ACTOR, price_lists.DEFAULT_LIST, announced, "UTC")
    price_lists.assign_price_list(conn, _OPERATOR_ACTOR, acme, partners)


def _create_user(
    conn: sqlite3.Connection, keys: Keys, email: str, role: str, customer_id: int | None, password: str
) -> str:
    user = users.create_user(conn, keys, _OPERATOR_ACTOR, email, role, customer_id)
    authentication.enrol_user(conn, keys, Actor(email), user, authentication.hash_new_password(password, ()))
    return two_factor.format_totp_secret(keys, authentication.read_totp_secret(conn, user))


def _create_accounts(conn: sqlite3.Connection, keys: Keys, acme: int, globex: int) -> dict[str, str]:
    first = _create_account(conn, acme, SENDING_ACCOUNT, gettext("Parcel notifications"))
    second = _create_account(conn, acme, "smpp-demo-2", gettext("New warehouse, not connected yet"))
    classic = _create_account(conn, acme, "sms-demo-1", gettext("Sent by hand"))
    other = _create_account(conn, globex, "smpp-globex-1", gettext("Appointments"))
    live = _create_account(conn, acme, LIVE_ACCOUNT, gettext("Web shop, sends all the while"))

    for account in (first, live):
        for address in ("127.0.0.1", "::1"):
            allowed_ips.add_allowed_ip(conn, _OWNER_ACTOR, account, address, label=gettext("This machine"))
    allowed_ips.add_allowed_ip(conn, _OWNER_ACTOR, first, "198.51.100.0/28", label=gettext("Data centre"))
    allowed_ips.add_allowed_ip(conn, _OPERATOR_ACTOR, other, "192.0.2.25")
    inbound_numbers.add_inbound_number(conn, _OPERATOR_ACTOR, first, VIRTUAL_NUMBER)
    _seed_senders(conn, first, classic, other, live)
    credits.grant_credits(conn, _OPERATOR_ACTOR, live, 100_000 * THOUSANDTHS)
    _seed_refusals(conn, first)
    return {
        each.name: credentials.regenerate_smpp_password(conn, keys, _OPERATOR_ACTOR, each, send_mail=False)
        for each in (first, second, other, live)
    }


def _seed_refusals(conn: sqlite3.Connection, account: Account) -> None:
    """Count what was refused of an account in the last days, each with another remedy: a sender that waits for the
    operator, a throughput that was reached, a destination without a price, an address that isn't in the list.
    """
    now = clock.now_ms()
    for reason, value, count, ago in (
        (refused_messages.PRICE, "TA", 1, 5 * clock.DAY_MS),
        (refused_messages.THROUGHPUT, str(account.throughput), 12, 2 * clock.DAY_MS),
        (refused_messages.SENDER, "ACMESHOP", 4, 3 * clock.HOUR_MS),
    ):
        refusals.record_refusals(conn, {RefusalKey(account.id, False, reason, value): count}, now - ago)
    for n in range(3):
        at = now - 20 * clock.MINUTE_MS + n * 5_000
        refusal = refused_binds.RefusedBind(account.id, "203.0.113.7", refused_binds.NOT_AUTHORISED, at)
        refused_binds.record_refused_binds(conn, [refusal])


def _seed_senders(conn: sqlite3.Connection, first: Account, classic: Account, other: Account, live: Account) -> None:
    """Add senders in each status, some with a document, and a pending one that resembles another customer's."""
    for account, sender, description in (
        (first, SENDER, gettext("Parcels")),
        (first, "ACME-Info", gettext("Opening hours and strikes")),
        (first, "ACME Night", gettext("Deliveries in the evening")),
        (first, VIRTUAL_NUMBER, gettext("Two-way messages")),
        (classic, SENDER, ""),
        (other, "GLOBEX", gettext("Appointments")),
        (live, SENDER, gettext("Parcels")),
    ):
        senders.add_sender(conn, _OWNER_ACTOR, account, sender, description=description)
        senders.decide_sender(conn, _OPERATOR_ACTOR, account, sender, approve=True)
    night = senders.get_sender(conn, first, "ACME Night")
    senders.set_sender_enabled(conn, _OWNER_ACTOR, first, night.id, enabled=False)
    senders.add_sender(
        conn, _OWNER_ACTOR, first, "PARCELS", description=gettext("All parcels"), reason=gettext("It is short")
    )
    comment = gettext("Every carrier sends parcels: choose a name with your own in it.")
    senders.decide_sender(conn, _OPERATOR_ACTOR, first, "PARCELS", approve=False, comment=comment)
    reason = gettext("Order confirmations to those who have ordered in our web shop.")
    letter = documents.create_pdf(
        gettext("To whom it may concern"), gettext("Acme Logistics runs the web shop ACMESHOP.")
    )
    senders.add_sender(
        conn, _OWNER_ACTOR, first, "ACMESHOP", description=gettext("Web shop"), reason=reason, document=letter
    )
    senders.add_sender(
        conn, _OWNER_ACTOR, first, "GL0BEX", description=gettext("A test"), reason=gettext("Parcels for Globex")
    )


def _create_account(conn: sqlite3.Connection, customer_id: int, name: str, description: str) -> Account:
    kind = name.partition("-")[0]
    return accounts.create_account(conn, _OPERATOR_ACTOR, customer_id, kind=kind, name=name, description=description)
