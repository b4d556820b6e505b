"""What a part costs: the operator's price lists, a customer's own list, and what a text would cost."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.file import FileField
from wtforms import BooleanField, StringField, TextAreaField

from portal.core import i18n
from portal.core.clock import now_ms
from portal.core.db import immediate
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts.accounts import Account
from portal.services.common.csv_import import BadLines
from portal.services.common.errors import Refused
from portal.services.messages import estimates
from portal.services.people import customers
from portal.services.prices import countries, price_csv, price_lists, prices
from portal.services.prices.price_csv import Plan
from portal.services.prices.price_lists import NamedList
from portal.services.prices.prices import Change, Row
from portal.web.core import access, context, htmx, layout
from portal.web.core.forms import Form, attach, row_id
from portal.web.core.htmx import Toast
from portal.web.prices.price_lists import address_of, list_name, lists_with_addresses, named

blueprint = Blueprint("prices", __name__)

_SIZE = 30
_STEPS_SHOWN = 100


class PriceForm(Form):
    """`price` as typed; with `closed` there is none, and nothing is sent. `valid_from` empty: at once."""

    destination = StringField(N_("Country or first digits"))
    price = StringField(N_("Credits a part"))
    closed = BooleanField(N_("Nothing is sent there"))
    valid_from = StringField(N_("From"))


class FileForm(Form):
    file = FileField(N_("CSV file"))


class CostForm(Form):
    """`numbers`: one a line."""

    text = TextAreaField(N_("Text"))
    numbers = TextAreaField(N_("Numbers"))


# --- tables of prices


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a list in the reader's words: its country's name, and the numbers that it is about (`+39`)."""

    row: Row
    name: str
    numbers: str


@dataclass(frozen=True, slots=True)
class Table:
    """A page of a list, with what follows the `?` in the addresses of the pages beside (empty where there is none)."""

    lines: Sequence[Line]
    total: int
    words: str
    before: str
    after: str


