"""An upstream that goes away, refuses, keeps silent, throttles, lies or sends garbage: nothing that was acknowledged to
a customer is lost, and what it gets twice was unsure.
"""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from portal.core import db
from portal.services.upstreams import binds
from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import MAX_PDU_LENGTH, DeliverSm, encode_pdu
from tests.faults import storage
from tests.faults.carriers import Carrier, run_second_instance
from tests.faults.conftest import ReportCounts, StartForwarding, take_share
from tests.faults.crowd import WINDOW
from tests.faults.test_kill import kill_child
from tests.faults.test_storage import REFUSALS
from tests.support import DEADLINE_S, AccountLogin, wait_until

_AWAY_S = take_share(60, 6)
_THROTTLED_S = take_share(10, 2)
# Clients go on meanwhile, until so many receipts are owed to each.
_BACKLOG = take_share(10_000)
# Longer than `reconnect_seconds`, and a second more: it is told in whole ones since when a bind is there.
_HELD_S = 2.2
_UNLIMITED = 1_000_000
# After refused binds the pauses are the longest.
_REBIND_S = 60


def has_held(shown: Mapping[str, Any]) -> bool:
    """Whether an upstream's bind is there for so long that after it the pauses begin anew."""
    (bind,) = shown["binds"]
    return bind["state"] == binds.BOUND and time.time() - datetime.fromisoformat(bind["since"]).timestamp() > _HELD_S


@pytest.mark.parametrize("way", ["closed", "frozen"])
def test_gone(start_forwarding: StartForwarding, carrier: Carrier, way: str, tell: ReportCounts) -> None:
    with start_forwarding(carrier, backlog=_BACKLOG) as forwarding:
        clients = forwarding.clients
        began = time.monotonic()
        if way == "closed":
            carrier.leave()
        else:
            carrier.freeze()
        clients.wait_for_messages(100)
        forwarding.wait_for_state(binds.UNBOUND)
        wait_until(lambda: time.monotonic() >= began + _AWAY_S, 2 * _AWAY_S)
        assert forwarding.show_upstream()["queued"] > 0
        if way == "closed":
            carrier.come_back()
        else:
            carrier.thaw()
        clients.wait_for_receipts(10, _REBIND_S)
        tell(away_s=_AWAY_S, **forwarding.prove())


def test_binds_that_are_refused(start_forwarding: StartForwarding, carrier: Carrier, tell: ReportCounts) -> None:
    statuses = [CommandStatus.ESME_RALYBND, CommandStatus.ESME_RSYSERR, CommandStatus.ESME_RBINDFAIL]
    statuses = [statuses[number % len(statuses)] for number in range(take_share(10, len(statuses)))]
    with start_forwarding(carrier) as forwarding:
        for status in statuses:
            carrier.behave(bind_status=status)
            carrier.cut()
            forwarding.wait_for_state(binds.REFUSED)
            assert forwarding.show_upstream()["binds"][0]["status"] == status
            carrier.behave(bind_status=0)
            forwarding.clients.wait_for_receipts(10, _REBIND_S)
            # Otherwise three statuses take a minute.
            forwarding.wait_for(has_held, DEADLINE_S)
        # As soon as the operator says something else it is tried again.
        carrier.behave(password="other")
        carrier.cut()
        forwarding.wait_for_state(binds.REFUSED)
        forwarding.change_upstream(password="other")
        forwarding.clients.wait_for_receipts(10)
        tell(refusals=len(statuses) + 1, **forwarding.prove())


def test_binds_and_submits_that_are_not_answered(
    start_forwarding: StartForwarding, carrier: Carrier, tell: ReportCounts
) -> None:
    silences = take_share(10)
    with start_forwarding(carrier) as forwarding:
        for number in range(silences):
            carrier.behave(silent="binds")
            carrier.cut()
            carrier.wait_for_events("bind", number + 1, _REBIND_S, status=-1)
            carrier.behave(silent="submits")
            # Where nothing is answered the connection is given up.
            carrier.wait_for_submits(carrier.count()["submits"] + 1, _REBIND_S)
            carrier.wait_for_events("closed", len(carrier.find_events("closed")) + 1, _REBIND_S)
            carrier.behave(silent="")
            forwarding.clients.wait_for_receipts(10, _REBIND_S)
        tell(silences=2 * silences, **forwarding.prove())


