"""A data folder with accounts that may send without limit, and the proof that nothing of theirs was lost."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from portal.core import db
from portal.core.crypto import Keys
from portal.services.accounts import accounts, allowed_ips, credentials
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.smsc.protocol.constants import Status
from tests.faults.crowd import WINDOW, Crowd
from tests.support import Cast, Login, a_copy, eventually

_GRANTED = 1_000_000 * credit_amounts.THOUSANDTHS
# Name to windowing, where 0 is no limit.
_ACCOUNTS = {"smpp-load-1": 0, "smpp-load-2": 0, "smpp-load-3": 0, "smpp-narrow": WINDOW}
# A machine with little time to spare does fewer; `python -m tests.faults` does the fifty.
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "8"))

_RECEIPTS_S = 60

Tell = Callable[..., None]


@pytest.fixture(scope="session")
def crowded(template: tuple[Path, Cast], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Login]]:
    """The cast's data folder with four accounts more."""
    data = a_copy(template[0], tmp_path_factory.mktemp("crowded") / "data")
    conn, keys, logins = db.connect(data / db.FILE_NAME), Keys.load(data), []
    for name, windowing in _ACCOUNTS.items():
        account = accounts.add(
            conn, SHELL, template[1].acme, name=name, windowing=windowing, throughput=0, binds=0, any_sender=True
        )
        credits.grant(conn, SHELL, account, _GRANTED)
        allowed_ips.add(conn, SHELL, account, "127.0.0.1")
        password = credentials.regenerate(conn, keys, SHELL, account, send_mail=False)
        logins.append(Login(account.id, name, password))
    conn.close()
    return data, logins


@pytest.fixture
def logins(crowded: tuple[Path, list[Login]]) -> list[Login]:
    """Accounts with a million credits, and without limits that clients could meet."""
    return crowded[1][:-1]


@pytest.fixture
def narrow(crowded: tuple[Path, list[Login]]) -> Login:
    """Such an account whose submits are throttled beyond a window of ten."""
    return crowded[1][-1]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the test's data folder will be."""
    return tmp_path / "data"


@pytest.fixture
def data(crowded: tuple[Path, list[Login]], place: Path) -> Path:
    return a_copy(crowded[0], place)


@pytest.fixture
def rounds() -> int:
    """How often a fault is to happen."""
    return ROUNDS


@pytest.fixture
def tell(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> Tell:
    """Says what a test has counted: `pytest -s` shows it, and a report in XML holds it."""

    def say(**counts: object) -> None:
        for name, value in counts.items():
            record_property(name, value)
        print(f"\n{request.node.name}: " + ", ".join(f"{name} {value}" for name, value in counts.items()))

    return say


@pytest.fixture
def checked(run_app: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[[], None]:
    """Has `app.py check` prove that file, ledger, messages and totals agree."""

    def check() -> None:
        done = run_app("check", "--json")
        assert json.loads(done.stdout) == {"ok": True, "problems": []}, done.stderr
        assert done.returncode == 0

    return check


@pytest.fixture
def nothing_lost(data: Path, checked: Callable[[], None], logins: list[Login]) -> Callable[[Crowd], dict[str, int]]:
    """Proves that what a crowd was told is true, and returns what there is: `nothing_lost(crowd)`."""

    def prove(crowd: Crowd) -> dict[str, int]:
        crowd.stop_sending()
        checked()
        conn = db.connect(data / db.FILE_NAME)
        rows = conn.execute("SELECT id, text, price FROM messages").fetchall()
        balances = dict(conn.execute("SELECT id, balance FROM accounts").fetchall())
        conn.close()
        charged = [row for row in rows if row["price"]]
        stored = {row["id"]: row["text"] for row in charged}
        acknowledged = crowd.ids()
        assert {number: stored.get(number) for number in acknowledged} == acknowledged, "acknowledged, and not there"
        assert len(set(stored.values())) == len(stored), "a message is there twice"
        # One price for all of them, so that each one's debit can be counted.
        (price,) = {row["price"] for row in charged}
        debits = sum(_GRANTED - balances[each.id] for each in logins)
        assert debits == price * len(stored), "a message without its debit, or a debit without its message"
        refused = {
            text for each in crowd.clients for text, status in each.refused.items() if status == Status.ESME_RSYSERR
        }
        assert not refused & set(stored.values()), "refused, and stored"
        eventually(lambda: not crowd.without_receipt(), _RECEIPTS_S)
        return {
            "acknowledged": len(acknowledged),
            "stored": len(stored),
            "debits": debits // price,
            "answers_lost": crowd.in_doubt,
            "receipts": sum(crowd.receipts().values()),
            "receipts_twice": sum(count > 1 for count in crowd.receipts().values()),
        }

    return prove
