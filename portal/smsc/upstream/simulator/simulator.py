"""An upstream that sends nothing and makes up what came of it, with an id and a status as a real one's receipts have
them. One is built in, others are added by name.

What becomes of a message is chosen by the last three digits of its destination:

| ends in | after | outcome | ptt |
| --- | --- | --- | --- |
| 001 | 0.2 s | undeliverable | 800 |
| 002 | 0.2 s | expired | 801 |
| 003 | 0.2 s | rejected | 803 |
| 004 | 0.2 s | unknown | 804 |
| 005 | 30 s | delivered | 0 |
| 006 | never | stays pending | 254 |
| 007 | 0.2 s | deleted | 802 |
| 008 | 0.2 s | undeliverable: unreachable destination | 3 |
| 009 | 0.2 s | undeliverable: subscriber or credit related | 5 |
| 010 | 5 s | expired: timeout | 6 |
| 011 | 0.2 s | rejected: blacklisted (STOP) | 53 |
| anything else | 0.2 s | delivered | 0 |
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import NamedTuple

from portal.core.clock import now_ms
from portal.services.common.message_states import DELETED, DELIVERED, EXPIRED, REJECTED, UNDELIVERABLE, UNKNOWN
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.validation import SubmittedMessage
from portal.services.upstreams.load import UpstreamLoad
from portal.smsc.protocol.constants import format_receipt_status
from portal.smsc.storage.interface import UpstreamConfig

# Ids of its own begin with the time: none comes again after a restart, unless the clock is set back.
_ID_SHIFT = 8


class SimulatedOutcome(NamedTuple):
    """What becomes of a message (message_state, ptt), and after how many seconds."""

    delay: float
    state: int
    ptt: int


_DEFAULT_OUTCOME = SimulatedOutcome(0.2, DELIVERED, 0)
OUTCOMES_BY_SUFFIX: dict[str, SimulatedOutcome | None] = {
    "001": SimulatedOutcome(0.2, UNDELIVERABLE, 800),
    "002": SimulatedOutcome(0.2, EXPIRED, 801),
    "003": SimulatedOutcome(0.2, REJECTED, 803),
    "004": SimulatedOutcome(0.2, UNKNOWN, 804),
    "005": SimulatedOutcome(30, DELIVERED, 0),
    "006": None,
    "007": SimulatedOutcome(0.2, DELETED, 802),
    "008": SimulatedOutcome(0.2, UNDELIVERABLE, 3),
    "009": SimulatedOutcome(0.2, UNDELIVERABLE, 5),
    "010": SimulatedOutcome(5, EXPIRED, 6),
    "011": SimulatedOutcome(0.2, REJECTED, 53),
}


class Simulator:
    """Implements `UpstreamConnection`; `on_outcomes` gets the outcomes.

    `cancellable_ids`: the messages that stay on their way for long enough to be called back.
    """

    is_connected = True
    awaits_answer = False
    rate = 0.0
    room = window = 100_000
    """More than comes in a turn of the event loop; there is no limit."""

    def __init__(self, on_outcomes: Callable[[Sequence[MessageOutcome]], None]) -> None:
        self._on_outcomes = on_outcomes
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._upstream_ids = count(now_ms() << _ID_SHIFT)
        self.cancellable_ids: set[int] = set()
        self._counters: Counter[str] = Counter()

    def start(self) -> None:
        """It is always there."""

    def change_config(self, config: UpstreamConfig) -> None:
        """Nothing of it is set."""

    def take_counters(self) -> Mapping[str, int]:
        counted, self._counters = self._counters, Counter()
        return counted

    def measure(self) -> UpstreamLoad:
        return UpstreamLoad()

    def send_messages(self, messages: Sequence[SubmittedMessage]) -> None:
        self._counters["accepted"] += len(messages)
        # One timer for all of a batch that end alike, not one a message.
        ids_by_suffix: dict[str, list[int]] = defaultdict(list)
        for message in messages:
            suffix = message.destination[-3:]
            ids_by_suffix[suffix if suffix in OUTCOMES_BY_SUFFIX else ""].append(message.id)
        for suffix, message_ids in ids_by_suffix.items():
            if suffix:
                self.cancellable_ids.update(message_ids)
            outcome = OUTCOMES_BY_SUFFIX.get(suffix, _DEFAULT_OUTCOME)
            if outcome is not None:
                self._loop.call_later(outcome.delay, self._report_outcome, outcome, message_ids)

    def cancel_messages(self, message_ids: Sequence[int]) -> list[int]:
        cancelled_ids = [each for each in message_ids if each in self.cancellable_ids]
        self.cancellable_ids.difference_update(cancelled_ids)
        return cancelled_ids

    async def close(self, seconds: float) -> None:
        # It reports nothing any more.
        self._closed = True

    def _report_outcome(self, outcome: SimulatedOutcome, message_ids: Sequence[int]) -> None:
        if self._closed:
            return
        if outcome is not _DEFAULT_OUTCOME:
            message_ids = self.cancel_messages(message_ids)
        self._counters["delivered" if outcome.state == DELIVERED else "undelivered"] += len(message_ids)
        status, now = format_receipt_status(outcome.state, outcome.ptt), now_ms()
        self._on_outcomes(
            [
                MessageOutcome(message_id, outcome.state, outcome.ptt, now, f"{upstream_id:x}", status)
                for message_id, upstream_id in zip(message_ids, self._upstream_ids, strict=False)
            ]
        )
