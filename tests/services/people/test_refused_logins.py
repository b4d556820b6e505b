"""Refused logins: rows of the audit log, counted together where they are many; lines of the log; and a mail."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

import pytest

from portal import jobs
from portal.core import db
from portal.core.clock import HOUR_MS, now_ms
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.common import mail
from portal.services.common.audit import Actor
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.people import authentication, password_hashing, refused_logins, two_factor, users
from portal.services.people.authentication import LoginFailed, WrongPassword, WrongRecoveryCode
from portal.services.people.login_limits import Visitor
from portal.services.people.password_hashing import HashingBusy
from portal.services.people.refused_logins import _MAX_ROWS, _MAX_ROWS_IN_ALL, _Memory, record_refused_login
from portal.services.people.two_factor import WrongTotpCode
from portal.services.people.users import User
from tests.services.mails import get_text
from tests.support import Cast

HERE, MOST = "192.0.2.1", 10
VISITOR = Visitor(HERE)


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests of this process have counted is not written here."""
    monkeypatch.setattr(refused_logins, "_memory", _Memory())


@pytest.fixture
def alice(conn: db.Connection, cast: Cast) -> User:
    return users.get_user_by_email(conn, cast.alice.email)


def written(conn: db.Connection) -> list[sqlite3.Row]:
    """The rows of refused logins after what was recorded is written, oldest first, with their counts."""
    refused_logins.write_refused_logins(conn)
    return conn.execute(
        "SELECT at, actor, address, action, customer_id, details ->> 'count' AS count, details ->> 'last_at' AS last_at"
        f" FROM audit_log WHERE action IN ({', '.join('?' * len(refused_logins.REASONS))}) ORDER BY id",
        refused_logins.REASONS,
    ).fetchall()


def number_of(rows: list[sqlite3.Row]) -> int:
    return sum(each["count"] for each in rows)


@pytest.fixture
def take_all_turns() -> Iterator[Callable[[], None]]:
    """Have others take all turns to hash."""
    others = ["dan@acme.example", "eve@acme.example", *[""] * password_hashing.MAX_STRANGERS]
    yield lambda: password_hashing._present.extend(others)
    password_hashing._present[:] = [each for each in password_hashing._present if each not in others]


# --- each kind leaves its row


def test_an_unknown_address_and_a_wrong_password_leave_a_row(conn, cast):
    for email in ("nobody@acme.example", " Alice@Acme.example"):
        with pytest.raises(LoginFailed):
            authentication.check_login(conn, email, "not the one", VISITOR, MOST)
    rows = [(each["action"], each["actor"], each["address"], each["customer_id"]) for each in written(conn)]
    assert rows == [
        ("login.wrong_password", "Alice@Acme.example", HERE, cast.acme),
        ("login.unknown_email", "nobody@acme.example", HERE, None),
    ]


def test_a_wrong_code_and_a_wrong_recovery_code_leave_a_row(conn, keys, alice):
    for code, refusal in (("000000", WrongTotpCode), ("aaaaa-bbbbb", WrongRecoveryCode)):
        with pytest.raises(refusal):
            authentication.check_second_factor(conn, keys, alice, code, VISITOR, MOST)
    assert [each["action"] for each in written(conn)] == ["login.wrong_code", "login.wrong_recovery_code"]


def test_a_throttled_try_leaves_a_row_at_either_step(conn, keys, cast, alice):
    with pytest.raises(LoginFailed):
        authentication.check_login(conn, alice.email, "not the one", VISITOR, 1)
    with pytest.raises(TooManyAttempts):
        authentication.check_login(conn, alice.email, cast.alice.password, VISITOR, 1)
    with pytest.raises(WrongTotpCode):
        authentication.check_second_factor(conn, keys, alice, "000000", VISITOR, 1)
    with pytest.raises(TooManyAttempts):
        authentication.check_second_factor(conn, keys, alice, cast.alice.totp_code(), VISITOR, 1)
    throttled = [each for each in written(conn) if each["action"] == "login.throttled"]
    assert [(each["actor"], each["address"], each["count"]) for each in throttled] == [(alice.email, HERE, 2)]


def test_a_try_that_finds_no_turn_to_hash_leaves_a_row(conn, cast, monkeypatch):
    monkeypatch.setattr(password_hashing, "MAX_STRANGERS", 0)
    with pytest.raises(HashingBusy):
        authentication.check_login(conn, cast.alice.email, cast.alice.password, VISITOR, MOST)
    assert [(each["action"], each["actor"]) for each in written(conn)] == [("login.throttled", cast.alice.email)]


