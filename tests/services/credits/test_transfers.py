"""Transfers from several processes at once: nothing is lost, nothing made, and one form moves its credits once."""

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from portal.core import db
from portal.core.config import Config
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import statement
from portal.services.common import idempotency
from portal.services.common.audit import SHELL
from portal.services.credits import credits, ledger
from portal.services.operations import self_check

PROCESSES, EACH = 8, 40
ROUNDS = 12

_processes = multiprocessing.get_context("spawn")


def _move(
    file: Path, start: Barrier, number: int, forms: list[str], done: "multiprocessing.Queue[tuple[int, int]]"
) -> None:
    """In a process of its own: move credits there and back, a transfer for each form; without any, with ever new ones.

    Puts how many transfers were made, and how many were refused because their form had been used.
    """
    conn = db.connect(file)
    pair = [accounts.get_account(conn, name) for name in ("smpp-acme-1", "sms-acme-1")]
    made = repeated = 0
    start.wait()
    for turn, form in enumerate(forms or [idempotency.new_idempotency_key() for _ in range(EACH)]):
        # Half of them begin with the way back; forms that are shared say the same in every process.
        source, target = pair if (turn if forms else turn + number) % 2 == 0 else pair[::-1]
        try:
            with idempotency.once(conn, form):
                credits.transfer_credits(conn, SHELL, source, target, 1_000 + turn)
            made += 1
        except idempotency.FormAlreadySent:
            repeated += 1
        except ledger.NotEnoughCredits:
            pass
    conn.close()
    done.put((made, repeated))


def _run(file: Path, forms: list[str]) -> list[tuple[int, int]]:
    start, done = _processes.Barrier(PROCESSES), _processes.Queue()
    started = [
        _processes.Process(target=_move, args=(file, start, number, forms, done), daemon=True)
        for number in range(PROCESSES)
    ]
    for each in started:
        each.start()
    found = [done.get(timeout=60) for _ in started]
    for each in started:
        each.join()
        assert each.exitcode == 0
    return found


def _total(conn: db.Connection) -> int:
    return int(conn.execute("SELECT sum(balance) FROM accounts").fetchone()[0])


@pytest.mark.slow
def test_eight_processes_there_and_back(conn: db.Connection, config: Config, acme_1: Account, classic: Account) -> None:
    total = _total(conn)
    results = _run(config.database_file, [])
    made = sum(made for made, _ in results)
    assert [repeated for _, repeated in results] == [0] * PROCESSES
    assert _total(conn) == total
    for account in (acme_1, classic):
        moved = [each for each in statement.iterate_movements(conn, account.id) if each.kind.startswith("transfer")]
        assert len(moved) == made > PROCESSES
    assert conn.execute("SELECT sum(amount) FROM movements WHERE kind LIKE 'transfer%'").fetchone()[0] == 0
    assert self_check.list_problem_texts(conn) == []


@pytest.mark.slow
def test_eight_processes_send_the_same_forms(
    conn: db.Connection, config: Config, acme_1: Account, classic: Account
) -> None:
    total, before = _total(conn), credits.get_balance(conn, classic.id)
    forms = [idempotency.new_idempotency_key() for _ in range(ROUNDS)]
    results = _run(config.database_file, forms)
    assert sum(made for made, _ in results) == ROUNDS
    assert sum(repeated for _, repeated in results) == ROUNDS * (PROCESSES - 1)
    # Each form once: there with 1,000, back with 1,001, and so on.
    assert credits.get_balance(conn, classic.id) == before + sum(
        (1_000 + turn) * (1 if turn % 2 == 0 else -1) for turn in range(ROUNDS)
    )
    assert _total(conn) == total
    assert self_check.list_problem_texts(conn) == []
