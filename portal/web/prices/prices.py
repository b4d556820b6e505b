"""What a part costs: the operator's price lists, a customer's own list, and what a text would cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.file import FileField
from wtforms import BooleanField, StringField, TextAreaField

from portal.core import i18n
from portal.core.clock import now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_, _
from portal.services.accounts.accounts import Account
from portal.services.common.errors import Refused
from portal.services.messages import estimates
from portal.services.messages.blacklist import NoNumbers
from portal.services.people import customers
from portal.services.people.customers import Customer
from portal.services.prices import countries, price_csv, price_lists, prices
from portal.services.prices.price_csv import PriceImportPlan
from portal.services.prices.price_lists import PriceListSummary
from portal.services.prices.prices import PriceChange, PriceRow
from portal.web.core import access, context, htmx
from portal.web.core.forms import TranslatedForm, add_form_error, parse_row_id, read_upload, refusals_on
from portal.web.core.paging import PAGE_SIZE

blueprint = Blueprint("prices", __name__)

_MAX_STEPS = 100


class PriceListForm(TranslatedForm):
    name = StringField(N_("Name"))


class PriceForm(TranslatedForm):
    """`price` as typed; with `closed` there is none, and nothing is sent. `valid_from` empty: at once."""

    destination = StringField(N_("Country or first digits"))
    price = StringField(N_("Credits a part"))
    closed = BooleanField(N_("Nothing is sent there"))
    valid_from = StringField(N_("From"))


class PriceFileForm(TranslatedForm):
    file = FileField(N_("CSV file"))


class CostEstimateForm(TranslatedForm):
    """`numbers`: one a line."""

    text = TextAreaField(N_("Text"))
    numbers = TextAreaField(N_("Numbers"))


# --- tables of prices


@dataclass(frozen=True, slots=True)
class PriceTableRow:
    """A row of a list with its country's name, and the prefix of the numbers that it covers (`+39`)."""

    row: PriceRow
    country_name: str
    number_prefix: str


