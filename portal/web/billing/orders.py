"""Buying packs of credits: the offer, orders, and the redirect to the payment page; for operators, all orders, and the
packs that are sold.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, abort, redirect, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import HiddenField, StringField

from portal.core import i18n
from portal.core.i18n import N_, _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import orders, packs, payments
from portal.services.billing.orders import Order, OrderFilter
from portal.services.billing.packs import Pack
from portal.services.common import credit_amounts
from portal.services.common.errors import Refused
from portal.services.people import customers
from portal.web.core import access, context, downloads, htmx, live, paging
from portal.web.core.forms import OnceForm, TranslatedForm, parse_row_id, refusals_on

blueprint = Blueprint("orders", __name__)
blueprint.before_request(access.require_billing)

# The label, the kind and the icon of the badge of an order's status.
_STATUS_BADGES = {
    orders.OPEN: (N_("open"), "warn", "clock"),
    orders.PAID: (N_("paid"), "ok", "check"),
    orders.CANCELLED: (N_("cancelled"), "mute", "ban"),
}
_ORIGIN_LABELS = {orders.CUSTOMER: N_("ordered"), orders.AUTOMATIC: N_("automatic re-credit")}
_CSV_COLUMNS = (
    "order;created;created_by;customer;account;origin;credits;price;currency;status;credits_arrived;paid;paid_by;payment;"
    "cancelled;cancelled_by"
).split(";")

# Empty rows for further packs.
_BLANK_ROW_COUNT = 3


class PackOrderForm(OnceForm):
    """What was chosen, as it was shown."""

    pack = HiddenField()
    price = HiddenField()
    currency = HiddenField()


class MarkPaidForm(TranslatedForm):
    payment = StringField(N_("How it was paid"))


# --- buying


@blueprint.route("/accounts/<name>/credits/buy", methods=["GET", "POST"])
@access.account_change_required
def buy_pack(account: Account) -> ResponseReturnValue:
    """The packs; with `?pack=` (thousandths of a credit) what buying that one means; ordering it."""
    form, conn = PackOrderForm(), context.get_conn()
    if not form.is_submitted():
        if "pack" in request.args:
            return _render_confirmation(account, form, packs.get_pack(conn, parse_row_id(request.args["pack"])))
        offer = packs.list_packs(conn)
        return htmx.render_page("billing/orders/buy.html", account=account, tab="credits", packs=offer)
    # 0 where a hidden field was tampered with.
    size, price = (request.form.get(each, 0, type=parse_row_id) for each in ("pack", "price"))
    pack, keys, actor = Pack(size, price, form.currency.data), context.get_crypto_keys(), context.get_actor()
    with refusals_on(form):
        with htmx.once(url_for(".list_orders", name=account.name)):
            order = orders.purchase_pack(conn, keys, actor, account, pack)
        toast = htmx.Toast(_("Order %(number)s was made.", number=order.number))
        return htmx.redirect_browser_or_htmx(_order_url(order), toast)
    return _render_confirmation(
        account, form, next((each for each in packs.list_packs(conn) if each.credits == size), None)
    )


def _render_confirmation(account: Account, form: PackOrderForm, pack: Pack | None) -> ResponseReturnValue:
    if pack is not None:
        # The pack as it is now: whoever confirms again has seen its price.
        form.pack.data, form.price.data, form.currency.data = str(pack.credits), str(pack.price), pack.currency
    return htmx.render_dialog(
        "billing/orders/_buy.html", account, title=_("Buy credits"), tab="credits", form=form, pack=pack
    )


# --- a customer's orders


@blueprint.get("/accounts/<name>/orders")
@access.account_access_required
def list_orders(account: Account) -> ResponseReturnValue:
    """A page of them, newest first; `?before=` and `?after=` turn it."""
    return live.render_live_page("billing/orders/page.html", "orders", account)


@blueprint.get("/accounts/<name>/orders/<number>")
@access.account_access_required
def show_order(account: Account, number: str) -> ResponseReturnValue:
    """An order, to print or to pay."""
    _get_order(account, number)
    return live.render_live_page("billing/orders/order.html", "order", account)


@blueprint.get("/accounts/<name>/orders/<number>/pay")
@access.account_change_required
def pay_order(account: Account, number: str) -> ResponseReturnValue:
    """Redirect to the payment page.

    This is a link and not a form: the Content-Security-Policy (form-action) limits also where a form's redirects lead.
    """
    order, settings = _get_order(account, number), context.get_config().payments
    if not settings.checkout_url:
        abort(404)
    if order.status != orders.OPEN:
        return htmx.redirect_after_post(_order_url(order))
    back = context.build_public_url(".show_order", name=account.name, number=order.number)
    return redirect(payments.build_checkout_url(settings, order, back, int(time.time())))


@blueprint.route("/accounts/<name>/orders/<number>/cancel", methods=["GET", "POST"])
@access.account_change_required
def cancel_order(account: Account, number: str) -> ResponseReturnValue:
    """Cancel an order, once that has been confirmed."""
    order = _get_order(account, number)
    if request.method != "POST":
        title = _("Cancel this order?")
        return htmx.render_dialog("billing/orders/_cancel.html", account, title=title, tab="credits", order=order)
    try:
        orders.cancel_order(context.get_conn(), context.get_actor(), order)
        toast = htmx.Toast(_("Order %(number)s was cancelled.", number=order.number))
    except Refused as refusal:
        toast = htmx.Toast(refusal.localized(), "warn")
    return htmx.redirect_browser_or_htmx(_order_url(order), toast)


def _get_order(account: Account, number: str) -> Order:
    return orders.get_order_by_number(context.get_conn(), number, account.id)


def _order_url(order: Order) -> str:
    """The address of an order's page."""
    return url_for("orders.show_order", name=order.account, number=order.number)


