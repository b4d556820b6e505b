"""An SMSC on the PyPI package `smpp34` (Rust beneath asyncio), as its users write one; see `foreign_server`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import smpp34

RECEIPT, MESSAGE_PAYLOAD = 0x04, 0x0424


def tell(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


async def send(esme: Any, **fields: Any) -> None:
    answer = await esme.deliver_sm(source_addr_ton=1, source_addr_npi=1, **fields)
    tell("answered", status=answer.command_status)


async def main(port: int) -> None:
    server = smpp34.Server(host="127.0.0.1", port=port, system_id="smpp34")
    await server.start()
    tell("listening", port=port)
    esmes: dict[str, Any] = {}
    tasks: set[asyncio.Task[None]] = set()
    count = 0

    def send_soon(session_id: str, **fields: Any) -> None:
        task = asyncio.create_task(send(esmes[session_id], **fields))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    while True:
        event = await server.next()
        if isinstance(event, smpp34.Esme):
            esmes[event.session_id] = event
            tell("bind", system_id=event.system_id)
        elif isinstance(event, smpp34.Unbound):
            del esmes[event.session_id]
            tell("unbind")
        elif isinstance(event, smpp34.SubmitSmEvent):
            count += 1
            message_id = f"M-{count:04d}"
            event.accept(message_id=message_id)
            octets = next((each.value for each in event.tlvs if each.tag == MESSAGE_PAYLOAD), event.short_message)
            tell(
                "submit",
                octets=octets.hex(),
                data_coding=event.data_coding,
                esm_class=event.esm_class,
                source=event.source_addr,
                destination=event.destination_addr,
            )
            ends = {"source_addr": event.destination_addr, "destination_addr": event.source_addr}
            if event.registered_delivery & 1:
                text = (
                    f"id:{message_id} sub:001 dlvrd:001 submit date:2611291200 done date:2611291201 stat:DELIVRD"
                    " err:000 text:"
                )
                send_soon(event.session_id, esm_class=RECEIPT, short_message=text.encode(), **ends)
            if octets == b"answer me":
                ends["destination_addr"] = "44555"
                send_soon(event.session_id, short_message=b"an answer \x1be", **ends)


asyncio.run(main(int(sys.argv[1])))
