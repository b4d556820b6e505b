"""Where messages go: what the SMPP server asks of whoever takes them on, and what these tell of them.

A kind of upstream is a package beside this module with a class that implements `UpstreamConnection`; `kinds` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from portal.services.messages.inbound import InboundItem
from portal.services.messages.message_parts import TextPart
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.receipt_matching import UpstreamReceipt
from portal.services.messages.validation import SubmittedMessage
from portal.services.upstreams.binds import BindState
from portal.smsc.storage.interface import UpstreamConfig

Resolve = Callable[[bool], None]
"""Takes whether something is on disk."""


class UpstreamConnection(Protocol):
    """What takes messages on to their destinations: one upstream. Runs on the event loop and never blocks it."""

    is_simulated: bool
    """Whether it sends nothing. After a restart it gets again all that it had, and nothing of it is unsure; what it has
    when it is removed waits again."""

    def start(self) -> None:
        """Connect, and stay so."""

    def change_config(self, config: UpstreamConfig) -> None:
        """Go on with other settings."""

    @property
    def is_connected(self) -> bool:
        """Whether it can take messages at all."""

    @property
    def room(self) -> int:
        """How many messages it takes at this moment. A text is one, however many parts it is cut into; once it is
        taken, each of these that waits or is under way takes up a place.
        """

    @property
    def awaits_answer(self) -> bool:
        """Whether it has sent anything that isn't answered."""

    @property
    def window(self) -> int:
        """How many messages may be under way at most."""

    @property
    def rate(self) -> float:
        """How many messages a second it takes at this time; 0: as many as there is room for."""

    def send_messages(self, messages: Sequence[SubmittedMessage]) -> None:
        """Take messages, which are on disk, `room` at most. What comes of each is told by `UpstreamEvents`."""

    def cancel_messages(self, message_ids: Sequence[int]) -> list[int]:
        """Send those of these no more with which that is still possible; returns their ids. Nothing is told of them."""

    def take_counters(self) -> Mapping[str, int]:
        """Return what was counted since the last call, by names of `counters.COUNTERS`."""

    async def close(self, seconds: float) -> None:
        """Take no more, wait for what is under way for so many seconds, and disconnect. What has no answer by then is
        told as lost, but for what a simulator has.
        """


class UpstreamEvents(Protocol):
    """What is told of one upstream, on the event loop. Nothing here raises."""

    def handle_accepted(
        self,
        message_id: int,
        upstream_message_id: str,
        bind: int,
        part: TextPart | None = None,
        *,
        is_complete: bool = True,
    ) -> None:
        """It has taken a message, or a part of one, under an id of its own ("" where it gave none).

        `is_complete`: whether nothing more of that message is under way, or was to be sent.
        """

    def handle_refused(
        self, message_id: int, status: str, ptt: int, part_statuses: Mapping[int, str] | None = None
    ) -> None:
        """It has refused a message for good; or parts of it, with this, by their numbers."""

    def handle_held(self, message_id: int, status: str) -> None:
        """It has refused a message for the moment."""

    def handle_throttled(self, message_id: int, status: str) -> None:
        """It has refused a message as too much at a time, which the connection tries again by itself."""

    def handle_interrupted(self, message_id: int) -> None:
        """A message can't be sent whole this time, and parts of it are still under way: nothing may pass it. It is told
        of again once they are not.
        """

    def handle_lost(self, unsure: Sequence[int], unsent: Sequence[int]) -> None:
        """These have no answer, and will have none: some may have arrived, the others certainly haven't."""

    def handle_outcomes(self, outcomes: Sequence[MessageOutcome]) -> None:
        """These have ended, without any receipt."""

    def handle_receipt(self, receipt: UpstreamReceipt, resolve: Resolve) -> None:
        """It says what became of a message."""

    def handle_inbound(self, message: InboundItem, resolve: Resolve) -> None:
        """It brings what a handset has sent."""

    def handle_delivery_refused(self, status: str) -> None:
        """What it has brought, a receipt or what a handset has sent, is not taken: it gets this answer."""

    def handle_room(self) -> None:
        """There may be more room than before, or less."""

    def handle_binds(self, states: Sequence[BindState]) -> None:
        """The state of a bind has changed; these are all of them."""