def test_a_confirmation_that_comes_too_soon_or_finds_no_turn_leaves_a_row(conn, cast, alice, take_all_turns):
    with pytest.raises(WrongPassword):
        authentication.confirm_password(conn, alice, "not the one", "token", HERE, 1)
    with pytest.raises(TooManyAttempts):
        authentication.confirm_password(conn, alice, cast.alice.password, "token", HERE, 1)
    take_all_turns()
    with pytest.raises(HashingBusy):
        authentication.confirm_password(conn, alice, cast.alice.password, "another", HERE, 1)
    assert [(each["action"], each["count"]) for each in written(conn)] == [
        ("user.wrong_password", 1),
        ("login.throttled", 2),
    ]


def test_a_new_password_that_finds_no_turn_to_hash_leaves_a_row(conn, keys, cast, alice, monkeypatch, take_all_turns):
    verify_password = password_hashing.verify_password

    def verify_and_be_overtaken(password_hash: str | None, password: str) -> bool:
        take_all_turns()
        return verify_password(password_hash, password)

    monkeypatch.setattr(password_hashing, "verify_password", verify_and_be_overtaken)
    with pytest.raises(HashingBusy):
        authentication.change_password(
            conn,
            keys,
            Actor(alice.email, HERE),
            alice,
            cast.alice.password,
            "another long password",
            "token",
            MOST,
            ("SMPP Portal",),
        )
    assert [(each["action"], each["actor"], each["address"]) for each in written(conn)] == [
        ("login.throttled", alice.email, HERE)
    ]


def test_an_enrolment_that_finds_no_turn_to_hash_leaves_a_row(conn, keys, alice, take_all_turns):
    token = authentication.create_enrolment_link(conn, alice)
    take_all_turns()
    with pytest.raises(HashingBusy):
        authentication.enrol_by_link(conn, keys, token, "another long password", "000000", HERE, ("SMPP Portal",))
    assert [(each["action"], each["actor"], each["address"]) for each in written(conn)] == [
        ("login.throttled", alice.email, HERE)
    ]


def test_a_wrong_password_at_a_confirmation_leaves_a_row(conn, alice):
    with pytest.raises(WrongPassword):
        authentication.confirm_password(conn, alice, "not the one", "token", HERE, MOST)
    assert [(each["action"], each["actor"]) for each in written(conn)] == [("user.wrong_password", alice.email)]


def test_a_right_login_leaves_none(conn, keys, cast, alice):
    authentication.check_login(conn, alice.email, cast.alice.password, VISITOR, MOST)
    authentication.check_second_factor(conn, keys, alice, cast.alice.totp_code(), VISITOR, MOST)
    assert written(conn) == []


def test_what_was_typed_is_kept_short_and_without_control_characters(conn):
    record_refused_login(refused_logins.UNKNOWN_EMAIL, f"a\nb\x1b[2J\u202ec\x00@{'x' * 1000}", HERE)
    record_refused_login(refused_logins.UNKNOWN_EMAIL, "   ", HERE)
    typed, nothing = (each["actor"] for each in written(conn))
    assert typed.startswith("a\ufffdb\ufffd[2J\ufffdc\ufffd@xxx")
    assert len(typed) == 254
    assert nothing == "-"


def test_the_row_of_a_long_e_mail_address_is_the_customer_s(conn, cast):
    email = f"alice@{'very-long-domain.' * 12}example"
    assert 200 < len(email) <= 254
    conn.execute("UPDATE users SET email = ? WHERE id = ?", (email, cast.alice.id))
    with pytest.raises(LoginFailed):
        authentication.check_login(conn, email, "not the one", VISITOR, MOST)
    (row,) = written(conn)
    assert (row["actor"], row["customer_id"]) == (email, cast.acme)


# --- many are counted together


def test_the_same_again_is_counted_in_one_row_with_first_and_last_time(conn):
    began = now_ms()
    for _ in range(3):
        for _ in range(50):
            record_refused_login(refused_logins.WRONG_PASSWORD, "alice@acme.example", HERE)
        written(conn)
    (row,) = written(conn)
    assert row["count"] == 150
    assert began <= row["at"] <= row["last_at"] <= now_ms()


