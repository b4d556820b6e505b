"""Receipts that match nothing, until the setting that is told for them is set: then customers get theirs."""

from typing import Any

from portal.services.common.audit import SYSTEM
from portal.services.common.message_states import DELIVERED
from portal.services.messages import kept_receipts, queue_works
from portal.services.operations import self_check
from portal.services.upstreams import counters, upstreams
from portal.smsc.protocol.pdu import SubmitSm
from tests.services.messages.test_receipt_matching import build, receive, send
from tests.smsc.esme import RawEsme, run_smsc, wait_until
from tests.smsc.upstream.running import build_receipt, run_bound
from tests.smsc.upstream.smpp_client.carrier import run_carrier

COUNT = 8


async def test_they_reach_the_open_session_once_it_is_set(config, cast, conn, keys, add_upstream, wakeup_sender):
    async with run_bound(config, add_upstream, message_ids="as-is") as (server, _, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent: dict[str, SubmitSm] = {}
        for number in range(0xAB00, 0xAB00 + COUNT):
            answer = await esme.submit()
            submit = await connection.read_submit()
            connection.answer(submit, message_id=f"{number:x}")
            await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == len(sent) + 1)
            sent[answer.message_id] = submit
            connection.send(build_receipt(submit, str(number)))
            assert (await connection.read_response()).status == 0
        await wait_until(lambda: counters.get_counters(conn, 1)["unmatched"] == COUNT)
        (hint,) = kept_receipts.find_hints(conn)
        assert (hint.count, hint.changes) == (COUNT, {"message_ids": "hex-to-dec"})
        upstreams.change_upstream(conn, keys, SYSTEM, hint.upstream, **dict[str, Any](hint.changes))
        wakeup_sender.send()
        texts = [(await esme.receive_deliver_sm()).short_message.decode() for _ in sent]
        assert {each.partition(" ")[0] for each in texts} == {f"id:{each}" for each in sent}
        assert all("stat:DELIVRD" in each for each in texts)
        await esme.close()
    assert {row[0] for row in conn.execute("SELECT state FROM messages")} == {DELIVERED}
    assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 0
    assert self_check.list_problem_texts(conn) == []


async def test_what_was_asked_for_while_the_server_was_down_is_done_at_its_start(
    config, cast, conn, keys, add_upstream, monkeypatch
):
    monkeypatch.setattr(kept_receipts, "_RETRIED", 1)
    async with run_carrier() as carrier:
        add_upstream(carrier.port, message_ids="as-is")
        async with run_smsc(config) as server:
            connection = await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            for number in (0xAB01, 0xAB02):
                await esme.submit()
                submit = await connection.read_submit()
                connection.answer(submit, message_id=f"{number:x}")
                connection.send(build_receipt(submit, str(number)))
                await connection.read_response()
            await wait_until(lambda: counters.get_counters(conn, 1)["unmatched"] == 2)
            await esme.close()
        upstreams.change_upstream(conn, keys, SYSTEM, upstreams.get_upstream(conn, "carrier"), message_ids="auto")
        async with run_smsc(config):
            await wait_until(lambda: kept_receipts.list_upstreams_to_retry(conn) == [])
    assert {row[0] for row in conn.execute("SELECT state FROM messages")} == {DELIVERED}


async def test_an_upstream_of_which_it_goes_wrong_keeps_no_other_waiting(
    config, cast, conn, keys, add_upstream, wakeup_sender, monkeypatch
):
    monkeypatch.setattr(queue_works, "RETRY_MS", 50)
    carriers = [add_upstream(1, name=name, message_ids="as-is") for name in ("a", "b")]
    _, of_b = send(conn, cast.smpp_acme_1.id, ["ab12", "ab13"])
    conn.execute("UPDATE messages SET upstream = 2 WHERE id = ?", (of_b,))
    receive(conn, build(str(0xAB12)), build(str(0xAB13), upstream=2))
    # Not an error of the database as a whole.
    conn.execute(
        "CREATE TRIGGER broken BEFORE DELETE ON receipt_retries WHEN OLD.upstream = 1"
        " BEGIN SELECT RAISE(ABORT, 'broken'); END"
    )
    async with run_smsc(config):
        for each in carriers:
            upstreams.change_upstream(conn, keys, SYSTEM, each, message_ids="auto")
        wakeup_sender.send()
        await wait_until(lambda: kept_receipts.list_upstreams_to_retry(conn) == [1])
        conn.execute("DROP TRIGGER broken")
        await wait_until(lambda: kept_receipts.list_upstreams_to_retry(conn) == [])
    assert {row[0] for row in conn.execute("SELECT state FROM messages")} == {DELIVERED}
