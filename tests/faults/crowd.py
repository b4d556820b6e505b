"""Clients that send under load, reconnect whenever they are cut off, and record all answers of the server."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import CommandId, TlvTag
from portal.smsc.protocol.pdu import DeliverSm, HeaderOnlyPdu, MessageResp, Pdu
from tests.smsc.esme import RawEsme
from tests.support import AccountLogin, wait_until

WINDOW = 10
# The simulator delivers what is to this one and to the next 800.
_FIRST_DESTINATION = 393331234100
_MAX_PENDING_RECEIPTS = 100
_RECONNECT_S = 0.02
_REFUSAL_PAUSE_S = 0.05


class LoadClient:
    """A transceiver: keeps its window full, answers receipts, and binds again whenever it is cut off.

    Each message has a text of its own and is sent once, so what is stored twice was stored twice by the server.
    """

    def __init__(
        self, port: int, login: AccountLogin, name: str, backlog: int, destinations: int, unasked_every: int
    ) -> None:
        self.name = name
        self.acknowledged: dict[str, int] = {}
        """Text to message_id."""
        self.unasked: set[int] = set()
        """The message_ids of those that have asked for no receipt."""
        self.receipts: Counter[int] = Counter()
        self.final_states: dict[int, int] = {}
        """message_id to what its last receipt says."""
        self.refused: dict[str, int] = {}
        """Text to status."""
        self.in_doubt = 0
        """Submits whose answer was lost with the connection."""
        self.binds = 0
        self.is_sending = True
        self._port = port
        self._backlog = backlog
        self._destinations = destinations
        self._unasked_every = unasked_every
        self._login = login
        self._number = 0
        self._pending: dict[int, str] = {}
        self._esme: RawEsme | None = None

    async def run(self) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await self._run_session()
            await asyncio.sleep(_RECONNECT_S)

    async def _run_session(self) -> None:
        esme = await RawEsme.connect(self._port)
        RawEsme.open_connections.remove(esme)  # which is of the test's own event loop
        try:
            if await esme.bind(self._login.name, self._login.password):
                return
            self.binds += 1
            self._esme = esme
            self.fill_window()
            while not self._handle_pdu(esme, await esme.read_pdu()):
                pass
        finally:
            self._esme = None
            self.in_doubt += len(self._pending)
            self._pending.clear()
            esme.abort()

    def fill_window(self) -> None:
        """Send as much as the window takes."""
        esme = self._esme
        while esme and self.is_sending and len(self._pending) < WINDOW and self.pending_receipts < self._backlog:
            self._number += 1
            text = f"{self.name} {self._number}"
            message = esme.build_submit_sm(
                str(_FIRST_DESTINATION + self._number % self._destinations),
                text.encode(),
                source="LOAD",
                registered_delivery=int(self._asks(self._number)),
            )
            self._pending[message.sequence] = text
            esme.send(message)

    def _asks(self, number: int) -> bool:
        return not self._unasked_every or number % self._unasked_every > 0

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    @property
    def is_bound(self) -> bool:
        return self._esme is not None

    @property
    def pending_receipts(self) -> int:
        """Acknowledged messages whose receipt hasn't come, not counting those that came before their answer."""
        return len(self.acknowledged) - len(self.unasked) - len(self.receipts)

    def _handle_pdu(self, esme: RawEsme, message: Pdu) -> bool:
        if isinstance(message, MessageResp):
            text = self._pending.pop(message.sequence)
            if message.status:
                self.refused[text] = message.status
                asyncio.get_running_loop().call_later(_REFUSAL_PAUSE_S, self.fill_window)
                return False
            self.acknowledged[text] = message_id = int(message.message_id)
            if not self._asks(int(text.rpartition(" ")[2])):
                self.unasked.add(message_id)
        elif isinstance(message, DeliverSm):
            message_id = int(message.tlvs[TlvTag.RECEIPTED_MESSAGE_ID].rstrip(b"\0"))
            self.receipts[message_id] += 1
            (self.final_states[message_id],) = message.tlvs[TlvTag.MESSAGE_STATE]
            esme.send(MessageResp(CommandId.DELIVER_SM_RESP, message.sequence))
        elif isinstance(message, HeaderOnlyPdu) and message.command in (CommandId.ENQUIRE_LINK, CommandId.UNBIND):
            esme.send_octets(pdu.encode_response(message.command, message.sequence))
            return message.command == CommandId.UNBIND
        self.fill_window()
        return False


