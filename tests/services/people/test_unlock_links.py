"""The mailed link that lifts a lock: to whom it goes, for how long it is good, and that it tells nobody who exists."""

import re
from collections import Counter
from collections.abc import Callable

import pytest

from portal.core.clock import MINUTE_MS, now_ms
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.common import mail
from portal.services.common.audit import SHELL
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.people import authentication, unlock_links, users
from portal.services.people.unlock_links import InvalidUnlockLink
from portal.services.people.users import User
from tests.support import Cast

HERE = "192.0.2.1"
FAILURES = 3


@pytest.fixture
def alice(conn: Connection, cast: Cast) -> User:
    return users.get_user_by_email(conn, cast.alice.email)


@pytest.fixture
def ask(conn: Connection, keys: Keys, config: Config) -> Callable[..., list[str]]:
    """Asks for a link, and returns the tokens of the mails that are sent."""

    def ask_for_link(email: str, address: str = HERE, language: str = "en") -> list[str]:
        unlock_links.queue_unlock_link(conn, keys, email, address, FAILURES, language)
        sent = [*mail.send_due_mails(conn, config, keys)]
        mails = sorted((config.data / "outbox").glob("*.eml"))[-len(sent) :] if sent else []
        return [re.findall(r"/login/link/([\w-]{43})", each.read_text().replace("=\n", ""))[0] for each in mails]

    return ask_for_link


def test_a_link_is_mailed_and_good_once(conn, cast, ask):
    (token,) = ask(f" {cast.alice.email.upper()} ")
    assert unlock_links.get_user_by_unlock_link(conn, token).id == cast.alice.id
    assert unlock_links.use_unlock_link(conn, token, HERE).id == cast.alice.id
    with pytest.raises(InvalidUnlockLink):
        unlock_links.use_unlock_link(conn, token, HERE)


def test_a_link_is_good_for_an_hour(conn, cast, ask):
    (token,) = ask(cast.alice.email)
    conn.execute("UPDATE unlock_links SET expires_at = expires_at - 3600000")
    with pytest.raises(InvalidUnlockLink):
        unlock_links.use_unlock_link(conn, token, HERE)
    unlock_links.purge_unlock_links(conn, now_ms())
    assert not conn.execute("SELECT * FROM unlock_links").fetchall()


def test_the_mail_is_in_the_language_of_the_page_where_the_person_has_chosen_none(conn, cast, alice, config, ask):
    def read_subjects() -> list[str]:
        files = sorted((config.data / "outbox").glob("*.eml"))
        return [line for each in files for line in each.read_text().splitlines() if line.startswith("Subject:")]

    ask(cast.alice.email, language="it")
    assert read_subjects() == ["Subject: Il tuo link per accedere"]
    users.set_user_language(conn, alice, "en")
    ask(cast.alice.email, language="it")
    assert read_subjects()[1:] == ["Subject: Your link to log in"]


def test_the_token_is_kept_as_a_hash(conn, cast, ask):
    (token,) = ask(cast.alice.email)
    assert token not in "\n".join(conn.iterdump())


def test_a_link_is_no_enrolment_link_and_the_other_way_round(conn, cast, alice, ask):
    (token,) = ask(cast.alice.email)
    with pytest.raises(authentication.InvalidEnrolmentLink):
        authentication.get_user_by_enrolment_link(conn, token)
    with pytest.raises(InvalidUnlockLink):
        unlock_links.use_unlock_link(conn, authentication.create_enrolment_link(conn, alice), HERE)


def test_a_link_that_is_mailed_and_used_is_in_the_audit_log(conn, cast, ask):
    query = "SELECT action, actor, address, customer_id FROM audit_log WHERE action LIKE 'login.link%'"
    ask("nobody@acme.example")
    (token,) = ask(cast.alice.email)
    mailed = ("login.link_mail", cast.alice.email, HERE, cast.acme)
    assert [*map(tuple, conn.execute(query))] == [mailed]
    unlock_links.use_unlock_link(conn, token, "203.0.113.7")
    with pytest.raises(InvalidUnlockLink):
        unlock_links.use_unlock_link(conn, token, "203.0.113.8")
    used = ("login.link_use", cast.alice.email, "203.0.113.7", cast.acme)
    assert [*map(tuple, conn.execute(query))] == [mailed, used]


def test_three_are_mailed_at_once_then_one_each_twenty_minutes_and_a_further_question_ends_none(conn, cast, ask):
    tokens = [token for number in range(5) for token in ask(cast.alice.email, f"192.0.2.{number}")]
    assert len(tokens) == 3
    for minutes, more in ((19, 0), (1, 1), (20, 1)):
        conn.execute("UPDATE throttle_buckets SET at = at - ?", (minutes * MINUTE_MS,))
        assert len(ask(cast.alice.email)) == more
    for token in tokens:
        unlock_links.use_unlock_link(conn, token, HERE)


def test_who_is_unknown_or_not_enrolled_gets_none(conn, keys, cast, ask):
    users.create_user(conn, keys, SHELL, "dora@acme.example", users.MANAGER, cast.acme)
    assert not ask("nobody@acme.example")
    assert not ask("dora@acme.example")


def test_an_address_asks_for_so_many(conn, keys):
    for number in range(10 * FAILURES):
        unlock_links.queue_unlock_link(conn, keys, f"nobody{number}@acme.example", HERE, FAILURES, "en")
    with pytest.raises(TooManyAttempts):
        unlock_links.queue_unlock_link(conn, keys, "nobody@acme.example", HERE, FAILURES, "en")


def test_a_login_that_starts_over_ends_it(conn, keys, cast, alice, ask):
    (token,) = ask(cast.alice.email)
    authentication.reset_enrolment(conn, keys, SHELL, alice)
    with pytest.raises(InvalidUnlockLink):
        unlock_links.use_unlock_link(conn, token, HERE)


def test_it_takes_as_long_whether_or_not_there_is_such_a_user(conn, keys, cast):
    """By what is done: one commit, and in that the same buckets."""

    def count_statements(email: str) -> Counter[str]:
        statements: list[str] = []
        conn.set_trace_callback(statements.append)
        unlock_links.queue_unlock_link(conn, keys, email, HERE, FAILURES, "en")
        conn.set_trace_callback(None)
        return Counter(" ".join(each.split()[:3]) for each in statements)

    known, unknown = count_statements(cast.alice.email), count_statements("nobody@acme.example")
    assert unknown["BEGIN IMMEDIATE"] == unknown["COMMIT"] == known["COMMIT"] == 1
    assert unknown["INSERT INTO throttle_buckets"] == known["INSERT INTO throttle_buckets"] == 2
    assert not unknown - known
    assert {"INSERT INTO unlock_links", "INSERT INTO mails"} <= (known - unknown).keys()
    for _ in range(2):
        count_statements(cast.alice.email)
        count_statements("nobody@acme.example")
    assert count_statements(cast.alice.email.upper()) == count_statements("NOBODY@acme.example")
