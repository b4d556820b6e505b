"""How fast an upstream is sent to: its throughput, and less than that where it says that it is too much.

Additive increase, multiplicative decrease. A refusal halves the rate, and nothing is sent for a pause; then one message
is, to see. Once that is accepted the rate grows by a tenth of what it was at first, as often as that pause is long.
"""

UNLIMITED = 1 << 30
"""What may be sent at this moment where nothing is known to be too much."""

# What may be sent at once, in seconds of the rate. Upstreams count by the second, so hardly more than the rate.
_BURST_SECONDS = 0.05
_MAX_PAUSE_FACTOR = 2
_STEP_SHARE = 0.1
# Without a throughput the limit is lifted at so many times the rate at which the first refusal came.
_LIFTED_FACTOR = 2.0
# Where hardly anything was sent, that rate says nothing.
_LEAST_FULL_RATE = 10.0
# Tokens come one by one; so long is waited for some to send together.
_GATHER_SECONDS = 0.01


class Pacer:
    """Times are those of the event loop's clock, in seconds.

    Args:
        throughput: parts a second, 0: no limit.
        throttle_seconds: how long the first pause after a refusal is.

    rate: parts a second that may be sent at this time, 0: no limit. is_closed: whether nothing is sent but one message
    to see, since the last refusal.
    """

    def __init__(self, throughput: int, throttle_seconds: float, now: float) -> None:
        self._slowed_at = self._paused_until = 0.0
        self._stepped_at = self._counted_from = now
        self._sent_count = 0
        self._last_count_rate = 0.0
        self.change_settings(throughput, throttle_seconds, now)

    def change_settings(self, throughput: int, throttle_seconds: float, now: float) -> None:
        """Go on with others; see the class. What was learnt by refusals is forgotten."""
        self._throttle_seconds = throttle_seconds
        self.is_closed = self._is_probing = False
        self._pause_seconds = 0.0
        self._throughput = self.rate = self._full_rate = float(throughput)
        self._tokens = 1.0
        self._updated_at = now

    def count_available(self, now: float) -> int:
        """Return how many parts may be sent now."""
        if self.is_closed:
            return 0 if self._is_probing or now < self._paused_until else 1
        if self.rate:
            self._refill(now)
        return int(self._tokens) if self.rate else UNLIMITED

    def count_sent(self, now: float, parts: int = 1) -> None:
        """Take note of a PDU that was sent, with so many parts of a text."""
        self._is_probing = self.is_closed
        self._tokens -= parts
        self._sent_count += parts
        elapsed = now - self._counted_from
        if elapsed >= 1.0:
            self._last_count_rate = self._sent_count / elapsed
            self._sent_count = 0
            self._counted_from = now

    def record_answer(self, sent_at: float, now: float) -> None:
        """Take note that what was sent at `sent_at` was not refused for being too much."""
        if self.is_closed and sent_at > self._slowed_at:
            self.is_closed = False
            self._pause_seconds = 0.0
            self._stepped_at = self._updated_at = now
            self._tokens = 1.0

    def record_refusal(self, sent_at: float, now: float) -> None:
        """Slow down, unless that was sent before the last time that it was slowed down: it is of the same burst."""
        if sent_at <= self._slowed_at:
            return
        if not self.rate:
            self._full_rate = max(self._last_count_rate, float(self._sent_count), _LEAST_FULL_RATE)
            self.rate = self._full_rate
        if not self.is_closed:
            self.rate = max(self.rate / 2, 1.0)
        longest = self._throttle_seconds * _MAX_PAUSE_FACTOR
        self._pause_seconds = min(self._pause_seconds * 2, longest) or self._throttle_seconds
        self._slowed_at = now
        self._paused_until = now + self._pause_seconds
        self.is_closed = True
        self._is_probing = False

    def forget_probe(self) -> None:
        """What was sent to see will not be answered: another may be."""
        self._is_probing = False

    def get_wait(self, now: float) -> float | None:
        """Return after how many seconds more may be sent than now; None: time alone changes nothing."""
        if self.is_closed:
            return None if self._is_probing or now >= self._paused_until else self._paused_until - now
        if not self.rate or self._tokens >= self._get_burst():
            return None
        return max((1.0 - self._tokens) / self.rate, _GATHER_SECONDS)

    def _get_burst(self) -> float:
        return max(self.rate * _BURST_SECONDS, 1.0)

    def _refill(self, now: float) -> None:
        if self.rate != self._throughput:
            self._speed_up(now)
        self._tokens += (now - self._updated_at) * self.rate
        self._updated_at = now
        self._tokens = min(self._tokens, self._get_burst())

    def _speed_up(self, now: float) -> None:
        steps = int((now - self._stepped_at) / self._throttle_seconds)
        if not steps:
            return
        self._stepped_at += steps * self._throttle_seconds
        rate = self.rate + steps * max(self._full_rate * _STEP_SHARE, 1.0)
        if self._throughput:
            self.rate = min(rate, self._throughput)
        else:
            self.rate = rate if rate < self._full_rate * _LIFTED_FACTOR else 0.0
