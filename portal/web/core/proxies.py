"""Where a request really comes from: what proxies say, as far as they are trusted."""

import logging
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Flask

from portal.core.config import Config
from portal.services.accounts.allowed_ips import IPAddress, unmap_ipv4

_log = logging.getLogger(__name__)

# Nothing that a browser takes for another host.
_PREFIX_PATTERN = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_HOP_PATTERN = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+")
# Beginnings of what proxies add: RFC 7239, RFC 9110 (7.6.3), what was in use before, and what some have of their own.
_FORWARDING_HEADERS = (
    "HTTP_FORWARDED",
    "HTTP_VIA",
    "HTTP_X_FORWARDED",
    "HTTP_X_REAL_IP",
    "HTTP_CF_CONNECTING_IP",
    "HTTP_TRUE_CLIENT_IP",
    "HTTP_X_CLIENT_IP",
    "HTTP_X_ORIGINAL_FORWARDED",
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def init_proxies(app: Flask, config: Config) -> None:
    """Believe X-Forwarded-Proto and -Prefix of trusted proxies, and of nobody else.

    flask-wtf compares referrers; the prefix is what such a proxy has taken from the path. The host behind a proxy is
    `public_url`'s: many pass on what a client has sent as X-Forwarded-Host.
    """
    wsgi_app, proxies = app.wsgi_app, config.trusted_proxy_networks
    # As browsers write it.
    public_host = urlsplit(config.web.public_url).netloc.lower().encode("idna").decode()

    def run_with_forwarded(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if _is_in_networks(_parse_address(environ.get("REMOTE_ADDR", "")), proxies):
            scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").split(",")[-1].strip()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
            if public_host:
                environ["HTTP_HOST"] = public_host
            prefix = environ.get("HTTP_X_FORWARDED_PREFIX", "").strip().rstrip("/")
            if _PREFIX_PATTERN.fullmatch(prefix):
                environ["SCRIPT_NAME"] = prefix
        return wsgi_app(environ, start_response)

    app.wsgi_app = run_with_forwarded  # type: ignore[method-assign]


def resolve_client_address(environ: "WSGIEnvironment", proxies: Sequence[IPv4Network | IPv6Network]) -> str:
    """The nearest address that isn't a trusted proxy's. An IPv4 address that is mapped into IPv6 comes as IPv4.

    X-Forwarded-For grows to the right, and only what a trusted proxy has added is true: so it is read from the right.
    Where a trusted proxy names nobody who can be read there, or names them in other headers only, it is 0.0.0.0, to
    which nothing is allowed, and the log says so.
    """
    peer = address = _parse_address(environ.get("REMOTE_ADDR", ""))
    hops = environ["HTTP_X_FORWARDED_FOR"].split(",") if "HTTP_X_FORWARDED_FOR" in environ else []
    if not hops and _is_forwarded(environ):
        hops = [""]
    while hops and _is_in_networks(address, proxies):
        address = _parse_hop(hops.pop().strip())
    if peer and address is None:
        _warn_once("The proxy at %s says in no X-Forwarded-For whom it asks for; they all share one limit.", peer)
    # A Unix socket in front of us tells no address, either.
    return str(address or "0.0.0.0")


def is_from_this_machine(environ: "WSGIEnvironment", proxies: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether a program of this machine asks, and no proxy, trusted or not: nobody knows for whom that does."""
    peer = _parse_address(environ.get("REMOTE_ADDR", ""))
    if peer is None or not peer.is_loopback or _is_in_networks(peer, proxies):
        return False
    if _is_forwarded(environ):
        _warn_once("There is a proxy at %s that isn't in [web] trusted_proxies; all its clients share one limit.", peer)
        return False
    return True


def _is_forwarded(environ: "WSGIEnvironment") -> bool:
    return any(name.startswith(_FORWARDING_HEADERS) for name in environ)


@lru_cache(maxsize=100)
def _warn_once(sentence: str, peer: IPAddress) -> None:
    _log.warning(sentence, peer)


def _is_in_networks(address: IPAddress | None, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return address is not None and any(address in each for each in networks)


def _parse_hop(text: str) -> IPAddress | None:
    """An address as proxies write it: IPv6 may have brackets, and in them, or behind IPv4, a port may follow.

    None has a zone (RFC 4007, section 11), which may be any text: it would stand in the log.
    """
    if "%" in text:
        return None
    match = _HOP_PATTERN.fullmatch(text)
    return _parse_address(match[1] or match[2]) if match else _parse_address(text)


def _parse_address(text: str) -> IPAddress | None:
    try:
        return unmap_ipv4(ip_address(text))
    except ValueError:
        return None