def test_throttling_everything(start_forwarding: StartForwarding, carrier: Carrier, tell: ReportCounts) -> None:
    with start_forwarding(carrier) as forwarding:
        began = time.monotonic()
        carrier.behave(statuses=[CommandStatus.ESME_RTHROTTLED, CommandStatus.ESME_RMSGQFUL], temporary=True)
        wait_until(lambda: time.monotonic() >= began + _THROTTLED_S, 2 * _THROTTLED_S)
        carrier.behave(statuses=[])
        forwarding.clients.wait_for_receipts(take_share(1000), _REBIND_S)
        counts = forwarding.prove()
        assert counts["doubles"] == counts["unsure"] == 0
        counters = forwarding.show_upstream()["counters"]
        assert counters["throttled"]
        tell(throttled_s=_THROTTLED_S, throttled=counters["throttled"], retried=counters["retried"], **counts)


def test_answers_in_another_order_late_twice_and_of_nothing(
    start_forwarding: StartForwarding, carrier: Carrier, tell: ReportCounts
) -> None:
    messages = take_share(10_000)
    carrier.behave(reverse=7, late_every=400, late_ms=3_000, twice_every=5, unknown_every=5)
    with start_forwarding(carrier) as forwarding:
        forwarding.clients.wait_for_messages(messages, 300)
        counts = forwarding.prove()
        carried = carrier.count()
        assert carried["repeated_answers"]
        assert carried["unknown_answers"]
        assert counts["unsure"], "none was late"
        tell(**{name: carried[name] for name in ("repeated_answers", "unknown_answers")}, **counts)


def test_receipts_before_the_answer_twice_and_of_nothing(
    start_forwarding: StartForwarding, carrier: Carrier, tell: ReportCounts
) -> None:
    messages = take_share(10_000)
    carrier.behave(receipt_first=True, receipt_twice_every=5, receipt_unknown_every=7)
    with start_forwarding(carrier) as forwarding:
        forwarding.clients.wait_for_messages(messages, 300)
        counts = forwarding.prove()
        carried = carrier.count()
        assert counts["unmatched"] == carried["unknown_receipts"] > 0
        # What comes once more in the moment in which its twin is stored is kept, too; nothing else is.
        assert counts["late_twins"] <= carried["receipts"] // 100
        assert counts["doubles"] == counts["unsure"] == 0
        tell(upstream_receipts=carried["receipts"], unknown_receipts=carried["unknown_receipts"], **counts)


def test_ids_of_receipts_in_another_form(
    start_forwarding: StartForwarding, carrier: Carrier, tell: ReportCounts
) -> None:
    receipts = take_share(500, 20)
    with start_forwarding(carrier) as forwarding:
        # Each change of form is one that was learned before; in the end they come before the answers, too.
        for form in ("decimal", "stripped", "capitals", "decimal"):
            carrier.behave(receipt_ids=form)
            forwarding.clients.wait_for_receipts(receipts)
        assert forwarding.show_upstream()["learned_ids"] == "hex-to-dec"
        carrier.behave(receipt_first=True)
        forwarding.clients.wait_for_receipts(receipts)
        counts = forwarding.prove()
        assert counts["unmatched"] == counts["late_twins"] == 0
        assert counts["doubles"] == counts["unsure"] == 0
        tell(upstream_receipts=carrier.count()["receipts"], **counts)


