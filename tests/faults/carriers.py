"""Upstreams of the program under test, which can tell what they were given: a carrier that behaves badly, and another
instance of the program.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from portal.core import db
from portal.core.config import load_config
from portal.services.common.message_states import DELIVERED, UNDELIVERABLE
from tests.interop.driven import DrivenProgram, Event, run_program
from tests.serving import run_server
from tests.support import AccountLogin, RunningServer, copy_data_folder, find_free_port, wait_until

_NODE_CARRIER = ("node", str(Path(__file__).parent.parent / "interop" / "node" / "carrier.js"))
PASSWORD = "sesame"


@dataclass(frozen=True, slots=True)
class Copy:
    """A submit_sm as the upstream got it.

    `status`: what it decided, None where it did nothing. `is_answered`: that this was written. `outcome`: what became
    of the message where it was accepted. `came_at`: microseconds, of a clock that all upstreams have; 0: not known.
    """

    text: str
    status: int | None
    is_answered: bool
    outcome: int
    came_at: int = 0


class Upstream(Protocol):
    port: int
    login: AccountLogin

    def list_copies(self) -> list[Copy]:
        """All submits in their order."""


class Carrier(DrivenProgram):
    """The server of the npm package `smpp`, which takes all messages and sends their receipts, unless told otherwise.

    A destination that ends in 3 is refused with ESME_RINVDSTADR; what is to one that ends in 7 is not delivered. What
    it has accepted has its receipt in the end, whatever becomes of connections in between.
    """

    port: int
    login = AccountLogin(0, "portal", PASSWORD)

    def request(self, do: str, **values: object) -> Event:
        number = next(self._numbers)
        self.write_json({"n": number, "do": do, **values})
        done = self.wait_for_event("done", n=number)
        self.events.remove(done)
        return done

    def behave(self, **conduct: object) -> None:
        """Change its behaviour from now on. What isn't named stays as it is.

        Args:
            password: what a bind has to have.
            bind_status: what binds are refused with; 0: they are accepted.
            silent: "binds", "submits": what it doesn't answer; "": it answers all.
            statuses: what submits are refused with, by turns; []: they are accepted.
            temporary: each destination that ends in 25 is refused with ESME_RX_T_APPN once.
            reverse: so many submits are answered together, the last one first; 0: each at once.
            late_every, late_ms: how many milliseconds later each so manieth is answered.
            twice_every: each so manieth is answered twice.
            unknown_every: after each so manieth come answers with unknown sequence numbers.
            receipt_first: receipts come before the answers, either at once or much earlier.
            receipt_twice_every: each so manieth message has two final receipts, and intermediate ones before and after.
            receipt_unknown_every: with each so manieth comes a receipt for an id that it has given to none.
            receipt_ids: "decimal", "stripped" (of the zeros in front), "capitals": how the ids, which are hexadecimal,
                stand in receipts; "": as it has given them.
            close_after: the connection ends in the middle of the answer to so manieth submit; 0: it stays.
        """
        self.request("behave", conduct=conduct)

    def cut(self) -> None:
        """Close all connections."""
        self.request("cut")

    def leave(self) -> None:
        """Close all connections, and accept no more."""
        self.request("leave")

    def come_back(self) -> None:
        self.request("return")

    def freeze(self) -> None:
        """Do nothing any more, not even close connections; they are accepted by the kernel."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def write(self, octets: bytes) -> None:
        """Write these on all connections."""
        self.request("write", octets=octets.hex())

    def count(self) -> dict[str, int]:
        """What it has counted: submits, receipts, unknown_receipts, unknown_answers, repeated_answers, closed."""
        return {name: value for name, value in self.request("count").items() if isinstance(value, int)}

    def wait_for_submits(self, submits: int, deadline_s: float) -> None:
        """Wait until it has got so many in all."""
        wait_until(lambda: self.count()["submits"] >= submits, deadline_s)

    def wait_for_events(self, event: str, count: int, deadline_s: float, **values: object) -> None:
        """Wait until it has told so many events of that name with those values in all."""
        wait_until(lambda: len(self.find_events(event, **values)) >= count, deadline_s)

    def list_copies(self) -> list[Copy]:
        return [
            Copy(
                text,
                None if status < 0 else status,
                answered,
                UNDELIVERABLE if destination.endswith("7") else DELIVERED,
                came_at,
            )
            for text, destination, _, status, answered, came_at in self.request("list")["submits"]
        ]


@contextmanager
def run_carrier() -> Iterator[Carrier]:
    port = find_free_port()
    with run_program((*_NODE_CARRIER, str(port)), Carrier) as carrier:
        carrier.port = port
        carrier.wait_for_event("listening")
        carrier.behave(password=PASSWORD)
        yield carrier


@dataclass
class SecondInstance:
    """The program as its own upstream: its simulator decides what becomes of messages."""

    server: RunningServer
    login: AccountLogin
    port: int = field(init=False)

    def __post_init__(self) -> None:
        self.port = self.server.port

    def list_copies(self) -> list[Copy]:
        conn = db.connect(self.server.data / db.FILE_NAME)
        rows = conn.execute("SELECT text, state FROM messages ORDER BY id").fetchall()
        conn.close()
        return [Copy(text, 0, True, state) for text, state in rows]


@contextmanager
def run_second_instance(template: Path, folder: Path, login: AccountLogin) -> Iterator[SecondInstance]:
    """Run it on a copy of a data folder, with an account that is there."""
    config = load_config(data=copy_data_folder(template, folder), env={})
    with run_server(config) as server:
        yield SecondInstance(server, login)
