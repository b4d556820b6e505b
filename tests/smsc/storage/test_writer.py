"""The one thread that writes: what goes into a batch, in which order, and what becomes of a bad item."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager

import pytest

from portal.smsc.storage.interface import StorageError
from portal.smsc.storage.writer import DatabaseWriter, WriteJobHandler, WriteJobKind


class Written:
    """Two kinds of jobs that write their items into a table, and the results that the event loop gets."""

    def __init__(self, connect, seconds_each=0.0):
        self.batches = []
        self.results = []
        self.begun = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._news = asyncio.Event()
        self._seconds_each = seconds_each
        conn = connect()
        conn.execute("CREATE TABLE IF NOT EXISTS written (number INTEGER UNIQUE CHECK (number <> 13)) STRICT")
        works = {
            WriteJobKind.SUBMIT: WriteJobHandler(self._write, self._committed, self._refused),
            WriteJobKind.OUTCOME: WriteJobHandler(self._write, self._committed, self._refused),
        }
        self.writer = DatabaseWriter(conn, works, lambda: pytest.fail("the writer has died"))
        self.writer.start()

    def _write(self, conn, numbers):
        conn.executemany("INSERT INTO written VALUES (?)", [(each,) for each in numbers])
        time.sleep(len(numbers) * self._seconds_each)
        self.batches.append(numbers)
        self.begun.set()
        assert self.may_go_on.wait(5)

    def _committed(self, numbers, _):
        self._add_results([(each, True) for each in numbers])

    def _refused(self, numbers, refusal):
        self._add_results([(each, refusal) for each in numbers])

    def _add_results(self, results):
        self.results += results
        self._news.set()

    async def wait_for_results(self, count):
        while len(self.results) < count:
            self._news.clear()
            await self._news.wait()


@asynccontextmanager
async def writing(connect, **options):
    written = Written(connect, **options)
    yield written
    assert written.writer.close(5)


def on_disk(conn):
    return [number for (number,) in conn.execute("SELECT number FROM written ORDER BY rowid")]


async def test_what_is_put_in_one_turn_of_the_loop_is_one_batch(connect):
    async with writing(connect) as written:
        for number in (3, 2, 1):
            written.writer.queue_write(WriteJobKind.SUBMIT, number)
        await written.wait_for_results(3)
        assert written.batches == [[3, 2, 1]]
        assert on_disk(connect()) == [3, 2, 1]


async def test_what_comes_while_a_batch_is_written_shares_the_next(connect):
    async with writing(connect) as written:
        written.may_go_on.clear()
        written.writer.queue_write(WriteJobKind.SUBMIT, 1)
        await asyncio.to_thread(written.begun.wait, 5)
        for number in (2, 3, 4):
            written.writer.queue_write(WriteJobKind.SUBMIT, number)
            await asyncio.sleep(0)
        written.may_go_on.set()
        await written.wait_for_results(4)
        assert written.batches == [[1], [2, 3, 4]]


async def test_a_batch_is_bounded_and_the_order_stays(connect):
    numbers = list(range(1000, 10_000))
    async with writing(connect) as written:
        written.writer.queue_write(WriteJobKind.SUBMIT, *numbers)
        await written.wait_for_results(9000)
        assert max(map(len, written.batches)) <= 4_000
        assert on_disk(connect()) == numbers
        assert written.results == [(number, True) for number in numbers]


async def test_batches_get_smaller_where_writing_is_slow(connect):
    async with writing(connect, seconds_each=0.0001) as written:
        written.writer.queue_write(WriteJobKind.SUBMIT, *range(1000, 2000))
        await written.wait_for_results(1000)
        written.writer.queue_write(WriteJobKind.SUBMIT, *range(2000, 4000))
        await written.wait_for_results(3000)
        assert [len(each) for each in written.batches] == [1000, 500, 500, 500, 500]


async def test_what_is_patient_comes_by_and_by_and_nobody_waits_behind_it(connect, monkeypatch):
    monkeypatch.setattr("portal.smsc.storage.writer._MAX_PATIENT_JOBS", 3)
    async with writing(connect) as written:
        written.may_go_on.clear()
        written.writer.queue_patient_write(WriteJobKind.OUTCOME, *range(100, 108))
        await asyncio.to_thread(written.begun.wait, 5)
        written.writer.queue_write(WriteJobKind.SUBMIT, 1)
        await asyncio.sleep(0)
        written.may_go_on.set()
        await written.wait_for_results(9)
        # A batch does submits first.
        assert written.batches == [[100, 101, 102], [1], [103, 104, 105], [106, 107]]
        assert [each for each, _ in written.results] == [100, 101, 102, 1, 103, 104, 105, 106, 107]


async def test_what_is_patient_is_written_at_the_end(connect, monkeypatch):
    monkeypatch.setattr("portal.smsc.storage.writer._MAX_PATIENT_JOBS", 3)
    async with writing(connect) as written:
        written.writer.queue_patient_write(WriteJobKind.OUTCOME, *range(100, 108))
    assert on_disk(connect()) == [*range(100, 108)]


async def test_deferred_jobs_share_a_batch(connect):
    async with writing(connect) as written:
        for number in (3, 2, 1):
            written.writer.queue_deferred_write(WriteJobKind.OUTCOME, number)
            await asyncio.sleep(0)
        await written.wait_for_results(3)
        assert written.batches == [[3, 2, 1]]


async def test_what_is_deferred_is_written_at_the_end(connect):
    async with writing(connect) as written:
        written.writer.queue_deferred_write(WriteJobKind.OUTCOME, 5, 6)
        written.writer.queue_write(WriteJobKind.SUBMIT, 7)
    assert sorted(on_disk(connect())) == [5, 6, 7]


async def test_one_bad_item_is_refused_and_the_others_are_not(connect):
    async with writing(connect) as written:
        written.writer.queue_write(WriteJobKind.SUBMIT, *range(10, 17))
        await written.wait_for_results(7)
        assert [number for number, result in written.results if isinstance(result, StorageError)] == [13]
        assert sorted(on_disk(connect())) == [10, 11, 12, 14, 15, 16]
