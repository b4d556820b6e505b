"""Who is let in at all, before a PDU is read."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address

from portal.config import Limits
from portal.smsc.door import Door

HERE = ip_address("203.0.113.7")
ELSEWHERE = ip_address("198.51.100.1")


def door(**limits):
    return Door(replace(Limits(), **limits), asyncio.get_running_loop())


async def test_an_address_that_comes_and_goes_without_a_bind_is_left_outside_for_a_while():
    opened = door()
    for _ in range(600):
        opened.enter(HERE).left()
    assert opened.enter(HERE) is None
    assert opened.enter(ELSEWHERE)


async def test_connections_that_bind_may_come_as_often_as_they_like():
    opened = door()
    for _ in range(700):
        visit = opened.enter(HERE)
        visit.bound()
        visit.left()
    assert opened.enter(HERE)


async def test_who_has_waited_longest_makes_room():
    opened = door(unbound=2)
    first, second = opened.enter(HERE), opened.enter(HERE)
    cancelled = []
    first.cancel = lambda: cancelled.append(first)
    second.cancel = lambda: cancelled.append(second)
    assert opened.enter(ELSEWHERE)
    assert cancelled == [first]
    second.bound()
    assert opened.enter(ELSEWHERE)
    assert cancelled == [first]


async def test_a_network_of_ipv6_addresses_counts_as_one():
    opened = door(unbound_per_address=2)
    assert all(opened.enter(ip_address(f"2001:db8::{number}")) for number in (1, 2))
    assert opened.enter(ip_address("2001:db8::3")) is None
    assert opened.enter(ip_address("2001:db8:0:1::3"))