def _table(list_id: int) -> Table:
    """What the query asks for: `q`, a country or a number; `page`."""
    wanted = request.args.get("q", "").strip()
    page = max(request.args.get("page", 1, type=int), 1)
    lines = [_line(each) for each in prices.rows(context.conn(), list_id, now_ms())]
    found = sorted((each for each in lines if _is_wanted(each, wanted)), key=_alphabetical)
    pages = max(-(-len(found) // _SIZE), 1)
    page = min(page, pages)
    address = partial(_address_of_page, wanted)
    return Table(
        found[(page - 1) * _SIZE : page * _SIZE],
        len(found),
        wanted,
        address(page - 1) if page > 1 else "",
        address(page + 1) if page < pages else "",
    )


def _address_of_page(words: str, page: int) -> str:
    return urlencode({"q": words, "page": page} if words else {"page": page})


def _line(row: Row) -> Line:
    country = row.country
    name = countries.name(country) if country else ""
    return Line(row, name, f"+{row.destination if row.is_range else countries.calling_code(row.destination)}")


def _alphabetical(line: Line) -> tuple[str, bool, str]:
    return _folded(line.name), line.row.is_range, line.row.destination


def _is_wanted(line: Line, wanted: str) -> bool:
    """Whether a row is about a country (by name or code), or decides over a number, or numbers that begin so."""
    destination, digits = line.row.destination, wanted.translate({ord(each): None for each in " +-"})
    if not (digits.isascii() and digits.isdigit()):
        return _folded(wanted) in _folded(line.name) or destination == wanted.upper()
    if not line.row.is_range and (country := countries.country_of(digits)):
        return destination == country
    begins = line.numbers.removeprefix("+")
    return begins.startswith(digits) or digits.startswith(begins)


def _folded(text: str) -> str:
    """For finding and sorting: without accents and capitals, so that Åland stands among the A."""
    return "".join(each for each in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(each))


# --- the operator's lists


@blueprint.get("/admin/prices")
@access.operate
def index() -> ResponseReturnValue:
    """The default list."""
    return _list_page(named(price_lists.DEFAULT_LIST))


@blueprint.get("/admin/prices/<int:list_id>")
@access.operate
def shown(list_id: int) -> ResponseReturnValue:
    return _list_page(named(list_id))


def _list_page(price_list: NamedList) -> ResponseReturnValue:
    values: dict[str, Any] = {"price_list": price_list, "table": _table(price_list.id)}
    if htmx.wanted():
        return htmx.parts("prices/_rows.html", **values)
    return htmx.page("prices/list.html", lists=lists_with_addresses(), list_name=list_name, **values)


@blueprint.get("/admin/prices/<int:list_id>/set")
@access.operate
def ask(list_id: int) -> ResponseReturnValue:
    """What a list says of one destination (`?destination=`), and the form that changes it."""
    form = PriceForm(formdata=None)
    row = _row(list_id, request.args.get("destination", ""))
    if row is not None:
        form.destination.data = row.destination
        form.closed.data = row.holds and row.price is None
        form.price.data = "" if row.price is None else i18n.credits(row.price)
    else:
        form.destination.data = request.args.get("destination", "")
    return _set_page(named(list_id), form)


@blueprint.post("/admin/prices/<int:list_id>/set")
@access.operate
def change(list_id: int) -> ResponseReturnValue:
    """Set a price, or close a destination, from now on or from a date on."""
    price_list, form = named(list_id), PriceForm()
    timezone = context.config().timezone
    try:
        destination = prices.checked_destination(form.destination.data or "")
        price = None if form.closed.data else prices.parse_price(form.price.data or "")
        valid_from = prices.parse_date(form.valid_from.data or "", timezone)
        wanted = [Change(destination, price, valid_from)]
        prices.change(context.conn(), context.actor(), list_id, wanted, timezone)
    except Refused as refusal:
        attach(form, refusal)
        return _set_page(price_list, form)
    toast = Toast(_("The price of %(destination)s was saved.", destination=_in_words(destination)))
    return htmx.done(url_for(".ask", list_id=list_id, destination=destination), toast)


def _set_page(price_list: NamedList, form: PriceForm) -> ResponseReturnValue:
    row = _row(price_list.id, form.destination.data or "")
    return htmx.page(
        "prices/set.html",
        status=422 if form.errors else 200,
        price_list=price_list,
        list_name=list_name,
        address=address_of(price_list),
        form=form,
        line=_line(row) if row else None,
        timezone=context.config().timezone,
    )


def _row(list_id: int, text: str) -> Row | None:
    """What a list says of what somebody typed, if anything."""
    try:
        return prices.row(context.conn(), list_id, prices.checked_destination(text), now_ms())
    except Refused:
        return None


def _in_words(destination: str) -> str:
    return f"+{destination}" if destination.isdigit() else countries.name(destination)


@blueprint.post("/admin/prices/<int:list_id>/remove")
@access.operate
def remove(list_id: int) -> ResponseReturnValue:
    """Let a list say nothing of a `destination` any more, or with `valid_from` call off that change."""
    price_list, destination = named(list_id), request.form.get("destination", "")
    # One that can't be read is no change's, and not a wish to remove them all.
    valid_from = request.form.get("valid_from", 0, type=row_id) if "valid_from" in request.form else None
    conn, actor = context.conn(), context.actor()
    try:
        if valid_from is None:
            prices.remove(conn, actor, list_id, destination)
            toast = Toast(
                _("The list says nothing about %(destination)s any more.", destination=_in_words(destination))
            )
        else:
            prices.call_off(conn, actor, list_id, destination, valid_from)
            toast = Toast(_("The change for %(destination)s was called off.", destination=_in_words(destination)))
    except prices.NoSuchPrice as refusal:
        # Removed by a colleague in the meantime, or it has come into force.
        toast = Toast(refusal.localized(), "warn")
    if _row(list_id, destination) is None:
        return htmx.done(address_of(price_list), toast)
    return htmx.done(url_for(".ask", list_id=list_id, destination=destination), toast)


@blueprint.get("/admin/prices/<int:list_id>.csv")
@access.operate
def export(list_id: int) -> ResponseReturnValue:
    """What a list says itself, as the import reads it."""
    price_list = named(list_id)
    name = "prices.csv" if price_list.is_default else f"prices-{price_list.id}.csv"
    return _csv(prices.rows(context.conn(), list_id, now_ms()), name, own=True)


def _csv(rows: Sequence[Row], name: str, *, own: bool) -> Response:
    # A spreadsheet reads the file as its user writes numbers.
    decimal_comma = "," in i18n.decimal(0.5)
    text = price_csv.write(rows, context.config().timezone, own=own, decimal_comma=decimal_comma)
    # With a BOM, without which Excel takes UTF-8 for something else.
    return Response(
        text.encode("utf-8-sig"),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


# --- importing a file


@blueprint.get("/admin/prices/<int:list_id>/import")
@access.operate
def ask_file(list_id: int) -> ResponseReturnValue:
    return _file_page(named(list_id), FileForm())


@blueprint.post("/admin/prices/<int:list_id>/import")
@access.operate
def look_at_file(list_id: int) -> ResponseReturnValue:
    """Say what a file would change, and ask."""
    price_list, form = named(list_id), FileForm()
    upload = request.files.get("file")
    content = upload.read(price_csv.MOST_BYTES + 1) if upload else b""
    try:
        plan = _plan(price_list, content)
    except Refused as refusal:
        return _refused_file(price_list, form, refusal)
    return _plan_page(price_list, plan, content)


@blueprint.post("/admin/prices/<int:list_id>/import/confirm")
@access.operate
def import_file(list_id: int) -> ResponseReturnValue:
    """Do what was agreed to: the form carries the file's `content`, and the `mark` of what was shown."""
    price_list = named(list_id)
    content = request.form.get("content", "").encode()
    conn, timezone, now = context.conn(), context.config().timezone, now_ms()
    try:
        with immediate(conn):
            plan = _plan(price_list, content)
            if plan.mark != request.form.get("mark"):
                return _plan_page(price_list, plan, content, outdated=True)
            done = price_csv.carry_out(conn, context.actor(), list_id, plan, timezone, now)
    except Refused as refusal:
        return _refused_file(price_list, FileForm(formdata=None), refusal)
    said = i18n.ngettext("%(num)s price was imported.", "%(num)s prices were imported.", len(done))
    return htmx.done(address_of(price_list), Toast(said))


def _plan(price_list: NamedList, content: bytes) -> Plan:
    return price_csv.plan(context.conn(), price_list.id, content, context.config().timezone, now_ms())


def _plan_page(price_list: NamedList, plan: Plan, content: bytes, *, outdated: bool = False) -> ResponseReturnValue:
    steps = [*plan.changed, *plan.new]
    return htmx.page(
        "prices/plan.html",
        status=422 if outdated else 200,
        price_list=price_list,
        list_name=list_name,
        address=address_of(price_list),
        plan=plan,
        steps=steps[:_STEPS_SHOWN],
        more=len(steps) - _STEPS_SHOWN,
        in_words=_in_words,
        content=content.decode("utf-8-sig"),
        outdated=outdated,
    )


def _refused_file(price_list: NamedList, form: FileForm, refusal: Refused) -> ResponseReturnValue:
    attach(form, refusal)
    lines = refusal.shown() if isinstance(refusal, BadLines) else []
    return _file_page(price_list, form, lines)


def _file_page(price_list: NamedList, form: FileForm, lines: Sequence[object] = ()) -> ResponseReturnValue:
    return htmx.page(
        "prices/import.html",
        status=422 if form.errors else 200,
        price_list=price_list,
        list_name=list_name,
        address=address_of(price_list),
        form=form,
        bad_lines=lines,
        timezone=context.config().timezone,
    )


# --- a customer's prices


@blueprint.get("/accounts/<name>/credits/prices")
@access.see_account
def of_account(account: Account) -> ResponseReturnValue:
    """What a part costs to each destination, by the account's list, with what is to come."""
    table = _table(_list_of(account))
    if htmx.wanted():
        return htmx.parts("prices/_rows.html", account=layout.account_view(account), table=table)
    return htmx.page("prices/of_account.html", account=account, tab="credits", table=table)


@blueprint.get("/accounts/<name>/credits/prices.csv")
@access.see_account
def download(account: Account) -> ResponseReturnValue:
    rows = prices.rows(context.conn(), _list_of(account), now_ms())
    return _csv(rows, f"{account.name}-prices.csv", own=False)


def _list_of(account: Account) -> int:
    return customers.by_id(context.conn(), account.customer_id).price_list_id


# --- what it will cost


@blueprint.get("/accounts/<name>/credits/cost")
@access.see_account
def ask_cost(account: Account) -> ResponseReturnValue:
    return _cost_page(account, CostForm(formdata=None))


@blueprint.post("/accounts/<name>/credits/cost")
@access.see_account
def cost(account: Account) -> ResponseReturnValue:
    """What a text costs to some numbers. It is posted so that it stands in no address, and changes nothing."""
    form = CostForm()
    values: dict[str, Any] = {}
    refusal = None
    try:
        values["estimate"] = estimates.estimate(context.conn(), account, form.text.data or "", form.numbers.data or "")
    except Refused as error:
        refusal = error
    if htmx.wanted():
        # Nobody has asked yet: it is being typed.
        refusal = None if isinstance(refusal, estimates.NoNumber) else refusal
        status = 422 if refusal else 200
        return htmx.parts("prices/_cost.html", status=status, refusal=refusal, country=countries.name, **values)
    if refusal:
        attach(form, refusal)
    return _cost_page(account, form, **values)


def _cost_page(account: Account, form: CostForm, **values: Any) -> ResponseReturnValue:
    return htmx.page(
        "prices/cost.html",
        status=422 if form.errors else 200,
        account=account,
        tab="credits",
        form=form,
        country=countries.name,
        most=estimates.MOST_NUMBERS,
        **values,
    )
