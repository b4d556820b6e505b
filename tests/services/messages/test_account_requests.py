"""What customers ask operators for: asking once, the mails, the answers."""

import re
from collections.abc import Callable
from email import message_from_bytes, policy

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.core.i18n import override_language
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.accounts.refused_messages import DAY_CREDITS, DAY_MESSAGES, HOUR_MESSAGES
from portal.services.brakes import brakes
from portal.services.brakes.brakes import Brakes
from portal.services.common.audit import SHELL, Actor
from portal.services.common.mail import send_due_mails
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.messages import account_requests
from portal.services.messages.account_requests import (
    ACCOUNT,
    BINDS,
    CODING,
    COUNTRIES,
    DONE,
    PRICE,
    ROUTE,
    SUBJECTS,
    THROUGHPUT,
    WINDOWING,
)
from portal.services.people import customers, users
from portal.services.prices import price_lists
from tests.services.audit_log import list_audit_entries
from tests.services.mails import get_text

ALICE = Actor("alice@acme.example")
OLGA = Actor("olga@portal.example")
LIMITS = Brakes(frozenset(("IT",)), 5000, 1_500_500, 3)


@pytest.fixture
def mails(conn: Connection, keys: Keys, config: Config) -> Callable[[], list[tuple[str, str, str, str]]]:
    """Sends what waits, and returns recipient, subject and both texts of each."""

    def mails() -> list[tuple[str, str, str, str]]:
        list(send_due_mails(conn, config, keys))
        found = []
        for file in sorted((config.data / "outbox").glob("*.eml")):
            mail = message_from_bytes(file.read_bytes(), policy=policy.default)
            found.append((mail["To"], mail["Subject"], get_text(mail), get_text(mail, "html")))
            file.unlink()
        return found

    return mails


def value_of(subject: str) -> str:
    return {CODING: "3", COUNTRIES: "FR", ROUTE: "FR"}.get(subject, "SM" if subject == PRICE else "")


@pytest.fixture
def limited(conn: Connection, acme_1: Account) -> Account:
    """All of it can be asked for: smpp-acme-1 has brakes, is disabled, and no message goes to San Marino."""
    brakes.set_brakes(conn, SHELL, acme_1, LIMITS)
    accounts.disable_account(conn, SHELL, acme_1)
    conn.execute("DELETE FROM prices WHERE destination = 'SM'")
    return accounts.get_account(conn, acme_1.name)


@pytest.mark.parametrize(
    ("subject", "text", "italian", "place"),
    [
        (THROUGHPUT, "More than 20 messages a second for smpp-acme-1", "Più di 20 messaggi al secondo per smpp-acme-1",
         "/admin/accounts/smpp-acme-1#limits"),
        (WINDOWING, "A window of more than 10 unanswered messages for smpp-acme-1",
         "Una finestra di più di 10 messaggi senza risposta per smpp-acme-1", "/admin/accounts/smpp-acme-1#limits"),
        (BINDS, "More sessions at the same time than 1 for smpp-acme-1",
         "Sessioni contemporanee di smpp-acme-1: più di 1",
         "/admin/accounts/smpp-acme-1#limits"),
        (CODING, "Messages of smpp-acme-1 with data_coding 3 (Latin-1)",
         "Messaggi di smpp-acme-1 con data_coding 3 (Latin-1)", "/admin/accounts/smpp-acme-1#limits"),
        (PRICE, "A price for San Marino, for smpp-acme-1", "Un prezzo per la destinazione San Marino, per smpp-acme-1",
         "/admin/prices/1/set?destination=SM"),
        (ROUTE, "A route to France for smpp-acme-1", "Una rotta per la destinazione Francia, per smpp-acme-1",
         "/admin/routes"),
        (COUNTRIES, "Messages of smpp-acme-1 to France", "Messaggi di smpp-acme-1 per la destinazione Francia",
         "/admin/accounts/smpp-acme-1#brakes"),
        (DAY_MESSAGES, "More than 5,000 messages a day for smpp-acme-1",
         "Più di 5.000 messaggi al giorno per smpp-acme-1",
         "/admin/accounts/smpp-acme-1#brakes"),
        (DAY_CREDITS, "More than 1,500.5 credits a day for smpp-acme-1",
         "Più di 1.500,5 crediti al giorno per smpp-acme-1", "/admin/accounts/smpp-acme-1#brakes"),
        (HOUR_MESSAGES, "More than 3 messages an hour to one number for smpp-acme-1",
         "Più di 3 messaggi all’ora a uno stesso numero per smpp-acme-1", "/admin/accounts/smpp-acme-1#brakes"),
        (ACCOUNT, "That smpp-acme-1 is enabled again", "La riattivazione di smpp-acme-1",
         "/admin/accounts/smpp-acme-1#status"),
    ],
)  # fmt: skip
def test_what_is_asked_for_in_words(conn, limited, subject, text, italian, place):
    asked = account_requests.ask_operator(conn, ALICE, limited, subject, value_of(subject))
    assert (asked.describe(), asked.place) == (text, place)
    with override_language("it"):
        assert asked.describe() == italian


