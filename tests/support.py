"""What tests share that is no fixture: the people and accounts of every story, free ports, waiting for something."""

import itertools
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import pyotp

from portal.core import clock, db
from portal.core.config import FILE_NAME
from portal.services.history import history
from portal.services.history.history import Message
from portal.services.messages import smpp_config, validation
from portal.services.messages.validation import Submit
from portal.services.prices import prices

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 10.0
STEP_S = 30

T = TypeVar("T")


@dataclass(frozen=True)
class Person:
    """Somebody who can log in."""

    id: int
    email: str
    password: str
    totp_secret: str
    recovery_codes: tuple[str, ...]

    def code(self, step: int = 0) -> str:
        """A TOTP code. Each is good once: a second login of the same person within a test takes `step=1`."""
        return pyotp.TOTP(self.totp_secret).at(int(time.time()) + step * STEP_S)


@dataclass(frozen=True)
class Login:
    """An account, and the password with which its clients bind ("" for a classic one)."""

    id: int
    name: str
    password: str


@dataclass(frozen=True)
class Cast:
    """Who is on stage: two customers, Acme and Globex, with people and accounts of theirs, and an operator.

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
    smpp_acme_1: Login
    smpp_acme_2: Login
    sms_acme_1: Login
    smpp_globex_1: Login


@dataclass(frozen=True)
class Server:
    """The running program."""

    url: str
    port: int
    tls_port: int
    data: Path
    process: subprocess.Popen[bytes]

    def connect(self) -> db.Connection:
        return db.connect(self.data / db.FILE_NAME)


def prepared(conn: db.Connection, account_id: int, body: bytes = b"hello", **said: Any) -> Submit:
    """A submit of an account, from ACME to a number in Italy, with what the test says differently.

    `said`: arguments of `messages.prepare`.
    """
    usual: dict[str, Any] = {
        "price_list": prices.of_account(conn, account_id, clock.now_ms()),
        "source": "ACME",
        "source_ton": 5,
        "source_npi": 0,
        "destination": "393401234567",
        "esm_class": 0,
        "data_coding": 0,
        "registered_delivery": 1,
    }
    account = next(each for each in smpp_config.load(conn) if each.id == account_id)
    return validation.prepare(account, body=body, **usual | said)


def submitted(conn: db.Connection, account_id: int, limit: int = -1) -> list[Message]:
    """An account's messages as they were submitted, each part of a text by itself, newest first."""
    rows = conn.execute(
        f"SELECT {history.COLUMNS} FROM messages WHERE account_id = ? ORDER BY id DESC LIMIT ?", (account_id, limit)
    )
    return [Message(*row) for row in rows]


def a_copy(data: Path, to: Path) -> Path:
    """Copy a data folder, with free ports in its settings."""
    shutil.copytree(data, to)
    (to / FILE_NAME).write_text(
        f"[web]\nport = {free_port()}\n[smpp]\nport = {free_port()}\ntls_port = {free_port()}\n"
    )
    return to


def _own_ports() -> Iterator[int]:
    """Ports to give, in random order, because several runs may go on at once.

    Below the range that the kernel takes client ports from, so that no outgoing connection gets one in between. Each
    process of pytest-xdist has its own, so that nobody takes the port of a server that is being restarted.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = list(range(10_000 + worker, 32_000, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
    random.shuffle(own)
    return itertools.cycle(own)


_PORTS = _own_ports()


def free_port() -> int:
    """A TCP port that nobody listens on, and that was not given before."""
    while True:
        port = next(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def eventually(look: Callable[[], T], deadline_s: float = DEADLINE_S) -> T:
    """Look until what is seen is true (or not empty), and return it.

    Raises:
        AssertionError: it wasn't before the deadline; with what was seen last.
    """
    ends = time.monotonic() + deadline_s
    while not (seen := look()):
        assert time.monotonic() < ends, f"still {seen!r} after {deadline_s} s"
        Event().wait(0.01)
    return seen
