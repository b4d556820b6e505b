import threading

import pytest

from portal.core import i18n
from portal.services.common import rate_limit

MINUTE_MS = 60_000


def test_holds_as_many_as_it_says_and_not_one_more(conn):
    for _ in range(3):
        rate_limit.take_token(conn, "bucket", 3, MINUTE_MS)
    with pytest.raises(rate_limit.TooManyAttempts):
        rate_limit.take_token(conn, "bucket", 3, MINUTE_MS)


def test_buckets_do_not_share(conn):
    rate_limit.take_token(conn, "one", 1, MINUTE_MS)
    rate_limit.take_token(conn, "another", 1, MINUTE_MS)


@pytest.mark.parametrize(("after_ms", "minutes"), [(0, 5), (1, 5), (MINUTE_MS - 1, 5), (MINUTE_MS, 4), (299_999, 1)])
def test_says_how_long_to_wait(conn, after_ms, minutes):
    rate_limit.take_token(conn, "bucket", 1, 5 * MINUTE_MS, now=1_000_000)
    plural = "" if minutes == 1 else "s"
    with pytest.raises(rate_limit.TooManyAttempts, match=f"in {minutes} minute{plural}\\.") as refusal:
        rate_limit.take_token(conn, "bucket", 1, 5 * MINUTE_MS, now=1_000_000 + after_ms)
    with i18n.override_language("it"):
        assert refusal.value.localized().endswith("tra 1 minuto." if minutes == 1 else f"tra {minutes} minuti.")


def test_fills_with_time(conn):
    rate_limit.take_token(conn, "bucket", 2, MINUTE_MS)
    rate_limit.take_token(conn, "bucket", 2, MINUTE_MS)
    conn.execute("UPDATE throttle_buckets SET at = at - ?", (MINUTE_MS // 2,))
    rate_limit.take_token(conn, "bucket", 2, MINUTE_MS)
    with pytest.raises(rate_limit.TooManyAttempts):
        rate_limit.take_token(conn, "bucket", 2, MINUTE_MS)


def test_a_clock_that_was_set_back_empties_nothing(conn):
    rate_limit.take_token(conn, "bucket", 2, MINUTE_MS)
    conn.execute("UPDATE throttle_buckets SET at = at + ?", (60 * MINUTE_MS,))
    rate_limit.take_token(conn, "bucket", 2, MINUTE_MS)


def test_a_bucket_that_a_clock_far_ahead_has_emptied_is_full(conn):
    rate_limit.take_token(conn, "bucket", 1, MINUTE_MS)
    conn.execute("UPDATE throttle_buckets SET at = at + ?", (60 * MINUTE_MS,))
    rate_limit.take_token(conn, "bucket", 1, MINUTE_MS)
    with pytest.raises(rate_limit.TooManyAttempts):
        rate_limit.take_token(conn, "bucket", 1, MINUTE_MS)


def test_a_token_given_back_can_be_taken_again(conn):
    rate_limit.take_token(conn, "bucket", 1, MINUTE_MS)
    rate_limit.put_back_tokens(conn, [("bucket", 1)])
    rate_limit.take_token(conn, "bucket", 1, MINUTE_MS)


def test_many_at_the_same_time_get_no_more_than_it_holds(connect):
    taken = []
    start = threading.Barrier(8)

    def attempt() -> None:
        conn = connect()
        start.wait()
        for _ in range(5):
            try:
                rate_limit.take_token(conn, "bucket", 7, 60 * MINUTE_MS)
            except rate_limit.TooManyAttempts:
                continue
            taken.append(1)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(taken) == 7


def test_purge_forgets_what_nobody_touched(conn):
    rate_limit.take_token(conn, "old", 1, MINUTE_MS)
    conn.execute("UPDATE throttle_buckets SET at = 1000")
    rate_limit.take_token(conn, "new", 1, MINUTE_MS)
    rate_limit.purge_token_buckets(conn, 2000)
    assert [row["name"] for row in conn.execute("SELECT name FROM throttle_buckets")] == ["new"]
