"""Token buckets, with a clock of the test's own."""

from ipaddress import ip_address

from portal.smsc.admission.rate_limits import FailureCounter, TokenBucket, get_rate_limit_network


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


def test_ten_failures_are_the_limit_until_time_has_passed():
    failures = FailureCounter(10)
    for number in range(10):
        assert not failures.is_limit_reached("smpp-a", 0.0), number
        failures.record_failure("smpp-a", 0.0)
    assert failures.is_limit_reached("smpp-a", 0.0)
    assert not failures.is_limit_reached("smpp-b", 0.0)
    assert not failures.is_limit_reached("smpp-a", 7.0)


def test_an_ipv6_neighbour_counts_as_the_same():
    network = get_rate_limit_network(ip_address("2001:db8::1"))
    assert get_rate_limit_network(ip_address("2001:db8::ffff")) == network
    assert get_rate_limit_network(ip_address("2001:db8:0:1::1")) != network
    assert get_rate_limit_network(ip_address("203.0.113.7")) != get_rate_limit_network(ip_address("203.0.113.8"))


def test_memory_is_bounded():
    failures = FailureCounter(1)
    for number in range(60_000):
        failures.record_failure(number, 0.0)
    assert sum(failures.is_limit_reached(number, 0.0) for number in range(60_000)) == 50_000
