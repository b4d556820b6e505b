"""Price lists as CSV files: written for spreadsheets, and read as spreadsheets write them."""

import csv
import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO

from portal.core.i18n import N_
from portal.services.common.audit import Actor
from portal.services.common.csv_import import BadLine, BadLines, NotCsv, NotUtf8
from portal.services.common.errors import Refused
from portal.services.prices import countries, prices
from portal.services.prices.prices import Change, InvalidPrice, Row

COLUMNS = ("destination", "country", "price", "valid_from")
_NEEDED = ("destination", "price")
MOST_BYTES = 128 * 1024
MOST_LINES = 5000
_PRICE = re.compile(r"([0-9]{1,7})(?:[.,]([0-9]{1,3}))?", re.ASCII)
_THOUSANDTHS_DIGITS = 3
_CLOSED = ("", "-")


class FileTooBig(Refused):
    sentence = N_("The file is too big: 128 kB and 5000 lines at most.")
    field = "file"


class WrongColumns(Refused):
    sentence = N_(
        "The first line has to name the columns: destination and price, and where changes are to come valid_from; it"
        " says “%(columns)s”."
    )
    field = "file"


class NoLines(Refused):
    sentence = N_("There is no price in the file.")
    field = "file"


class WrongFields(Refused):
    sentence = N_("there are %(found)s fields for %(wanted)s columns. Prices with a comma need semicolons between.")


class Twice(Refused):
    sentence = N_("line %(number)s names %(destination)s with the same date.")


@dataclass(frozen=True, slots=True)
class Step:
    """What a file says of a destination: the change, and the price that it takes the place of.

    `known` is whether the list itself had one (`before` None: nothing was sent there).
    """

    change: Change
    before: int | None
    known: bool

    @property
    def is_new(self) -> bool:
        return not self.known

    @property
    def changes(self) -> bool:
        return self.known and self.before != self.change.price


@dataclass(frozen=True, slots=True)
class Plan:
    """What importing a file would do to a list."""

    steps: Sequence[Step]

    @property
    def new(self) -> list[Step]:
        return [each for each in self.steps if each.is_new]

    @property
    def changed(self) -> list[Step]:
        return [each for each in self.steps if each.changes]

    @property
    def unchanged(self) -> int:
        return len(self.steps) - len(self.new) - len(self.changed)

    @property
    def changes(self) -> list[Change]:
        """What there is to do."""
        return [each.change for each in self.steps if each.is_new or each.changes]

    @property
    def mark(self) -> str:
        """Tells this plan from any other: whoever agrees to one agrees to nothing else."""
        said = repr([(each.change, each.before, each.known) for each in self.steps])
        return hashlib.sha256(said.encode()).hexdigest()


def plan(conn: sqlite3.Connection, list_id: int, content: bytes, timezone: str, now: int) -> Plan:
    """Read a file, and compare it with a list. What the file doesn't name stays as it is.

    Args:
        content: CSV in UTF-8, with or without BOM. The first line names the columns; commas or semicolons between;
            decimal points or commas in prices. `-`, or no price: nothing is sent there.
        timezone: IANA name; that of dates without one.
        now: milliseconds.

    Raises:
        FileTooBig, NotUtf8, WrongColumns, NoLines, BadLines
    """
    rows = {each.destination: each for each in prices.rows(conn, list_id, now)}
    return Plan([_step(each, rows.get(each.destination)) for each in read(content, timezone, now)])


def _step(change: Change, row: Row | None) -> Step:
    if row is None:
        return Step(change, None, known=False)
    if change.valid_from is None:
        return Step(change, row.price, row.own)
    for each in row.coming:
        if each.own and each.valid_from == change.valid_from:
            return Step(change, each.price, known=True)
    return Step(change, row.price, known=False)


def carry_out(
    conn: sqlite3.Connection, actor: Actor, list_id: int, plan: Plan, timezone: str, now: int
) -> Sequence[Change]:
    """Do what a plan says, all of it at one moment or nothing; returns what was to be done.

    Raises: as `prices.change`.
    """
    if plan.changes:
        prices.change(conn, actor, list_id, plan.changes, timezone, now=now)
    return plan.changes


