"""Where a request really comes from: what proxies say, as far as they are trusted."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from flask import Flask

from portal.core.config import Config

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def attach(app: Flask, config: Config) -> None:
    app.wsgi_app = _Proxies(app.wsgi_app, config.proxies)  # type: ignore[method-assign]


class _Proxies:
    """Believes X-Forwarded-Proto and -Host from trusted proxies, and from nobody else: flask-wtf compares referrers."""

    def __init__(self, inner: "WSGIApplication", proxies: Sequence[IPv4Network | IPv6Network]) -> None:
        self._inner = inner
        self._proxies = proxies

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if self._proxies and _is_within(environ.get("REMOTE_ADDR", ""), self._proxies):
            scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").split(",")[-1].strip()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
            host = environ.get("HTTP_X_FORWARDED_HOST", "").split(",")[-1].strip()
            if host:
                environ["HTTP_HOST"] = host
        return self._inner(environ, start_response)


def client_address(environ: "WSGIEnvironment", proxies: Sequence[IPv4Network | IPv6Network]) -> str:
    """The nearest address that isn't a trusted proxy's. An IPv4 address that is mapped into IPv6 comes as IPv4.

    X-Forwarded-For grows to the right, and only what a trusted proxy has added is true: so it is read from the right.
    """
    return _nearest(environ.get("REMOTE_ADDR", ""), environ.get("HTTP_X_FORWARDED_FOR", ""), tuple(proxies))


@lru_cache(maxsize=1024)
def _nearest(address: str, forwarded_for: str, proxies: tuple[IPv4Network | IPv6Network, ...]) -> str:
    claimed = [each.strip() for each in forwarded_for.split(",") if each.strip()]
    while claimed and proxies and _is_within(address, proxies):
        following = claimed.pop()
        if not _is_address(following):
            break
        address = following
    return _unmapped(address)


def _is_within(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    if not _is_address(address):
        return False
    parsed = ip_address(_unmapped(address))
    return any(parsed.version == each.version and parsed in each for each in networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _unmapped(address: str) -> str:
    if not _is_address(address):
        return "0.0.0.0"  # a Unix socket in front of us tells no address, and nothing is allowed to this one
    parsed = ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return str(mapped or parsed)
