"""A wakeup reaches the listener, and does no harm when there is none."""

import asyncio
from pathlib import Path

import pytest

from portal.core import wakeup


@pytest.fixture(params=["short", "long/" + "x" * 120])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / str(request.param)
    folder.mkdir(parents=True)
    return folder


def test_a_wakeup_arrives(data):
    async def scenario() -> None:
        arrived = asyncio.Event()
        listener = wakeup.WakeupListener(data, asyncio.get_running_loop(), arrived.set)
        wakeup.WakeupSender(data).send()
        await asyncio.wait_for(arrived.wait(), 5)
        listener.close()

    asyncio.run(scenario())


def test_nobody_listening_is_no_error(data):
    for folder in (data, data / "missing"):
        wakeup.WakeupSender(folder).send()


def test_a_flood_neither_blocks_nor_raises_and_a_listener_can_come_back(data):
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        calls = []
        first = wakeup.WakeupListener(data, loop, lambda: calls.append("first"))
        wakeup_sender = wakeup.WakeupSender(data)
        for _ in range(5_000):
            wakeup_sender.send()
        first.close()
        arrived = asyncio.Event()
        second = wakeup.WakeupListener(data, loop, arrived.set)
        wakeup_sender.send()
        await asyncio.wait_for(arrived.wait(), 5)
        second.close()
        assert calls == []
        wakeup_sender.send()

    asyncio.run(scenario())