def test_a_limit_stays_as_it_was_when_more_was_asked_for(conn, acme_1):
    asked = account_requests.ask_operator(conn, ALICE, acme_1, THROUGHPUT, "")
    accounts.change_account(conn, SHELL, acme_1, throughput=50)
    assert account_requests.get_request(conn, asked.id).describe().startswith("More than 20 ")


def test_a_price_is_set_in_the_customer_s_list(conn, limited, cast):
    partners = price_lists.create_price_list(conn, SHELL, "Partners")
    price_lists.assign_price_list(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), partners.id)
    asked = account_requests.ask_operator(conn, ALICE, limited, PRICE, "SM")
    assert asked.place == f"/admin/prices/{partners.id}/set?destination=SM"
    assert account_requests.ask_operator(conn, ALICE, limited, PRICE, "001").place == f"/admin/prices/{partners.id}"


@pytest.mark.parametrize(
    ("subject", "value"),
    [
        ("", ""),
        ("sender", ""),
        (PRICE, ""),
        (PRICE, "XX"),
        (ROUTE, "fr"),
        (COUNTRIES, "001"),
        (CODING, "0"),
        (CODING, "x"),
    ],
)
def test_what_nobody_can_ask_for(conn, limited, subject, value):
    with pytest.raises(account_requests.NoSuchSubject):
        account_requests.ask_operator(conn, ALICE, limited, subject, value)
    assert account_requests.count_open_requests(conn) == 0


@pytest.mark.parametrize("subject", [THROUGHPUT, WINDOWING, BINDS, CODING])
def test_a_classic_account_has_no_smpp(conn, classic, subject):
    with pytest.raises(account_requests.NoSuchSubject):
        account_requests.ask_operator(conn, ALICE, classic, subject, value_of(subject))


@pytest.mark.parametrize("subject", [each for each in SUBJECTS if each != ROUTE])
def test_what_is_so_already_is_asked_of_nobody(conn, globex_1, subject):
    accounts.change_account(conn, SHELL, globex_1, throughput=0, windowing=0, binds=0, data_codings=[3])
    account = accounts.get_account(conn, globex_1.name)
    with pytest.raises(account_requests.NothingToAsk):
        account_requests.ask_operator(conn, SHELL, account, subject, "IT" if subject == PRICE else value_of(subject))


def test_it_is_asked_for_once_until_it_is_answered(conn, acme_1, acme_2):
    first = account_requests.ask_operator(conn, ALICE, acme_1, THROUGHPUT, "20", " 50 from Monday on ")
    assert (first.value, first.note, first.asked_by, first.answer) == ("", "50 from Monday on", ALICE.name, "")
    with pytest.raises(account_requests.AskedAlready) as refusal:
        account_requests.ask_operator(conn, ALICE, acme_1, THROUGHPUT, "")
    assert refusal.value.at == first.asked_at
    assert refusal.value.localized().startswith("That was asked for already (")
    account_requests.ask_operator(conn, ALICE, acme_2, THROUGHPUT, "")
    account_requests.ask_operator(conn, ALICE, acme_1, ROUTE, "FR")
    account_requests.ask_operator(conn, ALICE, acme_1, ROUTE, "DE")
    assert account_requests.count_open_requests(conn) == 4
    account_requests.answer_request(conn, OLGA, first.id, done=True)
    again = account_requests.ask_operator(conn, ALICE, acme_1, THROUGHPUT, "")
    assert again.id != first.id


