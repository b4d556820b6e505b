"""Packs, orders of them, and their payment: a customer's side, the operator's, and the payment page's."""

import logging
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, abort, redirect, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import HiddenField, StringField

from portal.core import i18n
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.accounts.change_counters import Pulse
from portal.services.billing import orders, packs, payments, purchases
from portal.services.billing.orders import Order, Which
from portal.services.billing.packs import Pack
from portal.services.common import credit_amounts, idempotency
from portal.services.common.errors import Refused
from portal.services.people import customers
from portal.web.core import access, context, downloads, htmx, live, paging
from portal.web.core.forms import Form, attach, row_id
from portal.web.core.htmx import Toast
from portal.web.core.live import Part

_log = logging.getLogger(__name__)

blueprint = Blueprint("orders", __name__)

_STATUSES = {
    orders.OPEN: (N_("open"), "warn", "clock"),
    orders.PAID: (N_("paid"), "ok", "check"),
    orders.CANCELLED: (N_("cancelled"), "mute", "ban"),
}
_ORIGINS = {orders.CUSTOMER: N_("ordered"), orders.AUTOMATIC: N_("automatic re-credit")}
_COLUMNS = (
    "order;created;created_by;customer;account;origin;credits;price;currency;status;credits_arrived;paid;paid_by;payment;"
    "cancelled;cancelled_by"
).split(";")
# Rows for further packs, below those that there are.
_NEW_ROWS = 3
# What the payment page is answered where a callback is refused; 400 otherwise.
_CODES = {
    payments.WrongSignature: 401,
    payments.WrongTime: 401,
    payments.UnknownOrder: 422,
    payments.OtherAmount: 422,
    payments.WasCancelled: 409,
}


class OrderForm(Form):
    """What was chosen, as it was shown; `form` makes a form that is sent twice order once."""

    pack = HiddenField()
    price = HiddenField()
    currency = HiddenField()
    form = HiddenField()


class PaidForm(Form):
    payment = StringField(N_("How it was paid"))


# --- buying


@blueprint.get("/accounts/<name>/credits/buy")
@access.change_account
def offer(account: Account) -> ResponseReturnValue:
    """The packs; with `?pack=` (thousandths of a credit) what buying that one means."""
    if "pack" not in request.args:
        return _offer(account)
    try:
        pack = packs.of_size(context.conn(), request.args.get("pack", 0, type=row_id))
    except packs.NoSuchPack:
        abort(404)
    return _confirm(account, OrderForm(formdata=None), pack)


@blueprint.post("/accounts/<name>/credits/buy")
@access.change_account
def buy(account: Account) -> ResponseReturnValue:
    """Order a pack."""
    form, conn = OrderForm(), context.conn()
    try:
        pack = Pack(_number(form.pack.data), _number(form.price.data), form.currency.data or "")
        order = purchases.place(conn, context.keys(), context.actor(), account, pack, form=form.form.data or "")
    except idempotency.AlreadySent as refusal:
        return htmx.moved(url_for(".of_account", name=account.name), Toast(refusal.localized(), "info"))
    except Refused as refusal:
        attach(form, refusal)
        now = next((each for each in packs.everyone(conn) if each.credits == _number(form.pack.data)), None)
        return _confirm(account, form, now, status=422)
    toast = Toast(_("Order %(number)s was made.", number=order.number))
    return htmx.moved(_address(order), toast)


def _number(text: str | None) -> int:
    """A number that this page has written into a hidden field; 0 for what somebody else has."""
    try:
        return row_id(text or "")
    except ValueError:
        return 0


def _offer(account: Account) -> ResponseReturnValue:
    return htmx.page("billing/orders/buy.html", account=account, tab="credits", packs=packs.everyone(context.conn()))


def _confirm(account: Account, form: OrderForm, pack: Pack | None, status: int = 200) -> ResponseReturnValue:
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
def of_account(account: Account) -> ResponseReturnValue:
    """A page of them, newest first; `?before=` and `?after=` turn it."""
    return live.show("billing/orders/page.html", "orders", account)


@blueprint.get("/accounts/<name>/orders/<number>")
@access.see_account
def view(account: Account, number: str) -> ResponseReturnValue:
    """An order, to print or to pay."""
    _order(account, number)
    return live.show("billing/orders/order.html", "order", account)


