"""Who may see and do what: access control of all views, decided before a view runs.

Each view carries one of the decorators below. A view without one answers nobody, and a test finds it.
"""

from collections.abc import Callable
from enum import Enum
from hmac import compare_digest
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flask import Flask, abort, current_app, g, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import UserMixin, current_user
from werkzeug.exceptions import Unauthorized

from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import packs
from portal.services.messages import text_policy
from portal.services.people import authentication, customers
from portal.services.people.users import User
from portal.services.prices import price_lists
from portal.web.core import context, proxies

_View = TypeVar("_View", bound=Callable[..., ResponseReturnValue])


class NotLoggedIn(Unauthorized):
    """Nobody is logged in, and this is for those who are: the answer leads to the login (`errors`)."""


class AccessRule(Enum):
    """Who a view is for."""

    PUBLIC = "everyone, logged in or not"
    MONITORING = "monitoring: from this machine, or with the token"
    LOGGED_IN = "everyone who is logged in"
    ACCOUNT_ACCESS = "everyone of the account's customer, and operators"
    ACCOUNT_CHANGE = "owners and managers of the account's customer, and operators"
    OPERATOR = "operators"


_ACCOUNT_RULES = (AccessRule.ACCOUNT_ACCESS, AccessRule.ACCOUNT_CHANGE)


def _make_access_decorator(rule: AccessRule) -> Callable[[_View], _View]:
    def set_access_rule(view: _View) -> _View:
        view.access_rule = rule  # type: ignore[attr-defined]
        return view

    return set_access_rule


# An account's `<name>`, a customer's `<customer_id>` and a price list's `<list_id>` in the address arrive at the views
# of the last three as `account`, an `accounts.Account`, `customer`, a `customers.Customer`, and `price_list`, a
# `price_lists.PriceListSummary`.
public_view = _make_access_decorator(AccessRule.PUBLIC)
monitoring_only = _make_access_decorator(AccessRule.MONITORING)
login_required = _make_access_decorator(AccessRule.LOGGED_IN)
account_access_required = _make_access_decorator(AccessRule.ACCOUNT_ACCESS)
account_change_required = _make_access_decorator(AccessRule.ACCOUNT_CHANGE)
operator_required = _make_access_decorator(AccessRule.OPERATOR)


def polled(view: _View) -> _View:
    """Mark a view that open pages ask by themselves: what htmx reads there doesn't keep an idle session alive."""
    view.is_polled = True  # type: ignore[attr-defined]
    return view


class SessionUser(UserMixin):
    """What flask-login carries: the user, and the token of the login session, which is the id in the cookie."""

    def __init__(self, user: User, token: str) -> None:
        self.user = user
        self.token = token

    def get_id(self) -> str:
        return self.token


def load_user(token: str) -> SessionUser | None:
    # That nobody sits before an open page is exactly what the end of idle sessions is for.
    user = authentication.find_user_by_login_session(context.get_conn(), token, is_activity=not _is_poll())
    return SessionUser(user, token) if user else None


def _is_poll() -> bool:
    view = current_app.view_functions.get(request.endpoint or "")
    return request.method == "GET" and "HX-Request" in request.headers and hasattr(view, "is_polled")


def find_current_user() -> User | None:
    """Who is logged in, if anybody is. Found once a request: a page asks a dozen times."""
    if "user" not in g:
        g.user = current_user.user if current_user.is_authenticated else None
    user_or_none: User | None = g.user
    return user_or_none


def get_current_user() -> User:
    """Who is logged in. Only where a rule has made sure that somebody is."""
    logged_in_user: User = g.user
    return logged_in_user


def get_session_token() -> str:
    """The token of this login session."""
    token: str = current_user.token
    return token


def may_change() -> bool:
    """Whether this user changes anything; viewers don't."""
    return get_current_user().may_change


def may_read_texts() -> bool:
    """Whether this user sees the texts of the messages of the account that this request is about."""
    return get_current_user().is_operator or text_policy.may_read_texts(g.account.texts, get_current_user().role)


@context.once_per_request
def list_own_accounts() -> list[Account]:
    """The accounts of the user's customer, SMPP ones first; none for operators."""
    customer = get_current_user().customer_id
    return accounts.list_accounts(context.get_conn(), customer) if customer is not None else []


