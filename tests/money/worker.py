"""One of the processes that move credits, and may be killed at any moment; its journal survives it."""

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from portal.core import db
from portal.core.clock import now_ms
from tests.money import event_log
from tests.money.audit import Attempt
from tests.money.event_log import Pen
from tests.money.generators import Chance
from tests.money.operations import Operation, perform

STATEMENT, ANSWER, CLOCK = "before a statement", "before the answer was noted", "by the clock"
"""Where a process is killed: by itself at the first two, so that a seed brings it there again; by its parent."""


@dataclass(frozen=True, slots=True)
class Life:
    """What one process is to do: the `number`-th in a row that each go on where the one before was killed.

    It dies before its `dies_after`-th statement of SQL, or as its `dies_after`-th operation has been done; None: not by
    itself.
    """

    file: Path
    journal: Path
    seed: str
    slot: int
    number: int
    operations: int
    dies: str | None = None
    dies_after: int = 0


class Journal:
    """What a process was about to do, and what it was answered: each is on disk before it goes on."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        whole = file.read_bytes().rfind(b"\n") + 1
        os.ftruncate(self._file, whole)  # without half a line that a process has died over

    def intend(self, key: str, operation: Operation, since: int) -> None:
        self._write({"key": key, "operation": operation, "since": since})

    def answered(self, key: str, answer: object, until: int) -> None:
        self._write({"key": key, "answer": answer, "until": until, "at": now_ms()})

    def _write(self, line: dict[str, object]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")
        os.fsync(self._file)


def read(journal: Path) -> Iterator[tuple[str, Attempt]]:
    """Every attempt of a journal, in order."""
    attempts: dict[str, Attempt] = {}
    for line in journal.read_bytes().split(b"\n")[:-1]:
        said = json.loads(line)
        if "operation" in said:
            attempts[said["key"]] = Attempt(said["operation"], said["since"])
        else:
            attempt = attempts[said["key"]]
            attempt.answered, attempt.answer = True, said["answer"]
            attempt.until, attempt.at = said["until"], said["at"]
    yield from attempts.items()


def live(life: Life) -> None:
    """Do operations until there have been enough of them, or until death."""
    before = list(read(life.journal)) if life.journal.exists() else []
    journal, conn = Journal(life.journal), db.connect(life.file)
    pen, chance = Pen(conn), Chance(f"{life.seed}.{life.slot}.{life.number}", life.seed)
    death = _Death(life, conn)
    again = _to_send_again(before, chance)
    for number in range(len(before), life.operations):
        key = f"{life.slot}.{number}"
        operation = again or chance.operation(conn)
        again = None
        journal.intend(key, operation, event_log.latest(conn))
        pen.key = key
        with death:
            answer = perform(conn, key, operation)
        pen.key = ""
        journal.answered(key, answer, event_log.latest(conn))
        if chance.random.random() < 0.1 and operation.get("form"):
            again = operation  # an impatient user


def _to_send_again(before: list[tuple[str, Attempt]], chance: Chance) -> Operation | None:
    """The form that the process had sent when it was killed, as somebody who saw no answer sends it again."""
    if before and not before[-1][1].answered and before[-1][1].operation.get("form") and chance.random.random() < 0.7:
        return before[-1][1].operation
    return None


class _Death:
    """Watches a connection while an operation is done, and kills the process where it is to die."""

    def __init__(self, life: Life, conn: sqlite3.Connection) -> None:
        self._left = {life.dies: life.dies_after}
        self._conn = conn

    def _comes_nearer(self, where: str) -> None:
        if where in self._left:
            self._left[where] -= 1
            if not self._left[where]:
                os.kill(os.getpid(), signal.SIGKILL)

    def __enter__(self) -> None:
        self._conn.set_trace_callback(lambda _: self._comes_nearer(STATEMENT))

    def __exit__(self, *_: object) -> None:
        self._conn.set_trace_callback(None)
        self._comes_nearer(ANSWER)
