"""Traces of an upstream's PDUs: what operators see of them, how long, and what they never see."""

import sqlite3
from collections.abc import Sequence

import pytest

from portal.core import db
from portal.core.clock import MINUTE_MS, now_ms
from portal.services.common import addresses
from portal.services.common.audit import SYSTEM
from portal.services.upstreams import traces, upstreams
from portal.services.upstreams.traces import TracedPdu
from portal.smsc.protocol.constants import TlvTag
from portal.smsc.protocol.pdu import DeliverSm, PduHeader
from portal.smsc.upstream import pdu_tracer
from portal.smsc.upstream.smpp_client.pdu_trace import describe, describe_receipt
from tests.smsc.esme import RawEsme, run_smsc, wait_until
from tests.smsc.upstream.running import build_receipt, run_bound
from tests.smsc.upstream.smpp_client.carrier import run_carrier

NUMBER, TEXT = "393331234567", b"the secret word"


def start(conn: db.Connection, minutes: int = 5) -> None:
    traces.start_trace(conn, SYSTEM, upstreams.get_upstream(conn, "carrier"), minutes)


def read(conn: db.Connection) -> list[TracedPdu]:
    """Oldest first."""
    return traces.list_pdus(conn, 1, limit=10_000)[::-1]


def list_commands(pdus: Sequence[TracedPdu]) -> list[tuple[bool, str]]:
    return [(each.is_sent, each.command) for each in pdus]


async def wait_for(conn: db.Connection, command: str, count: int = 1) -> None:
    await wait_until(lambda: sum(each.command == command for each in read(conn)) >= count)


async def test_each_pdu_is_kept_with_its_fields_and_without_texts_and_numbers(
    config, cast, conn, add_upstream, wakeup_sender
):
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        start(conn)
        async with run_smsc(config) as server:
            connection = await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            await esme.submit(NUMBER, text=TEXT)
            submit = await connection.read_submit()
            connection.answer(submit, message_id="00FF")
            receipt = build_receipt(submit, "00FF")
            receipt.short_message += TEXT
            connection.send(receipt)
            await connection.read_response()
            connection.send(
                DeliverSm(
                    8,
                    source=NUMBER,
                    destination="48480",
                    short_message=TEXT,
                    tlvs={0x1500: b"393331234567", 0x0427: b"2"},
                )
            )
            await connection.read_response()
            connection.send(DeliverSm(9, source=NUMBER, tlvs={TlvTag.MESSAGE_PAYLOAD: TEXT}))
            await connection.read_response()
            await connection.expect_nothing()
            await wait_for(conn, "enquire_link_resp")
            # The end of the connection is there, too.
            upstreams.disable_upstream(conn, SYSTEM, upstreams.get_upstream(conn, "carrier"))
            wakeup_sender.send()
            await connection.answer_unbind()
            await wait_for(conn, "unbind_resp")
            await esme.close()
        found = read(conn)
        assert list_commands(found)[:5] == [
            (True, "bind_transceiver"),
            (False, "bind_transceiver_resp"),
            (True, "submit_sm"),
            (False, "submit_sm_resp"),
            (False, "deliver_sm"),
        ]
        bind, bind_resp, sent, answer, told = found[:5]
        assert (bind.fields["system_id"], bind.fields["password"], bind.status) == ("portal", "***", "")
        assert (bind_resp.status, bind_resp.fields) == ("ESME_ROK 0x00", {"system_id": "CARRIER"})
        assert (sent.bind, sent.sequence_number) == (1, submit.sequence)
        expected = {"destination_addr": "3933******67", "short_message": "***", "data_coding": "0", "sm_length": "15"}
        assert sent.fields.items() >= expected.items()
        assert sent.fields["registered_delivery"] == "1"
        assert (answer.sequence_number, answer.status, answer.fields) == (
            submit.sequence,
            "ESME_ROK 0x00",
            {"message_id": "00FF"},
        )
        assert told.fields["receipt"] == "id:00FF done date:2611291201 stat:DELIVRD err:000"
        mobile, payload = (each for each in found[5:] if each.command == "deliver_sm")
        assert mobile.fields["source_addr"] == "3933******67"
        assert (mobile.fields["0x1500"], mobile.fields["message_state"]) == ("*** (12)", "0x32")
        assert payload.fields["message_payload"] == "*** (15)"
        assert_nothing_is_told(conn, b"secret", NUMBER.encode())


def assert_nothing_is_told(conn: db.Connection, *secrets: bytes) -> None:
    """`secret` is the password, and a word of the text."""
    stored = repr([tuple(row) for row in conn.execute("SELECT * FROM traced_pdus")]).encode()
    assert stored
    for each in secrets:
        assert each not in stored
        assert each.hex().upper().encode() not in stored


async def test_a_bind_that_is_refused_is_traced_without_its_password(config, conn, add_upstream):
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        start(conn)
        async with run_smsc(config):
            connection = await carrier.accept(0x0E)
            await connection.wait_for_close()
            await wait_for(conn, "bind_transceiver_resp")
        bind, answer = read(conn)[:2]
        assert (bind.command, answer.status) == ("bind_transceiver", "ESME_RINVPASWD 0x0E")
        assert_nothing_is_told(conn, b"secret")