def test_the_open_one_is_found_by_what_was_refused(conn, acme_1, acme_2):
    account_requests.ask_operator(conn, ALICE, acme_1, ROUTE, "FR")
    account_requests.ask_operator(conn, ALICE, acme_1, THROUGHPUT, "20")
    waiting = account_requests.list_open_requests(conn, acme_1.id)
    assert [(each.subject, each.value) for each in waiting] == [(ROUTE, "FR"), (THROUGHPUT, "")]
    assert account_requests.find_open_request(waiting, ROUTE, "FR") == waiting[0]
    assert account_requests.find_open_request(waiting, ROUTE, "DE") is None
    # Of another limit, that it once was.
    assert account_requests.find_open_request(waiting, THROUGHPUT, "10") == waiting[1]
    assert account_requests.list_open_requests(conn, acme_2.id) == []
    assert account_requests.list_open_requests(conn, limit=1) == waiting[:1]


def test_nobody_is_flooded(conn, acme_1, globex_1, keys, mails):
    codes = ["FR", "DE", "ES", "PT", "GB", "IE", "BE", "NL", "AT", "CH", "PL"]
    for code in codes[:10]:
        account_requests.ask_operator(conn, ALICE, acme_1, ROUTE, code, mail_keys=keys)
    with pytest.raises(TooManyAttempts):
        account_requests.ask_operator(conn, ALICE, acme_1, ROUTE, codes[10], mail_keys=keys)
    account_requests.ask_operator(conn, SHELL, globex_1, ROUTE, "FR", mail_keys=keys)
    assert len(mails()) == 11
    conn.execute("DELETE FROM throttle_buckets")
    for code in ["PL", "CZ", "SK", "HU", "SI", "HR", "RO", "BG", "GR", "SE"]:
        account_requests.ask_operator(conn, ALICE, acme_1, ROUTE, code)
    conn.execute("DELETE FROM throttle_buckets")
    with pytest.raises(account_requests.TooManyOpenRequests, match="20 requests"):
        account_requests.ask_operator(conn, ALICE, acme_1, ROUTE, "NO")


@pytest.mark.parametrize("done", [True, False])
def test_texts_have_an_end(conn, acme_1, done):
    with pytest.raises(account_requests.RequestTextTooLong) as refusal:
        account_requests.ask_operator(conn, ALICE, acme_1, BINDS, "", 501 * "x")
    assert refusal.value.field == "note"
    asked = account_requests.ask_operator(conn, ALICE, acme_1, BINDS, "", 500 * "x")
    with pytest.raises(account_requests.RequestTextTooLong) as refusal:
        account_requests.answer_request(conn, OLGA, asked.id, done=done, comment=501 * "x")
    assert refusal.value.field == "comment"
    assert account_requests.get_request(conn, asked.id).answer == ""


def test_an_answer_is_given_once(conn, acme_1):
    asked = account_requests.ask_operator(conn, ALICE, acme_1, BINDS, "", "two clients")
    answered = account_requests.answer_request(conn, OLGA, asked.id, done=False, comment=" from May on ")
    assert (answered.answer, answered.comment, answered.answered_by) == ("declined", "from May on", OLGA.name)
    assert account_requests.count_open_requests(conn) == 0
    with pytest.raises(account_requests.RequestAnswered):
        account_requests.answer_request(conn, OLGA, asked.id, done=True)
    with pytest.raises(account_requests.NoSuchRequest):
        account_requests.answer_request(conn, OLGA, asked.id + 1, done=True)
    declined, request = list_audit_entries(conn, acme_1.id, 2)
    assert (request.action, request.actor) == ("request.ask", ALICE.name)
    assert request.details == {"subject": BINDS, "value": "", "note": "two clients"}
    assert (declined.action, declined.actor) == ("request.decline", OLGA.name)
    assert declined.details == {"subject": BINDS, "value": "", "comment": "from May on"}