def _build_price_table(list_id: int) -> dict[str, Any]:
    """The page of a list that this request's query names: `q`, a country or a number; `page`.

    With what follows the `?` in the addresses of the pages beside (empty where there is none).
    """
    search_text = request.args.get("q", "").strip()
    page = max(request.args.get("page", 1, type=int), 1)
    rows = [_build_table_row(each) for each in prices.list_price_rows(context.get_conn(), list_id, now_ms())]
    matches = sorted((each for each in rows if _matches_search(each, search_text)), key=_sort_key)
    page_count = max(-(-len(matches) // PAGE_SIZE), 1)
    page = min(page, page_count)
    query = {"q": search_text} if search_text else {}
    return {
        "rows": matches[(page - 1) * PAGE_SIZE : page * PAGE_SIZE],
        "total": len(matches),
        "search_text": search_text,
        "previous_page": urlencode({**query, "page": page - 1}) if page > 1 else "",
        "next_page": urlencode({**query, "page": page + 1}) if page < page_count else "",
    }


def _build_table_row(row: PriceRow) -> PriceTableRow:
    name = countries.get_country_name(row.country) if row.country else ""
    prefix = row.destination if row.is_range else countries.get_calling_code(row.destination)
    return PriceTableRow(row, name, f"+{prefix}")


def _sort_key(table_row: PriceTableRow) -> tuple[str, bool, str]:
    return countries.normalize_name(table_row.country_name), table_row.row.is_range, table_row.row.destination


def _matches_search(table_row: PriceTableRow, search_text: str) -> bool:
    """Whether a row is about a country (by name or code), or decides over a number, or numbers that begin so."""
    destination, digits = table_row.row.destination, countries.strip_separators(search_text)
    if not (digits.isascii() and digits.isdigit()):
        return (
            countries.normalize_name(search_text) in countries.normalize_name(table_row.country_name)
            or destination == search_text.upper()
        )
    if not table_row.row.is_range and (country := countries.find_country(digits)):
        return destination == country
    prefix = table_row.number_prefix.removeprefix("+")
    return prefix.startswith(digits) or digits.startswith(prefix)


# --- the operator's lists


@blueprint.get("/admin/prices", endpoint="show_default_prices", defaults={"list_id": price_lists.DEFAULT_LIST})
@blueprint.get("/admin/prices/<int:list_id>")
@access.operator_required
def show_prices(price_list: PriceListSummary) -> ResponseReturnValue:
    values: dict[str, Any] = {"price_list": price_list, "table": _build_price_table(price_list.id)}
    if htmx.is_htmx_request():
        return htmx.render_fragments("prices/_rows.html", **values)
    return htmx.render_page(
        "prices/list.html", lists=_list_price_lists_with_urls(), list_name=_price_list_name, **values
    )


@blueprint.route("/admin/prices/<int:list_id>/set", methods=["GET", "POST"])
@access.operator_required
def change_price(price_list: PriceListSummary) -> ResponseReturnValue:
    """Show a list's price of one destination (`?destination=`); set it, or close it, from now on or from a date on."""
    form, timezone = PriceForm(), context.get_config().timezone
    if form.is_submitted():
        with refusals_on(form):
            destination = prices.parse_destination(form.destination.data)
            price = None if form.closed.data else prices.parse_price(form.price.data)
            valid_from = prices.parse_valid_from(form.valid_from.data, timezone)
            changes = [PriceChange(destination, price, valid_from)]
            prices.change_prices(context.get_conn(), context.get_actor(), price_list.id, changes, timezone)
            name = _format_destination(destination)
            toast = htmx.Toast(_("The price of %(destination)s was saved.", destination=name))
            return htmx.redirect_after_post(_price_url(price_list, destination), toast)
    else:
        form.destination.data = request.args.get("destination", "")
    row = _find_price_row(price_list.id, form.destination.data)
    if row and not form.is_submitted():
        form.destination.data, form.closed.data = row.destination, row.in_force and row.price is None
        form.price.data = "" if row.price is None else i18n.format_credits(row.price)
    return _render_list_page("prices/set.html", price_list, form=form, line=_build_table_row(row) if row else None)


def _price_url(price_list: PriceListSummary, destination: str) -> str:
    return url_for(".change_price", list_id=price_list.id, destination=destination)


def _find_price_row(list_id: int, text: str) -> PriceRow | None:
    """A list's row of the destination that was typed, if there is one."""
    try:
        return prices.get_price_row(context.get_conn(), list_id, prices.parse_destination(text), now_ms())
    except Refused:
        return None


def _format_destination(destination: str) -> str:
    return f"+{destination}" if destination.isdigit() else countries.get_country_name(destination)


@blueprint.post("/admin/prices/<int:list_id>/remove")
@access.operator_required
def remove_price(price_list: PriceListSummary) -> ResponseReturnValue:
    """Remove a `destination` from a list, or with `valid_from` cancel that scheduled change."""
    destination = request.form.get("destination", "")
    # A date that can't be parsed matches no change; it must not remove the whole destination.
    valid_from = request.form.get("valid_from", 0, type=parse_row_id) if "valid_from" in request.form else None
    words = N_("The list says nothing about %(destination)s any more.")
    if valid_from is not None:
        words = N_("The change for %(destination)s was cancelled.")
    try:
        prices.remove_price(context.get_conn(), context.get_actor(), price_list.id, destination, valid_from)
        toast = htmx.Toast(_(words, destination=_format_destination(destination)))
    except prices.NoSuchPrice as refusal:
        # Removed by a colleague in the meantime, or it has come into force.
        toast = htmx.Toast(refusal.localized(), "warn")
    if _find_price_row(price_list.id, destination) is None:
        return htmx.redirect_after_post(_price_list_url(price_list), toast)
    return htmx.redirect_after_post(_price_url(price_list, destination), toast)


@blueprint.get("/admin/prices/<int:list_id>.csv")
@access.operator_required
def export_prices_csv(price_list: PriceListSummary) -> ResponseReturnValue:
    """A list's own prices, in the format that the import reads."""
    filename = "prices.csv" if price_list.is_default else f"prices-{price_list.id}.csv"
    rows = prices.list_price_rows(context.get_conn(), price_list.id, now_ms())
    return _build_prices_csv_response(rows, filename, own=True)


def _build_prices_csv_response(rows: Sequence[PriceRow], filename: str, *, own: bool) -> Response:
    # A spreadsheet reads the file as its user writes numbers.
    decimal_comma = "," in i18n.format_number(0.5)
    text = price_csv.format_price_csv(rows, context.get_config().timezone, own_only=own, decimal_comma=decimal_comma)
    # With a BOM, without which Excel takes UTF-8 for something else.
    return Response(
        text.encode("utf-8-sig"),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{filename}"'},
    )


# --- the lists themselves


def _render_list_page(template: str, price_list: PriceListSummary, **values: Any) -> ResponseReturnValue:
    """A page about a list."""
    return htmx.render_page(
        template,
        price_list=price_list,
        list_name=_price_list_name,
        address=_price_list_url(price_list),
        timezone=context.get_config().timezone,
        **values,
    )


def _price_list_name(price_list: PriceListSummary) -> str:
    """A list's name for display."""
    return price_list.name or _("Default prices")


def _price_list_url(price_list: PriceListSummary) -> str:
    """The address of a list's prices."""
    if price_list.is_default:
        return url_for("prices.show_default_prices")
    return url_for("prices.show_prices", list_id=price_list.id)


def _list_price_lists_with_urls() -> list[tuple[PriceListSummary, str]]:
    """All lists, with the addresses of their prices."""
    return [(each, _price_list_url(each)) for each in price_lists.list_price_lists(context.get_conn())]


@blueprint.route("/admin/prices/lists", methods=["GET", "POST"])
@access.operator_required
def create_price_list() -> ResponseReturnValue:
    """All lists, and the form that adds one."""
    form = PriceListForm()
    if form.is_submitted():
        with refusals_on(form):
            price_list = price_lists.create_price_list(context.get_conn(), context.get_actor(), form.name.data)
            toast = htmx.Toast(
                _("%(name)s was added. All costs as in the default list until you set a price.", name=price_list.name)
            )
            return htmx.redirect_after_post(_price_list_url(price_list), toast)
    return htmx.render_page(
        "prices/lists.html", lists=_list_price_lists_with_urls(), list_name=_price_list_name, form=form
    )


@blueprint.route("/admin/prices/<int:list_id>/settings", methods=["GET", "POST"])
@access.operator_required
def rename_price_list(price_list: PriceListSummary) -> ResponseReturnValue:
    """A list's name, who has it, and whether it can be deleted."""
    conn, actor, form = context.get_conn(), context.get_actor(), PriceListForm()
    if not form.is_submitted():
        form.name.data = price_list.name
    else:
        with refusals_on(form):
            renamed = price_lists.rename_price_list(conn, actor, price_list.id, form.name.data)
            toast = htmx.Toast(_("The list is called %(name)s now.", name=renamed.name))
            return htmx.redirect_after_post(_price_list_url(renamed), toast)
    return _render_settings_page(price_list, form)


@blueprint.post("/admin/prices/<int:list_id>/delete")
@access.operator_required
def delete_price_list(price_list: PriceListSummary) -> ResponseReturnValue:
    form = PriceListForm(formdata=None, obj=price_list)
    with refusals_on(form):
        price_lists.delete_price_list(context.get_conn(), context.get_actor(), price_list.id)
        toast = htmx.Toast(_("%(name)s was deleted.", name=price_list.name))
        return htmx.redirect_after_post(url_for(".create_price_list"), toast)
    return _render_settings_page(price_list, form)


def _render_settings_page(price_list: PriceListSummary, form: PriceListForm) -> ResponseReturnValue:
    reason = ""
    try:
        price_lists.require_deletable_price_list(context.get_conn(), price_list.id)
    except Refused as refusal:
        reason = refusal.localized()
    return _render_list_page("prices/settings.html", price_list, form=form, reason=reason)


@blueprint.post("/admin/customers/<int:customer_id>/prices")
@access.operator_required
def assign_price_list(customer: Customer) -> ResponseReturnValue:
    """Give a customer the list `price_list`."""
    list_id = request.form.get("price_list", 0, type=parse_row_id)
    try:
        price_list = price_lists.assign_price_list(context.get_conn(), context.get_actor(), customer, list_id)
    except price_lists.NoSuchPriceList as refusal:
        # Deleted by a colleague while the page was open.
        toast = htmx.Toast(refusal.localized(), "warn")
    else:
        toast = htmx.Toast(
            _("%(customer)s pays by %(name)s now.", customer=customer.name, name=_price_list_name(price_list))
        )
    return htmx.redirect_after_post(url_for("admin_customers.show_customer", customer_id=customer.id), toast)


# --- importing a file


@blueprint.route("/admin/prices/<int:list_id>/import", methods=["GET", "POST"])
@access.operator_required
def preview_import(price_list: PriceListSummary) -> ResponseReturnValue:
    """Ask for a file, and show what it would change, for confirmation."""
    form = PriceFileForm()
    if form.is_submitted():
        with refusals_on(form):
            content = read_upload("file", price_csv.MAX_FILE_BYTES)
            return _render_import_plan(price_list, _plan_import(price_list, content), content)
    return _render_list_page("prices/import.html", price_list, form=form)


@blueprint.post("/admin/prices/<int:list_id>/import/confirm")
@access.operator_required
def import_prices(price_list: PriceListSummary) -> ResponseReturnValue:
    """Import what was confirmed: the form carries the file's `content`, and as `mark` the fingerprint of that plan."""
    content, form = request.form.get("content", "").encode(), PriceFileForm(formdata=None)
    conn, timezone, now = context.get_conn(), context.get_config().timezone, now_ms()
    with refusals_on(form):
        with write_transaction(conn):
            plan = _plan_import(price_list, content)
            if plan.fingerprint != request.form.get("mark"):
                return _render_import_plan(price_list, plan, content, outdated=True)
            prices.change_prices(conn, context.get_actor(), price_list.id, plan.changes, timezone, now=now)
        toast_text = i18n.ngettext("%(num)s price was imported.", "%(num)s prices were imported.", len(plan.changes))
        return htmx.redirect_after_post(_price_list_url(price_list), htmx.Toast(toast_text))
    return _render_list_page("prices/import.html", price_list, form=form)


def _plan_import(price_list: PriceListSummary, content: bytes) -> PriceImportPlan:
    return price_csv.plan_import(context.get_conn(), price_list.id, content, context.get_config().timezone, now_ms())


def _render_import_plan(
    price_list: PriceListSummary, plan: PriceImportPlan, content: bytes, *, outdated: bool = False
) -> ResponseReturnValue:
    steps = [*plan.changed, *plan.new]
    return _render_list_page(
        "prices/plan.html",
        price_list,
        status=422 if outdated else 200,
        plan=plan,
        steps=steps[:_MAX_STEPS],
        more=len(steps) - _MAX_STEPS,
        format_destination=_format_destination,
        content=content.decode("utf-8-sig"),
        outdated=outdated,
    )


# --- a customer's prices


@blueprint.get("/accounts/<name>/credits/prices")
@access.account_access_required
def list_account_prices(account: Account) -> ResponseReturnValue:
    """What a part costs to each destination, by the account's list, with what is to come."""
    table = _build_price_table(_get_price_list_id(account))
    if htmx.is_htmx_request():
        return htmx.render_fragments("prices/_rows.html", account=account, table=table)
    return htmx.render_page("prices/of_account.html", account=account, tab="credits", table=table)


@blueprint.get("/accounts/<name>/credits/prices.csv")
@access.account_access_required
def download_prices_csv(account: Account) -> ResponseReturnValue:
    rows = prices.list_price_rows(context.get_conn(), _get_price_list_id(account), now_ms())
    return _build_prices_csv_response(rows, f"{account.name}-prices.csv", own=False)


def _get_price_list_id(account: Account) -> int:
    return customers.get_customer_by_id(context.get_conn(), account.customer_id).price_list_id


# --- cost estimates


@blueprint.route("/accounts/<name>/credits/cost", methods=["GET", "POST"])
@access.account_access_required
def estimate_cost(account: Account) -> ResponseReturnValue:
    """What a text costs to some numbers. It is a POST only to keep the text out of addresses; it changes nothing."""
    form, refusal = CostEstimateForm(), None
    values: dict[str, Any] = {"country": countries.get_country_name}
    if form.is_submitted():
        try:
            values["estimate"] = estimates.estimate_cost(context.get_conn(), account, form.text.data, form.numbers.data)
        except Refused as error:
            refusal = error
        if htmx.is_htmx_request():
            # The form is still being filled in.
            refusal = None if isinstance(refusal, NoNumbers) else refusal
            status = 422 if refusal else 200
            return htmx.render_fragments("prices/_cost.html", status=status, refusal=refusal, **values)
        if refusal:
            add_form_error(form, refusal)
    values |= {"form": form, "most": estimates.MAX_RECIPIENTS}
    return htmx.render_page("prices/cost.html", account=account, tab="credits", **values)
