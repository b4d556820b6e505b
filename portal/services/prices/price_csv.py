"""Price lists as CSV files: written for spreadsheets, and read as spreadsheets write them."""

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from portal.core.i18n import N_
from portal.core.pasted_text import remove_invisible_marks
from portal.services.common.credit_amounts import THOUSANDTHS
from portal.services.common.csv_export import format_csv
from portal.services.common.csv_import import InvalidCsvLine, InvalidCsvLines, NotCsv, iterate_csv_lines
from portal.services.common.errors import Refused
from portal.services.prices import countries, prices
from portal.services.prices.prices import InvalidPrice, PriceChange, PriceRow

COLUMNS = ("destination", "country", "price", "valid_from")
_REQUIRED_COLUMNS = ("destination", "price")
MAX_FILE_BYTES = 128 * 1024
MAX_LINES = 5000
_PRICE_PATTERN = re.compile(r"[0-9]{1,7}([.,][0-9]{1,3})?", re.ASCII)
_CLOSED = ("", "-")


class PriceFileTooBig(Refused, field="file"):
    sentence = N_("The file is too big: 128 kB and 5000 lines at most.")


class WrongPriceColumns(Refused, field="file"):
    sentence = N_(
        "The first line has to name the columns: destination and price, and where changes are to come valid_from; it"
        " says “%(columns)s”."
    )


class EmptyPriceFile(Refused, field="file"):
    sentence = N_("There is no price in the file.")


class WrongFieldCount(Refused):
    sentence = N_("there are %(found)s fields for %(wanted)s columns. Prices with a comma need semicolons between.")


class DuplicateDestination(Refused):
    sentence = N_("line %(number)s names %(destination)s with the same date.")


@dataclass(frozen=True, slots=True)
class PriceImportStep:
    """What a file changes for a destination: the change, and the price that it replaces.

    `is_new`: the list itself has said nothing of it (`old_price`: what holds; None: nothing was sent there).
    """

    change: PriceChange
    old_price: int | None
    is_new: bool

    @property
    def is_change(self) -> bool:
        return not self.is_new and self.old_price != self.change.price


class PriceImportPlan:
    """What importing a file would do to a list: what is `new` in it, and what is `changed`."""

    def __init__(self, steps: Sequence[PriceImportStep]) -> None:
        self.new = [each for each in steps if each.is_new]
        self.changed = [each for each in steps if each.is_change]
        self.unchanged_count = len(steps) - len(self.new) - len(self.changed)
        self.changes = [each.change for each in steps if each.is_new or each.is_change]
        """What there is to do, for `prices.change_prices`."""
        self.fingerprint = hashlib.sha256(repr(steps).encode()).hexdigest()
        """Differs for each plan: whoever confirms one confirms nothing else."""


def plan_import(conn: sqlite3.Connection, list_id: int, content: bytes, timezone: str, now: int) -> PriceImportPlan:
    """Read a file, and compare it with a list. What the file doesn't name stays as it is.

    Args:
        content: CSV in UTF-8, with or without BOM. The first line names the columns; commas or semicolons between;
            decimal points or commas in prices. `-`, or no price: nothing is sent there.
        timezone: IANA name; that of dates without one.
        now: milliseconds.

    Raises:
        PriceFileTooBig, NotUtf8, WrongPriceColumns, EmptyPriceFile, InvalidCsvLines
    """
    rows = {each.destination: each for each in prices.list_price_rows(conn, list_id, now)}
    return PriceImportPlan(
        [_plan_step(each, rows.get(each.destination)) for each in parse_price_csv(content, timezone, now)]
    )


def _plan_step(change: PriceChange, row: PriceRow | None) -> PriceImportStep:
    if row is None:
        return PriceImportStep(change, None, is_new=True)
    if change.valid_from is None:
        return PriceImportStep(change, row.price, is_new=not row.own)
    for each in row.scheduled:
        if each.own and each.valid_from == change.valid_from:
            return PriceImportStep(change, each.price, is_new=False)
    return PriceImportStep(change, row.price, is_new=True)


