"""The whole server with an upstream, and what tests of several areas read of what goes through it."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from portal.core import db
from portal.core.config import Config
from portal.services.upstreams.upstreams import Upstream
from portal.smsc.protocol.pdu import DeliverSm, SubmitSm
from portal.smsc.server import SmppServer
from tests.smsc.esme import run_smsc
from tests.smsc.upstream.smpp_client.carrier import Carrier, CarrierConnection, run_carrier


def read_message(conn: db.Connection, message_id: str) -> sqlite3.Row:
    row: sqlite3.Row = conn.execute("SELECT * FROM messages WHERE id = ?", (int(message_id),)).fetchone()
    return row


def count_waiting(conn: db.Connection) -> int:
    return sum(
        conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("queued_messages", "held_messages")
    )


def build_receipt(submit: SubmitSm, upstream_id: str, stat: str = "DELIVRD", err: str = "000") -> DeliverSm:
    text = f"id:{upstream_id} sub:001 dlvrd:001 submit date:2611291200 done date:2611291201 stat:{stat} err:{err} text:"
    return DeliverSm(7, source=submit.destination, destination=submit.source, esm_class=4, short_message=text.encode())


@asynccontextmanager
async def run_bound(
    config: Config, add_upstream: Callable[..., Upstream], **settings: Any
) -> AsyncIterator[tuple[SmppServer, Carrier, CarrierConnection]]:
    async with run_carrier() as carrier:
        add_upstream(carrier.port, **settings)
        async with run_smsc(config) as server:
            yield server, carrier, await carrier.accept()
