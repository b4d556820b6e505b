"""Rounds of several processes on one database, of which some are killed; afterwards all of it is audited."""

import multiprocessing
import os
import random
import shutil
import sqlite3
import time
from collections import Counter
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from portal.core import db
from tests.money import fixtures, worker
from tests.money.audit import Attempt, Audit
from tests.money.model import Model, is_refusal
from tests.money.worker import ANSWER, CLOCK, STATEMENT, Life

# Nothing but the way to get a process quickly: each opens its own connection, and shares nothing but files.
_FORK = multiprocessing.get_context("fork")
_MOST_DEATHS = 4
_MOST_STATEMENTS, _MOST_ANSWERS, _LONGEST_S = 300, 25, 0.5


class Round:
    """One round, in a folder of its own.

    Args:
        seed: of all that chance decides, but for how the processes come in between each other.
    """

    def __init__(self, folder: Path, template: Path, seed: str, processes: int, operations: int) -> None:
        folder.mkdir()
        self.file = folder / db.FILE_NAME
        shutil.copy(template, self.file)
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._folder = folder
        self._seed = seed
        self._processes = processes
        self._operations = operations
        self._random = random.Random(seed)
        self._running: dict[int, tuple[BaseProcess, Life, float]] = {}

    def run(self) -> None:
        conn = db.connect(self.file)
        model = Model.of(conn)
        conn.close()
        for slot in range(self._processes):
            self._start(slot, 0)
        while self._running:
            self._see_who_has_ended()
        self._audit(model)

    # --- the processes

    def _start(self, slot: int, number: int) -> None:
        dies = self._random.choice((STATEMENT, STATEMENT, ANSWER, CLOCK, None)) if number < _MOST_DEATHS else None
        most = {STATEMENT: _MOST_STATEMENTS, ANSWER: _MOST_ANSWERS}.get(dies or "", 1)
        journal = self._journal(slot)
        life = Life(self.file, journal, self._seed, slot, number, self._operations, dies, self._random.randint(1, most))
        process = _FORK.Process(target=worker.live, args=(life,))
        process.start()
        ends = time.monotonic() + self._random.uniform(0, _LONGEST_S) if dies == CLOCK else float("inf")
        self._running[slot] = process, life, ends

    def _journal(self, slot: int) -> Path:
        return self._folder / f"{slot}.journal"

    def _see_who_has_ended(self) -> None:
        ends = min(each[2] for each in self._running.values())
        timeout = max(0.0, ends - time.monotonic()) if ends != float("inf") else None
        wait([process.sentinel for process, _, _ in self._running.values()], timeout)
        for slot, (process, life, ends) in list(self._running.items()):
            if time.monotonic() >= ends and process.is_alive():
                process.kill()
                process.join()
            if process.is_alive():
                continue
            process.join()
            del self._running[slot]
            if process.exitcode == 0:
                continue
            if process.exitcode != -9:
                self.problems.append(f"process {slot} has failed with {process.exitcode}")
                continue
            self.counts[f"killed {life.dies}"] += 1
            self._start(slot, life.number + 1)

    # --- what came of it

    def _audit(self, model: Model) -> None:
        attempts = {key: each for slot in range(self._processes) for key, each in worker.read(self._journal(slot))}
        audit = Audit(model)
        conn = db.connect(self.file)
        audit.follow(conn, attempts)
        audit.compare(conn)
        self._count(conn, attempts)
        conn.close()
        self.problems += audit.problems

    def _count(self, conn: sqlite3.Connection, attempts: dict[str, Attempt]) -> None:
        done = {row[0] for row in conn.execute("SELECT DISTINCT key FROM chronicle")}
        for key, attempt in attempts.items():
            self.counts[attempt.operation["kind"]] += 1
            if not attempt.answered:
                self.counts["in doubt and " + ("done" if key in done else "not done")] += 1
            elif is_refusal(attempt.answer):
                self.counts[f"refused: {attempt.answer['refused']}"] += 1
            else:
                self.counts["acknowledged"] += 1
        for name, sql in {
            "messages accepted": "SELECT count(*) FROM messages WHERE price > 0",
            "messages refused": "SELECT count(*) FROM messages WHERE price = 0 AND ptt = 10",
            "messages stopped": "SELECT count(*) FROM messages WHERE price = 0 AND ptt = 53",
            "automatic re-credits": "SELECT count(*) FROM orders WHERE origin = 'automatic' AND movement_id NOT NULL",
            "lots run out": "SELECT count(*) FROM movements WHERE kind = 'expiry'",
            "refunds": "SELECT count(*) FROM movements WHERE kind = 'refund'",
        }.items():
            self.counts[name] += conn.execute(sql).fetchone()[0]


def template(folder: Path) -> Path:
    """The database of which each round gets a copy."""
    return fixtures.build(folder / f"template-{os.getpid()}")
