"""The demo: everything that it prints is true."""

import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from portal import demo
from portal.core import clock, db
from portal.core import config as settings
from portal.demo import client
from portal.services.accounts import accounts, refused_binds, refused_messages
from portal.services.common import ids
from portal.services.messages import refusal_remedies
from portal.services.operations import self_check
from portal.services.people import authentication, two_factor
from portal.services.people.login_limits import Visitor
from portal.services.statistics import daily_totals
from tests.serving import clean_environment, is_server_ready, stop_process
from tests.support import ROOT, RunningServer, find_free_port, read_demo_text, read_demo_value, wait_until

pytestmark = pytest.mark.slow

APP = [sys.executable, str(ROOT / "app.py")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> settings.Config:
    """A demo as its first run makes it; nobody changes it."""
    folder = tmp_path_factory.mktemp("demo")
    config = settings.load_config(data=folder, env={})
    demo.create_demo(config)
    return config


@pytest.fixture
def demo_conn(made: settings.Config) -> Iterator[db.Connection]:
    conn = db.connect(made.database_file)
    yield conn
    conn.close()


@pytest.fixture
def ports() -> list[int]:
    """Those of the pages, of SMPP, and of SMPP over TLS."""
    return [find_free_port() for _ in range(3)]


@pytest.fixture
def environment(ports: list[int]) -> dict[str, str]:
    """That of `demo`, and of its client."""
    names = ("PORTAL_WEB_PORT", "PORTAL_SMPP_PORT", "PORTAL_SMPP_TLS_PORT")
    return clean_environment() | {name: str(port) for name, port in zip(names, ports, strict=True)}


@pytest.fixture
def start(
    tmp_path: Path, ports: list[int], environment: dict[str, str]
) -> Iterator[Callable[[], tuple[RunningServer, str]]]:
    """Starts `demo` in an empty folder; returns the server and what it prints once it is ready."""
    with ExitStack() as running:

        def run() -> tuple[RunningServer, str]:
            process = subprocess.Popen([*APP, "demo"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
            assert process.stdout
            running.enter_context(process.stdout)
            running.callback(stop_process, process)
            printed = ""
            while "Data  " not in printed:
                line = process.stdout.readline().decode()
                assert line, "it ended before it was ready"
                printed += line
            data = tmp_path / "data" / "demo"
            return RunningServer(f"http://127.0.0.1:{ports[0]}", ports[1], ports[2], data, process), printed

        yield run


def test_there_is_something_to_see(demo_conn):
    rows = {row["name"]: row for row in demo_conn.execute("SELECT id, name, balance FROM accounts")}
    assert rows.keys() == {"smpp-demo-1", "smpp-demo-2", "smpp-demo-live", "sms-demo-1", "smpp-globex-1"}
    assert all(row["balance"] > 0 for row in rows.values())
    totals = daily_totals.sum_daily_totals(demo_conn, rows["smpp-demo-1"]["id"], 28)
    assert totals.sent > 2000
    assert 0.9 < totals.delivered / totals.sent < 0.99
    days = daily_totals.list_daily_totals(demo_conn, rows["smpp-demo-1"]["id"], 28)
    assert sum(day.sent > 0 for _, day in days) >= 27
    assert not demo_conn.execute("SELECT 1 FROM messages WHERE state = 1 LIMIT 1").fetchone(), "nothing is left to send"


def test_what_was_refused_has_remedies_and_home_tells_of_the_last_day(demo_conn):
    account = accounts.get_account(demo_conn, "smpp-demo-1")
    since = clock.now_ms() - refused_binds.SHOWN_MS
    explained = refusal_remedies.list_explained_refusals(demo_conn, account, since)
    assert [(each.group.reason, each.remedy or each.ask_for) for each in explained if not each.is_resolved] == [
        (refused_binds.NOT_AUTHORISED, refusal_remedies.AUTHORISE),
        (refused_messages.SENDER, refusal_remedies.SEE_SENDER),
        (refused_messages.THROUGHPUT, "throughput"),
        (refused_messages.PRICE, "price"),
    ]
    weightiest = refusal_remedies.list_weightiest_refusals(demo_conn, account)
    assert [each.group.value for each in weightiest] == ["203.0.113.7", "ACMESHOP"]


def test_the_made_up_past_is_in_order(demo_conn):
    assert self_check.list_problem_texts(demo_conn) == []
    latest = demo_conn.execute("SELECT max(id) FROM messages").fetchone()[0]
    assert latest < ids.allocate_id(demo_conn, "messages")
    assert ids.time_from_id(latest) < clock.now_ms()


def test_its_logins_are_in_a_file_for_its_owner_only(made):
    for name in ("demo.json", "portal.db", "secret.key", "config.toml"):
        assert (made.data / name).stat().st_mode & 0o777 == 0o600
    assert not (made.data / ".making").exists()


def test_all_its_people_can_log_in(made, demo_conn, keys):
    logins = demo.load_logins(made)
    assert logins.totp_secrets.keys() == {"marta@acme.example", "bruno@acme.example", "olga@portal.example"}
    keys = type(keys).load(made.data)
    for email in logins.totp_secrets:
        user = authentication.check_login(demo_conn, email, logins.password, Visitor("192.0.2.1"), 10)
        assert two_factor.verify_totp_code(demo_conn, keys, user.id, logins.totp_code(email))


def test_a_demo_that_was_interrupted_is_made_anew(tmp_path):
    config = settings.load_config(data=tmp_path, env={})
    (tmp_path / ".making").mkdir()
    (tmp_path / ".making" / "portal.db").write_bytes(b"half")
    (tmp_path / "demo.json").write_text("{}")
    demo.create_demo(config)
    assert demo.load_logins(config).smpp_passwords.keys() == {
        "smpp-demo-1",
        "smpp-demo-2",
        "smpp-demo-live",
        "smpp-globex-1",
    }


def test_a_message_without_a_receipt_is_not_waited_for_without_end(config, cast, serve_alone):
    serve_alone("smsc")
    login = cast.smpp_acme_1
    *_, last = client.send_message(
        config.smpp, login.name, login.password, "+39 333 123 4006", "stays pending", timeout_s=1
    )
    assert last.startswith("no receipt within 1 s")


def test_what_it_prints_works(start, environment, tmp_path):
    server, printed = start()
    assert read_demo_value(printed, "Open") == server.url
    assert is_server_ready(server)
    assert re.fullmatch(r"[0-9]{6}", read_demo_value(printed, "TOTP code"))
    command = read_demo_text(r"^  Send +(.+)$", printed)
    sent = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)  # noqa: S602
    assert sent.stderr == ""
    assert sent.stdout.startswith("bound as smpp-demo-1\naccepted: message id ")
    assert "stat:DELIVRD" in sent.stdout
    receive = read_demo_text(r"^  Receive +(.+)$", printed).replace("Hello back", "Grüße 👋")
    said_then = subprocess.run(receive, shell=True, cwd=tmp_path, capture_output=True, text=True)  # noqa: S602
    assert said_then.stdout.startswith("For smpp-demo-1. It waits seven days")
    conn = server.connect()
    wait_until(lambda: conn.execute("SELECT count(*) FROM received").fetchone()[0])
    conn.close()
    sent = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)  # noqa: S602
    assert sent.stdout.endswith("\nmessage from 393401234567: Grüße 👋\n")
    next_code = read_demo_text(r"the next: (.+)$", printed)
    code = subprocess.run(next_code, shell=True, cwd=tmp_path, capture_output=True, text=True)  # noqa: S602
    assert re.fullmatch(r"[0-9]{6}\n", code.stdout)
    as_json = subprocess.run([*shlex.split(next_code), "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert re.fullmatch(r'\{"code": "[0-9]{6}"\}\n', as_json.stdout)


def test_its_client_sends_all_the_while_and_upstreams_take_over_from_each_other(
    start: Callable[[], tuple[RunningServer, str]], environment: dict[str, str], tmp_path: Path
) -> None:
    environment["LC_ALL"] = "it_IT.UTF-8"
    server, _ = start()

    def run(*words: str) -> None:
        subprocess.run([*APP, *words, "--data", server.data], check=True, capture_output=True)

    def list_lines(query: str) -> list[str]:
        return [row[0] for row in conn.execute(query)]

    # Those of its client.
    messages = "FROM messages JOIN accounts AS a ON a.id = messages.account_id AND a.name = 'smpp-demo-live'"
    receipts = "FROM deliveries JOIN accounts AS a ON a.id = account_id AND name = 'smpp-demo-live'"
    sessions = (
        "SELECT connections.id FROM connections JOIN accounts AS a ON a.id = account_id AND name = 'smpp-demo-live'"
    )
    with closing(server.connect()) as conn:
        first_session = wait_until(lambda: list_lines(sessions))
        # Some of its messages are on their way for half a minute.
        wait_until(lambda: list_lines(f"SELECT 1 {messages} WHERE upstream IS NOT NULL AND state > 1"), 60)
        wait_until(lambda: not list_lines(f"SELECT 1 {receipts}"))
        run("account", "disable", "smpp-demo-live")
        wait_until(lambda: not list_lines(sessions))
        count = len(list_lines(f"SELECT 1 {messages}"))
        run("account", "enable", "smpp-demo-live")
        assert wait_until(lambda: list_lines(sessions), 60) != first_session
        wait_until(lambda: len(list_lines(f"SELECT 1 {messages}")) > count)
        texts = list_lines("SELECT text FROM messages WHERE text <> ''")
        assert sum("pacco" in each for each in texts) > 1000
        assert not [each for each in texts if "parcel" in each.lower() or "thank" in each.lower()]
        assert list_lines("SELECT description FROM accounts WHERE name = 'smpp-demo-1'") == ["Avvisi sui pacchi"]

        def is_taken_by(name: str, number: str) -> bool:
            """Whether this upstream delivers a message."""
            command = [*APP, "demo", "--send", number, "Ciao"]
            said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
            assert "stat:DELIVRD" in said
            query = "SELECT name FROM messages JOIN upstreams ON upstreams.id = upstream WHERE text = 'Ciao'"
            return list_lines(f"{query} ORDER BY messages.id DESC")[0] == name

        for name, number, other in (("milano", "393401234567", "roma"), ("roma", "4915112345678", "milano")):
            assert is_taken_by(name, number)
            run("upstream", "disable", name)
            # The server takes it over within a second.
            wait_until(partial(is_taken_by, other, number))
            run("upstream", "enable", name)
            wait_until(partial(is_taken_by, name, number))
    assert stop_process(server.process) == 0


def test_what_an_earlier_version_has_made_up_has_no_client(tmp_path: Path) -> None:
    config = settings.load_config(data=tmp_path, env={})
    logins = {"password": "x", "totp_secrets": {}, "smpp_passwords": {"smpp-demo-1": "y"}}
    (tmp_path / "demo.json").write_text(json.dumps(logins))
    demo.start_client(config, "en")
    assert "demo client" not in [each.name for each in threading.enumerate()]


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "it_IT.UTF-8"}, "it"),
        ({"LANG": "it", "LC_ALL": "en_GB.UTF-8"}, "en"),
        ({"LANG": "en_US", "LC_ALL": "", "LC_MESSAGES": "it_CH@euro"}, "it"),
    ],
)
def test_it_is_in_the_language_of_the_shell(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], language: str
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert demo.read_shell_language() == language


