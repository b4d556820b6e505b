"""A connection to a carrier, as the rest of the program sees it: what it is set to, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Protocol

from portal.services.upstreams import binds
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.settings import UpstreamSettings
from portal.smsc.protocol.pdu import DataSm, DeliverSm


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What one upstream is set to. Times are in seconds.

    bind: "trx" for transceivers, "tx+rx" for pairs of a transmitter and a receiver; `binds` is how many of either.
    window: submit_sm without an answer on each bind. throughput: parts a second over all binds, 0: no limit.
    second_host: is tried where the first cannot be reached, or ends a connection before it is bound; "": there is none.
    second_port: None: as the first's.
    tls_ca_file: PEM, instead of the certificates that the system trusts. tls_server_name: the name in the certificate
    and in SNI; "": the host. tls_certificate, tls_key, tls_minimum: as `tls_client.create_client_context` has them.
    reconnect_seconds: between two tries to bind, the first time; it grows to six times as long, thirty times where the
    bind is refused. throttle_seconds: after the first ESME_RTHROTTLED nothing is sent for so long; also that
    between two steps of speeding up. status_map: the upstream's setting, as text.
    """

    host: str
    port: int = 2775
    second_host: str = ""
    second_port: int | None = None
    system_id: str = ""
    password: str = field(default="", repr=False)
    system_type: str = ""
    interface_version: int = 0x34
    address_ton: int = 0
    address_npi: int = 0
    address_range: str = ""
    tls: bool = False
    tls_verify: bool = True
    tls_ca_file: str = ""
    tls_server_name: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_minimum: str = "1.2"
    bind: str = "trx"
    binds: int = 1
    window: int = 10
    throughput: int = 0
    connect_seconds: float = 10
    bind_seconds: float = 30
    response_seconds: float = 60
    enquire_link_seconds: float = 30
    reconnect_seconds: float = 10
    throttle_seconds: float = 1
    status_map: str = ""

    @property
    def hosts(self) -> list[tuple[str, int]]:
        """The hosts and their ports, in their order."""
        first = (self.host, self.port)
        return [first, (self.second_host, self.second_port or self.port)] if self.second_host else [first]

    def needs_other_connection(self, new: ClientSettings, host: tuple[str, int]) -> bool:
        """Whether a connection to `host` (one of `hosts`) that was made with these settings cannot go on with `new`."""
        return host not in new.hosts or any(getattr(self, each) != getattr(new, each) for each in _CONNECTION_SETTINGS)


def client_settings_from_upstream(settings: UpstreamSettings, password: str) -> ClientSettings:
    """Return what an upstream's settings, and its password, mean here."""
    names = [each.name for each in fields(ClientSettings) if each.name != "password"]
    return ClientSettings(password=password, **{name: getattr(settings, name) for name in names})


_CONNECTION_SETTINGS = (
    "system_id",
    "password",
    "system_type",
    "interface_version",
    "address_ton",
    "address_npi",
    "address_range",
    "tls",
    "tls_verify",
    "tls_ca_file",
    "tls_server_name",
    "tls_certificate",
    "tls_key",
    "tls_minimum",
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
    """What has happened since the start.

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
