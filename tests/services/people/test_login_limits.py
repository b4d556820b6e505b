"""Strangers' attempts lock nobody out: what attempts are counted by."""

from collections.abc import Callable

import pyotp
import pytest
from argon2 import PasswordHasher

from portal.core.clock import now_ms
from portal.core.db import Connection
from portal.services.common.audit import SHELL, Actor
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.people import authentication, login_limits, password_hashing, two_factor, users
from portal.services.people.login_limits import Visitor
from portal.services.people.password_hashing import MAX_PASSWORD_LENGTH
from portal.services.people.two_factor import WrongTotpCode
from portal.services.people.users import User
from tests.support import Cast

HERE, ELSEWHERE = "192.0.2.1", "203.0.113.7"
FAILURES = 3


@pytest.fixture
def alice(conn: Connection, cast: Cast) -> User:
    return users.get_user_by_email(conn, cast.alice.email)


@pytest.fixture
def fail(conn: Connection, cast: Cast) -> Callable[..., None]:
    """Tries a wrong password of Alice's."""

    def try_wrong_password(visitor: Visitor, email: str = cast.alice.email) -> None:
        with pytest.raises(authentication.LoginFailed):
            authentication.check_login(conn, email, "wrong password", visitor, FAILURES)

    return try_wrong_password


def gets_in(conn: Connection, cast: Cast, visitor: Visitor) -> bool:
    try:
        authentication.check_login(conn, cast.alice.email, cast.alice.password, visitor, FAILURES)
    except TooManyAttempts:
        return False
    return True


# --- counts of their own


@pytest.mark.slow
def test_a_known_browser_gets_in_while_strangers_have_used_up_their_attempts(conn, cast, fail):
    for _ in range(FAILURES):
        fail(Visitor(ELSEWHERE))
    assert not gets_in(conn, cast, Visitor(HERE))
    assert gets_in(conn, cast, Visitor(HERE, "a browser"))
    assert gets_in(conn, cast, Visitor(ELSEWHERE, "a browser"))


@pytest.mark.slow
def test_a_known_browser_has_attempts_of_its_own_and_no_more_than_others(conn, cast, fail):
    for _ in range(FAILURES):
        fail(Visitor(HERE, "a browser"))
    assert not gets_in(conn, cast, Visitor(HERE, "a browser"))
    assert gets_in(conn, cast, Visitor(HERE, "another browser"))
    assert gets_in(conn, cast, Visitor(HERE))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("known", "same", "other"),
    [("192.0.2.1", "192.0.2.1", "192.0.2.2"), ("2001:db8:1:2::1", "2001:db8:1:2:3::4", "2001:db8:1:3::1")],
)
def test_an_address_from_which_they_have_logged_in_is_counted_apart(conn, cast, alice, fail, known, same, other):
    authentication.start_login_session(conn, alice, known, "Firefox")
    for _ in range(FAILURES):
        fail(Visitor(ELSEWHERE))
    assert gets_in(conn, cast, Visitor(same))
    assert not gets_in(conn, cast, Visitor(other))
    for _ in range(FAILURES):
        fail(Visitor(same))
    assert not gets_in(conn, cast, Visitor(same))


@pytest.mark.slow
def test_an_address_that_is_known_of_one_is_a_strangers_for_another(conn, cast, alice, fail):
    authentication.start_login_session(conn, users.get_user_by_email(conn, cast.bob.email), HERE, "Firefox")
    for _ in range(FAILURES):
        fail(Visitor(ELSEWHERE))
    assert not gets_in(conn, cast, Visitor(HERE))


def test_addresses_are_forgotten_after_three_months_and_when_a_login_starts_over(conn, keys, alice):
    authentication.start_login_session(conn, alice, HERE, "Firefox")
    login_limits.purge_login_networks(conn, now_ms())
    assert login_limits.is_known_network(conn, alice.email, HERE)
    login_limits.purge_login_networks(conn, now_ms() + 91 * 86_400_000)
    assert not login_limits.is_known_network(conn, alice.email, HERE)
    authentication.start_login_session(conn, alice, HERE, "Firefox")
    authentication.reset_enrolment(conn, keys, SHELL, alice)
    assert not login_limits.is_known_network(conn, alice.email, HERE)


