"""The commands as users and scripts run them: their output, their exit status."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pyotp
import pytest

from portal.services.operations import daily_self_check
from portal.services.people import authentication, enrolment, two_factor
from tests.documents import PDF, png
from tests.support import ROOT, eventually
from tests.web import acting


@pytest.fixture
def ok(run_app):
    """Runs a command that must succeed; returns its JSON value."""

    def run(*args, stdin=""):
        done = run_app(*args, "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run


@pytest.fixture
def refused(run_app):
    """Runs a command that must be refused; returns its one line."""

    def run(*args, stdin=""):
        done = run_app(*args, stdin=stdin)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
        return done.stderr

    return run


@pytest.fixture
def app(tmp_path):
    """Runs a command without a data folder of the cast, in an empty folder."""

    def run(*args, **env):
        return subprocess.run(
            [sys.executable, ROOT / "app.py", *map(str, args)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            env={"PATH": os.environ["PATH"]} | env,
        )

    return run


# --- a fresh installation


def test_init_makes_everything_for_its_owner_only(app, tmp_path):
    done = app("init", "--email", "olga@portal.example", "--json", "--data", "here")
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
    assert app("check", "--data", "here").returncode == 0


def test_init_is_done_once(app):
    assert app("init", "--email", "olga@portal.example").returncode == 0
    again = app("init", "--email", "eve@portal.example")
    assert again.returncode == 1
    assert "already" in again.stderr


def test_init_that_was_refused_can_be_done_again(app):
    assert app("init", "--email", "nonsense").returncode == 1
    assert app("init", "--email", "olga@portal.example").returncode == 0


@pytest.mark.parametrize("command", [("serve",), ("web",), ("smsc",), ("account", "list"), ("check",), ("backup", "x")])
def test_without_an_installation_init_is_named(app, command):
    done = app(*command)
    assert done.returncode == 1
    assert "init --email" in done.stderr
    assert done.stderr.count("\n") == 1


# --- how commands are called


@pytest.mark.parametrize(
    "args", [(), ("nonsense",), ("account",), ("ip", "add", "smpp-acme-1"), ("customer", "add", "X")]
)
def test_wrong_usage_is_2(app, args):
    done = app(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr


@pytest.mark.parametrize("option", ["--totp", "--password-stdin"])
def test_half_of_what_belongs_together_is_wrong_usage(run_app, option):
    done = run_app("user", "add", "--email", "x@acme.example", option)
    assert done.returncode == 2
    assert "belong together" in done.stderr


@pytest.mark.parametrize("duration", ["15", "15x", "-15m", "m", "1.5h", "99999d"])
def test_a_duration_that_is_none_is_wrong_usage(run_app, duration):
    assert run_app("ip", "add", "smpp-acme-1", "203.0.113.7", f"--expires={duration}").returncode == 2


def test_options_may_stand_before_the_command_or_after_it(app, data, config):
    before = app("--json", "--data", data, "ip", "list", "smpp-acme-1")
    after = app("ip", "list", "smpp-acme-1", "--data", data, "--json")
    between = app("ip", "--data", data, "list", "--json", "smpp-acme-1")
    assert before.stdout == after.stdout == between.stdout != ""
    assert app("ip", "list", "smpp-acme-1", PORTAL_DATA=str(data)).returncode == 0


def test_settings_that_are_wrong_are_named_by_every_command(app, data):
    done = app("account", "list", "--data", data, PORTAL_SMPP_PORT="high")
    assert (done.returncode, done.stderr) == (1, "PORTAL_SMPP_PORT: 'high' must be a whole number\n")


def test_a_reader_that_has_seen_enough_is_no_error(data):
    command = f"{sys.executable} {ROOT / 'app.py'} config --data {data} | head -1"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""


# --- customers and users


def test_customers(ok, refused):
    added = {"name": "Initech", "email": "bill@initech.example", "language": "it"}
    assert ok("customer", "add", "Initech", "--email", "bill@initech.example", "--language", "it") == added
    assert added in ok("customer", "list")
    assert "already a customer" in refused("customer", "add", "initech", "--email", "x@y.example")
    assert "isn't an e-mail address" in refused("customer", "add", "Other", "--email", "x")


def test_a_user_gets_a_link(ok, conn):
    made = ok("user", "add", "--email", "dora@acme.example", "--customer", "Acme", "--role", "manager")
    token = made["link"].rpartition("/enrol/")[2]
    user = enrolment.of_link(conn, token)
    assert (user.email, user.role, user.enrolled) == ("dora@acme.example", "manager", False)
    again = ok("user", "link", "dora@acme.example")["link"]
    assert again != made["link"]


def test_a_user_enrolled_at_once_can_log_in(ok, conn, keys):
    made = ok(
        "user", "add", "--email", "dora@acme.example", "--customer", "Acme", "--password-stdin", "--totp",
        stdin="correct horse battery\nnot this line\n",
    )  # fmt: skip
    assert made.keys() == {"email", "otpauth_uri", "recovery_codes"}
    assert len(made["recovery_codes"]) == 10
    user = authentication.check_login(conn, "dora@acme.example", "correct horse battery", "192.0.2.1", 10)
    assert user.role == "owner"
    assert two_factor.accept(conn, keys, user.id, pyotp.parse_uri(made["otpauth_uri"]).now())


def test_users_that_are_refused_leave_nothing(ok, refused, conn):
    before = ok("user", "list")
    assert "at least 10" in refused(
        "user", "add", "--email", "x@acme.example", "--password-stdin", "--totp", stdin="short\n"
    )
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


# --- accounts


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


def test_a_classic_account_has_no_login(ok):
    made = ok("account", "add", "--customer", "Acme", "--kind", "sms")
    assert made["name"].startswith("sms-")
    assert (made["system_id"], made["password"]) == (None, None)
    assert ok("account", "add", "--customer", "Acme", "--name", "sms-two")["name"] == "sms-two"


def test_an_account_that_is_refused_is_not_there(ok, refused):
    assert "isn't an amount" in refused("account", "add", "--customer", "Acme", "--name", "smpp-x", "--credits", "many")
    assert "no account" in refused("account", "show", "smpp-x")


def test_accounts_are_listed_switched_off_and_on(ok):
    assert [each["name"] for each in ok("account", "list")][:2] == ["smpp-acme-1", "smpp-acme-2"]
    assert ok("account", "disable", "smpp-acme-1")["status"] == "ERROR"
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
    assert stored == [keys.smpp_digest(made["password"])]


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


def test_credits(ok, refused):
    assert ok("credits", "show", "smpp-acme-1") == {"account": "smpp-acme-1", "balance": 1000}
    assert ok("credits", "grant", "smpp-acme-1", "0.5") == {"account": "smpp-acme-1", "balance": 1000.5}
    assert ok("credits", "transfer", "smpp-acme-1", "sms-acme-1", "100") == {
        "from": {"account": "smpp-acme-1", "balance": 900.5},
        "to": {"account": "sms-acme-1", "balance": 150},
    }
    assert "don't cover" in refused("credits", "transfer", "smpp-acme-1", "sms-acme-1", "901")
    assert "same customer" in refused("credits", "transfer", "smpp-acme-1", "smpp-globex-1", "1")
    assert "isn't an amount" in refused("credits", "grant", "smpp-acme-1", "-5")


def test_credits_that_run_out(ok, refused, run_app):
    assert ok("credits", "grant", "smpp-acme-1", "50", "--until", "2060-12-31", "--note", "Welcome")["balance"] == 1050
    assert ok("credits", "show", "smpp-acme-1") == {
        "account": "smpp-acme-1",
        "balance": 1050,
        "expiring": [{"amount": 50, "expires_at": "2061-01-01T00:00:00Z"}],
    }
    assert "50 of them run out at 2061-01-01" in run_app("credits", "show", "smpp-acme-1").stdout
    assert "isn't a date" in refused("credits", "grant", "smpp-acme-1", "50", "--until", "31.12.2060")
    assert "today at the earliest" in refused("credits", "grant", "smpp-acme-1", "50", "--until", "2020-01-01")


def test_corrections_and_refunds(ok, refused, run_app):
    assert ok("credits", "correct", "smpp-acme-1", "-0.5", "--reason", "counted twice")["balance"] == 999.5
    assert ok("credits", "correct", "smpp-acme-1", "+0.5", "--reason", "it was right")["balance"] == 1000
    assert ok("credits", "refund", "smpp-acme-1", "10", "--reason", "Ticket 4711")["balance"] == 1010
    assert "don't cover" in refused("credits", "correct", "smpp-acme-1", "-1010.001", "--reason", "x")
    assert "Say why" in refused("credits", "refund", "smpp-acme-1", "10", "--reason", " ")
    for args in (
        ("correct", "smpp-acme-1", "5"),
        ("refund", "smpp-acme-1", "5"),
        ("refund", "smpp-acme-1", "--reason", "x"),
    ):
        assert run_app("credits", *args).returncode == 2
    assert ok("check")["ok"]


def test_what_a_message_cost_is_refunded(ok, refused, conn):
    message_id, other = acting.send(conn, "smpp-acme-1", "x" * 200, "hello")
    assert "on its way" in refused("credits", "refund", "smpp-acme-1", "--message", message_id, "--reason", "x")
    acting.deliver(conn, message_id, other)
    assert "cost 3" in refused("credits", "refund", "smpp-acme-1", "2", "--message", message_id, "--reason", "x")
    refund = ("credits", "refund", "smpp-acme-1", "--message", message_id, "--reason", "Route down")
    assert ok(*refund) == {"account": "smpp-acme-1", "balance": 999}
    assert "given back already" in refused(*refund)
    assert ok("credits", "refund", "smpp-acme-1", "1", "--message", other, "--reason", "x")["balance"] == 1000
    assert "isn't in the history" in refused("credits", "refund", "sms-acme-1", "--message", other, "--reason", "x")
    assert ok("check")["ok"]


def test_senders(ok, refused):
    added = ok("sender", "add", "smpp-acme-1", "SHOP", "--description", "Web shop")
    assert (added["sender"], added["status"]) == ("SHOP", "waitingValidation")
    assert ok("sender", "approve", "smpp-acme-1", "SHOP")["status"] == "enable"
    assert ok("sender", "refuse", "smpp-acme-1", "SHOP", "--comment", "no")["comment"] == "no"
    assert ok("sender", "add", "smpp-acme-1", "+393401234567", "--approve")["status"] == "enable"
    assert [each["sender"] for each in ok("sender", "list", "smpp-acme-1")] == ["393401234567", "SHOP", "ACME"]
    assert "isn't in the list" in refused("sender", "approve", "smpp-acme-1", "OTHER")


def test_a_sender_is_disabled_enabled_and_removed(ok, refused):
    assert ok("sender", "disable", "smpp-acme-1", "ACME")["status"] == "disable"
    assert ok("sender", "enable", "smpp-acme-1", "ACME")["status"] == "enable"
    ok("sender", "add", "smpp-acme-1", "SHOP")
    assert "has not been approved" in refused("sender", "enable", "smpp-acme-1", "SHOP")
    assert ok("sender", "remove", "smpp-acme-1", "SHOP")["sender"] == "SHOP"
    assert [each["sender"] for each in ok("sender", "list", "smpp-acme-1")] == ["ACME"]
    assert "isn't in the list" in refused("sender", "remove", "smpp-acme-1", "SHOP")


def test_a_sender_s_document(ok, refused, tmp_path, conn):
    paper, copy = tmp_path / "paper", tmp_path / "copy.pdf"
    paper.write_bytes(PDF)
    added = ok("sender", "add", "smpp-acme-1", "SHOP", "--reason", "Orders", "--document", paper)
    assert (added["document"], added["reason"]) == ("pdf", "Orders")
    assert ok("sender", "document", "smpp-acme-1", "SHOP", copy) == {"sender": "SHOP", "type": "pdf", "size": len(PDF)}
    assert copy.read_bytes() == PDF
    assert "File exists" in refused("sender", "document", "smpp-acme-1", "SHOP", copy)
    assert "has no document" in refused("sender", "document", "smpp-acme-1", "ACME", tmp_path / "other")
    paper.write_bytes(b"")
    assert "isn't a PDF" in refused("sender", "add", "smpp-acme-1", "NEWS", "--document", paper)
    assert "No such file" in refused("sender", "add", "smpp-acme-1", "NEWS", "--document", tmp_path / "none")


def test_decisions_in_the_shell_are_told_to_the_customer(ok, conn):
    def recipients():
        return [row[0] for row in conn.execute("SELECT recipient FROM mails ORDER BY id")]

    ok("sender", "add", "smpp-acme-1", "NEWS", "--approve")
    assert recipients() == [], "nobody has asked"
    ok("sender", "add", "smpp-acme-1", "SHOP")
    ok("sender", "refuse", "smpp-acme-1", "SHOP")
    assert recipients() == ["olga@portal.example", "marta@acme.example"]


def test_documents_are_in_the_backup(ok, run_app, data, tmp_path):
    paper, copy = tmp_path / "paper", tmp_path / "copy"
    paper.write_bytes(png(padding=400_000))
    ok("sender", "add", "smpp-acme-1", "SHOP", "--document", paper)
    assert run_app("backup", tmp_path / "backup.db").returncode == 0
    ok("sender", "remove", "smpp-acme-1", "SHOP")
    assert run_app("restore", tmp_path / "backup.db").returncode == 0
    ok("sender", "document", "smpp-acme-1", "SHOP", copy)
    assert copy.read_bytes() == paper.read_bytes()


@pytest.mark.parametrize(
    "command",
    [("customer", "list"), ("user", "list"), ("account", "list"), ("ip", "list", "smpp-acme-1"),
     ("ip", "list", "smpp-acme-2"), ("sender", "list", "smpp-acme-1"), ("sender", "list", "smpp-acme-2")],
)  # fmt: skip
def test_lists_for_people_are_aligned(run_app, command):
    head, *lines = run_app(*command).stdout.splitlines()
    starts = [found.start() for found in re.finditer(r"(?<!\S)\S+", head)]
    for line in lines:
        assert all(start == 0 or line[start - 2 : start].strip() == "" for start in starts)
        assert line == line.rstrip()


# --- settings


def test_config_prints_every_key_with_its_origin(ok, data, app):
    rows = {each["key"]: each for each in ok("config")}
    assert rows["data"]["value"] == str(data)
    assert rows["smpp.port"]["origin"] == str(data / "config.toml")
    assert rows["smpp.port"]["default"] == 2775
    assert rows["web.host"]["origin"] == "default"
    text = app("config", "--data", data, PORTAL_WEB_THREADS="3").stdout
    assert re.search(r"web\.threads +3 +8 +PORTAL_WEB_THREADS", text)


def test_config_tells_no_secrets(app, data):
    secrets = {"PORTAL_MAIL_URL": "smtp://portal:hunter2@mail.example:587", "PORTAL_WEB_METRICS_TOKEN": "t0ken"}
    secrets["PORTAL_PAYMENTS_SECRET"] = "a secret of more than thirty characters"
    for output in ((), ("--json",)):
        printed = app("config", "--data", data, *output, **secrets).stdout
        assert "mail.example:587" in printed
        assert "hunter2" not in printed
        assert "t0ken" not in printed
        assert "thirty" not in printed


# --- upkeep


def test_backup_and_restore(ok, refused, run_app, tmp_path):
    made = ok("backup", tmp_path / "copy.db")
    assert made == {"file": str(tmp_path / "copy.db"), "bytes": (tmp_path / "copy.db").stat().st_size}
    ok("credits", "grant", "smpp-acme-1", "5")
    assert "already there" in refused("backup", tmp_path / "copy.db")
    assert ok("restore", tmp_path / "copy.db")["replaced"]
    assert ok("credits", "show", "smpp-acme-1")["balance"] == 1000
    assert "no such file" in refused("restore", tmp_path / "missing.db")


def test_a_restore_without_the_key_says_so(app, run_app, tmp_path):
    run_app("backup", tmp_path / "copy.db")
    done = app("restore", tmp_path / "copy.db", "--data", tmp_path / "elsewhere")
    assert done.returncode == 0
    assert "secret.key is missing" in done.stderr


def test_check_says_what_is_off(run_app, conn):
    assert json.loads(run_app("check", "--json").stdout) == {"ok": True, "problems": []}
    conn.execute("UPDATE accounts SET balance = balance + 1000 WHERE name = 'smpp-acme-1'")
    done = run_app("check", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"]) == (1, False)
    assert found["problems"] == [
        "smpp-acme-1: the balance (accounts row 1) differs by 1 from what the ledger adds up to"
    ]
    assert done.stderr.count("\n") == 1
    assert "smpp-acme-1" in run_app("check").stdout


def test_a_check_that_is_recorded_is_kept_and_told(run_app, conn):
    assert json.loads(run_app("check", "--record", "--json").stdout) == {"ok": True, "problems": []}
    assert daily_self_check.last(conn).problems == []
    conn.execute("UPDATE accounts SET balance = balance + 1000 WHERE name = 'smpp-acme-1'")
    done = run_app("check", "--record", "--json")
    assert done.returncode == 1
    assert [str(each) for each in daily_self_check.last(conn).problems] == json.loads(done.stdout)["problems"]
    assert conn.execute("SELECT count(*) FROM mails").fetchone()[0] == 1


def test_a_check_keeps_nothing_and_changes_nothing(run_app, conn, data):
    before = {each.name for each in data.iterdir()}
    assert run_app("check").returncode == 0
    assert conn.execute("SELECT count(*) FROM checks").fetchone()[0] == 0
    assert {each.name for each in data.iterdir()} - before <= {"check.lock", "running.lock", "portal.migrate.lock"}


def test_a_supervised_check_ends_with_its_starter(data, conn):
    # Somebody else's check, which is writing its copy: this one waits for it.
    with (data / "check.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = [sys.executable, ROOT / "app.py", "check", "--record", "--supervised", "--data", data]
        with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
            eventually(lambda: os.getpriority(os.PRIO_PROCESS, process.pid) == 19)
            process.stdin.close()
            assert process.wait(10) == -signal.SIGTERM


def test_check_of_a_file_that_is_no_database(run_app, data, conn):
    conn.close()
    for left in ("-wal", "-shm"):
        (data / f"portal.db{left}").unlink(missing_ok=True)
    (data / "portal.db").write_bytes(b"not a database at all" * 1000)
    done = run_app("check", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"ok": False, "problems": ["file: file is not a database"]}


def test_a_newer_database_is_left_alone(refused, conn):
    conn.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('portal', 'm9999_x', '')")
    assert "newer version" in refused("account", "list")


def test_a_missing_key_is_named(refused, data):
    (data / "secret.key").unlink()
    assert "secret.key is missing" in refused("password", "regenerate", "smpp-acme-1")


@pytest.mark.parametrize("command", ["serve", "web", "smsc"])
def test_nothing_starts_without_the_key_of_its_database(refused, data, command):
    (data / "secret.key").write_text("ab" * 32)
    assert "secret.key belongs to another database" in refused(command)
    (data / "secret.key").unlink()
    assert "secret.key is missing" in refused(command)


def test_secrets_are_no_arguments(app):
    # What is typed as an argument stands in the process list and in the shell's history.
    for command in (("user", "add"), ("account", "add"), ("password", "regenerate"), ("init",)):
        options = set(re.findall(r"--[a-z-]+", app(*command, "--help").stdout))
        assert not {each for each in options if "password" in each or "secret" in each} - {"--password-stdin"}


# --- messages from handsets


def test_routes_are_added_listed_and_removed(ok, refused):
    added = ok("route", "add", "smpp-acme-1", "+48484", "--keyword", "info")
    assert added == {"number": "48484", "keyword": "INFO"}
    assert ok("route", "list", "smpp-acme-1") == [added]
    assert refused("route", "add", "smpp-globex-1", "48484", "--keyword", "INFO").startswith(
        "What is sent to 48484 INFO reaches smpp-acme-1 already."
    )
    assert refused("route", "remove", "smpp-acme-1", "48484") == "48484 isn't in the list.\n"
    assert ok("route", "remove", "smpp-acme-1", "48484", "--keyword", "info") == added
    assert ok("route", "list", "smpp-acme-1") == []


def test_a_blacklist_is_added_to_listed_and_taken_from(ok, refused):
    added = ok("blacklist", "add", "smpp-acme-1", "+393337654321")
    assert (added["number"], added["reason"]) == ("393337654321", "by hand")
    assert ok("blacklist", "list", "smpp-acme-1") == [added]
    assert ok("blacklist", "remove", "smpp-acme-1", "393337654321") == added
    assert refused("blacklist", "remove", "smpp-acme-1", "393337654321") == "393337654321 isn't on the blacklist.\n"


def test_a_blacklist_is_exported_and_imported(ok, refused, run_app, tmp_path):
    ok("blacklist", "add", "smpp-acme-1", "+393337654321")
    exported = run_app("blacklist", "export", "smpp-acme-1").stdout
    assert re.fullmatch(
        r"number;since;reason;added_by;message\n393337654321;\d{4}-\d\d-\d\dT[\d:]+Z;by hand;shell;\n", exported
    )
    file = tmp_path / "numbers.csv"
    file.write_text(exported + "+39 333 765 4322\n")
    counted = {"added": 2, "known": 0}
    assert ok("blacklist", "import", "smpp-acme-2", str(file), "--dry-run") == counted
    assert ok("blacklist", "list", "smpp-acme-2") == []
    assert ok("blacklist", "import", "smpp-acme-2", str(file)) == counted
    assert ok("blacklist", "import", "smpp-acme-2", str(file)) == {"added": 0, "known": 2}
    assert [each["number"] for each in ok("blacklist", "list", "smpp-acme-2")] == ["393337654321", "393337654322"]
    file.write_text("393337654323\nx\n")
    assert refused("blacklist", "import", "smpp-acme-2", str(file)) == (
        "Nothing was imported: 1 line can't be read."
        " Line 2: “x” is no phone number: digits with the country code first (393401234567).\n"
    )
    assert len(ok("blacklist", "list", "smpp-acme-2")) == 2


def test_a_message_from_a_handset_is_simulated(ok, refused, run_app):
    mo = ("simulate", "mo", "--from", "+393337654321", "--to", "48484")
    assert refused(*mo, "hello").startswith("What is sent to 48484 reaches no account.")
    ok("route", "add", "smpp-acme-1", "48484")
    assert ok(*mo, "hello") == {"accounts": ["smpp-acme-1"], "keyword": "", "stop": False, "running": False}
    said = run_app(*mo, "stop")
    assert said.returncode == 0
    assert "For smpp-acme-1." in said.stdout
    assert "+393337654321 goes on the blacklist of smpp-acme-1." in said.stdout
    assert "The SMPP server isn't running: it takes the message when it starts." in said.stdout


def test_a_simulated_message_is_taken_by_the_server_that_runs(ok, server):
    ok("route", "add", "smpp-acme-1", "48484")
    assert ok("simulate", "mo", "--from", "393337654321", "--to", "48484", "ARRET")["running"]
    conn = server.connect()
    assert eventually(lambda: [row[0] for row in conn.execute("SELECT text FROM received")]) == ["ARRET"]
    conn.close()
    assert [each["reason"] for each in ok("blacklist", "list", "smpp-acme-1")] == ["STOP"]
