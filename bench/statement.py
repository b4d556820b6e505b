"""How quickly an account's statement comes: of a thousand movements, and of a million.

    .venv/bin/python bench/statement.py [MOVEMENTS]

Makes two databases, of 1,000 and of MOVEMENTS (1,000,000) movements of one account in 400 days: one in a hundred is
something else than usage, and another account has as many. For each question of the statement's page it prints the
median and the slowest of fifty answers in milliseconds, then the queries' plans, and what the whole file takes: time,
and memory beyond what the process had before.
"""

from __future__ import annotations

import random
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from portal import migrations
from portal.core import db
from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection, Inserts, immediate
from portal.services.accounts import accounts
from portal.services.billing import statement
from portal.services.common import ids, periods
from portal.services.common.audit import SHELL
from portal.services.credits import ledger
from portal.services.people import customers

RUNS, PAGE, DAYS, ZONE = 50, 21, 400, "Europe/Rome"
_INSERT = Inserts("movements", "id, account_id, kind, amount, balance_after, actor, messages")


def fill(conn: Connection, account_ids: list[int], how_many: int, now: int) -> None:
    """So many movements of each account, one millisecond or more apart."""
    chance = random.Random(4)
    balances = dict.fromkeys(account_ids, 0)
    apart = DAYS * DAY_MS / how_many

    def rows() -> Iterator[tuple[object, ...]]:
        for number in range(how_many):
            for place, account_id in enumerate(account_ids):
                kind, amount = ledger.USAGE, -chance.randint(1, 500) * 1000
                if balances[account_id] + amount < 0:
                    kind, amount = ledger.PURCHASE, 50_000_000
                elif chance.random() < 0.01:
                    kind, amount = ledger.REFUND, 1000
                balances[account_id] += amount
                movement_id = ids.first_id_at(now - DAYS * DAY_MS + int(number * apart)) + number % 1000 * 2 + place
                yield movement_id, account_id, kind, amount, balances[account_id], "bench", 1

    with immediate(conn):
        batch: list[tuple[object, ...]] = []
        for row in rows():
            batch.append(row)
            if len(batch) == 3200:
                _INSERT.run(conn, batch)
                batch.clear()
        _INSERT.run(conn, batch)
        for account_id, balance in balances.items():
            conn.execute("UPDATE accounts SET balance = ? WHERE id = ?", (balance, account_id))


def questions(conn: Connection, account_id: int, now: int) -> dict[str, Callable[[], object]]:
    """What the page asks."""
    month, ever = (periods.period(each, "", "", ZONE, now) for each in ("30d", "all"))
    (oldest,) = conn.execute("SELECT min(id) FROM movements WHERE account_id = ?", (account_id,)).fetchone()
    middle = ids.first_id_at(now - DAYS * DAY_MS // 2)
    found: dict[str, Callable[[], object]] = {
        "newest page": lambda: statement.movements(conn, account_id, month, limit=PAGE),
        "a page in the middle": lambda: statement.movements(conn, account_id, ever, before=middle, limit=PAGE),
        "oldest page, on the way back": lambda: statement.movements(conn, account_id, ever, after=oldest, limit=PAGE),
    }
    for kind in (ledger.USAGE, ledger.PURCHASE, ledger.REFUND, ledger.GRANT):
        found[f"newest page of kind {kind}"] = lambda kind=kind: statement.movements(  # type: ignore[misc]
            conn, account_id, ever, kind, limit=PAGE
        )
    return found | {
        "sums of 30 days": lambda: statement.sums(conn, account_id, month),
        "sums of all time": lambda: statement.sums(conn, account_id, ever),
        "chart of 30 days": lambda: statement.course(conn, account_id, month, ZONE, now),
        "chart of all time": lambda: statement.course(conn, account_id, ever, ZONE, now),
    }


def measured(ask: Callable[[], object]) -> tuple[float, float]:
    """Median and slowest, in milliseconds."""
    took = []
    for _ in range(RUNS):
        begins = time.perf_counter()
        ask()
        took.append((time.perf_counter() - begins) * 1000)
    return median(took), max(took)


def plans(conn: Connection, account_id: int, now: int) -> list[str]:
    """The plans of all that these questions ask of the ledger, as SQLite tells them."""
    asked: list[str] = []
    conn.set_trace_callback(asked.append)
    for ask in questions(conn, account_id, now).values():
        ask()
    conn.set_trace_callback(None)
    steps = [row["detail"] for query in asked for row in conn.execute(f"EXPLAIN QUERY PLAN {query}")]
    return sorted({each for each in steps if "movements" in each})


def main(how_many: int) -> None:
    now = now_ms()
    figures: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in (1000, how_many):
            file = Path(folder) / f"{size}.db"
            migrations.migrate(file, keep_backups=0)
            with closing(db.connect(file)) as conn:
                customer = customers.add(conn, SHELL, "Acme", "marta@acme.example")
                both = [accounts.add(conn, SHELL, customer.id, name=f"smpp-acme-{number}").id for number in (1, 2)]
                fill(conn, both, size, now)
                for name, ask in questions(conn, both[0], now).items():
                    figures.setdefault(name, []).append(measured(ask))
        print(f"{'milliseconds: median (slowest)':32}{'1,000':>18}{f'{how_many:,}':>18}")
        for name, columns in figures.items():
            print(f"{name:32}" + "".join(f"{f'{middle:.2f} ({most:.2f})':>18}" for middle, most in columns))
        with closing(db.connect(file)) as conn:
            print(f"\n{file.stat().st_size / 1e6:.0f} MB, SQLite {sqlite3.sqlite_version}:")
            print("\n".join(f"  {each}" for each in plans(conn, both[0], now)))
            before, begins = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
            lines = sum(1 for _ in statement.each(conn, both[0]))
            took = time.perf_counter() - begins
            more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            print(f"\nthe whole file: {lines:,} lines in {took:.1f} s, {more / 1024:.1f} MB more memory")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
