"""Whether an upstream is given messages: what its connection and its answers say, and when it is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from portal.services.upstreams.health import FAILING, GOOD, TRYING

# So many refusals of the moment say something of the upstream, not of a message.
_MIN_ERRORS = 3
_NOT_BOUND = "it is not bound"
_SILENT = "it answers nothing"


@dataclass(slots=True)
class UpstreamSigns:
    """What can be seen of an upstream at a moment.

    answers: how many messages it has accepted, or refused for good, since the start. errors: how many it has refused
    for the moment, or not answered. last_error: the last of these. has_unanswered: whether it has any message that it
    has not answered.
    """

    is_connected: bool
    answers: int
    errors: int
    last_error: str
    has_unanswered: bool


class HealthTracker:
    """The state of one upstream, which is looked at again and again.

    It is FAILING once it has not been bound, has answered nothing, or has answered nothing but refusals of the moment,
    for `failover_seconds`. Bound again, or after as long a time, it is TRYING: it gets one message, and more once that
    is answered. state, reason: as in `UpstreamHealth`.
    """

    __slots__ = (
        "_changed_at",
        "_error_count",
        "_error_since",
        "_seen",
        "_silent_since",
        "_unbound_since",
        "reason",
        "state",
    )

    def __init__(self, now: float, answers: int = 0, errors: int = 0) -> None:
        """Args: `answers`, `errors`: what `UpstreamSigns` has counted so far, which says nothing of what comes."""
        self.state = GOOD
        self.reason = ""
        self._changed_at = now
        self._seen = UpstreamSigns(True, answers, errors, "", False)
        self._unbound_since: float | None = None
        self._silent_since: float | None = None
        self._error_since: float | None = None
        self._error_count = 0

    def update(self, now: float, signs: UpstreamSigns, failover_seconds: float) -> bool:
        """Look at it at a moment (seconds, on the event loop's clock); returns whether its state has changed."""
        old_state = self.state
        has_answered = signs.answers > self._seen.answers
        new_errors = signs.errors - self._seen.errors
        self._seen = signs
        self._note_times(now, signs, new_errors, has_answered=has_answered)
        if not signs.is_connected:
            if self.state == TRYING or self._has_lasted(self._unbound_since, now, failover_seconds):
                self._set(FAILING, now, _NOT_BOUND)
        elif has_answered:
            self._set(GOOD, now)
        elif self._has_lasted(self._silent_since, now, failover_seconds):
            self._set(FAILING, now, _SILENT)
        elif self.state == TRYING:
            if new_errors:
                self._set(FAILING, now, self._describe_errors())
            elif not signs.has_unanswered and now - self._changed_at >= failover_seconds:
                self._set(GOOD, now)  # there was nothing to try it with
        elif self.state == FAILING:
            if self.reason == _NOT_BOUND or now - self._changed_at >= failover_seconds:
                self._error_since, self._error_count = None, 0
                self._set(TRYING, now, self.reason)
        elif self._error_count >= _MIN_ERRORS and self._has_lasted(self._error_since, now, failover_seconds):
            self._set(FAILING, now, self._describe_errors())
        return self.state != old_state

    def _note_times(self, now: float, signs: UpstreamSigns, new_errors: int, *, has_answered: bool) -> None:
        if signs.is_connected:
            self._unbound_since = None
        elif self._unbound_since is None:
            self._unbound_since = now
        if has_answered or new_errors or not signs.has_unanswered:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        if has_answered:
            self._error_since, self._error_count = None, 0
        elif new_errors:
            self._error_count += new_errors
            if self._error_since is None:
                self._error_since = now

    @staticmethod
    def _has_lasted(since: float | None, now: float, seconds: float) -> bool:
        return since is not None and now - since >= seconds

    def _describe_errors(self) -> str:
        return f"it answers nothing but {self._seen.last_error}"

    def _set(self, state: str, now: float, reason: str = "") -> None:
        if state != self.state:
            self._changed_at = now
        self.state, self.reason = state, reason
