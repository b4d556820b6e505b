"""Pages of an account that stay true while they are open.

Such a page is made of parts, and each part says what it follows. The open page asks in one small request, every two
seconds, and gets the parts whose ground has moved since it was drawn; mostly none has, and the answer is empty (204).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from portal.services import accounts, live
from portal.services.accounts import Account
from portal.services.live import Pulse
from portal.web import access, context, htmx, shell

blueprint = Blueprint("live", __name__)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a page.

    Args:
        template: draws it; with `oob` it names its own place. It holds nothing that is typed into: it is replaced.
        follows: what it shows; when that changes, it is drawn anew.
        values: the template's variables.
    """

    template: str
    follows: Callable[[Account, Pulse], object]
    values: Callable[[Account, Pulse], dict[str, Any]] = lambda account, pulse: {}


@dataclass(frozen=True, slots=True)
class Poll:
    """Which page asks, where, and how often."""

    page: str
    address: str
    every: str


# The server confirms a change within a few milliseconds: the page that waits for it looks more often.
_CALM, _EAGER = "2s", "500ms"

# Drawn anew after each change, even where the server was quick and it is OK again: an answer has said UPDATING_IP since.
_STATUS = Part("_account_status.html", lambda account, pulse: (account.status, pulse.settings))
_FIGURES = Part(
    "_account_figures.html",
    lambda account, pulse: (pulse.sessions, account.balance, [(a.status, a.balance) for a in access.own_accounts()]),
)
_pages: dict[str, tuple[Part, ...]] = {}


def register(page: str, *parts: Part) -> None:
    """Say what a page is made of, beside what the frame shows of the account.

    Args:
        page: its name; pages of account.html have the names of their tabs.
    """
    _pages[page] = (_STATUS, _FIGURES, *parts)


def show(template: str, page: str, account: Account, *, status: int = 200, **values: Any) -> ResponseReturnValue:
    """A whole page with all its parts.

    Args:
        values: further variables of the template, or other ones than the parts bring.
    """
    pulse = live.pulse(context.conn(), account.id)
    drawn: dict[str, Any] = {}
    for part in _pages[page]:
        drawn |= part.values(account, pulse)
    return htmx.page(
        template,
        status=status,
        account=account,
        sessions=pulse.sessions,
        tab=page,
        poll=_poll(page, account, _marks(page, account, pulse)),
        **(drawn | values),
    )


def values_of(page: str, account: Account, *templates: str) -> dict[str, Any]:
    """The variables of some parts, as things are after a change, for an answer that holds these alone."""
    account = accounts.by_name(context.conn(), account.name)
    pulse = live.pulse(context.conn(), account.id)
    values: dict[str, Any] = {"account": shell.account_view(account), "may_change": access.may_change()}
    for part in _pages[page]:
        if part.template in templates:
            values |= part.values(account, pulse)
    return values


@blueprint.get("/accounts/<name>/live")
@access.see_account
def poll(account: Account) -> ResponseReturnValue:
    """What has changed of a page since it was drawn, or 204.

    Query: `page`, `seen` (what the answer before said), and what the page's parts ask for (class `live-arg`).
    """
    page = request.args.get("page", "")
    if page not in _pages:
        abort(404)
    pulse = live.pulse(context.conn(), account.id)
    marks, seen = _marks(page, account, pulse), request.args.get("seen", "").split(".")
    if marks == seen:
        return "", 204
    seen += [""] * len(marks)
    changed = [part for part, mark, old in zip(_pages[page], marks, seen, strict=False) if mark != old]
    values = shell.frame(account, pulse.sessions)
    for part in changed:
        values |= part.values(account, pulse)
    return htmx.parts("_poll.html", *(part.template for part in changed), poll=_poll(page, account, marks), **values)


def _marks(page: str, account: Account, pulse: Pulse) -> list[str]:
    return [f"{crc32(repr(part.follows(account, pulse)).encode()):x}" for part in _pages[page]]


def _poll(page: str, account: Account, marks: Sequence[str]) -> Poll:
    address = url_for("live.poll", name=account.name, seen=".".join(marks))
    return Poll(page, address, _EAGER if account.status == accounts.UPDATING_IP else _CALM)