@pytest.mark.parametrize("unanswered", ["resend", "fail"])
def test_closing_in_the_middle(
    start_forwarding: StartForwarding, carrier: Carrier, unanswered: str, tell: ReportCounts
) -> None:
    closings = take_share(40)
    with start_forwarding(carrier, binds=2, unanswered=unanswered) as forwarding:
        carrier.behave(close_after=200)
        wait_until(lambda: carrier.count()["closed"] >= closings, 20 * closings)
        carrier.behave(close_after=0)
        forwarding.clients.wait_for_receipts(10, _REBIND_S)
        tell(closings=carrier.count()["closed"], **forwarding.prove(gives_up=unanswered == "fail"))


def test_garbage_and_pdus_of_64_kib(start_forwarding: StartForwarding, carrier: Carrier, tell: ReportCounts) -> None:
    random = Random(16)
    payload: dict[int, bytes] = {TlvTag.MESSAGE_PAYLOAD: b"x" * 60_000}
    longest = encode_pdu(CommandId.SUBMIT_SM_RESP, 0, 0x7FFFFFF0, b"x" * (MAX_PDU_LENGTH - 16))
    harmless = [
        # As long as possible, and answers to nothing, or from a handset to nobody.
        longest,
        DeliverSm(1, source="393331234567", destination="48484", tlvs=payload).encode(),
        encode_pdu(0xDEADBEEF, 0, 7, random.randbytes(100)),
    ]
    deadly = [
        (MAX_PDU_LENGTH + 1).to_bytes(4) + longest[4:],
        b"\xff" + random.randbytes(5_000),
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        # The start of a PDU that never ends.
        (1000).to_bytes(4) + encode_pdu(CommandId.DELIVER_SM, 0, 8, b"cut")[4:],
    ]
    deaths = take_share(20, len(deadly))
    with start_forwarding(carrier, binds=2) as forwarding:
        clients = forwarding.clients
        for octets in harmless * deaths:
            carrier.write(octets)
            clients.wait_for_receipts(5)
        assert not carrier.find_events("closed")
        for number in range(deaths):
            wait_until(lambda: carrier.count()["sessions"] == 2, _REBIND_S)
            carrier.write(deadly[number % len(deadly)])
            carrier.wait_for_events("closed", 2 * (number + 1), _REBIND_S)
            clients.wait_for_receipts(10, _REBIND_S)
        tell(garbage=len(harmless) * deaths + deaths, **forwarding.prove())


def test_what_it_says_while_nothing_can_be_written(
    start_forwarding: StartForwarding, carrier: Carrier, data: Path, tell: ReportCounts
) -> None:
    faults, log = take_share(10), data / f"{db.FILE_NAME}-wal"
    # Whoever waited for receipts would send nothing that could be refused.
    with start_forwarding(carrier, binds=2, backlog=_UNLIMITED) as forwarding:
        clients = forwarding.clients
        for _ in range(faults):
            with storage.limit_file_size(forwarding.smsc_pid, log.stat().st_size):
                clients.wait_for_refusals(4 * WINDOW)
            clients.wait_for_receipts(10, _REBIND_S)
        assert clients.binds == len(clients.clients)
        assert set(clients.refused) <= REFUSALS
        counts = forwarding.prove(was_killed=True)
        assert counts["unsure"] == counts["doubles"] == 0
        tell(faults=faults, **counts)


def test_a_second_instance_that_is_killed(
    start_forwarding: StartForwarding,
    crowded: tuple[Path, list[AccountLogin]],
    tmp_path: Path,
    tell: ReportCounts,
) -> None:
    kills = take_share(30)
    with (
        run_second_instance(crowded[0], tmp_path / "upstream", crowded[1][0]) as upstream,
        start_forwarding(upstream, binds=2) as forwarding,
    ):
        for _ in range(kills):
            forwarding.clients.wait_for_receipts(20, _REBIND_S)
            kill_child(upstream.server, "smsc")
        forwarding.clients.wait_for_receipts(10, _REBIND_S)
        tell(kills=kills, **forwarding.prove())