def test_operators_get_a_mail_in_their_language(conn, keys, config, acme_1, mails):
    users.create_user(conn, keys, SHELL, "oscar@portal.example", users.OPERATOR, None)
    conn.execute("UPDATE users SET language = 'it' WHERE email = 'oscar@portal.example'")
    account_requests.ask_operator(conn, ALICE, acme_1, THROUGHPUT, "", "50 <from> Monday on", mail_keys=keys)
    first, second = mails()
    recipient, subject, text, html = first
    assert (recipient, subject) == (
        "olga@portal.example",
        "Acme asks: More than 20 messages a second for smpp-acme-1",
    )
    for each in ("alice@acme.example of Acme", "50 <from> Monday on", "/admin/accounts/smpp-acme-1#limits"):
        assert each in text
    assert "50 &lt;from&gt; Monday on" in html
    assert re.search(r'href="http://[^"]+/admin/accounts/smpp-acme-1#limits"', html)
    recipient, subject, text, _ = second
    assert (recipient, subject) == (
        "oscar@portal.example",
        "Acme chiede: Più di 20 messaggi al secondo per smpp-acme-1",
    )
    assert "Si modifica qui:" in text


def test_who_has_asked_gets_the_answer_in_their_language(conn, keys, acme_1, mails):
    conn.execute("UPDATE users SET language = 'it' WHERE email = ?", (ALICE.name,))
    for subject, done in ((THROUGHPUT, True), (BINDS, False)):
        asked = account_requests.ask_operator(conn, ALICE, acme_1, subject, "")
        account_requests.answer_request(conn, OLGA, asked.id, done=done, comment="50 <now>", mail_keys=keys)
    (first, first_subject, text, html), (second, second_subject, declined, _) = mails()
    assert (first, second) == (ALICE.name, ALICE.name)
    assert first_subject == "Fatto: Più di 20 messaggi al secondo per smpp-acme-1"
    assert second_subject == "Respinto: Sessioni contemporanee di smpp-acme-1: più di 1"
    assert "Commento: 50 <now>" in text
    assert "50 &lt;now&gt;" in html
    assert "è stato respinto" in declined


def test_the_contact_hears_where_who_has_asked_is_gone(conn, keys, acme_1, mails):
    asked = account_requests.ask_operator(conn, Actor("gone@acme.example"), acme_1, BINDS, "")
    account_requests.answer_request(conn, OLGA, asked.id, done=True, mail_keys=keys)
    ((recipient, subject, _, _),) = mails()
    assert (recipient, subject) == (
        "marta@acme.example",
        "Done: More sessions at the same time than 1 for smpp-acme-1",
    )


def test_without_keys_nobody_gets_a_mail(conn, acme_1, mails):
    asked = account_requests.ask_operator(conn, ALICE, acme_1, BINDS, "")
    account_requests.answer_request(conn, OLGA, asked.id, done=True)
    assert mails() == []


def test_they_are_kept_as_long_as_the_audit_log(conn, acme_1):
    answered = account_requests.ask_operator(conn, ALICE, acme_1, BINDS, "")
    account_requests.answer_request(conn, OLGA, answered.id, done=True)
    forgotten = account_requests.ask_operator(conn, ALICE, acme_1, BINDS, "")
    recent = account_requests.ask_operator(conn, ALICE, acme_1, THROUGHPUT, "")
    old = now_ms() - 10 * DAY_MS
    conn.execute("UPDATE account_requests SET asked_at = ? WHERE id <> ?", (old, recent.id))
    account_requests.purge_requests(conn, old + 1)
    assert [each.id for each in account_requests.list_requests(conn)] == [recent.id, answered.id]
    assert account_requests.get_request(conn, answered.id).answer == DONE
    account_requests.purge_requests(conn, now_ms() + 1)
    assert account_requests.list_requests(conn) == []
    assert forgotten.id not in {each.id for each in account_requests.list_open_requests(conn)}


def test_they_go_with_the_account(conn, acme_1, acme_2):
    account_requests.ask_operator(conn, ALICE, acme_1, BINDS, "")
    account_requests.ask_operator(conn, ALICE, acme_2, BINDS, "")
    conn.execute("UPDATE accounts SET deleted_at = 1 WHERE id = ?", (acme_1.id,))
    assert account_requests.count_open_requests(conn) == 1
    assert [each.account for each in account_requests.list_open_requests(conn)] == ["smpp-acme-2"]
