"""Pages of an account, and parts of operators' pages, that stay true while they are open.

Such a page is made of fragments. The open page polls in one small request, every two seconds. As long as nothing has
happened to the account the answer is empty (204), and nothing is rendered; else it has the fragments that look
different.
"""

import gzip
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from flask import Blueprint, abort, g, make_response, render_template, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from portal.core import clock, i18n
from portal.services.accounts import accounts, change_counters
from portal.services.accounts.accounts import Account
from portal.services.accounts.change_counters import ChangeCounters
from portal.services.credits import alerts
from portal.web.core import access, context, htmx

blueprint = Blueprint("live", __name__)


@dataclass(frozen=True, slots=True)
class LiveFragment:
    """A part of a page that is replaced when it looks different.

    It shows what follows from the account, its change counters, its customer's other accounts, the reader, their
    address and the time in minutes.

    Args:
        template: renders it; with `oob` it names its own place. It holds nothing that is typed into, for it is
            replaced, and nothing that belongs to one login, such as a form's token.
        template_values: the template's variables, beside `account` and `may_change`.
        read_state: what else it shows changes with this value. Read at each poll, so it has to be cheap.
        is_frozen: whether the open page, as this request's query says, keeps it as it was rendered.
    """

    template: str
    template_values: Callable[[Account], dict[str, Any]] = lambda account: {}
    read_state: Callable[[Account], Hashable] = lambda account: None
    is_frozen: Callable[[], bool] = lambda: False


# The server confirms a change within a few milliseconds: the page that waits for it polls more often.
_POLL_INTERVAL, _FAST_POLL_INTERVAL = "2s", "500ms"
_OOB_ATTRIBUTE = ' hx-swap-oob="true"'


@context.once_per_request
def read_change_counters() -> ChangeCounters:
    """Those of the account that this request is about; read before what follows them, so that this is newer."""
    return change_counters.read_change_counters(context.get_conn(), g.account.id)


STATUS_FRAGMENT = LiveFragment("_account_status.html")
_FIGURES_FRAGMENT = LiveFragment(
    "_account_figures.html",
    lambda account: {
        "sidebar_accounts": access.list_own_accounts(),
        "sessions": read_change_counters().open_sessions,
    },
)


def _credit_shortage_context(account: Account) -> dict[str, Any]:
    kind = alerts.find_credit_shortage(context.get_conn(), account, read_change_counters().latest_message)
    return {"kind": kind, "threshold": account.alert_below}


# Over each page, when credits have run short.
_BANNER_FRAGMENT = LiveFragment("credits/_banner.html", _credit_shortage_context)
fragments_by_page: dict[str, tuple[LiveFragment, ...]] = {}
_tab_by_page: dict[str, str] = {}


def register_live_page(page: str, *fragments: LiveFragment, tab: str = "") -> None:
    """Set the fragments of a page, beside what the frame shows of the account.

    Args:
        page: its name; pages of account.html have the names of their tabs.
        tab: the one that such a page is under, where it isn't its own.
    """
    fragments_by_page[page] = (_BANNER_FRAGMENT, *fragments)
    if tab:
        _tab_by_page[page] = tab


def render_live_page(template: str, page: str, account: Account, **values: Any) -> ResponseReturnValue:
    """A whole page. Its templates find its rendered fragments as `parts["area/_part.html"]`.

    Args:
        values: further variables of the templates, such as a form.
    """
    return htmx.render_page(template, **build_live_page_values(page, account), **values)


def build_live_page_values(page: str, account: Account) -> dict[str, Any]:
    """What `htmx.render_page` and `htmx.answer_form` need for a live page, as things are after a change."""
    if request.method not in htmx.READING_METHODS:
        account = accounts.get_account(context.get_conn(), account.name)
    state = _compute_page_state(page, account)
    parts = _render_fragments(fragments_by_page[page], account)
    values = {
        "account": account,
        "sessions": read_change_counters().open_sessions,
        "tab": _tab_by_page.get(page, page),
        "parts": parts,
    }
    if not htmx.is_htmx_request():
        versions = _compute_versions(_render_fragments([STATUS_FRAGMENT], account, oob=True) | parts)
        values["poll"] = _build_poll_state(page, account, [state, _compute_figures_version(account), *versions])
    return values


def render_live_fragments(account: Account, *fragments: LiveFragment, oob: bool = False) -> Iterable[Markup]:
    """Some fragments, rendered as things are after a change."""
    account = accounts.get_account(context.get_conn(), account.name)
    return _render_fragments(fragments, account, oob=oob).values()


