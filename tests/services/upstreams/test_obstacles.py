"""What keeps messages from reaching phones is found, and nothing where all is well."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts import session_records
from portal.services.common.audit import SHELL
from portal.services.upstreams import binds, obstacles, upstreams
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.obstacles import Obstacle, is_simulator_default, list_obstacles
from portal.services.upstreams.upstreams import Upstream
from tests.services.submitting import store_messages
from tests.support import prepare_submit


@pytest.fixture
def create(conn: Connection, keys: Keys) -> Callable[..., Upstream]:
    def create_carrier(name: str = "carrier", **settings: Any) -> Upstream:
        return upstreams.create_upstream(conn, keys, SHELL, name, host="h", system_id="s", password="p", **settings)

    return create_carrier


def wait(conn: Connection, queued: int = 1, held: Sequence[int] = ()) -> None:
    conn.executemany("INSERT INTO queued_messages VALUES (0, 1, 3, ?)", [(each,) for each in range(queued)])
    conn.executemany(
        "INSERT INTO held_messages (account_id, destination, message_id, attempts, not_before, error)"
        " VALUES (1, '39', ?, 1, 1, '')",
        [(each,) for each in held],
    )


def record(conn: Connection, *states: str) -> None:
    session_records.record_component_heartbeat(conn, "smsc", 0)
    rows = [BindState(number, "trx", state, 1, f"why {state}") for number, state in enumerate(states, 1)]
    binds.record_bind_states(conn, 1, rows)


def test_messages_go_to_the_built_in_simulator_until_there_is_an_upstream(conn, create):
    assert is_simulator_default(conn)
    carrier = create()
    assert not is_simulator_default(conn)
    upstreams.remove_upstream(conn, SHELL, carrier)
    assert not is_simulator_default(conn)


def test_messages_go_to_a_simulator_that_is_the_default_upstream(conn, keys, create):
    create()
    simulator = upstreams.create_upstream(conn, keys, SHELL, "sim", kind=upstreams.SIMULATOR)
    assert not is_simulator_default(conn)
    upstreams.set_default_upstream(conn, SHELL, simulator)
    assert is_simulator_default(conn)
    upstreams.disable_upstream(conn, SHELL, simulator)
    assert not is_simulator_default(conn)
    upstreams.drain_upstream(conn, SHELL, simulator)
    assert not is_simulator_default(conn)
    upstreams.enable_upstream(conn, SHELL, simulator)
    assert is_simulator_default(conn)
    wait(conn)
    session_records.record_component_heartbeat(conn, "smsc", 0)
    assert list_obstacles(conn) == []


def test_where_only_simulators_have_ever_been_one_that_is_off_changes_nothing(conn, keys):
    simulator, _ = (upstreams.create_upstream(conn, keys, SHELL, each, kind=upstreams.SIMULATOR) for each in "AB")
    upstreams.disable_upstream(conn, SHELL, simulator)
    assert is_simulator_default(conn)


def test_where_nothing_waits_nothing_is_in_the_way(conn, create):
    assert list_obstacles(conn) == []
    create()
    assert list_obstacles(conn) == []


@pytest.mark.parametrize("states", [("bound", "bound"), ("bound", "refused")])
def test_what_waits_for_an_upstream_that_takes_it_is_all_right(conn, create, states):
    create(binds=2)
    record(conn, *states)
    wait(conn)
    assert list_obstacles(conn) == []


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        (("refused", "bound", "refused", "bound"), "refused"),
        (("unbound", "bound", "connecting", "bound"), "unbound"),
        (("unbound", "refused", "bound", "unbound"), ""),
    ],
)
def test_what_is_bound_as_receiver_only_takes_nothing(conn, create, states, reason):
    create(bind="tx+rx", binds=2)
    session_records.record_component_heartbeat(conn, "smsc", 0)
    kinds = upstreams.get_upstream(conn, "carrier").settings.bind_kinds
    rows = [
        BindState(number, kind, state, 1, "" if state == "bound" else f"why {kind} {state}")
        for number, (kind, state) in enumerate(zip(kinds, states, strict=True), 1)
    ]
    binds.record_bind_states(conn, 1, rows)
    wait(conn)
    assert list_obstacles(conn) == ([Obstacle(reason, 1, "carrier", f"why tx {reason}")] if reason else [])


def test_without_an_upstream(conn, create, acme_1):
    wait(conn, 2, store_messages(conn, [prepare_submit(conn, acme_1.id)] * 3))
    assert list_obstacles(conn) == [Obstacle(obstacles.NO_UPSTREAM, 5)]
    create()
    conn.execute("UPDATE upstreams SET is_default = 0")
    assert list_obstacles(conn) == [Obstacle(obstacles.NO_DEFAULT, 5)]


def test_what_waits_after_a_refusal_waits_too(conn, create, acme_1):
    create()
    record(conn, "unbound")
    held = store_messages(conn, [prepare_submit(conn, acme_1.id)] * 2)
    wait(conn, 0, held)
    assert list_obstacles(conn) == [Obstacle("unbound", 2, "carrier", "why unbound")]
    # What is being tried at this moment holds up others, and waits for nothing itself.
    conn.execute("UPDATE messages SET upstream = 1")
    conn.execute("UPDATE held_messages SET not_before = NULL")
    assert list_obstacles(conn) == []


def test_the_default_upstream_s_state_says_why(conn, create):
    carrier = create(binds=2)
    wait(conn)
    assert list_obstacles(conn) == [Obstacle(obstacles.SERVER_STOPPED, 1)]
    record(conn, "unbound", "refused")
    assert list_obstacles(conn) == [Obstacle("refused", 1, "carrier", "why refused")]
    record(conn, "unbound", "connecting")
    assert list_obstacles(conn) == [Obstacle("unbound", 1, "carrier", "why unbound")]
    upstreams.disable_upstream(conn, SHELL, carrier)
    assert list_obstacles(conn) == [Obstacle("disabled", 1, "carrier")]
    upstreams.enable_upstream(conn, SHELL, carrier)
    record(conn, "bound", "bound")
    assert list_obstacles(conn) == []
    upstreams.drain_upstream(conn, SHELL, carrier)
    assert list_obstacles(conn) == [Obstacle(obstacles.DRAINING, 1, "carrier")]
