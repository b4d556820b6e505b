"""Token buckets, with a clock of the test's own."""

from ipaddress import ip_address

from portal.smsc.admission.rate_limits import FailureCounter, TokenBucket, list_bind_failure_keys

HERE = ip_address("203.0.113.7")
ELSEWHERE = ip_address("198.51.100.1")


def test_throughput_is_kept_over_time():
    bucket = TokenBucket(20, 0.0)
    passed = sum(bucket.take_token(tick / 1000) for tick in range(10_000))
    assert 20 * 10 <= passed <= 20 * 10 + 20


def test_no_throughput_is_no_limit():
    bucket = TokenBucket(0, 0.0)
    assert all(bucket.take_token(0.0) for _ in range(10_000))


def test_a_changed_throughput_holds_at_once():
    bucket = TokenBucket(1000, 0.0)
    bucket.change_rate(5, 0.0)
    assert sum(bucket.take_token(0.0) for _ in range(100)) == 5
    bucket.change_rate(0, 0.0)
    assert bucket.take_token(0.0)
    bucket.change_rate(3, 0.0)
    assert sum(bucket.take_token(0.0) for _ in range(100)) == 3


def fail(failures, times, address, system_id="smpp-a", is_allowed_address=False, now=0.0):
    for _ in range(times):
        for key in list_bind_failure_keys(address, system_id, is_allowed_address=is_allowed_address):
            failures.record_failure(key, now)


def is_blocked(failures, address, system_id, is_allowed_address=False, now=0.0):
    keys = list_bind_failure_keys(address, system_id, is_allowed_address=is_allowed_address)
    return any(failures.is_limit_reached(key, now) for key in keys)


def test_ten_failures_block_an_address_and_a_name_until_time_has_passed():
    failures = FailureCounter(10)
    fail(failures, 9, ELSEWHERE)
    assert not is_blocked(failures, ELSEWHERE, "smpp-a", is_allowed_address=False, now=0.0)
    fail(failures, 1, ELSEWHERE)
    assert is_blocked(failures, ELSEWHERE, "smpp-a", is_allowed_address=False, now=0.0)
    assert is_blocked(failures, ELSEWHERE, "smpp-b", is_allowed_address=False, now=0.0)
    assert is_blocked(failures, HERE, "smpp-a", is_allowed_address=False, now=0.0)
    assert not is_blocked(failures, HERE, "smpp-b", is_allowed_address=False, now=0.0)
    assert not is_blocked(failures, ELSEWHERE, "smpp-a", is_allowed_address=False, now=7.0)


def test_strangers_do_not_lock_out_a_client_at_its_own_address():
    failures = FailureCounter(10)
    fail(failures, 1000, ELSEWHERE)
    assert not is_blocked(failures, HERE, "smpp-a", is_allowed_address=True, now=0.0)
    fail(failures, 10, HERE, is_allowed_address=True)
    assert is_blocked(failures, HERE, "smpp-a", is_allowed_address=True, now=0.0)
    assert not is_blocked(failures, HERE, "smpp-b", is_allowed_address=True, now=0.0)


def test_an_ipv6_neighbour_counts_as_the_same():
    failures = FailureCounter(10)
    fail(failures, 10, ip_address("2001:db8::1"), "smpp-x")
    assert is_blocked(failures, ip_address("2001:db8::ffff"), "smpp-y", is_allowed_address=False, now=0.0)
    assert not is_blocked(failures, ip_address("2001:db8:0:1::1"), "smpp-y", is_allowed_address=False, now=0.0)


def test_memory_is_bounded():
    failures = FailureCounter(1)
    for number in range(60_000):
        failures.record_failure(number, 0.0)
    assert sum(failures.is_limit_reached(number, 0.0) for number in range(60_000)) == 50_000
