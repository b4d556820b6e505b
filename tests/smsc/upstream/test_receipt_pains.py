"""What goes wrong elsewhere with receipts and with messages from handsets: the pains 1, 7, 9 and 10 of those who run
gateways. Each test is one of them: a carrier that does it, and what the customer gets all the same.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from portal.core import db
from portal.core.clock import DAY_MS, MINUTE_MS, now_ms
from portal.core.config import Config
from portal.services.common import ids, message_states
from portal.services.common.audit import SYSTEM
from portal.services.messages import inbound_numbers
from portal.services.operations import self_check
from portal.services.upstreams import counters
from portal.services.upstreams.message_ids import LEARNED_AFTER
from portal.services.upstreams.upstreams import Upstream
from portal.smsc.protocol.constants import CommandId, TlvTag
from portal.smsc.protocol.pdu import DeliverSm, SubmitSm
from portal.smsc.server import SmppServer
from tests.smsc.esme import RawEsme, run_smsc, wait_until
from tests.smsc.upstream.smpp_client.carrier import Carrier, CarrierConnection, run_carrier

HANDSET, NUMBER = "393331234567", "44555"


@asynccontextmanager
async def run_forwarding(
    config: Config, add_upstream: Callable[..., Upstream], **settings: Any
) -> AsyncIterator[tuple[SmppServer, Carrier, CarrierConnection]]:
    async with run_carrier() as carrier:
        add_upstream(carrier.port, **settings)
        async with run_smsc(config) as server:
            yield server, carrier, await carrier.accept()


def build_receipt(submit: SubmitSm, receipt_id: str, stat: str = "DELIVRD", err: str = "000") -> DeliverSm:
    text = f"id:{receipt_id} sub:001 dlvrd:001 submit date:2611291200 done date:2611291201 stat:{stat} err:{err} text:"
    return DeliverSm(7, source=submit.destination, destination=submit.source, esm_class=4, short_message=text.encode())


async def exchange(esme: RawEsme, carrier: CarrierConnection, upstream_id: str) -> tuple[str, SubmitSm]:
    """Send a message, which the carrier accepts with an id; returns the customer's id of it, and the submit_sm."""
    answer = await esme.submit()
    submit = await carrier.read_submit()
    carrier.answer(submit, message_id=upstream_id)
    return answer.message_id, submit


def read_states(conn: db.Connection) -> set[int]:
    return {row[0] for row in conn.execute("SELECT state FROM messages")}


