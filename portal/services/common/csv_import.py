"""Importing CSV files: their lines, and what can be wrong with a file and its lines, in words."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO

from portal.core.i18n import N_, gettext, ngettext
from portal.core.pasted_text import remove_invisible_marks
from portal.services.common.errors import Refused

_MAX_SHOWN_LINES = 20


class NotUtf8(Refused, field="file"):
    sentence = N_("The file isn't in UTF-8. Save it as “CSV UTF-8”.")


class NotCsv(Refused):
    sentence = N_("this isn't CSV (%(error)s).")


@dataclass(frozen=True, slots=True)
class InvalidCsvLine:
    """A line that can't be read, by its number in the file (the first is 1), and why."""

    number: int
    reason: Refused

    def __str__(self) -> str:
        return gettext("Line %(number)s: %(reason)s", number=self.number, reason=self.reason.localized())


class InvalidCsvLines(Refused, field="file"):
    """Nothing has changed, for these lines are wrong."""

    def __init__(self, lines: Sequence[InvalidCsvLine]) -> None:
        super().__init__()
        self.lines = lines

    def __str__(self) -> str:
        return " ".join(map(str, self.summarize_lines()))

    def localized(self) -> str:
        return ngettext(
            "Nothing was imported: %(num)s line can't be read.",
            "Nothing was imported: %(num)s lines can't be read.",
            len(self.lines),
        )

    def summarize_lines(self) -> list[object]:
        """The first of them in words, and how many more there are."""
        more = len(self.lines) - _MAX_SHOWN_LINES
        first_lines: list[object] = list(self.lines[:_MAX_SHOWN_LINES])
        return [*first_lines, ngettext("And %(num)s more.", "And %(num)s more.", more)] if more > 0 else first_lines


def iterate_csv_lines(content: bytes) -> Iterator[tuple[int, list[str] | NotCsv]]:
    """Yield each line that isn't empty, with its number; one that is no CSV is its refusal, and the last one.

    Args:
        content: UTF-8, with or without BOM; commas between the fields, or semicolons where the first line has one.

    Raises: NotUtf8
    """
    try:
        text = remove_invisible_marks(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise NotUtf8() from None
    first_line = text.lstrip().partition("\n")[0]
    reader = csv.reader(StringIO(text, newline=""), delimiter=";" if ";" in first_line else ",", strict=True)
    try:
        for fields in reader:
            if any(each.strip() for each in fields):
                yield reader.line_num, fields
    except csv.Error as error:
        yield reader.line_num, NotCsv(error=error)
