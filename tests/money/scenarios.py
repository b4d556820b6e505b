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
from tests.money.audit import ModelComparison, OperationAttempt
from tests.money.model import CreditModel, is_refusal
from tests.money.worker import BEFORE_ANSWER_NOTED, BEFORE_STATEMENT, BY_CLOCK, WorkerRun

# Nothing but the way to get a process quickly: each opens its own connection, and shares nothing but files.
_FORK_CONTEXT = multiprocessing.get_context("fork")
_MAX_KILLS = 4
_MAX_STATEMENTS, _MAX_ANSWERS, _MAX_LIFETIME_S = 300, 25, 0.5


class CrashScenario:
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
        self._running: dict[int, tuple[BaseProcess, WorkerRun, float]] = {}

    def run(self) -> None:
        conn = db.connect(self.file)
        model = CreditModel.from_database(conn)
        conn.close()
        for slot in range(self._processes):
            self._start_process(slot, 0)
        while self._running:
            self._handle_exits()
        self._compare_with_model(model)

    # --- the processes

    def _start_process(self, slot: int, restart: int) -> None:
        kill_point = (
            self._random.choice((BEFORE_STATEMENT, BEFORE_STATEMENT, BEFORE_ANSWER_NOTED, BY_CLOCK, None))
            if restart < _MAX_KILLS
            else None
        )
        max_count = {BEFORE_STATEMENT: _MAX_STATEMENTS, BEFORE_ANSWER_NOTED: _MAX_ANSWERS}.get(kill_point or "", 1)
        journal = self._journal_file(slot)
        run = WorkerRun(
            self.file,
            journal,
            self._seed,
            slot,
            restart,
            self._operations,
            kill_point,
            self._random.randint(1, max_count),
        )
        process = _FORK_CONTEXT.Process(target=worker.run_worker, args=(run,))
        process.start()
        kill_at = (
            time.monotonic() + self._random.uniform(0, _MAX_LIFETIME_S) if kill_point == BY_CLOCK else float("inf")
        )
        self._running[slot] = process, run, kill_at

    def _journal_file(self, slot: int) -> Path:
        return self._folder / f"{slot}.journal"

    def _handle_exits(self) -> None:
        kill_at = min(each[2] for each in self._running.values())
        timeout = max(0.0, kill_at - time.monotonic()) if kill_at != float("inf") else None
        wait([process.sentinel for process, _, _ in self._running.values()], timeout)
        for slot, (process, run, kill_at) in list(self._running.items()):
            if time.monotonic() >= kill_at and process.is_alive():
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
            self.counts[f"killed {run.kill_point}"] += 1
            self._start_process(slot, run.restart + 1)

    # --- what came of it

    def _compare_with_model(self, model: CreditModel) -> None:
        attempts = {
            key: each for slot in range(self._processes) for key, each in worker.read_journal(self._journal_file(slot))
        }
        comparison = ModelComparison(model)
        conn = db.connect(self.file)
        comparison.replay_log(conn, attempts)
        comparison.compare_final_state(conn)
        self._count_outcomes(conn, attempts)
        conn.close()
        self.problems += comparison.problems

    def _count_outcomes(self, conn: sqlite3.Connection, attempts: dict[str, OperationAttempt]) -> None:
        done = {row[0] for row in conn.execute("SELECT DISTINCT key FROM event_log")}
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


def create_template(folder: Path) -> Path:
    """The database of which each round gets a copy."""
    return fixtures.create_database(folder / f"template-{os.getpid()}")
