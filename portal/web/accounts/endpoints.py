"""The addresses that SMPP clients connect to, as they are shown to customers."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import request

from portal.core.config import bracket_ipv6
from portal.web.core import context


@dataclass(frozen=True, slots=True)
class SmppEndpoints:
    """`host:port` of the listener with TLS and of the one without; empty where that listener is off.

    `tls_minimum`: the oldest version of TLS that is spoken.
    """

    secured: str
    unsecured: str
    tls_minimum: str


def get_smpp_endpoints() -> SmppEndpoints:
    smpp = context.get_config().smpp
    host = bracket_ipv6(smpp.public_host or _reachable_host(smpp.host))
    return SmppEndpoints(
        secured=f"{host}:{smpp.tls_port}" if smpp.tls_port else "",
        unsecured=f"{host}:{smpp.port}" if smpp.port else "",
        tls_minimum=smpp.tls_minimum,
    )


def _reachable_host(host: str) -> str:
    try:
        is_wildcard = ip_address(host).is_unspecified
    except ValueError:
        is_wildcard = not host
    # 0.0.0.0 and :: mean all addresses of this machine; the browser has used one that works.
    return urlsplit(f"//{request.host}").hostname or host if is_wildcard else host
