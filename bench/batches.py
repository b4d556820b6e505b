"""What storing messages costs in batches of a fixed size, in this process: no sockets, no event loop, no other thread.

Used by `bench/smpp`. Its servers choose their batches themselves, and a bigger one costs less a message: so a change
that leaves them smaller batches looks dearer than it is, and the other way round. Here nothing but the code decides.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count, cycle
from pathlib import Path
from random import Random
from struct import unpack_from

from stand import SENDERS

from portal.core import db
from portal.services.messages import intake
from portal.services.messages.validation import GSM, SubmittedMessage

BATCHES = {1: 1, 10: 1, 70: 10}
"""How many messages a commit has, and of how many accounts these are."""
SECONDS = 1.5
WARM_UP_COMMITS = 50
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
            GSM,
            0,
            None,
            1,
            1000,
            session_id=1,
        )


def measure_batches(database: Path, size: int, account_count: int) -> dict[str, float]:
    """Store batches of `size` messages of `account_count` accounts for SECONDS.

    Returns:
        `rate`: messages a second; `cpu_us`: microseconds of CPU a message, SQLite's and the system's included; `pages`:
        pages that a commit writes to the write-ahead log.
    """
    with closing(db.connect(database, only_immediate=True)) as conn:
        account_ids = [row[0] for row in conn.execute("SELECT id FROM accounts ORDER BY id LIMIT ?", (account_count,))]
        submits = make_submits(account_ids)
        commits, frames, last_frame_count = -WARM_UP_COMMITS, 0, 0
        with database.with_name(f"{database.name}-shm").open("rb", buffering=0) as wal_index:
            while True:
                if commits == 0:
                    started_at, cpu_before, frames, building_s = time.perf_counter(), time.process_time(), 0, 0.0
                build_started_at = time.process_time()
                batch = [next(submits) for _ in range(size)]
                built_at = time.process_time()
                intake.store_messages(conn, batch)
                wal_index.seek(FRAME_COUNT_OFFSET)
                (frame_count,) = unpack_from("=I", wal_index.read(4))
                # After a checkpoint the log begins anew.
                frames += frame_count - last_frame_count if frame_count > last_frame_count else frame_count
                last_frame_count = frame_count
                commits += 1
                if commits > 0:
                    building_s += built_at - build_started_at
                    if (duration_s := time.perf_counter() - started_at) > SECONDS:
                        break
        cpu_s = time.process_time() - cpu_before - building_s
    return {
        "rate": commits * size / (duration_s - building_s),
        "cpu_us": cpu_s / (commits * size) * 1e6,
        "pages": frames / commits,
    }