def test_the_second_start_has_the_same_logins_and_what_happened_since(start, tmp_path):
    server, first = start()
    subprocess.run([*APP, "account", "disable", "smpp-demo-2", "--data", server.data], check=True, capture_output=True)
    assert stop_process(server.process) == 0
    server, second = start()
    for name in ("E-mail", "Password", "system_id", "password"):
        assert read_demo_value(first, name) == read_demo_value(second, name)
    shown = subprocess.run(
        [*APP, "account", "show", "smpp-demo-2", "--json", "--data", server.data], check=True, capture_output=True
    )
    assert json.loads(shown.stdout)["status"] == "ERROR"


def test_after_a_new_password_it_says_how_to_send(start, environment, tmp_path):
    server, _ = start()
    regenerate = [*APP, "password", "regenerate", "smpp-demo-1", "--json", "--data", server.data]
    made = json.loads(subprocess.run(regenerate, check=True, capture_output=True).stdout)

    def send(*arguments):
        command = [*APP, "demo", "--send", "393401234567", "Hello", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert "give the new one with --password" in send().stderr
    assert "stat:DELIVRD" in send("--password", made["password"]).stdout
    assert stop_process(server.process) == 0
    _, printed = start()
    assert read_demo_value(printed, "password") == "the"
    assert "--password PASSWORD --send" in printed


@pytest.mark.parametrize("arguments", [("--send", "393401234567", "Hello"), ("--code",)])
def test_without_a_demo_there_is_one_clear_line(tmp_path, arguments):
    done = subprocess.run([*APP, "demo", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_sending_while_it_does_not_run(made):
    done = subprocess.run(
        [*APP, "demo", "--data", made.data, "--send", "393401234567", "Hello"],
        env=clean_environment() | {"PORTAL_SMPP_PORT": str(find_free_port())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Is the demo running?" in done.stderr


def test_a_refusal_of_the_server_is_shown(start, environment, tmp_path):
    server, _ = start()
    done = subprocess.run(
        [*APP, "demo", "--send", "12", "Hello"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "SubmitSm: refused with ESME_RINVDSTADR\n"
    assert wait_until(lambda: is_server_ready(server))
