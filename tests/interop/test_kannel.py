"""Kannel 1.4.5, the client that the model itself was tested with."""

import re
import signal
import subprocess
from collections.abc import Callable, Sequence

import pytest

from portal.core import db
from portal.services.accounts import accounts, allowed_ips, refused_binds, session_records
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED
from portal.services.credits import credits
from portal.services.history.history import SentMessage
from portal.services.messages import smpp_config
from tests.interop.conftest import HoldDatabase, SetLimits, StartKannel, StartOutage
from tests.interop.kannel import (
    OLD_TRANSMITTER_AND_RECEIVER,
    REPORT_ACCEPTED,
    REPORT_DELIVERED,
    REPORT_NOT_DELIVERED,
    REPORT_REFUSED,
    TRANSCEIVER,
    TRANSCEIVER_NATIONAL,
    TRANSCEIVER_UNSPLIT,
    TRANSCEIVER_WITHOUT_TON,
    TRANSMITTER_AND_RECEIVER,
    DeliveryReportServer,
)
from tests.support import (
    DEADLINE_S,
    Cast,
    RunningServer,
    accepts_connections,
    list_refused_binds,
    list_submitted,
    wait_until,
)

# Kannel cuts long texts itself: each part is a message of its own to the server, with a UDH.
GSM = "Ciao àèìòù: 5 € [sconto] {oggi}"
WITH_EMOJI = "Grüße aus Rom 😀 你好"
LONG = "Questo testo non entra in un solo messaggio. " * 8  # 360 characters in parts of 153
LONG_WITH_EMOJI = "Fünf Boxkämpfer jagen Viktor 🥊 " * 5  # 160 characters, five of them in two units, in parts of 67
PARTS = 1 + 1 + 3 + 3

THROTTLED = "(Throttling error)"
# A fate of the simulator.
PENDING = "393401234006"


def sent_messages(conn: db.Connection, cast: Cast) -> list[SentMessage]:
    """Those of `smpp_acme_1`, oldest first."""
    return list_submitted(conn, cast.smpp_acme_1.id)[::-1]


@pytest.mark.parametrize(
    ("binds", "kinds"),
    [(TRANSCEIVER, {"transceiver"}), (TRANSMITTER_AND_RECEIVER, {"transmitter", "receiver"})],
    ids=["transceiver", "transmitter and receiver"],
)
def test_sends_texts_and_hears_what_became_of_them(
    kannel: StartKannel,
    reports: DeliveryReportServer,
    conn: db.Connection,
    cast: Cast,
    run_app: Callable[..., subprocess.CompletedProcess[str]],
    binds: Sequence[str],
    kinds: set[str],
) -> None:
    running = kannel(binds)
    wait_until(
        lambda: {each.bind_type for each in session_records.list_open_smpp_sessions(conn, cast.smpp_acme_1.id)} == kinds
    )

    numbers = [
        running.send_text(GSM),
        running.send_text(WITH_EMOJI, coding="2"),
        running.send_text(LONG),
        running.send_text(LONG_WITH_EMOJI, coding="2"),
    ]

    ids = set()
    for number in numbers:
        accepted, delivered = (
            reports.wait_for_report(number, REPORT_ACCEPTED),
            reports.wait_for_report(number, REPORT_DELIVERED),
        )
        assert accepted.message_id == delivered.message_id
        assert delivered.answer.startswith(f"id:{delivered.message_id} sub:001 dlvrd:001 ")
        assert " stat:DELIVRD err:000 " in delivered.answer
        assert delivered.tlvs["outgoing_id"] == delivered.message_id
        ids.add(int(delivered.message_id))
    wait_until(lambda: [each.state for each in sent_messages(conn, cast)] == [DELIVERED] * PARTS)
    sent = sent_messages(conn, cast)
    texts = [each.text for each in sent]
    assert ids <= {each.id for each in sent}
    assert {GSM, WITH_EMOJI} <= set(texts)
    assert LONG.strip() in "".join(texts)
    assert credits.get_balance(conn, cast.smpp_acme_1.id) == (1000 - PARTS) * credit_amounts.THOUSANDTHS
    assert run_app("check").returncode == 0


