"""A message on its way to a carrier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from portal.smsc.protocol.pdu import SubmitSm


class Submit:
    """A message on its way.

    octets: the submit_sm, with any sequence number. renew: returns it as it is to be sent by now, or None where it has
    expired; where there is no such function it stays as it is. order: counts up as messages are submitted. tries: how
    often it was refused for being too much; status: with what the last time, 0: never. is_retry: whether it was given
    back before. sent_at: seconds of the event loop's clock. parts: what it counts as.
    """

    __slots__ = (
        "destination",
        "is_retry",
        "message_id",
        "octets",
        "order",
        "parts",
        "renew",
        "sent_at",
        "status",
        "tries",
    )

    def __init__(
        self,
        message_id: int,
        destination: str,
        octets: bytes,
        order: int,
        parts: int = 1,
        renew: Callable[[], SubmitSm | None] | None = None,
        is_retry: bool = False,
    ) -> None:
        self.message_id = message_id
        self.destination = destination
        self.octets = octets
        self.renew = renew
        self.order = order
        self.parts = parts
        self.is_retry = is_retry
        self.tries = 0
        self.status = 0
        self.sent_at = 0.0


def get_order(submit: Submit) -> int:
    """The key by which submits are sorted."""
    return submit.order


def renew_octets(submit: Submit) -> bool:
    """Encode anew what had to wait: how long it is still valid has changed. Returns whether it is to be sent at all."""
    if submit.renew is None:
        return True
    # Other settings may have no room for its addresses any more: then it goes as it could be written before.
    with suppress(ValueError, LookupError, OverflowError):
        message = submit.renew()
        if message is None:
            return False
        submit.octets = message.encode()
    return True


def list_ids(submits: Iterable[Submit]) -> list[int]:
    """The ids of messages, in the order in which they were submitted."""
    return [each.message_id for each in sorted(submits, key=get_order)]
