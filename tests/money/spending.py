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
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import HeaderOnlyPdu, MessageResp
from tests.serving import clean_environment, stop_process
from tests.smsc.esme import RawEsme
from tests.support import ROOT, AccountLogin, find_free_port

_ACCOUNTS_PER_CUSTOMER = 10
# Numbers, and what a part to them costs.
_PRICES_BY_NUMBER = {
    "393401234567": 730,
    "33612345678": 1_250,
    "491711234567": 999,
    "34612345678": 2_001,
    "447400123456": 3,
}
_LONG_TEXT_LENGTH = 200  # two parts
# How much of what its messages would cost an account begins with, and gets meanwhile; together less than all.
_INITIAL_SHARES, _GRANTED_SHARE, _TRANSFERRED_SHARE = (0.25, 0.55), 0.15, 0.004
_GRANTS_PER_ACCOUNT, _TRANSFERS_PER_ACCOUNT = 3, 20
# The last messages are sent when no more credits come.
_FINAL_SHARE = 0.2
_RECONNECT_S = 0.05
_TIMEOUT_S = 900


@dataclass
class SpendingClient:
    """One account with one session: its window is kept full until all its messages are answered or lost."""

    login: AccountLogin
    customer: int
    destination: str
    is_long: bool
    price: int
    messages: int
    window: int
    sent: int = 0
    refused_after_accepted: int = 0
    """How often a refused message followed an accepted one."""
    binds: int = 0
    accepted: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    in_doubt: set[str] = field(default_factory=set)
    _pending: dict[int, str] = field(default_factory=dict)
    _last_accepted: bool = False

    @property
    def answered(self) -> int:
        return len(self.accepted) + len(self.refused) + len(self.in_doubt)

    async def run(self, port: int, no_more_credits: asyncio.Event) -> None:
        """Send everything, connecting again whenever the server is gone."""
        while self.answered < self.messages:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._run_session(port, no_more_credits)
            if self.answered < self.messages:
                await asyncio.sleep(_RECONNECT_S)

    async def _run_session(self, port: int, no_more_credits: asyncio.Event) -> None:
        esme = await RawEsme.connect(port)
        RawEsme.open_connections.remove(esme)  # those are of tests with an event loop of their own
        try:
            status = await esme.bind(self.login.name, self.login.password)
            assert status in (0, CommandStatus.ESME_RALYBND), CommandStatus(status)
            self.binds += 1
            while self.answered < self.messages and not esme.writer.is_closing():
                self._fill_window(esme, no_more_credits.is_set())
                if not self._pending:
                    await no_more_credits.wait()
                    continue
                self._handle_pdu(esme, await esme.read_pdu())
        finally:
            self.in_doubt.update(self._pending.values())
            self._pending.clear()
            esme.abort()

    def _fill_window(self, esme: RawEsme, credits_final: bool) -> None:
        max_sent = self.messages if credits_final else int(self.messages * (1 - _FINAL_SHARE))
        while len(self._pending) < self.window and self.sent < max_sent and not esme.writer.is_closing():
            text = f"{self.login.name} {self.sent}".ljust(_LONG_TEXT_LENGTH if self.is_long else 0, ".")
            self.sent += 1
            message = esme.build_submit_sm(self.destination, text.encode(), source="SHOP", registered_delivery=0)
            self._pending[message.sequence] = text
            esme.send(message)

    def _handle_pdu(self, esme: RawEsme, message: pdu.Pdu) -> None:
        if isinstance(message, MessageResp):
            text = self._pending.pop(message.sequence)
            if message.status:
                self.refused[text] = message.status
                self.refused_after_accepted += self._last_accepted
            else:
                self.accepted[text] = int(message.message_id)
            self._last_accepted = not message.status
        elif isinstance(message, HeaderOnlyPdu) and message.command == CommandId.ENQUIRE_LINK:
            esme.send_octets(pdu.encode_response(message.command, message.sequence))