@blueprint.get("/accounts/<name>/orders/<number>/pay")
@access.change_account
def pay(account: Account, number: str) -> ResponseReturnValue:
    """The way to the payment page.

    A link, no form: browsers let forms lead only where the Content-Security-Policy (form-action) says, and redirects
    after them too.
    """
    order, settings = _order(account, number), context.config().payments
    if not settings.checkout_url:
        abort(404)
    if order.status != orders.OPEN:
        return htmx.done(_address(order))
    back = context.config().public_url + url_for(".view", name=account.name, number=order.number)
    return redirect(payments.checkout(settings, order, back, int(time.time())))


@blueprint.get("/accounts/<name>/orders/<number>/cancel")
@access.change_account
def ask_cancel(account: Account, number: str) -> ResponseReturnValue:
    """The question before an order is cancelled."""
    order = _order(account, number)
    return htmx.dialog(
        "billing/orders/_cancel.html", account, title=_("Cancel this order?"), tab="credits", order=order
    )


@blueprint.post("/accounts/<name>/orders/<number>/cancel")
@access.change_account
def cancel(account: Account, number: str) -> ResponseReturnValue:
    order = _order(account, number)
    try:
        orders.cancel(context.conn(), context.actor(), order)
        toast = Toast(_("Order %(number)s was cancelled.", number=order.number))
    except Refused as refusal:
        toast = Toast(refusal.localized(), "warn")
    return htmx.moved(_address(order), toast)


def _order(account: Account, number: str) -> Order:
    try:
        return orders.by_number(context.conn(), number, account.id)
    except orders.NoSuchOrder:
        abort(404)


def _address(order: Order) -> str:
    return url_for(".view", name=order.account, number=order.number)


def _shown(account: Account) -> Order:
    """The order that a page shows: the one in its address, which it names when it asks again."""
    named = (request.view_args or {}).get("number") or request.args.get("order", "")
    return _order(account, named)


def _followed(account: Account, pulse: Pulse) -> Hashable:
    # Operators see another button.
    return _shown(account), access.user().is_operator


def _values(account: Account, pulse: Pulse) -> dict[str, Any]:
    return {
        "order": _shown(account),
        "contact": customers.by_id(context.conn(), account.customer_id).contact_email,
        "payments": context.config().payments,
        "may_pay": access.user().is_operator,
        "look": _look,
        "origins": _ORIGINS,
    }


def _look(order: Order) -> tuple[str, str, str]:
    """The status in words, with the kind and the icon of its badge."""
    words, kind, sign = _STATUSES[order.status]
    return _(words), kind, sign


def _list(account: Account, pulse: Pulse) -> dict[str, Any]:
    found = paging.page(partial(orders.some, context.conn(), Which(account_id=account.id)))
    return {"page": found, "look": _look}


live.register("order", Part("billing/orders/_order.html", _followed, _values, ages=True, asks=("order",)))
live.register(
    "orders",
    Part(
        "billing/orders/_list.html",
        lambda account, pulse: orders.latest_change(context.conn(), account.id),
        _list,
        ages=True,
        asks=paging.ASKS,
    ),
)


# --- the operator's side


@blueprint.get("/admin/orders")
@access.operate
def everyone() -> ResponseReturnValue:
    """All customers' orders, newest first: `?status=`, `?customer=` (its id), `?before=` and `?after=`."""
    which = _which()
    conn = context.conn()
    return htmx.page(
        "billing/orders/admin.html",
        page=paging.page(partial(orders.some, conn, which)),
        which=which,
        query=urlencode(
            {name: value for name, value in request.args.items() if name in ("status", "customer") and value}
        ),
        customers=customers.everyone(conn),
        statuses={status: _(words) for status, (words, _kind, _sign) in _STATUSES.items()},
        look=_look,
    )


@blueprint.get("/admin/orders.csv")
@access.operate
def download() -> ResponseReturnValue:
    """The same orders, all of them."""
    return downloads.send("orders.csv", _COLUMNS, _rows(_which()))


def _which() -> Which:
    """What the address asks for; what is no status or no customer's number asks for nothing."""
    status = request.args.get("status")
    return Which(
        customer_id=_number(request.args.get("customer")) or None,
        status=status if status in orders.STATUSES else None,
    )


def _rows(which: Which) -> Iterator[list[object]]:
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


@blueprint.get("/admin/orders/<number>/pay")
@access.operate
def ask_paid(number: str) -> ResponseReturnValue:
    """What happens when an order is marked as paid, before it does."""
    order = _anyones(number)
    account = accounts.by_name(context.conn(), order.account)
    return htmx.dialog(
        "billing/orders/_paid.html",
        account,
        title=_("Mark as paid?"),
        tab="credits",
        order=order,
        form=PaidForm(formdata=None),
    )


