import pyotp
import pytest

from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.common.audit import SHELL, Actor
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.people import authentication, customers, password_rules, two_factor, users
from portal.services.people.login_limits import Visitor
from portal.services.people.users import User
from tests.support import Cast

NAMES = ("SMPP Portal",)
HERE = "192.0.2.1"
VISITOR = Visitor(HERE)
FAILURES = 5
HOUR_MS = 3_600_000


@pytest.fixture
def alice(conn: Connection, cast: Cast) -> User:
    return users.get_user_by_email(conn, cast.alice.email)


@pytest.fixture
def newcomer(conn: Connection, keys: Keys, cast: Cast) -> User:
    """Dora, a manager at Acme who hasn't enrolled."""
    return users.create_user(conn, keys, SHELL, "dora@acme.example", users.MANAGER, cast.acme)


def code_of(conn: Connection, keys: Keys, user: User) -> str:
    return pyotp.TOTP(two_factor.format_totp_secret(keys, authentication.read_totp_secret(conn, user))).now()


# --- who there is


@pytest.mark.parametrize(("role", "has_customer"), [("owner", False), ("operator", True), ("king", True), ("", False)])
def test_roles_go_with_customers(conn, keys, cast, role, has_customer):
    with pytest.raises(users.InvalidRole):
        users.create_user(conn, keys, SHELL, "x@acme.example", role, cast.acme if has_customer else None)


@pytest.mark.parametrize(
    "email", ["", "x", "x@", "@y.example", "a b@c.example", "x@y@z", "a,b@c.example", "a" * 251 + "@b.c"]
)
def test_addresses_that_are_refused(conn, keys, cast, email):
    with pytest.raises(customers.InvalidEmail):
        users.create_user(conn, keys, SHELL, email, users.OWNER, cast.acme)


def test_an_address_is_one_user_however_it_is_written(conn, keys, cast):
    with pytest.raises(users.UserExists):
        users.create_user(conn, keys, SHELL, "ALICE@acme.example", users.OWNER, cast.globex)


def test_viewers_change_nothing(conn, cast):
    assert not users.get_user_by_email(conn, cast.bob.email).may_change
    assert users.get_user_by_email(conn, cast.alice.email).may_change


# --- enrolment


@pytest.mark.slow
def test_enrolment_by_a_link(conn, keys, newcomer):
    token = authentication.create_enrolment_link(conn, newcomer)
    assert authentication.get_user_by_enrolment_link(conn, token) == newcomer
    codes = authentication.enrol_by_link(conn, keys, token, "correct horse", code_of(conn, keys, newcomer), HERE, NAMES)
    assert len(codes) == 10
    assert authentication.check_login(conn, newcomer.email, "correct horse", VISITOR, FAILURES).enrolled


def test_a_link_is_good_once(conn, keys, newcomer):
    token = authentication.create_enrolment_link(conn, newcomer)
    authentication.enrol_by_link(conn, keys, token, "correct horse", code_of(conn, keys, newcomer), HERE, NAMES)
    with pytest.raises(authentication.InvalidEnrolmentLink):
        authentication.get_user_by_enrolment_link(conn, token)


def test_a_new_link_ends_the_one_before(conn, newcomer):
    first, second = (
        authentication.create_enrolment_link(conn, newcomer),
        authentication.create_enrolment_link(conn, newcomer),
    )
    with pytest.raises(authentication.InvalidEnrolmentLink):
        authentication.get_user_by_enrolment_link(conn, first)
    assert authentication.get_user_by_enrolment_link(conn, second).id == newcomer.id


def test_a_link_runs_out(conn, newcomer):
    token = authentication.create_enrolment_link(conn, newcomer)
    conn.execute("UPDATE one_time_links SET expires_at = ?", (now_ms() - 1,))
    with pytest.raises(authentication.InvalidEnrolmentLink):
        authentication.get_user_by_enrolment_link(conn, token)


def test_links_that_have_run_out_go_with_the_next_one(conn, keys, cast, newcomer):
    authentication.create_enrolment_link(conn, newcomer)
    conn.execute("UPDATE one_time_links SET expires_at = ?", (now_ms() - 1,))
    other = users.create_user(conn, keys, SHELL, "erin@acme.example", users.MANAGER, cast.acme)
    authentication.create_enrolment_link(conn, other)
    assert [row["user_id"] for row in conn.execute("SELECT user_id FROM one_time_links")] == [other.id]


def test_a_wrong_code_enrols_nobody_and_leaves_the_link(conn, keys, newcomer):
    token = authentication.create_enrolment_link(conn, newcomer)
    with pytest.raises(two_factor.WrongTotpCode):
        authentication.enrol_by_link(conn, keys, token, "correct horse", "x", HERE, NAMES)
    assert not authentication.get_user_by_enrolment_link(conn, token).enrolled


