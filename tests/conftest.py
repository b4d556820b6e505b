"""The fixtures that all kinds of tests use. Tests share nothing: each has a data folder of its own."""

import asyncio
import gc
import inspect
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import hypothesis
import pytest

from portal import cli, migrations
from portal.core import config as settings
from portal.core import db, i18n
from portal.core.crypto import Keys
from portal.services.accounts import accounts, allowed_ips, credentials
from portal.services.common import audit, credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.services.operations import audit_log
from portal.services.people import authentication, customers, two_factor, users
from portal.services.prices import prices
from portal.services.senders import senders
from portal.smsc.server import get_event_loop_factory
from tests.serving import clean_environment, run_component, run_server
from tests.support import ROOT, AccountLogin, Cast, Person, RunningServer, copy_data_folder, sell_packs
from tests.support import find_free_port as a_free_port

# How long an example takes says nothing on a machine that does other things, too: a test of time measures it itself.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

_MARKS_OF_FOLDERS = {"e2e": pytest.mark.browser, "interop": pytest.mark.interop, "faults": pytest.mark.faults}
# What takes longest comes first, each group in the share of another worker: what waits for servers beside what needs a
# processor. What a group's tests share, a browser or the crawler's way, is made once then: workers that have nothing
# left to do take what is last in another's queue.
_FIRST = (("test_binary.py", "faults", "money", "interop"), ("e2e",), ("test_crawler.py",))
# They start the program as a process.
_SLOW_FIXTURES = {"serve", "serve_alone", "start_app"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is slow by its kind, so that no file can forget it: some folders, processes, and property tests.
    And puts what takes long first.
    """
    for item in items:
        folder = _get_folder(item)
        if folder in _MARKS_OF_FOLDERS:
            item.add_marker(_MARKS_OF_FOLDERS[folder])
        assert isinstance(item, pytest.Function)
        if _SLOW_FIXTURES & {*item.fixturenames} or getattr(item.obj, "is_hypothesis_test", False):
            item.add_marker(pytest.mark.slow)
    _arrange(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def pytest_collection_finish() -> None:
    """Has the garbage collector look at what tests make, as in the program, and not at the eight thousand tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def _get_folder(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT / "tests").parts[0]


def _arrange(items: list[pytest.Item], workers: int) -> None:
    """Puts what takes longest at the beginning of the workers' shares, as pytest-xdist is going to cut them off."""
    firsts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for number, names in enumerate(_FIRST):
        for name in names:
            firsts[number % workers] += [each for each in items if name in (_get_folder(each), each.path.name)]
    placed = {each for first in firsts for each in first}
    others = [each for each in items if each not in placed]
    left = len(items)
    arranged: list[pytest.Item] = []
    for number, first in enumerate(firsts):
        share = left // (workers - number)
        left -= share
        beside = max(share - len(first), 0)
        arranged += [*first, *others[:beside]]
        del others[:beside]
    items[:] = [*arranged, *others]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs `async def` tests on the event loop that the server uses."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    with asyncio.Runner(loop_factory=get_event_loop_factory()) as runner:
        runner.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(autouse=True)
def english() -> None:
    """Sets the language before each test: it is a variable of the thread, and all tests run in one thread."""
    i18n.use_language(i18n.DEFAULT_LANGUAGE)


@pytest.fixture(autouse=True)
def _every_action_has_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test fail that records an action which pages can't say in words."""
    insert_row = db.insert_row

    def insert_described_row(conn: sqlite3.Connection, table: str, **values: object) -> int:
        assert values["action"] in audit_log.ACTION_LABELS, f"ACTION_LABELS has no words for {values['action']}"
        return insert_row(conn, table, **values)

    monkeypatch.setattr(audit, "insert_row", insert_described_row)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cast]:
    """A data folder with all test data. It is created once, because enrolling takes 0.1 s each; tests get copies."""
    data = tmp_path_factory.mktemp("template")
    Keys.create(data)
    migrations.migrate(data / db.FILE_NAME)
    conn = db.connect(data / db.FILE_NAME)
    cast = _create_cast(conn, Keys.load(data))
    # Closing moves the content of the write-ahead log into the file, so that a copy of the folder is complete.
    conn.close()
    return data, cast


def _create_cast(conn: db.Connection, keys: Keys) -> Cast:
    prices.set_prices(conn, SHELL, prices.read_initial_prices())
    sell_packs(conn)
    acme = customers.create_customer(conn, SHELL, "Acme", "marta@acme.example")
    globex = customers.create_customer(conn, SHELL, "Globex", "hank@globex.example")
    smpp_acme_1 = _create_account(
        conn, keys, acme.id, "smpp-acme-1", 1000, sender="ACME", allowed_addresses=("127.0.0.1", "::1")
    )
    smpp_globex_1 = _create_account(
        conn, keys, globex.id, "smpp-globex-1", 500, sender="GLOBEX", allowed_addresses=("127.0.0.1", "::1")
    )
    return Cast(
        acme=acme.id,
        globex=globex.id,
        alice=_create_person(conn, keys, "alice@acme.example", users.OWNER, acme.id),
        bob=_create_person(conn, keys, "bob@acme.example", users.VIEWER, acme.id),
        charlie=_create_person(conn, keys, "charlie@globex.example", users.OWNER, globex.id),
        olga=_create_person(conn, keys, "olga@portal.example", users.OPERATOR, None),
        smpp_acme_1=smpp_acme_1,
        smpp_acme_2=_create_account(conn, keys, acme.id, "smpp-acme-2", 100),
        sms_acme_1=_create_account(conn, keys, acme.id, "sms-acme-1", 50),
        smpp_globex_1=smpp_globex_1,
    )


