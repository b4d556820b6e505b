"""Whether an upstream is given messages: what its connection and its answers say, and when it is tried again."""

from portal.services.upstreams.health import FAILING, GOOD, TRYING

# Refusals of messages to so many numbers say something of the upstream, and not of a handset.
_MIN_NUMBERS = 3
# Whoever still refuses a message has done so within this time: twice the longest pause between two tries.
_ERROR_LASTS_SECONDS = 1200.0
_NOT_BOUND = "it is not bound"
_SILENT = "it answers nothing"
_REFUSING = "it answers nothing but"


class HealthTracker:
    """The state of one upstream, which is looked at again and again.

    It is FAILING once it has not been bound, has answered nothing, or has answered nothing but refusals of the moment,
    of messages to several numbers, for `failover_seconds`. Bound again, or after as long a time, it is TRYING: it gets
    one message, and more once that is answered. state, reason: as in `UpstreamHealth`. has_answered: whether it has
    accepted a message, or refused one for good, since the last look.
    """

    def __init__(self, now: float) -> None:
        self.state = GOOD
        self.reason = ""
        self.has_answered = False
        self._changed_at = now
        # The last numbers whose messages were refused, and when, the latest one last; those since the last look.
        self._errors: dict[str, float] = {}
        self._new_errors: set[str] = set()
        self._last_error = ""
        # Since when it isn't bound, is silent, refuses.
        self._since: dict[str, float] = {}

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
        has_unanswered: bool,
        awaits_answer: bool,
    ) -> bool:
        """Look at it at a moment (seconds, on the event loop's clock); returns whether its state has changed.

        Args:
            has_unanswered: whether it has any message that is not decided, also one that waits to be tried again.
            awaits_answer: whether it owes the answer to any that was sent.
        """
        old_state = self.state
        has_answered, self.has_answered = self.has_answered, False
        has_erred = bool(self._new_errors)
        self._note_errors(now, has_answered=has_answered)
        signs = {
            _NOT_BOUND: not is_connected,
            _SILENT: awaits_answer and not (has_answered or has_erred),
            _REFUSING: len(self._errors) == _MIN_NUMBERS,
        }
        self._since = {each: self._since.get(each, now) for each, is_so in signs.items() if is_so}
        lasting = [each for each, since in self._since.items() if now - since >= failover_seconds]
        is_over = now - self._changed_at >= failover_seconds
        if not is_connected:
            if self.state == TRYING or _NOT_BOUND in lasting:
                self._set(FAILING, now, _NOT_BOUND)
        elif has_answered:
            self._set(GOOD, now)
        elif _SILENT in lasting:
            self._set(FAILING, now, _SILENT)
        elif self.state == TRYING:
            if has_erred:
                self._set(FAILING, now, self._describe_errors())
            elif not has_unanswered and is_over:
                self._set(GOOD, now)  # there was nothing to try it with
        elif self.state == FAILING:
            if self.reason == _NOT_BOUND or is_over:
                self._errors = {}
                self._since.pop(_REFUSING, None)
                self._set(TRYING, now, self.reason)
        elif _REFUSING in lasting:
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
        return f"{_REFUSING} {self._last_error}"

    def _set(self, state: str, now: float, reason: str = "") -> None:
        if state != self.state:
            self._changed_at = now
        self.state, self.reason = state, reason