def _get_requested_order(account: Account) -> Order:
    """The order that a page shows: the one in its address, or in the query of its poll."""
    access.require_billing()
    number = (request.view_args or {}).get("number") or request.args.get("order", "")
    return _get_order(account, number)


def _order_context(account: Account) -> dict[str, Any]:
    return {
        "order": _get_requested_order(account),
        "contact": customers.get_customer_by_id(context.get_conn(), account.customer_id).contact_email,
        "payments": context.get_config().payments,
        "may_pay": access.get_current_user().is_operator,
        "describe_status": _describe_order_status,
        "origins": _ORIGIN_LABELS,
    }


def _describe_order_status(order: Order) -> tuple[str, str, str]:
    """The label of an order's status, with the kind and the icon of its badge."""
    words, kind, icon = _STATUS_BADGES[order.status]
    return _(words), kind, icon


def _list_context(account: Account) -> dict[str, Any]:
    # Open pages poll elsewhere.
    access.require_billing()
    page = paging.paginate(partial(orders.list_orders_page, context.get_conn(), OrderFilter(account_id=account.id)))
    return {"page": page, "describe_status": _describe_order_status}


live.register_live_page("order", live.LiveFragment("billing/orders/_order.html", _order_context, _get_requested_order))
live.register_live_page(
    "orders",
    live.LiveFragment(
        "billing/orders/_list.html",
        _list_context,
        lambda account: orders.read_orders_version(context.get_conn(), account.id),
    ),
)


# --- all customers' orders, for operators


@blueprint.get("/admin/orders")
@access.operator_required
def list_all_orders() -> ResponseReturnValue:
    """All customers' orders, newest first: `?status=`, `?customer=` (its id), `?before=` and `?after=`."""
    conn, order_filter = context.get_conn(), _read_filter()
    chosen = {name: value for name, value in request.args.items() if name in ("status", "customer") and value}
    return htmx.render_page(
        "billing/all_orders/page.html",
        page=paging.paginate(partial(orders.list_orders_page, conn, order_filter)),
        order_filter=order_filter,
        query=urlencode(chosen),
        customers=customers.list_all_customers(conn),
        statuses={status: _(words) for status, (words, _kind, _sign) in _STATUS_BADGES.items()},
        describe_status=_describe_order_status,
    )


@blueprint.get("/admin/orders.csv")
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