@pytest.mark.parametrize(
    ("upstream_id", "receipt_id"),
    [
        ("{0:x}", "{0:d}"),
        ("{0:08X}", "{0:010d}"),
        ("{0:d}", "{0:x}"),
        ("{0:010d}", "{0:d}"),
        ("{0:d}", "{0:010d}"),
        ("{0:X}-A", "{0:x}-a"),
    ],
    ids=["hex to decimal", "padded", "decimal to hex", "zeros stripped", "zeros added", "case"],
)
async def test_pain_1_ids_of_receipts_in_another_form(config, cast, conn, add_upstream, upstream_id, receipt_id):
    async with run_forwarding(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for number in range(0x5EED, 0x5EED + LEARNED_AFTER + 2):
            client_id, submit = await exchange(esme, carrier, upstream_id.format(number))
            carrier.send(build_receipt(submit, receipt_id.format(number)))
            receipt = (await esme.receive_deliver_sm()).short_message.decode()
            assert f"id:{client_id} " in receipt
            assert "stat:DELIVRD" in receipt
            assert (await carrier.read_response()).status == 0
        # Under the id that the carrier gave.
        stored = {row[0] for row in conn.execute("SELECT upstream_id FROM messages")}
        assert upstream_id.format(0x5EED) in stored
        assert counters.get_counters(conn, 1)["unmatched"] == 0
        (matches,) = conn.execute("SELECT matches FROM learned_ids").fetchone()
        assert matches == LEARNED_AFTER


async def test_pain_1_an_id_in_a_text_of_the_carriers_own(config, cast, conn, add_upstream):
    settings = {"receipt_id_from": "text", "receipt_id_pattern": r"ref=(\w+)", "message_ids": "hex-to-dec"}
    async with run_forwarding(config, add_upstream, **settings) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        _, submit = await exchange(esme, carrier, "ff")
        text = b"ref=255 id:nothing stat:EXPIRED err:000"
        # What it has in the parameter is of its own, too.
        tlvs: dict[int, bytes] = {TlvTag.RECEIPTED_MESSAGE_ID: b"1\0"}
        carrier.send(DeliverSm(7, source=submit.destination, esm_class=4, short_message=text, tlvs=tlvs))
        assert "stat:EXPIRED" in (await esme.receive_deliver_sm()).short_message.decode()


@pytest.mark.parametrize("order", ["matched", "both early", "same as before"])
async def test_pain_1_an_id_that_is_not_new_in_a_receipt_before_the_answer(
    config, cast, conn, add_upstream, monkeypatch, order
):
    monkeypatch.setattr("portal.smsc.upstream.dispatcher._HEALTH_SECONDS", 0.0125)
    async with run_forwarding(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)

        async def bring(submit: SubmitSm) -> None:
            carrier.send(build_receipt(submit, "77"))
            assert (await carrier.read_response()).status == 0

        if order == "same as before":
            # A carrier that begins its ids anew.
            _, submit = await exchange(esme, carrier, "77")
            await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 1)
            await bring(submit)
            await esme.receive_deliver_sm()
            await esme.submit()
            submit = await carrier.read_submit()
            await bring(submit)
        else:
            # One that gives all parts of a text the same.
            await esme.submit(text=b"", tlvs={TlvTag.MESSAGE_PAYLOAD: b"x" * 200})
            first, submit = await carrier.read_submits(2)
            if order == "both early":
                await bring(first)
            else:
                carrier.answer(first, message_id="77")
                await wait_until(lambda: conn.execute("SELECT count(*) FROM message_parts").fetchone()[0])
                await bring(first)
            await bring(submit)
            if order == "both early":
                carrier.answer(first, message_id="77")
        carrier.answer(submit, message_id="77")
        assert "stat:DELIVRD" in (await esme.receive_deliver_sm()).short_message.decode()
        assert read_states(conn) == {message_states.DELIVERED}
        amounts = counters.get_counters(conn, 1)
        assert (amounts["receipts"], amounts["unmatched"]) == (2, int(order == "both early"))
        assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 0
        assert self_check.list_problem_texts(conn) == []


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_pain_7_receipts_that_come_while_the_client_is_away(config, cast, conn, add_upstream, is_restarted):
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        async with run_smsc(config) as server:
            bind = await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            sent = [await exchange(esme, bind, str(number)) for number in range(1, 6)]
            await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == len(sent))
            await esme.close()
            bind.send(*(build_receipt(submit, str(number)) for number, (_, submit) in enumerate(sent, start=1)))
            assert {(await bind.read_response()).status for _ in sent} == {0}
            if not is_restarted:
                await receive_all(server, cast, [each for each, _ in sent])
        if is_restarted:
            async with run_smsc(config) as server:
                await receive_all(server, cast, [each for each, _ in sent])


async def receive_all(server: SmppServer, cast: Any, client_ids: list[str]) -> None:
    """To a client that only receives, in their order, each once."""
    receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, command=CommandId.BIND_RECEIVER)
    receipts = [(await receiver.receive_deliver_sm()).short_message.decode() for _ in client_ids]
    assert [each.partition(" ")[0] for each in receipts] == [f"id:{each}" for each in client_ids]


async def test_pain_9_a_refusal_is_what_the_map_says(config, cast, conn, add_upstream):
    settings = {"status_map": "0x401=throttle, 0x402=retry, 0x403=fail:54", "throttle_seconds": 1}
    async with run_forwarding(config, add_upstream, **settings) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit(text=b"throttled")
        carrier.answer(await carrier.read_submit(), 0x401)
        # A second later, the same again, without the database.
        again = await carrier.read_submit()
        assert again.short_message == b"throttled"
        assert conn.execute("SELECT count(*) FROM held_messages").fetchone()[0] == 0
        carrier.answer(again, message_id="1")
        await esme.submit("393337654321", text=b"held")
        carrier.answer(await carrier.read_submit(), 0x402)
        await wait_until(lambda: conn.execute("SELECT count(*) FROM held_messages").fetchone()[0] == 1)
        refused = await esme.submit("393330000000", text=b"refused")
        submit = await carrier.read_submit()
        carrier.answer(submit, 0x403)
        receipt = (await esme.receive_deliver_sm()).short_message.decode()
        assert f"id:{refused.message_id} " in receipt
        assert "stat:REJECTD err:054" in receipt
        # One of what was refused changes nothing, and reaches nobody.
        carrier.send(build_receipt(submit, "none"))
        assert (await carrier.read_response()).status == 0
        assert read_states(conn) == {message_states.ENROUTE, message_states.REJECTED}
        assert self_check.list_problem_texts(conn) == []


