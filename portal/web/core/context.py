"""What a request works with: the settings, the keys, this thread's connection, and who acts."""

import threading
from dataclasses import dataclass, field

from flask import Flask, current_app, g, request

from portal.core import db
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.i18n import current_language
from portal.core.wakeup import WakeupSender
from portal.services.common.audit import Actor
from portal.services.common.mail import Mailer
from portal.services.people.users import User
from portal.web.core import fragment_cache, proxies
from portal.web.core.fragment_cache import Drawings

_EXTENSION = "smpp_portal"


@dataclass
class _Context:
    config: Config
    keys: Keys
    mailer: Mailer | None
    wakeup_sender: WakeupSender
    local: threading.local = field(default_factory=threading.local)
    # A fragment has two kilobytes on average, a page fifteen.
    kept: Drawings = field(default_factory=lambda: Drawings(2000))
    pages: Drawings = field(default_factory=lambda: Drawings(200))

    def committed(self) -> None:
        # Every commit, whatever it was about: the SMPP server's look costs one row, a forgotten wakeup a wrong state.
        self.wakeup_sender.send()
        if self.mailer is not None:
            self.mailer.wake()


def attach(app: Flask, config: Config, keys: Keys, mailer: Mailer | None) -> None:
    context = app.extensions[_EXTENSION] = _Context(config, keys, mailer, WakeupSender(config.data))
    fragment_cache.attach(app, context.kept)


def _context() -> _Context:
    context: _Context = current_app.extensions[_EXTENSION]
    return context


def config() -> Config:
    return _context().config


def keys() -> Keys:
    return _context().keys


def conn() -> db.Connection:
    """This thread's connection; waitress keeps its threads, so it is opened once."""
    context = _context()
    connection: db.Connection | None = getattr(context.local, "conn", None)
    if connection is None:
        connection = context.local.conn = db.connect(context.config.database, on_commit=context.committed)
    return connection


def close() -> None:
    """Let go of this thread's connection and of the way to the SMPP server, when the application ends."""
    conn().close()
    _context().wakeup_sender.close()


def kept() -> Drawings:
    """The fragments that were drawn before."""
    return _context().kept


def kept_pages() -> Drawings:
    """The whole pages that were drawn a moment ago."""
    return _context().pages


def actor() -> Actor:
    """Who acts in this request, for the audit log and for the language of the mails that follow."""
    # Put there by `access`, before the view runs.
    user: User = g.user
    return Actor(user.email, client_address(), current_language())


def client_address() -> str:
    """Where the request comes from, through trusted proxies only."""
    return proxies.client_address(request.environ, config().proxies)
