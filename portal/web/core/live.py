"""Pages of an account that stay true while they are open.

Such a page is made of fragments, and each has a cache key that holds what it shows. The open page polls in one small
request, every two seconds, and gets the fragments whose key has changed since they were rendered; mostly none has, and
the answer is empty (204). A rendered fragment is cached, and asks the database nothing while its key stays the same.
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
from portal.services.accounts.change_counters import ChangeCounters
from portal.services.credits import forecast
from portal.web.core import access, context, csrf, htmx, layout, notices
from portal.web.core.forms import get_form_status

blueprint = Blueprint("live", __name__)


@dataclass(frozen=True, slots=True)
class LiveFragment:
    """A part of a page that is replaced when what it shows has changed.

    Args:
        template: renders it; with `oob` it names its own place. It holds nothing that is typed into, for it is
            replaced, and nothing that belongs to one login, such as a form's token.
        cache_key: all that it shows of the account and of the request; when that changes, it is rendered anew.
        template_values: the template's variables, beside `account` and `may_change`.
        shows_relative_times: it says how long ago something was, and so is rendered anew once a minute.
        is_frozen: whether the open page, as this request's query says, keeps it as it was rendered.
        query_args: what it takes from the page's query, and gives back to the page in hidden fields of the class
            `live-arg`.
    """

    template: str
    cache_key: Callable[[Account, ChangeCounters], Hashable]
    template_values: Callable[[Account, ChangeCounters], dict[str, Any]] = lambda account, counters: {}
    shows_relative_times: bool = False
    is_frozen: Callable[[], bool] = lambda: False
    query_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PollState:
    """Which page polls, the versions of its fragments, and how often it polls."""

    page: str
    versions: str
    interval: str


# The server confirms a change within a few milliseconds: the page that waits for it polls more often.
_POLL_INTERVAL, _FAST_POLL_INTERVAL = "2s", "500ms"
_MINUTE_MS = 60_000
# A page that is loaded says "5 seconds ago" and means it, give or take these.
_MAX_CACHE_AGE_MS = 5_000

# Rendered anew after each change, even where the server was quick and it is OK again: an answer has shown UPDATING_IP.
STATUS_FRAGMENT = LiveFragment(
    "_account_status.html", lambda account, counters: (account.status, counters.config_version)
)
_FIGURES_FRAGMENT = LiveFragment(
    "_account_figures.html",
    lambda account, counters: (
        counters.open_sessions,
        account.balance,
        tuple((a.status, a.balance) for a in access.list_own_accounts()),
    ),
    lambda account, counters: layout.build_layout_context(account, counters.open_sessions),
)


def _credit_shortage_context(account: Account, counters: ChangeCounters) -> dict[str, Any]:
    kind = forecast.find_credit_shortage(context.get_conn(), account, counters.latest_message)
    return {"kind": kind, "threshold": account.alert_below}


def _credit_shortage_cache_key(account: Account, counters: ChangeCounters) -> Hashable:
    # A low balance changes with each message, and the banner doesn't say it.
    values = _credit_shortage_context(account, counters)
    return *values.values(), account.balance if values["kind"] == forecast.REFUSED else None


# Over each page, when credits have run short.
_BANNER_FRAGMENT = LiveFragment("credits/_banner.html", _credit_shortage_cache_key, _credit_shortage_context)
_fragments_by_page: dict[str, tuple[LiveFragment, ...]] = {}
_tab_by_page: dict[str, str] = {}


def register_live_page(page: str, *fragments: LiveFragment, tab: str = "") -> None:
    """Set the fragments of a page, beside what the frame shows of the account.

    Args:
        page: its name; pages of account.html have the names of their tabs.
        tab: the one that such a page is under, where it isn't its own.
    """
    _fragments_by_page[page] = fragments
    if tab:
        _tab_by_page[page] = tab


def list_live_pages() -> list[str]:
    """The names of all pages that `register_live_page` has got."""
    return list(_fragments_by_page)


def render_live_page(
    template: str, page: str, account: Account, *, status: int | None = None, **values: Any
) -> ResponseReturnValue:
    """A whole page. Its templates find its rendered fragments as `parts["area/_part.html"]`.

    Args:
        values: further variables of the templates, such as a form.
        status: of HTTP; None: a refused form's, or 200.
    """
    counters = change_counters.read_change_counters(context.get_conn(), account.id)

    def render() -> str:
        return htmx.render_page_html(
            template,
            account=account,
            sessions=counters.open_sessions,
            tab=_tab_by_page.get(page, page),
            poll=_build_poll_state(page, account, counters),
            parts={
                each.template: _render_live_fragment(each, account, counters)
                for each in (_BANNER_FRAGMENT, *_fragments_by_page[page])
            },
            **values,
        )

    if values or htmx.has_pending_toasts():
        return render(), status or get_form_status(values)
    # Without those a page is the same text again when it is loaded again and nothing has happened.
    cache_key = (
        template,
        access.get_current_user(),
        csrf.get_csrf_token(),
        i18n.current_language(),
        request.full_path,
        request.host,
        context.get_client_address(),
        account,
        tuple(access.list_own_accounts()),
        notices.get_notices(),
        counters,
        clock.now_ms() // _MAX_CACHE_AGE_MS,
    )
    return context.get_page_cache().get_or_render(cache_key, render), 200


def render_live_fragments(account: Account, *fragments: LiveFragment, oob: bool = False) -> dict[str, Markup]:
    """Some fragments by the names of their templates, rendered as things are after a change."""
    account = accounts.get_account(context.get_conn(), account.name)
    counters = change_counters.read_change_counters(context.get_conn(), account.id)
    return {each.template: _render_live_fragment(each, account, counters, oob=oob) for each in fragments}


@blueprint.get("/accounts/<name>/live")
@access.account_access_required
def poll_changes(account: Account) -> ResponseReturnValue:
    """The fragments of a page that have changed since they were rendered, or 204.

    Query: `page`, `seen` (the versions in the answer before), and the `query_args` of the page's fragments.
    """
    page = request.args.get("page", "")
    if page not in _fragments_by_page:
        abort(404)
    counters = change_counters.read_change_counters(context.get_conn(), account.id)
    versions, seen_versions = _fragment_versions(page, account, counters), request.args.get("seen", "").split(".")
    if versions == seen_versions:
        return "", 204
    seen_versions += [""] * len(versions)
    changed = [
        fragment
        for fragment, version, seen_version in zip(_list_page_fragments(page), versions, seen_versions, strict=False)
        if version != seen_version
    ]
    rendered = [_render_live_fragment(fragment, account, counters, oob=True) for fragment in changed]
    poll_state = _build_poll_state(page, account, counters)
    response = htmx.render_fragments(
        "_poll.html", *rendered, poll=poll_state, account=layout.build_account_view(account)
    )
    return _gzip_response(make_response(response))


def _gzip_response(response: Response) -> Response:
    # A list that changes each time makes these by far the most of what is sent, and one line of it is like the next.
    # Fragments hold no secret, so their length can tell none (BREACH).
    response.vary.add("Accept-Encoding")
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        response.data = gzip.compress(response.data, 4, mtime=0)
        response.headers["Content-Encoding"] = "gzip"
    return response


def _render_live_fragment(
    fragment: LiveFragment, account: Account, counters: ChangeCounters, *, oob: bool = False
) -> Markup:
    cache_key = (
        fragment.template,
        oob,
        account.id,
        i18n.current_language(),
        access.may_change(),
        access.may_read_texts(),
        tuple(request.args.get(each) for each in fragment.query_args),
        fragment.cache_key(account, counters),
        clock.now_ms() // _MAX_CACHE_AGE_MS if fragment.shows_relative_times else 0,
    )

    def render() -> str:
        base_values = {"account": layout.build_account_view(account), "may_change": access.may_change()}
        return render_template(
            fragment.template, oob=oob, **(base_values | fragment.template_values(account, counters))
        )

    return context.get_fragment_cache().get_or_render(cache_key, render)


def _list_page_fragments(page: str) -> tuple[LiveFragment, ...]:
    return (STATUS_FRAGMENT, _FIGURES_FRAGMENT, _BANNER_FRAGMENT, *_fragments_by_page[page])


def _fragment_versions(page: str, account: Account, counters: ChangeCounters) -> list[str]:
    minute, may_read = clock.now_ms() // _MINUTE_MS, access.may_read_texts()
    cache_keys = [
        (may_read,)
        if each.is_frozen()
        else (may_read, each.cache_key(account, counters), minute if each.shows_relative_times else 0)
        for each in _list_page_fragments(page)
    ]
    return [f"{crc32(repr(cache_key).encode()):x}" for cache_key in cache_keys]


def _build_poll_state(page: str, account: Account, counters: ChangeCounters) -> PollState:
    return PollState(
        page,
        ".".join(_fragment_versions(page, account, counters)),
        _FAST_POLL_INTERVAL if account.status == accounts.UPDATING_IP else _POLL_INTERVAL,
    )