def test_the_next_hour_has_a_row_of_its_own(conn):
    record_refused_login(refused_logins.WRONG_PASSWORD, "alice@acme.example", HERE)
    written(conn)
    conn.execute("UPDATE audit_log SET at = at - ?", (HOUR_MS + 1000,))
    record_refused_login(refused_logins.WRONG_PASSWORD, "alice@acme.example", HERE)
    assert [each["count"] for each in written(conn)] == [1, 1]


@pytest.mark.parametrize(
    ("build_address", "network"),
    [(lambda number: HERE, HERE), (lambda number: f"2001:db8:1:2::{number:x}", "2001:db8:1:2::/64")],
)
def test_one_network_with_many_e_mail_addresses_fills_few_rows(conn, build_address, network):
    for number in range(500):
        record_refused_login(refused_logins.UNKNOWN_EMAIL, f"user{number}@acme.example", build_address(number))
        if number % 100 == 0:
            written(conn)
    rows = written(conn)
    assert len(rows) == _MAX_ROWS + 1
    assert number_of(rows) == 500
    assert [(each["actor"], each["address"]) for each in rows[-1:]] == [("", network)]


def test_many_that_are_counted_in_few_rows_are_few_writes(conn):
    for number in range(500):
        record_refused_login(refused_logins.UNKNOWN_EMAIL, f"user{number}@acme.example", HERE)
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    rows = written(conn)
    conn.set_trace_callback(None)
    assert number_of(rows) == 500
    assert sum(each.startswith(("UPDATE", "INSERT")) for each in statements) == len(rows) + 1


def test_one_e_mail_address_from_many_networks_fills_few_rows(conn, cast):
    for number in range(500):
        email = "alice@acme.example" if number % 2 else "ALICE@acme.example"
        record_refused_login(refused_logins.WRONG_PASSWORD, email, f"198.51.{number // 250}.{number % 250}")
    rows = written(conn)
    assert len(rows) == _MAX_ROWS + 1
    assert number_of(rows) == 500
    assert (rows[-1]["actor"], rows[-1]["address"], rows[-1]["customer_id"]) == ("alice@acme.example", "", cast.acme)


def test_many_of_both_fill_few_rows(conn):
    for number in range(3000):
        record_refused_login(
            refused_logins.UNKNOWN_EMAIL, f"user{number}@x.example", f"198.51.{number // 250}.{number % 250}"
        )
        if number % 500 == 0:
            written(conn)
    rows = written(conn)
    assert len(rows) == _MAX_ROWS_IN_ALL + 1
    assert number_of(rows) == 3000


def test_another_address_still_has_a_row_of_its_own_beside_a_flood(conn):
    for _ in range(1000):
        record_refused_login(refused_logins.THROTTLED, "bob@acme.example", "198.51.100.1")
    record_refused_login(refused_logins.WRONG_PASSWORD, "alice@acme.example", HERE)
    assert {(each["actor"], each["address"]): each["count"] for each in written(conn)} == {
        ("bob@acme.example", "198.51.100.1"): 1000,
        ("alice@acme.example", HERE): 1,
    }


@pytest.mark.parametrize("decoys", [100, 1100])
@pytest.mark.parametrize(
    "build_address", [lambda number: HERE, lambda number: f"198.51.{number // 250}.{number % 250}"]
)
def test_a_user_s_tries_do_not_hide_behind_unknown_ones(conn, cast, caplog, decoys, build_address):
    for _ in range(2):
        for number in range(decoys):
            record_refused_login(refused_logins.UNKNOWN_EMAIL, f"user{number}@x.example", build_address(number))
        record_refused_login(refused_logins.WRONG_PASSWORD, "Alice@acme.example", HERE)
        refused_logins.write_refused_logins(conn)
    rows = written(conn)
    assert number_of(rows) == 2 * (decoys + 1)
    assert sum(each["count"] for each in rows if each["actor"].lower() == "alice@acme.example") == 2
    assert (rows[0]["actor"], rows[0]["address"], rows[0]["customer_id"]) == ("Alice@acme.example", HERE, cast.acme)
    assert "email=Alice@acme.example" in caplog.records[0].getMessage()