@pytest.mark.parametrize(
    ("stat", "err", "told"),
    [
        ("UNDELIV", "027", "stat:UNDELIV err:003"),
        ("UNDELIV", "0C7", "stat:UNDELIV err:053"),
        ("EXPIRED", "C7", "stat:EXPIRED err:053"),
        ("EXPIRED", "000", "stat:EXPIRED err:801"),
        ("DELIVRD", "0C7", "stat:DELIVRD err:000"),
    ],
)
async def test_pain_9_the_final_state_and_its_reason_reach_the_customer(
    config, cast, conn, add_upstream, stat, err, told
):
    settings = {"error_map": "c7=53", "intermediate_states": "UNKNOWN"}
    async with run_forwarding(config, add_upstream, **settings) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        client_id, submit = await exchange(esme, carrier, "a1")
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 1)
        # On its way, whatever word that is; then the end; then what nobody asks for any more.
        for word, code in (("BUFFERED", "000"), ("UNKNOWN", "000"), (stat, err), ("DELIVRD", "000"), ("REJECTD", "1")):
            carrier.send(build_receipt(submit, "a1", word, code))
            assert (await carrier.read_response()).status == 0
        receipt = (await esme.receive_deliver_sm()).short_message.decode()
        assert f"id:{client_id} " in receipt
        assert told in receipt
        (count,) = conn.execute("SELECT count(*) FROM deliveries").fetchone()
        assert count <= 1


async def test_pain_9_a_receipt_of_yesterday_has_the_carriers_date(config, cast, conn, add_upstream):
    async with run_forwarding(config, add_upstream, receipt_timezone="Asia/Tokyo") as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        _, submit = await exchange(esme, carrier, "1")
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 1)
        # It was sent the day before yesterday, and delivered half an hour later, as it is told now.
        sent_at = (now_ms() - 2 * DAY_MS) // MINUTE_MS * MINUTE_MS
        conn.execute("UPDATE messages SET id = ?", (ids.min_id_at_time(sent_at),))
        done = datetime.fromtimestamp((sent_at + 30 * MINUTE_MS) / 1000, UTC)
        receipt = build_receipt(submit, "1")
        in_tokyo = done + timedelta(hours=9)
        receipt.short_message = f"id:1 done date:{in_tokyo:%y%m%d%H%M} stat:DELIVRD err:000".encode()
        carrier.send(receipt)
        assert f"done date:{done:%y%m%d%H%M}" in (await esme.receive_deliver_sm()).short_message.decode()


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_pain_10_parts_from_a_handset_over_two_binds_and_out_of_order(
    config, cast, conn, account, add_upstream, is_restarted
):
    inbound_numbers.add_inbound_number(conn, SYSTEM, account, NUMBER)
    octets = "Però: 😀 € è lungo".encode("utf-16-be")
    # The smiley is cut in two.
    cuts = [0, octets.index(b"\xd8") + 2, len(octets) - 3, len(octets)]
    parts = [
        DeliverSm(
            number,
            source=f"+{HANDSET}",
            destination=NUMBER,
            esm_class=0x40,
            data_coding=8,
            short_message=bytes((5, 0, 3, 9, 3, number)) + octets[cuts[number - 1] : cuts[number]],
        )
        for number in (1, 2, 3)
    ]
    async with run_carrier() as carrier:
        add_upstream(carrier.port, binds=2)
        async with run_smsc(config) as server:
            first, second = await carrier.accept(), await carrier.accept()
            first.send(parts[2])
            assert (await first.read_response()).status == 0
            second.send(parts[0])
            assert (await second.read_response()).status == 0
            if not is_restarted:
                await receive_joined(server, cast, first, parts[1])
        if is_restarted:
            async with run_smsc(config) as server:
                first, second = await carrier.accept(), await carrier.accept()
                await receive_joined(server, cast, second, parts[1])
        assert [tuple(row) for row in conn.execute("SELECT source, text FROM received")] == [
            (HANDSET, "Però: 😀 € è lungo")
        ]


async def receive_joined(server: SmppServer, cast: Any, carrier: CarrierConnection, last: DeliverSm) -> None:
    esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
    carrier.send(last)
    assert (await carrier.read_response()).status == 0
    delivered = await esme.receive_deliver_sm()
    assert (delivered.esm_class, delivered.data_coding) == (0, 8)
    assert delivered.body.decode("utf-16-be") == "Però: 😀 € è lungo"


async def test_pain_10_a_long_message_to_nobodys_number_is_kept_for_operators(config, cast, conn, add_upstream):
    async with run_forwarding(config, add_upstream) as (_, __, carrier):
        for number, piece in ((2, b"nobody"), (1, b"for ")):
            header = bytes((5, 0, 3, 9, 2, number))
            carrier.send(
                DeliverSm(number, source=HANDSET, destination=NUMBER, esm_class=0x40, short_message=header + piece)
            )
            assert (await carrier.read_response()).status == 0
        rows = conn.execute("SELECT upstream, source, destination, text FROM unowned_messages").fetchall()
        assert [tuple(row) for row in rows] == [(1, HANDSET, NUMBER, "for nobody")]
