"""The fixtures that tests of every kind use. Nothing is shared between two tests: each has a data folder of its own."""

import asyncio
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest

from portal import cli, migrations
from portal.core import config as settings
from portal.core import db, i18n
from portal.core.crypto import Keys
from portal.services.accounts import accounts, allowed_ips, credentials
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.services.people import customers, enrolment, password_hashing, two_factor, users
from portal.services.prices import prices
from portal.services.senders import senders
from portal.smsc.server import loop_factory
from tests.serving import clean_environment, serving
from tests.support import Cast, Login, Person, Server, a_copy
from tests.support import free_port as a_free_port


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs `async def` tests on the event loop that the server uses."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(autouse=True)
def english() -> None:
    """The language is a variable of the thread, and all tests of a process run in one."""
    i18n.use_language(i18n.DEFAULT_LANGUAGE)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cast]:
    """A data folder with the whole cast. Made once, because enrolling takes 0.1 s each; tests get copies."""
    data = tmp_path_factory.mktemp("template")
    Keys.create(data)
    migrations.migrate(data / db.FILE_NAME, keep_backups=0)
    conn = db.connect(data / db.FILE_NAME)
    cast = _enter(conn, Keys.load(data))
    # Closing brings the write-ahead log into the file, so that the copy of the folder is whole.
    conn.close()
    return data, cast


def _enter(conn: db.Connection, keys: Keys) -> Cast:
    prices.put(conn, SHELL, prices.starting())
    acme = customers.add(conn, SHELL, "Acme", "marta@acme.example")
    globex = customers.add(conn, SHELL, "Globex", "hank@globex.example")
    smpp_acme_1 = _account(conn, keys, acme.id, "smpp-acme-1", 1000, sender="ACME", bound_from=("127.0.0.1", "::1"))
    smpp_globex_1 = _account(
        conn, keys, globex.id, "smpp-globex-1", 500, sender="GLOBEX", bound_from=("127.0.0.1", "::1")
    )
    return Cast(
        acme=acme.id,
        globex=globex.id,
        alice=_person(conn, keys, "alice@acme.example", users.OWNER, acme.id),
        bob=_person(conn, keys, "bob@acme.example", users.VIEWER, acme.id),
        charlie=_person(conn, keys, "charlie@globex.example", users.OWNER, globex.id),
        olga=_person(conn, keys, "olga@portal.example", users.OPERATOR, None),
        smpp_acme_1=smpp_acme_1,
        smpp_acme_2=_account(conn, keys, acme.id, "smpp-acme-2", 100),
        sms_acme_1=_account(conn, keys, acme.id, "sms-acme-1", 50),
        smpp_globex_1=smpp_globex_1,
    )


def _person(conn: db.Connection, keys: Keys, email: str, role: str, customer_id: int | None) -> Person:
    password = f"the long password of {email}"
    user = users.add(conn, keys, SHELL, email, role, customer_id)
    codes = enrolment.enrol_at_once(conn, SHELL, user, password_hashing.hash_password(password))
    secret = two_factor.secret_text(keys, enrolment.totp_secret(conn, user))
    return Person(user.id, email, password, secret, tuple(codes))


def _account(
    conn: db.Connection,
    keys: Keys,
    customer_id: int,
    name: str,
    amount: int,
    *,
    sender: str = "",
    bound_from: tuple[str, ...] = (),
) -> Login:
    account = accounts.add(conn, SHELL, customer_id, kind=name.partition("-")[0], name=name)
    credits.grant(conn, SHELL, account, amount * credit_amounts.THOUSANDTHS)
    for address in bound_from:
        allowed_ips.add(conn, SHELL, account, address)
    if sender:
        senders.add(conn, SHELL, account, sender)
        senders.decide(conn, SHELL, account, sender, approve=True)
    smpp = account.kind == "smpp"
    password = credentials.regenerate(conn, keys, SHELL, account, send_mail=False) if smpp else ""
    return Login(account.id, name, password)


@pytest.fixture
def cast(template: tuple[Path, Cast]) -> Cast:
    """Who is in the data folder: people with their passwords and codes, accounts with theirs."""
    return template[1]


@pytest.fixture
def data(template: tuple[Path, Cast], tmp_path: Path) -> Path:
    """A data folder of this test's own: database, key, and settings with free ports."""
    return a_copy(template[0], tmp_path / "data")


@pytest.fixture
def config(data: Path) -> settings.Config:
    return settings.load(data=data, env={})


@pytest.fixture
def keys(data: Path) -> Keys:
    return Keys.load(data)


@pytest.fixture
def connect(data: Path) -> Iterator[Callable[[], db.Connection]]:
    """Opens connections to the test's database, for tests that need several; all are closed at the end."""
    opened: list[db.Connection] = []

    def open_one() -> db.Connection:
        opened.append(db.connect(data / db.FILE_NAME))
        return opened[-1]

    yield open_one
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
    """Runs `app.py COMMAND --data …` to its end.

    In this process: to start one of its own takes ten times as long as most commands, and there are hundreds.
    """

    def run(*args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        words = [*map(str, args), "--data", str(data)]
        with monkeypatch.context() as patch, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            patch.setattr(sys, "argv", ["app.py", *words])
            patch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin.encode()), encoding="utf-8"))
            for name in os.environ.keys() - clean_environment().keys():
                patch.delenv(name)
            try:
                status = cli.main(words)
            except SystemExit as wrong_usage:
                assert isinstance(wrong_usage.code, int)
                status = wrong_usage.code
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def serve(config: settings.Config) -> Iterator[Callable[..., Server]]:
    """Starts the real program on the test's data folder, and waits until it is ready."""
    with ExitStack() as running:
        yield lambda *args, **environment: running.enter_context(serving(config, *args, **environment))


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """The real program, running with the cast's data folder."""
    return serve()