@pytest.mark.parametrize("what", ["password", "authenticator"])
def test_addresses_but_for_its_own_are_forgotten_after_a_change(conn, keys, cast, alice, what):
    for address in ("192.0.2.1", "2001:db8::1", "203.0.113.7"):
        token = authentication.start_login_session(conn, alice, address, "Firefox")
    actor = Actor(alice.email, "2001:db8::2")
    if what == "password":
        authentication.change_password(
            conn, keys, actor, alice, cast.alice.password, "another long password", token, FAILURES, ()
        )
    else:
        secret = two_factor.new_totp_secret(keys)
        code = pyotp.TOTP(two_factor.format_totp_secret(keys, secret)).now()
        authentication.replace_totp_secret(conn, keys, actor, alice, secret, code, token)
    rows = conn.execute("SELECT network FROM login_networks WHERE user_id = ?", (alice.id,))
    assert [row["network"] for row in rows] == ["2001:db8::/64"]


def test_codes_are_counted_in_the_same_way(conn, keys, cast, alice):
    def check(code: str, visitor: Visitor) -> None:
        authentication.check_second_factor(conn, keys, alice, code, visitor, 1)

    with pytest.raises(WrongTotpCode):
        check("000000", Visitor(ELSEWHERE))
    with pytest.raises(TooManyAttempts):
        check(cast.alice.totp_code(), Visitor(HERE))
    check(cast.alice.totp_code(), Visitor(HERE, "a browser"))


def test_who_is_refused_waits_for_no_write_lock(conn, connect, cast):
    name = f"login:user:{cast.alice.email}"
    conn.execute("INSERT INTO throttle_buckets VALUES (?, 0, ?)", (name, now_ms()))
    writer = connect()
    writer.execute("BEGIN IMMEDIATE")
    conn.execute("PRAGMA busy_timeout = 0")
    assert not gets_in(conn, cast, Visitor(HERE))
    writer.execute("ROLLBACK")


@pytest.mark.slow
def test_a_confirmation_counts_by_session(conn, alice, cast, fail):
    one, other = (authentication.start_login_session(conn, alice, HERE, "Firefox") for _ in range(2))
    for _ in range(FAILURES):
        fail(Visitor(ELSEWHERE))
        fail(Visitor(HERE))
    authentication.confirm_password(conn, alice, cast.alice.password, one, HERE, FAILURES)
    for _ in range(FAILURES):
        with pytest.raises(authentication.WrongPassword):
            authentication.confirm_password(conn, alice, "wrong password", one, HERE, FAILURES)
    with pytest.raises(TooManyAttempts):
        authentication.confirm_password(conn, alice, cast.alice.password, one, HERE, FAILURES)
    authentication.confirm_password(conn, alice, cast.alice.password, other, HERE, FAILURES)


# --- IPv6


def test_ipv6_counts_by_64_56_and_48():
    assert login_limits.list_networks("2001:db8:1:2345::1") == [
        "2001:db8:1:2345::/64",
        "2001:db8:1:2300::/56",
        "2001:db8:1::/48",
    ]
    assert login_limits.list_networks("192.0.2.1") == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("attempts", "address", "outside"),
    [
        (10, "2001:db8:0:7::{0:x}", "2001:db8:0:8::1"),
        (20, "2001:db8:0:00{0:02x}::1", "2001:db8:0:0100::1"),
        (40, "2001:db8:0:{0:x}00::1", "2001:db8:1::1"),
    ],
)
def test_no_more_of_a_wider_network_pass_than_may(conn, monkeypatch, attempts, address, outside):
    monkeypatch.setattr(password_hashing, "verify_password", lambda *_: False)

    def attempt(number: int, source: str) -> None:
        authentication.check_login(conn, f"nobody{number}@acme.example", "wrong", Visitor(source), 1)

    for number in range(attempts):
        with pytest.raises(authentication.LoginFailed):
            attempt(number, address.format(number))
    with pytest.raises(TooManyAttempts):
        attempt(attempts, address.format(attempts))
    with pytest.raises(authentication.LoginFailed):
        attempt(attempts, outside)


