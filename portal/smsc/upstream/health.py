"""Whether an upstream is given messages: what its connection and its answers say, and when it is tried again."""

from __future__ import annotations

from portal.services.upstreams.health import FAILING, GOOD, TRYING

# Refusals of messages to so many numbers say something of the upstream, and not of a handset.
_MIN_NUMBERS = 3
# Whoever still refuses a message has done so within this time: twice the longest pause between two tries.
_ERROR_LASTS_SECONDS = 1200.0
_NOT_BOUND = "it is not bound"
_SILENT = "it answers nothing"


class HealthTracker:
    """The state of one upstream, which is looked at again and again.

    It is FAILING once it has not been bound, has answered nothing, or has answered nothing but refusals of the moment,
    of messages to several numbers, for `failover_seconds`. Bound again, or after as long a time, it is TRYING: it gets
    one message, and more once that is answered. state, reason: as in `UpstreamHealth`.
    """

    def __init__(self, now: float, answers: int = 0) -> None:
        """Args: `answers`: how many `update` would be told of by now; they say nothing of what comes."""
        self.state = GOOD
        self.reason = ""
        self._answers = answers
        self._changed_at = now
        # The last numbers whose messages were refused, and when, the latest one last; those since the last look.
        self._errors: dict[str, float] = {}
        self._new_errors: set[str] = set()
        self._last_error = ""
        self._unbound_since: float | None = None
        self._silent_since: float | None = None
        self._refusing_since: float | None = None

    def note_error(self, destination: str, error: str) -> None:
        """It has refused a message to this number for the moment, or not answered it."""
        self._last_error = error
        if len(self._new_errors) < _MIN_NUMBERS:
            self._new_errors.add(destination)

    def update(
        self,
        now: float,
        failover_seconds: float,
        *,
        is_connected: bool,
        answers: int,
        has_unanswered: bool,
        awaits_answer: bool,
    ) -> bool:
        """Look at it at a moment (seconds, on the event loop's clock); returns whether its state has changed.

        Args:
            answers: how many messages it has accepted, or refused for good, since the start.
            has_unanswered: whether it has any message that is not decided, also one that waits to be tried again.
            awaits_answer: whether it owes the answer to any that was sent.
        """
        old_state = self.state
        has_answered, has_erred = answers > self._answers, bool(self._new_errors)
        self._answers = answers
        self._note_errors(now, has_answered=has_answered)
        is_silent = awaits_answer and not (has_answered or has_erred)
        is_refusing = len(self._errors) == _MIN_NUMBERS
        self._unbound_since = _note_since(self._unbound_since, now, is_so=not is_connected)
        self._silent_since = _note_since(self._silent_since, now, is_so=is_silent)
        self._refusing_since = _note_since(self._refusing_since, now, is_so=is_refusing)
        if not is_connected:
            if self.state == TRYING or _has_lasted(self._unbound_since, now, failover_seconds):
                self._set(FAILING, now, _NOT_BOUND)
        elif has_answered:
            self._set(GOOD, now)
        elif _has_lasted(self._silent_since, now, failover_seconds):
            self._set(FAILING, now, _SILENT)
        elif self.state == TRYING:
            if has_erred:
                self._set(FAILING, now, self._describe_errors())
            elif not has_unanswered and now - self._changed_at >= failover_seconds:
                self._set(GOOD, now)  # there was nothing to try it with
        elif self.state == FAILING:
            if self.reason == _NOT_BOUND or now - self._changed_at >= failover_seconds:
                self._errors, self._refusing_since = {}, None
                self._set(TRYING, now, self.reason)
        elif _has_lasted(self._refusing_since, now, failover_seconds):
            self._set(FAILING, now, self._describe_errors())
        return self.state != old_state

    def _note_errors(self, now: float, *, has_answered: bool) -> None:
        new, self._new_errors = self._new_errors, set()
        if has_answered:
            self._errors = {}
        elif new or self._errors:
            kept = [
                (destination, at)
                for destination, at in self._errors.items()
                if destination not in new and now - at < _ERROR_LASTS_SECONDS
            ]
            self._errors = dict([*kept, *((each, now) for each in new)][-_MIN_NUMBERS:])

    def _describe_errors(self) -> str:
        return f"it answers nothing but {self._last_error}"

    def _set(self, state: str, now: float, reason: str = "") -> None:
        if state != self.state:
            self._changed_at = now
        self.state, self.reason = state, reason


def _note_since(since: float | None, now: float, *, is_so: bool) -> float | None:
    """Since when something is so that was so since then (None: it wasn't), or is not."""
    return (now if since is None else since) if is_so else None


def _has_lasted(since: float | None, now: float, seconds: float) -> bool:
    return since is not None and now - since >= seconds
