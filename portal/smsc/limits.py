"""The SMPP server's limits that are no settings: nobody has had a reason to change them but tests."""

from dataclasses import dataclass

from portal.services.messages.deliveries import EXPIRY_BATCH_SIZE


@dataclass(frozen=True)
class ServerLimits:
    """Times are in seconds."""

    # Connections from one address that may end without a bind, before they are let in one by one: each costs as much as
    # some hundred messages.
    failed_unbound_per_minute: int = 600
    # Between two wrong binds that are looked at, with one system_id from one address; 0: none waits for that.
    wrong_bind_seconds: float = 1.0
    # For a client to answer a deliver_sm.
    deliver_response_seconds: float = 60.0
    # How long a session has been silent that is asked whether it is alive because a bind finds no place, and how long
    # its answer is waited for.
    probe_seconds: float = 2.0
    # How often messages are looked for whose date has come.
    due_poll_seconds: float = 0.5
    # Deliveries given up in one transaction.
    expiry_batch_size: int = EXPIRY_BATCH_SIZE


DEFAULT_SERVER_LIMITS = ServerLimits()
