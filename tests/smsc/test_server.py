"""The listeners, and the process from its start to its end."""

import asyncio
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from portal.core import db
from portal.core.config import Config
from portal.services.accounts import session_records
from portal.services.common import credit_amounts
from portal.services.credits import credits
from portal.smsc import server as server_module
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import HeaderOnlyPdu
from tests.smsc.esme import RawEsme, close_connections, list_sessions, make_tls_client_context, run_smsc, wait_until
from tests.support import ROOT

PROCESS = (
    "import sys; from pathlib import Path; from portal.core import config; from portal.smsc import server; "
    "sys.exit(server.run_smpp_server(config.load_config(data=Path(sys.argv[1]))))"
)


@pytest.fixture
def start(config: Config, conn: db.Connection) -> Iterator[Callable[[], Awaitable[subprocess.Popen[bytes]]]]:
    """Starts the server as a process of its own and waits until it is ready."""
    started: list[subprocess.Popen[bytes]] = []

    async def start_one() -> subprocess.Popen[bytes]:
        conn.execute("DELETE FROM components")
        process = subprocess.Popen([sys.executable, "-c", PROCESS, config.data], cwd=ROOT)
        started.append(process)
        await wait_until(lambda: session_records.is_component_alive(conn, "smsc") or process.poll() is not None)
        assert process.poll() is None
        return process

    yield start_one
    for process in started:
        process.kill()
        process.wait()


async def test_tls_1_3(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.tls_port, cast.smpp_acme_1, tls=make_tls_client_context())
        assert (await esme.submit()).status == 0
        await esme.receive_deliver_sm()
        (row,) = await wait_until(lambda: session_records.list_open_smpp_sessions(conn, cast.smpp_acme_1.id))
        assert row.tls == "TLSv1.3"
    assert (config.data / "smpp.key").stat().st_mode & 0o777 == 0o600


async def test_nothing_older_than_tls_1_3(config, cast):
    async with run_smsc(config) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await RawEsme.connect(server.tls_port, tls=make_tls_client_context(maximum_version=ssl.TLSVersion.TLSv1_2))
        plain = await RawEsme.connect(server.tls_port)
        plain.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1))
        await plain.wait_for_close()
        await RawEsme.connect_and_bind(server.tls_port, cast.smpp_acme_1, tls=make_tls_client_context())


async def test_a_tls_session_is_unbound_too(config, cast, change_account):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.tls_port, cast.smpp_acme_1, tls=make_tls_client_context())
        change_account(disabled_at=1)
        await esme.wait_for_unbind()


async def test_the_certificate_stays_the_same(config):
    seen = set()
    for _ in range(2):
        async with run_smsc(config):
            seen.add((config.data / "smpp.crt").read_bytes())
    assert len(seen) == 1


async def test_both_versions_of_ip(config, cast, conn):
    config = replace(config, smpp=replace(config.smpp, host="::"))
    async with run_smsc(config) as server:
        await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, host="::1")
        await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1, host="127.0.0.1")
        seen = await wait_until(
            lambda: len(rows := conn.execute("SELECT address FROM connections").fetchall()) == 2 and rows
        )
        assert {row["address"] for row in seen} == {"::1", "127.0.0.1"}


async def test_a_listener_that_is_switched_off(config, cast):
    async with run_smsc(replace(config, smpp=replace(config.smpp, port=0))) as server:
        assert server.port == 0
        with pytest.raises(ConnectionRefusedError):
            await RawEsme.connect(config.smpp.port)
        await RawEsme.connect_and_bind(server.tls_port, cast.smpp_acme_1, tls=make_tls_client_context())


def test_a_port_in_use_is_said(config, caplog):
    with socket.create_server(("127.0.0.1", config.smpp.port)):
        assert server_module.run_smpp_server(config) == 1
    assert f"port {config.smpp.port}" in caplog.text


@pytest.mark.slow
async def test_sigterm_unbinds_everybody_and_ends_in_time(start, config, cast, conn):
    process = await start()
    esme = await RawEsme.connect_and_bind(config.smpp.port, cast.smpp_acme_1)
    silent = await RawEsme.connect_and_bind(config.smpp.port, cast.smpp_globex_1)
    unbound = await RawEsme.connect(config.smpp.port)
    process.send_signal(signal.SIGTERM)
    await asyncio.gather(esme.wait_for_unbind(), silent.wait_for_close(), unbound.wait_for_close())
    assert await asyncio.to_thread(process.wait, 4) == 0
    assert not session_records.is_component_alive(conn, "smsc")
    assert conn.execute("SELECT count(*) FROM connections").fetchone()[0] == 0
    await close_connections()


