"""Writing CSV files in which no text is a formula, whichever separator a spreadsheet takes them apart at."""

import csv
import re
from collections.abc import Iterable, Sequence
from io import StringIO

# Spreadsheets take a cell that begins so for a formula, and one in a text that somebody sent could read the whole sheet
# and carry it off. In East Asian languages Excel takes the full-width signs for the others.
_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
# Whatever a file has between its columns, Excel separates at the Windows region's sign, LibreOffice at all three of
# comma, semicolon and tab, and quotes mean nothing then: a cell may begin behind each of these in a text. Control
# characters are dropped by some, or end a line, as Unicode's line ends do; spaces in front may be dropped, as two
# quotes are, and characters that nobody sees (soft hyphens, zero-width spaces, byte order marks). No place is looked
# at twice: a text may have 39,000 characters.
_LINE_ENDS = r"\x00-\x1f\x85\u2028\u2029"
_UNSEEN = r"\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
_FORMULA_START = re.compile(rf'[,;|؛\x7f{_LINE_ENDS}](?=(?:["{_UNSEEN}]|[^\S{_LINE_ENDS}])*+[{_SIGNS}])')


def format_csv(rows: Sequence[Sequence[object]], *, delimiter: str = ";", line_end: str = "\r\n") -> str:
    """Rows as lines of CSV (RFC 4180, but for the delimiter).

    In texts an apostrophe stands before what a spreadsheet would take for a formula; numbers stay as they are.
    """
    text = _write_rows(rows, delimiter, line_end)
    # Most files have none, and are looked through at once.
    if _FORMULA_START.search(f",{text}"):
        safe_rows = [[_make_safe(each) if isinstance(each, str) else each for each in row] for row in rows]
        text = _write_rows(safe_rows, delimiter, line_end)
    return text


def _write_rows(rows: Iterable[Sequence[object]], delimiter: str, line_end: str) -> str:
    buffer = StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator=line_end).writerows(rows)
    return buffer.getvalue()


def _make_safe(text: str) -> str:
    return _FORMULA_START.sub(r"\g<0>'", f",{text}")[1:]
