"""Kannel 1.4.5, the client that the model itself was tested with."""

import subprocess
from collections.abc import Callable, Sequence

import pytest

from portal import db
from portal.services import accounts, allowed_ips, connections, credits, history
from portal.services.audit import SHELL
from portal.services.history import Message
from portal.services.messages import DELIVERED
from tests.interop.kannel import (
    REPORT_ACCEPTED,
    REPORT_DELIVERED,
    REPORT_NOT_DELIVERED,
    REPORT_REFUSED,
    TRANSCEIVER,
    TRANSMITTER_AND_RECEIVER,
    Kannel,
    Reports,
)
from tests.support import Cast, eventually

# Kannel cuts long texts itself: each part is a message of its own to the server, with a UDH.
GSM = "Ciao àèìòù: 5 € [sconto] {oggi}"
WITH_EMOJI = "Grüße aus Rom 😀 你好"
LONG = "Questo testo non entra in un solo messaggio. " * 8  # 360 characters in parts of 153
LONG_WITH_EMOJI = "Fünf Boxkämpfer jagen Viktor 🥊 " * 5  # 160 characters, five of them in two units, in parts of 67
PARTS = 1 + 1 + 3 + 3


def sent_messages(conn: db.Connection, cast: Cast) -> list[Message]:
    """Those of `smpp_acme_1`, oldest first."""
    return history.page(conn, cast.smpp_acme_1.id)[::-1]


@pytest.mark.parametrize(
    ("binds", "kinds"),
    [(TRANSCEIVER, {"transceiver"}), (TRANSMITTER_AND_RECEIVER, {"transmitter", "receiver"})],
    ids=["transceiver", "transmitter and receiver"],
)
def test_sends_texts_and_hears_what_became_of_them(
    kannel: Callable[..., Kannel],
    reports: Reports,
    conn: db.Connection,
    cast: Cast,
    run_app: Callable[..., subprocess.CompletedProcess[str]],
    binds: Sequence[str],
    kinds: set[str],
) -> None:
    running = kannel(binds)
    eventually(lambda: {each.bind_type for each in connections.of_account(conn, cast.smpp_acme_1.id)} == kinds)

    numbers = [
        running.send(GSM),
        running.send(WITH_EMOJI, coding="2"),
        running.send(LONG),
        running.send(LONG_WITH_EMOJI, coding="2"),
    ]

    ids = set()
    for number in numbers:
        accepted, delivered = reports.wait(number, REPORT_ACCEPTED), reports.wait(number, REPORT_DELIVERED)
        assert accepted.message_id == delivered.message_id
        assert delivered.answer.startswith(f"id:{delivered.message_id} sub:001 dlvrd:001 ")
        assert " stat:DELIVRD err:000 " in delivered.answer
        ids.add(int(delivered.message_id))
    eventually(lambda: [each.state for each in sent_messages(conn, cast)] == [DELIVERED] * PARTS)
    sent = sent_messages(conn, cast)
    texts = [each.text for each in sent]
    assert ids <= {each.id for each in sent}
    assert {GSM, WITH_EMOJI} <= set(texts)
    assert LONG.strip() in "".join(texts)
    assert credits.balance(conn, cast.smpp_acme_1.id) == (1000 - PARTS) * credits.THOUSANDTHS
    assert run_app("check").returncode == 0


def test_hears_why_a_message_did_not_arrive(kannel: Callable[..., Kannel], reports: Reports) -> None:
    running = kannel()
    undelivered = running.send("nobody there", to="393401234001")
    of_another = running.send("not my name", **{"from": "GLOBEX"})
    to_nowhere = running.send("satellite", to="881612345678")

    assert " stat:UNDELIV err:800 " in reports.wait(undelivered, REPORT_NOT_DELIVERED).answer
    assert reports.wait(of_another, REPORT_REFUSED).answer.startswith("NACK/0x0000000a/")
    assert reports.wait(to_nowhere, REPORT_REFUSED).answer.startswith("NACK/0x0000000b/")


def test_loses_its_session_with_its_address_and_returns_with_it(
    kannel: Callable[..., Kannel], conn: db.Connection, cast: Cast
) -> None:
    running = kannel()
    account = accounts.by_name(conn, cast.smpp_acme_1.name)

    for each in allowed_ips.of_account(conn, account.id):
        allowed_ips.remove(conn, SHELL, account, each.id)
    running.wait("re-connecting")
    refusal = eventually(lambda: connections.refusals(conn, account.id))[0]
    assert (refusal.address, refusal.reason) == ("127.0.0.1", connections.NO_IP)
    assert connections.of_account(conn, account.id) == []

    allowed_ips.add(conn, SHELL, account, "127.0.0.1")
    running.wait("online")
    eventually(lambda: connections.of_account(conn, account.id))


def test_is_refused_like_a_wrong_password_from_an_address_that_is_not_listed(
    kannel: Callable[..., Kannel], conn: db.Connection, cast: Cast
) -> None:
    running = kannel()
    account = accounts.by_name(conn, cast.smpp_acme_1.name)

    # ::1 stays in the list.
    allowed_ips.remove(conn, SHELL, account, allowed_ips.by_network(conn, account.id, "127.0.0.1").id)

    refusal = eventually(lambda: connections.refusals(conn, account.id))[0]
    assert (refusal.address, refusal.reason) == ("127.0.0.1", connections.NOT_AUTHORISED)
    # Kannel takes this code for a wrong password, and gives up for good.
    running.wait("dead")
