"""Who may see and do what: all of it is decided here, before a view runs.

Each view carries one of the decorators below. A view without one answers nobody, and a test finds it.
"""

from collections.abc import Callable
from enum import Enum
from hmac import compare_digest
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flask import Flask, abort, current_app, g, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import UserMixin, current_user

from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.messages import text_policy
from portal.services.people import customers, login_sessions
from portal.services.people.customers import Customer
from portal.services.people.users import User
from portal.web.core import context

_View = TypeVar("_View", bound=Callable[..., ResponseReturnValue])


class Rule(Enum):
    """Who a view is for."""

    PUBLIC = "everyone, logged in or not"
    MACHINE = "monitoring: from loopback, or with the token"
    USER = "everyone who is logged in"
    SEE_ACCOUNT = "everyone of the account's customer, and operators"
    CHANGE_ACCOUNT = "owners and managers of the account's customer, and operators"
    OPERATE = "operators"


_OF_AN_ACCOUNT = (Rule.SEE_ACCOUNT, Rule.CHANGE_ACCOUNT)


def _marked(rule: Rule) -> Callable[[_View], _View]:
    def mark(view: _View) -> _View:
        view.access_rule = rule  # type: ignore[attr-defined]
        return view

    return mark


public = _marked(Rule.PUBLIC)
machine = _marked(Rule.MACHINE)
user_only = _marked(Rule.USER)
# In the views of these two `<name>` of the address arrives as `account`, an `accounts.Account`.
see_account = _marked(Rule.SEE_ACCOUNT)
change_account = _marked(Rule.CHANGE_ACCOUNT)
operate = _marked(Rule.OPERATE)


class LoggedIn(UserMixin):
    """What flask-login carries: the user, and the token of the login session, which is the id in the cookie."""

    def __init__(self, user: User, token: str) -> None:
        self.user = user
        self.token = token

    def get_id(self) -> str:
        return self.token


def load_user(token: str) -> LoggedIn | None:
    # Open pages ask by themselves: that nobody sits before them is exactly what the end of idle sessions is for.
    user = login_sessions.of_session(context.conn(), token, acts=request.endpoint != "live.poll")
    return LoggedIn(user, token) if user else None


def somebody() -> User | None:
    """Who is logged in, if anybody is. Found once a request: a page asks a dozen times."""
    if "user" not in g:
        g.user = current_user.user if current_user.is_authenticated else None
    found: User | None = g.user
    return found


def user() -> User:
    """Who is logged in. Only where a rule has made sure that somebody is."""
    found: User = g.user
    return found


def session_token() -> str:
    """The token of this login session."""
    token: str = current_user.token
    return token


def may_change() -> bool:
    """Whether this user changes anything; viewers don't."""
    return user().may_change


def may_read() -> bool:
    """Whether this user sees the texts of the messages of the account that this request is about."""
    return user().is_operator or text_policy.may_read(g.account.texts, user().role)


def own_accounts() -> list[Account]:
    """The accounts of the user's customer, SMPP ones first; none for operators. They are read once a request."""
    if "own_accounts" not in g:
        customer = user().customer_id
        g.own_accounts = accounts.of_customer(context.conn(), customer) if customer is not None else []
    found: list[Account] = g.own_accounts
    return found


def customer_or_404(customer_id: int) -> Customer:
    """The customer that an operator's address names; 404 where there is none."""
    try:
        return customers.by_id(context.conn(), customer_id)
    except customers.NoSuchCustomer:
        abort(404)


def attach(app: Flask) -> None:
    app.before_request(_decide)


def rule_of(app: Flask, endpoint: str) -> Rule | None:
    """A view's decision; None where it has none, which a test forbids."""
    return getattr(app.view_functions[endpoint], "access_rule", None)


def _decide() -> ResponseReturnValue | None:
    if request.endpoint is None:
        return None  # no such address: Flask answers 404
    rule = rule_of(current_app._get_current_object(), request.endpoint)  # type: ignore[attr-defined]
    if rule is Rule.PUBLIC:
        return None
    if rule is Rule.MACHINE:
        return None if _is_machine() else abort(404)
    if rule is None:
        abort(404)
    if somebody() is None:
        return _to_login()
    if rule is Rule.OPERATE and not user().is_operator:
        abort(404)
    if rule in _OF_AN_ACCOUNT:
        _resolve_account()
    if rule is Rule.CHANGE_ACCOUNT and not may_change():
        abort(403)
    return None


def _resolve_account() -> None:
    arguments: dict[str, Any] = request.view_args or {}
    g.account = arguments["account"] = _account_of_the_user(arguments.pop("name")) or abort(404)


def _account_of_the_user(name: str) -> Account | None:
    if not user().is_operator:
        # Found among the user's own, so that no mistake in a query shows somebody else's.
        return next((each for each in own_accounts() if each.name == name.lower()), None)
    try:
        return accounts.by_name(context.conn(), name)
    except accounts.NoSuchAccount:
        return None


def _is_machine() -> bool:
    # A proxy on this machine that isn't among the trusted ones: everybody would come from loopback.
    forwarded = "X-Forwarded-For" in request.headers and not context.config().proxies
    if ip_address(context.client_address()).is_loopback and not forwarded:
        return True
    token = context.config().web.metrics_token
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return bool(token) and compare_digest(given.encode(), token.encode())


def _to_login() -> ResponseReturnValue:
    session.pop("_user_id", None)
    if request.headers.get("HX-Request"):
        # A 302 would be followed by the browser, unseen by htmx, and put the login page into the middle of this one.
        return "", 204, {"HX-Redirect": url_for("login.login", next=_page_of_htmx() or None)}
    here = request.full_path.rstrip("?") if request.method == "GET" else ""
    return redirect(url_for("login.login", next=here if here != "/" else None))


def _page_of_htmx() -> str:
    try:
        return urlsplit(request.headers.get("HX-Current-URL", "")).path
    except ValueError:
        return ""


def safe_next(target: str | None) -> str:
    """Where to go after the login: a path of this portal, and nothing that a browser takes for another host's."""
    if not target or not target.startswith("/") or target.startswith(("//", "/\\")) or not target.isprintable():
        return url_for("accounts.index")
    return target
