"""Pages of an account that stay true while they are open.

Such a page is made of parts, and each part says what it follows. The open page asks in one small request, every two
seconds, and gets the parts whose ground has moved since it was drawn; mostly none has, and the answer is empty (204).
For the same reason a part that has been drawn is kept, and asks the database nothing while its ground stays.
"""

import gzip
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from flask import Blueprint, Response, abort, make_response, render_template, request
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from portal.core import clock, i18n
from portal.services.accounts import accounts, change_counters
from portal.services.accounts.accounts import Account
from portal.services.accounts.change_counters import Pulse
from portal.services.credits import forecast
from portal.web.core import access, context, csrf, htmx, layout

blueprint = Blueprint("live", __name__)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a page.

    Args:
        template: draws it; with `oob` it names its own place. It holds nothing that is typed into, for it is replaced,
            and nothing that belongs to one login, such as a form's token.
        follows: all that it shows of the account's and the request's; when that changes, it is drawn anew.
        values: the template's variables, beside `account` and `may_change`.
        ages: it says how long ago something was, and so is drawn anew once a minute.
        still: whether the open page, as this request's query tells it, keeps it as it was drawn.
        asks: what it takes from the page's query, and gives back to the page in hidden fields of the class `live-arg`.
    """

    template: str
    follows: Callable[[Account, Pulse], Hashable]
    values: Callable[[Account, Pulse], dict[str, Any]] = lambda account, pulse: {}
    ages: bool = False
    still: Callable[[], bool] = lambda: False
    asks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Poll:
    """Which page asks, what it was drawn with, and how often."""

    page: str
    seen: str
    every: str


# The server confirms a change within a few milliseconds: the page that waits for it looks more often.
_CALM, _EAGER = "2s", "500ms"
_MINUTE_MS = 60_000
# A page that is loaded says "5 seconds ago" and means it, give or take these.
_FRESH_MS = 5_000

# Drawn anew after each change, even where the server was quick and it is OK again: an answer has said UPDATING_IP.
STATUS = Part("_account_status.html", lambda account, pulse: (account.status, pulse.settings))
_FIGURES = Part(
    "_account_figures.html",
    lambda account, pulse: (
        pulse.sessions,
        account.balance,
        tuple((a.status, a.balance) for a in access.own_accounts()),
    ),
    lambda account, pulse: layout.frame(account, pulse.sessions),
)


def _shortage(account: Account, pulse: Pulse) -> dict[str, Any]:
    kind = forecast.shortage(context.conn(), account, pulse.latest_message)
    return {"kind": kind, "threshold": account.alert_below}


def _shortage_ground(account: Account, pulse: Pulse) -> Hashable:
    # A low balance moves with each message, and the banner doesn't say it.
    found = _shortage(account, pulse)
    return *found.values(), account.balance if found["kind"] == forecast.REFUSED else None


# Over each page, when credits have run short.
_BANNER = Part("credits/_banner.html", _shortage_ground, _shortage)
_pages: dict[str, tuple[Part, ...]] = {}
_tabs: dict[str, str] = {}


def register(page: str, *parts: Part, tab: str = "") -> None:
    """Say what a page is made of, beside what the frame shows of the account.

    Args:
        page: its name; pages of account.html have the names of their tabs.
        tab: the one that such a page is under, where it isn't its own.
    """
    _pages[page] = parts
    if tab:
        _tabs[page] = tab


def show(template: str, page: str, account: Account, *, status: int = 200, **values: Any) -> ResponseReturnValue:
    """A whole page. Its templates find its parts, drawn, as `parts["area/_part.html"]`.

    Args:
        values: further variables of the templates, such as a form.
    """
    pulse = change_counters.pulse(context.conn(), account.id)

    def drawn() -> str:
        return htmx.drawn_page(
            template,
            account=account,
            sessions=pulse.sessions,
            tab=_tabs.get(page, page),
            poll=_poll(page, account, pulse),
            parts={each.template: _draw(each, account, pulse) for each in (_BANNER, *_pages[page])},
            **values,
        )

    if values or htmx.toasts_wait():
        return drawn(), status
    # Without those a page is the same text again when it is loaded again and nothing has happened.
    depends = (
        template,
        access.user(),
        csrf.csrf_token(),
        i18n.current_language(),
        request.full_path,
        request.host,
        context.client_address(),
        account,
        tuple(access.own_accounts()),
        pulse,
        clock.now_ms() // _FRESH_MS,
    )
    return context.kept_pages().get(depends, drawn), status


def draw(account: Account, *parts: Part, oob: bool = False) -> dict[str, Markup]:
    """Some parts by the names of their templates, as things are after a change."""
    account = accounts.by_name(context.conn(), account.name)
    pulse = change_counters.pulse(context.conn(), account.id)
    return {each.template: _draw(each, account, pulse, oob=oob) for each in parts}


@blueprint.get("/accounts/<name>/live")
@access.see_account
def poll(account: Account) -> ResponseReturnValue:
    """What has changed of a page since it was drawn, or 204.

    Query: `page`, `seen` (what the answer before said), and what the page's parts ask for.
    """
    page = request.args.get("page", "")
    if page not in _pages:
        abort(404)
    pulse = change_counters.pulse(context.conn(), account.id)
    marks, seen = _marks(page, account, pulse), request.args.get("seen", "").split(".")
    if marks == seen:
        return "", 204
    seen += [""] * len(marks)
    changed = [part for part, mark, old in zip(_all(page), marks, seen, strict=False) if mark != old]
    drawn = [_draw(part, account, pulse, oob=True) for part in changed]
    poll = _poll(page, account, pulse)
    answer = htmx.parts("_poll.html", *drawn, poll=poll, account=layout.account_view(account))
    return _compressed(make_response(answer))


def _compressed(answer: Response) -> Response:
    # A list that changes each time makes these by far the most of what is sent, and one line of it is like the next.
    # Parts hold no secret, so their length can tell none (BREACH).
    answer.vary.add("Accept-Encoding")
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        answer.data = gzip.compress(answer.data, 4, mtime=0)
        answer.headers["Content-Encoding"] = "gzip"
    return answer


def _draw(part: Part, account: Account, pulse: Pulse, *, oob: bool = False) -> Markup:
    depends = (
        part.template,
        oob,
        account.id,
        i18n.current_language(),
        access.may_change(),
        access.may_read(),
        tuple(request.args.get(each) for each in part.asks),
        part.follows(account, pulse),
        clock.now_ms() // _FRESH_MS if part.ages else 0,
    )

    def drawn() -> str:
        frame = {"account": layout.account_view(account), "may_change": access.may_change()}
        return render_template(part.template, oob=oob, **(frame | part.values(account, pulse)))

    return context.kept().get(depends, drawn)


def _all(page: str) -> tuple[Part, ...]:
    return (STATUS, _FIGURES, _BANNER, *_pages[page])


def _marks(page: str, account: Account, pulse: Pulse) -> list[str]:
    minute, may_read = clock.now_ms() // _MINUTE_MS, access.may_read()
    grounds = [
        (may_read,) if each.still() else (may_read, each.follows(account, pulse), minute if each.ages else 0)
        for each in _all(page)
    ]
    return [f"{crc32(repr(ground).encode()):x}" for ground in grounds]


def _poll(page: str, account: Account, pulse: Pulse) -> Poll:
    return Poll(
        page, ".".join(_marks(page, account, pulse)), _EAGER if account.status == accounts.UPDATING_IP else _CALM
    )
