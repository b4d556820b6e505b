"""The clock, and lengths of time in milliseconds."""

import time

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


def now_ms() -> int:
    """The time as everything in the database counts it: milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