def parse_price_csv(content: bytes, timezone: str, now: int) -> list[PriceChange]:
    """The prices that a file names; see `plan_import`."""
    if len(content) > MAX_FILE_BYTES:
        raise PriceFileTooBig()
    lines = iterate_csv_lines(content)
    _, names = next(lines, (0, []))
    columns = [] if isinstance(names, NotCsv) else [each.strip().lower() for each in names]
    if not set(_REQUIRED_COLUMNS) <= set(columns) <= set(COLUMNS) or len(set(columns)) < len(columns):
        first_line = remove_invisible_marks(content.decode("utf-8-sig")).strip().partition("\n")[0]
        raise WrongPriceColumns(columns=first_line[:80])
    changes: list[PriceChange] = []
    bad_lines: list[InvalidCsvLine] = []
    seen: dict[tuple[str, int | None], int] = {}
    for number, fields in lines:
        try:
            change = _parse_price_change(columns, fields, timezone, now)
            first_number = seen.setdefault((change.destination, change.valid_from), number)
            if first_number != number:
                raise DuplicateDestination(number=first_number, destination=change.destination)
            changes.append(change)
        except Refused as refusal:
            bad_lines.append(InvalidCsvLine(number, refusal))
    if bad_lines:
        raise InvalidCsvLines(bad_lines)
    if not changes:
        raise EmptyPriceFile()
    if len(changes) > MAX_LINES:
        raise PriceFileTooBig()
    return changes


def _parse_price_change(columns: Sequence[str], fields: list[str] | NotCsv, timezone: str, now: int) -> PriceChange:
    if isinstance(fields, NotCsv):
        raise fields
    # Spreadsheets drop columns that are empty at the end of a line, or add some.
    while len(fields) > len(columns) and not fields[-1].strip():
        fields = fields[:-1]
    if not len(_REQUIRED_COLUMNS) <= len(fields) <= len(columns):
        raise WrongFieldCount(found=len(fields), wanted=len(columns))
    values = dict(zip(columns, fields, strict=False))
    valid_from = prices.parse_valid_from(values.get("valid_from", ""), timezone)
    if valid_from is not None and prices.resolve_valid_from(valid_from, now, timezone) == now:
        valid_from = None
    return PriceChange(
        prices.parse_destination(values["destination"]), _parse_price(values.get("price", "")), valid_from
    )


def _parse_price(text: str) -> int | None:
    text = text.strip()
    if text in _CLOSED:
        return None
    price = int(Decimal(text.replace(",", ".")) * THOUSANDTHS) if _PRICE_PATTERN.fullmatch(text) else 0
    if not 0 < price <= prices.MAX_PRICE:
        raise InvalidPrice(text=text)
    return price


# --- writing


def format_price_csv(
    rows: Iterable[PriceRow], timezone: str, *, own_only: bool = True, decimal_comma: bool = False
) -> str:
    """A list as `parse_price_csv` reads it: what holds, then what is to come with its date.

    Args:
        timezone: IANA name, of the dates.
        own_only: only what the list itself says, so that a list which is read again still inherits the rest.
        decimal_comma: as spreadsheets in countries of the decimal comma want it, with semicolons between.
    """
    lines: list[Sequence[object]] = [COLUMNS]
    for line in iterate_price_lines(rows, timezone, own_only=own_only):
        price = line["price"]
        price_text = "" if price is None else str(price).replace(".", ",") if decimal_comma else price
        lines.append([line["destination"], line["country"], price_text, line["valid_from"] or ""])
    return format_csv(lines, delimiter=";" if decimal_comma else ",")


def iterate_price_lines(
    rows: Iterable[PriceRow], timezone: str, *, own_only: bool = True
) -> Iterator[Mapping[str, object]]:
    """The lines of `format_price_csv` as values.

    `price` is in credits, None where nothing is sent; `valid_from` is None for now.
    """
    for row in rows:
        country = row.country
        head = {"destination": row.destination, "country": countries.get_country_name(country) if country else ""}
        if row.own or (row.in_force and not own_only):
            yield {**head, "price": prices.price_to_credits(row.price), "valid_from": None}
        for each in row.scheduled:
            if each.own or not own_only:
                date = prices.format_valid_from(each.valid_from, timezone)
                yield {**head, "price": prices.price_to_credits(each.price), "valid_from": date}
