"""`init`, `customer …` and `user …`, as users and scripts run them."""

import json
import re

import pyotp
import pytest

from portal.core.crypto import Keys
from portal.services.people import authentication, two_factor, users
from portal.services.people.login_limits import Visitor


def test_init_makes_everything_for_its_owner_only(start_app, tmp_path):
    done = start_app("init", "--email", "olga@portal.example", "--json", "--data", "here")
    assert done.returncode == 0
    made = json.loads(done.stdout)
    assert made["email"] == "olga@portal.example"
    assert re.fullmatch(r"http://127\.0\.0\.1:8000/setup/[\w-]{43}", made["link"])
    data = tmp_path / "here"
    assert data.stat().st_mode & 0o777 == 0o700
    assert {each.name: each.stat().st_mode & 0o777 for each in data.iterdir()}.items() >= {
        "portal.db": 0o600,
        "secret.key": 0o600,
    }.items()
    assert start_app("check", "--data", "here").returncode == 0


def test_init_is_done_once(start_app):
    assert start_app("init", "--email", "olga@portal.example").returncode == 0
    again = start_app("init", "--email", "eve@portal.example")
    assert again.returncode == 1
    assert "already" in again.stderr


def test_init_that_was_refused_can_be_done_again(start_app):
    assert start_app("init", "--email", "nonsense").returncode == 1
    assert start_app("init", "--email", "olga@portal.example").returncode == 0


@pytest.mark.parametrize("option", ["--totp", "--password-stdin"])
def test_half_of_what_belongs_together_is_wrong_usage(run_app, option):
    done = run_app("user", "add", "--email", "x@acme.example", option)
    assert done.returncode == 2
    assert "belong together" in done.stderr


def test_customers(ok, refused):
    added = {"name": "Initech", "email": "bill@initech.example", "language": "it"}
    assert ok("customer", "add", "Initech", "--email", "bill@initech.example", "--language", "it") == added
    assert added in ok("customer", "list")
    assert "already a customer" in refused("customer", "add", "initech", "--email", "x@y.example")
    assert "isn't an e-mail address" in refused("customer", "add", "Other", "--email", "x")


def test_a_user_gets_a_link(ok, conn):
    made = ok("user", "add", "--email", "dora@acme.example", "--customer", "Acme", "--role", "manager")
    token = made["link"].rpartition("/enrol/")[2]
    user = authentication.get_user_by_enrolment_link(conn, token)
    assert (user.email, user.role, user.enrolled) == ("dora@acme.example", "manager", False)
    again = ok("user", "link", "dora@acme.example")["link"]
    assert again != made["link"]


def test_whoever_has_lost_the_key_starts_over_with_a_new_one(run_app, ok, refused, conn, data, cast):
    former_token = ok("user", "link", cast.bob.email)["link"].rpartition("/enrol/")[2]
    (data / "secret.key").write_text("ab" * 32)
    assert "another database" in refused("user", "link", cast.olga.email)
    assert "no operator" in refused("user", "link", cast.alice.email, "--new-key")
    assert "another database" in refused("account", "list")
    done = run_app("user", "link", cast.olga.email, "--new-key", "--json")
    assert done.returncode == 0
    others = conn.execute("SELECT count(*) FROM users WHERE totp_secret IS NOT NULL").fetchone()[0] - 1
    assert f"new link before they can log in: {others}. SMPP accounts that need a new password" in done.stderr
    assert "before they can bind: 3." in done.stderr
    with pytest.raises(authentication.InvalidEnrolmentLink):
        authentication.get_user_by_enrolment_link(conn, former_token)
    token = json.loads(done.stdout)["link"].rpartition("/enrol/")[2]
    user = authentication.get_user_by_enrolment_link(conn, token)
    assert (user.email, user.enrolled) == (cast.olga.email, False)
    # With the new key, whose authenticator the link shows.
    secret = two_factor.format_totp_secret(Keys.load(data), authentication.read_totp_secret(conn, user))
    assert authentication.enrol_by_link(
        conn, Keys.load(data), token, "correct horse battery", pyotp.TOTP(secret).now(), "127.0.0.1", ()
    )
    assert ok("password", "regenerate", "smpp-acme-1")["password"]
    # The others are named until they have their links.
    (problem,) = json.loads(run_app("check", "--json").stdout)["problems"]
    assert problem.endswith(f"doesn't open their secret: {others}")
    for each in ok("user", "list"):
        ok("user", "link", each["email"])
    assert json.loads(run_app("check", "--json").stdout)["ok"]


