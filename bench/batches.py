"""What storing messages and their outcomes costs in batches of a fixed size: no sockets, no event loop, one thread.

Used by `bench/smpp`. Its servers choose their batches themselves, and a bigger one costs less a message: so a change
that leaves them smaller batches looks dearer than it is, and the other way round. Here nothing but the code decides.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from random import Random
from struct import unpack_from

from stand import SENDERS

from portal.core import db
from portal.core.clock import now_ms
from portal.core.gsm0338 import Encoding
from portal.services.common.message_states import DELIVERED
from portal.services.messages import intake, outcomes
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.validation import SubmittedMessage

BATCHES = {1: 1, 10: 1, 70: 10}
"""How many messages a commit has, and of how many accounts these are."""
SECONDS = 2.0
# As under load, where an outcome comes 0.2 s after its message.
MESSAGES_UNDERWAY = 2_000
# In the wal-index header: the number of frames in the log (https://sqlite.org/walformat.html).
FRAME_COUNT_OFFSET = 16

COUNTRIES = {"IT": "39340", "FR": "33612", "DE": "49171", "ES": "34612", "GB": "44771"}


def make_submits(account_ids: list[int]) -> Iterator[SubmittedMessage]:
    """Messages of these accounts in turn, to numbers made up one by one."""
    random, senders = Random(1), cycle(SENDERS)
    for number in count():
        country, prefix = random.choice(list(COUNTRIES.items()))
        yield SubmittedMessage(
            account_ids[number % len(account_ids)],
            next(senders),
            5,
            0,
            f"{prefix}{random.randrange(10**7):07}",
            country,
            f"Your code is {random.randrange(10**6):06}. It is good for ten minutes.",
            None,
            Encoding.GSM,
            0,
            None,
            1,
            1000,
            session_id=1,
        )


@dataclass
class Cost:
    """What a kind of transaction has cost: how many of them, seconds of the clock and of CPU, pages written."""

    commits: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    pages: int = 0


def measure_batches(database: Path, size: int, account_count: int) -> dict[str, float]:
    """Store batches of `size` messages of `account_count` accounts, and outcomes as many at once, for SECONDS.

    Returns:
        `rate`: messages stored a second; `cpu_us`: microseconds of CPU that storing one takes, the system's included;
        `pages`: pages that a commit writes to the write-ahead log; `outcome_cpu_us`, `outcome_pages`: the same of
        outcomes; `octets`: of the file, a message with its outcome.
    """
    with closing(db.connect(database, only_immediate=True)) as conn, closing(_FrameCounter(database)) as frames:
        account_ids = [row[0] for row in conn.execute("SELECT id FROM accounts ORDER BY id LIMIT ?", (account_count,))]
        submits = make_submits(account_ids)
        octets_before = _count_octets(conn)
        underway: deque[int] = deque()
        stored, ended = Cost(), Cost()
        started_at = time.perf_counter()
        while time.perf_counter() - started_at < SECONDS or underway:
            if time.perf_counter() - started_at < SECONDS:
                batch = [next(submits) for _ in range(size)]
                with _measured(stored, frames):
                    message_ids = intake.store_messages(conn, batch).message_ids
                underway += [each for each in message_ids if each is not None]
            if len(underway) > MESSAGES_UNDERWAY or time.perf_counter() - started_at >= SECONDS:
                now = now_ms()
                batch_outcomes = [
                    MessageOutcome(each, DELIVERED, 0, now, f"{each:x}", "stat:DELIVRD err:000")
                    for each in (underway.popleft() for _ in range(min(size, len(underway))))
                ]
                with _measured(ended, frames):
                    outcomes.finish_messages(conn, batch_outcomes)
        octets = _count_octets(conn) - octets_before
    return {
        "rate": stored.commits * size / stored.seconds,
        "cpu_us": stored.cpu_seconds / (stored.commits * size) * 1e6,
        "pages": stored.pages / stored.commits,
        "outcome_cpu_us": ended.cpu_seconds / (stored.commits * size) * 1e6,
        "outcome_pages": ended.pages / ended.commits,
        "octets": octets / (stored.commits * size),
    }


class _FrameCounter:
    """Counts the pages that are written to a database's write-ahead log."""

    def __init__(self, database: Path) -> None:
        self._wal_index = database.with_name(f"{database.name}-shm").open("rb", buffering=0)
        self._last = 0

    def count_new(self) -> int:
        """How many pages were written since the last call. After a checkpoint the log begins anew."""
        self._wal_index.seek(FRAME_COUNT_OFFSET)
        (frame_count,) = unpack_from("=I", self._wal_index.read(4))
        new = frame_count - self._last if frame_count >= self._last else frame_count
        self._last = frame_count
        return int(new)

    def close(self) -> None:
        self._wal_index.close()


@contextmanager
def _measured(cost: Cost, frames: _FrameCounter) -> Iterator[None]:
    """Add what a transaction costs."""
    frames.count_new()
    started_at, cpu_before = time.perf_counter(), time.process_time()
    yield
    cost.seconds += time.perf_counter() - started_at
    cost.cpu_seconds += time.process_time() - cpu_before
    cost.pages += frames.count_new()
    cost.commits += 1


def _count_octets(conn: db.Connection) -> int:
    """The size of the database without free pages."""
    pages, free_pages, page_size = (
        conn.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free_pages) * page_size)
