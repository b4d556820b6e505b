"""The headers that every answer carries."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request

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
_HTTPS_HEADERS = {
    "Strict-Transport-Security": "max-age=31536000",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def init_headers(app: Flask, config: Config) -> None:
    headers = dict(_HEADERS)
    if config.public_url.startswith("https://"):
        headers |= _HTTPS_HEADERS

    @app.after_request
    def add_cache_headers(response: Response) -> Response:
        # Credentials are on these pages: no cache, and nothing for the back button after a logout.
        if "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        if request.endpoint != "static":
            response.headers.add("Vary", "HX-Request")
        return response

    app.wsgi_app = _HeadersMiddleware(app.wsgi_app, list(headers.items()))  # type: ignore[method-assign]


class _HeadersMiddleware:
    """Adds headers to every answer, after Flask: its own way of adding them takes as long as two queries."""

    def __init__(self, wsgi_app: "WSGIApplication", headers: list[tuple[str, str]]) -> None:
        self._wsgi_app = wsgi_app
        self._headers = headers

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
            return start_response(status, headers + self._headers, *error)

        return self._wsgi_app(environ, start)
