"""What operators do to messages that wait, while the server runs: it begins at once, and goes on after a restart."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from portal.core import db
from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.wakeup import WakeupSender
from portal.services.common import message_states
from portal.services.common.audit import SYSTEM
from portal.services.messages import queue_selection, queue_works
from portal.services.messages.queue_selection import CANCEL, HOLD, MOVE, RELEASE, QueueFilter
from portal.services.messages.queue_works import QueueWork
from portal.services.operations import self_check
from portal.services.upstreams import upstreams
from portal.smsc.storage import sqlite_outbound
from tests.services.submitting import store_messages
from tests.services.upstreams.waiting import prepare_waiting
from tests.smsc.esme import RawEsme, run_smsc, wait_until
from tests.smsc.upstream.running import count_waiting
from tests.smsc.upstream.smpp_client.carrier import run_carrier
from tests.smsc.upstream.test_failover import answer_all, run_two

Ask = Callable[..., int]


@pytest.fixture
def ask(conn: db.Connection, wakeup_sender: WakeupSender) -> Ask:
    """Asks for a work as the page does, and tells the server; returns the work's id."""

    def create(action: str, to: str | None = None, **fits: Any) -> int:
        target = None if to is None else upstreams.get_upstream(conn, to)
        selection = queue_selection.build_selection(conn, action, QueueFilter(**fits))
        count = queue_selection.preview_selection(conn, action, selection).count
        work_id = queue_works.create_queue_work(conn, SYSTEM, action, selection, asked_count=count, target=target)
        wakeup_sender.send()
        return work_id

    return create


async def wait_for_end(conn: db.Connection, work_id: int) -> QueueWork:
    def find_ended() -> QueueWork | None:
        (work,) = (each for each in queue_works.list_queue_works(conn) if each.id == work_id)
        return work if work.ended_at is not None else None

    return await wait_until(find_ended)


async def test_what_waits_is_moved_to_the_other_upstream_and_goes_out_at_once(
    config, conn, cast, add_upstream, wakeup_sender, ask
):
    async with run_two(config, conn, add_upstream, wakeup_sender, window=1) as two:
        esme = await RawEsme.connect_and_bind(two.server.port, cast.smpp_acme_1)
        for each in range(5):
            await esme.submit(f"39333000000{each}", text=b"%d" % each)
        under_way = await two.first.read_submit()
        # One may be claimed ahead of the room.
        await wait_until(lambda: count_waiting(conn) >= 3)
        work = await wait_for_end(conn, ask(MOVE, "second"))
        assert work.done_count == work.asked_count
        texts = []
        for _ in range(work.done_count):
            submit = await two.second.read_submit()
            two.second.answer(submit)
            texts.append(submit.short_message)
        assert texts == [b"1", b"2", b"3", b"4"][-work.done_count :]
        two.first.answer(under_way)
        for _ in range(4 - work.done_count):
            two.first.answer(await two.first.read_submit())
        # What comes now takes its own way.
        await esme.submit("393339999999", text=b"later")
        assert (await two.first.read_submit()).short_message == b"later"
        assert self_check.list_problem_texts(conn) == []


