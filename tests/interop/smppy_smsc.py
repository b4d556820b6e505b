"""An SMSC on the PyPI package `smppy`, as its users write one; see `foreign_server`.

It gives messages no ids, and so sends no receipts.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from smppy import Application, SmppClient
from smppy.server import SmppProtocol


def tell(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


def decode(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


class Smsc(Application):
    async def handle_bound_client(self, client: SmppClient) -> SmppClient:
        tell("bind", system_id=decode(client.system_id), password=decode(client.password))
        return client

    async def handle_unbound_client(self, client: SmppClient) -> None:
        tell("unbind")

    async def handle_sms_received(self, client: SmppClient, source_number: Any, dest_number: Any, text: Any) -> None:
        tell("submit", text=decode(text), source=decode(source_number), destination=decode(dest_number))
        if decode(text) == "answer me":
            await client.send_sms(source=decode(dest_number), dest="44555", text="an answer")


class Connection(SmppProtocol):
    async def on_deliver_sm_resp(self, request: Any) -> None:
        tell("answered")


async def main(port: int) -> None:
    smsc = Smsc(name="smppy")
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Connection(app=smsc), "127.0.0.1", port)
    tell("listening", port=port)
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1])))
