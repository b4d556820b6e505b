"""Parts of messages from handsets whose others never come: however many, all leave."""

from portal.core.clock import now_ms
from portal.services.messages import inbound
from portal.services.messages.inbound_parts import PART_WAIT_MS, InboundPart
from portal.services.messages.validation import Segment
from tests.smsc.esme import run_smsc, wait_until


async def test_more_than_a_batch_are_released_at_once(config, cast, conn, monkeypatch):
    monkeypatch.setattr(inbound, "RELEASE_BATCH_SIZE", 10)
    parts = [
        InboundPart("393337654321", "48484", 1, Segment(each, 2, 1), 0, "auto", None, b"lost") for each in range(45)
    ]
    inbound.store_inbound_messages(conn, parts)
    async with run_smsc(config) as server:
        server.storage.outbound.release_old_parts(now_ms() + PART_WAIT_MS + 1)
        await wait_until(lambda: conn.execute("SELECT count(*) FROM inbound_parts").fetchone()[0] == 0)
    assert conn.execute("SELECT count(*) FROM unowned_messages").fetchone()[0] == len(parts)
