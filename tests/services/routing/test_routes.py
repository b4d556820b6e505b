"""The list of routes: what can be one, in which order they stand, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.common.errors import Refused
from portal.services.messages import smpp_config
from portal.services.people import customers
from portal.services.routing import route_table, routes
from portal.services.routing.routes import (
    CountryAndPrefixGiven,
    CustomerAndAccountGiven,
    InvalidRouteCountry,
    InvalidRoutePrefix,
    InvalidRouteUpstreams,
    InvalidRouteWeights,
    NoSuchRoute,
    RepeatedRouteUpstream,
    RouteChanged,
    RoutesReordered,
    RouteTexts,
    RouteUpstream,
)
from portal.services.senders.senders import InvalidSender
from portal.services.upstreams import upstreams
from portal.services.upstreams.paths import mark_quiet_path
from portal.services.upstreams.upstreams import NoSuchUpstream, Upstream, UpstreamInRoutes
from tests.services.routing.adding import create_route
from tests.services.upstreams.waiting import add_upstream, queue_messages


@pytest.fixture
def carriers(conn: Connection, keys: Keys) -> list[Upstream]:
    """A, the default upstream, B and C."""
    return [add_upstream(conn, keys, name) for name in "ABC"]


def list_ids(conn: Connection) -> list[int]:
    return [each.id for each in routes.list_routes(conn)]


def choose(conn: Connection, account: Account, *, sender: str = "ACME") -> tuple[int | None, tuple[int, ...]]:
    decision = route_table.load_route_table(conn).choose(account.id, "393401234567", "IT", sender)
    return decision.route_id, decision.upstream_ids


def audited(conn: Connection) -> list[tuple[str, dict[str, Any]]]:
    rows = conn.execute("SELECT action, details FROM audit_log WHERE action LIKE 'route.%' ORDER BY id")
    return [(row["action"], json.loads(row["details"])) for row in rows]


def test_a_route_has_what_was_typed(conn, carriers, acme_1):
    a, b, c = carriers
    customer = customers.get_customer_by_id(conn, acme_1.customer_id)
    of_customer = create_route(conn, "B", customer=customer, country="it", sender="+39 340 123 4567")
    of_account = create_route(conn, " a:70, b:30 ,C", account=acme_1, prefix="+39 340")
    assert routes.list_routes(conn) == [of_customer, of_account]
    assert (of_customer.customer, of_customer.account) == (customer.name, None)
    assert (of_customer.country, of_customer.prefix, of_customer.sender) == ("IT", None, "393401234567")
    assert of_customer.upstreams == (RouteUpstream(b.id, "B", None),)
    assert (of_account.customer, of_account.account) == (None, acme_1.name)
    assert (of_account.country, of_account.prefix, of_account.sender) == (None, "39340", None)
    assert of_account.upstreams == (
        RouteUpstream(a.id, "A", 70),
        RouteUpstream(b.id, "B", 30),
        RouteUpstream(c.id, "C", None),
    )
    assert audited(conn)[1] == (
        "route.add",
        {
            "route": of_account.id,
            "customer": None,
            "account": acme_1.name,
            "country": None,
            "prefix": "39340",
            "sender": None,
            "upstreams": "A:70,B:30,C",
            "before": None,
        },
    )


def test_routes_stand_where_they_are_put(conn, carriers):
    first, second = (create_route(conn, name).id for name in "AB")
    third = create_route(conn, "C", before_id=first)
    assert (third.position, list_ids(conn)) == (1, [third.id, first, second])
    assert routes.move_route(conn, SHELL, third).position == 3
    assert list_ids(conn) == [first, second, third.id]
    assert routes.move_route(conn, SHELL, third, second).position == 2
    assert list_ids(conn) == [first, third.id, second]
    routes.remove_route(conn, SHELL, routes.get_route(conn, first))
    assert [(each.id, each.position) for each in routes.list_routes(conn)] == [(third.id, 1), (second, 2)]
    assert create_route(conn, "A").id not in (first, second, third.id), "an id is never given again"
    assert [action for action, _ in audited(conn)] == [
        *["route.add"] * 3,
        *["route.move"] * 2,
        "route.remove",
        "route.add",
    ]


def test_a_move_to_where_it_stands_is_none(conn, carriers):
    first, second = (create_route(conn, name) for name in "AB")
    before = smpp_config.read_config_version(conn)
    for before_id in (first.id, second.id):
        assert routes.move_route(conn, SHELL, first, before_id) == first
    assert routes.move_route(conn, SHELL, second) == second
    assert smpp_config.read_config_version(conn) == before
    assert len(audited(conn)) == 2


def test_each_change_moves_the_version_that_the_server_polls(conn, carriers):
    versions = [smpp_config.read_config_version(conn)]

    def has_moved() -> bool:
        versions.append(smpp_config.read_config_version(conn))
        return versions[-1] > versions[-2]

    first, second = (create_route(conn, name) for name in "AB")
    assert has_moved()
    routes.move_route(conn, SHELL, second, first.id)
    assert has_moved()
    routes.change_route(conn, SHELL, first.id, RouteTexts("A", buying_price="1"))
    assert has_moved()
    routes.remove_route(conn, SHELL, first)
    assert has_moved()
    customer = customers.create_customer(conn, SHELL, "Initech", "it@initech.example")
    create_route(conn, "C", customer=customer, before_id=second.id)
    assert has_moved()
    account = accounts.create_account(conn, SHELL, customer.id, name="smpp-initech-1")
    assert has_moved(), "a new account of a customer who has routes"
    assert choose(conn, account)[1] == (upstreams.get_upstream(conn, "C").id,)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", InvalidRouteUpstreams),
        ("A,", InvalidRouteUpstreams),
        ("A:", InvalidRouteUpstreams),
        ("A:0,B:1", InvalidRouteUpstreams),
        ("A:1001,B:1", InvalidRouteUpstreams),
        ("A:-1,B:1", InvalidRouteUpstreams),
        ("A:1:2,B:1", InvalidRouteUpstreams),
        ("A:half,B:half", InvalidRouteUpstreams),
        ("A:9999999999999999999999,B:1", InvalidRouteUpstreams),
        ("A,B,a", RepeatedRouteUpstream),
        ("A:1,B", InvalidRouteWeights),
        ("A,B:70,C:30", InvalidRouteWeights),
        ("A:70,B,C:30", InvalidRouteWeights),
        ("A,nobody", NoSuchUpstream),
    ],
)
def test_upstreams_that_no_route_can_have(conn, carriers, text, refusal):
    with pytest.raises(refusal):
        create_route(conn, text)
    assert routes.list_routes(conn) == []
    assert audited(conn) == []


@pytest.mark.parametrize(
    ("conditions", "refusal"),
    [
        ({"country": "Italy"}, InvalidRouteCountry),
        ({"country": "XX"}, InvalidRouteCountry),
        ({"country": "001"}, InvalidRouteCountry),
        ({"prefix": "0"}, InvalidRoutePrefix),
        ({"prefix": "00"}, InvalidRoutePrefix),
        ({"prefix": "IT"}, InvalidRoutePrefix),
        ({"prefix": "٣٩"}, InvalidRoutePrefix),
        ({"prefix": "999"}, InvalidRoutePrefix),
        ({"prefix": "3" * 16}, InvalidRoutePrefix),
        ({"country": "IT", "prefix": "39"}, CountryAndPrefixGiven),
        ({"sender": "?"}, InvalidSender),
        ({"before_id": 7}, NoSuchRoute),
    ],
)
def test_conditions_that_no_route_can_have(conn, carriers, conditions, refusal):
    with pytest.raises(refusal):
        create_route(conn, "A", **conditions)
    assert routes.list_routes(conn) == []


def test_a_route_is_for_a_customer_or_for_an_account(conn, carriers, acme_1):
    customer = customers.get_customer_by_id(conn, acme_1.customer_id)
    with pytest.raises(CustomerAndAccountGiven):
        create_route(conn, "A", customer=customer, account=acme_1)


def test_a_route_that_is_gone_is_refused(conn, carriers):
    route = create_route(conn, "A")
    other = create_route(conn, "B")
    routes.remove_route(conn, SHELL, route)
    for act in (
        lambda: routes.get_route(conn, route.id),
        lambda: routes.move_route(conn, SHELL, route),
        lambda: routes.move_route(conn, SHELL, other, route.id),
        lambda: routes.remove_route(conn, SHELL, route),
    ):
        with pytest.raises(NoSuchRoute, match=f"no route {route.id}"):
            act()
    assert list_ids(conn) == [other.id]


def test_the_account_s_own_its_customer_s_and_everyone_s_routes_are_loaded(conn, carriers, acme_1, acme_2, globex_1):
    a, b, c = (each.id for each in carriers)
    customer = customers.get_customer_by_id(conn, acme_1.customer_id)
    assert [choose(conn, each) for each in (acme_1, acme_2, globex_1)] == [(None, (a,))] * 3
    own = create_route(conn, "C", account=acme_1).id
    of_customer = create_route(conn, "B,A", customer=customer).id
    assert choose(conn, acme_1) == (own, (c,))
    assert choose(conn, acme_2) == (of_customer, (b, a))
    assert choose(conn, globex_1) == (None, (a,))
    of_sender = create_route(conn, "A,C", sender="ACME", before_id=own).id
    for account in (acme_1, acme_2, globex_1):
        assert choose(conn, account) == (of_sender, (a, c))
    assert choose(conn, acme_2, sender="Acme") == (of_customer, (b, a)), "as senders are: capitals are others"
    upstreams.set_default_upstream(conn, SHELL, None)
    assert choose(conn, globex_1, sender="GLOBEX") == (None, ())


def test_what_was_renamed_or_disabled_keeps_its_routes(conn, keys, carriers, acme_1):
    route = create_route(conn, "B,C", account=acme_1)
    upstreams.change_upstream(conn, keys, SHELL, carriers[1], name="D")
    upstreams.disable_upstream(conn, SHELL, carriers[2])
    assert [each.name for each in routes.get_route(conn, route.id).upstreams] == ["D", "C"]
    assert choose(conn, acme_1) == (route.id, (carriers[1].id, carriers[2].id))


def test_names_decide_nothing_and_all_else_does(conn, keys, carriers, acme_1):
    first = create_route(conn, "A:70,B:30", account=acme_1, prefix="39")
    before = route_table.read_decisive_rows(conn)
    upstreams.change_upstream(conn, keys, SHELL, carriers[0], name="renamed")
    assert route_table.read_decisive_rows(conn) == before
    assert routes.list_routes(conn) != [first]
    others: list[tuple[str, dict[str, Any]]] = [("renamed:60,B:40", {"prefix": "39"}), ("renamed:70,B:30", {})]
    for text, conditions in others:
        create_route(conn, text, account=acme_1, **conditions)
    after = route_table.read_decisive_rows(conn)
    assert len({each[1:] for each in after.routes}) == 3
    upstreams.set_default_upstream(conn, SHELL, carriers[1])
    assert route_table.read_decisive_rows(conn) == replace(after, default_upstream_id=carriers[1].id)


def test_routes_of_an_account_that_is_gone_stay_and_keep_nobody_s_messages(conn, carriers, acme_1, acme_2):
    """It may come back; who looks at the list sees whose they were, and removes them."""
    route = create_route(conn, "B", account=acme_1)
    accounts.disable_account(conn, SHELL, acme_1)
    conn.execute("UPDATE accounts SET deleted_at = 1 WHERE id = ?", (acme_1.id,))
    assert routes.list_routes(conn) == [route]
    assert choose(conn, acme_2) == (None, (carriers[0].id,))
    routes.remove_route(conn, SHELL, route)
    assert routes.list_routes(conn) == []


def test_routes_are_told_before_what_waits(conn, carriers, acme_1):
    default = carriers[0]
    route = create_route(conn, "A,B")
    queue_messages(conn, acme_1.id)
    with pytest.raises(UpstreamInRoutes, match=rf"“A”: {route.id}\."):
        upstreams.remove_upstream(conn, SHELL, default)


def test_of_a_great_many_routes_to_an_upstream_the_first_are_told(conn, carriers):
    for each in range(25):
        route = create_route(conn, "B", prefix=f"39{each:02}")
    with pytest.raises(UpstreamInRoutes, match=r"“B”: 1, 2, .* 19, 20…\. Change them first"):
        upstreams.remove_upstream(conn, SHELL, carriers[1])
    assert routes.get_route(conn, route.id) == route == routes.list_routes(conn)[-1]


def test_an_upstream_that_routes_lead_to_is_not_removed(conn, carriers):
    _, b, c = carriers
    first = create_route(conn, "A,C")
    second = create_route(conn, "B:1,C:1", before_id=first.id)
    with pytest.raises(UpstreamInRoutes, match=rf"“C”: {second.id}, {first.id}\. Change them first"):
        upstreams.remove_upstream(conn, SHELL, c)
    routes.remove_route(conn, SHELL, first)
    with pytest.raises(UpstreamInRoutes, match=rf"“B”: {second.id}\."):
        upstreams.remove_upstream(conn, SHELL, b)
    routes.remove_route(conn, SHELL, second)
    upstreams.remove_upstream(conn, SHELL, b)
    upstreams.remove_upstream(conn, SHELL, c)
    assert [each.name for each in upstreams.list_upstreams(conn)] == ["A"]


def test_an_upstream_that_was_removed_can_t_be_chosen(conn, carriers):
    upstreams.remove_upstream(conn, SHELL, carriers[1])
    with pytest.raises(NoSuchUpstream):
        create_route(conn, "A,B")


def test_each_refusal_is_a_sentence(conn, carriers):
    for text in ("A:0", "A,A", "A:1,B"):
        with pytest.raises(Refused) as refusal:
            routes.parse_route_upstreams(conn, text)
        assert str(refusal.value).endswith(".")


def test_what_is_formatted_is_read_again(conn, carriers):
    for text in ("A", "B,A", "A:70,B:30", "C:1,A:1000,B"):
        assert routes.format_route_upstreams(routes.parse_route_upstreams(conn, text)) == text


# --- changes


def test_a_route_is_changed_in_its_place_and_what_it_was_is_recorded(conn, carriers, acme_1):
    first = create_route(conn, "A", country="IT")
    second = create_route(conn, "B")
    texts = RouteTexts(
        "C", account=acme_1.name, replace_sender="48484", quiet_hours="22:00-8:00 UTC", buying_price="0.7"
    )
    changed = routes.change_route(conn, SHELL, first.id, texts, first.version)
    assert routes.list_routes(conn) == [changed, second]
    assert (changed.account, changed.country, changed.version) == (acme_1.name, None, 2)
    assert (changed.replace_sender, str(changed.quiet_hours), changed.buying_price) == (
        "48484",
        "22:00-08:00 UTC",
        700,
    )
    action, details = audited(conn)[-1]
    assert action == "route.change"
    assert (details["account"], details["quiet_hours"], details["buying_price"]) == (
        acme_1.name,
        "22:00-08:00 UTC",
        0.7,
    )
    assert details["was"] == {
        "account": None,
        "country": "IT",
        "upstreams": "A",
        "replace_sender": None,
        "quiet_hours": None,
        "buying_price": None,
    }


def test_a_change_that_changes_nothing_is_none(conn, carriers):
    route = create_route(conn, "A", country="IT", buying_price="0.7")
    before = smpp_config.read_config_version(conn)
    assert routes.change_route(conn, SHELL, route.id, routes.format_route_texts(route)) == route
    assert smpp_config.read_config_version(conn) == before
    assert len(audited(conn)) == 1


def test_what_was_not_looked_at_is_not_changed_moved_or_removed(conn, carriers):
    route, other = (create_route(conn, name) for name in "AB")
    order = routes.fingerprint_order(routes.list_routes(conn))
    routes.change_route(conn, SHELL, route.id, RouteTexts("C"))
    with pytest.raises(RouteChanged):
        routes.change_route(conn, SHELL, route.id, RouteTexts("B"), route.version)
    with pytest.raises(RouteChanged):
        routes.remove_route(conn, SHELL, route, route.version)
    routes.move_route(conn, SHELL, route, order=order)
    with pytest.raises(RoutesReordered):
        routes.move_route(conn, SHELL, other, order=order)
    assert [routes.format_route_upstreams(each.upstreams) for each in routes.list_routes(conn)] == ["B", "C"]
    with pytest.raises(NoSuchRoute):
        routes.change_route(conn, SHELL, 99, RouteTexts("A"))


def test_a_change_that_can_t_be_changes_nothing(conn, carriers):
    route = create_route(conn, "A", country="IT")
    for texts in (RouteTexts("Z"), RouteTexts("A", country="Italy"), RouteTexts("A", quiet_hours="always")):
        with pytest.raises(Refused):
            routes.change_route(conn, SHELL, route.id, texts)
    assert routes.list_routes(conn) == [route]


def test_options_move_nothing_that_waits_but_for_quiet_hours(conn, carriers):
    route = create_route(conn, "A")
    rows = [route_table.read_decisive_rows(conn)]

    def change(**texts: str) -> tuple[bool, bool]:
        """Whether it is another table, and whether what waits takes other paths."""
        routes.change_route(conn, SHELL, route.id, RouteTexts("A", **texts))
        rows.append(route_table.read_decisive_rows(conn))
        return rows[-1] != rows[-2], rows[-1].routes != rows[-2].routes

    assert change(replace_sender="48484") == (True, False)
    assert change(buying_price="1") == (True, False)
    assert change(quiet_hours="01:00-02:00 UTC") == (True, True)
    assert change(quiet_hours="01:00-03:00 UTC") == (True, False)
    assert change() == (True, True)


def test_a_path_with_quiet_hours_is_the_route_s_own(conn, carriers, acme_1):
    a, b, _ = carriers
    route = create_route(conn, "B,A", quiet_hours="22:00-08:00 UTC")
    decision = route_table.load_route_table(conn).choose(acme_1.id, "393401234567", "IT", "ACME")
    assert (decision.upstream_ids, decision.path) == ((b.id, a.id), mark_quiet_path((b.id, a.id), route.id))
