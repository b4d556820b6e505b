"""What a request works with: the settings, the keys, this thread's connection, and who acts."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

from flask import Flask, Response, after_this_request, current_app, g, request, url_for

from portal.core import db
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.i18n import current_language
from portal.core.wakeup import WakeupSender
from portal.services.common.audit import Actor
from portal.services.people.users import User
from portal.web.core import proxies

_EXTENSION_KEY = "smpp_portal"


@dataclass(frozen=True)
class PageLimits:
    """How long a page works before it shows what there is so far: threads are few, and messages may be millions.

    They are no settings: nobody has had a reason to change them but tests.
    """

    # Looking for messages.
    search_seconds: float = 1.0
    # Counting those that a deletion would remove.
    count_seconds: float = 1.0
    # Removing them; the rest is removed in the background.
    delete_seconds: float = 0.5
    # A deletion that took no longer gets no banner, because a toast has told its result.
    untold_deletion_ms: int = 3_000


DEFAULT_PAGE_LIMITS = PageLimits()


@dataclass
class _AppState:
    config: Config
    keys: Keys
    limits: PageLimits
    wakeup_sender: WakeupSender
    thread_local: threading.local = field(default_factory=threading.local)


def init_request_context(app: Flask, config: Config, keys: Keys, limits: PageLimits = DEFAULT_PAGE_LIMITS) -> None:
    """Give requests what they work with. Called again, the application works on another data folder: tests do so."""
    app.extensions[_EXTENSION_KEY] = _AppState(config, keys, limits, WakeupSender(config.data))


def _get_app_state() -> _AppState:
    state: _AppState = current_app.extensions[_EXTENSION_KEY]
    return state


def get_config() -> Config:
    return _get_app_state().config


def get_crypto_keys() -> Keys:
    return _get_app_state().keys


def get_limits() -> PageLimits:
    return _get_app_state().limits


def get_conn() -> db.Connection:
    """This thread's connection; the threads that make pages stay, so it is opened once."""
    state = _get_app_state()
    connection: db.Connection | None = getattr(state.thread_local, "conn", None)
    if connection is None:
        # At every commit, whatever it was about: a wakeup costs the SMPP server one row, a missing one leaves it out of
        # date.
        wake = state.wakeup_sender.send
        connection = state.thread_local.conn = db.connect(state.config.database_file, on_commit=wake)
    return connection


def open_stream_conn() -> db.Connection:
    """A connection for what is read while it is sent; it is closed with the answer.

    Any of the threads makes a piece of such an answer, while another request may be using its own connection.
    """
    conn = db.connect(_get_app_state().config.database_file)

    @after_this_request
    def close_with_answer(response: Response) -> Response:
        response.call_on_close(conn.close)
        return response

    return conn


def get_actor() -> Actor:
    """Who acts in this request, for the audit log and for the language of the mails that follow."""
    # Put there by `access`, before the view runs.
    user: User = g.user
    return Actor(user.email, get_client_address(), current_language())


def get_client_address() -> str:
    """Where the request comes from, through trusted proxies only."""
    return proxies.resolve_client_address(request.environ, get_config().trusted_proxy_networks)


def build_public_url(endpoint: str, **values: Any) -> str:
    """The address of a page for those who are not in this browser: in links that are sent, and for other servers."""
    # Where a proxy has told the path before ours, public_url has it, too.
    return get_config().public_url + url_for(endpoint, **values).removeprefix(request.script_root)


_ValueT = TypeVar("_ValueT")


def once_per_request(read: Callable[[], _ValueT]) -> Callable[[], _ValueT]:
    """Read something once a request, however often it is asked for."""
    name = f"{read.__module__}.{read.__qualname__}"

    @wraps(read)
    def read_once() -> _ValueT:
        if name not in g:
            setattr(g, name, read())
        value: _ValueT = getattr(g, name)
        return value

    return read_once