def test_a_user_s_tries_have_a_row_after_unknown_ones_have_taken_all(conn, cast):
    for number in range(300):
        record_refused_login(
            refused_logins.UNKNOWN_EMAIL, f"user{number}@x.example", f"198.51.{number // 250}.{number % 250}"
        )
    refused_logins.write_refused_logins(conn)
    for address in ("192.0.2.7", "192.0.2.8"):
        record_refused_login(refused_logins.WRONG_PASSWORD, "alice@acme.example", address)
    rows = [(row["actor"], row["address"], row["customer_id"], row["count"]) for row in written(conn)[-2:]]
    assert rows == [("alice@acme.example", address, cast.acme, 1) for address in ("192.0.2.7", "192.0.2.8")]


def test_guesses_keep_their_addresses_beside_a_flood_of_throttled_tries(conn, cast, caplog):
    """Which somebody makes with one user's address from many networks, before and besides."""

    def flood() -> None:
        for number in range(300):
            record_refused_login(refused_logins.THROTTLED, cast.alice.email, f"198.51.{number // 250}.{number % 250}")

    flood()
    refused_logins.write_refused_logins(conn)
    caplog.clear()
    flood()
    people = [cast.alice.email, cast.bob.email, cast.charlie.email]
    for number in range(12):
        record_refused_login(refused_logins.WRONG_PASSWORD, people[number % 3], HERE)
    # Of more addresses than are named in a second.
    others = [f"203.0.113.{number}" for number in range(12)]
    for address in others:
        record_refused_login(refused_logins.WRONG_PASSWORD, cast.bob.email, address)
    rows = [(each["actor"], each["address"], each["count"]) for each in written(conn)]
    assert {(email, HERE, 4) for email in people} <= set(rows)
    told = re.findall(r"wrong_password address=(\S+) tries=(\d+)", caplog.text)
    assert [int(tries) for address, tries in told if address == HERE] == [*range(1, 11)]
    assert {address for address, _ in told} == {HERE, *others}


def test_what_could_not_be_written_is_written_later_and_told_once(
    conn: db.Connection, connect: Callable[[], db.Connection], caplog: pytest.LogCaptureFixture
) -> None:
    conn.busy_timeout_ms = 0
    record_refused_login(refused_logins.WRONG_PASSWORD, "alice@acme.example", HERE)
    with db.write_transaction(connect()), pytest.raises(sqlite3.OperationalError):
        refused_logins.write_refused_logins(conn)
    record_refused_login(refused_logins.WRONG_PASSWORD, "alice@acme.example", HERE)
    assert [each["count"] for each in written(conn)] == [2]
    assert re.findall(r"tries=(\d+)", caplog.text) == ["1", "2"]


def test_a_flood_of_throttled_tries_writes_nothing_by_itself(
    conn: db.Connection, connect: Callable[[], db.Connection], cast: Cast
) -> None:
    def try_often(times: int) -> None:
        for _ in range(times):
            with pytest.raises((LoginFailed, TooManyAttempts)):
                authentication.check_login(conn, cast.alice.email, "not the one", VISITOR, 1)

    # Until the address is throttled, too: up to then each try is counted for it.
    try_often(12)
    other = connect()
    # It changes where another connection has committed.
    version = other.execute("PRAGMA data_version").fetchone()[0]
    try_often(20)
    assert other.execute("PRAGMA data_version").fetchone()[0] == version
    assert number_of(written(conn)) == 32
    assert other.execute("PRAGMA data_version").fetchone()[0] != version


# --- the log


def test_of_a_flood_the_log_tells_ever_more_rarely(conn, caplog):
    for _ in range(320):
        record_refused_login(refused_logins.THROTTLED, "bob@acme.example", "198.51.100.1")
        refused_logins.write_refused_logins(conn)
    told = [int(each) for each in re.findall(r"tries=(\d+)", caplog.text)]
    assert told == [*range(1, 10), *range(10, 100, 10), 100, 200, 300]


def test_each_of_the_first_ten_tries_has_a_line_also_where_they_came_at_once(conn, caplog):
    for _ in range(50):
        # It bans nobody, so it takes no lines from what does.
        record_refused_login(refused_logins.THROTTLED, "alice@acme.example", HERE)
    for tries, address in ((99, HERE), (4, "198.51.100.1")):
        for _ in range(tries):
            record_refused_login(refused_logins.WRONG_PASSWORD, "alice@acme.example", address)
    refused_logins.write_refused_logins(conn)
    told = re.findall(r"wrong_password address=(\S+) tries=(\d+)", caplog.text)
    assert [int(tries) for address, tries in told if address == HERE] == [*range(1, 11), 99]
    assert [int(tries) for address, tries in told if address != HERE] == [1, 2, 3, 4]
    assert "more logins refused" not in caplog.text


