"""Browsers in which somebody has logged in before: strangers' attempts and a flood of them keep these from nothing.

A signed cookie names the browser, and the people's e-mail addresses as digests, which tell nothing to whoever reads it.
With each stands a digest of their password's salt and authenticator: once one is another, who knew the old one is a
stranger again. Whoever logs in with another browser gets a mail.
"""

import hmac
import secrets
from typing import TYPE_CHECKING

from flask import Response, after_this_request, request, session
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.wrappers import Request

from portal.core import clock
from portal.core.clock import DAY_MS
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.people import authentication, unlock_links
from portal.services.people.login_limits import Visitor
from portal.web.core import context, headers

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# Browsers keep none for longer (RFC 6265bis, section 5.5).
_MAX_AGE_S = 400 * DAY_MS // 1000
_MAX_PEOPLE = 5
_EMAIL_DIGEST_BYTES = 16
_UNLOCKED_KEY = "unlocked"


def get_visitor(email: str) -> Visitor:
    """Who tries to log in with an e-mail address in this request."""
    browser = ""
    unlocked = session.get(_UNLOCKED_KEY)
    # First: the browser may be a known one, too, whose count a copy of its cookie has used up.
    if (
        unlocked
        and unlocked["email"] == _digest_email(email)
        and 0 <= clock.now_ms() - unlocked["at"] < unlock_links.UNLOCKED_MS
    ):
        browser = unlocked["browser"]
    elif is_known_to(email):
        browser = _read_own_cookie()[0]
    return Visitor(context.get_client_address(), browser)


def is_known_to(email: str) -> bool:
    """Whether somebody has logged in with this browser, and with what they use now; a lifted lock makes none of it."""
    return _digest_email(email) + digest_credentials(email) in _read_own_cookie()[1]


def find_browser(config: Config, keys: Keys, environ: "WSGIEnvironment") -> tuple[str, str]:
    """The browser that sends a request, and who has logged in with it last, by their ids; empty without the cookie."""
    name = get_cookie_name(config)
    # Asked for each request of a flood: most have none.
    if name not in environ.get("HTTP_COOKIE", ""):
        return "", ""
    browser, digests = _read_cookie(name, keys, Request(environ))
    return browser, digests[-1][: 2 * _EMAIL_DIGEST_BYTES] if digests else browser


def unlock_browser(email: str) -> None:
    """Make this browser a known one for a while, under a new id, which has counts of its own.

    It gets its cookie at once, by which a flood lets it pass.
    """
    browser, digests = _new_browser_id(), _read_own_cookie()[1]
    session[_UNLOCKED_KEY] = {"email": _digest_email(email), "browser": browser, "at": clock.now_ms()}
    _set_cookie(browser, digests)


def remember_browser(email: str) -> None:
    """Make this browser a known one, from the answer to this request on; where it is one, with new credentials."""
    browser, digests = _read_own_cookie()
    digest = _digest_email(email)
    others = [each for each in digests if not each.startswith(digest)]
    _set_cookie(browser or _new_browser_id(), [*others, digest + digest_credentials(email)][-_MAX_PEOPLE:])


def _new_browser_id() -> str:
    return secrets.token_hex(8)


def _set_cookie(browser: str, digests: list[str]) -> None:
    config, value = context.get_config(), _get_serializer(context.get_crypto_keys()).dumps([browser, digests])

    @after_this_request
    def set_cookie(response: Response) -> Response:
        response.set_cookie(
            get_cookie_name(config),
            value,
            max_age=_MAX_AGE_S,
            path=headers.get_cookie_path(config),
            secure=headers.is_https(config),
            httponly=True,
            samesite="Lax",
        )
        return response


def get_cookie_name(config: Config) -> str:
    return headers.name_cookie(config, "portal_browser")


def _read_own_cookie() -> tuple[str, list[str]]:
    return _read_cookie(get_cookie_name(context.get_config()), context.get_crypto_keys(), request)


def _read_cookie(name: str, keys: Keys, request: Request) -> tuple[str, list[str]]:
    """The browser's id, and the digests of those who have logged in; both empty where it has no cookie of ours."""
    try:
        browser, digests = _get_serializer(keys).loads(request.cookies.get(name, ""), max_age=_MAX_AGE_S)
    except BadSignature:
        return "", []
    return browser, digests


def _get_serializer(keys: Keys) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(keys.known_browser_key, salt="known browser")


def _digest_email(email: str) -> str:
    return _digest(email.strip().lower().encode(errors="surrogatepass"), _EMAIL_DIGEST_BYTES)


def digest_credentials(email: str) -> str:
    """What is another once a user's password or authenticator is, and tells nothing of them."""
    return _digest(b"credentials " + authentication.read_credentials(context.get_conn(), email), 8)


def _digest(data: bytes, length: int) -> str:
    return hmac.digest(context.get_crypto_keys().known_browser_key, data, "sha256")[:length].hex()
