"""kill -9 while messages are sent whose texts aren't kept: receipts quote them, and no text is left afterwards."""

import random
import socket
import subprocess
from contextlib import closing, suppress
from functools import partial

import pytest
from smpplib import client as smpplib

from portal.core import db
from portal.core.config import Config
from portal.core.wakeup import WakeupSender
from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.messages import inbound, inbound_numbers, text_policy
from portal.services.operations import self_check
from portal.services.people import customers
from tests.serving import start_server
from tests.smpplib_esme import RECEIVER, TRANSMITTER, SmpplibEsme
from tests.support import AccountLogin, Cast, RunningServer, wait_until

ROUNDS = 4
A_ROUND = 60
MARKER = "zanzibar"
NUMBER, HANDSET = "48484", "393337654321"


@pytest.fixture
def wakeup_sender(config: Config) -> WakeupSender:
    return WakeupSender(config.data)


def is_listening(server: RunningServer) -> bool:
    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", server.port), 1)):
        return True
    return False


def left_of(config: Config) -> list[str]:
    """The files of the data folder in which the marker stands."""
    # By another process: one that opens and closes a file loses its locks on it (fcntl), which are SQLite's.
    matching = subprocess.run(["grep", "-rlaF", MARKER, config.data], capture_output=True, text=True)
    assert matching.returncode in (0, 1), matching.stderr
    return matching.stdout.split()


def submit_some(server: RunningServer, login: AccountLogin, begins: str, sent: dict[str, str]) -> None:
    """Send texts, some of them in many parts, and note the first 20 characters of each message by its id."""
    with SmpplibEsme(server.port) as esme:
        esme.bind(login, TRANSMITTER)
        for index in range(A_ROUND):
            text = f"{begins}.{index} {MARKER} {'and so on, and on ' * 40 * (index % 9 == 0)}"
            first, *others = esme.send_text(text)
            sent[first] = text[:20].rstrip()
            sent |= dict.fromkeys(others, "")


def accept_some(server: RunningServer, login: AccountLogin, receipts: dict[str, str], how_many: int) -> None:
    """Accept receipts, at least so many."""
    with SmpplibEsme(server.port) as esme:
        esme.bind(login, RECEIVER)
        esme.read_until(lambda: len(esme.receipts) >= how_many, 30)
        receipts |= {each: pdu.short_message.decode() for each, pdu in esme.receipts.items()}


def read_from_handsets(server: RunningServer, login: AccountLogin, how_many: int) -> list[bytes]:
    seen: list[bytes] = []
    client = smpplib.Client("127.0.0.1", server.port, timeout=10, allow_unknown_opt_params=True)
    client.set_message_received_handler(lambda pdu: seen.append(pdu.short_message))
    client.connect()
    client.bind_receiver(system_id=login.name, password=login.password)
    while len(seen) < how_many:
        client.read_once()
    client._socket.close()
    client._socket = None
    return seen


def test_no_text_is_forgotten_and_none_goes_before_its_time(
    config: Config, cast: Cast, conn: db.Connection, logins: list[AccountLogin], wakeup_sender: WakeupSender
) -> None:
    sends, receives = logins[:2]
    inbound_numbers.add_inbound_number(conn, SHELL, accounts.get_account(conn, receives.name), NUMBER)
    text_policy.change_text_policy(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), text_policy.NONE)
    # By id: what is to be quoted, and what was.
    sent: dict[str, str] = {}
    receipts: dict[str, str] = {}
    for number in range(ROUNDS):
        with start_server(config, "smsc") as server:
            wait_until(partial(is_listening, server))
            submit_some(server, sends, str(number), sent)
            inbound.simulate_inbound_message(conn, HANDSET, NUMBER, f"{MARKER} {number}")
            wakeup_sender.send()
            accept_some(server, sends, receipts, random.randrange(A_ROUND))
            server.process.kill()
            server.process.wait()
    assert left_of(config), "the test has looked where they were"
    with start_server(config, "smsc") as server:
        wait_until(lambda: is_listening(server))
        wait_until(lambda: not conn.execute("SELECT 1 FROM messages WHERE state = 1").fetchone(), 30)
        (waiting,) = conn.execute("SELECT count(*) FROM deliveries WHERE message_id IS NOT NULL").fetchone()
        accept_some(server, sends, receipts, waiting)
        assert read_from_handsets(server, receives, ROUNDS) == [f"{MARKER} {each}".encode() for each in range(ROUNDS)]
        wait_until(lambda: not conn.execute("SELECT 1 FROM deliveries").fetchone(), 30)
    assert receipts.keys() == sent.keys()
    for message_id, begins in sent.items():
        assert begins in receipts[message_id].partition(" text:")[2]
    assert conn.execute("SELECT count(*), sum(kept) FROM messages").fetchone()[:] == (len(sent), 0)
    assert conn.execute("SELECT count(*), sum(kept) FROM received").fetchone()[:] == (ROUNDS, 0)
    assert self_check.list_problem_texts(conn) == []
    # Splitting a page leaves copies of rows in its unused part: `compact` removes these.
    conn.execute("VACUUM")
    assert db.truncate_wal(conn)
    assert left_of(config) == []
