"""Helpers of the tests that are no fixtures: test data, free ports, waiting for a condition."""

import dataclasses
import itertools
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import pyotp

from portal.core import clock, db
from portal.core.clock import now_ms
from portal.core.config import FILE_NAME
from portal.core.crypto import hash_token
from portal.core.db import Connection
from portal.services.accounts import refusals, refused_binds
from portal.services.accounts.refusals import RefusalGroup, RefusalKey
from portal.services.history import history
from portal.services.history.history import SentMessage
from portal.services.messages import smpp_config, validation
from portal.services.messages.smpp_config import AccountConfig
from portal.services.messages.validation import SubmittedMessage
from portal.services.prices import prices
from portal.services.prices.prices import PriceList
from portal.smsc.protocol.pdu import SubmitSm

PACK_PRICES = {100: 700, 200: 1360, 250: 1650, 500: 3150, 1000: 6000, 5000: 28500, 10000: 54000}
"""What an installation of the tests sells: EUR cents by credits."""
ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 10.0
TOTP_STEP_S = 30

T = TypeVar("T")


@dataclass(frozen=True)
class Person:
    """A user who can log in."""

    id: int
    email: str
    password: str
    totp_secret: str
    recovery_codes: tuple[str, ...]

    def totp_code(self, step: int = 0) -> str:
        """A TOTP code. Each is valid once: a second login of the same person within a test needs `step=1`."""
        return pyotp.TOTP(self.totp_secret).at(int(time.time()) + step * TOTP_STEP_S)


@dataclass(frozen=True)
class AccountLogin:
    """An account and its SMPP password ("" for a classic one)."""

    id: int
    name: str
    password: str


@dataclass(frozen=True)
class Cast:
    """The test data: two customers, Acme and Globex, with their users and accounts, and an operator.

    | account | IPs | credits | senders |
    | --- | --- | --- | --- |
    | smpp_acme_1 | 127.0.0.1, ::1 | 1000 | ACME |
    | smpp_acme_2 | none: `WAITING_IP` | 100 | none |
    | sms_acme_1 | classic | 50 | none |
    | smpp_globex_1 | 127.0.0.1, ::1 | 500 | GLOBEX |
    """

    acme: int
    globex: int
    alice: Person  # owner at Acme
    bob: Person  # viewer at Acme
    charlie: Person  # owner at Globex
    olga: Person  # operator
    smpp_acme_1: AccountLogin
    smpp_acme_2: AccountLogin
    sms_acme_1: AccountLogin
    smpp_globex_1: AccountLogin


@dataclass(frozen=True)
class RunningServer:
    """The running program."""

    url: str
    port: int
    tls_port: int
    data: Path
    process: subprocess.Popen[bytes]

    def connect(self) -> db.Connection:
        return db.connect(self.data / db.FILE_NAME)


def store_as_older_versions(conn: db.Connection, user_id: int, codes: Sequence[str]) -> None:
    """Make these the user's recovery codes, stored as SHA-256 (`codes` without the hyphen)."""
    conn.execute("DELETE FROM recovery_codes WHERE user_id = ?", (user_id,))
    rows = [(user_id, hash_token(code)) for code in codes]
    conn.executemany("INSERT INTO recovery_codes (user_id, code_hash) VALUES (?, ?)", rows)


def prepare_submit(conn: db.Connection, account_id: int, body: bytes = b"hello", **overrides: Any) -> SubmittedMessage:
    """A submit of an account, from ACME to a number in Italy.

    Args:
        overrides: arguments of `validate_submit`, or fields of the submit_sm, that differ from that.
    """
    account, current_price_list = _load_rules(conn, account_id)
    return validate_submit(account, overrides.pop("price_list", None) or current_price_list, body, **overrides)


_RULES_LIFE_MS = 100
_loaded_rules: WeakKeyDictionary[sqlite3.Connection, tuple[tuple[int, ...], int, AccountConfig, PriceList]] = (
    WeakKeyDictionary()
)


def _load_rules(conn: db.Connection, account_id: int) -> tuple[AccountConfig, PriceList]:
    """The account, and what it pays now. Submits that are prepared in a row share them: reading takes a millisecond."""
    now = clock.now_ms()
    state = (account_id, conn.total_changes, *conn.execute("PRAGMA data_version").fetchone())
    if not conn.in_transaction and (found := _loaded_rules.get(conn)):
        known_state, loaded_at, account, price_list = found
        if known_state == state and 0 <= now - loaded_at < _RULES_LIFE_MS:
            return account, price_list
    price_list = prices.load_account_price_list(conn, account_id, now)
    (account,) = smpp_config.load_account_configs(conn, account_id=account_id)
    _loaded_rules[conn] = (state, now, account, price_list)
    return account, price_list


