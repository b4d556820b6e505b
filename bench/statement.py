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
from portal.core.db import BulkInsert, Connection, write_transaction
from portal.services.accounts import accounts
from portal.services.billing import statement
from portal.services.common import ids, periods
from portal.services.common.audit import SHELL
from portal.services.credits import ledger
from portal.services.people import customers

RUNS, PAGE, DAYS, ZONE = 50, 21, 400, "Europe/Rome"
_INSERT = BulkInsert("movements", "id, account_id, kind, amount, balance_after, actor, messages")


def insert_movements(conn: Connection, account_ids: list[int], movement_count: int, now: int) -> None:
    """So many movements of each account, one millisecond or more apart."""
    rng = random.Random(4)
    balances = dict.fromkeys(account_ids, 0)
    interval_ms = DAYS * DAY_MS / movement_count

    def rows() -> Iterator[tuple[object, ...]]:
        for number in range(movement_count):
            for account_index, account_id in enumerate(account_ids):
                kind, amount = ledger.USAGE, -rng.randint(1, 500) * 1000
                if balances[account_id] + amount < 0:
                    kind, amount = ledger.PURCHASE, 50_000_000
                elif rng.random() < 0.01:
                    kind, amount = ledger.REFUND, 1000
                balances[account_id] += amount
                movement_id = (
                    ids.min_id_at_time(now - DAYS * DAY_MS + int(number * interval_ms))
                    + number % 1000 * 2
                    + account_index
                )
                yield movement_id, account_id, kind, amount, balances[account_id], "bench", 1

    with write_transaction(conn):
        batch: list[tuple[object, ...]] = []
        for row in rows():
            batch.append(row)
            if len(batch) == 3200:
                _INSERT.run(conn, batch)
                batch.clear()
        _INSERT.run(conn, batch)
        for account_id, balance in balances.items():
            conn.execute("UPDATE accounts SET balance = ? WHERE id = ?", (balance, account_id))


def build_queries(conn: Connection, account_id: int, now: int) -> dict[str, Callable[[], object]]:
    """What the page asks."""
    month, all_time = (periods.parse_period(each, "", "", ZONE, now) for each in ("30d", "all"))
    (oldest,) = conn.execute("SELECT min(id) FROM movements WHERE account_id = ?", (account_id,)).fetchone()
    middle = ids.min_id_at_time(now - DAYS * DAY_MS // 2)
    queries: dict[str, Callable[[], object]] = {
        "newest page": lambda: statement.list_movements_page(conn, account_id, month, limit=PAGE),
        "a page in the middle": lambda: statement.list_movements_page(
            conn, account_id, all_time, before=middle, limit=PAGE
        ),
        "oldest page, on the way back": lambda: statement.list_movements_page(
            conn, account_id, all_time, after=oldest, limit=PAGE
        ),
    }
    for kind in (ledger.USAGE, ledger.PURCHASE, ledger.REFUND, ledger.GRANT):
        queries[f"newest page of kind {kind}"] = lambda kind=kind: statement.list_movements_page(  # type: ignore[misc]
            conn, account_id, all_time, kind, limit=PAGE
        )
    return queries | {
        "sums of 30 days": lambda: statement.sum_movements(conn, account_id, month),
        "sums of all time": lambda: statement.sum_movements(conn, account_id, all_time),
        "chart of 30 days": lambda: statement.load_balance_history(conn, account_id, month, ZONE, now),
        "chart of all time": lambda: statement.load_balance_history(conn, account_id, all_time, ZONE, now),
    }


def measure_ms(run_query: Callable[[], object]) -> tuple[float, float]:
    """Median and slowest, in milliseconds."""
    durations = []
    for _ in range(RUNS):
        started_at = time.perf_counter()
        run_query()
        durations.append((time.perf_counter() - started_at) * 1000)
    return median(durations), max(durations)


def list_query_plans(conn: Connection, account_id: int, now: int) -> list[str]:
    """The plans of all that these questions ask of the ledger, as SQLite tells them."""
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    for run_query in build_queries(conn, account_id, now).values():
        run_query()
    conn.set_trace_callback(None)
    steps = [row["detail"] for query in statements for row in conn.execute(f"EXPLAIN QUERY PLAN {query}")]
    return sorted({each for each in steps if "movements" in each})


def main(movement_count: int) -> None:
    now = now_ms()
    figures: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in (1000, movement_count):
            file = Path(folder) / f"{size}.db"
            migrations.migrate(file)
            with closing(db.connect(file)) as conn:
                customer = customers.create_customer(conn, SHELL, "Acme", "marta@acme.example")
                account_ids = [
                    accounts.create_account(conn, SHELL, customer.id, name=f"smpp-acme-{number}").id
                    for number in (1, 2)
                ]
                insert_movements(conn, account_ids, size, now)
                for name, run_query in build_queries(conn, account_ids[0], now).items():
                    figures.setdefault(name, []).append(measure_ms(run_query))
        print(f"{'milliseconds: median (slowest)':32}{'1,000':>18}{f'{movement_count:,}':>18}")
        for name, columns in figures.items():
            print(f"{name:32}" + "".join(f"{f'{middle:.2f} ({slowest:.2f})':>18}" for middle, slowest in columns))
        with closing(db.connect(file)) as conn:
            print(f"\n{file.stat().st_size / 1e6:.0f} MB, SQLite {sqlite3.sqlite_version}:")
            print("\n".join(f"  {each}" for each in list_query_plans(conn, account_ids[0], now)))
            memory_before, started_at = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
            lines = sum(1 for _ in statement.iterate_movements(conn, account_ids[0]))
            duration_s = time.perf_counter() - started_at
            memory_growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before
            print(f"\nthe whole file: {lines:,} lines in {duration_s:.1f} s, {memory_growth / 1024:.1f} MB more memory")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
