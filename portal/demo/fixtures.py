"""Who and what is in the demo: customers, people, accounts, addresses, senders, prices."""

import sqlite3
from pathlib import Path

from portal import migrations
from portal.core import clock, db
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import immediate
from portal.demo import documents, history_seed
from portal.services.accounts import accounts, allowed_ips, credentials, refused_binds
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit, orders, packs
from portal.services.common import credit_amounts
from portal.services.common.audit import Actor
from portal.services.credits import alerts, credits
from portal.services.messages import blacklist, inbound_numbers, text_policy
from portal.services.people import customers, enrolment, password_hashing, two_factor, users
from portal.services.people.customers import Customer
from portal.services.prices import price_lists, prices
from portal.services.prices.prices import Change
from portal.services.senders import senders
from portal.services.statistics import rollup

OWNER = "marta@acme.example"
VIEWER = "bruno@acme.example"
OPERATOR = "olga@portal.example"
SENDING_ACCOUNT = "smpp-demo-1"
SENDER = "ACME"
VIRTUAL_NUMBER = "447700900123"  # from the range that is kept for fiction

_BY_OPERATOR = Actor(OPERATOR)
_BY_OWNER = Actor(OWNER)


def set_up(folder: Path, password: str) -> tuple[dict[str, str], dict[str, str]]:
    """Make a key and a database with everything in them.

    Args:
        folder: empty.
        password: of everybody who can log in.

    Returns:
        TOTP secrets by e-mail address, and SMPP passwords by account.
    """
    Keys.create(folder)
    keys = Keys.load(folder)
    migrations.migrate(folder / db.FILE_NAME, keep_backups=0)
    (folder / db.FILE_NAME).chmod(0o600)
    conn = db.connect(folder / db.FILE_NAME)
    try:
        with immediate(conn):
            prices.put(conn, _BY_OPERATOR, prices.starting())
            acme = customers.add(conn, _BY_OPERATOR, "Acme Logistics", OWNER)
            globex = customers.add(conn, _BY_OPERATOR, "Globex", "hank@globex.example", "it")
            people = {
                email: _enrolled(conn, keys, email, role, customer_id, password)
                for email, role, customer_id in (
                    (OWNER, users.OWNER, acme.id),
                    (VIEWER, users.VIEWER, acme.id),
                    (OPERATOR, users.OPERATOR, None),
                )
            }
            passwords = _accounts(conn, keys, acme.id, globex.id)
            text_policy.change(conn, _BY_OPERATOR, globex, text_policy.NONE)
            customers.change(conn, _BY_OPERATOR, globex, messages_months=3)
        history_seed.make_up(conn, _BY_OPERATOR)
        rollup.gather_all(conn)
        with immediate(conn):
            source, target = (accounts.by_name(conn, name) for name in (SENDING_ACCOUNT, "smpp-demo-2"))
            history_seed.make_up_answers(conn, source, VIRTUAL_NUMBER)
            blacklist.add(conn, _BY_OWNER, source, "+39 340 555 0199")
            credits.transfer(conn, _BY_OWNER, source, target, 250 * credit_amounts.THOUSANDTHS)
            customer = customers.by_id(conn, source.customer_id)
            customers.change(
                conn, _BY_OPERATOR, customer, credit_line=2000 * credit_amounts.THOUSANDTHS, min_age_days=0
            )
            auto_recredit.set_rule(
                conn, _BY_OWNER, source, 200 * credit_amounts.THOUSANDTHS, 500 * credit_amounts.THOUSANDTHS, 2
            )
            alerts.set_rule(conn, _BY_OWNER, source, 500 * credit_amounts.THOUSANDTHS)
            # It holds less: its pages say so.
            alerts.set_rule(conn, _BY_OWNER, target, 300 * credit_amounts.THOUSANDTHS)
            paid, _open = (orders.place(conn, _BY_OWNER, source, each) for each in packs.everyone(conn)[:2])
            orders.pay(conn, _BY_OPERATOR, paid, "Transfer of this morning")
            in_a_month = now_ms() + 30 * clock.DAY_MS
            _prices(conn, acme, in_a_month // clock.DAY_MS * clock.DAY_MS)
            credits.grant(
                conn, _BY_OPERATOR, source, 200 * credit_amounts.THOUSANDTHS, "Winter bonus", expires_at=in_a_month
            )
    finally:
        conn.close()
    return people, passwords


def _prices(conn: sqlite3.Connection, acme: Customer, in_a_month: int) -> None:
    """A list for Acme, and changes that are announced."""
    partners = price_lists.create(conn, _BY_OPERATOR, "Partners").id
    own = [Change("DE", 900), Change("GB", 950), Change("GB", 900, in_a_month), Change("4470", None)]
    prices.change(conn, _BY_OPERATOR, partners, own, "UTC")
    announced = [Change("IT", 1100, in_a_month), Change("FR", 600, in_a_month)]
    prices.change(conn, _BY_OPERATOR, price_lists.DEFAULT_LIST, announced, "UTC")
    price_lists.assign(conn, _BY_OPERATOR, acme, partners)


def _enrolled(
    conn: sqlite3.Connection, keys: Keys, email: str, role: str, customer_id: int | None, password: str
) -> str:
    user = users.add(conn, keys, _BY_OPERATOR, email, role, customer_id)
    enrolment.enrol_at_once(conn, Actor(email), user, password_hashing.hash_password(password))
    return two_factor.secret_text(keys, enrolment.totp_secret(conn, user))


def _accounts(conn: sqlite3.Connection, keys: Keys, acme: int, globex: int) -> dict[str, str]:
    first = _account(conn, acme, SENDING_ACCOUNT, "Parcel notifications")
    second = _account(conn, acme, "smpp-demo-2", "New warehouse, not connected yet")
    classic = _account(conn, acme, "sms-demo-1", "Sent by hand")
    other = _account(conn, globex, "smpp-globex-1", "Appointments")

    for address, label in (("127.0.0.1", "This machine"), ("::1", "This machine"), ("198.51.100.0/28", "Data centre")):
        allowed_ips.add(conn, _BY_OWNER, first, address, label=label)
    allowed_ips.add(conn, _BY_OPERATOR, other, "192.0.2.25")
    inbound_numbers.add(conn, _BY_OPERATOR, first, VIRTUAL_NUMBER)
    _senders(conn, first, classic, other)
    # Somebody tries from an address that isn't in the list: the page offers the remedy.
    at = now_ms() - 20 * 60_000
    refused_binds.refused(
        conn,
        [
            refused_binds.RefusedBind(first.id, "203.0.113.7", refused_binds.NOT_AUTHORISED, at + n * 5_000)
            for n in range(3)
        ],
    )
    return {
        each.name: credentials.regenerate(conn, keys, _BY_OPERATOR, each, send_mail=False)
        for each in (first, second, other)
    }


def _senders(conn: sqlite3.Connection, first: Account, classic: Account, other: Account) -> None:
    """In each state, some with a document, and one that waits and looks like another customer's."""
    for account, sender, description in (
        (first, SENDER, "Parcels"),
        (first, "ACME-Info", "Opening hours and strikes"),
        (first, "ACME Night", "Deliveries in the evening"),
        (first, VIRTUAL_NUMBER, "Two-way messages"),
        (classic, SENDER, ""),
        (other, "GLOBEX", "Appointments"),
    ):
        senders.add(conn, _BY_OWNER, account, sender, description=description)
        senders.decide(conn, _BY_OPERATOR, account, sender, approve=True)
    senders.switch(conn, _BY_OWNER, first, senders.by_address(conn, first, "ACME Night").id, on=False)
    senders.add(conn, _BY_OWNER, first, "PARCELS", description="All parcels", reason="It is short")
    comment = "Every carrier sends parcels: choose a name with your own in it."
    senders.decide(conn, _BY_OPERATOR, first, "PARCELS", approve=False, comment=comment)
    senders.add(
        conn,
        _BY_OWNER,
        first,
        "ACMESHOP",
        description="Web shop",
        reason="Order confirmations to those who have ordered in our web shop.",
        document=documents.letter("To whom it may concern", "Acme Logistics runs the web shop ACMESHOP."),
    )
    senders.add(conn, _BY_OWNER, first, "GL0BEX", description="A test", reason="Parcels for Globex")


def _account(conn: sqlite3.Connection, customer_id: int, name: str, description: str) -> Account:
    kind = name.partition("-")[0]
    return accounts.add(conn, _BY_OPERATOR, customer_id, kind=kind, name=name, description=description)