@context.once_per_request
def is_billing_enabled() -> bool:
    """Whether this installation sells credits."""
    return packs.is_billing_enabled(context.get_conn(), context.get_config().billing.enabled)


def require_billing() -> None:
    """Answer 404 where nothing is sold: before each request of a blueprint, or in a view."""
    if not is_billing_enabled():
        abort(404)


def init_access_control(app: Flask) -> None:
    app.before_request(_enforce_access_rule)
    app.jinja_env.globals["is_billing_enabled"] = is_billing_enabled


def get_access_rule(app: Flask, endpoint: str) -> AccessRule | None:
    """The access rule of a view; None where it has none, which a test forbids."""
    return getattr(app.view_functions[endpoint], "access_rule", None)


def _enforce_access_rule() -> ResponseReturnValue | None:
    if request.endpoint is None:
        return None  # no such address: Flask answers 404
    rule = get_access_rule(current_app._get_current_object(), request.endpoint)  # type: ignore[attr-defined]
    if rule is AccessRule.PUBLIC:
        return None
    if rule is AccessRule.MONITORING:
        return None if _is_monitoring_request() else abort(404)
    if rule is None:
        abort(404)
    if find_current_user() is None:
        raise NotLoggedIn()
    if rule is AccessRule.OPERATOR and not get_current_user().is_operator:
        abort(404)
    _replace_names_in_address(rule, request.view_args or {})
    if rule is AccessRule.ACCOUNT_CHANGE and not may_change():
        abort(403)
    return None


def _replace_names_in_address(rule: AccessRule, arguments: dict[str, Any]) -> None:
    if rule in _ACCOUNT_RULES or (rule is AccessRule.OPERATOR and "name" in arguments):
        g.account = arguments["account"] = _get_accessible_account(arguments.pop("name"))
    if rule is AccessRule.OPERATOR and "customer_id" in arguments:
        arguments["customer"] = customers.get_customer_by_id(context.get_conn(), arguments.pop("customer_id"))
    if rule is AccessRule.OPERATOR and "list_id" in arguments:
        arguments["price_list"] = price_lists.get_price_list_by_id(context.get_conn(), arguments.pop("list_id"))


def _get_accessible_account(name: str) -> Account:
    if get_current_user().is_operator:
        return accounts.get_account(context.get_conn(), name)
    # Found among the user's own, so that no mistake in a query shows somebody else's.
    return next((each for each in list_own_accounts() if each.name == name.lower()), None) or abort(404)


def _is_monitoring_request() -> bool:
    if proxies.is_from_this_machine(request.environ, context.get_config().trusted_proxy_networks):
        return True
    token = context.get_config().web.metrics_token
    bearer_token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return bool(token) and compare_digest(bearer_token.encode(), token.encode())


def get_safe_redirect_path(target: str | None) -> str:
    """Where to go after the login: a path of this portal, and nothing that a browser takes for another host's.

    Args:
        target: without the prefix under which a proxy serves the portal.
    """
    return request.script_root + target if target and is_own_path(target) else url_for("accounts.list_accounts")


def find_opening_page(default: str) -> str:
    """The page on which a dialog was opened, with its query: where its answer leads.

    The query, and then the dialog's form, may name it as `back`.

    Args:
        default: an address of this portal, where nothing says which page that was.
    """
    if "back" in request.values:
        path = request.values["back"]
    else:
        try:
            opened_on = urlsplit(request.headers.get("HX-Current-URL") or request.referrer or "")
        except ValueError:
            return default
        path = opened_on.path.removeprefix(request.script_root) + (f"?{opened_on.query}" if opened_on.query else "")
        # Pages with a token in their address tell no more than the host.
        if opened_on.netloc != request.host or path in ("/", request.full_path.rstrip("?")):
            return default
    # It goes into a header as it is; browsers write others than ASCII with percent signs.
    return request.script_root + path if path.isascii() and is_own_path(path) else default


def is_own_path(target: str) -> bool:
    """Whether a browser takes this for a path of this portal, with its query, and not for another host's."""
    return target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
