"""Operations as chance would have them, about what is there."""

import random
import sqlite3
from collections.abc import Callable
from typing import Any

from portal.core.clock import now_ms
from portal.services.common.message_states import DELIVERED, ENROUTE, EXPIRED, UNDELIVERABLE
from portal.services.messages.validation import DEFAULT_VALIDITY_MS
from tests.money.operations import Operation

NUMBERS = tuple(f"3934012345{number:02}" for number in range(12))
SOURCES = ("ACME", "GLOBEX")
# What a part costs, by country. All amounts are multiples of the same, so that some balances are spent to the end.
PRICES = {"IT": 500, "FR": 1_250, "US": 2_750}
_AMOUNT_STEP = 250
PACKS = (100_000, 200_000)
_OUTCOMES = ((DELIVERED, 0), (DELIVERED, 0), (UNDELIVERABLE, 800), (EXPIRED, 801))
_MAX_DELAY_MS = 5_000
_MAX_LIFETIME_MS = 300
_SHARED_FORMS = 12


class OperationGenerator:
    """Thinks of the next operation of one process.

    Args:
        seed: of all that chance decides here.
        round_seed: of what all processes of a round know: forms that each of them may send.
    """

    def __init__(self, seed: str, round_seed: str) -> None:
        self.random = random.Random(seed)
        self._round_seed = round_seed
        self._forms = 0
        self._seed = seed

    def next_operation(self, conn: sqlite3.Connection) -> Operation:
        generate = self.random.choices(
            [each for each, _ in self._WEIGHTED_GENERATORS], [weight for _, weight in self._WEIGHTED_GENERATORS]
        )[0]
        return generate(self, conn)

    def _next_form(self) -> str:
        self._forms += 1
        return f"{self._seed}-{self._forms}"

    def _generate_submit(self, conn: sqlite3.Connection) -> Operation:
        rng, now, batch = self.random, now_ms(), []
        ids = _list_account_ids(conn)
        for _ in range(rng.choice((1, 2, 5, 20, 60))):
            country = rng.choice(tuple(PRICES))
            parts = rng.choice((1, 1, 1, 2, 5))
            scheduled_at = now + rng.randrange(1, _MAX_DELAY_MS) if rng.random() < 0.25 else None
            expires_at = None if scheduled_at is None else scheduled_at + DEFAULT_VALIDITY_MS
            if rng.random() < 0.15:
                expires_at = (scheduled_at or now) + rng.randrange(1, _MAX_DELAY_MS)
            price = parts * PRICES[country]
            source = rng.choice(SOURCES)
            batch.append(
                [rng.choice(ids), rng.choice(NUMBERS), parts, price, source, country, scheduled_at, expires_at]
            )
        return {"kind": "submit", "batch": batch}

    def _generate_grant(self, conn: sqlite3.Connection) -> Operation:
        operation = _random_grant(self.random, _list_account_ids(conn), self._next_form())
        if self.random.random() < 0.5:
            operation["expires_at"] = now_ms() + self.random.randrange(20, _MAX_LIFETIME_MS)
            operation["amount"] *= 4  # or there would be nothing left of it
        return operation

    def _generate_correction(self, conn: sqlite3.Connection) -> Operation:
        kind = self.random.choice(("correct", "refund"))
        amount = (
            self.random.randrange(-20_000, 20_000, _AMOUNT_STEP)
            if kind == "correct"
            else self.random.randrange(_AMOUNT_STEP, 5_000, _AMOUNT_STEP)
        )
        account = self.random.choice(_list_account_ids(conn))
        return {"kind": kind, "account": account, "amount": amount or -_AMOUNT_STEP, "form": self._next_form()}

    def _generate_message_refund(self, conn: sqlite3.Connection) -> Operation:
        # Mostly of those that have an end; now and then one that is on its way, or cost nothing.
        condition = "price > 0 AND state <> 1" if self.random.random() < 0.9 else "true"
        rows = conn.execute(f"SELECT id, text FROM messages WHERE {condition} ORDER BY id DESC LIMIT 30").fetchall()
        return (
            {"kind": "refund message", "message": list(self.random.choice(rows))}
            if rows
            else self._generate_submit(conn)
        )

    def _generate_transfer(self, conn: sqlite3.Connection) -> Operation:
        return _random_transfer(self.random, _list_accounts(conn), self._next_form())

    def _generate_order(self, conn: sqlite3.Connection) -> Operation:
        return _random_order(self.random, _list_account_ids(conn), self._next_form())

    def _generate_shared_form(self, conn: sqlite3.Connection) -> Operation:
        """A form that other processes send too, at the same time or later: it happens once."""
        number = self.random.randrange(_SHARED_FORMS)
        shared_rng = random.Random(f"{self._round_seed}-{number}")
        form = f"{self._round_seed}-shared-{number}"
        kind = shared_rng.randrange(3)
        if kind == 0:
            return _random_grant(shared_rng, _list_account_ids(conn), form)
        return (
            _random_transfer(shared_rng, _list_accounts(conn), form)
            if kind == 1
            else _random_order(shared_rng, _list_account_ids(conn), form)
        )

    def _generate_payment(self, conn: sqlite3.Connection) -> Operation:
        return self._generate_order_change(conn, "pay")

    def _generate_order_cancel(self, conn: sqlite3.Connection) -> Operation:
        return self._generate_order_change(conn, "cancel order")

    def _generate_order_change(self, conn: sqlite3.Connection, kind: str) -> Operation:
        # Mostly open ones; now and then one that is closed already.
        rows = conn.execute("SELECT id, paid_at IS NULL AND cancelled_at IS NULL FROM orders ORDER BY id").fetchall()
        still_open = [row[0] for row in rows if row[1]]
        if not rows:
            return self._generate_order(conn)
        chosen = still_open if still_open and self.random.random() < 0.9 else [row[0] for row in rows]
        return {"kind": kind, "order": self.random.choice(chosen)}

    def _generate_cancel(self, conn: sqlite3.Connection) -> Operation:
        messages = self._choose_messages(conn, 3)
        return {"kind": "cancel", "messages": messages} if messages else self._generate_submit(conn)

    def _generate_finish(self, conn: sqlite3.Connection) -> Operation:
        messages = self._choose_messages(conn, 10)
        finished = [[each, text, *self.random.choice(_OUTCOMES)] for each, text, _ in messages]
        return {"kind": "finish", "messages": finished} if finished else self._generate_submit(conn)

    def _choose_messages(self, conn: sqlite3.Connection, max_count: int) -> list[list[Any]]:
        """Some that have no end yet, each once: two processes may well have chosen the same."""
        rows = conn.execute(
            "SELECT id, text, scheduled_at IS NOT NULL AND due_at IS scheduled_at FROM messages"
            f" WHERE state = {ENROUTE} ORDER BY id DESC LIMIT 30"
        ).fetchall()
        chosen = self.random.sample(rows, min(len(rows), self.random.randint(1, max_count)))
        return [[message_id, text, bool(waits)] for message_id, text, waits in chosen]

    def _generate_due(self, conn: sqlite3.Connection) -> Operation:
        return {"kind": "due", "now": now_ms() + self.random.randrange(_MAX_DELAY_MS)}

    def _generate_expiry(self, conn: sqlite3.Connection) -> Operation:
        return {"kind": "expire", "now": None}

    def _generate_blacklisting(self, conn: sqlite3.Connection) -> Operation:
        return {
            "kind": self.random.choice(("list", "unlist")),
            "account": self.random.choice(_list_account_ids(conn)),
            "number": self.random.choice(NUMBERS),
        }

    _WEIGHTED_GENERATORS: tuple[tuple[Callable[["OperationGenerator", sqlite3.Connection], Operation], int], ...] = (
        (_generate_submit, 30),
        (_generate_transfer, 15),
        (_generate_grant, 8),
        (_generate_correction, 5),
        (_generate_message_refund, 5),
        (_generate_expiry, 5),
        (_generate_shared_form, 10),
        (_generate_order, 4),
        (_generate_payment, 6),
        (_generate_order_cancel, 2),
        (_generate_cancel, 8),
        (_generate_finish, 8),
        (_generate_due, 3),
        (_generate_blacklisting, 6),
    )


def _list_accounts(conn: sqlite3.Connection) -> list[tuple[int, int]]:
    return [(row[0], row[1]) for row in conn.execute("SELECT id, customer_id FROM accounts ORDER BY id")]


def _list_account_ids(conn: sqlite3.Connection) -> list[int]:
    return [account_id for account_id, _ in _list_accounts(conn)]


def _random_grant(rng: random.Random, account_ids: list[int], form: str) -> Operation:
    amount = rng.randrange(_AMOUNT_STEP, 20_000, _AMOUNT_STEP)
    return {"kind": "grant", "account": rng.choice(account_ids), "amount": amount, "expires_at": None, "form": form}


def _random_transfer(rng: random.Random, accounts: list[tuple[int, int]], form: str) -> Operation:
    source, customer = rng.choice(accounts)
    target = rng.choice([each for each, its_customer in accounts if its_customer == customer and each != source])
    amount = rng.randrange(_AMOUNT_STEP, 40_000, _AMOUNT_STEP)
    return {"kind": "transfer", "source": source, "target": target, "amount": amount, "form": form}


def _random_order(rng: random.Random, account_ids: list[int], form: str) -> Operation:
    return {"kind": "order", "account": rng.choice(account_ids), "pack": rng.choice(PACKS), "form": form}
