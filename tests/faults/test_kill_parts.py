"""kill -9 while the parts of a text are under way."""

from collections.abc import Callable

import pytest

from portal.core import db
from portal.core.crypto import Keys
from portal.services.common import message_states
from portal.services.operations import self_check
from portal.services.upstreams import counters, paths
from portal.smsc.protocol.constants import CommandStatus, TlvTag
from portal.smsc.protocol.pdu import CancelSm
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
        await wait_until(lambda: paths.has_cut_messages(conn))
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


@pytest.mark.slow
@pytest.mark.parametrize("unanswered", ["resend", "fail"])
async def test_kill_9_while_a_text_is_held_and_a_part_is_under_way_leaves_it_unsure(
    serve: Callable[..., RunningServer], cast: Cast, conn: db.Connection, keys: Keys, unanswered: str
) -> None:
    async with run_carrier() as carrier:
        add_upstream(
            conn,
            keys,
            host="127.0.0.1",
            port=carrier.port,
            reconnect_seconds=1,
            unanswered=unanswered,
            refund="refused",
        )
        server = serve()
        connection = await carrier.accept()
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message_id = (await esme.submit(text=b"", tlvs={TlvTag.MESSAGE_PAYLOAD: TEXT})).message_id
        message = read_message(conn, message_id)
        parts = await connection.read_submits(3)
        connection.answer(parts[1], CommandStatus.ESME_RSYSERR, "")
        await wait_until(lambda: conn.execute("SELECT count(*) FROM held_messages").fetchone()[0] == 1)
        # The others may be at the phone.
        cancel = CancelSm(2, message_id=message_id, source=message["source"], destination=message["destination"])
        assert (await esme.request(cancel)).status == CommandStatus.ESME_RCANCELFAIL
        kill_all(server)
        await close_connections()
        serve()
        connection = await carrier.accept()
        await wait_until(lambda: counters.get_counters(conn, 1)["unsure"] == 1)
        if unanswered == "resend":
            again = await connection.read_submits(3)
            assert [each.short_message for each in again] == [each.short_message for each in parts]
            for number, each in enumerate(again, start=1):
                connection.answer(each, message_id=f"id{number}")
            await wait_until(lambda: read_message(conn, message_id)["upstream_id"] == "")
        else:
            assert read_message(conn, message_id)["state"] == message_states.UNKNOWN
        assert conn.execute("SELECT count(*) FROM movements WHERE kind = 'refund'").fetchone()[0] == 0
        assert self_check.list_problem_texts(conn) == []