@blueprint.route("/admin/orders/<number>/pay", methods=["GET", "POST"])
@access.operator_required
def mark_order_paid(number: str) -> ResponseReturnValue:
    """Mark an order as paid, once that has been confirmed. Sent twice, it adds the credits once."""
    conn, form = context.get_conn(), MarkPaidForm()
    order = orders.get_order_by_number(conn, number)
    if not form.is_submitted():
        template, account = "billing/all_orders/_mark_paid.html", accounts.get_account(conn, order.account)
        return htmx.render_dialog(template, account, title=_("Mark as paid?"), tab="credits", order=order, form=form)
    try:
        orders.confirm_payment(conn, context.get_crypto_keys(), context.get_actor(), order, form.payment.data)
        toast = htmx.Toast(_("Order %(number)s was marked as paid.", number=order.number))
    except orders.OrderClosed as refusal:
        toast = htmx.Toast(refusal.localized(), "info")
    return htmx.redirect_browser_or_htmx(_order_url(order), toast)


# --- the packs that are sold, for operators


class PacksForm(TranslatedForm):
    currency = StringField(N_("Currency"))


@dataclass
class PackFormRow:
    """A row of the form of packs, as it was typed. `unit_price` and `buyers` are those of the pack that is sold now."""

    credits: str = ""
    price: str = ""
    error: str = ""
    unit_price: str = ""
    buyers: int = 0


@blueprint.route("/admin/packs", methods=["GET", "POST"])
@access.operator_required
def change_packs() -> ResponseReturnValue:
    """The packs as one form, with empty rows for further ones; it replaces all or, where a row is refused, none."""
    form = PacksForm()
    if not form.is_submitted():
        sold = packs.list_packs(context.get_conn())
        form.currency.data = sold[0].currency if sold else "EUR"
        rows = [
            PackFormRow(i18n.format_credits(each.credits), i18n.format_money_input(each.price, each.currency))
            for each in sold
        ]
        return _render_packs_page(form, rows)
    fields = zip(request.form.getlist("credits"), request.form.getlist("price"), strict=False)
    rows = [PackFormRow(size.strip(), price.strip()) for size, price in fields]
    rows = [each for each in rows if each.credits or each.price][: packs.MAX_PACKS + 1]
    currency = ""
    with refusals_on(form):
        currency = packs.parse_currency(form.currency.data)
    parsed_packs = [_parse_pack_row(each, currency or "EUR") for each in rows]
    with refusals_on(form):
        if currency and None not in parsed_packs:
            try:
                packs.replace_packs(context.get_conn(), context.get_actor(), [each for each in parsed_packs if each])
            except packs.UnitPriceNotFalling as refusal:
                rows[parsed_packs.index(refusal.params["pack"])].error = refusal.localized()
                return _render_packs_page(form, rows, status=422)
            # Without packs nothing may be sold any more, and then this page isn't there.
            is_enabled = packs.is_billing_enabled(context.get_conn(), context.get_config().billing.enabled)
            address = url_for(".change_packs" if is_enabled else "admin_balances.list_balances")
            return htmx.redirect_after_post(address, htmx.Toast(_("The packs were saved.")))
    return _render_packs_page(form, rows, status=422)


def _parse_pack_row(row: PackFormRow, currency: str) -> Pack | None:
    """The pack in a row; None where it is invalid, with the reason in the row's `error`."""
    try:
        return Pack(credit_amounts.parse_amount(row.credits), packs.parse_pack_price(row.price, currency), currency)
    except Refused as refusal:
        row.error = refusal.localized()
        return None


def _render_packs_page(form: PacksForm, rows: list[PackFormRow], status: int | None = None) -> ResponseReturnValue:
    conn = context.get_conn()
    sold = {i18n.format_credits(each.credits): each for each in packs.list_packs(conn)}
    buyers = packs.count_recredit_accounts(conn)
    for row in rows:
        if pack := sold.get(row.credits):
            row.unit_price, row.buyers = pack.unit_price, buyers.get(pack.credits, 0)
    rows += [PackFormRow() for _blank in range(_BLANK_ROW_COUNT)]
    return htmx.render_page("billing/packs/page.html", status=status, form=form, rows=rows)
