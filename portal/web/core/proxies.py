"""Where a request really comes from: what proxies say, as far as they are trusted."""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING

from flask import Flask

from portal.core.config import Config
from portal.services.accounts.allowed_ips import IPAddress, unmap_ipv4

# Nothing that a browser takes for another host.
_PREFIX_PATTERN = re.compile(r"(/[A-Za-z0-9._~-]+)+")

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def init_proxies(app: Flask, config: Config) -> None:
    """Believe X-Forwarded-Proto, -Host and -Prefix of trusted proxies, and of nobody else.

    flask-wtf compares referrers; the prefix is what such a proxy has taken from the path.
    """
    wsgi_app, proxies = app.wsgi_app, config.trusted_proxy_networks

    def run_with_forwarded(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if proxies and _is_in_networks(environ.get("REMOTE_ADDR", ""), proxies):
            scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").split(",")[-1].strip()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
            host = environ.get("HTTP_X_FORWARDED_HOST", "").split(",")[-1].strip()
            if host:
                environ["HTTP_HOST"] = host
            prefix = environ.get("HTTP_X_FORWARDED_PREFIX", "").strip().rstrip("/")
            if _PREFIX_PATTERN.fullmatch(prefix):
                environ["SCRIPT_NAME"] = prefix
        return wsgi_app(environ, start_response)

    app.wsgi_app = run_with_forwarded  # type: ignore[method-assign]


def resolve_client_address(environ: "WSGIEnvironment", proxies: Sequence[IPv4Network | IPv6Network]) -> str:
    """The nearest address that isn't a trusted proxy's. An IPv4 address that is mapped into IPv6 comes as IPv4.

    X-Forwarded-For grows to the right, and only what a trusted proxy has added is true: so it is read from the right.
    """
    address = environ.get("REMOTE_ADDR", "")
    forwarded = [each.strip() for each in environ.get("HTTP_X_FORWARDED_FOR", "").split(",") if each.strip()]
    while forwarded and _is_in_networks(address, proxies):
        previous_hop = forwarded.pop()
        if not _parse_address(previous_hop):
            break
        address = previous_hop
    # A Unix socket in front of us tells no address, and nothing is allowed to this one.
    return str(_parse_address(address) or "0.0.0.0")


def _is_in_networks(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    parsed = _parse_address(address)
    return parsed is not None and any(parsed in each for each in networks)


def _parse_address(text: str) -> IPAddress | None:
    try:
        return unmap_ipv4(ip_address(text))
    except ValueError:
        return None
