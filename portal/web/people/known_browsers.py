"""Whether somebody has logged in with this browser before: a signed cookie of its own names the users."""

from typing import Any

from flask import Response, after_this_request, current_app, request
from itsdangerous import BadSignature, URLSafeTimedSerializer

from portal.services.people.users import User

_VALID_S = 365 * 86_400
# Of several people at one browser the latest are kept: a cookie must not grow.
_MAX_USERS = 20


def is_browser_known(user: User) -> bool:
    return user.id in _read_user_ids()


def remember_browser(user: User) -> None:
    """Have the answer to this request say that the user has logged in here."""
    user_ids = [user.id, *(each for each in _read_user_ids() if each != user.id)][:_MAX_USERS]

    @after_this_request
    def set_cookie(response: Response) -> Response:
        # As the session's cookie, but that it stays when the browser is closed.
        session_cookie: Any = current_app.session_interface
        response.set_cookie(
            _get_cookie_name(),
            _make_serializer().dumps(user_ids),
            max_age=_VALID_S,
            path=session_cookie.get_cookie_path(current_app),
            secure=session_cookie.get_cookie_secure(current_app),
            httponly=True,
            samesite=session_cookie.get_cookie_samesite(current_app),
        )
        return response


def _read_user_ids() -> list[int]:
    try:
        user_ids: list[int] = _make_serializer().loads(request.cookies.get(_get_cookie_name(), ""), _VALID_S)
    except BadSignature:
        return []
    return user_ids


def _get_cookie_name() -> str:
    return f"{current_app.config['SESSION_COOKIE_NAME']}_browser"


def _make_serializer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(str(current_app.secret_key), salt="known browsers")