@pytest.mark.slow
async def test_what_waits_too_long_while_it_stops_is_refused_and_not_stored(config, cast, conn, connect):
    server = server_module.SmppServer(config, asyncio.get_running_loop(), on_fatal_error=lambda: None)
    server.start()
    esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
    (session,) = list_sessions(server)
    await wait_until(lambda: session_records.list_open_smpp_sessions(conn, cast.smpp_acme_1.id))
    other = connect()
    other.execute("BEGIN IMMEDIATE")
    # The writer waits with the first for two seconds, and begins with the others after that.
    first, *others = [esme.build_submit_sm() for _ in range(5)]
    esme.send(first)
    await wait_until(lambda: session.get_progress("").window == 1)
    esme.send(*others)
    await wait_until(lambda: session.get_progress("").window == 5)
    closing = asyncio.create_task(server.close())
    assert (await esme.wait_for_response(first.sequence)).status == CommandStatus.ESME_RSYSERR
    await wait_until(lambda: server.storage.outbound.refuses_submits)
    other.execute("ROLLBACK")
    assert {each.status for each in await esme.wait_for_responses(others)} == {CommandStatus.ESME_RSYSERR}
    await esme.wait_for_unbind()
    await closing
    assert conn.execute("SELECT count(*) FROM messages").fetchone()[0] == 0
    await close_connections()


@pytest.mark.slow
async def test_what_was_acknowledged_survives_a_kill(start, config, cast, conn, change_account):
    change_account(windowing=0, throughput=0)
    acknowledged = set()
    for _ in range(3):
        process = await start()
        esme = await RawEsme.connect_and_bind(config.smpp.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        batch = [esme.build_submit_sm() for _ in range(200)]
        esme.send(*batch)
        for _ in range(60):
            answer = await esme.wait_for_pdu(CommandId.SUBMIT_SM_RESP)
            assert answer.status == 0
            acknowledged.add(int(answer.message_id))
        process.kill()
        process.wait()
        await close_connections()
    stored = {row["id"] for row in conn.execute("SELECT id FROM messages")}
    assert acknowledged <= stored
    assert credits.get_balance(conn, cast.smpp_acme_1.id) == (1000 - len(stored)) * credit_amounts.THOUSANDTHS


@pytest.mark.slow
async def test_a_locked_database_refuses_and_recovers(config, cast, connect):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await wait_until(lambda: session_records.list_open_smpp_sessions(connect(), cast.smpp_acme_1.id))
        other = connect()
        other.execute("BEGIN IMMEDIATE")
        refused = await esme.submit()
        assert refused.status == CommandStatus.ESME_RSYSERR
        other.execute("ROLLBACK")
        accepted = await esme.submit()
        assert accepted.status == 0
        assert [row["id"] for row in other.execute("SELECT id FROM messages")] == [int(accepted.message_id)]


async def test_a_full_disk_refuses_and_recovers(config, cast, conn, change_account):
    change_account(throughput=0, windowing=0)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        # SQLite says the same of a file that may not grow as of a disk that is full.
        writer = server.storage._writer.conn
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        statuses: list[int] = []
        while CommandStatus.ESME_RSYSERR not in statuses:
            few = [esme.build_submit_sm(text=b"a" * 150) for _ in range(10)]
            esme.send(*few)
            statuses += [answer.status for answer in await esme.wait_for_responses(few)]
        writer.execute("PRAGMA max_page_count = 1000000")
        while (again := await esme.submit()).status:
            assert again.status == CommandStatus.ESME_RSYSERR
        stored = conn.execute("SELECT count(*) FROM messages").fetchone()[0]
        assert stored == statuses.count(0) + 1


async def test_the_plain_event_loop_serves_too(config, cast):
    def scenario():
        async def play():
            async with run_smsc(config) as server:
                esme = await RawEsme.connect_and_bind(server.tls_port, cast.smpp_acme_1, tls=make_tls_client_context())
                assert (await esme.submit()).status == 0
                await esme.receive_deliver_sm()

        asyncio.run(play())

    await asyncio.to_thread(scenario)


async def test_one_bad_job_does_not_take_the_others_with_it(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        batch = [esme.build_submit_sm() for _ in range(5)]
        esme.send(*batch)
        no_session: Any = object()
        server.storage.close_session(no_session)
        assert [answer.status for answer in await esme.wait_for_responses(batch)] == [0] * 5


def test_a_missing_database_is_said(config, caplog):
    (config.data / db.FILE_NAME).unlink()
    with sqlite3.connect(config.data / db.FILE_NAME):
        pass
    assert server_module.run_smpp_server(config) == 1
    assert "no such table" in caplog.text


async def test_a_writer_that_dies_is_noticed(config):
    died = asyncio.Event()
    server = server_module.SmppServer(config, asyncio.get_running_loop(), on_fatal_error=died.set)
    server.start()
    server.storage._writer.handlers = {}
    await asyncio.wait_for(died.wait(), 10)
    await server.close()
