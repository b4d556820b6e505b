"""SIGTERM to `serve` while clients send and receive as fast as they can: what an update does to them."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest

from portal.core import db
from portal.services.accounts import accounts
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import DeliverSm, HeaderOnlyPdu, MessageResp, Pdu
from tests.smsc.esme import RawEsme, close_connections, wait_until
from tests.support import AccountLogin, Cast, RunningServer

pytestmark = pytest.mark.slow

WINDOW = 200
LIMIT_S = 5.0


class FloodingClient:
    """Keeps its window full and answers receipts, until the server ends the session.

    A hasty one closes as soon as it has answered an unbind, as Kannel does; the other reads on.
    """

    def __init__(self, name: str, *, is_hasty: bool) -> None:
        self.unanswered: dict[int, str] = {}
        self.accepted: dict[int, str] = {}
        self.refused: dict[str, int] = {}
        self.receipts: Counter[int] = Counter()
        self.got_unbind = False
        self._name = name
        self._is_hasty = is_hasty
        self._sent = 0

    async def run(self, port: int, login: AccountLogin, window: int = WINDOW) -> None:
        esme = await RawEsme.connect_and_bind(port, login)
        for _ in range(window):
            self._submit(esme)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not (self.got_unbind and self._is_hasty):
                self._handle_pdu(esme, await esme.read_pdu())
        await esme.close()

    def _submit(self, esme: RawEsme) -> None:
        self._sent += 1
        text = f"{self._name} {self._sent}"
        message = esme.build_submit_sm(text=text.encode())
        self.unanswered[message.sequence] = text
        esme.send(message)

    def _handle_pdu(self, esme: RawEsme, message: Pdu) -> None:
        if isinstance(message, DeliverSm):
            self.receipts[int(message.tlvs[TlvTag.RECEIPTED_MESSAGE_ID].rstrip(b"\0"))] += 1
            esme.send(MessageResp(CommandId.DELIVER_SM_RESP, message.sequence))
        elif isinstance(message, MessageResp):
            text = self.unanswered.pop(message.sequence)
            if message.status:
                self.refused[text] = message.status
            else:
                self.accepted[int(message.message_id)] = text
            if not self.got_unbind:
                self._submit(esme)
        elif isinstance(message, HeaderOnlyPdu) and message.command == CommandId.UNBIND:
            self.got_unbind = True
            esme.send(HeaderOnlyPdu(CommandId.UNBIND_RESP, message.sequence))


@pytest.fixture
def login(cast: Cast, conn: db.Connection) -> AccountLogin:
    """An account without limits."""
    conn.execute("UPDATE accounts SET windowing = 0, throughput = 0, binds = 0 WHERE id = ?", (cast.smpp_acme_1.id,))
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    credits.grant_credits(conn, SHELL, account, 1_000_000 * credit_amounts.THOUSANDTHS)
    return cast.smpp_acme_1


async def stop_in_time(server: RunningServer, capfd: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.process.wait, 10) == 0
    assert time.monotonic() - begun < LIMIT_S
    assert "didn't stop in time" not in capfd.readouterr().err


async def test_exactly_what_was_acknowledged_is_stored(
    serve: Callable[..., RunningServer], login: AccountLogin, conn: db.Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    clients = [FloodingClient(f"client {number}", is_hasty=number % 2 == 0) for number in range(4)]
    sessions = asyncio.gather(*(each.run(server.port, login) for each in clients))
    await wait_until(lambda: all(len(each.accepted) > WINDOW and each.receipts for each in clients), 30)

    await stop_in_time(server, capfd)
    await sessions

    assert all(each.got_unbind for each in clients)
    assert sum(len(each.unanswered) + len(each.refused) for each in clients) > 0, "nothing was under way"
    accepted = {number: text for each in clients for number, text in each.accepted.items()}
    assert {row["id"]: row["text"] for row in conn.execute("SELECT id, text FROM messages")} == accepted
    assert {status for each in clients for status in each.refused.values()} <= {CommandStatus.ESME_RSYSERR}

    later = FloodingClient("later", is_hasty=False)
    session = asyncio.create_task(later.run(serve().port, login, window=0))
    receipts = [each.receipts for each in (*clients, later)]
    await wait_until(lambda: {number for each in receipts for number in each} == accepted.keys(), 60)
    assert sum(receipts, Counter()).most_common(1)[0][1] == 1
    session.cancel()
    await close_connections()


async def test_clients_that_do_not_read_or_answer_hold_nothing_up(
    serve: Callable[..., RunningServer], login: AccountLogin, conn: db.Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    silent = await RawEsme.connect_and_bind(server.port, login)
    accepted = await silent.submit()
    await silent.wait_for_pdu(CommandId.DELIVER_SM)
    deaf = await RawEsme.connect_and_bind(server.port, login, CommandId.BIND_TRANSMITTER, limit=1_024)
    deaf.pause_reading()
    transport = deaf.writer.transport
    while transport.get_write_buffer_size() < 1 << 20:
        # More than the server can have read when it is told to stop.
        deaf.send(*(deaf.build_submit_sm() for _ in range(1_000)))
        await asyncio.sleep(0)

    await stop_in_time(server, capfd)

    assert conn.execute("SELECT 1 FROM messages WHERE id = ?", (int(accepted.message_id),)).fetchone()
    await silent.wait_for_pdu(CommandId.UNBIND)
    await close_connections()


async def test_a_database_that_others_keep_locked_holds_nothing_up(
    serve: Callable[..., RunningServer], login: AccountLogin, conn: db.Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    client = await RawEsme.connect_and_bind(server.port, login, CommandId.BIND_TRANSMITTER)
    conn.execute("BEGIN IMMEDIATE")
    client.send(client.build_submit_sm())
    server.process.send_signal(signal.SIGTERM)
    status = await asyncio.to_thread(server.process.wait, 10)
    conn.execute("ROLLBACK")
    await close_connections()
    # Its own limits end before the supervisor's, which kills who takes longer.
    assert (status, "didn't stop in time" in capfd.readouterr().err) == (0, False)
    assert conn.execute("SELECT count(*) FROM messages").fetchone()[0] == 0