def test_of_many_addresses_at_once_the_log_names_some(conn, caplog):
    for number in range(300):
        record_refused_login(refused_logins.UNKNOWN_EMAIL, "bob@acme.example", f"198.51.{number // 250}.{number % 250}")
    refused_logins.write_refused_logins(conn)
    told = [each.getMessage() for each in caplog.records]
    assert len(told) == 11
    assert told[-1] == "more logins refused: 290"


# --- five wrong second factors


def fail(conn: db.Connection, keys: Keys, user: User, times: int) -> None:
    for _ in range(times):
        with pytest.raises(WrongTotpCode):
            authentication.check_second_factor(conn, keys, user, "000000", VISITOR, 100)


def wrong_code_mails(conn: db.Connection, keys: Keys) -> Iterator[dict[str, object]]:
    for row in conn.execute("SELECT recipient, content FROM mails ORDER BY id"):
        content = json.loads(keys.decrypt_column(row["content"]))
        if content["template"] == "wrong_codes":
            yield content | {"to": row["recipient"]}


def test_the_fifth_wrong_code_is_told_to_the_person_once_a_day(conn, config, keys, alice):
    fail(conn, keys, alice, 4)
    assert list(wrong_code_mails(conn, keys)) == []
    fail(conn, keys, alice, 10)
    (told,) = wrong_code_mails(conn, keys)
    assert told["to"] == alice.email
    assert told["context"] == {"email": alice.email, "address": HERE}
    (daily,) = [each for each in jobs.list_jobs(config, keys, []) if each.name == "housekeeping"]
    assert daily.run_once(conn)
    fail(conn, keys, alice, 4)
    assert len(list(wrong_code_mails(conn, keys))) == 1
    fail(conn, keys, alice, 1)
    assert len(list(wrong_code_mails(conn, keys))) == 2


def test_right_logins_of_the_person_do_not_keep_the_mail_from_coming(conn, keys, cast, alice):
    fail(conn, keys, alice, 2)
    authentication.check_second_factor(conn, keys, alice, cast.alice.totp_code(), VISITOR, 100)
    fail(conn, keys, alice, 2)
    authentication.check_second_factor(conn, keys, alice, cast.alice.recovery_codes[0], VISITOR, 100)
    assert list(wrong_code_mails(conn, keys)) == []
    with pytest.raises(WrongRecoveryCode):
        authentication.check_second_factor(conn, keys, alice, "aaaaa-bbbbb", VISITOR, 100)
    assert len(list(wrong_code_mails(conn, keys))) == 1


@pytest.mark.parametrize(
    ("own", "customers", "subject"),
    [
        (None, "en", "Wrong codes after your password"),
        (None, "it", "Codici errati dopo la tua password"),
        ("it", "en", "Codici errati dopo la tua password"),
    ],
)
def test_the_mail_is_in_the_person_s_language(
    conn: db.Connection, keys: Keys, alice: User, config: Config, own: str | None, customers: str, subject: str
) -> None:
    conn.execute("UPDATE users SET language = ?", (own,))
    conn.execute("UPDATE customers SET language = ?", (customers,))
    fail(conn, keys, alice, 5)
    assert list(mail.send_due_mails(conn, config, keys)) == [True]
    (file,) = (config.data / "outbox").iterdir()
    message = message_from_bytes(file.read_bytes(), policy=default)
    assert isinstance(message, EmailMessage)
    assert (message["To"], message["Subject"]) == (alice.email, subject)
    for form in ("plain", "html"):
        assert f"{config.public_url}/profile" in get_text(message, form)
        assert HERE in get_text(message, form)


def test_an_operator_gets_one_too(conn, keys, cast):
    fail(conn, keys, users.get_user_by_email(conn, cast.olga.email), 5)
    (told,) = wrong_code_mails(conn, keys)
    assert (told["to"], told["language"]) == (cast.olga.email, "en")


def test_codes_at_the_change_of_an_authenticator_are_no_login(conn, keys, alice):
    for _ in range(6):
        with pytest.raises(WrongTotpCode):
            authentication.replace_totp_secret(
                conn, keys, Actor(alice.email), alice, two_factor.new_totp_secret(keys), "x", ""
            )
    assert list(wrong_code_mails(conn, keys)) == []
    assert written(conn) == []
