"""kill -9 while the parts of a text are under way."""

from collections.abc import Callable

import pytest

from portal.core import db
from portal.core.crypto import Keys
from portal.services.common import message_states
from portal.services.messages import message_parts
from portal.services.operations import self_check
from portal.smsc.protocol.constants import TlvTag
from tests.faults.test_kill import kill_all
from tests.services.upstreams.waiting import add_upstream
from tests.smsc.esme import RawEsme, close_connections, wait_until
from tests.smsc.upstream.running import build_receipt, read_message
from tests.smsc.upstream.smpp_client.carrier import run_carrier
from tests.support import Cast, RunningServer

TEXT = b"a" * 153 + b"b" * 153 + b"c" * 20


@pytest.mark.slow
async def test_pain_2_kill_9_in_the_middle_of_a_text_sends_only_the_other_parts_again(
    serve: Callable[..., RunningServer], cast: Cast, conn: db.Connection, keys: Keys
) -> None:
    async with run_carrier() as carrier:
        add_upstream(conn, keys, host="127.0.0.1", port=carrier.port, reconnect_seconds=1)
        server = serve()
        connection = await carrier.accept()
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message_id = (await esme.submit(text=b"", tlvs={TlvTag.MESSAGE_PAYLOAD: TEXT})).message_id
        parts = await connection.read_submits(3)
        connection.answer(parts[1], message_id="id2")
        await wait_until(lambda: message_parts.has_cut_messages(conn))
        kill_all(server)
        await close_connections()
        serve()
        connection = await carrier.accept()
        again = await connection.read_submits(2)
        assert [each.short_message for each in again] == [parts[0].short_message, parts[2].short_message]
        for number, each in zip((1, 3), again, strict=True):
            connection.answer(each, message_id=f"id{number}")
        await wait_until(lambda: read_message(conn, message_id)["upstream_id"] == "")
        for number in (3, 2, 1):
            connection.send(build_receipt(parts[0], f"id{number}"))
        await wait_until(lambda: read_message(conn, message_id)["state"] == message_states.DELIVERED)
        assert self_check.list_problem_texts(conn) == []
