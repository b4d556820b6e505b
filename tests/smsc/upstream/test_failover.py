"""Routes at submit, and upstreams that take over from one another: the whole server, and two carriers that do what a
test tells them to.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from portal.core import db, wakeup
from portal.core.clock import DAY_MS, now_ms
from portal.core.config import Config
from portal.services.accounts import accounts
from portal.services.common import message_states
from portal.services.common.audit import SYSTEM
from portal.services.operations import self_check
from portal.services.operations.metrics import render_metrics
from portal.services.senders import senders
from portal.services.upstreams import binds, counters, health, upstreams
from portal.services.upstreams.upstreams import Upstream
from portal.smsc.protocol.constants import CommandStatus, TlvTag
from portal.smsc.protocol.pdu import CancelSm, SubmitSm
from portal.smsc.server import SmppServer
from portal.smsc.storage.interface import UpstreamConfig
from portal.smsc.upstream.channel import UpstreamChannel
from portal.smsc.upstream.takers import PathTakers
from tests.services.routing.adding import create_route
from tests.services.submitting import store_messages
from tests.services.upstreams.waiting import prepare_waiting
from tests.smsc.esme import DEADLINE_S, RawEsme, run_smsc, wait_until
from tests.smsc.upstream.running import count_waiting
from tests.smsc.upstream.smpp_client.carrier import Carrier, CarrierConnection, run_carrier
from tests.support import prepare_submit

# In a minute.
LATER = "000000000100000R"
NUMBER, OTHER_NUMBER = "393331234567", "393337654321"


@dataclass
class TwoCarriers:
    """The server with two upstreams, "first", which is the default one, and "second", both bound."""

    server: SmppServer
    conn: db.Connection
    wakeup_sender: wakeup.WakeupSender
    carriers: tuple[Carrier, Carrier]
    first: CarrierConnection
    second: CarrierConnection

    def add_route(self, upstream_names: str = "first,second", **conditions: Any) -> None:
        create_route(self.conn, upstream_names, **conditions)
        self.reload()

    def reload(self) -> None:
        self.server.storage.poll_changes()

    def get_health(self, upstream_id: int = 1) -> str:
        found = health.list_health(self.conn).get(upstream_id)
        return found.state if found else health.GOOD

    async def wait_for_health(self, state: str, upstream_id: int = 1) -> None:
        await wait_until(lambda: self.get_health(upstream_id) == state)

    async def lose_first(self) -> None:
        """The first carrier closes its connection, and takes no other."""
        self.carriers[0].stop()
        await self.first.close()
        await wait_until(lambda: binds.list_bind_states(self.conn)[1][0].state == binds.UNBOUND)

    async def bind_first(self) -> None:
        """It comes back."""
        await self.carriers[0].start()
        self.first = await self.carriers[0].accept()

    async def begin_trial(self) -> None:
        """The first carrier has failed, and is back: it will be tried."""
        await self.lose_first()
        await self.wait_for_health(health.FAILING)
        await self.bind_first()
        await self.wait_for_health(health.TRYING)

    async def wait_for_held(self, count: int) -> None:
        await wait_until(lambda: self.count_held() == count)

    def count_held(self) -> int:
        return int(self.conn.execute("SELECT count(*) FROM held_messages").fetchone()[0])

    def list_upstreams(self) -> list[int | None]:
        """The upstream of each message, in their order."""
        return [row[0] for row in self.conn.execute("SELECT upstream FROM messages ORDER BY id")]


@asynccontextmanager
async def run_two(
    config: Config,
    conn: db.Connection,
    add_upstream: Callable[..., Upstream],
    wakeup_sender: wakeup.WakeupSender,
    **settings: Any,
) -> AsyncIterator[TwoCarriers]:
    settings = {"failover_seconds": 1, **settings}
    async with run_carrier() as first, run_carrier() as second:
        add_upstream(first.port, "first", **settings)
        add_upstream(second.port, "second", **settings)
        async with run_smsc(config) as server:
            connections = await first.accept(), await second.accept()
            await wait_until(
                lambda: (
                    [each.state for of_one in binds.list_bind_states(conn).values() for each in of_one]
                    == [binds.BOUND] * 2
                )
            )
            yield TwoCarriers(server, conn, wakeup_sender, (first, second), *connections)


@pytest.fixture
def run(
    config: Config, conn: db.Connection, add_upstream: Callable[..., Upstream], wakeup_sender: wakeup.WakeupSender
) -> Callable[..., Any]:
    return lambda **settings: run_two(config, conn, add_upstream, wakeup_sender, **settings)


async def bind(two: TwoCarriers, cast: Any) -> RawEsme:
    return await RawEsme.connect_and_bind(two.server.port, cast.smpp_acme_1)


async def answer_all(connection: CarrierConnection, count: int) -> list[bytes]:
    texts = []
    for _ in range(count):
        submit = await connection.read_submit()
        connection.answer(submit)
        texts.append(submit.short_message)
    return texts


async def answer_either(two: TwoCarriers) -> bytes:
    """Answer the next message, whichever carrier it comes to; returns its text."""
    connections = (two.first, two.second)
    reading = [asyncio.create_task(each.read_submit()) for each in connections]
    done, pending = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
    for each in pending:
        each.cancel()
    (task,) = done
    submit = task.result()
    connections[reading.index(task)].answer(submit)
    return submit.short_message


async def test_a_route_decides_at_submit_and_the_default_upstream_takes_the_rest(run, cast):
    async with run() as two:
        two.add_route("second", prefix="39333")
        esme = await bind(two, cast)
        await esme.submit("393331234567", text=b"routed")
        await esme.submit("393401234567", text=b"the rest")
        assert (await two.second.read_submit()).short_message == b"routed"
        assert (await two.first.read_submit()).short_message == b"the rest"
        assert two.list_upstreams() == [2, 1]


async def test_what_no_route_takes_is_refused_costs_nothing_and_is_counted(run, cast, conn):
    async with run() as two:
        two.add_route("second", country="IT")
        upstreams.set_default_upstream(conn, SYSTEM, None)
        two.reload()
        esme = await bind(two, cast)
        (balance,) = conn.execute("SELECT balance FROM accounts WHERE id = ?", (cast.smpp_acme_1.id,)).fetchone()
        for date in ("", LATER):
            answer = await esme.submit("33612345678", schedule_delivery_time=date)
            assert (answer.status, answer.message_id) == (CommandStatus.ESME_RINVDSTADR, "")
        assert conn.execute("SELECT count(*) FROM messages").fetchone()[0] == 0
        row = conn.execute("SELECT balance FROM accounts WHERE id = ?", (cast.smpp_acme_1.id,)).fetchone()
        assert row["balance"] == balance
        await wait_until(lambda: "smpp_portal_unroutable_total 2\n" in render_metrics(conn))
        assert (await esme.submit(NUMBER)).status == 0
        await two.second.read_submit()


async def test_without_any_upstream_messages_wait_whatever_the_default_is(run, cast, conn):
    async with run() as two:
        for name in ("second", "first"):
            upstreams.remove_upstream(conn, SYSTEM, upstreams.get_upstream(conn, name))
        two.reload()
        esme = await bind(two, cast)
        assert (await esme.submit()).status == 0
        query = "SELECT upstream, state, (SELECT count(*) FROM queued_messages) FROM messages"
        # One whose connection is being closed still may claim it, and puts it back.
        await wait_until(lambda: [*map(tuple, conn.execute(query))] == [(None, message_states.ENROUTE, 1)])


async def test_pain_4_the_next_upstream_takes_what_waits_for_one_that_is_not_bound(run, cast, conn):
    async with run() as two:
        two.add_route()
        esme = await bind(two, cast)
        await two.lose_first()
        for each in range(3):
            await esme.submit(text=b"%d" % each)
        assert two.get_health() == health.GOOD
        assert upstreams.count_waiting_messages(conn) == {1: 3}
        assert await answer_all(two.second, 3) == [b"0", b"1", b"2"]
        await two.wait_for_health(health.FAILING)
        await esme.submit(text=b"at once")
        assert await answer_all(two.second, 1) == [b"at once"]
        await wait_until(lambda: counters.get_counters(conn, 2)["accepted"] == 4)
        assert two.list_upstreams() == [2, 2, 2, 2]
        assert self_check.list_problem_texts(conn) == []


async def test_one_that_no_other_upstream_stands_behind_goes_on_waiting(run, cast, conn):
    async with run() as two:
        two.add_route("second", prefix="39340")
        esme = await bind(two, cast)
        await two.lose_first()
        await esme.submit(text=b"waits")
        await two.wait_for_health(health.FAILING)
        await esme.submit("393401234567", text=b"goes")
        assert (await two.second.read_submit()).short_message == b"goes"
        await two.bind_first()
        assert (await two.first.read_submit()).short_message == b"waits"


async def test_back_again_it_gets_one_message_and_all_once_that_is_answered(run, cast, conn):
    async with run() as two:
        two.add_route()
        esme = await bind(two, cast)
        await two.begin_trial()
        await esme.submit("393330000000", text=b"trial")
        trial = await two.first.read_submit()
        assert trial.short_message == b"trial"
        for each in range(1, 5):
            await esme.submit(f"39333000000{each}", text=b"%d" % each)
        assert sorted(await answer_all(two.second, 4)) == [b"1", b"2", b"3", b"4"]
        # What is to the same number waits for it, and does not pass it.
        await esme.submit("393330000000", text=b"behind")
        await two.wait_for_held(2)
        two.first.answer(trial)
        await two.wait_for_health(health.GOOD)
        assert await answer_either(two) == b"behind"
        await esme.submit("393330000009", text=b"all")
        assert await answer_all(two.first, 1) == [b"all"]
        await two.wait_for_held(0)
        assert self_check.list_problem_texts(conn) == []


async def test_a_refused_trial_ends_it_and_the_next_upstream_takes_that_message(run, cast, conn):
    async with run() as two:
        two.add_route()
        esme = await bind(two, cast)
        await two.begin_trial()
        await esme.submit(text=b"trial")
        two.first.answer(await two.first.read_submit(), CommandStatus.ESME_RSYSERR)
        await two.wait_for_health(health.FAILING)
        await wait_until(lambda: conn.execute("SELECT max(not_before) FROM held_messages").fetchone()[0])
        conn.execute("UPDATE held_messages SET not_before = 1")
        await esme.submit(OTHER_NUMBER, text=b"wakes the queue")
        assert set(await answer_all(two.second, 2)) == {b"trial", b"wakes the queue"}


async def test_a_trial_that_is_throttled_is_taken_back(run, cast, conn):
    async with run(throttle_seconds=3600) as two:
        two.add_route()
        esme = await bind(two, cast)
        await two.begin_trial()
        await esme.submit(text=b"trial")
        await esme.submit(text=b"behind")
        two.first.answer(await two.first.read_submit(), CommandStatus.ESME_RTHROTTLED)
        # Otherwise it would wait for an hour there, and what comes behind it, too.
        assert await answer_all(two.second, 2) == [b"trial", b"behind"]
        assert counters.get_counters(conn, 1)["unsure"] == 0


async def test_nothing_passes_what_a_silent_upstream_has(run, cast, conn):
    async with run(window=2) as two:
        two.add_route()
        esme = await bind(two, cast)
        await esme.submit(text=b"first")
        await two.first.read_submit()
        await two.wait_for_health(health.FAILING)
        # Everything else goes on, and what is to the same number waits.
        await esme.submit(text=b"second")
        await esme.submit(OTHER_NUMBER, text=b"elsewhere")
        assert await answer_all(two.second, 1) == [b"elsewhere"]
        await wait_until(lambda: counters.get_counters(conn, 2)["accepted"] == 1)
        assert two.count_held() == 2
        await two.lose_first()
        assert await answer_all(two.second, 1) == [b"first"]
        assert await answer_all(two.second, 1) == [b"second"]
        await two.wait_for_held(0)
        assert counters.get_counters(conn, 1)["unsure"] == 1
        assert self_check.list_problem_texts(conn) == []


async def test_what_a_silent_upstream_has_not_begun_goes_to_the_next_one(run, cast, conn):
    async with run(window=1) as two:
        two.add_route()
        esme = await bind(two, cast)
        for each in range(4):
            await esme.submit(f"39333000000{each}", text=b"%d" % each)
        assert (await two.first.read_submit()).short_message == b"0"
        assert sorted(await answer_all(two.second, 3)) == [b"1", b"2", b"3"]
        assert counters.get_counters(conn, 1)["unsure"] == 0


async def test_what_a_drained_upstream_has_not_begun_goes_to_the_next_one(run, cast, conn):
    async with run(throttle_seconds=3600, failover_seconds=3600) as two:
        two.add_route()
        esme = await bind(two, cast)
        await esme.submit(text=b"throttled")
        two.first.answer(await two.first.read_submit(), CommandStatus.ESME_RTHROTTLED)
        await wait_until(lambda: counters.get_counters(conn, 1)["throttled"] == 1)
        upstreams.drain_upstream(conn, SYSTEM, upstreams.get_upstream(conn, "first"))
        two.reload()
        assert await answer_all(two.second, 1) == [b"throttled"]
        assert counters.get_counters(conn, 1)["unsure"] == 0


async def test_what_an_upstream_has_of_a_path_that_it_takes_no_more_is_taken_back_where_it_fails(run, cast, conn):
    async with run(throttle_seconds=3600) as two:
        esme = await bind(two, cast)
        numbers = [f"39333000000{each}" for each in range(3)]
        for each in numbers:
            await esme.submit(each, each.encode())
        for submit in await two.first.read_submits(3):
            two.first.answer(submit, CommandStatus.ESME_RTHROTTLED)
        await wait_until(lambda: counters.get_counters(conn, 1)["throttled"] == 3)
        # The first one stays the default upstream, and takes what goes elsewhere though it fails.
        two.add_route("second", prefix="39333")
        assert sorted(await answer_all(two.second, 3)) == [each.encode() for each in numbers]
        (reason,) = conn.execute("SELECT reason FROM upstream_health WHERE upstream = 1").fetchone()
        assert reason == "it answers nothing but ESME_RTHROTTLED 0x58"
        assert counters.get_counters(conn, 1)["unsure"] == 0


async def test_what_an_upstream_refuses_for_the_moment_goes_to_the_next_one(run, cast, conn):
    async with run() as two:
        two.add_route()
        esme = await bind(two, cast)
        numbers = [f"39333000000{each}" for each in range(4)]
        for each in numbers:
            await esme.submit(each, text=each.encode())
        for submit in await two.first.read_submits(4):
            two.first.answer(submit, CommandStatus.ESME_RSYSERR)
        # Without another upstream they would wait for five seconds.
        assert sorted(await answer_all(two.second, 4)) == [each.encode() for each in numbers]
        (reason,) = conn.execute("SELECT reason FROM upstream_health WHERE upstream = 1").fetchone()
        assert reason == "it answers nothing but ESME_RSYSERR 0x08"
        await wait_until(lambda: counters.get_counters(conn, 2)["accepted"] == 4)
        assert self_check.list_problem_texts(conn) == []


async def test_what_both_refuse_for_the_moment_keeps_its_pause(run, cast, conn):
    async with run() as two:
        two.add_route()
        esme = await bind(two, cast)
        for each in range(3):
            await esme.submit(f"39333000000{each}")
        for connection in (two.first, two.second):
            for submit in await connection.read_submits(3):
                connection.answer(submit, CommandStatus.ESME_RSYSERR)
        await two.wait_for_health(health.FAILING, 2)
        # Which also tells that the first one has taken over again.
        await esme.submit(NUMBER, b"next")
        assert (await two.first.read_submit()).short_message == b"next"
        pauses = conn.execute("SELECT count(*) FROM held_messages WHERE not_before > ?", (now_ms(),))
        assert pauses.fetchone()[0] == 3


async def test_of_an_upstream_that_is_enabled_again_nothing_is_known(run, cast, conn):
    async with run() as two:
        two.add_route()
        esme = await bind(two, cast)
        for each in range(3):
            await esme.submit(f"39333000000{each}")
        for submit in await two.first.read_submits(3):
            two.first.answer(submit, CommandStatus.ESME_RSYSERR)
        await two.wait_for_health(health.FAILING)
        await answer_all(two.second, 3)
        upstreams.disable_upstream(conn, SYSTEM, upstreams.get_upstream(conn, "first"))
        two.reload()
        await two.first.answer_unbind()
        upstreams.enable_upstream(conn, SYSTEM, upstreams.get_upstream(conn, "first"))
        two.reload()
        two.first = await two.carriers[0].accept()
        await two.wait_for_health(health.GOOD)
        # By the time that another one has failed since, so would it have, were its refusals of before counted.
        two.carriers[1].stop()
        await two.second.close()
        await two.wait_for_health(health.FAILING, 2)
        assert two.get_health() == health.GOOD


async def test_a_text_that_was_begun_waits_for_the_upstream_that_has_parts_of_it(run, cast, conn):
    async with run(window=1) as two:
        two.add_route()
        esme = await bind(two, cast)
        await esme.submit(NUMBER, b"", tlvs={TlvTag.MESSAGE_PAYLOAD: b"a" * 153 + b"b" * 10})
        two.first.answer(await two.first.read_submit(), message_id="part 1")
        refused = await two.first.read_submit()
        two.first.answer(refused, CommandStatus.ESME_RSYSERR, "")
        await two.wait_for_held(1)
        await two.lose_first()
        await two.wait_for_health(health.FAILING)
        await esme.submit(OTHER_NUMBER, b"goes on")
        await esme.submit(NUMBER, b"behind it")
        assert await answer_all(two.second, 1) == [b"goes on"]
        await two.bind_first()
        again = await two.first.read_submit()
        assert again.short_message == refused.short_message
        two.first.answer(again, message_id="part 2")
        assert await answer_all(two.first, 1) == [b"behind it"]
        await wait_until(lambda: counters.get_counters(conn, 1)["accepted"] == 2)
        assert two.list_upstreams() == [1, 2, 1]
        assert self_check.list_problem_texts(conn) == []


async def test_unsure_messages_end_by_the_setting_of_the_upstream_that_had_them(run, cast, conn):
    async with run(unanswered="fail") as two:
        two.add_route()
        esme = await bind(two, cast)
        await esme.submit(text=b"unsure")
        await two.first.read_submit()
        await two.lose_first()
        assert "stat:UNKNOWN" in (await esme.receive_deliver_sm()).short_message.decode()
        await two.wait_for_health(health.FAILING)
        await esme.submit(text=b"next")
        assert await answer_all(two.second, 1) == [b"next"]
        assert two.list_upstreams() == [1, 2]


async def test_a_disabled_upstream_hands_over_at_once(run, cast, conn):
    async with run(failover_seconds=3600) as two:
        two.add_route()
        esme = await bind(two, cast)
        upstreams.disable_upstream(conn, SYSTEM, upstreams.get_upstream(conn, "first"))
        two.reload()
        await esme.submit(text=b"goes on")
        assert await answer_all(two.second, 1) == [b"goes on"]


async def test_what_waits_takes_a_route_that_is_added(run, cast, conn):
    async with run(failover_seconds=3600) as two:
        esme = await bind(two, cast)
        await two.lose_first()
        for each in range(3):
            await esme.submit(text=b"%d" % each)
        await esme.submit("393401234567", text=b"stays")
        two.add_route("second", prefix="39333")
        await esme.submit(text=b"3")
        assert await answer_all(two.second, 4) == [b"0", b"1", b"2", b"3"]
        assert upstreams.count_waiting_messages(conn) == {1: 1}
        await wait_until(lambda: counters.get_counters(conn, 2)["accepted"] == 4)
        assert self_check.list_problem_texts(conn) == []


async def test_a_route_that_changes_lets_nothing_pass_what_is_under_way(run, cast, conn):
    async with run(failover_seconds=3600) as two:
        esme = await bind(two, cast)
        await esme.submit(text=b"0")
        submit = await two.first.read_submit()
        two.add_route("second")
        await esme.submit(text=b"1")
        await esme.submit(OTHER_NUMBER, text=b"elsewhere")
        assert await answer_all(two.second, 1) == [b"elsewhere"]
        two.first.answer(submit)
        assert await answer_all(two.second, 1) == [b"1"]
        await two.wait_for_held(0)
        assert two.list_upstreams() == [1, 2, 2]


def add_other_sender(two: TwoCarriers, account_name: str, upstream_names: str = "second") -> None:
    """What SHOP sends has a route of its own."""
    account = accounts.get_account(two.conn, account_name)
    senders.add_sender(two.conn, SYSTEM, account, "SHOP")
    senders.decide_sender(two.conn, SYSTEM, account, "SHOP", approve=True)
    two.add_route(upstream_names, sender="SHOP")


async def test_what_another_sender_s_route_has_ready_waits_behind_a_refused_message(run, cast, conn):
    async with run(window=1) as two:
        add_other_sender(two, cast.smpp_acme_1.name)
        esme = await bind(two, cast)
        await esme.submit(text=b"refused")
        await esme.submit(OTHER_NUMBER, source="SHOP", text=b"fills the window")
        other = await two.second.read_submit()
        await esme.submit(source="SHOP", text=b"ready")
        await wait_until(lambda: not count_waiting(conn))
        two.first.answer(await two.first.read_submit(), CommandStatus.ESME_RX_T_APPN)
        await wait_until(lambda: two.count_held() > 0)
        two.second.answer(other)
        await two.wait_for_held(2)


async def test_what_another_sender_s_route_tries_again_waits_behind_a_refused_message(run, cast, conn):
    async with run(throttle_seconds=60, failover_seconds=3600) as two:
        add_other_sender(two, cast.smpp_acme_1.name)
        esme = await bind(two, cast)
        await esme.submit(text=b"refused")
        await esme.submit(source="SHOP", text=b"too fast")
        two.second.answer(await two.second.read_submit(), CommandStatus.ESME_RTHROTTLED)
        await two.second.expect_nothing()
        two.first.answer(await two.first.read_submit(), CommandStatus.ESME_RX_T_APPN)
        await wait_until(lambda: count_waiting(conn) == 2)


async def test_what_takes_a_way_for_the_first_time_waits_behind_a_refused_message(run, cast):
    async with run(failover_seconds=3600) as two:
        add_other_sender(two, cast.smpp_acme_1.name, "second,first")
        esme = await bind(two, cast)
        await esme.submit(text=b"refused")
        two.first.answer(await two.first.read_submit(), CommandStatus.ESME_RX_T_APPN)
        await two.wait_for_held(1)
        await wait_until(lambda: not two.server.dispatcher.put_backs)
        await esme.submit(source="SHOP", text=b"waits")
        await two.wait_for_held(2)


async def test_after_a_change_of_routes_what_takes_another_one_waits_behind_a_refused_message(run, cast):
    async with run(failover_seconds=3600) as two:
        add_other_sender(two, cast.smpp_acme_1.name)
        esme = await bind(two, cast)
        await esme.submit(text=b"refused")
        two.first.answer(await two.first.read_submit(), CommandStatus.ESME_RX_T_APPN)
        await two.wait_for_held(1)
        await wait_until(lambda: not two.server.dispatcher.put_backs)
        two.add_route("second", prefix="4470")
        # The routes have changed, and then the claim that follows has ended.
        for _ in range(2):
            is_done = asyncio.Event()
            two.server.storage.outbound.reroute_messages(lambda _, is_done=is_done: is_done.set())
            await is_done.wait()
        await esme.submit(source="SHOP", text=b"waits")
        await two.wait_for_held(2)


async def test_another_default_upstream_lets_nothing_pass_what_is_under_way(run, cast, conn):
    async with run(failover_seconds=3600) as two:
        esme = await bind(two, cast)
        await esme.submit(text=b"0")
        submit = await two.first.read_submit()
        upstreams.set_default_upstream(conn, SYSTEM, upstreams.get_upstream(conn, "second"))
        two.reload()
        await esme.submit(text=b"1")
        await esme.submit(OTHER_NUMBER, text=b"elsewhere")
        assert await answer_all(two.second, 1) == [b"elsewhere"]
        two.first.answer(submit)
        assert await answer_all(two.second, 1) == [b"1"]


async def test_a_route_that_changed_while_the_server_stood_is_taken_at_its_start(run, config, cast, conn):
    async with run(failover_seconds=3600) as two:
        esme = await bind(two, cast)
        await two.lose_first()
        await esme.submit(text=b"waits")
        second = two.carriers[1]
        port = second.port
    create_route(conn, "second")
    other = Carrier()
    other.port = port
    await other.start()
    async with run_smsc(config):
        connection = await other.accept()
        assert (await connection.read_submit()).short_message == b"waits"
        other.stop()


async def test_a_dated_message_takes_the_route_of_its_date(run, cast, conn):
    async with run() as two:
        two.add_route("second")
        esme = await bind(two, cast)
        await esme.submit(text=b"later", schedule_delivery_time=LATER)
        conn.execute("UPDATE messages SET scheduled_at = 1, due_at = 1")
        two.server.storage.outbound.poll_due_messages()
        submit = await two.second.read_submit()
        assert isinstance(submit, SubmitSm)
        assert submit.short_message == b"later"


async def test_a_dated_message_goes_out_on_a_way_that_no_other_message_has_taken(config, cast, conn, add_upstream):
    async with run_carrier() as first, run_carrier() as second:
        add_upstream(first.port, "first")
        add_upstream(second.port, "second")
        create_route(conn, "second,first")
        dated = prepare_submit(conn, cast.smpp_acme_1.id, destination=NUMBER, scheduled_at=now_ms() + DAY_MS)
        store_messages(conn, [dated])
        async with run_smsc(config) as server:
            connection = await second.accept()
            conn.execute("UPDATE messages SET scheduled_at = 1, due_at = 1")
            server.storage.outbound.poll_due_messages()
            assert (await connection.read_submit()).destination == NUMBER


async def test_a_message_that_waits_on_a_route_is_called_back(run, cast, conn):
    async with run(failover_seconds=3600) as two:
        two.add_route("first")
        esme = await bind(two, cast)
        await two.lose_first()
        sent = await esme.submit(text=b"waits")
        cancel = CancelSm(next(esme.sequences), message_id=sent.message_id, source="ACME", destination=NUMBER)
        assert (await esme.request(cancel)).status == 0
        (state,) = conn.execute("SELECT state FROM messages").fetchone()
        assert state == message_states.DELETED
        assert conn.execute("SELECT count(*) FROM queued_messages").fetchone()[0] == 0


async def test_pain_4_order_holds_while_upstreams_take_over_from_one_another(run, cast, change_account):
    change_account(windowing=0, throughput=0)
    async with run(window=3) as two, asyncio.TaskGroup() as serving:
        two.add_route()
        esme = await bind(two, cast)
        answered: dict[int, list[int]] = {each: [] for each in range(4)}
        first_answers, second_answers = asyncio.Event(), asyncio.Event()

        async def serve(connection: CarrierConnection, answers: asyncio.Event) -> None:
            while True:
                submit = await connection.read_submit()
                await answers.wait()
                connection.answer(submit)
                answered[int(submit.destination[-1])].append(int(submit.short_message))

        async def submit_all(numbers: range) -> None:
            for each in numbers:
                await esme.submit(f"39333000000{each % 4}", text=b"%d" % each)

        async def wait_for_answers(destination: int, last: int) -> None:
            await wait_until(lambda: answered[destination][-1:] == [last])

        first_answers.set()
        second_answers.set()
        serving_first = serving.create_task(serve(two.first, first_answers))
        serving_second = serving.create_task(serve(two.second, second_answers))
        await submit_all(range(40))
        await wait_for_answers(3, 39)
        # The first one falls silent with one message to each of three numbers; those to the fourth go on.
        first_answers.clear()
        await submit_all(range(40, 60))
        await wait_for_answers(3, 59)
        serving_first.cancel()
        await two.lose_first()
        await submit_all(range(60, 80))
        for each in range(4):
            await wait_for_answers(each, 76 + each)
        # The second one has as many when the first is back, and takes over again.
        second_answers.clear()
        await submit_all(range(80, 83))
        await two.bind_first()
        first_answers.set()
        serving_first = serving.create_task(serve(two.first, first_answers))
        await submit_all(range(83, 120))
        await wait_for_answers(3, 119)
        second_answers.set()
        for each in range(4):
            await wait_for_answers(each, 116 + each)
        serving_first.cancel()
        serving_second.cancel()
    assert answered == {each: [*range(each, 120, 4)] for each in range(4)}


@pytest.mark.parametrize(
    ("step", "table"), [("hold_followers", "INSERT ON held_messages"), ("reroute_messages", "DELETE ON queue_paths")]
)
async def test_without_what_has_to_come_before_messages_go_out_the_server_ends(
    config, cast, conn, add_upstream, step, table
):
    add_upstream(1)
    under_way = prepare_submit(conn, cast.smpp_acme_1.id)
    under_way.upstream = 1
    ended = asyncio.Event()
    server = SmppServer(config, asyncio.get_running_loop(), on_fatal_error=ended.set)
    server.start()
    # What is done at the start is done, and can't be what fails.
    has_recovered = asyncio.Event()
    server.storage.outbound.hold_followers([], (), lambda _: has_recovered.set())
    async with asyncio.timeout(DEADLINE_S):
        await has_recovered.wait()
    store_messages(conn, [under_way])
    conn.execute("INSERT INTO queue_paths (id, upstream_ids, first_upstream) VALUES (1, '1', 1)")
    conn.execute(f"CREATE TRIGGER refuse BEFORE {table} BEGIN SELECT RAISE(ABORT, 'refused'); END")
    assert not ended.is_set()
    arguments = ([1], ()) if step == "hold_followers" else ()
    getattr(server.storage.outbound, step)(*arguments, lambda _: pytest.fail("it was done"))
    async with asyncio.timeout(DEADLINE_S):
        await ended.wait()
    await server.close()


async def test_routes_that_change_while_what_waits_is_looked_through_begin_that_anew(config, cast, conn, add_upstream):
    """Of thirty changes each would have a pass of its own, and nothing goes out before the last one ends."""
    upstream = add_upstream(1)
    async with run_smsc(config) as server:
        create_route(conn, upstream.name)
        server.storage.poll_changes()
        conn.execute("UPDATE accounts SET balance = 1000000000")
        # The first of them are on another path than the others.
        store_messages(conn, [prepare_waiting(conn, cast.smpp_acme_1.id)] * 1_000)
        routed = prepare_waiting(conn, cast.smpp_acme_1.id)
        routed.path = (upstream.id,)
        store_messages(conn, [routed] * 3_000)
        resolved: list[int] = []
        turns: list[int] = []

        def resolve(_: object) -> None:
            resolved.append(1)
            asyncio.get_running_loop().call_soon(lambda: turns.append(len(resolved)))

        server.storage.outbound.reroute_messages(resolve)
        async with asyncio.timeout(DEADLINE_S):
            while conn.execute("SELECT EXISTS (SELECT 1 FROM queued_messages WHERE path = 0)").fetchone()[0]:
                await asyncio.sleep(0)
        assert not resolved
        server.storage.outbound.reroute_messages(resolve)
        await wait_until(lambda: len(turns) == 2)
        assert turns == [2, 2]


@asynccontextmanager
async def run_takers(config: Config, upstream: Upstream) -> AsyncIterator[tuple[PathTakers, UpstreamChannel]]:
    """The paths of an upstream, of a server that runs."""
    async with run_smsc(config) as server:
        storage = server.storage.outbound
        channel = UpstreamChannel(UpstreamConfig(upstream, None), server.dispatcher, storage)
        takers = PathTakers(storage, {upstream.id: channel}, lambda: None)
        takers.set_default_upstream(upstream.id)
        yield takers, channel


async def test_once_the_server_stops_no_upstream_takes_anything(config, add_upstream):
    async with run_takers(config, add_upstream(1)) as (takers, channel):
        assert takers.default in takers.list_claimable_paths(channel)
        takers.stop()
        takers.add_waiting([((channel.id, 2), 1)])
        assert takers.list_claimable_paths(channel) == []


async def test_what_a_restart_finds_held_on_one_path_holds_up_what_takes_another(config, add_upstream):
    async with run_takers(config, add_upstream(1)) as (takers, channel):
        takers.handle_recovered({((channel.id,), 1)})
        assert takers.default.waiting_account_ids == {1}


async def test_an_upstream_that_cannot_be_made_stops_no_other(config, cast, conn, add_upstream):
    async with run_carrier() as carrier:
        add_upstream(1, "bad", failover_seconds=1)
        # As after a downgrade, or in a restored backup.
        conn.execute("UPDATE upstreams SET settings = json_set(settings, '$.receipt_timezone', 'Nowhere/Here')")
        add_upstream(carrier.port, "good")
        create_route(conn, "bad,good")
        async with run_smsc(config) as server:
            connection = await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            await esme.submit(text=b"by the next one")
            assert await answer_all(connection, 1) == [b"by the next one"]
