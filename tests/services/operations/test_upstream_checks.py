"""`check` names what is off with upstreams."""

from collections.abc import Callable

import pytest

from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.common.audit import SHELL
from portal.services.messages import sending
from portal.services.messages.sending import AcceptedMessage
from portal.services.operations import self_check
from portal.services.routing import routes
from portal.services.routing.route_usage import RouteUse
from portal.services.statistics import months, rollup
from portal.services.upstreams import upstreams
from tests.services.routing.adding import create_route
from tests.services.submitting import store_messages
from tests.support import prepare_submit


@pytest.fixture
def find(conn: Connection, keys: Keys) -> Callable[..., list[str]]:
    """Finds problems in a database with two upstreams, a simulator and one that was removed."""
    for name in ("gone", "carrier", "second"):
        upstreams.create_upstream(conn, keys, SHELL, name, host="h", system_id="s", password="p", window=20)
    upstreams.create_upstream(conn, keys, SHELL, "sim", kind=upstreams.SIMULATOR)
    upstreams.set_default_upstream(conn, SHELL, upstreams.get_upstream(conn, "carrier"))
    upstreams.remove_upstream(conn, SHELL, upstreams.get_upstream(conn, "gone"))
    return lambda with_keys=keys: [str(each) for each in self_check.find_problems(conn, keys=with_keys)]


def test_nothing_is_off(find):
    assert find() == []


@pytest.mark.parametrize(
    ("damage", "sentences"),
    [
        (
            "settings = json_set(settings, '$.window', 0) WHERE id = 2",
            ["carrier: upstreams row 2 has window set to 0, which it can't be"],
        ),
        (
            "settings = json_set(settings, '$.pigeons', 'two') WHERE id = 2",
            ['carrier: upstreams row 2 has pigeons set to "two", which it can\'t be'],
        ),
        (
            "settings = '{}' WHERE id = 2",
            [
                "carrier: upstreams row 2 has settings that don't go together: The connection to a carrier needs host.",
            ],
        ),
        ("password = NULL WHERE id = 2", ["carrier: upstreams row 2 has a password too much or too little"]),
        (
            "password = (SELECT password FROM upstreams WHERE id = 2) WHERE id = 4",
            ["sim: upstreams row 4 has a password too much or too little"],
        ),
        (
            "kind = 'pigeon' WHERE id = 4",
            ["sim: upstreams row 4 is of the kind pigeon, which there isn't"],
        ),
        ("enabled = 1 WHERE id = 1", ["gone: upstreams row 1 was removed, and is still in use"]),
    ],
)
def test_what_is_changed_by_hand_is_named(find, conn, damage, sentences):
    conn.execute(f"UPDATE upstreams SET {damage}")
    assert find() == sentences


def test_that_none_is_the_default_one_is_a_choice(find, conn):
    upstreams.set_default_upstream(conn, SHELL, None)
    assert find() == []


@pytest.mark.parametrize(
    "stored", ["[]", '[{"id": 1, "weight": null}]', '[{"id": 9, "weight": null}]', "[{}]", '[{"id": 2}]']
)
def test_a_route_that_leads_nowhere_is_named(find, conn, stored):
    create_route(conn, "carrier,second")
    assert find() == []
    conn.execute("UPDATE routes SET upstreams = ?", (stored,))
    assert find() == [f"routes row 1 leads to no upstream, or to one that there isn't: {stored}"]


def test_quiet_hours_that_can_t_be_are_named_and_routes_are_loaded_all_the_same(find, conn):
    create_route(conn, "carrier", quiet_hours="22:00-08:00 Europe/Rome")
    assert find() == []
    conn.execute("UPDATE routes SET quiet_hours = '22:00-08:00 Europe/Atlantis'")
    assert find() == ["routes row 1 has quiet hours that can't be: 22:00-08:00 Europe/Atlantis"]
    assert [str(each.quiet_hours) for each in routes.list_routes(conn)] == ["22:00-08:00 UTC"]
    conn.execute("UPDATE routes SET quiet_hours = 'always'")
    assert [each.quiet_hours for each in routes.list_routes(conn)] == [None]


def test_what_went_by_a_route_and_isn_t_counted_is_named(find, conn, acme_1):
    route = create_route(conn, "carrier")
    submits = [prepare_submit(conn, acme_1.id) for _ in range(2)]
    for each in submits:
        each.upstream = route.upstreams[0].id
    accepted = [
        AcceptedMessage(2, message_id, f"id {message_id}", 1, now_ms(), None, RouteUse(1, "IT", 1, 1_000, None, None))
        for message_id in store_messages(conn, submits)
    ]
    sending.store_accepted_messages(conn, accepted)
    rollup.roll_up_all(conn)
    assert find() == []
    conn.execute("UPDATE route_usage SET messages = 1")
    month = months.format_month(months.get_month(now_ms()))
    sentence = f"route_usage has fewer messages of {month}, route 1 and country IT than messages has"
    assert find() == [sentence]
    conn.execute("DELETE FROM route_usage")
    assert find() == [sentence]


def test_passwords_from_before_a_lost_key_are_named(find, conn):
    assert find(Keys(b"another key".ljust(32))) == [
        "carrier: its password was sealed under another secret.key; enter it anew",
        "second: its password was sealed under another secret.key; enter it anew",
    ]
    assert find(None) == []


@pytest.mark.parametrize("damaged", ["x''", "x'00'", "substr(password, 1, 12)"])
def test_a_password_that_is_cut_off_is_named(find, conn, damaged):
    conn.execute(f"UPDATE upstreams SET password = {damaged} WHERE id = 2")
    assert find() == ["carrier: its password was sealed under another secret.key; enter it anew"]