def test_as_a_client_of_smpp_3_3_it_gets_short_ids_and_finds_their_messages(
    kannel: StartKannel, reports: DeliveryReportServer
) -> None:
    running = kannel(OLD_TRANSMITTER_AND_RECEIVER)

    for _ in range(3):
        number = running.send_text(GSM)
        accepted = reports.wait_for_report(number, REPORT_ACCEPTED)
        delivered = reports.wait_for_report(number, REPORT_DELIVERED)
        assert re.fullmatch(r"[0-9A-F]{8}", accepted.message_id)
        assert accepted.message_id == delivered.message_id
        assert delivered.answer.startswith(f"id:{delivered.message_id} sub:001 dlvrd:001 ")


def test_a_message_payload_is_charged_by_its_parts(
    kannel: StartKannel, reports: DeliveryReportServer, conn: db.Connection, cast: Cast
) -> None:
    running = kannel(TRANSCEIVER_UNSPLIT)

    delivered = reports.wait_for_report(running.send_text(LONG), REPORT_DELIVERED)

    assert " sub:003 dlvrd:003 " in delivered.answer
    (sent,) = sent_messages(conn, cast)
    assert (sent.text, sent.parts) == (LONG, 3)
    assert credits.get_balance(conn, cast.smpp_acme_1.id) == (1000 - 3) * credit_amounts.THOUSANDTHS


@pytest.mark.parametrize("binds", [TRANSCEIVER_WITHOUT_TON, TRANSCEIVER_NATIONAL], ids=["no dest-addr-ton", "ton 2"])
def test_national_numbers_are_what_the_account_says(
    kannel: StartKannel, reports: DeliveryReportServer, conn: db.Connection, cast: Cast, binds: Sequence[str]
) -> None:
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    running = kannel(binds)

    for meaning, number, status in (
        ("ignored", "393401234567", REPORT_DELIVERED),
        ("refused", "393401234567", REPORT_REFUSED),
        ("IT", "3401234567", REPORT_DELIVERED),
        ("IT", "+393401234567", REPORT_DELIVERED),
    ):
        accounts.change_account(conn, SHELL, account, national_numbers=meaning)
        wait_until(lambda: not smpp_config.has_unapplied_config_changes(conn, account.id))
        report = reports.wait_for_report(running.send_text(meaning, to=number), status)
        assert status == REPORT_DELIVERED or "50" in report.answer

    sent = [(each.text, each.destination) for each in sent_messages(conn, cast)]
    assert sent == [("ignored", "393401234567"), ("IT", "393401234567"), ("IT", "393401234567")]


def test_binds_over_tls(
    kannel: StartKannel, server: RunningServer, reports: DeliveryReportServer, conn: db.Connection, cast: Cast
) -> None:
    running = kannel(trusting=server.data / "smpp.crt")

    reports.wait_for_report(running.send_text(GSM), REPORT_DELIVERED)
    session = wait_until(lambda: session_records.list_open_smpp_sessions(conn, cast.smpp_acme_1.id))[0]
    assert session.tls == "TLSv1.3"


def test_more_than_its_throughput_is_throttled_and_sent_again(
    kannel: StartKannel, limit: SetLimits, reports: DeliveryReportServer, conn: db.Connection, cast: Cast
) -> None:
    limit(throughput=5)
    running = kannel()

    numbers = [running.send_text(f"message {number}") for number in range(10)]

    for number in numbers:
        reports.wait_for_report(number, REPORT_DELIVERED)
    assert running.count_in_log(THROTTLED)
    assert len(sent_messages(conn, cast)) == 10


