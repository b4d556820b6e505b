"""The headers that every answer carries."""

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
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=(), clipboard-write=(self)",
}
# Browsers take these over https only; the second one they report on the console of every page that came otherwise.
_HTTPS_HEADERS = {
    "Strict-Transport-Security": "max-age=31536000",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def init_headers(app: Flask, config: Config) -> None:
    headers = _HEADERS | (_HTTPS_HEADERS if config.public_url.startswith("https://") else {})

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.extend(headers)
        # Credentials are on these pages: no cache, and nothing for the back button after a logout.
        if "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        if request.endpoint != "static_files.serve_static_file":
            response.headers.add("Vary", "HX-Request")
        return response
