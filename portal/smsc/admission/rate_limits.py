"""Token buckets: the throughput of a connection, and how often a bind may fail."""

from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import IPv4Address

from portal.services.accounts.allowed_ips import IPAddress

_MINUTE_SECONDS = 60.0
_MAX_BUCKETS = 50_000


class TokenBucket:
    """Lets `rate` through a second, and as many at once after a second of silence.

    A rate of 0 lets everything through.
    """

    __slots__ = ("_rate", "_tokens", "_updated_at")

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._updated_at = now

    def change_rate(self, rate: int, now: float) -> None:
        """Go on at another rate; what was saved up under the old one is kept as far as the new one allows."""
        if rate != self._rate:
            self._tokens = min(self._tokens, float(rate)) if self._rate else float(rate)
            self._rate = rate
            self._updated_at = now

    def take_token(self, now: float) -> bool:
        """Take one if there is one. `now` in seconds of a clock that never goes back."""
        rate = self._rate
        if not rate:
            return True
        tokens = self._tokens + (now - self._updated_at) * rate
        self._updated_at = now
        if tokens > rate:
            tokens = float(rate)
        if tokens < 1.0:
            self._tokens = tokens
            return False
        self._tokens = tokens - 1.0
        return True


class FailureCounter:
    """Counts failures by whatever they are counted by: `max_failures` of them, forgotten evenly over a minute."""

    def __init__(self, max_failures: int) -> None:
        self._max_failures = max_failures
        # Least recently failed first; at worst an attacker with 50,000 addresses makes us forget his own first
        # failures.
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def is_limit_reached(self, key: Hashable, now: float) -> bool:
        """Whether there were as many as may be. `now` in seconds of a monotonic clock."""
        return self._current_count(key, now) > self._max_failures - 1

    def record_failure(self, key: Hashable, now: float) -> None:
        """Count one."""
        self._buckets[key] = (min(self._current_count(key, now) + 1, self._max_failures), now)
        self._buckets.move_to_end(key)
        while len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)

    def _current_count(self, key: Hashable, now: float) -> float:
        count, counted_at = self._buckets.get(key, (0.0, now))
        return max(count - (now - counted_at) * self._max_failures / _MINUTE_SECONDS, 0.0)


def get_rate_limit_network(address: IPAddress) -> Hashable:
    """An IPv4 address, or the /64 of an IPv6 one: whoever has one address in it has them all."""
    return list_rate_limit_networks(address)[0]


def list_rate_limit_networks(address: IPAddress) -> list[Hashable]:
    """An IPv4 address, or the /64, /56 and /48 of an IPv6 one: providers give out the wider ones."""
    return [address] if isinstance(address, IPv4Address) else [address.packed[:octets] for octets in (8, 7, 6)]
