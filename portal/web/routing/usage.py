"""What went by routes in a month, with its margin, and what all customers have used, for operators."""

from dataclasses import astuple
from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from portal.core.clock import now_ms
from portal.core.i18n import N_, _
from portal.services.common import credit_amounts
from portal.services.prices import countries
from portal.services.routing import route_usage, routes
from portal.services.routing.route_usage import CustomerUsage, RouteUsage
from portal.web.core import access, context, downloads, htmx

blueprint = Blueprint("usage", __name__, url_prefix="/admin/routes")

# The CSV file has all.
_MAX_ROWS_SHOWN = 100
_ROUTE_COLUMNS = "month;route;upstreams;country;messages;parts;credits;cost;margin".split(";")
_NO_ROUTE_LABEL = N_("No route: the default upstream")


@blueprint.get("/usage")
@access.operator_required
def show_usage() -> ResponseReturnValue:
    """A month (`month`, like 2026-11) by route and country."""
    month, error = _read_month()
    # One more than is shown says that there are more.
    rows = route_usage.list_route_usage(context.get_conn(), month, _MAX_ROWS_SHOWN + 1)
    return htmx.render_page(
        "routing/usage.html",
        status=422 if error else None,
        error=error,
        month=route_usage.format_month(month),
        months=[route_usage.format_month(each) for each in _list_months(month)],
        rows=rows[:_MAX_ROWS_SHOWN],
        has_more=len(rows) > _MAX_ROWS_SHOWN,
        sums=route_usage.sum_route_usage(context.get_conn(), month),
        describe_route=_describe_routes(),
        get_country_name=countries.get_country_name,
    )


def _read_month() -> tuple[int, str]:
    """The month in this request's query, or this one; and what is wrong with it, in words."""
    this_month = route_usage.get_this_month(now_ms())
    if not request.args.get("month"):
        return this_month, ""
    try:
        return route_usage.parse_month(request.args["month"]), ""
    except route_usage.InvalidMonth as refusal:
        return this_month, refusal.localized()


def _list_months(shown: int) -> list[int]:
    months = {*route_usage.list_used_months(context.get_conn()), route_usage.get_this_month(now_ms()), shown}
    return sorted(months, reverse=True)


def _describe_routes() -> Any:
    """What says of a route's id where its route leads."""
    texts = {each.id: routes.format_route_upstreams(each.upstreams) for each in routes.list_routes(context.get_conn())}

    def describe(route_id: int) -> str:
        if route_id == route_usage.NO_ROUTE:
            return _(_NO_ROUTE_LABEL)
        return texts.get(route_id, _("removed"))

    return describe


@blueprint.get("/usage.csv")
@access.operator_required
def download_route_usage_csv() -> Response:
    """The same, all of it."""
    month, _error = _read_month()
    describe = _describe_routes()
    rows = [_to_route_row(each, describe(each.route_id)) for each in _list_usage(month)]
    return downloads.stream_csv(f"routes-{route_usage.format_month(month)}.csv", _ROUTE_COLUMNS, rows)


def _list_usage(month: int) -> list[RouteUsage]:
    return route_usage.list_route_usage(context.get_conn(), month)


def _to_route_row(usage: RouteUsage, upstreams_text: str) -> list[object]:
    month, route_id, country, messages, parts, price, priced_parts, cost = astuple(usage)
    amounts = [price, cost if priced_parts == parts else None, usage.margin]
    numbers = ["" if each is None else credit_amounts.credits_to_json_number(each) for each in amounts]
    return [route_usage.format_month(month), route_id, upstreams_text, country, messages, parts, *numbers]


@blueprint.get("/customers.csv")
@access.operator_required
def download_customer_usage_csv() -> Response:
    """What all customers have used in a month, for invoices."""
    month, _error = _read_month()
    rows = [
        each._replace(credits=credit_amounts.credits_to_json_number(each.credits))  # type: ignore[arg-type]
        for each in route_usage.list_customer_usage(context.get_conn(), month)
    ]
    return downloads.stream_csv(f"customers-{route_usage.format_month(month)}.csv", CustomerUsage._fields, rows)
