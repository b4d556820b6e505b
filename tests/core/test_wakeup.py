"""The nudge reaches whoever listens, and hurts nobody when there is none."""

import asyncio
from contextlib import closing

import pytest

from portal.core import wakeup


@pytest.fixture(params=["short", "long/" + "x" * 120])
def data(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir(parents=True)
    return folder


def test_a_nudge_arrives(data):
    async def scenario():
        arrived = asyncio.Event()
        listener = wakeup.Listener(data, asyncio.get_running_loop(), arrived.set)
        with closing(wakeup.Nudger(data)) as nudger:
            nudger.send()
        await asyncio.wait_for(arrived.wait(), 5)
        listener.close()

    asyncio.run(scenario())


def test_nobody_listening_is_no_error(data):
    for folder in (data, data / "missing"):
        with closing(wakeup.Nudger(folder)) as nudger:
            nudger.send()


def test_a_flood_neither_blocks_nor_raises_and_a_listener_can_come_back(data):
    async def scenario():
        loop = asyncio.get_running_loop()
        calls = []
        first = wakeup.Listener(data, loop, lambda: calls.append("first"))
        nudger = wakeup.Nudger(data)
        for _ in range(5_000):
            nudger.send()
        first.close()
        arrived = asyncio.Event()
        second = wakeup.Listener(data, loop, arrived.set)
        nudger.send()
        await asyncio.wait_for(arrived.wait(), 5)
        second.close()
        assert calls == []
        nudger.send()
        nudger.close()

    asyncio.run(scenario())
