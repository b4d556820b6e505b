"""Headers that every answer carries, and where a request really comes from."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request, session
from flask_wtf.csrf import generate_csrf

from portal.core.config import Config

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Nothing is allowed but what is listed, and nothing listed is inline or of another host.
_CONTENT_SECURITY_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "manifest-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}

_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _CONTENT_SECURITY_POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Addresses of pages hold account names; flask-wtf wants the referrer of our own forms behind https.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=(), clipboard-write=(self)",
}
# Browsers take these over https only; the second one they report on the console of every page that came otherwise.
_HEADERS_OF_HTTPS = {
    "Strict-Transport-Security": "max-age=31536000",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def attach(app: Flask, config: Config) -> None:
    headers = dict(_HEADERS)
    if config.public_url.startswith("https://"):
        headers |= _HEADERS_OF_HTTPS

    @app.after_request
    def secure(response: Response) -> Response:
        # Credentials are on these pages: no cache, and nothing for the back button after a logout.
        if "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        if request.endpoint != "static":
            response.headers.add("Vary", "HX-Request")
        return response

    app.jinja_env.globals["csrf_token"] = csrf_token
    app.context_processor(lambda: {"csrf_token": csrf_token})
    secured = _WithHeaders(app.wsgi_app, list(headers.items()))
    app.wsgi_app = _Proxies(secured, config.proxies)  # type: ignore[method-assign]


def csrf_token() -> str:
    """The token of this session's forms.

    Flask-WTF signs it anew each time with the moment, which says nothing where tokens have no time limit; kept, the
    same page is the same text.
    """
    if "csrf_token" not in session:
        return str(generate_csrf())
    from portal.web.core import context

    return context.kept().get(("csrf_token", session["csrf_token"]), generate_csrf)


class _WithHeaders:
    """Adds headers to every answer, after Flask: its own way of adding them takes as long as two queries."""

    def __init__(self, inner: "WSGIApplication", headers: list[tuple[str, str]]) -> None:
        self._inner = inner
        self._headers = headers

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
            return start_response(status, headers + self._headers, *error)

        return self._inner(environ, start)


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
