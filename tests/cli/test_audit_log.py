"""`audit`: who did what, for people and scripts."""

import pytest

from portal.core.clock import now_ms
from portal.core.db import insert_row
from portal.services.accounts import accounts
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.people import refused_logins


@pytest.fixture(autouse=True)
def rows(conn):
    conn.execute("DELETE FROM audit_log")
    account = accounts.get_account(conn, "smpp-acme-1")
    marta = Actor("marta@acme.example", "203.0.113.7")
    for network in ("192.0.2.1", "192.0.2.2"):
        accounts.record_account_action(conn, marta, "ip.add", account, network=network)
    audit.record_action(
        conn,
        Actor("\x1b[2J", "198.51.100.1"),
        refused_logins.UNKNOWN_EMAIL,
        at=1_700_000_000_000,
        count=7,
        last_at=1_700_000_060_000,
    )


def test_all_of_it_newest_first(ok):
    refused, second, _ = ok("audit")
    assert refused == {
        "id": refused["id"],
        "at": "2023-11-14T22:13:20Z",
        "actor": "\x1b[2J",
        "address": "198.51.100.1",
        "customer": None,
        "account": None,
        "action": "login.unknown_email",
        "count": 7,
        "last": "2023-11-14T22:14:20Z",
        "details": {},
    }
    assert (second["customer"], second["account"], second["details"]) == (
        "Acme",
        "smpp-acme-1",
        {"network": "192.0.2.2"},
    )


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ("--account smpp-acme-1", 2),
        ("--customer Acme --action ip.add", 2),
        ("--customer Globex", 0),
        ("--actor MARTA@acme.example", 2),
        ("--address 198.51.100.1", 1),
        ("--from 2023-11-14 --to 2023-11-14", 1),
        ("--from 2024-01-01", 2),
        ("--to 2023-11-13", 0),
        ("--limit 1", 1),
    ],
)
def test_filters(ok, options, count):
    assert len(ok("audit", *options.split())) == count


def test_for_people(run_app):
    heading, *lines = run_app("audit").stdout.splitlines()
    assert heading.split() == ["at", "actor", "address", "customer", "account", "action", "count", "details"]
    assert "\\x1b[2J" in lines[0]
    assert '{"network": "192.0.2.2"}' in lines[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--account smpp-nobodys", "There is no account “smpp-nobodys”."),
        ("--actor marta", "There is no “marta” in the audit log. Give a whole e-mail address, shell or system."),
        (
            "--address 203.0.113",
            "“203.0.113” isn't a whole IP address. Example: 203.0.113.7."
            " Of networks, only a /64 of IPv6 can be looked for.",
        ),
        ("--customer Nobody", "There is no customer “Nobody”."),
        ("--from yesterday", "“yesterday” isn't a date. Example: 2026-11-22."),
        ("--from 2026-02-01 --to 2026-01-01", "This day comes before the first one."),
    ],
)
def test_what_is_invalid_is_refused(refused, options, sentence):
    assert refused("audit", *options.split()) == f"{sentence}\n"


def test_an_unknown_action_is_refused_with_those_that_there_are(refused):
    sentence = refused("audit", "--action", "ip.ad")
    assert sentence.startswith("There is no action “ip.ad”. Possible: account.add, ")
    assert " ip.add, " in sentence


def test_an_action_of_an_older_version_can_be_named(ok, conn):
    for action in ("area.change", "zone.change"):
        insert_row(conn, "audit_log", at=now_ms(), actor="shell", address="", action=action, details="{}")
    for action in ("area.change", "zone.change"):
        (row,) = ok("audit", "--action", action)
        assert row["action"] == action