class ClientCrowd:
    """Clients in a thread of their own, so that a test can wait, kill and mount beside them."""

    def __init__(self, clients: Sequence[LoadClient]) -> None:
        self.clients = clients
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="crowd")
        self._ended = asyncio.Event()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run_clients())
        self._loop.close()

    async def _run_clients(self) -> None:
        tasks = [asyncio.create_task(each.run()) for each in self.clients]
        await self._ended.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.gather(*tasks, return_exceptions=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
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

    def acknowledged_texts(self) -> dict[int, str]:
        """The text of every acknowledged message, by message_id."""
        pairs = [(number, text) for each in self.clients for text, number in list(each.acknowledged.items())]
        texts = dict(pairs)
        assert len(texts) == len(pairs), "a message_id was given out twice"
        return texts

    def count_receipts(self) -> Counter[int]:
        return sum((Counter(dict(each.receipts)) for each in self.clients), Counter())

    def final_states(self) -> dict[int, int]:
        """What the last receipt of each message says, by message_id."""
        return {number: state for each in self.clients for number, state in list(each.final_states.items())}

    # --- waiting for it

    def wait_for_messages(self, messages: int, deadline_s: float = 30) -> None:
        """Wait until so many messages more have been acknowledged."""
        target = self.acknowledged + messages
        wait_until(lambda: self.acknowledged >= target, deadline_s)

    def wait_for_refusals(self, refusals: int, deadline_s: float = 30) -> None:
        """Wait until so many messages more have been refused."""
        target = self.refused.total() + refusals
        wait_until(lambda: self.refused.total() >= target, deadline_s)

    def wait_for_all_clients(self, messages: int, deadline_s: float = 30) -> None:
        """Wait until each client has had so many messages more acknowledged."""
        counts_before = [len(each.acknowledged) for each in self.clients]
        wait_until(
            lambda: all(
                len(each.acknowledged) >= count_before + messages
                for each, count_before in zip(self.clients, counts_before, strict=True)
            ),
            deadline_s,
        )

    def wait_for_receipts(self, receipts: int, deadline_s: float = 30) -> None:
        """Wait until each client has got so many receipts more."""
        counts_before = [len(each.receipts) for each in self.clients]
        wait_until(
            lambda: all(
                len(each.receipts) >= count_before + receipts
                for each, count_before in zip(self.clients, counts_before, strict=True)
            ),
            deadline_s,
        )

    def stop_sending(self, deadline_s: float = 30) -> None:
        """Stop sending, and wait until each client has got a response to all that it has sent."""
        for each in self.clients:
            each.is_sending = False
        wait_until(lambda: not any(each.pending_count for each in self.clients), deadline_s)

    def ids_without_receipt(self) -> set[int]:
        unasked = {number for each in self.clients for number in list(each.unasked)}
        return self.acknowledged_texts().keys() - self.count_receipts().keys() - unasked


@contextmanager
def run_crowd(
    port: int,
    *logins: AccountLogin,
    backlog: int = _MAX_PENDING_RECEIPTS,
    destinations: int = 1,
    unasked_every: int = 0,
) -> Iterator[ClientCrowd]:
    """Clients at work until the block ends: one for each login that is named.

    A client to which so many receipts are owed (`backlog`) sends nothing, so that a long test doesn't fill the disk.

    Args:
        destinations: how many numbers they write to, by turns; 800 at most.
        unasked_every: each message of theirs whose number is a multiple of it asks for no receipt; 0: all ask.
    """
    clients = ClientCrowd(
        [
            LoadClient(port, login, f"{number} {login.name}", backlog, destinations, unasked_every)
            for number, login in enumerate(logins)
        ]
    )
    clients.start()
    try:
        yield clients
    finally:
        clients.stop()