async def test_what_is_moved_or_released_in_quiet_hours_waits_for_their_end(
    config, conn, cast, add_upstream, wakeup_sender, ask, monkeypatch
):
    night, day = (now_ms() // DAY_MS * DAY_MS + each * HOUR_MS for each in (23, 8))
    monkeypatch.setattr("portal.smsc.upstream.takers.now_ms", lambda: night)
    async with run_two(config, conn, add_upstream, wakeup_sender) as two:
        two.add_route("second", country="IT", quiet_hours="22:00-08:00 UTC", buying_price="0.7")
        two.add_route("second", country="FR", quiet_hours="22:00-08:00 UTC", buying_price="0.7")
        esme = await RawEsme.connect_and_bind(two.server.port, cast.smpp_acme_1)
        await esme.submit("393330000001", text=b"moved")
        await esme.submit("33612345678", text=b"released")
        assert (await wait_for_end(conn, ask(MOVE, "first", route_id=1))).done_count == 1
        for action in (HOLD, RELEASE):
            assert (await wait_for_end(conn, ask(action, route_id=2))).done_count == 1
        await esme.submit("447700900123", text=b"of no route")
        assert await answer_all(two.first, 1) == [b"of no route"]
        assert count_waiting(conn) == 2
        monkeypatch.setattr("portal.smsc.upstream.takers.now_ms", lambda: day)
        assert await answer_all(two.first, 1) == [b"moved"]
        assert await answer_all(two.second, 1) == [b"released"]
        await wait_until(lambda: count_waiting(conn) == 0)
        # What the route's upstream costs is not what the other one bills.
        query = "SELECT route_id, priced_parts, cost FROM route_usage WHERE route_id > 0"
        rows = await wait_until(lambda: rows if len(rows := conn.execute(query).fetchall()) == 2 else None)
        assert [tuple(row) for row in rows] == [(1, 0, 0), (2, 1, 700)]
        assert self_check.list_problem_texts(conn) == []


async def test_held_messages_outlive_a_restart_and_go_out_in_their_order_once_released(
    config, conn, cast, add_upstream, ask
):
    async with run_carrier() as carrier:
        add_upstream(carrier.port, window=1)
        async with run_smsc(config) as server:
            connection = await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            for each in range(8):
                await esme.submit(text=b"%d" % each)
            first = await connection.read_submit()
            await wait_until(lambda: count_waiting(conn) >= 6)
            work = await wait_for_end(conn, ask(HOLD))
            connection.answer(first)
            # It waits behind those that are held, as it is to the same number; this one doesn't.
            await esme.submit(text=b"8")
            await esme.submit("393337654321", text=b"other")
            texts = [first.short_message]
            while texts[-1] != b"other":
                submit = await connection.read_submit()
                connection.answer(submit)
                texts.append(submit.short_message)
            assert len(texts) == 8 - work.done_count + 1
        async with run_smsc(config) as server:
            connection = await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            await esme.submit("393337654321", text=b"another")
            submit = await connection.read_submit()
            assert submit.short_message == b"another"
            connection.answer(submit)
            ask(RELEASE)
            released: list[bytes] = []
            while not released or released[-1] != b"8":
                submit = await connection.read_submit()
                connection.answer(submit)
                released.append(submit.short_message)
            assert [each for each in texts if each != b"other"] + released == [b"%d" % each for each in range(9)]
            await wait_until(lambda: not count_waiting(conn))
        assert self_check.list_problem_texts(conn) == []


async def test_cancelled_messages_are_paid_back_and_their_client_gets_receipts(config, conn, cast, add_upstream, ask):
    add_upstream(1)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        (before,) = conn.execute("SELECT balance FROM accounts WHERE id = ?", (cast.smpp_acme_1.id,)).fetchone()
        message_ids = {(await esme.submit(f"39333000000{each}")).message_id for each in range(3)}
        ask(CANCEL, account_id=cast.smpp_acme_1.id)
        receipts = [await esme.receive_deliver_sm() for _ in range(3)]
        assert all(b"stat:DELETED" in each.short_message for each in receipts)
        assert {each.short_message.split()[0] for each in receipts} == {b"id:" + each.encode() for each in message_ids}
        (after,) = conn.execute("SELECT balance FROM accounts WHERE id = ?", (cast.smpp_acme_1.id,)).fetchone()
        assert after == before
        # Nothing of the account waits any more, which the server has to find out.
        await esme.submit("393330000000")
        await wait_until(lambda: count_waiting(conn) == 1)
        assert self_check.list_problem_texts(conn) == []


async def test_a_work_goes_on_where_the_server_was_stopped(config, conn, cast, add_upstream, ask, monkeypatch):
    add_upstream(1)
    store_messages(
        conn,
        [prepare_waiting(conn, cast.smpp_acme_1.id, destination=f"39333{each:07d}") for each in range(450)],
    )
    monkeypatch.setattr(sqlite_outbound, "_QUEUE_WORK_PAUSE", 1e6)
    async with run_smsc(config):
        work_id = ask(CANCEL)
        # Nothing but the restart lets it go on.
        await wait_until(lambda: queue_works.list_queue_works(conn)[0].done_count)
    (work,) = queue_works.list_queue_works(conn)
    assert (work.done_count, work.ended_at) == (200, None)
    monkeypatch.undo()
    async with run_smsc(config):
        work = await wait_for_end(conn, work_id)
    assert (work.done_count, work.asked_count) == (450, 450)
    query = "SELECT count(*) FROM messages WHERE state = ?"
    assert conn.execute(query, (message_states.DELETED,)).fetchone()[0] == 450
    assert self_check.list_problem_texts(conn) == []


# The error can be stored with the work, or can't.
@pytest.mark.parametrize("failing", ["INSERT ON held_messages", "UPDATE ON queue_works"])
async def test_a_work_of_which_a_step_went_wrong_is_tried_again_by_itself(
    config, conn, cast, add_upstream, ask, monkeypatch, caplog, failing
):
    monkeypatch.setattr(queue_works, "RETRY_MS", 100)
    add_upstream(1)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        # Any error but that the database can't be written.
        conn.execute(f"CREATE TRIGGER full BEFORE {failing} BEGIN SELECT RAISE(ABORT, 'no room'); END")
        work_id = ask(HOLD)
        await wait_until(lambda: "no room" in caplog.text)
        conn.execute("DROP TRIGGER full")
        work = await wait_for_end(conn, work_id)
        assert (work.done_count, work.error) == (1, "")


@pytest.mark.parametrize("target", [None, "second"])
async def test_what_is_held_and_released_or_moved_goes_while_the_upstream_answers_between_the_steps(
    config, conn, cast, add_upstream, wakeup_sender, ask, monkeypatch, target
):
    monkeypatch.setattr(queue_works, "_STEP_SIZES", dict.fromkeys(queue_selection.ACTIONS, 25))
    numbers = [f"39333000{each:04d}" for each in range(40)]
    waiting = [prepare_waiting(conn, cast.smpp_acme_1.id, destination=each) for _ in range(5) for each in numbers]
    store_messages(conn, waiting)
    async with run_two(config, conn, add_upstream, wakeup_sender) as two:
        await wait_for_end(conn, ask(HOLD))
        held_count = count_waiting(conn)
        work_id = ask(RELEASE if target is None else MOVE, target)
        answering = [asyncio.create_task(answer_all(each, len(waiting))) for each in (two.first, two.second)]
        work = await wait_for_end(conn, work_id)
        assert work.done_count == held_count
        query = "SELECT count(*) FROM messages WHERE upstream_id IS NOT NULL"
        await wait_until(lambda: conn.execute(query).fetchone()[0] == len(waiting))
        for task in answering:
            task.cancel()
        assert not count_waiting(conn)
        assert self_check.list_problem_texts(conn) == []


async def test_messages_that_are_held_and_released_all_the_time_go_once_and_in_order(
    config, conn, cast, add_upstream, wakeup_sender, change_account, ask
):
    change_account(throughput=0)
    async with run_two(config, conn, add_upstream, wakeup_sender, window=3) as two:
        esme = await RawEsme.connect_and_bind(two.server.port, cast.smpp_acme_1)
        numbers = [f"39333000000{each}" for each in range(5)]
        texts: dict[str, list[int]] = {each: [] for each in numbers}

        async def answer_all(connection: Any) -> None:
            while True:
                submit = await connection.read_submit()
                texts[submit.destination].append(int(submit.short_message))
                connection.answer(submit)

        answering = [asyncio.create_task(answer_all(each)) for each in (two.first, two.second)]
        for each in range(300):
            assert (await esme.submit(numbers[each % 5], text=b"%d" % each)).status == 0
            if each % 25 == 10:
                await wait_for_end(conn, ask((HOLD, MOVE)[each % 2], "second" if each % 2 else None))
            elif each % 25 == 20:
                await wait_for_end(conn, ask(RELEASE))
        await wait_for_end(conn, ask(RELEASE))
        await wait_until(lambda: sum(map(len, texts.values())) == 300)
        for first, number in enumerate(numbers):
            assert texts[number] == [*range(first, 300, 5)]
        for task in answering:
            task.cancel()
        await wait_until(lambda: not count_waiting(conn))
        assert self_check.list_problem_texts(conn) == []