def validate_submit(account: AccountConfig, price_list: PriceList, body: bytes, **overrides: Any) -> SubmittedMessage:
    """`validation.validate_submit` of a submit_sm from ACME to Italy; `overrides` as in `prepare_submit`."""
    fields: dict[str, Any] = {
        "source": "ACME",
        "source_ton": 5,
        "destination": "393401234567",
        "registered_delivery": 1,
        "short_message": body,
    }
    names = {each.name for each in dataclasses.fields(SubmitSm)}
    fields |= {name: overrides.pop(name) for name in names & overrides.keys()}
    return validation.validate_submit(account, price_list, SubmitSm(sequence=0, **fields), **overrides)


def list_submitted(conn: db.Connection, account_id: int, limit: int = -1) -> list[SentMessage]:
    """An account's messages as they were submitted, each segment of a text separately, newest first."""
    rows = conn.execute(
        f"SELECT {history.MESSAGE_COLUMNS} FROM messages WHERE account_id = ? ORDER BY id DESC LIMIT ?",
        (account_id, limit),
    )
    return [SentMessage(*row) for row in rows]


def sell_packs(conn: db.Connection) -> None:
    """Sell the packs of PACK_PRICES, as if they had always been sold: the audit log says nothing of it."""
    conn.executemany(
        "INSERT INTO packs VALUES (?, ?, 'EUR')", [(size * 1000, price) for size, price in PACK_PRICES.items()]
    )


def copy_data_folder(data: Path, to: Path) -> Path:
    """Copy a data folder, with free ports in its settings."""
    shutil.copytree(data, to)
    (to / FILE_NAME).write_text(
        f"[web]\nport = {find_free_port()}\n[smpp]\nport = {find_free_port()}\ntls_port = {find_free_port()}\n"
    )
    return to


def _iterate_ports() -> Iterator[int]:
    """Yield ports in random order, because several test runs may go on at the same time.

    They are below the range of the kernel's client ports, so that no outgoing connection gets one in between. Each
    process of pytest-xdist has its own, so that none takes the port of a server that is being restarted.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = list(range(10_000 + worker, 32_000, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
    random.shuffle(ports)
    return itertools.cycle(ports)


_PORTS = _iterate_ports()


def find_free_port() -> int:
    """Find a TCP port that nobody listens on, and that was not returned before."""
    while True:
        port = next(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def accepts_connections(port: int) -> bool:
    """Whether something listens on a TCP port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(
    condition: Callable[[], T | Literal[False] | None], deadline_s: float = DEADLINE_S, *, every_s: float = 0.01
) -> T:
    """Call `condition` until its result is true (or not empty), and return the result.

    Args:
        every_s: how long it rests between two calls; longer where a call takes much longer than a moment.

    Raises:
        AssertionError: it wasn't before the deadline; with the last result.
    """
    deadline = time.monotonic() + deadline_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still {result!r} after {deadline_s} s"
        Event().wait(every_s)
    return result


def read_demo_value(printed: str, name: str) -> str:
    """What stands after a name in what the demo prints at its start."""
    return read_demo_text(rf"^  {name} +(\S+)", printed)


def read_demo_text(pattern: str, printed: str) -> str:
    """What the group of a pattern, which is there, matches in what the demo prints."""
    found = re.search(pattern, printed, re.MULTILINE)
    assert found
    return found[1]


def record_refused_messages(
    conn: Connection, account_id: int, counts: Mapping[tuple[str, str], int], at: int | None = None
) -> None:
    """Count refused messages of an account by reason and value, now or at `at` (milliseconds)."""
    keyed = {RefusalKey(account_id, False, *key): count for key, count in counts.items()}
    refusals.record_refusals(conn, keyed, now_ms() if at is None else at)


def list_refused_binds(conn: Connection, account_id: int) -> list[RefusalGroup]:
    """An account's refused binds of the last seven days by address and reason, the latest first."""
    return refusals.list_refusals(conn, account_id, now_ms() - refused_binds.SHOWN_MS, is_bind=True)
