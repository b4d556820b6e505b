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
from tests.money.audit import OperationAttempt
from tests.money.event_log import Recorder
from tests.money.generators import OperationGenerator
from tests.money.operations import Operation, perform_operation

BEFORE_STATEMENT, BEFORE_ANSWER_NOTED, BY_CLOCK = "before a statement", "before the answer was noted", "by the clock"
"""Where a process is killed: by itself at the first two, so that a seed brings it there again; by its parent."""


@dataclass(frozen=True, slots=True)
class WorkerRun:
    """What one process is to do. It is the `restart`-th of a series; each continues where the one before was killed.

    It kills itself at `kill_point`, before the `kill_after`-th SQL statement or after the `kill_after`-th operation;
    None: it does not kill itself.
    """

    file: Path
    journal: Path
    seed: str
    slot: int
    restart: int
    operations: int
    kill_point: str | None = None
    kill_after: int = 0


class OperationJournal:
    """The operations that a process began, and their answers: each is on disk before the process goes on."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        complete_octets = file.read_bytes().rfind(b"\n") + 1
        os.ftruncate(self._file, complete_octets)  # without half a line that a process has died over

    def record_attempt(self, key: str, operation: Operation, since: int) -> None:
        self._write({"key": key, "operation": operation, "since": since})

    def record_answer(self, key: str, answer: object, end_seq: int) -> None:
        self._write({"key": key, "answer": answer, "until": end_seq, "at": now_ms()})

    def _write(self, line: dict[str, object]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")
        os.fsync(self._file)


def read_journal(journal: Path) -> Iterator[tuple[str, OperationAttempt]]:
    """Every attempt of a journal, in order."""
    attempts: dict[str, OperationAttempt] = {}
    for line in journal.read_bytes().split(b"\n")[:-1]:
        record = json.loads(line)
        if "operation" in record:
            attempts[record["key"]] = OperationAttempt(record["operation"], record["since"])
        else:
            attempt = attempts[record["key"]]
            attempt.answered, attempt.answer = True, record["answer"]
            attempt.end_seq, attempt.answered_at = record["until"], record["at"]
    yield from attempts.items()


def run_worker(run: WorkerRun) -> None:
    """Do operations until there have been enough of them, or until death."""
    earlier_attempts = list(read_journal(run.journal)) if run.journal.exists() else []
    journal, conn = OperationJournal(run.journal), db.connect(run.file)
    recorder, generator = Recorder(conn), OperationGenerator(f"{run.seed}.{run.slot}.{run.restart}", run.seed)
    killer = _SelfKiller(run, conn)
    resend = _find_form_to_resend(earlier_attempts, generator)
    for number in range(len(earlier_attempts), run.operations):
        key = f"{run.slot}.{number}"
        operation = resend or generator.next_operation(conn)
        resend = None
        journal.record_attempt(key, operation, event_log.latest_seq(conn))
        recorder.key = key
        with killer:
            answer = perform_operation(conn, key, operation)
        recorder.key = ""
        journal.record_answer(key, answer, event_log.latest_seq(conn))
        if generator.random.random() < 0.1 and operation.get("form"):
            resend = operation  # an impatient user


def _find_form_to_resend(
    earlier_attempts: list[tuple[str, OperationAttempt]], generator: OperationGenerator
) -> Operation | None:
    """The form that the process had sent when it was killed, as somebody who saw no answer sends it again."""
    if (
        earlier_attempts
        and not earlier_attempts[-1][1].answered
        and earlier_attempts[-1][1].operation.get("form")
        and generator.random.random() < 0.7
    ):
        return earlier_attempts[-1][1].operation
    return None


class _SelfKiller:
    """Watches a connection while an operation is done, and kills the process where it is to die."""

    def __init__(self, run: WorkerRun, conn: sqlite3.Connection) -> None:
        self._countdown = {run.kill_point: run.kill_after}
        self._conn = conn

    def _count_down(self, kill_point: str) -> None:
        if kill_point in self._countdown:
            self._countdown[kill_point] -= 1
            if not self._countdown[kill_point]:
                os.kill(os.getpid(), signal.SIGKILL)

    def __enter__(self) -> None:
        self._conn.set_trace_callback(lambda _: self._count_down(BEFORE_STATEMENT))

    def __exit__(self, *_: object) -> None:
        self._conn.set_trace_callback(None)
        self._count_down(BEFORE_ANSWER_NOTED)