@blueprint.post("/admin/orders/<number>/pay")
@access.operate
def mark_paid(number: str) -> ResponseReturnValue:
    """Sent twice, it finds the order paid, and credits nothing."""
    order, form = _anyones(number), PaidForm()
    try:
        purchases.pay(context.conn(), context.keys(), context.actor(), order, form.payment.data or "")
        toast = Toast(_("Order %(number)s was marked as paid.", number=order.number))
    except orders.OrderClosed as refusal:
        toast = Toast(refusal.localized(), "info")
    return htmx.moved(_address(order), toast)


def _anyones(number: str) -> Order:
    try:
        return orders.by_number(context.conn(), number)
    except orders.NoSuchOrder:
        abort(404)


# --- packs


@dataclass
class Row:
    """A row of the form of packs, as it was typed. `unit_price` and `buyers` are those of the pack that is sold now."""

    credits: str = ""
    price: str = ""
    error: str = ""
    unit_price: str = ""
    buyers: int = 0


@blueprint.get("/admin/packs")
@access.operate
def price_list() -> ResponseReturnValue:
    sold = packs.everyone(context.conn())
    rows = [Row(i18n.credits(each.credits), i18n.plain_money(each.price, each.currency)) for each in sold]
    return _price_list(sold[0].currency if sold else "EUR", rows)


@blueprint.post("/admin/packs")
@access.operate
def change_packs() -> ResponseReturnValue:
    """Sell what the form says: all of it or, where a row is refused, nothing of it."""
    typed = zip(request.form.getlist("credits"), request.form.getlist("price"), strict=False)
    rows = [Row(size.strip(), price.strip()) for size, price in typed]
    rows = [each for each in rows if each.credits or each.price][: packs.MOST + 1]
    currency = request.form.get("currency", "")
    currency_error = form_error = ""
    try:
        code = packs.parse_currency(currency)
    except packs.InvalidCurrency as refusal:
        code, currency_error = "", refusal.localized()
    read = [_read(each, code or "EUR") for each in rows]
    if not currency_error and all(each is not None for each in read):
        try:
            packs.replace(context.conn(), context.actor(), [each for each in read if each is not None])
        except packs.PriceNotFalling as refusal:
            rows[read.index(refusal.pack)].error = refusal.localized()
        except Refused as refusal:
            form_error = refusal.localized()
        else:
            return htmx.done(url_for(".price_list"), Toast(_("The packs were saved.")))
    return _price_list(currency, rows, currency_error, form_error, status=422)


def _read(row: Row, currency: str) -> Pack | None:
    """The pack that a row says; None where it can't be read, which the row then says."""
    try:
        return Pack(credit_amounts.parse(row.credits), packs.parse_price(row.price, currency), currency)
    except Refused as refusal:
        row.error = refusal.localized()
        return None


def _price_list(
    currency: str, rows: list[Row], currency_error: str = "", form_error: str = "", status: int = 200
) -> ResponseReturnValue:
    conn = context.conn()
    sold = {i18n.credits(each.credits): each for each in packs.everyone(conn)}
    buyers = packs.bought_automatically(conn)
    for row in rows:
        if pack := sold.get(row.credits):
            row.unit_price, row.buyers = pack.unit_price, buyers.get(pack.credits, 0)
    return htmx.page(
        "billing/orders/packs.html",
        status=status,
        currency=currency,
        rows=[*rows, *(Row() for _blank in range(_NEW_ROWS))],
        currency_error=currency_error,
        form_error=form_error,
    )


# --- the payment page's side


@blueprint.post("/payments/callback")
@access.public
def callback() -> ResponseReturnValue:
    """A payment page says that an order is paid; see docs/payments.md. Only its signature proves who asks."""
    settings = context.config().payments
    if not settings.secret:
        abort(404)
    request.max_content_length = payments.LONGEST_BODY
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    message_id, timestamp, signatures = (request.headers.get(each, "") for each in names)
    address = context.client_address()
    try:
        body = request.get_data()
        payments.verify(settings, message_id, timestamp, signatures, body, int(time.time()))
        said = payments.read(body)
        result = payments.receive(context.conn(), context.keys(), settings, said, message_id, address)
    except payments.CallbackRefused as refusal:
        # The audit log holds what came from the payment page; this may have come from anybody.
        _log.warning("a callback from %s was refused: %s", address, refusal)
        return {"error": refusal.code, "message": str(refusal)}, _CODES.get(type(refusal), 400)
    return {"result": result}
