"""A data folder with accounts that may send without limit, and the proof that nothing of theirs was lost."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from portal.core import db
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.accounts import accounts, allowed_ips, credentials
from portal.services.brakes import brakes
from portal.services.brakes.brakes import Brakes
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.smsc.protocol.constants import CommandStatus
from tests.faults.carriers import Carrier, Upstream, run_carrier
from tests.faults.crowd import WINDOW, ClientCrowd
from tests.faults.forwarding import DESTINATIONS, Forwarding, run_forwarding
from tests.serving import start_server
from tests.support import AccountLogin, Cast, RunningServer, copy_data_folder, wait_until

_GRANTED_CREDITS = 1_000_000 * credit_amounts.THOUSANDTHS
# Name to windowing, where 0 is no limit.
_ACCOUNTS = {"smpp-load-1": 0, "smpp-load-2": 0, "smpp-load-3": 0, "smpp-narrow": WINDOW}
# A machine with little time to spare does fewer: eight kills of each kind, and a tenth of what upstreams do. What is
# said as FAULT_ROUNDS is for both, of fifty; `python -m tests.faults` does the fifty.
_FULL_ROUNDS = 50
_GIVEN_ROUNDS = os.environ.get("FAULT_ROUNDS")
ROUNDS = int(_GIVEN_ROUNDS or 8)
_SHARED_ROUNDS = int(_GIVEN_ROUNDS or 5)

_RECEIPT_TIMEOUT_S = 60

ReportCounts = Callable[..., None]


def take_share(count: int, least: int = 1) -> int:
    """As much of a count as there is time for, and no less than `least`: all of it where fifty rounds are made."""
    return max(least, count * min(_SHARED_ROUNDS, _FULL_ROUNDS) // _FULL_ROUNDS)


@pytest.fixture(scope="session")
def crowded(template: tuple[Path, Cast], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[AccountLogin]]:
    """The cast's data folder with four accounts more."""
    data = copy_data_folder(template[0], tmp_path_factory.mktemp("crowded") / "data")
    conn, keys, logins = db.connect(data / db.FILE_NAME), Keys.load(data), []
    for name, windowing in _ACCOUNTS.items():
        account = accounts.create_account(
            conn, SHELL, template[1].acme, name=name, windowing=windowing, throughput=0, binds=0, any_sender=True
        )
        credits.grant_credits(conn, SHELL, account, _GRANTED_CREDITS)
        # Tests count mails, and how many of this kind there would be depends on how fast they are.
        brakes.set_brakes(conn, SHELL, account, Brakes(unusual=brakes.OFF))
        allowed_ips.add_allowed_ip(conn, SHELL, account, "127.0.0.1")
        password = credentials.regenerate_smpp_password(conn, keys, SHELL, account, send_mail=False)
        logins.append(AccountLogin(account.id, name, password))
    conn.close()
    return data, logins


@pytest.fixture
def logins(crowded: tuple[Path, list[AccountLogin]]) -> list[AccountLogin]:
    """Accounts with a million credits, and without limits that clients could meet."""
    return crowded[1][:-1]


@pytest.fixture
def narrow(crowded: tuple[Path, list[AccountLogin]]) -> AccountLogin:
    """Such an account whose submits are throttled beyond a window of ten."""
    return crowded[1][-1]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the test's data folder will be."""
    return tmp_path / "data"


@pytest.fixture
def data(crowded: tuple[Path, list[AccountLogin]], place: Path) -> Path:
    return copy_data_folder(crowded[0], place)


@pytest.fixture
def rounds() -> int:
    """How often a fault is to happen."""
    return ROUNDS


@pytest.fixture
def tell(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> ReportCounts:
    """Says what a test has counted: `pytest -s` shows it, and a report in XML holds it."""

    def report_counts(**counts: object) -> None:
        for name, value in counts.items():
            record_property(name, value)
        print(f"\n{request.node.name}: " + ", ".join(f"{name} {value}" for name, value in counts.items()))

    return report_counts


@pytest.fixture
def checked(run_app: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[[], None]:
    """Has `app.py check` prove that file, ledger, messages and totals agree."""

    def run_check() -> None:
        done = run_app("check", "--json")
        assert json.loads(done.stdout) == {"ok": True, "problems": []}, done.stderr
        assert done.returncode == 0

    return run_check


@pytest.fixture
def nothing_lost(
    data: Path, checked: Callable[[], None], logins: list[AccountLogin]
) -> Callable[[ClientCrowd], dict[str, int]]:
    """Proves that all answers to a crowd are true, and returns the counts: `nothing_lost(crowd)`."""

    def check_nothing_lost(crowd: ClientCrowd) -> dict[str, int]:
        crowd.stop_sending()
        checked()
        conn = db.connect(data / db.FILE_NAME)
        rows = conn.execute("SELECT id, text, price FROM messages").fetchall()
        balances = dict(conn.execute("SELECT id, balance FROM accounts").fetchall())
        conn.close()
        charged = [row for row in rows if row["price"]]
        stored = {row["id"]: row["text"] for row in charged}
        acknowledged = crowd.acknowledged_texts()
        assert {number: stored.get(number) for number in acknowledged} == acknowledged, "acknowledged, and not there"
        assert len(set(stored.values())) == len(stored), "a message is there twice"
        # One price for all of them, so that each one's debit can be counted.
        (price,) = {row["price"] for row in charged}
        debits = sum(_GRANTED_CREDITS - balances[each.id] for each in logins)
        assert debits == price * len(stored), "a message without its debit, or a debit without its message"
        refused = {
            text
            for each in crowd.clients
            for text, status in each.refused.items()
            if status == CommandStatus.ESME_RSYSERR
        }
        assert not refused & set(stored.values()), "refused, and stored"
        wait_until(lambda: not crowd.ids_without_receipt(), _RECEIPT_TIMEOUT_S)
        return {
            "acknowledged": len(acknowledged),
            "stored": len(stored),
            "debits": debits // price,
            "answers_lost": crowd.in_doubt,
            "receipts": sum(crowd.count_receipts().values()),
            "receipts_twice": sum(count > 1 for count in crowd.count_receipts().values()),
        }

    return check_nothing_lost


StartForwarding = Callable[..., AbstractContextManager[Forwarding]]


@pytest.fixture
def start_forwarding(
    config: Config,
    serve: Callable[..., RunningServer],
    run_app: Callable[..., subprocess.CompletedProcess[str]],
    data: Path,
    logins: list[AccountLogin],
) -> Iterator[StartForwarding]:
    """Has the accounts' messages forwarded to an upstream, under load: `start_forwarding(upstream)`.

    Where it is not supervised the SMPP server runs alone, which starts sooner. Other arguments by name are settings of
    the upstream.
    """
    with ExitStack() as running:

        def start_smsc() -> RunningServer:
            return running.enter_context(start_server(config, "smsc"))

        def run(
            upstream: Upstream,
            *,
            backlog: int = 100,
            is_supervised: bool = False,
            second: Upstream | None = None,
            destinations: int = DESTINATIONS,
            **settings: object,
        ) -> AbstractContextManager[Forwarding]:
            return run_forwarding(
                serve if is_supervised else start_smsc,
                run_app,
                data,
                logins,
                _GRANTED_CREDITS,
                upstream,
                backlog=backlog,
                is_supervised=is_supervised,
                second=second,
                destinations=destinations,
                **settings,
            )

        yield run


@pytest.fixture
def carrier() -> Iterator[Carrier]:
    """An upstream that behaves as it is told to."""
    with run_carrier() as running:
        yield running
