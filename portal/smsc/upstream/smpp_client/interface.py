"""A connection to a carrier: what it is set to, what its binds are doing, and what it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from portal.services.upstreams import binds
from portal.services.upstreams.settings import RULES, UpstreamSettings

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


# What the bind says, and TLS.
_CONNECTION_SETTINGS = (
    *"system_id password system_type interface_version address_ton address_npi address_range".split(),
    *"tls tls_verify tls_ca_file tls_server_name tls_certificate tls_key tls_minimum".split(),
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
