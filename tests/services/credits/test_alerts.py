"""Alerts: when a balance has crossed the threshold, and who is to be told."""

from collections.abc import Callable

import pytest

from portal.core.db import Connection
from portal.services.accounts import accounts, change_counters
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL, Actor
from portal.services.credits import alerts, credits
from portal.services.messages import intake
from portal.services.people import customers
from tests.services.audit_log import list_audit_entries
from tests.support import prepare_submit

K = credit_amounts.THOUSANDTHS
ALICE = Actor("alice@acme.example")


@pytest.fixture
def alert(conn: Connection, acme_1: Account) -> Callable[..., Account]:
    """Sets the threshold of smpp-acme-1, which holds 1000 credits."""

    def alert(below: int = 950, *addresses: str, account: Account = acme_1) -> Account:
        alerts.set_alert_rule(conn, ALICE, account, below * K, addresses)
        return accounts.get_account(conn, account.name)

    return alert


def notices(conn: Connection) -> list[tuple[str, int]]:
    return [
        (row["kind"], row["balance"] // K)
        for row in conn.execute("SELECT kind, balance FROM credit_notices ORDER BY id")
    ]


def send(conn: Connection, account: Account, count: int = 1) -> None:
    intake.store_messages(conn, [prepare_submit(conn, account.id)] * count)


# --- crossing


def test_messages_cross_it_once(conn, acme_1, alert):
    alert()
    send(conn, acme_1, 50)
    assert notices(conn) == []
    send(conn, acme_1)
    send(conn, acme_1)
    assert notices(conn) == [("low", 949)]


def test_it_crosses_again_after_credits_came(conn, acme_1, alert):
    alert()
    send(conn, acme_1, 60)
    credits.grant_credits(conn, SHELL, acme_1, 20 * K)
    send(conn, acme_1, 20)
    assert notices(conn) == [("low", 940), ("low", 940)]


def test_credits_that_came_but_not_enough_are_no_crossing(conn, acme_1, alert):
    alert()
    send(conn, acme_1, 60)
    credits.grant_credits(conn, SHELL, acme_1, 5 * K)
    send(conn, acme_1, 5)
    assert notices(conn) == [("low", 940)]


def test_a_transfer_out_crosses_it_too(conn, acme_1, acme_2, alert):
    alert()
    credits.transfer_credits(conn, ALICE, acme_1, acme_2, 51 * K)
    assert notices(conn) == [("low", 949)]


def test_what_it_takes_from_one_account_is_not_said_of_another(conn, acme_1, acme_2, alert):
    alert()
    send(conn, acme_1, 50)
    credits.transfer_credits(conn, ALICE, acme_2, acme_1, 1 * K)
    assert notices(conn) == []


def test_without_a_threshold_nothing_is_noted(conn, acme_1):
    send(conn, acme_1, 1000)
    assert credits.get_balance(conn, acme_1.id) == 0
    assert notices(conn) == []


# --- the rule


def test_the_rule_is_kept_and_written_down(conn, acme_1, alert):
    found = alert(100, " ops@acme.example ", "marta@acme.example")
    assert (found.alert_below, found.alert_to) == (100 * K, ("ops@acme.example", "marta@acme.example"))
    entry = list_audit_entries(conn, acme_1.id)[0]
    assert (entry.actor, entry.action) == (ALICE.name, "alert.set")
    assert entry.details == {"below": 100 * K, "to": ["ops@acme.example", "marta@acme.example"]}


def test_an_address_that_is_there_twice_counts_once(alert):
    assert len(alert(100, "ops@acme.example", "OPS@acme.example").alert_to) == 1


def test_taking_it_away_forgets_the_addresses(conn, acme_1, alert):
    alert(100, "ops@acme.example")
    alerts.set_alert_rule(conn, ALICE, acme_1, None, ["ops@acme.example"])
    account = accounts.get_account(conn, acme_1.name)
    assert (account.alert_below, account.alert_to) == (None, ())


@pytest.mark.parametrize(
    ("addresses", "refusal", "words"),
    [
        (["nobody"], customers.InvalidEmail, "“nobody” isn't an e-mail address"),
        ([f"{number}@acme.example" for number in range(6)], alerts.TooManyAlertAddresses, "at most 5 addresses"),
    ],
)
def test_addresses_that_are_none_or_too_many(conn, acme_1, addresses, refusal, words):
    with pytest.raises(refusal, match=words) as refused:
        alerts.set_alert_rule(conn, ALICE, acme_1, 100 * K, addresses)
    assert refused.value.field == "to"
    assert accounts.get_account(conn, acme_1.name).alert_below is None


def test_addresses_as_people_write_them():
    assert alerts.parse_email_addresses(" a@b.example, c@d.example;e@f.example\ng@h.example ") == [
        "a@b.example",
        "c@d.example",
        "e@f.example",
        "g@h.example",
    ]
    assert alerts.parse_email_addresses(" ") == []


# --- what the pages say


@pytest.fixture
def shortage(conn: Connection) -> Callable[[Account], str]:
    """Whether an account's credits have run short."""

    def shortage(account: Account) -> str:
        latest = change_counters.read_change_counters(conn, account.id).latest_message
        return alerts.find_credit_shortage(conn, accounts.get_account(conn, account.name), latest)

    return shortage


def test_below_the_threshold_is_low(conn, acme_1, alert, shortage):
    assert shortage(acme_1) == ""
    alert(1000)
    assert shortage(acme_1) == ""
    send(conn, acme_1)
    assert shortage(acme_1) == alerts.LOW


def test_a_message_that_was_refused_is_said_until_credits_come(conn, acme_1, shortage):
    send(conn, acme_1, 1001)
    assert shortage(acme_1) == alerts.REFUSED
    credits.grant_credits(conn, SHELL, acme_1, K)
    assert shortage(acme_1) == ""


def test_an_account_without_messages_or_movements(conn, cast, shortage):
    new = accounts.create_account(conn, SHELL, cast.acme, name="smpp-acme-9")
    assert shortage(new) == ""
