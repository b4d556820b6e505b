"""Where messages go: what the SMPP server asks of whoever takes them on.

A kind of upstream is a package beside this module with a class that implements `UpstreamConnection`, and tells an
`UpstreamChannel` what comes of it; `kinds` names it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from portal.services.messages.validation import SubmittedMessage
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
        """Take messages, which are on disk, `room` at most. What comes of each is told to the channel."""

    def cancel_messages(self, message_ids: Sequence[int]) -> list[int]:
        """Send those of these no more with which that is still possible; returns their ids. Nothing is told of them."""

    def take_counters(self) -> Mapping[str, int]:
        """Return what was counted since the last call, by names of `counters.COUNTERS`."""

    async def close(self, seconds: float) -> None:
        """Take no more, wait for what is under way for so many seconds, and disconnect. What has no answer by then is
        told as lost, but for what a simulator has.
        """
