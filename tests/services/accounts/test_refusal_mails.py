"""Mails about refused binds: to those who want them, once a day at most, and only about what is new."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts import accounts, refusal_mails, refused_binds
from portal.services.accounts.accounts import Account
from portal.services.accounts.refused_binds import NOT_AUTHORISED, WRONG_PASSWORD, RefusedBind
from portal.services.common.mail import send_due_mails
from portal.services.people import users
from portal.services.people.users import User
from tests.mailbox import Mailbox
from tests.services.mails import get_text
from tests.support import Cast

MINUTE_MS, DAY_MS = 60_000, 86_400_000


@pytest.fixture
def alice(conn: Connection, cast: Cast) -> User:
    return users.get_user_by_email(conn, cast.alice.email)


@pytest.fixture
def bob(conn: Connection, cast: Cast) -> User:
    return users.get_user_by_email(conn, cast.bob.email)


@pytest.fixture
def refuse(conn: Connection, acme_1: Account) -> Callable[..., None]:
    """Lets clients be turned away, a quarter of an hour ago."""

    def refuse(
        *addresses: str, account: Account = acme_1, reason: str = NOT_AUTHORISED, at: int | None = None, times: int = 1
    ) -> None:
        at = at or now_ms() - 15 * MINUTE_MS
        refused_binds.record_refused_binds(
            conn, [RefusedBind(account.id, each, reason, at) for each in addresses] * times
        )

    return refuse


@pytest.fixture
def due(conn: Connection, keys: Keys) -> Callable[[], int]:
    """How many mails are queued now."""
    return lambda: refusal_mails.queue_due_refusal_mails(conn, keys)


@pytest.fixture
def a_day_later(conn: Connection) -> Callable[[], None]:
    """What has happened so far was a day earlier."""

    def later() -> None:
        conn.execute("UPDATE users SET refusals_mailed_at = refusals_mailed_at - ?", (DAY_MS,))

    return later


def test_nobody_gets_one_who_has_not_asked_for_it(due, refuse):
    refuse("203.0.113.7")
    assert due() == 0


def test_who_wants_them_is_told(conn, keys, config, alice, due, refuse, acme_1, acme_2):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse("203.0.113.7", times=3)
    refuse("198.51.100.9", reason=WRONG_PASSWORD, account=acme_2)
    assert due() == 1
    with Mailbox().listening() as mailbox:
        to_server = replace(config, mail=replace(config.mail, url=mailbox.url))
        assert sum(send_due_mails(conn, to_server, keys)) == 1
        mail = mailbox.wait_for_mail()
    assert (mail["To"], mail["Subject"]) == (alice.email, "Clients of your SMPP accounts were refused")
    for part in ("plain", "html"):
        text = re.sub(r"<[^>]+>", "", get_text(mail, part))
        assert "203.0.113.7 (3 times): It is not an authorised IP." in text
        assert "198.51.100.9 (1 time): The password was wrong." in text
        assert "smpp-acme-2" in text
    assert f"{config.public_url}/accounts/smpp-acme-1/sessions" in get_text(mail)


def test_it_speaks_the_readers_language(conn, keys, config, alice, due, refuse):
    users.set_user_language(conn, alice, "it")
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse("203.0.113.7", times=2)
    due()
    with Mailbox().listening() as mailbox:
        to_server = replace(config, mail=replace(config.mail, url=mailbox.url))
        list(send_due_mails(conn, to_server, keys))
        mail = mailbox.wait_for_mail()
    assert mail["Subject"] == "Client di smpp-acme-1 rifiutati"
    assert "203.0.113.7 (2 volte): Non è un IP autorizzato." in get_text(mail)


def test_one_a_day_and_only_what_is_new(conn, alice, due, refuse, a_day_later):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse("203.0.113.7")
    assert [due(), due()] == [1, 0]
    refuse("203.0.113.8")
    assert due() == 0
    a_day_later()
    refuse("203.0.113.7", times=5)
    assert [due(), due()] == [1, 0]
    a_day_later()
    assert due() == 0
    refuse("203.0.113.7", reason=WRONG_PASSWORD)
    assert due() == 1


def test_each_of_the_team_is_told_for_themselves(conn, alice, bob, due, refuse, a_day_later):
    for each in (alice, bob):
        refusal_mails.set_refusal_mails_enabled(conn, each, True)
    refuse("203.0.113.7")
    assert due() == 2
    recipients = [row["recipient"] for row in conn.execute("SELECT recipient FROM mails ORDER BY id")]
    assert recipients == [alice.email, bob.email]


def test_what_was_refused_before_they_were_switched_on_is_no_news(conn, alice, due, refuse):
    refuse("203.0.113.7")
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    assert due() == 0
    refuse("203.0.113.8")
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    assert due() == 1


def test_off_is_off(conn, alice, due, refuse):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    assert refusal_mails.has_refusal_mails_enabled(conn, alice)
    refusal_mails.set_refusal_mails_enabled(conn, alice, False)
    assert not refusal_mails.has_refusal_mails_enabled(conn, alice)
    refuse("203.0.113.7")
    assert due() == 0


def test_it_waits_for_the_others_of_the_same_trouble(conn, alice, due, refuse):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse("203.0.113.7", at=now_ms() - 9 * MINUTE_MS)
    assert due() == 0
    conn.execute("UPDATE refusals SET first_at = first_at - 60000")
    refuse("203.0.113.8", at=now_ms())
    assert due() == 1
    assert conn.execute("SELECT count(*) FROM mailed_refusals").fetchone()[0] == 2


def test_nobody_is_told_of_another_customers_clients_or_of_accounts_that_are_gone(
    conn, cast, alice, due, refuse, acme_1
):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse("203.0.113.7", account=accounts.get_account(conn, cast.smpp_globex_1.name))
    refuse("203.0.113.7")
    conn.execute("UPDATE accounts SET deleted_at = 1 WHERE id = ?", (acme_1.id,))
    assert due() == 0


def test_a_list_without_end_is_cut(conn, keys, config, alice, due, refuse):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse(*(f"203.0.113.{number}" for number in range(60)))
    assert due() == 1
    list(send_due_mails(conn, config, keys))
    (file,) = (config.data / "outbox").iterdir()
    text = file.read_text().split("Content-Type: text/html")[0]
    assert text.count("203.0.113.") == 20
    assert "40 more addresses are not listed here." in text
    assert due() == 0


def test_a_clock_that_was_wrong_does_not_silence_them(conn, alice, due, refuse):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    conn.execute("UPDATE users SET refusals_mailed_at = ?", (now_ms() + 400 * DAY_MS,))
    refuse("203.0.113.7")
    assert due() == 1


def test_what_was_told_goes_with_the_refusals(conn, alice, due, refuse):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse("203.0.113.7", "203.0.113.8")
    assert due() == 1
    conn.execute("UPDATE refusals SET hour = hour - 8 * 24 WHERE value = '203.0.113.7'")
    refusal_mails.purge_mailed_refusals(conn, now_ms())
    assert conn.execute("SELECT count(*) FROM mailed_refusals").fetchone()[0] == 1
