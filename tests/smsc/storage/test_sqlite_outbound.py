"""When the SMPP server hears of routes, not at whatever else changes; and of upstreams that it can't read all of."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.messages import smpp_config
from portal.services.upstreams import upstreams
from portal.smsc.storage.sqlite_outbound import OutboundStorage
from portal.smsc.storage.writer import DatabaseWriter, WriteJobKind
from tests.services.routing.adding import create_route
from tests.services.upstreams.waiting import add_upstream


@pytest.fixture
def acme_1(conn, cast):
    return accounts.get_account(conn, cast.smpp_acme_1.name)


def make_storage(conn, keys, told, **handlers):
    """One that tells a listener with these methods, and appends to `told` what it has the writer do."""
    unused: Any = None
    storage = OutboundStorage(conn, keys, unused, unused, unused)
    writer: Any = SimpleNamespace(queue_write=lambda kind, _: told.append(kind))
    storage.listener = SimpleNamespace(**handlers)
    storage.start(writer)
    told.clear()
    return storage


async def test_routes_are_told_where_something_of_them_has_changed(conn, keys, acme_1):
    carriers = [add_upstream(conn, keys, name) for name in ("A", "B")]
    told: list[bool] = []
    storage = make_storage(
        *(conn, keys, []),
        handle_routes_changed=lambda _, *, moves_waiting: told.append(moves_waiting),
        handle_upstreams_changed=lambda *_, **__: None,
    )

    def load() -> list[bool]:
        told.clear()
        storage.load_config()
        return told

    assert load() == [False]
    create_route(conn, "A,B", account=acme_1)
    assert load() == [True]
    version = smpp_config.read_config_version(conn)
    upstreams.change_upstream(conn, keys, SHELL, carriers[0], name="C", throughput=10)
    conn.execute("UPDATE accounts SET name = 'renamed' WHERE id = ?", (acme_1.id,))
    assert smpp_config.read_config_version(conn) > version
    assert load() == []
    upstreams.set_default_upstream(conn, SHELL, carriers[1])
    assert load() == [False]
    assert storage.choose_path(acme_1.id, "393331234567", "IT", "ACME") == (carriers[0].id, carriers[1].id)


async def test_tags_that_cannot_be_read_keep_no_upstream_from_being_told(conn, keys):
    add_upstream(conn, keys, "A")
    conn.execute("UPDATE upstreams SET settings = json_set(settings, '$.pass_tlvs', 'any')")
    add_upstream(conn, keys, "B", pass_tlvs="0x1400")
    told: list[object] = []
    storage = make_storage(
        *(conn, keys, told),
        handle_upstreams_changed=lambda configs, **_: told.append([each.upstream.name for each in configs]),
        handle_routes_changed=lambda *_, **__: None,
    )
    assert storage.load_config() == {0x1400}
    assert told == [WriteJobKind.UPSTREAMS_BEGIN, ["A", "B"]]


async def test_traced_pdus_that_cannot_be_written_do_not_wait_in_memory(connect, keys):
    unused: Any = SimpleNamespace()
    conn = connect()
    storage = OutboundStorage(conn, keys, unused, lambda _: None, unused)
    recovered = asyncio.Event()
    storage.listener = SimpleNamespace(handle_recovered=lambda _: recovered.set())
    writer = DatabaseWriter(connect(), storage.build_job_handlers(), lambda: pytest.fail("the writer has died"))
    storage.start(writer)
    writer.start()
    await asyncio.wait_for(recovered.wait(), 5)
    conn.execute("DROP TABLE upstream_traces")
    storage.store_traced_pdus(1, [], 1)
    assert writer.close(5)
