"""The upstream that is built in: it sends nothing and makes up what came of it, with an id and a status as a real one's
receipts have them.

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

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from portal.core.clock import now_ms
from portal.services.common.message_states import DELETED, DELIVERED, EXPIRED, REJECTED, UNDELIVERABLE, UNKNOWN
from portal.services.messages.inbound import FromHandset
from portal.services.messages.outcomes import Outcome
from portal.services.messages.validation import ToSend
from portal.smsc.protocol.constants import in_receipt
from portal.smsc.upstream.interface import Receive, Report

# Ids of its own begin with the time: none comes again after a restart, unless the clock is set back.
_ID_SHIFT = 8


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a message (message_state, ptt), and after how many seconds."""

    delay: float
    state: int
    ptt: int


_USUAL = Fate(0.2, DELIVERED, 0)
_PENDING = None
FATES: dict[str, Fate | None] = {
    "001": Fate(0.2, UNDELIVERABLE, 800),
    "002": Fate(0.2, EXPIRED, 801),
    "003": Fate(0.2, REJECTED, 803),
    "004": Fate(0.2, UNKNOWN, 804),
    "005": Fate(30, DELIVERED, 0),
    "006": _PENDING,
    "007": Fate(0.2, DELETED, 802),
    "008": Fate(0.2, UNDELIVERABLE, 3),
    "009": Fate(0.2, UNDELIVERABLE, 5),
    "010": Fate(5, EXPIRED, 6),
    "011": Fate(0.2, REJECTED, 53),
}


class Simulator:
    """The built-in `Upstream`; `report` gets the outcomes, `receive` what handsets are said to have sent."""

    def __init__(self, report: Report, receive: Receive, loop: asyncio.AbstractEventLoop) -> None:
        self._report = report
        self._receive = receive
        self._loop = loop
        self._closed = False
        self._ids = count(now_ms() << _ID_SHIFT)
        # Those that stay on their way for long enough to be called back.
        self._slow: set[int] = set()

    def send(self, messages: Sequence[ToSend]) -> None:
        # One timer for all of a batch that end at the same time, not one a message.
        by_delay: dict[float, list[tuple[int, Fate]]] = defaultdict(list)
        for message in messages:
            fate = FATES.get(message.destination[-3:], _USUAL)
            if fate is not _USUAL:
                self._slow.add(message.id)
            if fate is not None:
                by_delay[fate.delay].append((message.id, fate))
        for delay, ending in by_delay.items():
            self._loop.call_later(delay, self._end, ending)

    def recall(self, message_id: int) -> bool:
        if message_id not in self._slow:
            return False
        self._slow.remove(message_id)
        return True

    def receive(self, messages: Sequence[FromHandset]) -> None:
        """Take messages for sent by handsets."""
        self._receive(messages)

    def close(self) -> None:
        self._closed = True

    def _end(self, ending: list[tuple[int, Fate]]) -> None:
        if self._closed:
            return
        now = now_ms()
        ended = [(message_id, fate) for message_id, fate in ending if fate is _USUAL or message_id in self._slow]
        self._slow.difference_update([message_id for message_id, _ in ended])
        self._report(
            [
                Outcome(message_id, fate.state, fate.ptt, now, f"{own_id:x}", in_receipt(fate.state, fate.ptt))
                for (message_id, fate), own_id in zip(ended, self._ids, strict=False)
            ]
        )
