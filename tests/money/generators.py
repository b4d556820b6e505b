"""Operations as chance would have them, about what is there."""

import random
import sqlite3
from collections.abc import Callable
from typing import Any

from portal.core.clock import now_ms
from portal.services.common.message_states import DELIVERED, ENROUTE, EXPIRED, UNDELIVERABLE
from portal.services.messages.validation import VALIDITY_MS
from tests.money.operations import Operation

NUMBERS = tuple(f"3934012345{number:02}" for number in range(12))
SOURCES = ("ACME", "GLOBEX")
# What a part costs, by country. All amounts are multiples of the same, so that some balances are spent to the end.
PRICES = {"IT": 500, "FR": 1_250, "US": 2_750}
_STEP = 250
PACKS = (100_000, 200_000)
_FATES = ((DELIVERED, 0), (DELIVERED, 0), (UNDELIVERABLE, 800), (EXPIRED, 801))
_SOON_MS = 5_000
_EXPIRES_WITHIN_MS = 300
_SHARED_FORMS = 12


class Chance:
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

    def operation(self, conn: sqlite3.Connection) -> Operation:
        think = self.random.choices([each for each, _ in self._THINK], [weight for _, weight in self._THINK])[0]
        return think(self, conn)

    def _form(self) -> str:
        self._forms += 1
        return f"{self._seed}-{self._forms}"

    def _submit(self, conn: sqlite3.Connection) -> Operation:
        chance, now, batch = self.random, now_ms(), []
        ids = _account_ids(conn)
        for _ in range(chance.choice((1, 2, 5, 20, 60))):
            country = chance.choice(tuple(PRICES))
            parts = chance.choice((1, 1, 1, 2, 5))
            scheduled_at = now + chance.randrange(1, _SOON_MS) if chance.random() < 0.25 else None
            expires_at = None if scheduled_at is None else scheduled_at + VALIDITY_MS
            if chance.random() < 0.15:
                expires_at = (scheduled_at or now) + chance.randrange(1, _SOON_MS)
            price = parts * PRICES[country]
            source = chance.choice(SOURCES)
            batch.append(
                [chance.choice(ids), chance.choice(NUMBERS), parts, price, source, country, scheduled_at, expires_at]
            )
        return {"kind": "submit", "batch": batch}

    def _grant(self, conn: sqlite3.Connection) -> Operation:
        operation = _grant(self.random, _account_ids(conn), self._form())
        if self.random.random() < 0.5:
            operation["expires_at"] = now_ms() + self.random.randrange(20, _EXPIRES_WITHIN_MS)
            operation["amount"] *= 4  # or there would be nothing left of it
        return operation

    def _correct(self, conn: sqlite3.Connection) -> Operation:
        kind = self.random.choice(("correct", "refund"))
        amount = (
            self.random.randrange(-20_000, 20_000, _STEP)
            if kind == "correct"
            else self.random.randrange(_STEP, 5_000, _STEP)
        )
        account = self.random.choice(_account_ids(conn))
        return {"kind": kind, "account": account, "amount": amount or -_STEP, "form": self._form()}

    def _refund_message(self, conn: sqlite3.Connection) -> Operation:
        # Mostly of those that have an end; now and then one that is on its way, or cost nothing.
        which = "price > 0 AND state <> 1" if self.random.random() < 0.9 else "true"
        rows = conn.execute(f"SELECT id, text FROM messages WHERE {which} ORDER BY id DESC LIMIT 30").fetchall()
        return {"kind": "refund message", "message": list(self.random.choice(rows))} if rows else self._submit(conn)

    def _transfer(self, conn: sqlite3.Connection) -> Operation:
        return _transfer(self.random, _accounts(conn), self._form())

    def _order(self, conn: sqlite3.Connection) -> Operation:
        return _order(self.random, _account_ids(conn), self._form())

    def _shared(self, conn: sqlite3.Connection) -> Operation:
        """A form that other processes send too, at the same time or later: it happens once."""
        number = self.random.randrange(_SHARED_FORMS)
        same = random.Random(f"{self._round_seed}-{number}")
        form = f"{self._round_seed}-shared-{number}"
        kind = same.randrange(3)
        if kind == 0:
            return _grant(same, _account_ids(conn), form)
        return _transfer(same, _accounts(conn), form) if kind == 1 else _order(same, _account_ids(conn), form)

    def _pay(self, conn: sqlite3.Connection) -> Operation:
        return self._about_an_order(conn, "pay")

    def _cancel_order(self, conn: sqlite3.Connection) -> Operation:
        return self._about_an_order(conn, "cancel order")

    def _about_an_order(self, conn: sqlite3.Connection, kind: str) -> Operation:
        # Mostly open ones; now and then one that is closed already.
        rows = conn.execute("SELECT id, paid_at IS NULL AND cancelled_at IS NULL FROM orders ORDER BY id").fetchall()
        still_open = [row[0] for row in rows if row[1]]
        if not rows:
            return self._order(conn)
        chosen = still_open if still_open and self.random.random() < 0.9 else [row[0] for row in rows]
        return {"kind": kind, "order": self.random.choice(chosen)}

    def _cancel(self, conn: sqlite3.Connection) -> Operation:
        messages = self._messages(conn, 3)
        return {"kind": "cancel", "messages": messages} if messages else self._submit(conn)

    def _finish(self, conn: sqlite3.Connection) -> Operation:
        messages = self._messages(conn, 10)
        ended = [[each, text, *self.random.choice(_FATES)] for each, text, _ in messages]
        return {"kind": "finish", "messages": ended} if ended else self._submit(conn)

    def _messages(self, conn: sqlite3.Connection, most: int) -> list[list[Any]]:
        """Some that have no end yet, each once: two processes may well have chosen the same."""
        rows = conn.execute(
            "SELECT id, text, scheduled_at IS NOT NULL AND due_at IS scheduled_at FROM messages"
            f" WHERE state = {ENROUTE} ORDER BY id DESC LIMIT 30"
        ).fetchall()
        chosen = self.random.sample(rows, min(len(rows), self.random.randint(1, most)))
        return [[message_id, text, bool(waits)] for message_id, text, waits in chosen]

    def _due(self, conn: sqlite3.Connection) -> Operation:
        return {"kind": "due", "now": now_ms() + self.random.randrange(_SOON_MS)}

    def _expire(self, conn: sqlite3.Connection) -> Operation:
        return {"kind": "expire", "now": None}

    def _list(self, conn: sqlite3.Connection) -> Operation:
        return {
            "kind": self.random.choice(("list", "unlist")),
            "account": self.random.choice(_account_ids(conn)),
            "number": self.random.choice(NUMBERS),
        }

    _THINK: tuple[tuple[Callable[["Chance", sqlite3.Connection], Operation], int], ...] = (
        (_submit, 30),
        (_transfer, 15),
        (_grant, 8),
        (_correct, 5),
        (_refund_message, 5),
        (_expire, 5),
        (_shared, 10),
        (_order, 4),
        (_pay, 6),
        (_cancel_order, 2),
        (_cancel, 8),
        (_finish, 8),
        (_due, 3),
        (_list, 6),
    )


def _accounts(conn: sqlite3.Connection) -> list[tuple[int, int]]:
    return [(row[0], row[1]) for row in conn.execute("SELECT id, customer_id FROM accounts ORDER BY id")]


def _account_ids(conn: sqlite3.Connection) -> list[int]:
    return [account_id for account_id, _ in _accounts(conn)]


def _grant(chance: random.Random, account_ids: list[int], form: str) -> Operation:
    amount = chance.randrange(_STEP, 20_000, _STEP)
    return {"kind": "grant", "account": chance.choice(account_ids), "amount": amount, "expires_at": None, "form": form}


def _transfer(chance: random.Random, accounts: list[tuple[int, int]], form: str) -> Operation:
    source, customer = chance.choice(accounts)
    target = chance.choice([each for each, its_customer in accounts if its_customer == customer and each != source])
    amount = chance.randrange(_STEP, 40_000, _STEP)
    return {"kind": "transfer", "source": source, "target": target, "amount": amount, "form": form}


def _order(chance: random.Random, account_ids: list[int], form: str) -> Operation:
    return {"kind": "order", "account": chance.choice(account_ids), "pack": chance.choice(PACKS), "form": form}
