"""`account …`, `password …` and `ip …`, as users and scripts run them."""

import re
from datetime import UTC, datetime

import pytest


@pytest.mark.slow
def test_an_account_is_added_with_all_it_is_given(ok):
    made = ok(
        "account", "add", "--customer", "Acme", "--name", "smpp-new", "--credits", "12.5", "--windowing", "0",
        "--throughput", "100", "--binds", "3", "--any-sender",
    )  # fmt: skip
    assert made == {"name": "smpp-new", "system_id": "smpp-new", "password": made["password"]}
    assert re.fullmatch("[A-Za-z0-9]{8}", made["password"])
    assert ok("account", "show", "smpp-new") == {
        "name": "smpp-new",
        "kind": "smpp",
        "status": "WAITING_IP",
        "balance": 12.5,
        "windowing": 0,
        "throughput": 100,
        "binds": 3,
    }


@pytest.mark.slow
def test_a_classic_account_has_no_login(ok):
    made = ok("account", "add", "--customer", "Acme", "--kind", "sms")
    assert made["name"].startswith("sms-")
    assert (made["system_id"], made["password"]) == (None, None)
    assert ok("account", "add", "--customer", "Acme", "--name", "sms-two")["name"] == "sms-two"


def test_an_account_that_is_refused_is_not_there(ok, refused):
    assert "isn't an amount" in refused("account", "add", "--customer", "Acme", "--name", "smpp-x", "--credits", "many")
    assert "no account" in refused("account", "show", "smpp-x")


def test_accounts_are_listed_switched_off_and_on(ok, run_app):
    assert [each["name"] for each in ok("account", "list")][:2] == ["smpp-acme-1", "smpp-acme-2"]
    assert ok("account", "disable", "smpp-acme-1")["status"] == "ERROR"
    # Scripts get the code, people the word.
    assert re.search(r"^smpp-acme-1 .* Disabled ", run_app("account", "list").stdout, re.M)
    assert re.search(r"^status +Disabled$", run_app("account", "show", "smpp-acme-1").stdout, re.M)
    assert ok("account", "enable", "smpp-acme-1")["status"] == "UPDATING_IP"


def test_an_account_is_changed(ok, refused, run_app, conn):
    ok("account", "add", "--customer", "Acme", "--name", "smpp-new", "--data-coding", "3,4", "--packed-gsm")
    assert re.search(
        r"codings +GSM 03.38, packed; UCS-2; Latin-1; binary\n", run_app("account", "show", "smpp-new").stdout
    )
    assert ok("account", "change", "smpp-new", "--windowing", "0", "--no-packed-gsm")["windowing"] == 0
    changed = run_app("account", "change", "smpp-new", "--any-sender", "--data-coding", "1").stdout
    assert re.search(r"codings +GSM 03.38; UCS-2; ASCII\n", changed)
    row = conn.execute("SELECT windowing, throughput, any_sender, data_codings, packed_gsm FROM accounts").fetchall()[
        -1
    ]
    assert tuple(row) == (0, 20, 1, "1", 0)
    assert "data codings" in refused("account", "change", "smpp-new", "--data-coding", "8")
    assert run_app("account", "change", "smpp-new", "--data-coding", "latin").returncode == 2
    assert re.search(
        r"codings +GSM 03.38; UCS-2\n", run_app("account", "change", "smpp-new", "--data-coding", "none").stdout
    )


def test_what_national_numbers_mean_is_set(ok, refused, run_app):
    ok("account", "add", "--customer", "Acme", "--name", "smpp-new", "--national-numbers", "IT")
    assert re.search(r"national numbers +IT\n", run_app("account", "show", "smpp-new").stdout)
    changed = run_app("account", "change", "smpp-new", "--national-numbers", "refused").stdout
    assert re.search(r"national numbers +refused\n", changed)
    assert "such as IT" in refused("account", "change", "smpp-new", "--national-numbers", "Italy")
    assert re.search(r"national numbers +ignored\n", run_app("account", "show", "smpp-acme-1").stdout)


def test_limits_of_nothing_are_said_in_words(run_app):
    run_app("account", "add", "--customer", "Acme", "--name", "smpp-new", "--throughput", "0")
    assert re.search(r"throughput +no limit", run_app("account", "show", "smpp-new").stdout)


def test_a_password_is_printed_alone(run_app, ok, keys, conn):
    printed = run_app("password", "regenerate", "smpp-acme-1", "--grace", "15m").stdout
    assert re.fullmatch("[A-Za-z0-9]{8}\n", printed)
    made = ok("password", "regenerate", "smpp-acme-1")
    assert made.keys() == {"password"}
    stored = [
        row["digest"]
        for row in conn.execute("SELECT digest FROM smpp_passwords WHERE account_id = 1 AND replaced_at IS NULL")
    ]
    assert stored == [keys.digest_smpp_password(made["password"])]


def test_a_password_can_be_mailed_instead(run_app, ok, conn):
    done = run_app("password", "regenerate", "smpp-acme-1", "--mail")
    assert "marta@acme.example" in done.stdout
    assert ok("password", "regenerate", "smpp-acme-1", "--mail")["password"] is None
    assert conn.execute("SELECT count(*) FROM mails WHERE sent_at IS NULL").fetchone()[0] == 2


def test_a_grace_period_has_an_end(refused):
    assert "24 hours" in refused("password", "regenerate", "smpp-acme-1", "--grace", "25h")


def test_ips(ok, refused):
    added = ok("ip", "add", "smpp-acme-2", "203.0.113.0/24", "--label", "Office", "--expires", "8h")
    assert added.keys() == {"id", "network", "label", "expires_at"}
    ends = datetime.fromisoformat(added["expires_at"])
    assert abs((ends - datetime.now(UTC)).total_seconds() - 8 * 3600) < 60
    assert ok("ip", "list", "smpp-acme-2") == [added]
    assert "already in the list" in refused("ip", "add", "smpp-acme-2", "203.0.113.0/24")
    assert ok("ip", "remove", "smpp-acme-2", "203.0.113.0/24") == added
    assert ok("ip", "list", "smpp-acme-2") == []
    assert "isn't in the list" in refused("ip", "remove", "smpp-acme-2", "203.0.113.0/24")


@pytest.mark.parametrize("duration", ["15", "15x", "-15m", "m", "1.5h", "99999d"])
def test_a_duration_that_is_none_is_wrong_usage(run_app, duration):
    assert run_app("ip", "add", "smpp-acme-1", "203.0.113.7", f"--expires={duration}").returncode == 2
