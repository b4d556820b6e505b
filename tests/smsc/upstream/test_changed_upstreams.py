"""Simulators, and upstreams that are added, changed, disabled and removed, or end, while messages are on their way."""

import asyncio

import pytest

from portal.core.crypto import Keys
from portal.services.common import message_states
from portal.services.common.audit import SYSTEM
from portal.services.messages import intake, smpp_config
from portal.services.operations import self_check
from portal.services.upstreams import binds, counters, upstreams
from portal.services.upstreams.load import DeliveryCounts, DeliveryRates, list_delivery_rates
from portal.smsc.protocol.pdu import CancelSm, SubmitSm
from portal.smsc.server import SmppServer
from tests.smsc.esme import RawEsme, close_connections, run_smsc, wait_until
from tests.smsc.upstream.running import build_receipt, count_waiting, read_message, run_bound
from tests.smsc.upstream.smpp_client.carrier import run_carrier
from tests.support import prepare_submit


async def test_before_there_is_any_upstream_the_simulator_answers_and_afterwards_never(
    config, cast, conn, add_upstream
):
    async with run_carrier() as carrier, run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        simulated = await esme.submit()
        assert f"id:{simulated.message_id} " in (await esme.receive_deliver_sm()).short_message.decode()
        pending = await esme.submit("393331234006")
        upstream = add_upstream(carrier.port)
        bind = await carrier.accept()
        await esme.submit(text=b"now to the carrier")
        submit = await bind.read_submit()
        assert submit.short_message == b"now to the carrier"
        bind.answer(submit)
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 1)
        upstreams.disable_upstream(conn, SYSTEM, upstream)
        upstreams.remove_upstream(conn, SYSTEM, upstream)
        await bind.wait_for_close()
        await esme.submit(text=b"for nobody")
        await wait_until(lambda: count_waiting(conn) == 1)
    # What the simulator had before is its own still, also after a restart.
    async with run_smsc(config) as server:
        await wait_until(lambda: server.simulator.cancellable_ids == {int(pending.message_id)})
        assert count_waiting(conn) >= 1
        assert self_check.list_problem_texts(conn) == []


async def test_a_simulator_by_name_is_an_upstream_like_others(config, cast, conn, wakeup_sender):
    keys = Keys.load(config.data)
    sim = upstreams.create_upstream(conn, keys, SYSTEM, "sim", kind=upstreams.SIMULATOR, refund="undelivered")
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        delivered, failed = await esme.submit(), await esme.submit("393331234001")
        receipts = [(await esme.receive_deliver_sm()).short_message.decode() for _ in range(2)]
        assert {"stat:DELIVRD" in each for each in receipts} == {True, False}
        assert {read_message(conn, each.message_id)["upstream"] for each in (delivered, failed)} == {sim.id}
        refunds = conn.execute("SELECT first_message_id FROM movements WHERE kind = 'refund'").fetchall()
        assert [row[0] for row in refunds] == [int(failed.message_id)]
        await wait_until(lambda: list_delivery_rates(conn).get(sim.id, DeliveryRates()).hour == DeliveryCounts(1, 1))
        assert counters.get_counters(conn, sim.id)["accepted"] == 2
        upstreams.disable_upstream(conn, SYSTEM, sim)
        wakeup_sender.send()
        pending = await esme.submit()
        await wait_until(lambda: count_waiting(conn) == 1)
        upstreams.enable_upstream(conn, SYSTEM, sim)
        wakeup_sender.send()
        assert f"id:{pending.message_id} " in (await esme.receive_deliver_sm()).short_message.decode()


async def test_a_simulator_by_name_goes_on_after_a_restart(config, cast, conn):
    upstreams.create_upstream(conn, Keys.load(config.data), SYSTEM, "sim", kind=upstreams.SIMULATOR)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        slow = await esme.submit("393331234006")
        await wait_until(lambda: read_message(conn, slow.message_id)["upstream"] == 1)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        cancel = CancelSm(next(esme.sequences), message_id=slow.message_id, source="ACME", destination="393331234006")
        assert (await esme.request(cancel)).status == 0
        assert counters.get_counters(conn, 1)["unsure"] == 0


