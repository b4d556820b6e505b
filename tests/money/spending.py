"""Accounts that spend all they have over SMPP, while others move credits between them: what they got for it.

Each account sends messages of one price, and in the end more than it could pay for. So it must have been given exactly
as many as its credits bought, whenever these came.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from portal import migrations
from portal.core import config as settings
from portal.core import db
from portal.core.config import FILE_NAME, Config
from portal.core.crypto import Keys
from portal.services.accounts import accounts, allowed_ips, credentials
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.credits import credits, ledger
from portal.services.operations import self_check
from portal.services.people import customers
from portal.services.prices import prices
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import Command, Status
from portal.smsc.protocol.pdu import MessageResp, Plain
from tests.serving import clean_environment, stop
from tests.smsc.esme import Esme
from tests.support import ROOT, Login, free_port

_OF_ONE_CUSTOMER = 10
# Numbers, and what a part to them costs.
_NUMBERS = {"393401234567": 730, "33612345678": 1_250, "491711234567": 999, "34612345678": 2_001, "447400123456": 3}
_LONG = 200  # two parts
# How much of what its messages would cost an account begins with, and gets meanwhile; together less than all.
_BEGINS_WITH, _GRANTED, _TRANSFERRED = (0.25, 0.55), 0.15, 0.004
_GRANTS_EACH, _TRANSFERS_EACH = 3, 20
# The last messages are sent when no more credits come.
_LAST = 0.2
_AGAIN_S = 0.05
_PATIENCE_S = 900


@dataclass
class Buyer:
    """One account with one session: its window is kept full until all its messages are answered or lost."""

    login: Login
    customer: int
    destination: str
    long: bool
    price: int
    messages: int
    window: int
    sent: int = 0
    ran_out: int = 0
    """How often a refused message followed an accepted one."""
    binds: int = 0
    accepted: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    in_doubt: set[str] = field(default_factory=set)
    _open: dict[int, str] = field(default_factory=dict)
    _last_accepted: bool = False

    @property
    def answered(self) -> int:
        return len(self.accepted) + len(self.refused) + len(self.in_doubt)

    async def run(self, port: int, no_more_credits: asyncio.Event) -> None:
        """Send everything, connecting again whenever the server is gone."""
        while self.answered < self.messages:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._session(port, no_more_credits)
            if self.answered < self.messages:
                await asyncio.sleep(_AGAIN_S)

    async def _session(self, port: int, no_more_credits: asyncio.Event) -> None:
        esme = await Esme.connect(port)
        Esme.opened.remove(esme)  # those are of tests with an event loop of their own
        try:
            status = await esme.bind(self.login.name, self.login.password)
            assert status in (0, Status.ESME_RALYBND), Status(status)
            self.binds += 1
            while self.answered < self.messages and not esme.writer.is_closing():
                self._fill(esme, no_more_credits.is_set())
                if not self._open:
                    await no_more_credits.wait()
                    continue
                self._read(esme, await esme.read())
        finally:
            self.in_doubt.update(self._open.values())
            self._open.clear()
            esme.abort()

    def _fill(self, esme: Esme, all_of_them: bool) -> None:
        most = self.messages if all_of_them else int(self.messages * (1 - _LAST))
        while len(self._open) < self.window and self.sent < most and not esme.writer.is_closing():
            text = f"{self.login.name} {self.sent}".ljust(_LONG if self.long else 0, ".")
            self.sent += 1
            message = esme.message(self.destination, text.encode(), source="SHOP", registered_delivery=0)
            self._open[message.sequence] = text
            esme.send(message)

    def _read(self, esme: Esme, message: pdu.Pdu) -> None:
        if isinstance(message, MessageResp):
            text = self._open.pop(message.sequence)
            if message.status:
                self.refused[text] = message.status
                self.ran_out += self._last_accepted
            else:
                self.accepted[text] = int(message.message_id)
            self._last_accepted = not message.status
        elif isinstance(message, Plain) and message.command == Command.ENQUIRE_LINK:
            esme.send_octets(pdu.response(message.command, message.sequence))


@dataclass
class Shop:
    """A data folder with accounts that have something to spend."""

    config: Config
    buyers: list[Buyer]
    seed: int

    @classmethod
    def open(cls, data: Path, messages: int, buyers: int, seed: int) -> Shop:
        """Make it.

        Args:
            messages: of all accounts together.
            buyers: how many accounts, ten of each customer.
        """
        chance = random.Random(seed)
        data.mkdir(parents=True)
        Keys.create(data)
        port = free_port()
        (data / FILE_NAME).write_text(f"[web]\nport = {free_port()}\n[smpp]\nport = {port}\ntls_port = 0\n")
        migrations.migrate(data / db.FILE_NAME, keep_backups=0)
        conn, keys = db.connect(data / db.FILE_NAME), Keys.load(data)
        by_country = dict(zip(("IT", "FR", "DE", "ES", "GB"), _NUMBERS.values(), strict=True))
        prices.put(conn, SHELL, by_country)
        made = []
        for number in range(buyers):
            if number % _OF_ONE_CUSTOMER == 0:
                customer = customers.add(conn, SHELL, f"Customer {number}", "mail@shop.example")
            account = accounts.add(conn, SHELL, customer.id, windowing=0, throughput=0, binds=0, any_sender=True)
            allowed_ips.add(conn, SHELL, account, "127.0.0.1")
            password = credentials.regenerate(conn, keys, SHELL, account, send_mail=False)
            destination, long = chance.choice(list(_NUMBERS)), chance.random() < 0.3
            price, each = _NUMBERS[destination] * (1 + long), messages // buyers
            login = Login(account.id, account.name, password)
            window = chance.randint(10, 25)
            made.append(Buyer(login, customer.id, destination, long, price, each, window))
            credits.grant(conn, SHELL, account, int(each * price * chance.uniform(*_BEGINS_WITH)) + 1)
        conn.close()
        return cls(settings.load(data=data, env={}), made, seed)

    def trade(self, kills: int = 0) -> dict[str, int]:
        """Have everything sent to the real SMPP server, moving credits meanwhile; returns what was counted.

        Args:
            kills: how often the server is killed (SIGKILL) and started again meanwhile.
        """
        return asyncio.run(self._trade(kills))

    async def _trade(self, kills: int) -> dict[str, int]:
        no_more_credits, counts = asyncio.Event(), Counter[str]()
        chance = random.Random(f"{self.seed} kills")
        kill_at = sorted(chance.uniform(0.05, 1 - _LAST - 0.05) for _ in range(kills))
        server = _Smsc(self.config)
        server.start()
        try:
            # Buyers never give up by themselves.
            async with asyncio.timeout(_PATIENCE_S), asyncio.TaskGroup() as group:
                for buyer in self.buyers:
                    group.create_task(buyer.run(self.config.smpp.port, no_more_credits))
                group.create_task(self._move_credits(no_more_credits, counts))
                for each in kill_at:
                    await self._until(each)
                    # Not only between two commits.
                    await asyncio.sleep(chance.uniform(0, 0.02))
                    await asyncio.to_thread(server.kill)
                    server.start()
        finally:
            server.stop()
        total = sum(each.messages for each in self.buyers)
        refused = sum(len(each.refused) for each in self.buyers)
        return {
            "submits": total,
            "accepted": sum(len(each.accepted) for each in self.buyers),
            "refused": refused,
            "in doubt": sum(len(each.in_doubt) for each in self.buyers),
            "accounts": len(self.buyers),
            "refused after an accepted one": sum(each.ran_out for each in self.buyers),
            "kills": kills,
            "binds": sum(each.binds for each in self.buyers),
            **counts,
        }

    @property
    def _progress(self) -> float:
        """How much has been answered, of all."""
        return sum(each.answered for each in self.buyers) / sum(each.messages for each in self.buyers)

    async def _until(self, progress: float) -> None:
        while self._progress < progress:
            await asyncio.sleep(0.002)

    async def _move_credits(self, no_more_credits: asyncio.Event, counts: Counter[str]) -> None:
        """Grants and transfers beside the submits, spread over all but the last of them."""
        chance, conn = random.Random(f"{self.seed} credits"), db.connect(self.config.data / db.FILE_NAME)
        moves = ["grant"] * (_GRANTS_EACH * len(self.buyers)) + ["transfer"] * (_TRANSFERS_EACH * len(self.buyers))
        chance.shuffle(moves)
        for number, move in enumerate(moves):
            await self._until((1 - _LAST) * 0.95 * number / len(moves))
            buyer = chance.choice(self.buyers)
            try:
                await asyncio.to_thread(self._move, conn, move, buyer, chance)
                counts[f"{move}s"] += 1
            except ledger.NotEnoughCredits:
                counts["transfers refused"] += 1
        conn.close()
        no_more_credits.set()

    def _move(self, conn: sqlite3.Connection, move: str, buyer: Buyer, chance: random.Random) -> None:
        account, all_of_it = accounts.by_name(conn, buyer.login.name), buyer.price * buyer.messages
        if move == "grant":
            credits.grant(conn, SHELL, account, 1 + int(all_of_it * _GRANTED / _GRANTS_EACH / 3 * chance.random()))
            return
        others = [each for each in self.buyers if each.customer == buyer.customer and each is not buyer]
        target = chance.choice(others)
        least = min(all_of_it, target.price * target.messages)
        amount = 1 + int(least * _TRANSFERRED * chance.random())
        credits.transfer(conn, SHELL, account, accounts.by_name(conn, target.login.name), amount)

    # --- what they got for it

    def problems(self) -> Iterator[str]:
        """All that is not as it must be."""
        conn = db.connect(self.config.data / db.FILE_NAME)
        yield from self_check.problems(conn)
        for buyer in self.buyers:
            for each in self._wrong_with(conn, buyer):
                yield f"{buyer.login.name}: {each}"
        conn.close()

    def _wrong_with(self, conn: sqlite3.Connection, buyer: Buyer) -> Iterator[str]:
        account_id = buyer.login.id
        rows = conn.execute("SELECT id, text, price, ptt FROM messages WHERE account_id = ?", (account_id,)).fetchall()
        charged = {row["text"]: row["id"] for row in rows if row["price"]}
        refused = {row["text"] for row in rows if not row["price"]}
        if len(rows) != len(charged) + len(refused) or charged.keys() & refused:
            yield "a message is there twice"
        if {row["price"] for row in rows} - {0, buyer.price}:
            yield "a message cost something else"
        paid = conn.execute(
            "SELECT sum(amount) FROM movements WHERE account_id = ? AND kind <> 'usage'", (account_id,)
        ).fetchone()[0]
        balance = credits.balance(conn, account_id)
        if len(charged) != paid // buyer.price or balance != paid % buyer.price:
            yield f"{len(charged)} taken and {balance} left, where {paid} buys {paid // buyer.price}"
        if any(charged.get(text) != message_id for text, message_id in buyer.accepted.items()):
            yield "accepted, and not there"
        if buyer.refused.keys() & charged.keys():
            yield "refused, and charged"
        if set(buyer.refused.values()) - {Status.ESME_RSUBMITFAIL}:
            yield f"refused with {Counter(buyer.refused.values())}"
        if not charged.keys() <= buyer.accepted.keys() | buyer.in_doubt:
            yield "charged, and not sent"
        if not buyer.in_doubt and len(buyer.accepted) + len(buyer.refused) != len(rows):
            yield f"{len(rows)} are there, {len(buyer.accepted)} were accepted and {len(buyer.refused)} refused"
        yield from self._refused_too_early(conn, buyer)

    def _refused_too_early(self, conn: sqlite3.Connection, buyer: Buyer) -> Iterator[str]:
        """Messages that were refused although the credits of the milliseconds before covered them."""
        events: list[tuple[int, int, int, bool]] = []
        for message_id, price in conn.execute("SELECT id, price FROM messages WHERE account_id = ?", (buyer.login.id,)):
            events.append((ids.time_of(message_id), 1, -price, not price))
        for movement_id, amount in conn.execute(
            "SELECT id, amount FROM movements WHERE account_id = ? AND kind <> 'usage'", (buyer.login.id,)
        ):
            # Of the same millisecond: what came may have come afterwards, and what went before.
            events.append((ids.time_of(movement_id), 2 if amount > 0 else 0, amount, False))
        balance = 0
        for at, _, amount, refused in sorted(events, key=lambda each: each[:2]):
            balance += amount
            if refused and balance >= buyer.price:
                yield f"refused at {at}, and {balance} were there"
                return


class _Smsc:
    """The SMPP server as a process, which can be killed and started again. Its log is in the data folder."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [sys.executable, ROOT / "app.py", "smsc", "--data", self._config.data]
        with (self._config.data / "server.log").open("ab") as log:
            self._process = subprocess.Popen(words, env=clean_environment(), stderr=log)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        stop(self._process)
