"""The operator's page of the packs that are sold."""

from dataclasses import dataclass

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from portal.core import i18n
from portal.core.i18n import _
from portal.services.billing import packs
from portal.services.billing.packs import Pack
from portal.services.common import credit_amounts
from portal.services.common.errors import Refused
from portal.web.core import access, context, htmx

blueprint = Blueprint("packs", __name__, url_prefix="/admin")
blueprint.before_request(access.require_billing)

# Empty rows for further packs.
_BLANK_ROW_COUNT = 3


@dataclass
class PackFormRow:
    """A row of the form of packs, as it was typed. `unit_price` and `buyers` are those of the pack that is sold now."""

    credits: str = ""
    price: str = ""
    error: str = ""
    unit_price: str = ""
    buyers: int = 0


@blueprint.route("/packs", methods=["GET", "POST"])
@access.operator_required
def change_packs() -> ResponseReturnValue:
    """The packs as one form, with empty rows for further ones; it replaces all or, where a row is refused, none."""
    if request.method != "POST":
        sold = packs.list_packs(context.get_conn())
        rows = [
            PackFormRow(i18n.format_credits(each.credits), i18n.format_money_input(each.price, each.currency))
            for each in sold
        ]
        return _render_page(sold[0].currency if sold else "EUR", rows)
    fields = zip(request.form.getlist("credits"), request.form.getlist("price"), strict=False)
    rows = [PackFormRow(size.strip(), price.strip()) for size, price in fields]
    rows = [each for each in rows if each.credits or each.price][: packs.MAX_PACKS + 1]
    currency = request.form.get("currency", "")
    currency_error = form_error = ""
    try:
        currency_code = packs.parse_currency(currency)
    except packs.InvalidCurrency as refusal:
        currency_code, currency_error = "", refusal.localized()
    parsed_packs = [_parse_row(each, currency_code or "EUR") for each in rows]
    if not currency_error and all(each is not None for each in parsed_packs):
        try:
            packs.replace_packs(
                context.get_conn(), context.get_actor(), [each for each in parsed_packs if each is not None]
            )
        except packs.UnitPriceNotFalling as refusal:
            rows[parsed_packs.index(refusal.pack)].error = refusal.localized()
        except Refused as refusal:
            form_error = refusal.localized()
        else:
            # Without packs nothing may be sold any more, and then this page isn't there.
            is_enabled = packs.is_billing_enabled(context.get_conn(), context.get_config().billing.enabled)
            address = url_for(".change_packs" if is_enabled else "admin_balances.list_balances")
            return htmx.redirect_after_post(address, htmx.Toast(_("The packs were saved.")))
    return _render_page(currency, rows, currency_error, form_error, status=422)


def _parse_row(row: PackFormRow, currency: str) -> Pack | None:
    """The pack in a row; None where it is invalid, with the reason in the row's `error`."""
    try:
        return Pack(credit_amounts.parse_amount(row.credits), packs.parse_pack_price(row.price, currency), currency)
    except Refused as refusal:
        row.error = refusal.localized()
        return None


def _render_page(
    currency: str, rows: list[PackFormRow], currency_error: str = "", form_error: str = "", status: int = 200
) -> ResponseReturnValue:
    conn = context.get_conn()
    sold = {i18n.format_credits(each.credits): each for each in packs.list_packs(conn)}
    buyers = packs.count_recredit_accounts(conn)
    for row in rows:
        if pack := sold.get(row.credits):
            row.unit_price, row.buyers = pack.unit_price, buyers.get(pack.credits, 0)
    return htmx.render_page(
        "billing/packs/page.html",
        status=status,
        currency=currency,
        rows=[*rows, *(PackFormRow() for _blank in range(_BLANK_ROW_COUNT))],
        currency_error=currency_error,
        form_error=form_error,
    )