def build_part_poll(part: Markup, endpoint: str, **query: Any) -> dict[str, Any]:
    """What _part_poll.html needs, in the page of a part that stays true while it is open.

    Args:
        endpoint: of a view that answers with `answer_part_poll`.
        query: the values of its query that stay the same.
    """
    version = _compute_checksum(part.replace(_OOB_ATTRIBUTE, ""))
    return {"poll_address": url_for(endpoint, **query), "poll_seen": version}


def answer_part_poll(part: Markup, endpoint: str, **query: Any) -> ResponseReturnValue:
    """A part that names its own place, or 204 where it looks as it did; see `build_part_poll`."""
    values = build_part_poll(part, endpoint, **query)
    if request.args.get("seen") == values["poll_seen"]:
        return "", 204
    return htmx.render_fragments("_part_poll.html", part, **values)


@blueprint.get("/accounts/<name>/live")
@access.account_access_required
@access.polled
def poll_changes(account: Account) -> ResponseReturnValue:
    """The fragments of a page that look different since they were rendered, or 204.

    Query: `page`, `seen` (what the answer before has said of it), and what the page's fragments take from its query.
    """
    page = request.args.get("page", "")
    if page not in fragments_by_page:
        abort(404)
    seen, state = request.args.get("seen", "").split("."), _compute_page_state(page, account)
    if seen[0] == state:
        return "", 204
    parts = _render_fragments((STATUS_FRAGMENT, *fragments_by_page[page]), account, oob=True)
    versions, figures_version = _compute_versions(parts), _compute_figures_version(account)
    changed = [part for part, version in zip(parts.values(), versions, strict=True) if part and version not in seen]
    if figures_version not in seen:
        changed += _render_fragments([_FIGURES_FRAGMENT], account, oob=True).values()
    poll = _build_poll_state(page, account, [state, figures_version, *versions])
    response = make_response(htmx.render_fragments("_poll.html", *changed, poll=poll, account=account))
    # A list that changes each time makes these by far the most of what is sent, and one line of it is like the next.
    # Fragments hold no secret, so their length can tell none (BREACH).
    response.vary.add("Accept-Encoding")
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        response.data = gzip.compress(response.data, 4, mtime=0)
        response.headers["Content-Encoding"] = "gzip"
    return response


def _render_fragments(fragments: Iterable[LiveFragment], account: Account, *, oob: bool = False) -> dict[str, Markup]:
    base_values = {"account": account, "may_change": access.may_change(), "oob": oob}
    return {
        each.template: Markup(
            ""
            if oob and each.is_frozen()
            else render_template(each.template, **(base_values | each.template_values(account)))
        )
        for each in fragments
    }


def _compute_versions(parts: Mapping[str, Markup]) -> list[str]:
    # With the version of the settings: what a change has answered may look as before meanwhile (UPDATING_IP, then OK).
    version = read_change_counters().config_version
    return [_compute_checksum(f"{version} {part.replace(_OOB_ATTRIBUTE, '')}") for part in parts.values()]


def _compute_figures_version(account: Account) -> str:
    """As `_compute_versions`, but of what the figures show: a whole page has them already, and to render them once more
    took a tenth of its CPU.
    """
    listed = access.list_own_accounts()
    accounts_shown = [(each.name, each.balance, each.shown_status, each.description) for each in listed]
    state = (account.balance, read_change_counters().open_sessions, accounts_shown, i18n.current_language())
    return _compute_checksum(repr(state))


def _build_poll_state(page: str, account: Account, seen: Sequence[str]) -> dict[str, str]:
    """Which page polls, what it has seen, and how often it polls."""
    interval = _FAST_POLL_INTERVAL if account.status == accounts.UPDATING_IP else _POLL_INTERVAL
    return {"page": page, "seen": ".".join(seen), "interval": interval}


def _compute_page_state(page: str, account: Account) -> str:
    """What all fragments of a page follow, as one short text; read before they are rendered, so that they are newer."""
    state = (
        account,
        read_change_counters(),
        access.list_own_accounts(),
        access.get_current_user(),
        context.get_client_address(),
        clock.now_ms() // clock.MINUTE_MS,
        [each.read_state(account) for each in fragments_by_page[page] if not each.is_frozen()],
    )
    return _compute_checksum(repr(state))


def _compute_checksum(text: str) -> str:
    return f"{crc32(text.encode()):x}"
