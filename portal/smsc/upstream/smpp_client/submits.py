"""A message on its way to a carrier."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter

from portal.smsc.protocol.pdu import SubmitSm

Renew = Callable[[], SubmitSm | None]
"""Returns a message as it is to be sent by now; None where it has expired."""


@dataclass(slots=True, eq=False)
class Submit:
    """A message on its way.

    octets: the submit_sm, with any sequence number. order: counts up as messages are submitted. parts: what it counts
    as. renew: None where it stays as it is. is_retry: whether it was given back before. tries: how often it was refused
    for being too much; status: with what the last time, 0: never. sent_at: seconds of the event loop's clock.
    """

    message_id: int
    destination: str
    octets: bytes
    order: int
    parts: int
    renew: Renew | None
    is_retry: bool
    tries: int = 0
    status: int = 0
    sent_at: float = 0.0


get_order = attrgetter("order")
"""The key by which submits are sorted."""


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
