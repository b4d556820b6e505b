"""Mails about credits: who gets which, in which language, and each once."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.db import Connection, write_transaction
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit, credit_mails, packs
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.common.mail import send_due_mails
from portal.services.credits import alerts, credits
from portal.services.messages import intake
from portal.services.people import customers, users
from portal.services.people.customers import Customer
from tests.mailbox import Mailbox
from tests.services.mails import get_text
from tests.support import Cast, prepare_submit

K = credit_amounts.THOUSANDTHS


@pytest.fixture
def acme(conn: Connection, cast: Cast) -> Customer:
    return customers.get_customer_by_id(conn, cast.acme)


@pytest.fixture
def low(conn: Connection, acme_1: Account) -> Callable[..., None]:
    """The account falls below a threshold of 950 credits."""

    def low(*addresses: str) -> None:
        alerts.set_alert_rule(conn, SHELL, acme_1, 950 * K, addresses)
        send(conn, acme_1, 60)

    return low


@pytest.fixture
def rule(conn: Connection, acme: Customer, acme_1: Account) -> Callable[..., None]:
    """Automatic re-credit below 950 credits, with a line of so many."""

    def rule(line: int = 1000, per_day: int = 2) -> None:
        customers.change_customer(conn, SHELL, acme, credit_line=line * K, min_age_days=0)
        auto_recredit.set_recredit_rule(conn, SHELL, acme_1, 950 * K, 100 * K, per_day)

    return rule


@pytest.fixture
def mails(conn: Connection, keys: Keys, config: Config) -> Callable[[], list[EmailMessage]]:
    """Queues and sends what is due; returns the mails."""

    def mails() -> list[EmailMessage]:
        count = credit_mails.queue_credit_mails(conn, keys)
        assert sum(send_due_mails(conn, config, keys)) == count
        files = sorted((config.data / "outbox").iterdir()) if count else []
        messages = [message_from_bytes(each.read_bytes(), policy=policy.default) for each in files]
        for each in files:
            each.unlink()
        return messages

    return mails


def send(conn: Connection, account: Account, count: int = 1) -> None:
    intake.store_messages(conn, [prepare_submit(conn, account.id)] * count)


def subjects(mails: Iterable[EmailMessage]) -> list[tuple[str, str]]:
    return [(each["To"], each["Subject"]) for each in mails]


def texts(mail: EmailMessage) -> tuple[str, str]:
    """What the mail says, in its two forms."""
    return get_text(mail), re.sub(r"<[^>]+>", "", get_text(mail, "html"))


def test_nothing_noted_is_no_mail(mails):
    assert mails() == []


def test_no_mail_speaks_of_buying_where_nothing_is_sold(conn, keys, mails, low):
    low()
    (mail,) = mails()
    assert all("Buy credits" in text for text in texts(mail))
    packs.replace_packs(conn, SHELL, [])
    credits.grant_credits(conn, SHELL, accounts.get_account(conn, "smpp-acme-1"), 60 * K)
    low()
    (mail,) = mails()
    assert [text for text in texts(mail) if "Buy credits" in text or "ask the operator for more:" not in text] == []


def test_a_balance_that_is_low(config, mails, low):
    low()
    (mail,) = mails()
    assert subjects([mail]) == [("marta@acme.example", "smpp-acme-1 is running out of credits")]
    for text in texts(mail):
        assert "smpp-acme-1 holds 940 credits." in text
        assert "when there are fewer than 950." in text
        assert "At the rate of the last 7 days, the credits last for about 15 days" in text
        assert "Buy credits, or move some from another of your accounts:" in text
        assert f"{config.public_url}/accounts/smpp-acme-1/credits\n" in text
    assert mails() == []


def test_the_addresses_of_the_rule_instead_of_the_contact(mails, low):
    low("ops@acme.example", "night@acme.example")
    assert [to for to, _ in subjects(mails())] == ["ops@acme.example", "night@acme.example"]


def test_each_crossing_is_one_mail(conn, acme_1, mails, low):
    low()
    assert len(mails()) == 1
    send(conn, acme_1, 5)
    assert mails() == []
    credits.grant_credits(conn, SHELL, acme_1, 100 * K)
    assert mails() == []
    send(conn, acme_1, 100)
    assert len(mails()) == 1


def test_several_crossings_that_nobody_has_read_of_yet_are_one_mail(conn, acme_1, mails, low):
    low()
    credits.grant_credits(conn, SHELL, acme_1, 100 * K)
    send(conn, acme_1, 110)
    (mail,) = mails()
    assert "smpp-acme-1 holds 930 credits." in texts(mail)[0]


def test_crossings_back_and_forth_flood_nobody(conn, acme_1, acme_2, mails, low):
    low("somebody@else.example")
    count = len(mails())
    for _crossing in range(10):
        credits.transfer_credits(conn, SHELL, acme_2, acme_1, 11 * K)
        credits.transfer_credits(conn, SHELL, acme_1, acme_2, 11 * K)
        count += len(mails())
    assert count == 6


def test_a_rule_that_was_taken_away_meanwhile(conn, acme_1, mails, low):
    low()
    alerts.set_alert_rule(conn, SHELL, acme_1, None)
    (mail,) = mails()
    assert "fewer than" not in texts(mail)[0]


def test_a_pack_that_was_bought(conn, config, acme_1, mails, rule):
    rule()
    send(conn, acme_1, 51)
    (mail,) = mails()
    assert subjects([mail]) == [("marta@acme.example", "100 credits were bought for smpp-acme-1")]
    order = conn.execute("SELECT id FROM orders").fetchone()["id"]
    for text in texts(mail):
        assert re.search(rf"order 20\d\d-{order:05d}, €7.00\.", text)
        assert re.search(rf"^{config.public_url}/accounts/smpp-acme-1/orders/20\d\d-\d{{5}}$", text, re.M)
        assert "With them the account held 1,100 credits." in text
        assert "1 more pack can be bought automatically today (UTC)." in text
        assert f"{config.public_url}/accounts/smpp-acme-1/credits/settings\n" in text


def test_each_pack_has_its_mail_and_the_last_one_says_so(conn, acme_1, mails, rule):
    rule()
    send(conn, acme_1, 251)
    first, second = mails()
    assert "1 more pack can be bought" in texts(first)[0]
    assert "That was the last one for today" in texts(second)[0]


def test_a_pack_of_yesterday_does_not_count(conn, acme_1, mails, rule):
    rule()
    today = now_ms() // DAY_MS * DAY_MS
    intake.store_messages(conn, [prepare_submit(conn, acme_1.id)] * 51, today + DAY_MS - 1)
    intake.store_messages(conn, [prepare_submit(conn, acme_1.id)] * 100, today + DAY_MS)
    assert ["1 more pack" in texts(each)[0] for each in mails()] == [True, True]


def test_those_who_get_alerts_hear_of_the_pack_too_and_nobody_twice(conn, acme_1, mails, rule):
    alerts.set_alert_rule(conn, SHELL, acme_1, 1 * K, ["ops@acme.example", "Marta@acme.example"])
    rule()
    send(conn, acme_1, 51)
    assert [to for to, _ in subjects(mails())] == ["marta@acme.example", "ops@acme.example"]


def test_a_request_goes_to_all_operators_and_a_word_to_the_customer(
    conn, keys, config, cast, acme, acme_1, mails, rule
):
    users.create_user(conn, keys, SHELL, "otto@portal.example", users.OPERATOR, None)
    users.set_user_language(conn, users.get_user_by_email(conn, "otto@portal.example"), "it")
    rule(line=0)
    send(conn, acme_1, 51)
    to_customer, *to_operators = mails()
    assert subjects([to_customer]) == [("marta@acme.example", "Credits were requested for smpp-acme-1")]
    for text in texts(to_customer):
        assert "smpp-acme-1 has fallen to 1,000 credits" in text
        assert "They arrive when the operator releases them." in text
        assert re.search(rf"^{config.public_url}/accounts/smpp-acme-1/orders/20\d\d-\d{{5}}$", text, re.M)
    assert subjects(to_operators) == [
        ("olga@portal.example", "Acme needs credits for smpp-acme-1"),
        ("otto@portal.example", "Acme ha bisogno di crediti per smpp-acme-1"),
    ]
    for text in texts(to_operators[0]):
        assert re.search(r"order 20\d\d-\d{5}, 100 credits, €7.00, waits for you", text)
        assert re.search(rf"^{config.public_url}/accounts/smpp-acme-1/orders/20\d\d-\d{{5}}$", text, re.M)
        assert f"{config.public_url}/admin/customers/{acme.id}\n" in text
    assert "100 crediti, 7,00" in texts(to_operators[1])[0]
    send(conn, acme_1, 10)
    assert mails() == []


@pytest.mark.parametrize("event", ["low", "recredited", "requested"])
def test_customers_are_written_to_in_their_language(conn, acme, acme_1, mails, low, rule, event):
    conn.execute("UPDATE customers SET language = 'it'")
    if event == "low":
        low()
    else:
        rule(line=1000 if event == "recredited" else 0)
        send(conn, acme_1, 51)
    mail = mails()[0]
    subjects = {
        "low": "smpp-acme-1 sta finendo i crediti",
        "recredited": "Acquistati 100 crediti per smpp-acme-1",
        "requested": "Richiesti crediti per smpp-acme-1",
    }
    words = {"low": "ha 940 crediti.", "recredited": "7,00\xa0€.", "requested": "è sceso a 1.000 crediti"}
    assert (mail["Subject"], mail["Content-Language"]) == (subjects[event], "it")
    for text in texts(mail):
        assert words[event] in text


def test_what_is_not_committed_is_noted_still(conn, keys, low):
    low()

    def fails() -> None:
        with write_transaction(conn):
            assert credit_mails.queue_credit_mails(conn, keys) == 1
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fails()
    assert conn.execute("SELECT (SELECT count(*) FROM mails), (SELECT count(*) FROM credit_notices)").fetchone()[:] == (
        0,
        1,
    )
    assert credit_mails.queue_credit_mails(conn, keys) == 1


def test_many_that_wait_are_taken_in_turns(conn, keys, acme_1):
    with write_transaction(conn):
        for number in range(60):
            alerts.add_credit_notice(conn, acme_1.id, alerts.LOW, now_ms(), number)
    assert [credit_mails.queue_credit_mails(conn, keys) for _ in range(3)] == [1, 1, 0]


def test_it_arrives_by_smtp(conn, keys, config, low):
    low()
    credit_mails.queue_credit_mails(conn, keys)
    with Mailbox().listening() as mailbox:
        list(send_due_mails(conn, replace(config, mail=replace(config.mail, url=mailbox.url)), keys))
        assert mailbox.wait_for_mail()["Subject"] == "smpp-acme-1 is running out of credits"


def test_an_account_that_is_gone_is_no_reason_to_stop(conn, keys, acme_1, low):
    low()
    conn.execute("UPDATE accounts SET deleted_at = 1 WHERE id = ?", (acme_1.id,))
    credit_mails.queue_credit_mails(conn, keys)
    assert conn.execute("SELECT count(*) FROM credit_notices").fetchone()[0] == 0
    with pytest.raises(accounts.NoSuchAccount):
        accounts.get_account(conn, acme_1.name)
