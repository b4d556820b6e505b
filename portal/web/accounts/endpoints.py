"""Where SMPP clients connect to, as customers are shown it."""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import request

from portal.core.config import Smpp, bracketed
from portal.web.core import context


@dataclass(frozen=True, slots=True)
class Endpoints:
    """`host:port` of the TLS listener and of the other one; empty where it isn't listened on."""

    secured: str
    unsecured: str


def shown() -> Endpoints:
    return _endpoints(context.config().smpp, request.host)


@lru_cache
def _endpoints(smpp: Smpp, asked_at: str) -> Endpoints:
    host = bracketed(smpp.public_host or _reachable(smpp.host, asked_at))
    return Endpoints(
        secured=f"{host}:{smpp.tls_port}" if smpp.tls_port else "",
        unsecured=f"{host}:{smpp.port}" if smpp.port else "",
    )


def _reachable(host: str, asked_at: str) -> str:
    try:
        everywhere = ip_address(host).is_unspecified
    except ValueError:
        everywhere = not host
    # 0.0.0.0 and :: say "all addresses of this machine", and the browser knows one that leads here.
    return urlsplit(f"//{asked_at}").hostname or host if everywhere else host