# --- older hashes


@pytest.mark.slow
def test_an_older_hash_is_replaced_at_the_login(conn, cast):
    def read_hash() -> str:
        return str(conn.execute("SELECT password_hash FROM users WHERE id = ?", (cast.alice.id,)).fetchone()[0])

    older = PasswordHasher().hash(cast.alice.password)
    conn.execute("UPDATE users SET password_hash = ? WHERE id = ?", (older, cast.alice.id))
    with pytest.raises(authentication.LoginFailed):
        authentication.check_login(conn, cast.alice.email, "wrong password", Visitor(HERE), FAILURES)
    assert read_hash() == older
    assert gets_in(conn, cast, Visitor(HERE))
    assert read_hash().startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert gets_in(conn, cast, Visitor(HERE))


def test_a_hash_is_replaced_of_one_user_in_a_transaction_and_after_the_turn(conn, cast):
    older = PasswordHasher(memory_cost=64).hash(cast.alice.password)
    conn.execute("UPDATE users SET password_hash = ?", (older,))
    seen: list[tuple[list[str], bool]] = []

    def look(statement: str) -> None:
        if statement.startswith("UPDATE users SET password_hash"):
            seen.append(([*password_hashing._present], conn.in_transaction))

    conn.set_trace_callback(look)
    assert gets_in(conn, cast, Visitor(HERE))
    conn.set_trace_callback(None)
    assert seen == [([], True)]
    rows = conn.execute("SELECT email FROM users WHERE password_hash <> ?", (older,))
    assert [row["email"] for row in rows] == [cast.alice.email]


def test_a_replaced_hash_is_of_as_much_as_is_compared(conn, cast):
    longest = "x" * MAX_PASSWORD_LENGTH
    older = PasswordHasher(memory_cost=64).hash(longest)
    conn.execute("UPDATE users SET password_hash = ? WHERE id = ?", (older, cast.alice.id))
    for _ in range(2):
        authentication.check_login(conn, cast.alice.email, longest + "and more", Visitor(HERE), FAILURES)


def test_unknown_addresses_are_compared_with_hashes_as_old_as_users_have(conn, monkeypatch):
    older = PasswordHasher(memory_cost=64).hash("an older hash")
    conn.execute("UPDATE users SET password_hash = ? WHERE id % 2", (older,))
    hashes = [row[0] for row in conn.execute("SELECT password_hash FROM users")]
    compared: list[str | None] = []

    def is_never_right(password_hash: str | None, _password: str) -> bool:
        compared.append(password_hash)
        return False

    monkeypatch.setattr(password_hashing, "verify_password", is_never_right)
    emails = [f"nobody-{number}@acme.example" for number in range(60)]
    for email in emails + [each.upper() for each in emails]:
        with pytest.raises(authentication.LoginFailed):
            authentication.check_login(conn, email, "a guess", Visitor(HERE), 100)
    assert set(compared) == set(hashes)
    assert 0 < compared.count(older) < len(compared)
    assert compared[:60] == compared[60:]


def test_nobody_gets_in_with_the_password_of_the_hash_that_stands_in(conn, keys, cast):
    conn.execute("UPDATE users SET password_hash = NULL WHERE id <> ?", (cast.alice.id,))
    for email in ("nobody@acme.example", cast.bob.email):
        with pytest.raises(authentication.LoginFailed):
            authentication.check_login(conn, email, cast.alice.password, Visitor(HERE), FAILURES)


def test_where_nobody_has_a_password_nobody_gets_in(conn, cast):
    conn.execute("UPDATE users SET password_hash = NULL")
    with pytest.raises(authentication.LoginFailed):
        authentication.check_login(conn, cast.alice.email, "a guess", Visitor(HERE), FAILURES)
