"""Who is let in at all, before a PDU is read."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address

from portal.core.config import Limits
from portal.smsc.admission.connection_limits import Door

HERE, ELSEWHERE, THIRD = (ip_address(each) for each in ("203.0.113.7", "198.51.100.1", "192.0.2.1"))


class Caller:
    """A connection that notes what becomes of it: "in" or "out", None while it waits."""

    def __init__(self, address):
        self.address = address
        self.became = None
        self.visit = None
        self.hung_up = False
        self.cancelled = False

    def begin(self, visit):
        self.became = "in"
        self.visit = visit
        visit.cancel = self.cancel

    def send_away(self):
        self.became = "out"

    def has_gone(self):
        return self.hung_up

    def cancel(self):
        self.cancelled = True
        self.visit.left()


def door(**limits):
    return Door(replace(Limits(), **limits), asyncio.get_running_loop())


def callers(opened, address, how_many=1):
    arrived = [Caller(address) for _ in range(how_many)]
    for each in arrived:
        opened.enter(each)
    return arrived


def knock(opened, address):
    return callers(opened, address)[0].became


async def test_an_address_that_comes_and_goes_without_a_bind_is_left_outside_for_a_while():
    opened = door()
    for _ in range(600):
        callers(opened, HERE)[0].visit.left()
    assert knock(opened, HERE) == "out"
    assert knock(opened, ELSEWHERE) == "in"


async def test_connections_that_bind_may_come_as_often_as_they_like():
    opened = door()
    for _ in range(700):
        (each,) = callers(opened, HERE)
        each.visit.bound()
        each.visit.left()
    assert knock(opened, HERE) == "in"


async def test_a_connection_that_ends_twice_has_ended_once():
    opened = door(connections=2)
    first, _ = callers(opened, HERE, 2)
    first.visit.left()
    first.visit.left()
    assert knock(opened, HERE) == "in"
    assert knock(opened, HERE) == "out"


async def test_who_has_waited_longest_makes_room():
    opened = door(unbound=2)
    first, second = callers(opened, HERE, 2)
    assert knock(opened, ELSEWHERE) == "in"
    assert (first.cancelled, second.cancelled) == (True, False)
    second.visit.bound()
    assert knock(opened, ELSEWHERE) == "in"
    assert not second.cancelled


async def test_a_network_of_ipv6_addresses_counts_as_one():
    opened = door(unbound_per_address=2)
    assert [knock(opened, ip_address(f"2001:db8::{number}")) for number in (1, 2, 3)] == ["in", "in", None]
    assert knock(opened, ip_address("2001:db8:0:1::3")) == "in"


async def test_those_behind_one_address_take_turns():
    opened = door(unbound_per_address=2)
    arrived = callers(opened, HERE, 5)
    assert [each.became for each in arrived] == ["in", "in", None, None, None]
    arrived[1].visit.bound()
    assert [each.became for each in arrived] == ["in", "in", "in", None, None]
    arrived[3].hung_up = True
    arrived[0].visit.left()
    assert [each.became for each in arrived] == ["in", "in", "in", "out", "in"]
    assert knock(opened, ELSEWHERE) == "in"


async def test_nobody_waits_for_a_turn_longer_than_for_a_bind():
    opened = door(unbound_per_address=1, bind_seconds=0.01)
    first, second = callers(opened, HERE, 2)
    async with asyncio.timeout(10):
        while second.became is None:
            await asyncio.sleep(0)
    assert (first.became, second.became) == ("in", "out")


async def test_who_brings_the_most_that_wait_has_his_last_sent_away():
    opened = door(unbound_per_address=1, connections=8)
    many, few = callers(opened, HERE, 4), callers(opened, ELSEWHERE, 2)
    assert [each.became for each in many + few] == ["in", None, None, None, "in", None]
    (another,) = callers(opened, ELSEWHERE)
    assert [each.became for each in [*many, *few, another]] == ["in", None, None, "out", "in", None, None]
    assert knock(opened, HERE) == "out"
    assert knock(opened, THIRD) == "in"


async def test_those_who_wait_count_as_connections():
    opened = door(unbound_per_address=1, connections=2)
    callers(opened, HERE, 2)
    assert knock(opened, ELSEWHERE) == "out"


async def test_a_place_that_was_taken_away_goes_to_whom_it_was_taken_for():
    opened = door(unbound_per_address=1, unbound=2)
    first, second = callers(opened, HERE, 2)
    assert [knock(opened, ELSEWHERE), knock(opened, THIRD)] == ["in", "in"]
    assert (first.cancelled, second.became) == (True, None)
    assert knock(opened, HERE) == "in"


async def test_when_it_closes_those_who_wait_are_sent_away():
    opened = door(unbound_per_address=1)
    first, second, third = callers(opened, HERE, 3)
    opened.close()
    assert [first.became, second.became, third.became] == ["in", "out", "out"]
