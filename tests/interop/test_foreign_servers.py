"""SMPP servers that others have written, as upstreams of the whole program: messages, receipts, a handset's answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from portal.core import db, gsm0338
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED, ENROUTE
from portal.services.messages import inbound_numbers
from portal.services.operations import self_check
from portal.services.upstreams import binds, counters, upstreams
from portal.smsc.protocol.constants import TlvTag
from portal.smsc.protocol.pdu import SubmitSm
from tests.interop.foreign_server import NET_SMPP, NODE, SMPP34, ForeignServer, run_foreign_server
from tests.smsc.esme import RawEsme, run_smsc, wait_until
from tests.support import Cast

UCS2, UDH_INDICATOR = 8, 0x40
SHORT_TEXTS = ("@ è é ç ù € {} [] ~", "Γειά σου 📦", "Straße, señor, Ångström")
LONG_TEXT = "A text that is longer than one message can be, and goes on and on. " * 5
LONG_UCS2_TEXT = "Ένα μεγάλο μήνυμα 📦 " * 8
MESSAGE_COUNT = 20
SHORT_CODE = "44555"


@dataclass(frozen=True)
class Kind:
    """A program, what has to be set for it, and what it can't do."""

    program: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = SHORT_TEXTS
    reads_payload: bool = True
    sends_receipts: bool = True
    answer: str = "an answer €"


KINDS = {
    "node smpp": Kind(NODE),
    "perl Net::SMPP": Kind(NET_SMPP),
    "rust smpp34": Kind(SMPP34),
}


def build_messages(esme: RawEsme, kind: Kind) -> Iterator[tuple[str, list[SubmitSm]]]:
    """Twenty texts, each to a number of its own, as submit_sm of a customer's client."""
    texts = [*kind.texts, *((LONG_TEXT, LONG_UCS2_TEXT) if kind.reads_payload else ())]
    texts += [f"text {number}" for number in range(MESSAGE_COUNT - len(texts) - 2)]
    for number, text in enumerate(texts):
        yield text, [build_submit(esme, number, text)]
    number = len(texts)
    cut = "cut by its client, " * 10
    parts = [bytes((5, 0, 3, 77, 2, part + 1)) + cut.encode()[part * 100 : part * 100 + 100] for part in range(2)]
    yield cut, [esme.build_submit_sm(f"3933312345{number:02d}", each, esm_class=UDH_INDICATOR) for each in parts]
    yield "answer me", [build_submit(esme, number + 1, "answer me")]


def build_submit(esme: RawEsme, number: int, text: str) -> SubmitSm:
    try:
        octets, data_coding = gsm0338.encode_body(text, gsm0338.Encoding.GSM), 0
    except ValueError:
        octets, data_coding = text.encode("utf-16-be"), UCS2
    destination = f"3933312345{number:02d}"
    if len(octets) <= 140:
        return esme.build_submit_sm(destination, octets, data_coding=data_coding)
    return esme.build_submit_sm(destination, b"", data_coding=data_coding, tlvs={TlvTag.MESSAGE_PAYLOAD: octets})


@pytest.mark.parametrize("name", KINDS)
async def test_messages_receipts_and_an_answer(config: Config, conn: db.Connection, cast: Cast, name: str) -> None:
    async with run_foreign_server(KINDS[name].program) as foreign:
        await exchange_messages(config, conn, cast, KINDS[name], foreign)
        await wait_until(lambda: foreign.find_events("unbind"))


async def exchange_messages(
    config: Config, conn: db.Connection, cast: Cast, kind: Kind, foreign: ForeignServer, **settings: Any
) -> None:
    """Send the messages by the whole program, through an upstream with these settings, and see what comes of them.

    The upstream is the foreign server, or what passes everything on to it.
    """
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    accounts.change_account(conn, SHELL, account, windowing=0, throughput=0)
    inbound_numbers.add_inbound_number(conn, SHELL, account, SHORT_CODE)
    values = {"host": "127.0.0.1", "port": foreign.port, "system_id": "acme", "password": "secret", **kind.settings}
    # A text in parts with a header is among the messages: its client has cut it.
    values["long_texts"] = "payload"
    upstreams.create_upstream(conn, Keys.load(config.data), SHELL, "foreign", **values | settings)
    async with run_smsc(config) as server:
        await wait_until(lambda: [each.state for each in binds.list_bind_states(conn).get(1, ())] == ["bound"])
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = dict(build_messages(esme, kind))
        *submits, last = [each for parts in sent.values() for each in parts]
        esme.send(*submits)
        assert {each.status for each in await esme.wait_for_responses(submits)} == {0}
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] >= len(submits))
        assert (await esme.request(last)).status == 0
        submits.append(last)
        delivered = [await esme.receive_deliver_sm() for _ in range(len(submits) * kind.sends_receipts + 1)]
        (answer,) = [each for each in delivered if each.destination == SHORT_CODE]
        assert gsm0338.decode(answer.short_message) == kind.answer
        await wait_until(lambda: len(foreign.find_events("answered")) >= len(delivered))
        assert {each.get("status", 0) for each in foreign.find_events("answered")} == {0}
        expected = DELIVERED if kind.sends_receipts else ENROUTE
        assert {row["state"] for row in conn.execute("SELECT state FROM messages")} == {expected}
        assert foreign.read_texts() == {parts[0].destination: text for text, parts in sent.items()}
    assert not conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0]
    assert self_check.list_problem_texts(conn) == []
