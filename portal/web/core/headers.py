"""The headers that every answer carries, and what cookies are called."""

from http import HTTPStatus
from urllib.parse import urlsplit

from flask import Flask, Response, request

from portal.core.config import Config

# Nothing is allowed but what is listed, and nothing listed is inline or of another host.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
    " connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Addresses of pages hold account names; flask-wtf wants the referrer of our own forms behind https.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Credentials are on these pages: no cache, and nothing for the back button after a logout.
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=(), clipboard-write=(self)",
}
# Browsers take these over https only; the second one they report on the console of every page that came otherwise.
_HTTPS_HEADERS = {
    "Strict-Transport-Security": "max-age=31536000",  # a year (ASVS 3.4.1)
    "Cross-Origin-Opener-Policy": "same-origin",
}

# What is too busy now, is not for long.
RETRY_AFTER_S = 5


def list_headers(config: Config) -> dict[str, str]:
    """What every answer carries that has no other value of its own."""
    headers = _HEADERS | (_HTTPS_HEADERS if is_https(config) else {})
    if "Strict-Transport-Security" in headers and config.web.hsts_subdomains == "on":
        headers["Strict-Transport-Security"] += "; includeSubDomains"
    return headers


def init_headers(app: Flask, config: Config) -> None:
    headers = list_headers(config)

    @app.after_request
    def add_headers(response: Response) -> Response:
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        if request.endpoint != "static_files.serve_static_file":
            response.headers.add("Vary", "HX-Request")
        return response


def is_https(config: Config) -> bool:
    """Whether browsers reach the portal by https."""
    return config.public_url.startswith("https://")


def get_cookie_path(config: Config) -> str:
    """The path under which the portal stands, which its cookies are sent to alone."""
    return urlsplit(config.public_url).path or "/"


def name_cookie(config: Config, name: str) -> str:
    """Name a cookie so that browsers take it from https alone, and from this host alone where the portal has it alone.

    Otherwise a page over plain http, or another host of the domain, could plant one (RFC 6265bis, 4.1.3; ASVS 3.3.1,
    3.3.3). On https it has to be `Secure`; it has the path of `get_cookie_path`, and no domain.
    """
    if not is_https(config):
        return name
    return f"__Host-{name}" if get_cookie_path(config) == "/" else f"__Secure-{name}"
