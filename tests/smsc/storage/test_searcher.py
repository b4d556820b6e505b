"""What takes long to find is looked for beside the event loop, and nobody waits for another's search."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from portal.services.messages import outcomes
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import CancelSm, HeaderOnlyPdu
from portal.smsc.server import SmppServer
from portal.smsc.storage.interface import StorageUnavailable
from portal.smsc.storage.reading import DatabaseSearcher
from tests.services.submitting import store_messages
from tests.smsc.esme import DEADLINE_S, RawEsme, close_connections, run_smsc
from tests.support import prepare_submit


def count_for_ever(conn: sqlite3.Connection, started: threading.Event) -> list[int]:
    started.set()
    return conn.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    ).fetchall()


@pytest.fixture
def database(conn):
    return conn.execute("PRAGMA database_list").fetchone()["file"]


async def test_what_goes_wrong_is_told_and_logged(database, caplog):
    found = asyncio.get_running_loop().create_future()
    with closing(DatabaseSearcher(database)) as searcher:
        searcher.search(found.set_result, lambda conn: conn.execute("SELECT 1 FROM nobody").fetchall())
        async with asyncio.timeout(DEADLINE_S):
            assert isinstance(await found, StorageUnavailable)
    assert caplog.messages == ["the database can't be read: no such table: nobody"]


async def test_a_stop_ends_a_search_without_a_word(database, caplog):
    loop, started = asyncio.get_running_loop(), threading.Event()
    found: list[object] = []
    searcher = DatabaseSearcher(database)
    searcher.search(found.append, lambda conn: count_for_ever(conn, started))
    await loop.run_in_executor(None, started.wait, DEADLINE_S)
    searcher.close()
    # What the thread tells of its end is before this.
    told = loop.create_future()
    loop.call_soon(lambda: loop.call_soon(told.set_result, None))
    await told
    assert (found, caplog.messages) == ([], [])


@pytest.fixture
def slow_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What simulators have is not found before this is set."""
    is_over = threading.Event()
    list_simulated_message_ids = outcomes.list_simulated_message_ids

    def list_slowly(conn: sqlite3.Connection, upstream_id: int | None) -> list[int]:
        is_over.wait(DEADLINE_S)
        return list_simulated_message_ids(conn, upstream_id)

    monkeypatch.setattr(outcomes, "list_simulated_message_ids", list_slowly)
    yield is_over
    is_over.set()


async def test_what_a_client_looks_for_waits_for_no_simulator(config, cast, slow_start):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit("393331234006")
        cancel = CancelSm(next(esme.sequences), source="ACME", destination="393331234006")
        assert (await esme.request(cancel)).status == 0
        assert not slow_start.is_set()
        slow_start.set()


async def test_a_cancel_right_after_a_start_waits_for_what_simulators_have(config, cast, conn, slow_start):
    (message_id,) = store_messages(conn, [prepare_submit(conn, cast.smpp_acme_1.id, destination="393331234006")])
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        cancel = CancelSm(next(esme.sequences), message_id=str(message_id), source="ACME", destination="393331234006")
        sent = await esme.submit()
        too_late = CancelSm(next(esme.sequences), message_id=sent.message_id, source="ACME", destination="393331234567")
        esme.send(cancel, too_late)
        await esme.request(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, next(esme.sequences)))
        slow_start.set()
        answers = [await esme.wait_for_response(each.sequence) for each in (cancel, too_late)]
        assert [each.status for each in answers] == [CommandStatus.ESME_ROK, CommandStatus.ESME_RCANCELFAIL]


async def test_a_stop_answers_a_cancel_that_waits(config, cast, conn, slow_start):
    (message_id,) = store_messages(conn, [prepare_submit(conn, cast.smpp_acme_1.id, destination="393331234006")])
    server = SmppServer(config, asyncio.get_running_loop(), lambda: None)
    server.start()
    esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
    cancel = CancelSm(next(esme.sequences), message_id=str(message_id), source="ACME", destination="393331234006")
    esme.send(cancel)
    await esme.request(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, next(esme.sequences)))
    closing = asyncio.create_task(server.close())
    assert (await esme.wait_for_response(cancel.sequence)).status == CommandStatus.ESME_RSYSERR
    slow_start.set()
    await esme.wait_for_unbind()
    await closing
    await close_connections()


async def test_after_a_stop_nothing_is_read_any_more(config, cast, conn, caplog):
    (message_id,) = store_messages(conn, [prepare_submit(conn, cast.smpp_acme_1.id)])
    conn.execute("UPDATE messages SET due_at = 1")
    async with run_smsc(config) as server:
        pass
    found: list[object] = []
    server.storage.outbound.load_message(message_id, found.append)
    server.storage.outbound.poll_due_messages()
    assert found == []
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []
