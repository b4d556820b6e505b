"""Who is let in at all, before a PDU is read."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from portal.core.config import LimitSettings
from portal.smsc.admission.connection_limits import ConnectionLimits, ConnectionSlot
from portal.smsc.limits import DEFAULT_SERVER_LIMITS

HERE, ELSEWHERE, THIRD = (ip_address(each) for each in ("203.0.113.7", "198.51.100.1", "192.0.2.1"))


class PendingConnection:
    """A connection that notes what becomes of it: "in" or "out", None while it waits."""

    client = None
    slot: ConnectionSlot

    def __init__(self, address: IPv4Address | IPv6Address) -> None:
        self.address = address
        self.result: str | None = None
        self.hung_up = False
        self.cancelled = False

    def start_session(self, _client, slot):
        self.result = "in"
        self.slot = slot
        slot.cancel_handshake = self.cancel

    def reject(self):
        self.result = "out"

    def is_disconnected(self):
        return self.hung_up

    def cancel(self):
        self.cancelled = True
        self.slot.release()


def make_limits(**settings):
    return ConnectionLimits(replace(LimitSettings(), **settings), DEFAULT_SERVER_LIMITS)


def arrive(limits, address, how_many=1):
    arrived = [PendingConnection(address) for _ in range(how_many)]
    for each in arrived:
        limits.admit_or_queue(each)
    return arrived


def arrive_alone(limits, address):
    return arrive(limits, address)[0].result


async def test_an_address_that_comes_and_goes_without_a_bind_is_let_in_ten_times_a_second():
    limits, loop = make_limits(), asyncio.get_running_loop()
    for _ in range(600):
        arrive(limits, HERE)[0].slot.release()
    began = loop.time()
    first, gone, second, third = waiting = arrive(limits, HERE, 4)
    gone.hung_up = True
    assert [each.result for each in waiting] == [None] * 4
    assert arrive_alone(limits, ELSEWHERE) == "in"
    for let_in, others in ((first, [gone, second, third]), (second, [third])):
        await until_let_in(let_in)
        assert [each.result for each in others] == [None] * len(others)
        let_in.slot.release()
    await until_let_in(third)
    assert gone.result == "out"
    # A timer may ring as much too early as its clock is exact.
    assert loop.time() - began >= 0.3 - 0.001


async def until_let_in(pending):
    async with asyncio.timeout(10):
        while pending.result != "in":
            await asyncio.sleep(0)


async def test_who_comes_once_some_are_forgotten_and_nobody_waits_is_let_in_at_once():
    limits = make_limits()
    for _ in range(600):
        arrive(limits, HERE)[0].slot.release()
    (last,) = arrive(limits, HERE)
    await until_let_in(last)
    assert arrive_alone(limits, HERE) == "in"


async def test_connections_that_bind_may_come_as_often_as_they_like():
    limits = make_limits()
    for _ in range(700):
        (each,) = arrive(limits, HERE)
        each.slot.mark_authenticated()
        each.slot.release()
    assert arrive_alone(limits, HERE) == "in"


async def test_a_connection_that_ends_twice_has_ended_once():
    limits = make_limits(connections=2)
    first, _ = arrive(limits, HERE, 2)
    first.slot.release()
    first.slot.release()
    assert arrive_alone(limits, HERE) == "in"
    assert arrive_alone(limits, HERE) == "out"


async def test_who_has_waited_longest_makes_room():
    limits = make_limits(unbound=2)
    first, second = arrive(limits, HERE, 2)
    assert arrive_alone(limits, ELSEWHERE) == "in"
    assert (first.cancelled, second.cancelled) == (True, False)
    second.slot.mark_authenticated()
    assert arrive_alone(limits, ELSEWHERE) == "in"
    assert not second.cancelled


async def test_a_network_of_ipv6_addresses_counts_as_one():
    limits = make_limits(unbound_per_address=2)
    assert [arrive_alone(limits, ip_address(f"2001:db8::{number}")) for number in (1, 2, 3)] == ["in", "in", None]
    assert arrive_alone(limits, ip_address("2001:db8:0:1::3")) == "in"


async def test_those_behind_one_address_take_turns():
    limits = make_limits(unbound_per_address=2)
    arrived = arrive(limits, HERE, 5)
    assert [each.result for each in arrived] == ["in", "in", None, None, None]
    arrived[1].slot.mark_authenticated()
    assert [each.result for each in arrived] == ["in", "in", "in", None, None]
    arrived[3].hung_up = True
    arrived[0].slot.release()
    assert [each.result for each in arrived] == ["in", "in", "in", "out", "in"]
    assert arrive_alone(limits, ELSEWHERE) == "in"


async def test_nobody_waits_for_a_turn_longer_than_for_a_bind():
    limits = make_limits(unbound_per_address=1, bind_seconds=0.01)
    first, second = arrive(limits, HERE, 2)
    async with asyncio.timeout(10):
        while second.result is None:
            await asyncio.sleep(0)
    assert (first.result, second.result) == ("in", "out")


async def test_who_brings_the_most_that_wait_has_his_last_sent_away():
    limits = make_limits(unbound_per_address=1, connections=8)
    many, few = arrive(limits, HERE, 4), arrive(limits, ELSEWHERE, 2)
    assert [each.result for each in many + few] == ["in", None, None, None, "in", None]
    (another,) = arrive(limits, ELSEWHERE)
    assert [each.result for each in [*many, *few, another]] == ["in", None, None, "out", "in", None, None]
    assert arrive_alone(limits, HERE) == "out"
    assert arrive_alone(limits, THIRD) == "in"


async def test_those_who_wait_count_as_connections():
    limits = make_limits(unbound_per_address=1, connections=2)
    arrive(limits, HERE, 2)
    assert arrive_alone(limits, ELSEWHERE) == "out"


async def test_a_place_that_was_taken_away_goes_to_whom_it_was_taken_for():
    limits = make_limits(unbound_per_address=1, unbound=2)
    first, second = arrive(limits, HERE, 2)
    assert [arrive_alone(limits, ELSEWHERE), arrive_alone(limits, THIRD)] == ["in", "in"]
    assert (first.cancelled, second.result) == (True, None)
    assert arrive_alone(limits, HERE) == "in"


async def test_when_it_closes_those_who_wait_are_sent_away():
    limits = make_limits(unbound_per_address=1)
    first, second, third = arrive(limits, HERE, 3)
    limits.close()
    assert [first.result, second.result, third.result] == ["in", "out", "out"]
