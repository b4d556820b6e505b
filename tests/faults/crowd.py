"""Clients under load that never give up, and that remember every word of the server."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import Command, Tag
from portal.smsc.protocol.pdu import DeliverSm, MessageResp, Pdu, Plain
from tests.smsc.esme import Esme
from tests.support import Login, eventually

WINDOW = 10
_BACKLOG = 100
_AGAIN_S = 0.02
_REFUSED_S = 0.05


class Client:
    """A transceiver: keeps its window full, answers receipts, and binds again whenever it is cut off.

    Each message has a text of its own and is sent once, so what is stored twice was stored twice by the server.
    """

    def __init__(self, port: int, login: Login, name: str, backlog: int) -> None:
        self.name = name
        self.acknowledged: dict[str, int] = {}
        """Text to message_id."""
        self.receipts: Counter[int] = Counter()
        self.refused: dict[str, int] = {}
        """Text to status."""
        self.in_doubt = 0
        """Submits whose answer was lost with the connection."""
        self.binds = 0
        self.sends = True
        self._port = port
        self._backlog = backlog
        self._login = login
        self._number = 0
        self._open: dict[int, str] = {}
        self._esme: Esme | None = None

    async def run(self) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await self._session()
            await asyncio.sleep(_AGAIN_S)

    async def _session(self) -> None:
        esme = await Esme.connect(self._port)
        Esme.opened.remove(esme)  # which is of the test's own event loop
        try:
            if await esme.bind(self._login.name, self._login.password):
                return
            self.binds += 1
            self._esme = esme
            self.fill()
            while not self._ends(esme, await esme.read()):
                pass
        finally:
            self._esme = None
            self.in_doubt += len(self._open)
            self._open.clear()
            esme.abort()

    def fill(self) -> None:
        """Send as much as the window takes."""
        esme = self._esme
        while esme and self.sends and len(self._open) < WINDOW and self.waiting < self._backlog:
            self._number += 1
            text = f"{self.name} {self._number}"
            message = esme.message(text=text.encode(), source="LOAD")
            self._open[message.sequence] = text
            esme.send(message)

    @property
    def unanswered(self) -> int:
        return len(self._open)

    @property
    def bound(self) -> bool:
        return self._esme is not None

    @property
    def waiting(self) -> int:
        """Acknowledged messages whose receipt hasn't come, not counting those that came before their answer."""
        return len(self.acknowledged) - len(self.receipts)

    def _ends(self, esme: Esme, message: Pdu) -> bool:
        if isinstance(message, MessageResp):
            text = self._open.pop(message.sequence)
            if message.status:
                self.refused[text] = message.status
                asyncio.get_running_loop().call_later(_REFUSED_S, self.fill)
                return False
            self.acknowledged[text] = int(message.message_id)
        elif isinstance(message, DeliverSm):
            self.receipts[int(message.tlvs[Tag.RECEIPTED_MESSAGE_ID].rstrip(b"\0"))] += 1
            esme.send(MessageResp(Command.DELIVER_SM_RESP, message.sequence))
        elif isinstance(message, Plain) and message.command in (Command.ENQUIRE_LINK, Command.UNBIND):
            esme.send_octets(pdu.response(message.command, message.sequence))
            return message.command == Command.UNBIND
        self.fill()
        return False


class Crowd:
    """Clients in a thread of their own, so that a test can wait, kill and mount beside them."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self.clients = clients
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="crowd")
        self._ended = asyncio.Event()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._all())
        self._loop.close()

    async def _all(self) -> None:
        tasks = [asyncio.create_task(each.run()) for each in self.clients]
        await self._ended.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.gather(*tasks, return_exceptions=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    # --- what it has seen

    @property
    def acknowledged(self) -> int:
        return sum(len(each.acknowledged) for each in self.clients)

    @property
    def refused(self) -> Counter[int]:
        return Counter(status for each in self.clients for status in list(each.refused.values()))

    @property
    def binds(self) -> int:
        return sum(each.binds for each in self.clients)

    @property
    def in_doubt(self) -> int:
        return sum(each.in_doubt for each in self.clients)

    def ids(self) -> dict[int, str]:
        """Every message_id that was given out, with its text."""
        pairs = [(number, text) for each in self.clients for text, number in list(each.acknowledged.items())]
        found = dict(pairs)
        assert len(found) == len(pairs), "a message_id was given out twice"
        return found

    def receipts(self) -> Counter[int]:
        return sum((Counter(dict(each.receipts)) for each in self.clients), Counter())

    # --- waiting for it

    def more(self, messages: int, deadline_s: float = 30) -> None:
        """Wait until so many messages more have been acknowledged."""
        wanted = self.acknowledged + messages
        eventually(lambda: self.acknowledged >= wanted, deadline_s)

    def all_have_sent(self, messages: int, deadline_s: float = 30) -> None:
        """Wait until each client has had so many messages more acknowledged."""
        before = [len(each.acknowledged) for each in self.clients]
        eventually(
            lambda: all(
                len(each.acknowledged) >= had + messages for each, had in zip(self.clients, before, strict=True)
            ),
            deadline_s,
        )

    def stop_sending(self, deadline_s: float = 30) -> None:
        """Have every client send nothing any more, and wait until it knows what became of what it has sent."""
        for each in self.clients:
            each.sends = False
        eventually(lambda: not any(each.unanswered for each in self.clients), deadline_s)

    def without_receipt(self) -> set[int]:
        return self.ids().keys() - self.receipts().keys()


@contextmanager
def crowd(port: int, *logins: Login, backlog: int = _BACKLOG) -> Iterator[Crowd]:
    """Clients at work until the block ends: one for each login that is named.

    A client to which so many receipts are owed (`backlog`) sends nothing, so that a long test doesn't fill the disk.
    """
    made = Crowd([Client(port, login, f"{number} {login.name}", backlog) for number, login in enumerate(logins)])
    made.start()
    try:
        yield made
    finally:
        made.end()