@pytest.mark.parametrize(
    ("password", "refusal"),
    [("short", password_rules.PasswordTooShort), ("x" * 1001, password_rules.PasswordTooLong)],
)
def test_passwords_that_are_refused_leave_the_link_and_the_code(conn, keys, newcomer, password, refusal):
    token, code = authentication.create_enrolment_link(conn, newcomer), code_of(conn, keys, newcomer)
    with pytest.raises(refusal):
        authentication.enrol_by_link(conn, keys, token, password, code, HERE, NAMES)
    assert authentication.enrol_by_link(conn, keys, token, "correct horse", code, HERE, NAMES)


def test_links_and_passwords_are_kept_as_hashes(conn, keys, newcomer):
    token = authentication.create_enrolment_link(conn, newcomer)
    authentication.enrol_by_link(conn, keys, token, "correct horse", code_of(conn, keys, newcomer), HERE, NAMES)
    dump = "\n".join(conn.iterdump())
    assert token not in dump
    assert "correct horse" not in dump
    assert "$argon2id$" in dump


# --- login


def test_login_needs_the_password(conn, cast):
    assert (
        authentication.check_login(conn, " Alice@ACME.example ", cast.alice.password, VISITOR, FAILURES).id
        == cast.alice.id
    )
    with pytest.raises(authentication.LoginFailed):
        authentication.check_login(conn, cast.alice.email, "wrong password", VISITOR, FAILURES)


@pytest.mark.parametrize("email", ["nobody@acme.example", "", "dora@acme.example"])
def test_who_is_unknown_or_not_enrolled_learns_nothing(conn, newcomer, email):
    with pytest.raises(authentication.LoginFailed, match="E-mail address or password is wrong"):
        authentication.check_login(conn, email, "whatever it is", VISITOR, FAILURES)


def test_the_second_step_takes_a_code_or_a_recovery_code(conn, keys, cast, alice):
    authentication.check_second_factor(conn, keys, alice, cast.alice.totp_code(), VISITOR, FAILURES)
    authentication.check_second_factor(conn, keys, alice, cast.alice.recovery_codes[3], VISITOR, FAILURES)
    with pytest.raises(authentication.WrongRecoveryCode):
        authentication.check_second_factor(conn, keys, alice, cast.alice.recovery_codes[3], VISITOR, FAILURES)


@pytest.mark.slow
def test_failures_are_counted_by_user_from_wherever_they_come(conn, cast):
    for last in range(FAILURES):
        with pytest.raises(authentication.LoginFailed):
            authentication.check_login(conn, cast.alice.email, "wrong password", Visitor(f"192.0.2.{last}"), FAILURES)
    with pytest.raises(TooManyAttempts):
        authentication.check_login(conn, cast.alice.email, cast.alice.password, Visitor("192.0.2.99"), FAILURES)
    assert authentication.check_login(conn, cast.bob.email, cast.bob.password, VISITOR, FAILURES).id == cast.bob.id


@pytest.mark.slow
def test_failures_are_counted_by_address_whoever_is_tried(conn):
    for number in range(10):
        with pytest.raises(authentication.LoginFailed):
            authentication.check_login(conn, f"user{number}@acme.example", "wrong password", VISITOR, 1)
    with pytest.raises(TooManyAttempts):
        authentication.check_login(conn, "another@acme.example", "wrong password", VISITOR, 1)


@pytest.mark.slow
def test_success_is_not_counted(conn, cast):
    for _ in range(3):
        authentication.check_login(conn, cast.alice.email, cast.alice.password, VISITOR, 2)


def test_wrong_codes_are_counted(conn, keys, cast, alice):
    for _ in range(FAILURES):
        with pytest.raises(two_factor.WrongTotpCode):
            authentication.check_second_factor(conn, keys, alice, "000000", VISITOR, FAILURES)
    with pytest.raises(TooManyAttempts):
        authentication.check_second_factor(conn, keys, alice, cast.alice.totp_code(), VISITOR, FAILURES)


# --- sessions


def test_a_session_lasts_until_logout(conn, alice):
    token = authentication.start_login_session(conn, alice, HERE, "Firefox")
    assert authentication.find_user_by_login_session(conn, token) == alice
    authentication.end_login_session(conn, token)
    assert authentication.find_user_by_login_session(conn, token) is None


def test_a_made_up_token_is_nobody(conn):
    assert authentication.find_user_by_login_session(conn, "made up") is None


@pytest.mark.parametrize(("column", "age"), [("seen_at", 13 * HOUR_MS), ("created_at", 31 * 24 * HOUR_MS)])
def test_a_session_ends_when_it_is_idle_or_old(conn, alice, column, age):
    token = authentication.start_login_session(conn, alice, HERE, "Firefox")
    conn.execute(f"UPDATE login_sessions SET {column} = ?", (now_ms() - age,))
    assert authentication.find_user_by_login_session(conn, token) is None


