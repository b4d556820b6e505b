"""What routes do beside choosing upstreams, with real carriers: quiet hours, replaced senders, what went by each."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from portal.core import db, wakeup
from portal.core.clock import DAY_MS, HOUR_MS, MINUTE_MS, now_ms
from portal.core.config import Config
from portal.services.common.audit import SYSTEM
from portal.services.operations import self_check
from portal.services.routing import route_usage, routes
from portal.services.routing.route_usage import RouteUsage
from portal.services.routing.routes import RouteTexts
from portal.services.statistics import months
from portal.services.upstreams import health, obstacles
from portal.services.upstreams.upstreams import Upstream
from portal.smsc.protocol.constants import CommandStatus
from portal.smsc.protocol.pdu import CancelSm
from tests.services.routing.adding import create_route
from tests.smsc.esme import RawEsme, run_smsc, wait_until
from tests.smsc.upstream.running import build_receipt, count_waiting
from tests.smsc.upstream.smpp_client.carrier import run_carrier
from tests.smsc.upstream.test_failover import NUMBER, OTHER_NUMBER, TwoCarriers, answer_all, bind, run_two


class Clock:
    """The time by which quiet hours are judged: 12:00 UTC at first."""

    def __init__(self) -> None:
        self.now = now_ms() // DAY_MS * DAY_MS + 12 * HOUR_MS

    def set(self, hour: int, minute: int = 0) -> None:
        self.now = self.now // DAY_MS * DAY_MS + hour * HOUR_MS + minute * MINUTE_MS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("portal.smsc.upstream.takers.now_ms", lambda: clock.now)
    return clock


@pytest.fixture
def run(
    config: Config, conn: db.Connection, add_upstream: Callable[..., Upstream], wakeup_sender: wakeup.WakeupSender
) -> Callable[..., Any]:
    return lambda **settings: run_two(config, conn, add_upstream, wakeup_sender, **settings)


NIGHT = "22:00-08:00 UTC"


def change(two: TwoCarriers, upstream_names: str = "second", **texts: str | None) -> None:
    routes.change_route(two.conn, SYSTEM, 1, RouteTexts(upstream_names, **texts))
    two.reload()


async def test_messages_wait_until_quiet_hours_end_and_others_go_on(run, cast, clock, caplog):
    caplog.set_level(logging.INFO)
    async with run() as two:
        two.add_route("second,first", country="IT", quiet_hours=NIGHT)
        esme = await bind(two, cast)
        await esme.submit(NUMBER, text=b"by day")
        assert await answer_all(two.second, 1) == [b"by day"]
        clock.set(22)
        await wait_until(lambda: "quiet hours of route 1 begin" in caplog.text)
        for number in (NUMBER, OTHER_NUMBER):
            await esme.submit(number, text=b"by night")
        await esme.submit("33612345678", text=b"abroad")
        assert (await two.first.read_submit()).short_message == b"abroad"
        assert count_waiting(two.conn) == 2
        # Nothing is wrong with that.
        assert obstacles.list_obstacles(two.conn) == []
        clock.set(8)
        assert await answer_all(two.second, 2) == [b"by night"] * 2
        await wait_until(lambda: count_waiting(two.conn) == 0)


async def test_what_waits_already_keeps_quiet_hours_and_no_other_upstream_takes_it(run, cast, clock, caplog):
    caplog.set_level(logging.INFO)
    async with run() as two:
        two.add_route("first,second", country="IT", quiet_hours=NIGHT)
        await two.lose_first()
        await two.wait_for_health(health.FAILING)
        clock.set(23)
        await wait_until(lambda: "quiet hours of route 1 begin" in caplog.text)
        esme = await bind(two, cast)
        await esme.submit(NUMBER, text=b"waits")
        clock.set(7, 59)
        await esme.submit("33612345678", text=b"waits for the default one")
        assert count_waiting(two.conn) == 2
        clock.set(8)
        assert await answer_all(two.second, 1) == [b"waits"]


async def test_they_hold_over_a_restart_and_end_where_they_are_taken_away(
    config, conn, add_upstream, wakeup_sender, cast, clock
):
    clock.set(23)
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        create_route(conn, "carrier", country="IT", quiet_hours=NIGHT)
        async with run_smsc(config) as server:
            await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            await esme.submit(NUMBER, text=b"waits")
            assert count_waiting(conn) == 1
        assert count_waiting(conn) == 1
        async with run_smsc(config) as server:
            connection = await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            await esme.submit("33612345678", text=b"abroad")
            assert await answer_all(connection, 1) == [b"abroad"]
            assert count_waiting(conn) == 1
            routes.change_route(conn, SYSTEM, 1, RouteTexts("carrier", country="IT"))
            server.storage.poll_changes()
            assert await answer_all(connection, 1) == [b"waits"]
            await wait_until(lambda: count_waiting(conn) == 0)
    assert self_check.list_problem_texts(conn) == []


async def test_what_waits_gets_quiet_hours_that_are_added(run, cast, clock):
    clock.set(23)
    async with run(failover_seconds=60) as two:
        two.add_route("first", country="IT")
        await two.lose_first()
        esme = await bind(two, cast)
        await esme.submit(NUMBER, text=b"waits")
        assert count_waiting(two.conn) == 1
        change(two, "first", country="IT", quiet_hours=NIGHT)
        query = "SELECT upstream_ids FROM queued_messages JOIN queue_paths ON id = path"
        await wait_until(lambda: two.conn.execute(query).fetchone()[0] == "1,q1")
        await two.bind_first()
        await esme.submit("33612345678", text=b"abroad")
        assert await answer_all(two.first, 1) == [b"abroad"]
        assert count_waiting(two.conn) == 1
        # Other hours need no other path.
        change(two, "first", country="IT", quiet_hours="01:00-02:00 UTC")
        assert await answer_all(two.first, 1) == [b"waits"]


async def test_what_is_refused_for_the_moment_is_tried_again_when_they_end(run, cast, clock, caplog):
    caplog.set_level(logging.INFO)
    async with run() as two:
        two.add_route("second,first", country="IT", quiet_hours=NIGHT)
        esme = await bind(two, cast)
        await esme.submit(NUMBER, text=b"tried")
        submit = await two.second.read_submit()
        clock.set(22)
        await wait_until(lambda: "quiet hours of route 1 begin" in caplog.text)
        two.second.answer(submit, CommandStatus.ESME_RMSGQFUL)
        await two.wait_for_held(1)
        # It would be tried again by now.
        two.conn.execute("UPDATE held_messages SET not_before = 1 WHERE not_before IS NOT NULL")
        await esme.submit("33612345678", text=b"abroad")
        assert await answer_all(two.first, 1) == [b"abroad"]
        await two.second.expect_nothing()
        clock.set(8)
        assert await answer_all(two.second, 1) == [b"tried"]


async def test_what_waits_in_quiet_hours_can_be_called_back(run, cast, clock):
    clock.set(23)
    async with run() as two:
        two.add_route("second", country="IT", quiet_hours=NIGHT)
        esme = await bind(two, cast)
        answer = await esme.submit(NUMBER)
        cancel = CancelSm(next(esme.sequences), message_id=answer.message_id, source="ACME", destination=NUMBER)
        assert (await esme.request(cancel)).status == CommandStatus.ESME_ROK
        assert count_waiting(two.conn) == 0


async def test_validity_runs_in_quiet_hours(run, cast, clock):
    clock.set(23)
    async with run() as two:
        two.add_route("second", country="IT", quiet_hours=NIGHT)
        esme = await bind(two, cast)
        # In a second.
        await esme.submit(NUMBER, validity_period="000000000001000R")
        await wait_until(lambda: two.conn.execute("SELECT state FROM messages").fetchone()[0] == 3)
        assert count_waiting(two.conn) == 0


# --- senders, and what went by routes


async def test_a_carrier_gets_the_route_s_sender_and_the_history_keeps_the_customer_s(run, cast, conn):
    async with run() as two:
        two.add_route("second", country="IT", replace_sender="48484", buying_price="0.7")
        esme = await bind(two, cast)
        await esme.submit(NUMBER, text=b"one part")
        submit = await two.second.read_submit()
        assert (submit.source, submit.source_ton, submit.source_npi) == ("48484", 3, 1)
        two.second.answer(submit)
        # It is cut on its way, and all its parts have the same sender.
        await esme.submit(NUMBER, text=b"x" * 200)
        for number in range(2):
            submit = await two.second.read_submit()
            assert submit.source == "48484"
            two.second.answer(submit, message_id=f"part {number}")
        await esme.submit("33612345678", text=b"abroad")
        submit = await two.first.read_submit()
        assert submit.source == "ACME"
        two.first.answer(submit)
        await wait_until(lambda: len(list_usage(conn)) == 2 and sum(each.messages for each in list_usage(conn)) == 3)
        rows = conn.execute(
            "SELECT source, route, sender FROM messages LEFT JOIN replaced_senders ON message_id = id ORDER BY id"
        )
        assert [tuple(row) for row in rows] == [("ACME", 1, "48484"), ("ACME", 1, "48484"), ("ACME", 0, None)]
        default, routed = list_usage(conn)
        assert (default.route_id, default.country, default.messages, default.parts) == (0, "FR", 1, 1)
        assert (default.priced_parts, default.margin) == (0, None)
        (price,) = conn.execute("SELECT sum(price) FROM messages WHERE route = 1").fetchone()
        assert routed == RouteUsage(routed.month, 1, "IT", 2, 3, price, 3, 3 * 700)
        assert routed.margin == price - 2_100


def list_usage(conn: db.Connection) -> list[RouteUsage]:
    return route_usage.list_route_usage(conn, months.get_month(now_ms()))


async def test_what_waited_gets_the_route_s_sender_and_price_too_and_later_prices_change_nothing(run, cast, conn):
    async with run(window=1) as two:
        two.add_route("second", replace_sender="48484", buying_price="0.5")
        esme = await bind(two, cast)
        for _ in range(3):
            await esme.submit(NUMBER)
        assert count_waiting(conn) > 0
        for _ in range(3):
            submit = await two.second.read_submit()
            assert submit.source == "48484"
            two.second.answer(submit)
        await wait_until(lambda: [each.cost for each in list_usage(conn)] == [1_500])
        change(two, buying_price="2")
        await esme.submit(NUMBER)
        submit = await two.second.read_submit()
        assert submit.source == "ACME"
        two.second.answer(submit)
        await wait_until(lambda: [each.cost for each in list_usage(conn)] == [3_500])


async def test_what_is_refused_by_a_carrier_is_nobody_s_bill_and_what_is_given_back_is_no_price(run, cast, conn):
    async with run(refund="undelivered") as two:
        two.add_route("second", buying_price="0.5")
        esme = await bind(two, cast)
        await esme.submit(NUMBER)
        two.second.answer(await two.second.read_submit(), CommandStatus.ESME_RINVDSTADR)
        await esme.submit(NUMBER)
        submit = await two.second.read_submit()
        two.second.answer(submit, message_id="aa17")
        await wait_until(lambda: [each.messages for each in list_usage(conn)] == [1])
        (usage,) = list_usage(conn)
        assert usage.price > 0
        two.second.send(build_receipt(submit, "aa17", "UNDELIV", "001"))
        await wait_until(lambda: list_usage(conn)[0].price == 0)
        assert list_usage(conn)[0].margin == -500
        assert self_check.list_problem_texts(conn) == []
