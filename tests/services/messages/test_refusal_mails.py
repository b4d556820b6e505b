"""Mails about refused binds and messages: to those who want them, once a day at most, and only about what is new."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from portal.core.clock import now_ms
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts import accounts, refused_binds
from portal.services.accounts.accounts import Account
from portal.services.accounts.refused_binds import NOT_AUTHORISED, TOO_MANY_BINDS, WRONG_PASSWORD, RefusedBind
from portal.services.accounts.refused_messages import CODING, SENDER
from portal.services.common.mail import send_due_mails
from portal.services.messages import refusal_mails
from portal.services.people import users
from portal.services.people.users import User
from tests.mailbox import Mailbox
from tests.services.mails import get_text
from tests.support import Cast, record_refused_messages

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
def refuse_messages(conn: Connection, acme_1: Account) -> Callable[..., None]:
    """Lets messages be refused for their senders, a quarter of an hour ago."""

    def refuse_messages(counts: dict[str, int], reason: str = SENDER) -> None:
        by_value = {(reason, value): count for value, count in counts.items()}
        record_refused_messages(conn, acme_1.id, by_value, now_ms() - 15 * MINUTE_MS)

    return refuse_messages


@pytest.fixture
def read_mail(conn: Connection, keys: Keys, config: Config) -> Callable[[], tuple[str, str]]:
    """Sends the mail that is queued; returns its subject and its text."""

    def read_mail() -> tuple[str, str]:
        with Mailbox().listening() as mailbox:
            to_server = replace(config, mail=replace(config.mail, url=mailbox.url))
            assert sum(send_due_mails(conn, to_server, keys)) == 1
            mail = mailbox.wait_for_mail()
        return str(mail["Subject"]), get_text(mail)

    return read_mail


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
    assert f"{config.public_url}/accounts/smpp-acme-1/refused" in get_text(mail)


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


def test_nothing_is_searched_while_others_cannot_write(conn, alice, due, refuse):
    """Among many values that takes seconds, and clients would wait for it."""
    searches = []

    def note_search(statement: str) -> None:
        if "mailed_refusals old" in statement:
            searches.append(conn.in_transaction)

    conn.set_trace_callback(note_search)
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse("203.0.113.7")
    assert due() == 1
    conn.set_trace_callback(None)
    assert searches == [False, False]


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
    for reason in (NOT_AUTHORISED, WRONG_PASSWORD, TOO_MANY_BINDS):
        refuse(*(f"203.0.113.{number}" for number in range(10)), reason=reason)
    assert due() == 1
    list(send_due_mails(conn, config, keys))
    (file,) = (config.data / "outbox").iterdir()
    text = file.read_text().split("Content-Type: text/html")[0]
    assert text.count("203.0.113.") == 20
    assert "10 more are not listed here." in text
    assert due() == 0


def test_a_clock_that_was_wrong_does_not_silence_them(conn, alice, due, refuse):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    conn.execute("UPDATE users SET refusals_mailed_at = ?", (now_ms() + 400 * DAY_MS,))
    refuse("203.0.113.7")
    assert due() == 1


def test_what_is_unmailed_is_not_counted_where_nothing_was_refused_since_the_last_mail(
    conn, alice, due, refuse, a_day_later
):
    """It takes long where much was refused, and is done every minute."""
    statements: list[str] = []
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse("203.0.113.7")
    assert due() == 1
    a_day_later()
    conn.execute("UPDATE latest_refusals SET at = at - ?", (DAY_MS,))
    conn.set_trace_callback(statements.append)
    assert due() == 0
    assert [each.split()[0] for each in statements] == ["SELECT"], "that of users alone"
    refuse("203.0.113.8")
    assert due() == 1


def test_what_was_told_goes_with_the_refusals(conn, alice, due, refuse):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse("203.0.113.7", "203.0.113.8")
    assert due() == 1
    conn.execute("UPDATE refusals SET hour = hour - 8 * 24 WHERE value = '203.0.113.7'")
    refusal_mails.purge_mailed_refusals(conn, now_ms())
    assert conn.execute("SELECT count(*) FROM mailed_refusals").fetchone()[0] == 1


# --- messages


def test_refused_messages_are_told_in_words_the_weightiest_first(conn, alice, due, refuse, refuse_messages, read_mail):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse("203.0.113.7", times=3)
    refuse_messages({"NOTMINE": 118})
    refuse_messages({"4": 7}, CODING)
    assert [due(), due()] == [1, 0]
    subject, text = read_mail()
    assert subject == "Messages of smpp-acme-1 were refused"
    listed = [line for line in text.splitlines() if line.startswith("- ")]
    assert listed == [
        "- Messages (118 times): The sender NOTMINE isn't approved.",
        "- Messages (7 times): data_coding 4 isn't supported: use 0 (GSM 03.38) or 8 (UCS-2).",
        "- 203.0.113.7 (3 times): It is not an authorised IP.",
    ]


def test_refused_messages_are_told_in_the_reader_s_language(conn, alice, due, refuse_messages, read_mail):
    users.set_user_language(conn, alice, "it")
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse_messages({"NOTMINE": 2})
    assert due() == 1
    subject, text = read_mail()
    assert subject == "Messaggi di smpp-acme-1 rifiutati"
    assert "- Messaggi (2 volte): Il mittente NOTMINE non è approvato." in text


def test_a_new_sender_is_news_and_a_known_one_is_not(conn, alice, due, refuse_messages, a_day_later):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse_messages({"NOTMINE": 2})
    assert due() == 1
    a_day_later()
    refuse_messages({"NOTMINE": 500})
    assert due() == 0
    refuse_messages({"ANOTHER": 1})
    assert due() == 1


def test_of_a_flood_the_ten_weightiest_are_told_and_the_others_by_their_number(
    conn, alice, due, refuse_messages, read_mail
):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse_messages({f"S{each}": each for each in range(1, 41)})
    assert due() == 1
    listed = [line for line in read_mail()[1].splitlines() if line.startswith("- ")]
    assert listed == [
        f"- Messages ({sum(range(1, 31))} times): Other senders that aren't approved.",
        *(f"- Messages ({each} times): The sender S{each} isn't approved." for each in range(40, 30, -1)),
    ]


def test_new_senders_of_a_flood_are_no_news_day_by_day_but_one_of_weight_is(
    conn, alice, due, refuse_messages, read_mail, a_day_later
):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse_messages({f"A{each}": 2 for each in range(100)})
    assert due() == 1
    read_mail()
    for day in "BCD":
        a_day_later()
        # Each is more frequent than all before.
        refuse_messages({f"{day}{each}": 3 + ord(day) for each in range(100)})
        assert due() == 0
    refuse_messages({"HEAVY": 5_000})
    assert due() == 1
    listed = [line for line in read_mail()[1].splitlines() if line.startswith("- ")]
    assert listed == ["- Messages (5,000 times): The sender HEAVY isn't approved."]


def test_that_there_are_others_is_news_again_after_a_week_without_any(conn, alice, due, refuse_messages, a_day_later):
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    refuse_messages({f"A{each}": 1 for each in range(20)})
    assert due() == 1
    refusal_mails.purge_mailed_refusals(conn, now_ms())
    assert conn.execute("SELECT count(*) FROM mailed_refusals").fetchone()[0] == 11
    conn.execute("UPDATE refusals SET hour = hour - 8 * 24")
    refusal_mails.purge_mailed_refusals(conn, now_ms())
    assert conn.execute("SELECT count(*) FROM mailed_refusals").fetchone()[0] == 0
    a_day_later()
    refuse_messages({f"B{each}": 1 for each in range(20)})
    assert due() == 1
