"""Where messages go: what the SMPP server asks of whoever takes them on to their destinations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.validation import SubmittedMessage

OutcomeCallback = Callable[[Sequence[MessageOutcome]], None]
"""Takes what became of messages."""
InboundCallback = Callable[[Sequence[MobileOriginatedMessage]], None]
"""Takes what handsets have sent."""


class Upstream(Protocol):
    """What takes messages on to their destinations. Runs on the event loop and never blocks it."""

    def send_messages(self, messages: Sequence[SubmittedMessage]) -> None:
        """Take messages, which are on disk. After a restart those without an outcome are given again."""

    def cancel_message(self, message_id: int) -> bool:
        """Send a message no more; returns whether that was still possible, after which nothing is reported of it."""

    def close(self) -> None:
        """Report nothing any more."""