async def test_it_begins_and_stops_while_the_server_runs_and_restarts_with_it(
    config, conn, add_upstream, wakeup_sender
):
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        async with run_smsc(config):
            connection = await carrier.accept()
            await connection.expect_nothing()
            start(conn)
            wakeup_sender.send()

            async def ask() -> bool:
                await connection.expect_nothing()
                return bool(read(conn))

            while not await ask():
                pass
        assert "bind_transceiver" not in [each.command for each in read(conn)]
        # Another process goes on with it.
        async with run_smsc(config):
            connection = await carrier.accept()
            await wait_for(conn, "bind_transceiver_resp")
            traces.stop_trace(conn, SYSTEM, upstreams.get_upstream(conn, "carrier"))
            wakeup_sender.send()
            stopped_at = now_ms()
            while now_ms() < stopped_at + 1_500:
                await connection.expect_nothing()
        # The server is told at once, and looks by itself each quarter of a second.
        assert max(each.at for each in read(conn)) < stopped_at + 1_000
        assert traces.list_running_traces(conn) == {}


async def test_it_ends_at_its_time_by_itself(config, conn, add_upstream, monkeypatch):
    """Nobody tells the server, and it looks at nothing."""
    monkeypatch.setattr(traces, "MINUTE_MS", 1_500)
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        start(conn, 1)
        async with run_smsc(config):
            connection = await carrier.accept()
            trace = traces.get_trace(conn, 1)
            assert trace
            while now_ms() <= trace.ends_at + 500:
                await connection.expect_nothing()
        assert max(each.at for each in read(conn)) <= trace.ends_at + 100


async def test_the_newest_are_kept_and_what_comes_too_fast_is_counted(config, conn, cast, add_upstream, monkeypatch):
    monkeypatch.setattr(traces, "MAX_ROWS", 20)
    monkeypatch.setattr(pdu_tracer, "_MAX_PDUS", 15)
    async with run_bound(config, add_upstream, window=100) as (server, _, connection):
        start(conn)
        await wait_until(lambda: traces.list_running_traces(conn) != {})
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        trace = traces.get_trace(conn, 1)
        while not (trace and trace.left_out):
            for _ in range(40):
                await connection.expect_nothing()
            trace = traces.get_trace(conn, 1)
        await wait_until(lambda: len(read(conn)) == 20)
        await esme.close()


@pytest.mark.parametrize(
    ("number", "masked"),
    [
        ("393331234567", "3933******67"),
        ("+393331234567", "+3933******67"),
        ("4512345678", "45******78"),
        ("12345678", "******78"),
        ("1234567", "*****67"),
        ("48480", "48480"),
        ("123456", "123456"),
        ("ACME", "ACME"),
        ("333-123-4567", "33*-***-**67"),
        ("", ""),
    ],
)
def test_how_numbers_are_masked(number, masked):
    assert addresses.mask_number(number) == masked


def test_a_receipt_in_a_carriers_own_words_tells_nothing():
    assert describe_receipt("dear customer, your text hello has come") == "***"
    # A field is one word: what follows may be the message.
    told = describe_receipt("id:7 stat:DELIVRD err:000 Message=hello to you")
    assert told == "id:7 stat:DELIVRD err:000"


def test_what_isnt_smpp_is_told_of_without_its_octets():
    header = PduHeader(20, 0x80000004, 0, 7)
    assert describe(header, b"\xff" * 70) == {
        "malformed": "a string of more than 64 characters",
        "message_id": "\xff" * 64,
    }
    many = DeliverSm(7, source="393331234567", tlvs={0x1500 + each: b"" for each in range(1_000)})
    header, body = PduHeader(0, 5, 0, 7), many.encode()[16:]
    assert describe(header, body)["tlvs_left_out"] == "960"
    assert len(describe(header, body)) < 60
    assert describe(PduHeader(20, 0x102, 0, 7), b"secret") == {"malformed": "command_id 0x00000102"}


def count_rows(conn: sqlite3.Connection) -> int:
    return int(conn.execute("SELECT count(*) FROM traced_pdus").fetchone()[0])


def test_a_removed_upstream_takes_its_trace_along(conn, add_upstream):
    upstream = add_upstream(1)
    start(conn)
    pdu = TracedPdu(now_ms(), True, 1, 1, "enquire_link", "")
    traces.store_pdus(conn, upstream.id, [pdu], 0)
    assert count_rows(conn) == 1
    upstreams.remove_upstream(conn, SYSTEM, upstream)
    traces.store_pdus(conn, upstream.id, [pdu], 0)
    assert count_rows(conn) == 0
    assert traces.list_running_traces(conn) == {}


def test_one_that_runs_goes_on_for_longer(conn, add_upstream):
    upstream = add_upstream(1)
    first = traces.start_trace(conn, SYSTEM, upstream, 1)
    traces.store_pdus(conn, upstream.id, [], 7)
    second = traces.start_trace(conn, SYSTEM, upstream, "60")
    assert (second.started_at, second.left_out) == (first.started_at, 7)
    assert second.ends_at >= first.ends_at + 59 * MINUTE_MS
    conn.execute("UPDATE upstream_traces SET ends_at = 1")
    assert traces.start_trace(conn, SYSTEM, upstream, 1).left_out == 0
    for each in ("0", "61", "", "-1", "1.5", "x", "²"):
        with pytest.raises(traces.InvalidTraceMinutes):
            traces.start_trace(conn, SYSTEM, upstream, each)
