"""Orders of all customers, for operators: a page, a CSV file, and marking one as paid."""

from functools import partial
from urllib.parse import urlencode

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from wtforms import StringField

from portal.core.i18n import N_, _
from portal.services.accounts import accounts
from portal.services.billing import orders, purchases
from portal.services.billing.orders import Order, OrderFilter
from portal.services.people import customers
from portal.web.billing.orders import STATUS_BADGES, describe_order_status, order_url
from portal.web.core import access, context, downloads, htmx, paging
from portal.web.core.forms import TranslatedForm, parse_row_id

blueprint = Blueprint("all_orders", __name__, url_prefix="/admin")
blueprint.before_request(access.require_billing)

_CSV_COLUMNS = (
    "order;created;created_by;customer;account;origin;credits;price;currency;status;credits_arrived;paid;paid_by;payment;"
    "cancelled;cancelled_by"
).split(";")


class MarkPaidForm(TranslatedForm):
    payment = StringField(N_("How it was paid"))


@blueprint.get("/orders")
@access.operator_required
def list_all_orders() -> ResponseReturnValue:
    """All customers' orders, newest first: `?status=`, `?customer=` (its id), `?before=` and `?after=`."""
    order_filter = _read_filter()
    conn = context.get_conn()
    return htmx.render_page(
        "billing/all_orders/page.html",
        page=paging.paginate(partial(orders.list_orders_page, conn, order_filter)),
        order_filter=order_filter,
        query=urlencode(
            {name: value for name, value in request.args.items() if name in ("status", "customer") and value}
        ),
        customers=customers.list_all_customers(conn),
        statuses={status: _(words) for status, (words, _kind, _sign) in STATUS_BADGES.items()},
        describe_status=describe_order_status,
    )


@blueprint.get("/orders.csv")
@access.operator_required
def download_all_orders_csv() -> ResponseReturnValue:
    """The same orders, all of them."""
    rows = map(_to_csv_row, orders.iterate_orders(context.open_stream_conn(), _read_filter()))
    return downloads.stream_csv("orders.csv", _CSV_COLUMNS, rows)


def _read_filter() -> OrderFilter:
    """The filter in this request's query; invalid values are ignored."""
    status = request.args.get("status")
    return OrderFilter(
        customer_id=request.args.get("customer", type=parse_row_id) or None,
        status=status if status in orders.STATUSES else None,
    )


def _to_csv_row(order: Order) -> list[object]:
    values = orders.order_to_dict(order) | {"credits_arrived": "yes" if order.credited else "no"}
    return [values[column] for column in _CSV_COLUMNS]


@blueprint.route("/orders/<number>/pay", methods=["GET", "POST"])
@access.operator_required
def mark_order_paid(number: str) -> ResponseReturnValue:
    """Mark an order as paid, once that has been confirmed. Sent twice, it adds the credits once."""
    conn, form = context.get_conn(), MarkPaidForm()
    order = orders.get_order_by_number(conn, number)
    if not form.is_submitted():
        template, account = "billing/all_orders/_mark_paid.html", accounts.get_account(conn, order.account)
        return htmx.render_dialog(template, account, title=_("Mark as paid?"), tab="credits", order=order, form=form)
    try:
        purchases.confirm_payment(conn, context.get_crypto_keys(), context.get_actor(), order, form.payment.data)
        toast = htmx.Toast(_("Order %(number)s was marked as paid.", number=order.number))
    except orders.OrderClosed as refusal:
        toast = htmx.Toast(refusal.localized(), "info")
    return htmx.redirect_browser_or_htmx(order_url(order), toast)