def read(content: bytes, timezone: str, now: int) -> list[Change]:
    """The prices that a file names; see `plan`."""
    if len(content) > MOST_BYTES:
        raise FileTooBig()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotUtf8() from None
    first = text.partition("\n")[0]
    reader = csv.reader(StringIO(text, newline=""), delimiter=";" if ";" in first else ",", strict=True)
    try:
        columns = [each.strip().lower() for each in next(reader, [])]
    except csv.Error:
        columns = []
    if not set(_NEEDED) <= set(columns) <= set(COLUMNS) or len(set(columns)) < len(columns):
        raise WrongColumns(columns=first.strip()[:80])
    changes: list[Change] = []
    bad: list[BadLine] = []
    seen: dict[tuple[str, int | None], int] = {}
    for number, fields in _lines(reader):
        try:
            change = _change(columns, fields, timezone, now)
            twin = seen.setdefault((change.destination, change.valid_from), number)
            if twin != number:
                raise Twice(number=twin, destination=change.destination)
            changes.append(change)
        except Refused as refusal:
            bad.append(BadLine(number, refusal))
    if bad:
        raise BadLines(bad)
    if not changes:
        raise NoLines()
    if len(changes) > MOST_LINES:
        raise FileTooBig()
    return changes


def _lines(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Every line that isn't empty, with its number; the reader's error ends them."""
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, error  # type: ignore[attr-defined]
            return
        if any(each.strip() for each in fields):
            yield reader.line_num, fields  # type: ignore[attr-defined]


def _change(columns: Sequence[str], fields: list[str] | csv.Error, timezone: str, now: int) -> Change:
    if isinstance(fields, csv.Error):
        raise NotCsv(error=fields)
    # Spreadsheets drop columns that are empty at the end of a line, or add some.
    while len(fields) > len(columns) and not fields[-1].strip():
        fields = fields[:-1]
    if not len(_NEEDED) <= len(fields) <= len(columns):
        raise WrongFields(found=len(fields), wanted=len(columns))
    values = dict(zip(columns, fields, strict=False))
    valid_from = prices.parse_date(values.get("valid_from", ""), timezone)
    if valid_from is not None and prices.checked_start(valid_from, now, timezone) == now:
        valid_from = None
    return Change(prices.checked_destination(values["destination"]), _price(values.get("price", "")), valid_from)


def _price(text: str) -> int | None:
    text = text.strip()
    if text in _CLOSED:
        return None
    found = _PRICE.fullmatch(text)
    if not found:
        raise InvalidPrice(text=text)
    whole, thousandths = found[1], (found[2] or "").ljust(_THOUSANDTHS_DIGITS, "0")
    try:
        return prices.checked_price(int(whole + thousandths))
    except InvalidPrice:
        raise InvalidPrice(text=text) from None


# --- writing


def write(rows: Iterable[Row], timezone: str, *, own: bool = True, decimal_comma: bool = False) -> str:
    """A list as `read` reads it: what holds, then what is to come with its date.

    Args:
        timezone: IANA name, of the dates.
        own: only what the list itself says, so that a list which is read again still inherits the rest.
        decimal_comma: as spreadsheets in countries of the decimal comma want it, with semicolons between.
    """
    buffer = StringIO()
    writer = csv.writer(buffer, delimiter=";" if decimal_comma else ",", lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for line in lines(rows, timezone, own=own):
        price = line["price"]
        written = "" if price is None else str(price).replace(".", ",") if decimal_comma else price
        writer.writerow([line["destination"], line["country"], written, line["valid_from"] or ""])
    return buffer.getvalue()


def lines(rows: Iterable[Row], timezone: str, *, own: bool = True) -> Iterator[Mapping[str, object]]:
    """The lines of `write` as values: `price` in credits, None where nothing is sent; `valid_from` None for now."""
    for row in rows:
        country = row.country
        head = {"destination": row.destination, "country": countries.name(country) if country else ""}
        if row.own or (row.holds and not own):
            yield {**head, "price": prices.in_credits(row.price), "valid_from": None}
        for each in row.coming:
            if each.own or not own:
                date = prices.written_date(each.valid_from, timezone)
                yield {**head, "price": prices.in_credits(each.price), "valid_from": date}
