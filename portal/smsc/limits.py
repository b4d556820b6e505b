"""The server's limits that are no settings: nobody has had a reason to change them but tests."""

from dataclasses import dataclass

from portal.services.messages.deliveries import EXPIRY_BATCH_SIZE


@dataclass(frozen=True)
class InternalLimits:
    """`failed_unbound_per_minute`: connections from one address that may end without a bind, a minute: each costs as
    much as some hundred messages. `deliver_response_seconds`: time for a client to answer a deliver_sm.
    `due_poll_seconds`: how often messages are looked for whose date has come. `expiry_batch_size`: deliveries given up
    in one transaction.
    """

    failed_unbound_per_minute: int = 600
    deliver_response_seconds: float = 60.0
    due_poll_seconds: float = 0.5
    expiry_batch_size: int = EXPIRY_BATCH_SIZE


DEFAULT_INTERNAL_LIMITS = InternalLimits()
