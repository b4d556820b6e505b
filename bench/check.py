#!/usr/bin/env python3
"""What `app.py check` takes on a database of many messages, and what it costs an SMPP server that is kept busy.

    .venv/bin/python bench/check.py [--messages 1000000] [--accounts 50] [--seconds 20] [--rounds 2] [--folder DIR]

On a fresh data folder it writes the messages as the server does, in batches of all accounts, over the days of two
months, each with its outcome. Then it measures, in turn

    at rest        `app.py check` while nobody sends
    SMPP alone     ten sessions that keep ten submits in flight each (`generator.c`), for some seconds
    both           the same, while one check follows upon the other, at the low priority of the daily one

Columns: seconds that a check takes, and the most memory that its process has had; seconds of these that the copy takes;
submits acknowledged a second, their p50, p99 and longest, and the size of the write-ahead log at the end. All
are medians of the rounds. Exit status 1: a check has found something, or a figure is not what is wanted (below the
table).
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from stand import CREDITS, ROOT, SENDERS, Installation, complaints, table

from portal.core import db
from portal.core.clock import DAY_MS, now_ms
from portal.core.db import write_transaction
from portal.core.gsm0338 import Encoding
from portal.services.accounts import accounts
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED
from portal.services.credits import credits
from portal.services.messages import intake, outcomes
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.validation import SubmittedMessage
from portal.services.operations import self_check

SESSIONS, WINDOW = 10, 10
BATCH = 500
DAYS = 60
COUNTRIES = {"IT": "39340", "FR": "33612", "DE": "49151", "ES": "34612", "GB": "44741"}
SMPP_SHARE = 0.8

Figures = dict[str, float]


def main() -> int:
    args = parse_arguments()
    measurements: dict[str, list[Figures]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="smpp-check-", dir=args.folder) as folder:
        installation = Installation.make(Path(folder) / "data", SESSIONS)
        started_at = time.monotonic()
        fill_history(installation, args.messages, args.accounts)
        size_mb = installation.database.stat().st_size / 1e6
        duration_s = time.monotonic() - started_at
        print(f"{args.messages} messages of {args.accounts} accounts, {size_mb:.0f} MB: {duration_s:.0f} s")
        for _ in range(args.rounds):
            measurements["at rest"].append(run_check(installation) | measure_copy(installation))
        with installation.running() as server:
            measure_submits(installation, server.pid, 2.0)
            for _ in range(args.rounds):
                measurements["SMPP alone"].append(measure_submits(installation, server.pid, args.seconds))
                with CheckLoop(installation) as check_loop:
                    rate = measure_submits(installation, server.pid, args.seconds)
                measurements["both"].append(rate | check_loop.median_figures())
    return print_report(measurements)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: the temporary folder)")
    return parser.parse_args()


def fill_history(installation: Installation, message_count: int, account_count: int) -> None:
    """Write a history: batches in which messages of all accounts are mixed."""
    rng = random.Random(1)
    with closing(db.connect(installation.database)) as conn:
        conn.execute("PRAGMA synchronous = OFF")
        new_accounts = [
            accounts.create_account(conn, SHELL, 1, name=f"smpp-past-{index}") for index in range(account_count)
        ]
        history_start = now_ms() - DAYS * DAY_MS
        for each in new_accounts:
            credits.grant_credits(conn, SHELL, each, CREDITS * credit_amounts.THOUSANDTHS, now=history_start)
        for index in range(0, message_count, BATCH):
            batch_time = history_start + 1 + index * (DAYS - 1) * DAY_MS // message_count
            with write_transaction(conn):
                batch = [
                    random_submit(rng, rng.choice(new_accounts).id) for _ in range(min(BATCH, message_count - index))
                ]
                message_ids = intake.store_messages(conn, batch, now=batch_time).message_ids
                outcomes.finish_messages(
                    conn, [MessageOutcome(each, DELIVERED, 0, batch_time) for each in message_ids if each is not None]
                )


def random_submit(rng: random.Random, account_id: int) -> SubmittedMessage:
    country, prefix = rng.choice(list(COUNTRIES.items()))
    parts = rng.choice((1, 1, 1, 2))
    return SubmittedMessage(
        account_id=account_id,
        source=rng.choice(SENDERS),
        source_ton=5,
        source_npi=0,
        destination=f"{prefix}{rng.randrange(10**6):06}",
        country=country,
        text="Your parcel is on its way and will be with you today. " * parts,
        udh=None,
        data_coding=Encoding.GSM,
        registered_delivery=0,
        reference=None,
        parts=parts,
        price=parts * 1500,
    )


def run_check(installation: Installation, *options: str) -> Figures:
    """Run a check to its end."""
    started_at = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, ROOT / "app.py", "check", "--data", installation.data, *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the check has found something:\n{output}")
    return {"check": time.monotonic() - started_at, "memory": usage.ru_maxrss / 1024}


def measure_copy(installation: Installation) -> Figures:
    started_at = time.monotonic()
    with closing(db.connect(installation.database)) as conn, self_check.open_database_copy(conn, installation.data):
        return {"copy": time.monotonic() - started_at}


class CheckLoop:
    """Runs one check after the other, until the block has ended."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._stopping = threading.Event()
        self._results: list[Figures] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> CheckLoop:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._results.append(run_check(self._installation, "--record"))

    def median_figures(self) -> Figures:
        log_mb = self._installation.database.with_name(f"{db.FILE_NAME}-wal").stat().st_size / 1e6
        return {name: median(each[name] for each in self._results) for name in self._results[0]} | {"log": log_mb}


def measure_submits(installation: Installation, server: int, seconds: float) -> Figures:
    result = installation.load(server, SESSIONS, WINDOW, seconds=seconds)
    for each in complaints(result):
        print(each, file=sys.stderr)
    log_mb = installation.database.with_name(f"{db.FILE_NAME}-wal").stat().st_size / 1e6
    return {"rate": result["rate"], "log": log_mb} | {name: result[f"{name}_ms"] for name in ("p50", "p99", "max")}


def print_report(measurements: dict[str, list[Figures]]) -> int:
    names = ("check", "memory", "copy", "rate", "p50", "p99", "max", "log")
    rows: dict[str, Figures] = {
        row: {name: median(each[name] for each in rounds) for name in rounds[0]} for row, rounds in measurements.items()
    }
    head = ("", "", "check s", "memory MB", "copy s", "submits/s", "p50 ms", "p99 ms", "max ms", "log MB", "")
    table_rows = [
        (
            row,
            "",
            *(
                f"{figures[name]:.{0 if name in ('rate', 'memory') else 1}f}" if name in figures else ""
                for name in names
            ),
            "",
        )
        for row, figures in rows.items()
    ]
    print(table(head, table_rows))
    share = rows["both"]["rate"] / rows["SMPP alone"]["rate"]
    print(f"both ÷ SMPP alone: {share:.2f} (wanted: {SMPP_SHARE})")
    return int(share < SMPP_SHARE)


if __name__ == "__main__":
    sys.exit(main())
