"""A connection to a carrier, as the rest of the program sees it: what it is set to, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from portal.services.upstreams import binds
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.settings import RULES, UpstreamSettings
from portal.smsc.protocol.pdu import DataSm, DeliverSm

Host = tuple[str, int]
"""A name or address, and a port."""


@dataclass(frozen=True, slots=True)
class ClientSettings(UpstreamSettings):
    """What one upstream is set to, with what isn't among its settings. Times are in seconds.

    name: for the log.
    """

    name: str = ""
    password: str = field(default="", repr=False)

    @property
    def hosts(self) -> list[Host]:
        """The hosts, in their order."""
        first = (self.host, self.port)
        return [first, (self.second_host, self.second_port or self.port)] if self.second_host else [first]

    def needs_other_connection(self, new: ClientSettings, host: Host) -> bool:
        """Whether a connection to `host` (one of `hosts`) that was made with these settings cannot go on with `new`."""
        return host not in new.hosts or any(getattr(self, each) != getattr(new, each) for each in _CONNECTION_SETTINGS)


def client_settings_from_upstream(settings: UpstreamSettings, name: str, password: str) -> ClientSettings:
    """Return what an upstream's settings, its name and its password mean here."""
    return ClientSettings(**{each: getattr(settings, each) for each in RULES}, name=name, password=password)


# TLS, and what the bind says.
_CONNECTION_SETTINGS = (
    "password",
    *(each for each in RULES if each.startswith("tls")),
    *(each for each, rule in RULES.items() if rule.group == "bind" and each not in ("bind", "binds", "bind_seconds")),
)


class BindStatus(StrEnum):
    """What one bind is doing. CONNECTING is the first time; REFUSED and UNBOUND ones are tried again and again."""

    CONNECTING = "connecting"
    BOUND = binds.BOUND
    REFUSED = binds.REFUSED
    UNBOUND = binds.UNBOUND
    CLOSED = "closed"


@dataclass(slots=True)
class ClientCounters:
    """What has happened since it was taken last.

    submitted: submit_sm sent, those that were sent again included, which `retried` counts. unknown_answers: responses
    to nothing that waits for one, late and double ones. answers_without_id: accepted messages whose receipt cannot be
    recognized. malformed: PDUs that are not SMPP 3.4.
    """

    submitted: int = 0
    throttled: int = 0
    retried: int = 0
    unknown_answers: int = 0
    answers_without_id: int = 0
    malformed: int = 0


Respond = Callable[[int], None]
"""Answers a deliver_sm or data_sm with this command_status. Only the first call does; none, once the connection has
ended."""


class ClientEvents(Protocol):
    """What is told of an upstream, on the event loop. May call back into the client, and must not raise."""

    def submit_answered(self, message_id: int, status: int, upstream_message_id: str, bind_number: int) -> None:
        """The upstream has decided: command_status 0, and its id for the message ("" where it gave none), or another.

        A status that means too much at a time (bind_number 0): it was tried often enough here, or something before it
        to the same destination was, or too much waits there. What only waited behind it is lost, unsent.
        """

    def submit_throttled(self, message_id: int, status: int) -> None:
        """The upstream has refused it with a command_status that means too much at a time. It is tried again, or told
        of once more, right after this.
        """

    def submits_lost(self, unsure: Sequence[int], unsent: Sequence[int]) -> None:
        """These will not be answered any more. Both lists are in the order in which they were submitted.

        unsure: sent, but not answered: the upstream may have them. unsent: certainly not taken by the upstream.
        """

    def deliver_received(self, message: DeliverSm | DataSm, respond: Respond) -> None:
        """A receipt, or a message from a handset. `respond` has to be called once it is stored, or cannot be."""

    def room_changed(self) -> None:
        """There is room, and may be more than before. Comes once a turn of the event loop at most."""

    def state_changed(self, bind: BindState) -> None:
        """A bind has another state, or another reason for it."""
