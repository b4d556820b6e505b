"""What went by routes in a month, with its margin, and what all customers have used, for operators."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from typing import Any

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue

from portal.core.clock import now_ms
from portal.core.i18n import N_, _
from portal.services.common import credit_amounts
from portal.services.prices import countries
from portal.services.routing import route_usage, routes
from portal.services.routing.route_usage import RouteUsage
from portal.services.statistics import customer_usage, months
from portal.services.statistics.customer_usage import CustomerUsage
from portal.services.statistics.months import InvalidMonth
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
    now, error = now_ms(), ""
    try:
        month = _read_month()
    except InvalidMonth as refusal:
        month, error = months.get_month(now), refusal.localized()
    # One more than is shown says that there are more.
    rows = route_usage.list_route_usage(context.get_conn(), month, _MAX_ROWS_SHOWN + 1)
    return htmx.render_page(
        "routing/usage.html",
        status=422 if error else None,
        error=error,
        month=months.format_month(month),
        months=[months.format_month(each) for each in _list_months(now, month)],
        rows=rows[:_MAX_ROWS_SHOWN],
        has_more=len(rows) > _MAX_ROWS_SHOWN,
        sums=route_usage.sum_route_usage(context.get_conn(), month),
        describe_route=_describe_routes(),
        get_country_name=countries.get_country_name,
    )


def _read_month() -> int:
    """The month in this request's query, or this one. Raises: InvalidMonth"""
    text = request.args.get("month")
    return months.parse_month(text) if text else months.get_month(now_ms())


def _list_months(now: int, shown: int) -> list[int]:
    return sorted({*months.list_months(context.get_conn(), now), shown}, reverse=True)


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
def download_route_usage_csv() -> ResponseReturnValue:
    """The same, all of it."""
    describe, conn = _describe_routes(), context.get_conn()
    return _answer_csv(
        "routes",
        _ROUTE_COLUMNS,
        lambda month: (
            _to_route_row(each, describe(each.route_id)) for each in route_usage.list_route_usage(conn, month)
        ),
    )


def _answer_csv(
    name: str, columns: Sequence[str], list_rows: Callable[[int], Iterable[Sequence[object]]]
) -> ResponseReturnValue:
    """The file of the month that the query names. One that can't be read leads to the page, which says so: no file has
    another month than was asked for.
    """
    try:
        month = _read_month()
    except InvalidMonth:
        return redirect(url_for(".show_usage", month=request.args["month"]))
    return downloads.stream_csv(f"{name}-{months.format_month(month)}.csv", columns, list_rows(month))


def _to_route_row(usage: RouteUsage, upstreams_text: str) -> list[object]:
    month, route_id, country, messages, parts, price, priced_parts, cost = astuple(usage)
    amounts = [price, cost if priced_parts == parts else None, usage.margin]
    numbers = ["" if each is None else credit_amounts.credits_to_json_number(each) for each in amounts]
    return [months.format_month(month), route_id, upstreams_text, country, messages, parts, *numbers]


@blueprint.get("/customers.csv")
@access.operator_required
def download_customer_usage_csv() -> ResponseReturnValue:
    """What all customers have used in a month, for invoices."""
    conn = context.get_conn()
    return _answer_csv(
        "customers",
        CustomerUsage._fields,
        lambda month: map(_to_customer_row, customer_usage.iterate_customer_usage(conn, month)),
    )


def _to_customer_row(usage: CustomerUsage) -> Sequence[object]:
    values = usage._asdict() | {"credits": credit_amounts.credits_to_json_number(usage.credits)}
    return [*values.values()]
