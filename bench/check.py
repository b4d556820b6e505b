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
from portal.core.db import immediate
from portal.services.accounts import accounts
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED
from portal.services.credits import credits
from portal.services.messages import intake, outcomes
from portal.services.messages.outcomes import Outcome
from portal.services.messages.validation import GSM, Submit
from portal.services.operations import self_check

SESSIONS, WINDOW = 10, 10
BATCH = 500
DAYS = 60
COUNTRIES = {"IT": "39340", "FR": "33612", "DE": "49151", "ES": "34612", "GB": "44741"}
SMPP_SHARE = 0.8

Figures = dict[str, float]


def main() -> int:
    args = arguments()
    measured: dict[str, list[Figures]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="smpp-check-", dir=args.folder) as folder:
        place = Installation.make(Path(folder) / "data", SESSIONS)
        began = time.monotonic()
        fill(place, args.messages, args.accounts)
        size = place.database.stat().st_size / 1e6
        print(f"{args.messages} messages of {args.accounts} accounts, {size:.0f} MB: {time.monotonic() - began:.0f} s")
        for _ in range(args.rounds):
            measured["at rest"].append(proof(place) | copying(place))
        with place.running() as server:
            submits(place, server.pid, 2.0)
            for _ in range(args.rounds):
                measured["SMPP alone"].append(submits(place, server.pid, args.seconds))
                with Proofs(place) as proofs:
                    rate = submits(place, server.pid, args.seconds)
                measured["both"].append(rate | proofs.figures())
    return report(measured)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: the temporary folder)")
    return parser.parse_args()


def fill(place: Installation, messages: int, count: int) -> None:
    """Write a history: batches in which messages of all accounts are mixed."""
    chance = random.Random(1)
    with closing(db.connect(place.database)) as conn:
        conn.execute("PRAGMA synchronous = OFF")
        own = [accounts.add(conn, SHELL, 1, name=f"smpp-past-{number}") for number in range(count)]
        since = now_ms() - DAYS * DAY_MS
        for each in own:
            credits.grant(conn, SHELL, each, CREDITS * credit_amounts.THOUSANDTHS, now=since)
        for number in range(0, messages, BATCH):
            at = since + 1 + number * (DAYS - 1) * DAY_MS // messages
            with immediate(conn):
                batch = [submit(chance, chance.choice(own).id) for _ in range(min(BATCH, messages - number))]
                taken = intake.store(conn, batch, now=at).ids
                outcomes.finish(conn, [Outcome(each, DELIVERED, 0, at) for each in taken if each is not None])


def submit(chance: random.Random, account_id: int) -> Submit:
    country, prefix = chance.choice(list(COUNTRIES.items()))
    parts = chance.choice((1, 1, 1, 2))
    return Submit(
        account_id=account_id,
        source=chance.choice(SENDERS),
        source_ton=5,
        source_npi=0,
        destination=f"{prefix}{chance.randrange(10**6):06}",
        country=country,
        text="Your parcel is on its way and will be with you today. " * parts,
        udh=None,
        data_coding=GSM,
        registered_delivery=0,
        reference=None,
        parts=parts,
        price=parts * 1500,
    )


def proof(place: Installation, *options: str) -> Figures:
    """Run a check to its end."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, ROOT / "app.py", "check", "--data", place.data, *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the check has found something:\n{said}")
    return {"check": time.monotonic() - began, "memory": usage.ru_maxrss / 1024}


def copying(place: Installation) -> Figures:
    began = time.monotonic()
    with closing(db.connect(place.database)) as conn, self_check.copied(conn, place.data):
        return {"copy": time.monotonic() - began}


class Proofs:
    """One check after the other, until the block has ended."""

    def __init__(self, place: Installation) -> None:
        self._place = place
        self._ended = threading.Event()
        self._found: list[Figures] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Proofs:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._found.append(proof(self._place, "--record"))

    def figures(self) -> Figures:
        log = self._place.database.with_name(f"{db.FILE_NAME}-wal").stat().st_size / 1e6
        return {name: median(each[name] for each in self._found) for name in self._found[0]} | {"log": log}


def submits(place: Installation, server: int, seconds: float) -> Figures:
    result = place.load(server, SESSIONS, WINDOW, seconds=seconds)
    for each in complaints(result):
        print(each, file=sys.stderr)
    log = place.database.with_name(f"{db.FILE_NAME}-wal").stat().st_size / 1e6
    return {"rate": result["rate"], "log": log} | {name: result[f"{name}_ms"] for name in ("p50", "p99", "max")}


def report(measured: dict[str, list[Figures]]) -> int:
    names = ("check", "memory", "copy", "rate", "p50", "p99", "max", "log")
    rows: dict[str, Figures] = {
        row: {name: median(each[name] for each in rounds) for name in rounds[0]} for row, rounds in measured.items()
    }
    head = ("", "", "check s", "memory MB", "copy s", "submits/s", "p50 ms", "p99 ms", "max ms", "log MB", "")
    shown = [
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
    print(table(head, shown))
    share = rows["both"]["rate"] / rows["SMPP alone"]["rate"]
    print(f"both ÷ SMPP alone: {share:.2f} (wanted: {SMPP_SHARE})")
    return int(share < SMPP_SHARE)


if __name__ == "__main__":
    sys.exit(main())