def test_a_key_that_is_found_again_gets_its_database_back(run_app, ok, refused, conn, data, cast):
    conn.execute("UPDATE users SET totp_secret = NULL WHERE email <> ?", (cast.olga.email,))
    key = (data / "secret.key").read_text()
    assert "leave --new-key out" in refused("user", "link", cast.olga.email, "--new-key")
    (data / "secret.key").write_text("ab" * 32)
    assert run_app("user", "link", cast.olga.email, "--new-key").returncode == 0
    (data / "secret.key").write_text(key)
    assert "another database" in refused("account", "list")
    assert "give the same command again" in run_app("user", "link", cast.olga.email, "--new-key").stderr
    assert ok("account", "list")


def test_a_link_ends_password_and_authenticator(ok, conn, cast):
    user = users.get_user_by_email(conn, cast.alice.email)
    before = authentication.read_totp_secret(conn, user)
    ok("user", "link", cast.alice.email)
    assert not users.get_user_by_email(conn, cast.alice.email).enrolled
    assert authentication.read_totp_secret(conn, user) != before


def test_a_secret_of_another_key_is_a_wrong_code(conn, cast):
    user = users.get_user_by_email(conn, cast.alice.email)
    assert not two_factor.verify_totp_code(conn, Keys(b"another key"), user.id, cast.alice.totp_code())


@pytest.mark.slow
def test_a_user_enrolled_at_once_can_log_in(ok, conn, keys):
    made = ok(
        "user", "add", "--email", "dora@acme.example", "--customer", "Acme", "--password-stdin", "--totp",
        stdin="correct horse battery\nnot this line\n",
    )  # fmt: skip
    assert made.keys() == {"email", "otpauth_uri", "recovery_codes"}
    assert len(made["recovery_codes"]) == 10
    user = authentication.check_login(conn, "dora@acme.example", "correct horse battery", Visitor("192.0.2.1"), 10)
    assert user.role == "owner"
    totp = pyotp.parse_uri(made["otpauth_uri"])
    assert isinstance(totp, pyotp.TOTP)
    assert two_factor.verify_totp_code(conn, keys, user.id, totp.now())


def test_users_that_are_refused_leave_nothing(ok, refused, conn):
    before = ok("user", "list")
    assert "at least 12" in refused(
        "user", "add", "--email", "x@acme.example", "--password-stdin", "--totp", stdin="short\n"
    )
    own = ("--email", "giovanna@initech.example", "--customer", "Acme")
    for password in ("giovanna@initech.example", "giovanna-acme-2026"):
        assert "too easy to guess" in refused("user", "add", *own, "--password-stdin", "--totp", stdin=f"{password}\n")
    assert "operator" in refused("user", "add", "--email", "x@acme.example", "--customer", "Acme", "--role", "operator")
    assert "no customer" in refused("user", "add", "--email", "x@acme.example", "--customer", "Initech")
    assert ok("user", "list") == before


def test_the_list_of_users(ok):
    by_email = {each["email"]: each for each in ok("user", "list")}
    assert by_email["bob@acme.example"] == {
        "email": "bob@acme.example",
        "role": "viewer",
        "customer": "Acme",
        "enrolled": True,
    }
    assert by_email["olga@portal.example"]["customer"] is None
    assert [each["email"] for each in ok("user", "list", "--customer", "Globex")] == ["charlie@globex.example"]
