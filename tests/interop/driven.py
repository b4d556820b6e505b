"""Clients that are programs of their own: written for these tests as their libraries' users write them, and driven over
stdin and stdout, one JSON value a line.

A program gets its settings first: `host`, `port`, `ca` (a certificate to trust; "": no TLS), `system_id`, `password`,
`bind`. It binds, and again whenever its connection has ended. Then it gets messages to send: `n`, a number to know it
by, `text`, `to`, `source`, and `way`, which is one of those below. It sends what was throttled again.

It tells as `event`:

| event | with |
| --- | --- |
| `bind` | the `status` of the answer |
| `answer` | `n`, `status` and `id` (message_id) of a submit_sm_resp |
| `receipt` | what a receipt says: `esm_class`, `source`, `destination`, `text`, and its TLVs by their names |
| `unbind` | from the server |
| `error` | what the library calls one |
| `ended` | the library has given up |
"""

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.smpplib_esme import NUMBER
from tests.support import DEADLINE_S, AccountLogin

_HERE = Path(__file__).parent

AIOSMPPLIB = (sys.executable, str(_HERE / "aiosmpplib_esme.py"))
NODE_SMPP = ("node", str(_HERE / "node" / "esme.js"))

# How a text is sent: as short_message, in parts with a UDH or with sar_* parameters, or whole in a message_payload.
PLAIN, UDH, SAR, PAYLOAD = "plain", "udh", "sar", "payload"
# As it should not be sent: traps of Node's `smpp`, and of aiosmpplib.
CODING_BY_THE_PACKAGE = "data_coding by the package"
LATIN_1, SAR_BY_THE_LIBRARY = "latin 1", "sar by the library"

Event = Mapping[str, Any]
T = TypeVar("T")
Driven = TypeVar("Driven", bound="DrivenProgram")


class DrivenProgram:
    """A running program."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._events_changed = threading.Condition()
        self._has_ended = False
        self.events: list[Event] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for_event(self, event: str, **values: Any) -> Event:
        """Wait for the first event of that name with those values."""
        return self.wait_until(lambda: next(iter(self.find_events(event, **values)), None))

    def find_events(self, event: str, **values: Any) -> list[Event]:
        """The events of that name with those values, oldest first."""
        items = ({"event": event} | values).items()
        return [each for each in self.events if items <= each.items()]

    def wait_until(self, find: Callable[[], T | None]) -> T:
        """Look after each event until something is seen.

        Raises:
            AssertionError: nothing was before the deadline, or before the program ended; with all events.
        """
        results: list[T] = []

        def has_result() -> bool:
            results.extend(each for each in [find()] if each)
            return bool(results)

        with self._events_changed:
            self._events_changed.wait_for(lambda: has_result() or self._has_ended, DEADLINE_S)
            assert results, f"{'ended after' if self._has_ended else 'only'} {self.events}"
        return results[0]

    def write_json(self, value: Mapping[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def read_events(self) -> None:
        """Take in what the program tells until it ends."""
        assert self._process.stdout
        for line in self._process.stdout:
            with self._events_changed:
                self.events.append(json.loads(line))
                self._events_changed.notify_all()
        with self._events_changed:
            self._has_ended = True
            self._events_changed.notify_all()


class DrivenClient(DrivenProgram):
    """A running client."""

    def send(self, text: str, way: str = PLAIN, to: str = NUMBER, source: str = "ACME") -> int:
        """Have a text sent, with the wish for a receipt; return its number in the events."""
        number = next(self._numbers)
        self.write_json({"n": number, "text": text, "way": way, "to": to, "source": source})
        return number

    def wait_for_receipt(self, message_id: str) -> Event:
        return self.wait_for_event("receipt", receipted_message_id=message_id)


@contextmanager
def run_client(
    program: tuple[str, ...], login: AccountLogin, port: int, bind: str, ca: Path | None = None
) -> Iterator[DrivenClient]:
    """Run a client, one of the programs above."""
    with run_program(program, DrivenClient) as client:
        client.write_json(
            {
                "host": "127.0.0.1",
                "port": port,
                "ca": str(ca or ""),
                "system_id": login.name,
                "password": login.password,
                "bind": bind,
            }
        )
        yield client


@contextmanager
def run_program(program: tuple[str, ...], kind: type[Driven]) -> Iterator[Driven]:
    """Run a program that is driven; its stderr goes to the test's own output."""
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    driver = kind(process)
    reader = threading.Thread(target=driver.read_events)
    reader.start()
    try:
        yield driver
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        process.stdout.close()
