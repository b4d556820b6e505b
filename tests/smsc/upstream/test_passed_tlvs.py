"""Optional parameters that customers send, and carriers get."""

from portal.core.clock import now_ms
from portal.services.history import removal
from portal.services.messages import intake
from portal.services.statistics import rollup
from portal.smsc.protocol.constants import TlvTag
from tests.smsc.esme import RawEsme, wait_until
from tests.smsc.upstream.running import build_receipt, read_message, run_bound
from tests.support import prepare_submit

TLVS = {0x1400: b"\x0a\x0b", 0x1401: b"", 0x1402: b"x" * 256, 0x1403: b"not asked for"}


async def test_what_the_upstream_is_set_to_pass_on_goes_on_from_the_queue_too(config, cast, conn, add_upstream):
    settings = {"window": 1, "pass_tlvs": "0x1400 1401,0x1402", "tlvs": "1401=FF 1404=01"}
    async with run_bound(config, add_upstream, **settings) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await wait_until(lambda: server.storage.kept_tlv_tags == {0x1400, 0x1401, 0x1402})
        sent = [await esme.submit(text=b"%d" % each, tlvs=TLVS, registered_delivery=0) for each in range(3)]
        plain = await esme.submit(text=b"3", registered_delivery=0)
        for number in range(3):
            submit = await carrier.read_submit()
            assert submit.short_message == b"%d" % number
            assert submit.tlvs == {0x1400: b"\x0a\x0b", 0x1401: b"", 0x1404: b"\x01"}
            carrier.answer(submit)
            if not number:
                submit_of_first = submit
        submit = await carrier.read_submit()
        assert submit.tlvs == {0x1401: b"\xff", 0x1404: b"\x01"}
        carrier.answer(submit)
        await wait_until(lambda: read_message(conn, plain.message_id)["upstream_id"])
        assert conn.execute("SELECT count(*) FROM message_tlvs").fetchone()[0] == 3
        # They go when it ends, and with their messages.
        carrier.send(build_receipt(submit_of_first, "id of 0"))
        assert (await carrier.read_response()).status == 0
        assert [row[0] for row in conn.execute("SELECT message_id FROM message_tlvs ORDER BY 1")] == [
            int(each.message_id) for each in sent[1:]
        ]
        conn.execute("UPDATE messages SET state = 2, done_at = 1")
        rollup.roll_up_all(conn)
        removal.delete_sent_messages(conn, cast.smpp_acme_1.id, [[int(each.message_id)] for each in sent])
        assert conn.execute("SELECT count(*) FROM message_tlvs").fetchone()[0] == 0


async def test_nothing_is_kept_that_no_upstream_passes_on(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit(text=b"hello", tlvs={**TLVS, TlvTag.USER_MESSAGE_REFERENCE: b"\0\1"})
        assert (await carrier.read_submit()).tlvs == {}
        assert conn.execute("SELECT count(*) FROM message_tlvs").fetchone()[0] == 0


def test_nothing_is_kept_of_what_a_simulator_gets(conn, cast):
    _, queued, dated = submits = [prepare_submit(conn, cast.smpp_acme_1.id) for _ in range(3)]
    for each in submits:
        each.tlvs = TLVS
    queued.is_queued = True
    dated.scheduled_at = now_ms() + 60_000
    intake.store_messages(conn, submits)
    assert {row[0] for row in conn.execute("SELECT message_id FROM message_tlvs")} == {queued.id, dated.id}
