"""The npm package `smpp` as a carrier's SMSC: the client towards upstreams sends to it, and comes back to it."""

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from portal.services.common.message_states import DELIVERED
from portal.services.upstreams.settings import DEFAULTS
from portal.smsc.protocol.pdu import SubmitSm
from portal.smsc.upstream.smpp_client.connector import BindStatus
from portal.smsc.upstream.smpp_client.deliver_sm import parse_receipt
from tests.smsc.upstream.smpp_client.carrier import run_client, submit

NODE_SMSC = ("node", str(Path(__file__).parent / "node" / "smsc.js"))
DEADLINE_S = 30


class NodeSmsc:
    """The running SMSC."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def wait_for_event(self, event: str) -> Mapping[str, Any]:
        """Wait for the next event of that name, and forget those before it."""
        assert self._process.stdout
        async with asyncio.timeout(DEADLINE_S):
            while True:
                told: Mapping[str, Any] = json.loads(await self._process.stdout.readline())
                if told["event"] == event:
                    return told


@asynccontextmanager
async def run_node_smsc() -> AsyncIterator[tuple[NodeSmsc, int]]:
    """The SMSC, and its port."""
    process = await asyncio.create_subprocess_exec(*NODE_SMSC, stdout=PIPE)
    try:
        smsc = NodeSmsc(process)
        yield smsc, (await smsc.wait_for_event("listening"))["port"]
    finally:
        process.kill()
        await process.wait()


def build_submit(text: str) -> SubmitSm:
    return SubmitSm(
        0,
        source="ACME",
        source_ton=5,
        destination="393331234567",
        dest_ton=1,
        dest_npi=1,
        registered_delivery=1,
        short_message=text.encode(),
    )


async def test_messages_receipts_and_an_unbind():
    async with run_node_smsc() as (smsc, port), run_client(port) as (client, reports):
        assert await smsc.wait_for_event("bind") == {
            "event": "bind",
            "system_id": "portal",
            "password": "secret",
            "interface_version": 0x34,
        }
        await reports.wait_for(lambda: client.room == 10)
        for each in range(10):
            submit(client, each, build_submit(f"text {each}"))
        event = await smsc.wait_for_event("submit")
        assert event == {
            "event": "submit",
            "text": "text 0",
            "udh": "",
            "source": "ACME",
            "destination": "393331234567",
        }
        await reports.wait_for(lambda: len(reports.answers) == 10 and len(reports.deliveries) == 10)
        assert reports.answers == [(each, 0, f"{each + 1:08x}") for each in range(10)]
        receipts = [parse_receipt(each, 1, DEFAULTS) for each in reports.deliveries]
        assert [(each.message_ids, each.state) for each in receipts if each] == [
            ((f"{each + 1:08x}",), DELIVERED) for each in range(10)
        ]
        assert (await smsc.wait_for_event("answered"))["status"] == 0
        await client.close()
        await smsc.wait_for_event("unbind")


async def test_it_comes_back_after_a_loss_and_after_an_unbind():
    async with run_node_smsc() as (smsc, port), run_client(port) as (client, reports):
        await reports.wait_for(lambda: client.room == 10)
        submit(client, 1, build_submit("close"))
        assert (await reports.wait_for_state(BindStatus.UNBOUND)).error.endswith("closed the connection")
        assert reports.unsure == [1]
        await reports.wait_for(lambda: client.room == 10)
        submit(client, 2, build_submit("unbind"))
        assert (await smsc.wait_for_event("unbind answered"))["status"] == 0
        assert (await reports.wait_for_state(BindStatus.UNBOUND)).error == "the carrier has unbound"
        assert [each[0] for each in reports.answers] == [2]
        await reports.wait_for(lambda: client.room == 10)
        submit(client, 3, build_submit("once more"))
        await reports.wait_for(lambda: len(reports.answers) == 2)
        assert reports.unsure == [1]