@dataclass
class SpendingScenario:
    """A data folder with accounts that have something to spend."""

    config: Config
    clients: list[SpendingClient]
    seed: int

    @classmethod
    def create(cls, data: Path, messages: int, client_count: int, seed: int) -> SpendingScenario:
        """Make it.

        Args:
            messages: of all accounts together.
            buyers: how many accounts, ten of each customer.
        """
        rng = random.Random(seed)
        data.mkdir(parents=True)
        Keys.create(data)
        port = find_free_port()
        (data / FILE_NAME).write_text(f"[web]\nport = {find_free_port()}\n[smpp]\nport = {port}\ntls_port = 0\n")
        migrations.migrate(data / db.FILE_NAME)
        conn, keys = db.connect(data / db.FILE_NAME), Keys.load(data)
        by_country = dict(zip(("IT", "FR", "DE", "ES", "GB"), _PRICES_BY_NUMBER.values(), strict=True))
        prices.set_prices(conn, SHELL, by_country)
        clients = []
        for number in range(client_count):
            if number % _ACCOUNTS_PER_CUSTOMER == 0:
                customer = customers.create_customer(conn, SHELL, f"Customer {number}", "mail@shop.example")
            account = accounts.create_account(
                conn, SHELL, customer.id, windowing=0, throughput=0, binds=0, any_sender=True
            )
            allowed_ips.add_allowed_ip(conn, SHELL, account, "127.0.0.1")
            password = credentials.regenerate_smpp_password(conn, keys, SHELL, account, send_mail=False)
            destination, long = rng.choice(list(_PRICES_BY_NUMBER)), rng.random() < 0.3
            price, each = _PRICES_BY_NUMBER[destination] * (1 + long), messages // client_count
            login = AccountLogin(account.id, account.name, password)
            window = rng.randint(10, 25)
            clients.append(SpendingClient(login, customer.id, destination, long, price, each, window))
            credits.grant_credits(conn, SHELL, account, int(each * price * rng.uniform(*_INITIAL_SHARES)) + 1)
        conn.close()
        return cls(settings.load_config(data=data, env={}), clients, seed)

    def run_scenario(self, kills: int = 0) -> dict[str, int]:
        """Have everything sent to the real SMPP server, moving credits meanwhile; returns what was counted.

        Args:
            kills: how often the server is killed (SIGKILL) and started again meanwhile.
        """
        return asyncio.run(self._run_scenario(kills))

    async def _run_scenario(self, kills: int) -> dict[str, int]:
        no_more_credits, counts = asyncio.Event(), Counter[str]()
        rng = random.Random(f"{self.seed} kills")
        kill_at = sorted(rng.uniform(0.05, 1 - _FINAL_SHARE - 0.05) for _ in range(kills))
        server = _SmscProcess(self.config)
        server.start()
        try:
            # Buyers never give up by themselves.
            async with asyncio.timeout(_TIMEOUT_S), asyncio.TaskGroup() as group:
                for client in self.clients:
                    group.create_task(client.run(self.config.smpp.port, no_more_credits))
                group.create_task(self._move_credits(no_more_credits, counts))
                for each in kill_at:
                    await self._wait_for_progress(each)
                    # Not only between two commits.
                    await asyncio.sleep(rng.uniform(0, 0.02))
                    await asyncio.to_thread(server.kill)
                    server.start()
        finally:
            server.stop()
        total = sum(each.messages for each in self.clients)
        refused = sum(len(each.refused) for each in self.clients)
        return {
            "submits": total,
            "accepted": sum(len(each.accepted) for each in self.clients),
            "refused": refused,
            "in doubt": sum(len(each.in_doubt) for each in self.clients),
            "accounts": len(self.clients),
            "refused after an accepted one": sum(each.refused_after_accepted for each in self.clients),
            "kills": kills,
            "binds": sum(each.binds for each in self.clients),
            **counts,
        }

    @property
    def _progress(self) -> float:
        """How much has been answered, of all."""
        return sum(each.answered for each in self.clients) / sum(each.messages for each in self.clients)

    async def _wait_for_progress(self, progress: float) -> None:
        while self._progress < progress:
            await asyncio.sleep(0.002)

    async def _move_credits(self, no_more_credits: asyncio.Event, counts: Counter[str]) -> None:
        """Grants and transfers beside the submits, spread over all but the last of them."""
        rng, conn = random.Random(f"{self.seed} credits"), db.connect(self.config.data / db.FILE_NAME)
        moves = ["grant"] * (_GRANTS_PER_ACCOUNT * len(self.clients)) + ["transfer"] * (
            _TRANSFERS_PER_ACCOUNT * len(self.clients)
        )
        rng.shuffle(moves)
        for number, move in enumerate(moves):
            await self._wait_for_progress((1 - _FINAL_SHARE) * 0.95 * number / len(moves))
            client = rng.choice(self.clients)
            try:
                await asyncio.to_thread(self._grant_or_transfer, conn, move, client, rng)
                counts[f"{move}s"] += 1
            except ledger.NotEnoughCredits:
                counts["transfers refused"] += 1
        conn.close()
        no_more_credits.set()

    def _grant_or_transfer(
        self, conn: sqlite3.Connection, move: str, client: SpendingClient, rng: random.Random
    ) -> None:
        account, full_price = accounts.get_account(conn, client.login.name), client.price * client.messages
        if move == "grant":
            credits.grant_credits(
                conn, SHELL, account, 1 + int(full_price * _GRANTED_SHARE / _GRANTS_PER_ACCOUNT / 3 * rng.random())
            )
            return
        others = [each for each in self.clients if each.customer == client.customer and each is not client]
        target = rng.choice(others)
        lower_price = min(full_price, target.price * target.messages)
        amount = 1 + int(lower_price * _TRANSFERRED_SHARE * rng.random())
        credits.transfer_credits(conn, SHELL, account, accounts.get_account(conn, target.login.name), amount)

    # --- what they got for it

    def find_problems(self) -> Iterator[str]:
        """All that is not as it must be."""
        conn = db.connect(self.config.data / db.FILE_NAME)
        yield from self_check.list_problem_texts(conn)
        for client in self.clients:
            for each in self._find_client_problems(conn, client):
                yield f"{client.login.name}: {each}"
        conn.close()

    def _find_client_problems(self, conn: sqlite3.Connection, client: SpendingClient) -> Iterator[str]:
        account_id = client.login.id
        rows = conn.execute("SELECT id, text, price, ptt FROM messages WHERE account_id = ?", (account_id,)).fetchall()
        charged = {row["text"]: row["id"] for row in rows if row["price"]}
        refused = {row["text"] for row in rows if not row["price"]}
        if len(rows) != len(charged) + len(refused) or charged.keys() & refused:
            yield "a message is there twice"
        if {row["price"] for row in rows} - {0, client.price}:
            yield "a message cost something else"
        paid = conn.execute(
            "SELECT sum(amount) FROM movements WHERE account_id = ? AND kind <> 'usage'", (account_id,)
        ).fetchone()[0]
        balance = credits.get_balance(conn, account_id)
        if len(charged) != paid // client.price or balance != paid % client.price:
            yield f"{len(charged)} taken and {balance} left, where {paid} buys {paid // client.price}"
        if any(charged.get(text) != message_id for text, message_id in client.accepted.items()):
            yield "accepted, and not there"
        if client.refused.keys() & charged.keys():
            yield "refused, and charged"
        if set(client.refused.values()) - {CommandStatus.ESME_RSUBMITFAIL}:
            yield f"refused with {Counter(client.refused.values())}"
        if not charged.keys() <= client.accepted.keys() | client.in_doubt:
            yield "charged, and not sent"
        if not client.in_doubt and len(client.accepted) + len(client.refused) != len(rows):
            yield f"{len(rows)} are there, {len(client.accepted)} were accepted and {len(client.refused)} refused"
        yield from self._find_early_refusals(conn, client)

    def _find_early_refusals(self, conn: sqlite3.Connection, client: SpendingClient) -> Iterator[str]:
        """Messages that were refused although the credits of the milliseconds before covered them."""
        events: list[tuple[int, int, int, bool]] = []
        for message_id, price in conn.execute(
            "SELECT id, price FROM messages WHERE account_id = ?", (client.login.id,)
        ):
            events.append((ids.time_from_id(message_id), 1, -price, not price))
        for movement_id, amount in conn.execute(
            "SELECT id, amount FROM movements WHERE account_id = ? AND kind <> 'usage'", (client.login.id,)
        ):
            # Of the same millisecond: what came may have come afterwards, and what went before.
            events.append((ids.time_from_id(movement_id), 2 if amount > 0 else 0, amount, False))
        balance = 0
        for at, _, amount, refused in sorted(events, key=lambda each: each[:2]):
            balance += amount
            if refused and balance >= client.price:
                yield f"refused at {at}, and {balance} were there"
                return


class _SmscProcess:
    """The SMPP server as a process, which can be killed and started again. Its log is in the data folder."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words: list[str | Path] = [sys.executable, ROOT / "app.py", "smsc", "--data", self._config.data]
        with (self._config.data / "server.log").open("ab") as log:
            self._process = subprocess.Popen(words, env=clean_environment(), stderr=log)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        stop_process(self._process)
