"""A customer buys packs: the offer, orders, and the way to the payment page."""

import time
from collections.abc import Hashable
from functools import partial
from typing import Any

from flask import Blueprint, abort, redirect, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import HiddenField

from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts.accounts import Account
from portal.services.accounts.change_counters import Pulse
from portal.services.billing import orders, packs, payments, purchases
from portal.services.billing.orders import Order, Which
from portal.services.billing.packs import Pack
from portal.services.common import idempotency
from portal.services.common.errors import Refused
from portal.services.people import customers
from portal.web.core import access, context, htmx, live, paging
from portal.web.core.forms import Form, attach, row_id
from portal.web.core.htmx import Toast
from portal.web.core.live import Part

blueprint = Blueprint("orders", __name__)

# The words, the kind and the icon of the badge that tells an order's status.
STATUS_BADGES = {
    orders.OPEN: (N_("open"), "warn", "clock"),
    orders.PAID: (N_("paid"), "ok", "check"),
    orders.CANCELLED: (N_("cancelled"), "mute", "ban"),
}
_ORIGINS = {orders.CUSTOMER: N_("ordered"), orders.AUTOMATIC: N_("automatic re-credit")}


class OrderForm(Form):
    """What was chosen, as it was shown; `form` makes a form that is sent twice order once."""

    pack = HiddenField()
    price = HiddenField()
    currency = HiddenField()
    form = HiddenField()


# --- buying


@blueprint.get("/accounts/<name>/credits/buy")
@access.change_account
def offer_packs(account: Account) -> ResponseReturnValue:
    """The packs; with `?pack=` (thousandths of a credit) what buying that one means."""
    if "pack" not in request.args:
        return _render_offer(account)
    try:
        pack = packs.of_size(context.conn(), request.args.get("pack", 0, type=row_id))
    except packs.NoSuchPack:
        abort(404)
    return _render_confirmation(account, OrderForm(formdata=None), pack)


@blueprint.post("/accounts/<name>/credits/buy")
@access.change_account
def buy_pack(account: Account) -> ResponseReturnValue:
    """Order a pack."""
    form, conn = OrderForm(), context.conn()
    try:
        pack = Pack(_read_number(form.pack.data), _read_number(form.price.data), form.currency.data or "")
        order = purchases.place(conn, context.keys(), context.actor(), account, pack, form=form.form.data or "")
    except idempotency.AlreadySent as refusal:
        return htmx.moved(url_for(".list_orders", name=account.name), Toast(refusal.localized(), "info"))
    except Refused as refusal:
        attach(form, refusal)
        now = next((each for each in packs.everyone(conn) if each.credits == _read_number(form.pack.data)), None)
        return _render_confirmation(account, form, now, status=422)
    toast = Toast(_("Order %(number)s was made.", number=order.number))
    return htmx.moved(order_url(order), toast)


def _read_number(text: str | None) -> int:
    """A number that this page has written into a hidden field; 0 for what somebody else has."""
    try:
        return row_id(text or "")
    except ValueError:
        return 0


def _render_offer(account: Account) -> ResponseReturnValue:
    return htmx.page("billing/orders/buy.html", account=account, tab="credits", packs=packs.everyone(context.conn()))


def _render_confirmation(
    account: Account, form: OrderForm, pack: Pack | None, status: int = 200
) -> ResponseReturnValue:
    if pack is not None:
        # As it is now: whoever confirms what was refused has seen it.
        form.pack.data, form.price.data, form.currency.data = str(pack.credits), str(pack.price), pack.currency
    form.form.data = form.form.data or idempotency.new()
    return htmx.dialog(
        "billing/orders/_buy.html", account, title=_("Buy credits"), tab="credits", status=status, form=form, pack=pack
    )


# --- a customer's orders


@blueprint.get("/accounts/<name>/orders")
@access.see_account
def list_orders(account: Account) -> ResponseReturnValue:
    """A page of them, newest first; `?before=` and `?after=` turn it."""
    return live.show("billing/orders/page.html", "orders", account)


@blueprint.get("/accounts/<name>/orders/<number>")
@access.see_account
def show_order(account: Account, number: str) -> ResponseReturnValue:
    """An order, to print or to pay."""
    _order_or_404(account, number)
    return live.show("billing/orders/order.html", "order", account)


@blueprint.get("/accounts/<name>/orders/<number>/pay")
@access.change_account
def pay_order(account: Account, number: str) -> ResponseReturnValue:
    """The way to the payment page.

    A link, no form: browsers let forms lead only where the Content-Security-Policy (form-action) says, and redirects
    after them too.
    """
    order, settings = _order_or_404(account, number), context.config().payments
    if not settings.checkout_url:
        abort(404)
    if order.status != orders.OPEN:
        return htmx.done(order_url(order))
    back = context.config().public_url + url_for(".show_order", name=account.name, number=order.number)
    return redirect(payments.checkout(settings, order, back, int(time.time())))


@blueprint.get("/accounts/<name>/orders/<number>/cancel")
@access.change_account
def ask_cancel_order(account: Account, number: str) -> ResponseReturnValue:
    """The question before an order is cancelled."""
    order = _order_or_404(account, number)
    return htmx.dialog(
        "billing/orders/_cancel.html", account, title=_("Cancel this order?"), tab="credits", order=order
    )


@blueprint.post("/accounts/<name>/orders/<number>/cancel")
@access.change_account
def cancel_order(account: Account, number: str) -> ResponseReturnValue:
    order = _order_or_404(account, number)
    try:
        orders.cancel(context.conn(), context.actor(), order)
        toast = Toast(_("Order %(number)s was cancelled.", number=order.number))
    except Refused as refusal:
        toast = Toast(refusal.localized(), "warn")
    return htmx.moved(order_url(order), toast)


def _order_or_404(account: Account, number: str) -> Order:
    try:
        return orders.by_number(context.conn(), number, account.id)
    except orders.NoSuchOrder:
        abort(404)


def order_url(order: Order) -> str:
    """The address of an order's page."""
    return url_for("orders.show_order", name=order.account, number=order.number)


def _shown_order(account: Account) -> Order:
    """The order that a page shows: the one in its address, which it names when it asks again."""
    named = (request.view_args or {}).get("number") or request.args.get("order", "")
    return _order_or_404(account, named)


def _order_ground(account: Account, pulse: Pulse) -> Hashable:
    # Operators see another button.
    return _shown_order(account), access.user().is_operator


def _order_values(account: Account, pulse: Pulse) -> dict[str, Any]:
    return {
        "order": _shown_order(account),
        "contact": customers.by_id(context.conn(), account.customer_id).contact_email,
        "payments": context.config().payments,
        "may_pay": access.user().is_operator,
        "describe_status": describe_status,
        "origins": _ORIGINS,
    }


def describe_status(order: Order) -> tuple[str, str, str]:
    """An order's status in the reader's words, with the kind and the icon of its badge."""
    words, kind, sign = STATUS_BADGES[order.status]
    return _(words), kind, sign


def _list_values(account: Account, pulse: Pulse) -> dict[str, Any]:
    found = paging.page(partial(orders.some, context.conn(), Which(account_id=account.id)))
    return {"page": found, "describe_status": describe_status}


live.register("order", Part("billing/orders/_order.html", _order_ground, _order_values, ages=True, asks=("order",)))
live.register(
    "orders",
    Part(
        "billing/orders/_list.html",
        lambda account, pulse: orders.latest_change(context.conn(), account.id),
        _list_values,
        ages=True,
        asks=paging.ASKS,
    ),
)