def _create_person(conn: db.Connection, keys: Keys, email: str, role: str, customer_id: int | None) -> Person:
    password = f"the long password of {email}"
    user = users.create_user(conn, keys, SHELL, email, role, customer_id)
    codes = authentication.enrol_user(conn, keys, SHELL, user, authentication.hash_new_password(password, ()))
    secret = two_factor.format_totp_secret(keys, authentication.read_totp_secret(conn, user))
    return Person(user.id, email, password, secret, tuple(codes))


def _create_account(
    conn: db.Connection,
    keys: Keys,
    customer_id: int,
    name: str,
    amount: int,
    *,
    sender: str = "",
    allowed_addresses: tuple[str, ...] = (),
) -> AccountLogin:
    account = accounts.create_account(conn, SHELL, customer_id, kind=name.partition("-")[0], name=name)
    credits.grant_credits(conn, SHELL, account, amount * credit_amounts.THOUSANDTHS)
    for address in allowed_addresses:
        allowed_ips.add_allowed_ip(conn, SHELL, account, address)
    if sender:
        senders.add_sender(conn, SHELL, account, sender)
        senders.decide_sender(conn, SHELL, account, sender, approve=True)
    smpp = account.kind == "smpp"
    password = credentials.regenerate_smpp_password(conn, keys, SHELL, account, send_mail=False) if smpp else ""
    return AccountLogin(account.id, name, password)


@pytest.fixture
def cast(template: tuple[Path, Cast]) -> Cast:
    """The test data in the data folder: users and accounts, with their passwords and secrets."""
    return template[1]


@pytest.fixture
def data(template: tuple[Path, Cast], tmp_path: Path) -> Path:
    """A data folder of this test's own: database, key, and settings with free ports."""
    return copy_data_folder(template[0], tmp_path / "data")


@pytest.fixture
def config(data: Path) -> settings.Config:
    return settings.load_config(data=data, env={})


@pytest.fixture
def keys(data: Path) -> Keys:
    return Keys.load(data)


@pytest.fixture
def connect(data: Path) -> Iterator[Callable[[], db.Connection]]:
    """Opens connections to the test's database, for tests that need several; all are closed at the end."""
    opened: list[db.Connection] = []

    def open_connection() -> db.Connection:
        opened.append(db.connect(data / db.FILE_NAME))
        return opened[-1]

    yield open_connection
    for each in opened:
        each.close()


@pytest.fixture
def conn(connect: Callable[[], db.Connection]) -> db.Connection:
    """The test's database."""
    return connect()


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Finds a TCP port that nobody listens on."""
    return a_free_port


@pytest.fixture
def run_app(data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `app.py COMMAND --data …` in this process.

    To start another process would take ten times as long as most commands, and there are hundreds.
    """

    def run_command(*args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        words = [*map(str, args), "--data", str(data)]
        with monkeypatch.context() as patch, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            patch.setattr(sys, "argv", ["app.py", *words])
            # This process has other tests to run after a command that leaves the processor to others (check --record).
            patch.setattr(os, "nice", lambda _: 0)
            patch.setattr(
                sys, "stdin", TextIOWrapper(BytesIO(stdin.encode(errors="surrogateescape")), encoding="utf-8")
            )
            for name in os.environ.keys() - clean_environment().keys():
                patch.delenv(name)
            try:
                status = cli.main(words)
            except SystemExit as exit_request:
                assert isinstance(exit_request.code, int)
                status = exit_request.code
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    return run_command


@pytest.fixture
def serve(config: settings.Config) -> Iterator[Callable[..., RunningServer]]:
    """Starts the real program on the test's data folder, and waits until it is ready."""
    with ExitStack() as running:
        yield lambda *args, **environment: running.enter_context(run_server(config, *args, **environment))


@pytest.fixture
def serve_alone(config: settings.Config) -> Iterator[Callable[..., RunningServer]]:
    """Starts one half of the program, `web` or `smsc`, for tests that need nothing of the other."""
    with ExitStack() as running:
        yield lambda name, **environment: running.enter_context(run_component(config, name, **environment))


@pytest.fixture
def server(serve: Callable[..., RunningServer]) -> RunningServer:
    """The real program, running on the test's data folder."""
    return serve()