async def test_a_disabled_upstream_unbinds_and_what_comes_meanwhile_waits(
    config, cast, conn, add_upstream, wakeup_sender
):
    async with run_bound(config, add_upstream) as (server, carrier, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        upstream = upstreams.get_upstream(conn, "carrier")
        upstreams.disable_upstream(conn, SYSTEM, upstream)
        wakeup_sender.send()
        await connection.answer_unbind()
        await esme.submit(text=b"waits")
        assert count_waiting(conn) == 1
        upstreams.enable_upstream(conn, SYSTEM, upstream)
        wakeup_sender.send()
        connection = await carrier.accept()
        assert (await connection.read_submit()).short_message == b"waits"


async def test_a_draining_upstream_gets_nothing_new_and_its_receipts_come(
    config, cast, conn, add_upstream, change_account
):
    async with run_bound(config, add_upstream) as (server, _, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        sent = await esme.submit()
        connection.answer(await connection.read_submit(), message_id="1")
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 1)
        upstreams.drain_upstream(conn, SYSTEM, upstreams.get_upstream(conn, "carrier"))
        # What is changed later is in force only after that.
        change_account(windowing=50)
        await wait_until(lambda: not smpp_config.has_unapplied_config_changes(conn, cast.smpp_acme_1.id))
        await esme.submit(text=b"new")
        connection.send(build_receipt(SubmitSm(0, destination="393331234567", source="ACME"), "1"))
        assert f"id:{sent.message_id} " in (await esme.receive_deliver_sm()).short_message.decode()
        assert count_waiting(conn) == 1


async def test_another_default_upstream_takes_what_waits(config, cast, conn, add_upstream, wakeup_sender):
    async with run_carrier() as other, run_bound(config, add_upstream, name="first") as (server, carrier, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        carrier.stop()
        await connection.close()
        await wait_until(lambda: [each.state for each in binds.list_bind_states(conn)[1]] == [binds.UNBOUND])
        await esme.submit(text=b"waits for the first")
        upstream = add_upstream(other.port, "second")
        upstreams.set_default_upstream(conn, SYSTEM, upstream)
        wakeup_sender.send()
        bind = await other.accept()
        assert (await bind.read_submit()).short_message == b"waits for the first"


@pytest.mark.parametrize("is_built_in", [True, False])
async def test_what_a_commit_in_doubt_has_left_of_a_simulator_s_is_found(config, cast, conn, caplog, is_built_in):
    if not is_built_in:
        upstreams.create_upstream(conn, Keys.load(config.data), SYSTEM, "sim", kind=upstreams.SIMULATOR)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        # An error that doesn't say whether anything was written.
        conn.execute("ALTER TABLE daily_totals RENAME TO elsewhere")
        esme.send(esme.build_submit_sm(text=b"stray"))
        assert await esme.reader.read() == b""
        conn.execute("ALTER TABLE elsewhere RENAME TO daily_totals")
        stray = prepare_submit(conn, cast.smpp_acme_1.id, b"stray")
        stray.upstream, stray.is_simulated = (None, False) if is_built_in else (1, True)
        (stray_id,) = intake.store_messages(conn, [stray]).message_ids
        # The disk may fail once more.
        caplog.clear()
        conn.execute("ALTER TABLE messages RENAME TO elsewhere")
        server.dispatcher.check_strays()
        await wait_until(lambda: "can't be read" in caplog.text)
        conn.execute("ALTER TABLE elsewhere RENAME TO messages")

        def is_found() -> bool:
            # The log says that the look has failed before it is known that another one is due.
            server.dispatcher.check_strays()
            return bool(read_message(conn, str(stray_id))["state"] == message_states.DELIVERED)

        await wait_until(is_found)


@pytest.mark.parametrize("is_running", [True, False])
async def test_what_a_simulator_gets_while_it_is_removed_waits_again(config, cast, conn, add_upstream, is_running):
    sim = upstreams.create_upstream(conn, Keys.load(config.data), SYSTEM, "sim", kind=upstreams.SIMULATOR)
    stray_ids = []

    def remove() -> None:
        upstreams.remove_upstream(conn, SYSTEM, sim)
        # Between the count and the removal, or by a server that doesn't know of it yet.
        stray = prepare_submit(conn, cast.smpp_acme_1.id, b"stray")
        stray.upstream, stray.is_simulated = sim.id, True
        stray_ids.extend(intake.store_messages(conn, [stray]).message_ids)

    if not is_running:
        remove()
    async with run_carrier() as carrier, run_smsc(config) as server:
        if is_running:
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            await esme.submit()
            await esme.receive_deliver_sm()
            remove()
        add_upstream(carrier.port)
        connection = await carrier.accept()
        submit = await connection.read_submit()
        assert submit.short_message == b"stray"
        connection.answer(submit)
        await wait_until(lambda: counters.get_counters(conn, 2)["accepted"] == 1)
        assert not count_waiting(conn)
        assert read_message(conn, str(*stray_ids))["upstream"] == 2


async def test_what_is_stored_for_an_upstream_is_sent_by_it_and_no_other(config, cast, conn, add_upstream):
    async with run_carrier() as other, run_bound(config, add_upstream, name="first") as (server, _, connection):
        second = add_upstream(other.port, "second")
        bind = await other.accept()
        await wait_until(lambda: [each.state for each in binds.list_bind_states(conn)[second.id]] == [binds.BOUND])
        # As a batch of the writer has them, in which the default upstream has changed.
        messages = [prepare_submit(conn, cast.smpp_acme_1.id, text) for text in (b"for the first", b"for the second")]
        for message, upstream_id in zip(messages, (1, second.id), strict=True):
            message.upstream = upstream_id
        intake.store_messages(conn, messages)
        server.dispatcher.handle_submits_stored([], messages)
        assert (await connection.read_submit()).short_message == b"for the first"
        assert (await bind.read_submit()).short_message == b"for the second"


async def test_an_upstream_that_is_added_while_the_server_stands_leaves_the_simulator_its_messages(
    config, cast, conn, add_upstream
):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        pending = await esme.submit("393331234006")
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        async with run_smsc(config) as server:
            await carrier.accept()
            await wait_until(lambda: server.simulator.cancellable_ids == {int(pending.message_id)})
            assert self_check.list_problem_texts(conn) == []


async def test_without_a_password_that_can_be_read_nothing_is_tried(config, cast, conn, add_upstream):
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        sealed = Keys(bytes(32)).encrypt_column(b"secret")
        conn.execute("UPDATE upstreams SET password = ?", (sealed,))
        async with run_smsc(config) as server:
            (state,) = await wait_until(lambda: binds.list_bind_states(conn).get(1))
            assert state.state == binds.UNBOUND
            assert "sealed under another secret.key" in state.error
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            assert (await esme.submit()).status == 0
            assert count_waiting(conn) == 1
            upstream = upstreams.get_upstream(conn, "carrier")
            upstreams.change_upstream(conn, Keys.load(config.data), SYSTEM, upstream, password="right")
            server.storage.poll_changes()
            connection = await carrier.wait_for_connection()
            assert (await connection.accept_bind()).password == "right"
            await connection.read_submit()


@pytest.mark.slow
async def test_a_stop_waits_for_no_upstream_for_ever(config, cast, conn, add_upstream, wakeup_sender):
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        server = SmppServer(config, asyncio.get_running_loop(), lambda: None)
        server.start()
        connection = await carrier.accept()
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        await connection.read_submit()
        # It is waited for, with more time than a stop has.
        upstreams.disable_upstream(conn, SYSTEM, upstreams.get_upstream(conn, "carrier"))
        wakeup_sender.send()
        await wait_until(lambda: not binds.list_bind_states(conn).get(1))
        began_at = asyncio.get_running_loop().time()
        closing = asyncio.create_task(server.close())
        await esme.wait_for_unbind()
        await esme.close()
        await closing
        assert asyncio.get_running_loop().time() - began_at < 4.5
        await close_connections()