def test_more_than_its_window_is_throttled_and_sent_again(
    kannel: StartKannel,
    limit: SetLimits,
    hold: HoldDatabase,
    reports: DeliveryReportServer,
    conn: db.Connection,
    cast: Cast,
) -> None:
    limit(windowing=2)
    running = kannel()

    with hold():
        numbers = [running.send_text(f"message {number}") for number in range(4)]
        wait_until(lambda: running.count_in_log(THROTTLED))
        assert reports.received == []

    for number in numbers:
        reports.wait_for_report(number, REPORT_DELIVERED)
    assert len(sent_messages(conn, cast)) == 4


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_returns_after_a_restart_and_gets_the_receipts_that_waited(
    kannel: StartKannel, server: RunningServer, outage: StartOutage, reports: DeliveryReportServer, how: signal.Signals
) -> None:
    running = kannel()
    waiting = running.send_text("reported while the server is away", to=PENDING)
    message_id = reports.wait_for_report(waiting, REPORT_ACCEPTED).message_id

    with outage(server, how) as delivered:
        running.wait_for_state("re-connecting")
        delivered(message_id)
        queued = running.send_text("sent while the server is away")
    running.wait_for_state("online")

    assert reports.wait_for_report(waiting, REPORT_DELIVERED).message_id == message_id
    reports.wait_for_report(queued, REPORT_DELIVERED)


def test_sends_nothing_twice_over_a_restart_in_the_middle_of_sending(
    kannel: StartKannel,
    limit: SetLimits,
    hold: HoldDatabase,
    server: RunningServer,
    serve: Callable[..., RunningServer],
    reports: DeliveryReportServer,
    conn: db.Connection,
    cast: Cast,
) -> None:
    limit(windowing=4)
    running = kannel()

    with hold():
        numbers = [running.send_text(f"message {number}") for number in range(5)]
        wait_until(lambda: running.count_in_log(THROTTLED))  # the others are in flight
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts_connections(server.port))
    assert server.process.wait(DEADLINE_S) == 0
    serve()

    for number in numbers:
        reports.wait_for_report(number, REPORT_DELIVERED)
    assert len(sent_messages(conn, cast)) == 5


def test_hears_why_a_message_did_not_arrive(kannel: StartKannel, reports: DeliveryReportServer) -> None:
    running = kannel()
    undelivered = running.send_text("nobody there", to="393401234001")
    of_another = running.send_text("not my name", **{"from": "GLOBEX"})
    to_nowhere = running.send_text("satellite", to="881612345678")

    not_delivered = reports.wait_for_report(undelivered, REPORT_NOT_DELIVERED)
    assert " stat:UNDELIV err:800 " in not_delivered.answer
    assert not_delivered.tlvs["dlr_err"] == "\x03\x03\x20"  # network_error_code: GSM, 800
    assert reports.wait_for_report(of_another, REPORT_REFUSED).answer.startswith("NACK/0x0000000a/")
    assert reports.wait_for_report(to_nowhere, REPORT_REFUSED).answer.startswith("NACK/0x0000000b/")


def test_loses_its_session_with_its_address_and_returns_with_it(
    kannel: StartKannel, conn: db.Connection, cast: Cast
) -> None:
    running = kannel()
    account = accounts.get_account(conn, cast.smpp_acme_1.name)

    for each in allowed_ips.list_allowed_ips(conn, account.id):
        allowed_ips.remove_allowed_ip(conn, SHELL, account, each.id)
    running.wait_for_state("re-connecting")
    refusal = wait_until(lambda: list_refused_binds(conn, account.id))[0]
    assert (refusal.value, refusal.reason) == ("127.0.0.1", refused_binds.NO_IP)
    assert session_records.list_open_smpp_sessions(conn, account.id) == []

    allowed_ips.add_allowed_ip(conn, SHELL, account, "127.0.0.1")
    running.wait_for_state("online")
    wait_until(lambda: session_records.list_open_smpp_sessions(conn, account.id))


def test_is_refused_like_a_wrong_password_from_an_address_that_is_not_listed(
    kannel: StartKannel, conn: db.Connection, cast: Cast
) -> None:
    running = kannel()
    account = accounts.get_account(conn, cast.smpp_acme_1.name)

    # ::1 stays in the list.
    allowed_ips.remove_allowed_ip(
        conn, SHELL, account, allowed_ips.get_allowed_ip_by_network(conn, account.id, "127.0.0.1").id
    )

    refusal = wait_until(lambda: list_refused_binds(conn, account.id))[0]
    assert (refusal.value, refusal.reason) == ("127.0.0.1", refused_binds.NOT_AUTHORISED)
    # Kannel takes this code for a wrong password, and gives up for good.
    running.wait_for_state("dead")
