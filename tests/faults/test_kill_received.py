"""kill -9 while messages from handsets come in: each is stored once."""

import random
import sqlite3

import pytest

from portal.core.config import Config
from portal.core.wakeup import WakeupSender
from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.messages import inbound, inbound_numbers
from portal.services.operations import self_check
from tests.serving import start_server
from tests.support import Cast, wait_until

ROUNDS = 6
A_ROUND = 40
NUMBER, HANDSET = "48484", "393337654321"


@pytest.fixture
def wakeup_sender(config: Config) -> WakeupSender:
    return WakeupSender(config.data)


def test_each_message_from_a_handset_is_taken_in_once(
    config: Config, cast: Cast, conn: sqlite3.Connection, wakeup_sender: WakeupSender
) -> None:
    inbound_numbers.add_inbound_number(conn, SHELL, accounts.get_account(conn, cast.smpp_acme_1.name), NUMBER)
    sent: list[str] = []

    def stored() -> int:
        return int(conn.execute("SELECT count(*) FROM received").fetchone()[0])

    for _ in range(ROUNDS):
        with start_server(config, "smsc") as server:
            before = stored()
            # One by one, so that the server stores them in many small commits.
            for _ in range(A_ROUND):
                sent.append(f"message {len(sent)}")
                inbound.simulate_inbound_message(conn, HANDSET, NUMBER, sent[-1])
                wakeup_sender.send()
            few = random.randrange(1, A_ROUND)
            wait_until(lambda least=before + few: stored() >= least)  # type: ignore[misc]
            server.process.kill()
            server.process.wait()
    with start_server(config, "smsc"):
        wait_until(lambda: stored() >= len(sent))
        wait_until(lambda: conn.execute("SELECT count(*) FROM simulated").fetchone()[0] == 0)
    assert [row[0] for row in conn.execute("SELECT text FROM received ORDER BY id")] == sent
    assert conn.execute("SELECT count(DISTINCT received_id) FROM deliveries").fetchone()[0] == len(sent)
    assert self_check.list_problem_texts(conn) == []