def test_a_session_in_use_stays_awake(conn, alice):
    token = authentication.start_login_session(conn, alice, HERE, "Firefox")
    conn.execute("UPDATE login_sessions SET seen_at = ?", (now_ms() - 11 * HOUR_MS,))
    authentication.find_user_by_login_session(conn, token)
    assert conn.execute("SELECT seen_at FROM login_sessions").fetchone()[0] > now_ms() - 10_000


def test_the_token_is_kept_as_a_hash(conn, alice):
    token = authentication.start_login_session(conn, alice, HERE, "Firefox")
    assert token not in "\n".join(conn.iterdump())


def test_one_may_end_ones_own_sessions_only(conn, cast, alice):
    mine = authentication.start_login_session(conn, alice, HERE, "Firefox")
    other = authentication.start_login_session(conn, alice, "192.0.2.2", "Phone")
    listed = authentication.list_login_sessions(conn, alice, mine)
    assert {(each["user_agent"], each["is_current"]) for each in listed} == {("Firefox", True), ("Phone", False)}
    foreign = next(each["id"] for each in listed if not each["is_current"])
    authentication.end_login_session_by_id(conn, users.get_user_by_email(conn, cast.bob.email), foreign)
    assert authentication.find_user_by_login_session(conn, other)
    authentication.end_login_session_by_id(conn, alice, foreign)
    assert authentication.find_user_by_login_session(conn, other) is None
    assert authentication.find_user_by_login_session(conn, mine)


# --- profile


@pytest.mark.slow
def test_changing_the_password_ends_the_other_sessions(conn, keys, cast, alice):
    mine = authentication.start_login_session(conn, alice, HERE, "Firefox")
    other = authentication.start_login_session(conn, alice, HERE, "Phone")
    actor = Actor(alice.email, HERE)
    authentication.change_password(
        conn, keys, actor, alice, cast.alice.password, "another long one", mine, FAILURES, NAMES
    )
    assert authentication.find_user_by_login_session(conn, mine)
    assert authentication.find_user_by_login_session(conn, other) is None
    assert authentication.check_login(conn, alice.email, "another long one", VISITOR, FAILURES).id == alice.id


def test_changing_the_password_needs_the_current_one(conn, keys, cast, alice):
    with pytest.raises(authentication.WrongPassword):
        authentication.change_password(
            conn, keys, Actor(alice.email, HERE), alice, "wrong password", "another long one", "", FAILURES, NAMES
        )
    assert authentication.check_login(conn, alice.email, cast.alice.password, VISITOR, FAILURES).id == alice.id


def test_the_language_is_kept_with_the_user(conn, alice):
    assert alice.language is None
    users.set_user_language(conn, alice, "it")
    assert users.get_user_by_email(conn, alice.email).language == "it"


def test_another_authenticator_needs_a_code_of_its_own(conn, keys, cast, alice):
    fresh = two_factor.new_totp_secret(keys)
    actor = Actor(alice.email, HERE)
    with pytest.raises(two_factor.WrongTotpCode):
        authentication.replace_totp_secret(conn, keys, actor, alice, fresh, cast.alice.totp_code(), "")
    assert two_factor.format_totp_secret(keys, authentication.read_totp_secret(conn, alice)) == cast.alice.totp_secret
    code = pyotp.TOTP(two_factor.format_totp_secret(keys, fresh)).now()
    assert len(authentication.replace_totp_secret(conn, keys, actor, alice, fresh, code, "")) == 10
    assert not two_factor.use_recovery_code(conn, keys, alice.id, cast.alice.recovery_codes[0])


@pytest.mark.slow
def test_failures_are_counted_by_network_where_addresses_are_plenty(conn):
    for number in range(10):
        with pytest.raises(authentication.LoginFailed):
            authentication.check_login(conn, f"nobody{number}@x.example", "wrong", Visitor(f"2001:db8::{number}"), 1)
    with pytest.raises(TooManyAttempts):
        authentication.check_login(conn, "somebody@x.example", "wrong", Visitor("2001:db8::ffff"), 1)
    with pytest.raises(authentication.LoginFailed):
        authentication.check_login(conn, "somebody@x.example", "wrong", Visitor("2001:db8:0:1::1"), 1)


def test_starting_over_ends_the_recovery_codes_too(conn, keys, cast, alice):
    authentication.reset_enrolment(conn, keys, SHELL, alice)
    assert two_factor.count_unused_recovery_codes(conn, alice.id) == 0
    with pytest.raises(authentication.WrongRecoveryCode):
        authentication.check_second_factor(conn, keys, alice, cast.alice.recovery_codes[0], Visitor("203.0.113.7"), 10)


def test_a_full_or_locked_database_keeps_nobody_from_reading(conn, alice):
    token = authentication.start_login_session(conn, alice, "203.0.113.7", "")
    conn.execute("UPDATE login_sessions SET seen_at = seen_at - 300000")
    conn.execute("PRAGMA query_only = ON")
    user = authentication.find_user_by_login_session(conn, token)
    assert user is not None
    assert user.id == alice.id
