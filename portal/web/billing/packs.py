"""The operator's page of the packs that are sold."""

from dataclasses import dataclass

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from portal.core import i18n
from portal.core.i18n import gettext as _
from portal.services.billing import packs
from portal.services.billing.packs import Pack
from portal.services.common import credit_amounts
from portal.services.common.errors import Refused
from portal.web.core import access, context, htmx
from portal.web.core.htmx import Toast

blueprint = Blueprint("packs", __name__, url_prefix="/admin")

# Rows for further packs, below those that there are.
_NEW_ROWS = 3


@dataclass
class PackRow:
    """A row of the form of packs, as it was typed. `unit_price` and `buyers` are those of the pack that is sold now."""

    credits: str = ""
    price: str = ""
    error: str = ""
    unit_price: str = ""
    buyers: int = 0


@blueprint.get("/packs")
@access.operate
def show_packs() -> ResponseReturnValue:
    """The packs as one form, with empty rows for further ones."""
    sold = packs.everyone(context.conn())
    rows = [PackRow(i18n.credits(each.credits), i18n.plain_money(each.price, each.currency)) for each in sold]
    return _render_packs(sold[0].currency if sold else "EUR", rows)


@blueprint.post("/packs")
@access.operate
def change_packs() -> ResponseReturnValue:
    """Sell what the form says: all of it or, where a row is refused, nothing of it."""
    typed = zip(request.form.getlist("credits"), request.form.getlist("price"), strict=False)
    rows = [PackRow(size.strip(), price.strip()) for size, price in typed]
    rows = [each for each in rows if each.credits or each.price][: packs.MOST + 1]
    currency = request.form.get("currency", "")
    currency_error = form_error = ""
    try:
        code = packs.parse_currency(currency)
    except packs.InvalidCurrency as refusal:
        code, currency_error = "", refusal.localized()
    read = [_read_row(each, code or "EUR") for each in rows]
    if not currency_error and all(each is not None for each in read):
        try:
            packs.replace(context.conn(), context.actor(), [each for each in read if each is not None])
        except packs.PriceNotFalling as refusal:
            rows[read.index(refusal.pack)].error = refusal.localized()
        except Refused as refusal:
            form_error = refusal.localized()
        else:
            return htmx.done(url_for(".show_packs"), Toast(_("The packs were saved.")))
    return _render_packs(currency, rows, currency_error, form_error, status=422)


def _read_row(row: PackRow, currency: str) -> Pack | None:
    """The pack that a row says; None where it can't be read, which the row then says."""
    try:
        return Pack(credit_amounts.parse(row.credits), packs.parse_price(row.price, currency), currency)
    except Refused as refusal:
        row.error = refusal.localized()
        return None


def _render_packs(
    currency: str, rows: list[PackRow], currency_error: str = "", form_error: str = "", status: int = 200
) -> ResponseReturnValue:
    conn = context.conn()
    sold = {i18n.credits(each.credits): each for each in packs.everyone(conn)}
    buyers = packs.bought_automatically(conn)
    for row in rows:
        if pack := sold.get(row.credits):
            row.unit_price, row.buyers = pack.unit_price, buyers.get(pack.credits, 0)
    return htmx.page(
        "billing/packs/page.html",
        status=status,
        currency=currency,
        rows=[*rows, *(PackRow() for _blank in range(_NEW_ROWS))],
        currency_error=currency_error,
        form_error=form_error,
    )
