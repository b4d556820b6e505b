"""Routes of tests, for customers and accounts that are there."""

from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.people.customers import Customer
from portal.services.routing import routes
from portal.services.routing.routes import Route, RouteTexts


def create_route(
    conn: Connection,
    upstreams_text: str,
    *,
    customer: Customer | None = None,
    account: Account | None = None,
    before_id: int | None = None,
    **texts: str | None,
) -> Route:
    """Add a route, the last one unless `before_id` says else."""
    names = None if customer is None else customer.name, None if account is None else account.name
    return routes.add_route(conn, SHELL, RouteTexts(upstreams_text, *names, **texts), before_id)
