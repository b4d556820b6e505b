from collections.abc import Callable
from typing import Any

import pytest

from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts import session_records
from portal.services.common.audit import SHELL
from portal.services.messages import smpp_config
from portal.services.upstreams import binds, counters, upstreams
from portal.services.upstreams.binds import BindState, UpstreamState
from portal.services.upstreams.upstreams import NoSuchUpstream, Upstream


@pytest.fixture
def create(conn: Connection, keys: Keys) -> Callable[..., Upstream]:
    def created(name: str, **settings: Any) -> Upstream:
        needed = {} if settings.get("kind") == upstreams.SIMULATOR else {"host": "h", "system_id": "s", "password": "p"}
        return upstreams.create_upstream(conn, keys, SHELL, name, **needed, **settings)

    return created


@pytest.fixture
def server(conn: Connection) -> None:
    session_records.record_component_heartbeat(conn, "smsc", 0)


def record(conn: Connection, upstream: Upstream, *states: str) -> None:
    binds.record_bind_states(
        conn,
        upstream.id,
        [BindState(number, "trx", state, 1000 + number) for number, state in enumerate(states, start=1)],
    )


def state_of(conn: Connection, upstream: Upstream) -> UpstreamState:
    return binds.get_upstream_state(conn, upstream.id)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("states", "state"),
    [
        (("bound", "bound"), "bound"),
        (("bound", "unbound"), "partly"),
        (("bound", "refused"), "partly"),
        (("bound",), "partly"),
        (("refused", "unbound"), "refused"),
        (("unbound", "unbound"), "unbound"),
        (("bound", "bound", "unbound"), "bound"),
        ((), "unbound"),
    ],
)
def test_the_state_of_an_upstream_is_that_of_the_binds_it_should_have(conn, create, states, state):
    upstream = create("carrier", binds=2)
    record(conn, upstream, *states)
    assert state_of(conn, upstream).state == state
    assert [each.state for each in state_of(conn, upstream).binds] == [*states, "unbound", "unbound"][:2]


@pytest.mark.usefixtures("server")
def test_binds_that_have_not_begun_are_told_with_their_kinds(conn, create):
    upstream = create("carrier", bind="tx+rx", binds=2)
    refused = BindState(2, "rx", "refused", 1234, "wrong password", 0x0E, 1_700_000_000_000)
    binds.record_bind_states(conn, upstream.id, [refused])
    assert [(each.number, each.kind) for each in state_of(conn, upstream).binds] == [
        (1, "tx"),
        (2, "rx"),
        (3, "tx"),
        (4, "rx"),
    ]
    assert state_of(conn, upstream).binds[1] == refused


@pytest.mark.usefixtures("server")
def test_just_after_a_change_nothing_is_said_of_binds_from_before(conn, create):
    upstream = create("carrier", binds=2)
    record(conn, upstream, "bound", "refused")
    pending = binds.replace_state_by_pending(state_of(conn, upstream))
    assert (pending.upstream, pending.state) == (upstream, "pending")
    assert pending.binds == (BindState(1, "trx", "pending", 0), BindState(2, "trx", "pending", 0))
    upstreams.disable_upstream(conn, SHELL, upstream)
    assert binds.replace_state_by_pending(state_of(conn, upstream)).state == "disabled"


@pytest.mark.usefixtures("server")
def test_one_that_is_disabled_is_so_whatever_its_binds_are(conn, create):
    upstream = create("carrier")
    record(conn, upstream, "bound")
    upstreams.disable_upstream(conn, SHELL, upstream)
    assert state_of(conn, upstream).state == "disabled"


def test_without_a_server_nothing_is_bound(conn, create):
    upstream, simulator = create("carrier"), create("sim", kind=upstreams.SIMULATOR)
    record(conn, upstream, "bound")
    assert [each.state for each in binds.list_upstream_states(conn)] == ["unbound", "unbound"]
    assert [each.state for each in state_of(conn, upstream).binds] == ["unbound"]
    session_records.record_component_heartbeat(conn, "smsc", 0)
    assert [each.state for each in binds.list_upstream_states(conn)] == ["bound", "bound"]
    assert state_of(conn, simulator).binds == ()


@pytest.mark.usefixtures("server")
def test_what_is_recorded_takes_the_place_of_what_was_and_wakes_nobody(conn, create):
    upstream, other = create("carrier", binds=2), create("other")
    record(conn, other, "bound")
    version = smpp_config.read_config_version(conn)
    record(conn, upstream, "bound", "bound")
    record(conn, upstream, "unbound")
    assert {key: [each.state for each in value] for key, value in binds.list_bind_states(conn).items()} == {
        upstream.id: ["unbound"],
        other.id: ["bound"],
    }
    binds.clear_bind_states(conn)
    assert binds.list_bind_states(conn) == {}
    assert smpp_config.read_config_version(conn) == version


def test_one_that_is_removed_has_no_binds_and_no_state(conn, create):
    upstream = create("carrier")
    record(conn, upstream, "bound")
    upstreams.remove_upstream(conn, SHELL, upstream)
    assert binds.list_bind_states(conn) == {}
    with pytest.raises(NoSuchUpstream):
        state_of(conn, upstream)


def test_counters_add_up_by_upstream(conn, create):
    upstream, other = create("carrier"), create("other")
    counters.add_to_counters(conn, upstream.id, {"submitted": 2, "unsure": 1})
    counters.add_to_counters(conn, upstream.id, {"submitted": 3})
    counted = counters.get_counters(conn, upstream.id)
    assert tuple(counted) == counters.COUNTERS
    assert {name: value for name, value in counted.items() if value} == {"submitted": 5, "unsure": 1}
    assert not any(counters.get_counters(conn, other.id).values())
