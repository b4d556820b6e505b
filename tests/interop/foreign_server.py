"""SMPP servers that others have written, as upstreams: programs that tell what happens on stdout, a JSON value a line.

A program gets its port as its argument. It takes every bind, and every message under an id of its own; it sends a
receipt where one was asked for, and after "answer me" a message from that handset to 44555. It tells as `event`:

| event | with |
| --- | --- |
| `listening` | `port` |
| `bind` | `system_id`, and `password` where the library tells it |
| `submit` | `source`, `destination`, and either `octets` (hexadecimal), `data_coding` and `esm_class`, or `text` |
| `answered` | the `status` of a deliver_sm_resp, where the library tells it |
| `unbind` | |

`text` is what the library has read; where it has cut off a UDH, that is `udh` (hexadecimal).
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from portal.core import gsm0338
from tests.support import find_free_port

_HERE = Path(__file__).parent
_UDH_INDICATOR = 0x40
START_S = 30

NODE = ("node", str(_HERE / "node" / "smsc.js"))
NET_SMPP = ("perl", str(_HERE / "net_smpp_smsc.pl"))
SMPP34 = (sys.executable, str(_HERE / "smpp34_smsc.py"))

Event = Mapping[str, Any]


class ForeignServer:
    """A running server. `events`: what it has told."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.events: list[Event] = []

    def find_events(self, name: str) -> list[Event]:
        return [each for each in self.events if each["event"] == name]

    def read_texts(self) -> dict[str, str]:
        """The texts that it has got, whole, by their destinations."""
        parts: dict[str, list[tuple[int, Event, bytes]]] = defaultdict(list)
        for each in self.find_events("submit"):
            udh = bytes.fromhex(each.get("udh", ""))
            content = bytes.fromhex(each.get("octets", ""))
            if each.get("esm_class", 0) & _UDH_INDICATOR and content:
                udh, content = content[: content[0] + 1], content[content[0] + 1 :]
            # The last octet of a concatenation, in 8 or 16 bit, is the number of the part.
            parts[each["destination"]].append((udh[-1] if udh else 0, each, content))
        return {destination: _join_parts(sorted(each, key=_get_number)) for destination, each in parts.items()}


def _get_number(part: tuple[int, Event, bytes]) -> int:
    return part[0]


def _join_parts(parts: list[tuple[int, Event, bytes]]) -> str:
    _, first, _ = parts[0]
    if "text" in first:
        return "".join(each["text"] for _, each, _ in parts)
    return gsm0338.decode_body(b"".join(content for *_, content in parts), gsm0338.ENCODINGS[first["data_coding"]])


@asynccontextmanager
async def run_foreign_server(program: tuple[str, ...]) -> AsyncIterator[ForeignServer]:
    """Run one of the programs above; the block begins when it listens."""
    server = ForeignServer(find_free_port())
    process = await asyncio.create_subprocess_exec(*program, str(server.port), stdout=PIPE)
    listening = asyncio.Event()

    async def read_events() -> None:
        assert process.stdout
        async for line in process.stdout:
            server.events.append(json.loads(line))
            listening.set()

    reader = asyncio.create_task(read_events())
    reader.add_done_callback(lambda _: listening.set())
    try:
        async with asyncio.timeout(START_S):
            await listening.wait()
        assert server.find_events("listening"), f"{program} does not listen"
        yield server
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader
