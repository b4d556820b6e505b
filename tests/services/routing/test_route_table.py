"""Which upstreams a message takes: the table in memory, against the plainest way to say what it decides."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from portal.services.common.addresses import normalize_address
from portal.services.prices import countries
from portal.services.routing.route_table import RouteDecision, RouteTable
from portal.services.routing.routes import Route, RouteUpstream

DEFAULT = 99
# Two customers with accounts that routes may name, and one account that no route knows.
OWNERS = {1: 10, 2: 10, 3: 20}
STRANGER = 4
SENDERS = ("ACME", "acme", "393401234567", "48484")
PREFIXES = ("3", "39", "393", "39340", "393401234567", "1", "1242", "447", "4477")
NUMBERS = ("393401234567", "393401234568", "393339999999", "12025550123", "12425550123", "447700900123", "447911123456")


def make_route(
    position: int, upstreams: Sequence[tuple[int, int | None]] = ((1, None),), conditions: Mapping[str, object] = {}
) -> Route:
    names = ("customer_id", "customer", "account_id", "account", "country", "prefix", "sender")
    values: dict[str, Any] = {**dict.fromkeys(names), **conditions}
    chosen = tuple(RouteUpstream(number, f"upstream-{number}", weight) for number, weight in upstreams)
    # Ids in another order than positions.
    return Route(id=1000 - position, position=position, upstreams=chosen, **values)


def fits(route: Route, account_id: int, destination: str, country: str, sender: str) -> bool:
    return (
        route.customer_id in (None, OWNERS.get(account_id))
        and route.account_id in (None, account_id)
        and route.country in (None, country)
        and destination.startswith(route.prefix or "")
        and route.sender in (None, normalize_address(sender))
    )


scopes = st.sampled_from([{}, {"customer_id": 10}, {"customer_id": 20}, *({"account_id": each} for each in OWNERS)])
Conditions = dict[str, object]
destinations: st.SearchStrategy[Conditions] = st.one_of(
    st.just({}),
    st.builds(dict, country=st.sampled_from(["IT", "US", "BS", "GB"])),
    st.builds(dict, prefix=st.sampled_from(PREFIXES)),
)
sender_conditions: st.SearchStrategy[Conditions] = st.one_of(
    st.just({}), st.builds(dict, sender=st.sampled_from(SENDERS))
)
conditions_of_routes = st.lists(st.tuples(scopes, destinations, sender_conditions), max_size=12)
messages = st.tuples(
    st.sampled_from([*OWNERS, STRANGER]),
    st.sampled_from(NUMBERS),
    st.sampled_from([*SENDERS, "+393401234567", "00393401234567", "OTHER", ""]),
)


@given(conditions_of_routes, st.lists(messages, min_size=1, max_size=20))
@example([({}, {"prefix": "39340"}, {}), ({}, {"prefix": "39"}, {})], [(1, "393401234567", "")])
@example(
    [({}, {"country": "IT"}, {}), ({"account_id": 1}, {"prefix": "39"}, {"sender": "ACME"})],
    [(1, "393401234567", "ACME")],
)
@example(
    [({}, {"prefix": "39"}, {}), ({}, {"prefix": "393"}, {}), ({}, {"country": "IT"}, {})], [(1, "393401234567", "")]
)
def test_the_first_that_fits_in_their_order_decides(
    conditions: list[tuple[Mapping[str, object], ...]], sent: list[tuple[int, str, str]]
) -> None:
    listed = [
        make_route(position, conditions={name: value for each in parts for name, value in each.items()})
        for position, parts in enumerate(conditions, start=1)
    ]
    table = RouteTable(listed, OWNERS, DEFAULT)
    for account_id, destination, sender in sent:
        country = countries.find_country(destination) or ""
        expected = next((each.id for each in listed if fits(each, account_id, destination, country, sender)), None)
        decision = table.choose(account_id, destination, country, sender)
        assert decision.route_id == expected
        assert decision.upstream_ids == ((DEFAULT,) if expected is None else (1,))


def test_without_routes_the_default_upstream_decides_or_nothing():
    assert RouteTable([], {}, DEFAULT).choose(1, NUMBERS[0], "IT", "ACME") == RouteDecision(None, (DEFAULT,), ())
    assert RouteTable([], {}, None).choose(1, NUMBERS[0], "IT", "ACME") == RouteDecision(None, (), ())
    only_it = RouteTable([make_route(1, conditions={"country": "IT"})], {}, None)
    assert only_it.choose(1, "12025550123", "US", "ACME") == RouteDecision(None, (), ())
    assert only_it.choose(1, NUMBERS[0], "IT", "ACME") == RouteDecision(999, (1,), (1,))


def test_those_without_weights_follow_in_their_order():
    table = RouteTable([make_route(1, [(3, None), (1, None), (2, None)])], {}, DEFAULT)
    assert {table.choose(1, each, "IT", "").upstream_ids for each in NUMBERS} == {(3, 1, 2)}


def numbers(count: int) -> list[str]:
    """Numbers one after the other, as a campaign to a customer's list has them."""
    return [f"39340{each:07}" for each in range(count)]


def test_weights_share_the_numbers_and_the_others_follow():
    table = RouteTable([make_route(1, [(1, 70), (2, 20), (3, 10), (4, None)])], {}, DEFAULT)
    counted = Counter(table.choose(1, each, "IT", "").upstream_ids for each in numbers(10_000))
    assert counted.keys() == {(1, 2, 3, 4), (2, 1, 3, 4), (3, 1, 2, 4)}
    for share, way in ((7_000, (1, 2, 3, 4)), (2_000, (2, 1, 3, 4)), (1_000, (3, 1, 2, 4))):
        assert abs(counted[way] - share) < 250


def test_a_number_stays_with_its_upstream_also_in_another_process():
    routes = [make_route(1, [(1, 50), (2, 50)])]
    first, second = RouteTable(routes, {}, DEFAULT), RouteTable(routes, {}, None)
    for each in numbers(100):
        assert first.choose(1, each, "IT", "ACME") == second.choose(2, each, "IT", "OTHER")
    # Written down once: a change of the hash would send each number another way after an update.
    assert [first.choose(1, each, "IT", "").upstream_ids[0] for each in numbers(16)] == [
        1,
        1,
        2,
        2,
        1,
        1,
        2,
        2,
        1,
        1,
        1,
        1,
        2,
        2,
        1,
        1,
    ]


def test_other_weights_move_no_more_numbers_than_they_have_to():
    before = RouteTable([make_route(1, [(1, 70), (2, 30)])], {}, DEFAULT)
    after = RouteTable([make_route(1, [(1, 60), (2, 40)])], {}, DEFAULT)
    same = RouteTable([make_route(1, [(1, 7), (2, 3)])], {}, DEFAULT)
    moved = [
        each
        for each in numbers(10_000)
        if before.choose(1, each, "IT", "").upstream_ids != after.choose(1, each, "IT", "").upstream_ids
    ]
    assert abs(len(moved) - 1_000) < 150
    assert {after.choose(1, each, "IT", "").upstream_ids for each in moved} == {(2, 1)}
    for each in numbers(1_000):
        assert same.choose(1, each, "IT", "") == before.choose(1, each, "IT", "")


def test_the_same_decision_is_the_same_object():
    table = RouteTable([make_route(1, [(1, 1), (2, 1)], {"country": "IT"})], {}, DEFAULT)
    decisions = {id(table.choose(1, each, "IT", "")) for each in numbers(1_000)}
    assert len(decisions) == 2
    assert table.choose(1, "12025550123", "US", "") is table.default
