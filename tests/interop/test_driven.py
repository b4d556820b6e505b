"""What the npm package `smpp` and aiosmpplib do alike. What they do of their own is in the files of their names."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from portal.core import db
from portal.services.accounts import session_records
from portal.services.common import credit_amounts
from portal.services.common.message_states import DELIVERED
from portal.services.credits import credits
from tests.interop.conftest import HoldDatabase, SetLimits, StartOutage
from tests.interop.driven import AIOSMPPLIB, NODE_SMPP, PAYLOAD, PLAIN, SAR, UDH, DrivenClient, run_client
from tests.support import Cast, RunningServer, list_submitted, wait_until

# SMPP 3.4, 5.1.3, 5.2.12 and 5.2.28.
OK, THROTTLED = 0x00, 0x58
DELIVERY_RECEIPT = 0x04
STATE_DELIVERED, STATE_UNDELIVERABLE = 2, 5
# Fates of the simulator.
UNDELIVERABLE, PENDING = "393401234001", "393401234006"

GSM = "Ciao àèìòù: 5 € [sconto]"
WITH_EMOJI = "Grüße aus Rom 😀 你好"
LONG = "Questo testo non entra in un solo messaggio. " * 8  # 360 characters in parts of 153
LONG_WITH_EMOJI = "Fünf Boxkämpfer jagen Viktor 🥊 " * 5  # 160 characters, five of them in two units, in parts of 67
TEXTS = [
    (GSM, PLAIN, 1),
    (WITH_EMOJI, PLAIN, 1),
    (LONG, UDH, 3),
    (LONG_WITH_EMOJI, UDH, 3),
    (LONG, SAR, 3),
    (LONG_WITH_EMOJI, SAR, 3),
    (LONG, PAYLOAD, 3),
    (LONG_WITH_EMOJI, PAYLOAD, 3),
]

Start = Callable[..., DrivenClient]


@pytest.fixture(params=[NODE_SMPP, AIOSMPPLIB], ids=["smpp (Node)", "aiosmpplib"])
def start(request: pytest.FixtureRequest, server: RunningServer, cast: Cast) -> Iterator[Start]:
    """Starts a client with the credentials of `smpp_acme_1`, and waits until it is bound."""
    with ExitStack() as running:

        def one(bind: str = "transceiver") -> DrivenClient:
            client = running.enter_context(run_client(request.param, cast.smpp_acme_1, server.port, bind))
            client.wait_for_event("bind", status=OK)
            return client

        yield one


def test_sends_as_transmitter_and_hears_as_receiver(start: Start, conn: db.Connection, cast: Cast) -> None:
    transmitter, receiver = start("transmitter"), start("receiver")
    kinds = {"transmitter", "receiver"}
    wait_until(
        lambda: {each.bind_type for each in session_records.list_open_smpp_sessions(conn, cast.smpp_acme_1.id)} == kinds
    )

    number = transmitter.send(GSM)

    receiver.wait_for_receipt(transmitter.wait_for_event("answer", n=number, status=OK)["id"])
    assert transmitter.find_events("receipt") == []


def test_each_part_is_acknowledged_charged_and_reported(start: Start, conn: db.Connection, cast: Cast) -> None:
    client, sent = start(), 0
    for text, way, parts in TEXTS:
        number = client.send(text, way)

        sent += parts
        wait_until(lambda: credits.get_balance(conn, cast.smpp_acme_1.id) == (1000 - sent) * credit_amounts.THOUSANDTHS)  # noqa: B023
        answer = client.wait_for_event("answer", n=number)
        assert answer["status"] == OK
        receipt = client.wait_for_receipt(answer["id"])
        in_all = parts if way == PAYLOAD else 1
        assert receipt["text"].startswith(f"id:{answer['id']} sub:{in_all:03d} dlvrd:{in_all:03d} submit date:")
        assert " stat:DELIVRD err:000 text:" in receipt["text"]
        assert (receipt["message_state"], receipt["outgoing_id"]) == (STATE_DELIVERED, answer["id"])
        assert receipt["esm_class"] == DELIVERY_RECEIPT
        assert (receipt["source"], receipt["destination"]) == ("393401234567", "ACME")
        found = list_submitted(conn, cast.smpp_acme_1.id, limit=1 if way == PAYLOAD else parts)[::-1]
        assert "".join(each.text for each in found) == text
        assert sum(each.parts for each in found) == parts
    wait_until(lambda: {each.state for each in list_submitted(conn, cast.smpp_acme_1.id)} == {DELIVERED})


def test_a_receipt_says_that_and_why_a_message_did_not_arrive(start: Start) -> None:
    client = start()

    answer = client.wait_for_event("answer", n=client.send("nobody there", to=UNDELIVERABLE))

    receipt = client.wait_for_receipt(answer["id"])
    assert receipt["message_state"] == STATE_UNDELIVERABLE
    assert receipt["network_error_code"] == "030320"  # GSM, 800
    assert " dlvrd:000 " in receipt["text"]
    assert " stat:UNDELIV err:800 " in receipt["text"]


def test_more_than_its_throughput_is_throttled_and_sent_again(
    start: Start, limit: SetLimits, conn: db.Connection, cast: Cast
) -> None:
    limit(throughput=5)
    client = start()

    numbers = [client.send(f"message {number}") for number in range(10)]

    for number in numbers:
        client.wait_for_event("answer", n=number, status=OK)
    assert client.find_events("answer", status=THROTTLED)
    assert len(list_submitted(conn, cast.smpp_acme_1.id)) == 10
    assert len(client.find_events("bind")) == 1


def test_more_than_its_window_is_throttled_and_sent_again(
    start: Start, limit: SetLimits, hold: HoldDatabase, conn: db.Connection, cast: Cast
) -> None:
    limit(windowing=2)
    client = start()

    with hold():
        numbers = [client.send(f"message {number}") for number in range(4)]
        for number in numbers[2:]:
            client.wait_for_event("answer", n=number, status=THROTTLED)
        assert client.find_events("answer", status=OK) == []

    for number in numbers:
        client.wait_for_event("answer", n=number, status=OK)
    assert len(list_submitted(conn, cast.smpp_acme_1.id)) == 4
    assert [client.find_events("answer", n=number, status=THROTTLED) for number in numbers[:2]] == [[], []]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_returns_after_a_restart_and_gets_the_receipts_that_waited(
    start: Start, server: RunningServer, outage: StartOutage, how: signal.Signals
) -> None:
    client = start()
    waiting = client.wait_for_event(
        "answer", n=client.send("reported while the server is away", to=PENDING), status=OK
    )["id"]

    with outage(server, how) as delivered:
        delivered(waiting)
    client.wait_until(lambda: len(client.find_events("bind", status=OK)) == 2)

    assert bool(client.find_events("unbind")) == (how == signal.SIGTERM)
    assert " stat:DELIVRD err:000 " in client.wait_for_receipt(waiting)["text"]
    afterwards = client.wait_for_event("answer", n=client.send("and on it goes"), status=OK)["id"]
    client.wait_for_receipt(afterwards)
    assert len(client.find_events("receipt", receipted_message_id=waiting)) == 1
