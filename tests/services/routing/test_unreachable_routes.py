"""Routes that an earlier one leaves nothing."""

from typing import Any

import pytest

from portal.services.people import customers
from portal.services.routing import routes
from portal.services.routing.unreachable_routes import find_unreachable_routes
from tests.services.routing.adding import create_route
from tests.services.upstreams.waiting import add_upstream


@pytest.fixture
def find(conn, keys, acme_1, acme_2):
    """Adds routes, a line of conditions each; returns which of them (from 1) can't be reached, and behind which."""
    add_upstream(conn, keys)
    owners = {
        "Acme": {"customer": customers.get_customer_by_id(conn, acme_1.customer_id)},
        "acme-1": {"account": acme_1},
        "acme-2": {"account": acme_2},
        "Globex": {"customer": customers.get_customer(conn, "Globex")},
    }

    def find(*lines: str) -> dict[int, int]:
        for line in lines:
            conditions: dict[str, Any] = {}
            for word in line.split():
                name, _, value = word.partition("=")
                conditions |= owners.get(word, {name: value})
            create_route(conn, "carrier", **conditions)
        return find_unreachable_routes(conn, routes.list_routes(conn))

    return find


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("", "Acme country=IT sender=ACME"),
        ("", ""),
        ("Acme", "acme-1"),
        ("Acme", "Acme prefix=39"),
        ("acme-1", "acme-1 sender=ACME"),
        ("country=IT", "country=IT"),
        ("country=IT", "prefix=39340"),
        ("country=IT", "prefix=393"),
        ("country=FR", "prefix=33"),
        ("country=FR", "acme-2 prefix=336 sender=ACME"),
        ("country=US", "prefix=1212"),
        ("country=BS", "prefix=1242"),
        ("prefix=39", "country=IT"),
        ("prefix=3", "country=IT"),
        ("prefix=39", "country=VA"),
        ("prefix=1242", "country=BS"),
        ("prefix=39", "prefix=39340"),
        ("prefix=39340", "prefix=39340"),
        ("sender=+393401234567", "sender=393401234567"),
    ],
)
def test_one_takes_all_of_another(find, earlier, later):
    assert find(earlier, later) == {2: 1}


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("Acme country=IT sender=ACME", ""),
        ("acme-1", "Acme"),
        ("acme-1", "acme-2"),
        ("Globex", "acme-1"),
        ("Globex", "Acme"),
        ("country=IT", "country=FR"),
        # Numbers of the Vatican, of Canada, of Jersey.
        ("country=IT", "prefix=39"),
        ("country=US", "prefix=1"),
        ("country=GB", "prefix=447700"),
        ("country=IT", "prefix=33"),
        ("country=IT", "prefix=3"),
        ("prefix=39340", "prefix=39"),
        ("prefix=39340", "country=IT"),
        ("prefix=1242", "country=US"),
        ("sender=ACME", "sender=SHOP"),
        ("sender=ACME", ""),
    ],
)
def test_something_is_left_for_the_later_one(find, earlier, later):
    assert find(earlier, later) == {}


def test_the_first_of_several_is_named_and_what_comes_after_it_may_be_reached(find):
    assert find("Acme", "acme-1 country=IT", "country=IT", "prefix=39340", "sender=ACME", "Acme sender=ACME") == {
        2: 1,
        4: 3,
        6: 1,
    }
