"""The clock, and durations in milliseconds."""

import time

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


def now_ms() -> int:
    """The current time as the database stores it: milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
