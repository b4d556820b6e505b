"""The operator's side of orders: those of all customers, as a page and a file, and marking one as paid."""

from collections.abc import Iterator
from functools import partial
from urllib.parse import urlencode

from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue
from wtforms import StringField

from portal.core import i18n
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import accounts
from portal.services.billing import orders, purchases
from portal.services.billing.orders import Order, Which
from portal.services.common import credit_amounts
from portal.services.people import customers
from portal.web.billing.orders import STATUS_BADGES, describe_status, order_url
from portal.web.core import access, context, downloads, htmx, paging
from portal.web.core.forms import Form, row_id
from portal.web.core.htmx import Toast

blueprint = Blueprint("all_orders", __name__, url_prefix="/admin")

_COLUMNS = (
    "order;created;created_by;customer;account;origin;credits;price;currency;status;credits_arrived;paid;paid_by;payment;"
    "cancelled;cancelled_by"
).split(";")


class PaidForm(Form):
    payment = StringField(N_("How it was paid"))


@blueprint.get("/orders")
@access.operate
def list_orders() -> ResponseReturnValue:
    """All customers' orders, newest first: `?status=`, `?customer=` (its id), `?before=` and `?after=`."""
    which = _read_filter()
    conn = context.conn()
    return htmx.page(
        "billing/all_orders/page.html",
        page=paging.page(partial(orders.some, conn, which)),
        which=which,
        query=urlencode(
            {name: value for name, value in request.args.items() if name in ("status", "customer") and value}
        ),
        customers=customers.everyone(conn),
        statuses={status: _(words) for status, (words, _kind, _sign) in STATUS_BADGES.items()},
        describe_status=describe_status,
    )


@blueprint.get("/orders.csv")
@access.operate
def download_orders() -> ResponseReturnValue:
    """The same orders, all of them."""
    return downloads.send("orders.csv", _COLUMNS, _csv_rows(_read_filter()))


def _read_filter() -> Which:
    """What the address asks for; what is no status or no customer's number asks for nothing."""
    status = request.args.get("status")
    return Which(
        customer_id=request.args.get("customer", type=row_id) or None,
        status=status if status in orders.STATUSES else None,
    )


def _csv_rows(which: Which) -> Iterator[list[object]]:
    for each in orders.each(context.conn(), which):
        yield [
            each.number,
            i18n.iso(each.created_at),
            each.created_by,
            each.customer,
            each.account,
            each.origin,
            credit_amounts.plain(each.credits),
            i18n.exact_money(each.price, each.currency),
            each.currency,
            each.status,
            "yes" if each.credited else "no",
            i18n.iso(each.paid_at) if each.paid_at else "",
            each.paid_by,
            each.payment,
            i18n.iso(each.cancelled_at) if each.cancelled_at else "",
            each.cancelled_by,
        ]


@blueprint.get("/orders/<number>/pay")
@access.operate
def ask_mark_paid(number: str) -> ResponseReturnValue:
    """What happens when an order is marked as paid, before it does."""
    order = _order_or_404(number)
    account = accounts.by_name(context.conn(), order.account)
    return htmx.dialog(
        "billing/all_orders/_mark_paid.html",
        account,
        title=_("Mark as paid?"),
        tab="credits",
        order=order,
        form=PaidForm(formdata=None),
    )


@blueprint.post("/orders/<number>/pay")
@access.operate
def mark_paid(number: str) -> ResponseReturnValue:
    """Sent twice, it finds the order paid, and credits nothing."""
    order, form = _order_or_404(number), PaidForm()
    try:
        purchases.pay(context.conn(), context.keys(), context.actor(), order, form.payment.data or "")
        toast = Toast(_("Order %(number)s was marked as paid.", number=order.number))
    except orders.OrderClosed as refusal:
        toast = Toast(refusal.localized(), "info")
    return htmx.moved(order_url(order), toast)


def _order_or_404(number: str) -> Order:
    try:
        return orders.by_number(context.conn(), number)
    except orders.NoSuchOrder:
        abort(404)
