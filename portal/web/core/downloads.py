"""Files of lines (CSV, JSON Lines), sent as they are read, so that any number of lines takes the same memory."""

import csv
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from itertools import islice

from flask import Response, abort, stream_with_context

from portal.web.core import access

# A long file takes minutes of a thread: files must not take them all, nor one customer's all that files may take.
_MOST, _MOST_OF_ONE = 4, 2
_places: Counter[int | None] = Counter()
_lock = threading.Lock()
_YOUR_TURN = "your turn"
_LINES_AT_ONCE = 500
_FORMULAS = frozenset("=+-@\t\r\n")


_BYTE_ORDER_MARK = "\ufeff"


def send(name: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, mark: bool = False) -> Response:
    """Answer with a CSV file: semicolons between the columns, whose names stand in the first line; 503 while the
    customer has two others, or four are being read in all.

    Args:
        name: the file's, as the browser is to save it.
        rows: read while they are sent. What is text in them is made harmless to spreadsheets; numbers stay numbers.
        mark: begin with U+FEFF, by which spreadsheets know UTF-8.
    """
    return _sent(name, "text/csv; charset=utf-8", _lines(columns, rows, _BYTE_ORDER_MARK if mark else ""))


def send_json(name: str, rows: Iterable[Mapping[str, object]]) -> Response:
    """Answer with a file of an object a line (JSON Lines); otherwise like `send`."""
    return _sent(name, "application/jsonl; charset=utf-8", _objects(rows))


def _sent(name: str, content_type: str, pieces: Iterator[str]) -> Response:
    lines = _in_turn(access.user().customer_id, pieces)
    if next(lines) != _YOUR_TURN:
        abort(503)
    return Response(
        stream_with_context(lines),
        content_type=content_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _in_turn(customer: int | None, lines: Iterator[str]) -> Iterator[str]:
    """The lines after `_YOUR_TURN`, or something else where others are at it; a place is given back at the end."""
    with _lock:
        free = _places.total() < _MOST and _places[customer] < _MOST_OF_ONE
        _places[customer] += free
    if not free:
        yield ""
        return
    try:
        yield _YOUR_TURN
        yield from lines
    finally:
        with _lock:
            _places[customer] -= 1


def _objects(rows: Iterable[Mapping[str, object]]) -> Iterator[str]:
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    left = iter(rows)
    while some := list(islice(left, _LINES_AT_ONCE)):
        yield "".join(f"{encode(each)}\n" for each in some)


def _lines(columns: Sequence[str], rows: Iterable[Sequence[object]], begins: str) -> Iterator[str]:
    buffer = StringIO()
    buffer.write(begins)
    writer = csv.writer(buffer, delimiter=";", lineterminator="\r\n")
    writer.writerow(columns)
    left = iter(rows)
    while some := list(islice(left, _LINES_AT_ONCE)):
        writer.writerows([[f"'{each}" if _is_formula(each) else each for each in row] for row in some])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _is_formula(value: object) -> bool:
    # Spreadsheets take what begins like this for a formula, and one in a text that somebody sent could read the
    # whole sheet and carry it off. The quote makes it a text again, and isn't shown.
    return isinstance(value, str) and value[:1] in _FORMULAS
