"""Token buckets: the throughput of a connection, and how often a bind may fail."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import IPv4Address

from portal.services.accounts.allowed_ips import Address

_MINUTE = 60.0
_REMEMBERED = 50_000


class TokenBucket:
    """Lets `rate` through a second, and as many at once after a second of silence.

    A rate of 0 lets everything through.
    """

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._at = now

    def change(self, rate: int, now: float) -> None:
        """Go on at another rate; what was saved up under the old one is kept as far as the new one allows."""
        if rate != self._rate:
            self._tokens = min(self._tokens, float(rate)) if self._rate else float(rate)
            self._rate = rate
            self._at = now

    def take(self, now: float) -> bool:
        """Take one if there is one. `now` in seconds of a clock that never goes back."""
        rate = self._rate
        if not rate:
            return True
        tokens = self._tokens + (now - self._at) * rate
        self._at = now
        if tokens > rate:
            tokens = float(rate)
        if tokens < 1.0:
            self._tokens = tokens
            return False
        self._tokens = tokens - 1.0
        return True


class Failures:
    """Counts failures by whatever they are counted by: `most` of them, forgotten evenly over a minute."""

    def __init__(self, most: int) -> None:
        self._most = most
        # Least recently failed first; at worst an attacker with 50,000 addresses makes us forget his own first
        # failures.
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def too_many(self, key: Hashable, now: float) -> bool:
        """Whether there were as many as may be. `now` in seconds of a monotonic clock."""
        return self._count(key, now) > self._most - 1

    def record(self, key: Hashable, now: float) -> None:
        """Count one."""
        self._buckets[key] = (min(self._count(key, now) + 1, self._most), now)
        self._buckets.move_to_end(key)
        while len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)

    def _count(self, key: Hashable, now: float) -> float:
        count, at = self._buckets.get(key, (0.0, now))
        return max(count - (now - at) * self._most / _MINUTE, 0.0)


class BindFailures:
    """Counts failed binds, so that guessing a password takes ages.

    Two buckets, by address and by system_id, each allow `per_minute` failures and refill evenly over a minute. A
    client at an address that is authorised for its account has a bucket of its own instead: strangers elsewhere can't
    lock it out.
    """

    def __init__(self, per_minute: int) -> None:
        self._failures = Failures(per_minute)

    def blocked(self, address: Address, system_id: str, *, authorised: bool, now: float) -> bool:
        """Whether a bind must be refused before its password is looked at. `now` in seconds of a monotonic clock."""
        return any(self._failures.too_many(key, now) for key in self._keys(address, system_id, authorised))

    def record(self, address: Address, system_id: str, *, authorised: bool, now: float) -> None:
        """Count a failed bind."""
        for key in self._keys(address, system_id, authorised):
            self._failures.record(key, now)

    @staticmethod
    def _keys(address: Address, system_id: str, authorised: bool) -> tuple[Hashable, ...]:
        near = neighbourhood(address)
        if authorised:
            return ((near, system_id),)
        return near, system_id


def neighbourhood(address: Address) -> Hashable:
    """An IPv4 address, or the /64 of an IPv6 one: whoever has one address in it has them all."""
    return address if isinstance(address, IPv4Address) else address.packed[:8]
