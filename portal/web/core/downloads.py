"""Files of lines (CSV, JSON Lines), sent as they are read, so that any number of lines takes the same memory."""

import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from flask import Response, abort, stream_with_context

from portal.services.common.csv_export import format_csv
from portal.web.core import access

# A long file takes minutes of a thread: files must not take them all, nor one customer's all that files may take.
_MAX_DOWNLOADS, _MAX_PER_CUSTOMER = 4, 2
_running_downloads: Counter[int | None] = Counter()
_lock = threading.Lock()
_SLOT_GRANTED = "your turn"
_LINES_PER_CHUNK = 500
_BYTE_ORDER_MARK = "\ufeff"


def stream_csv(
    name: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, with_bom: bool = False
) -> Response:
    """Answer with a CSV file: semicolons between the columns, whose names stand in the first line; 503 while the
    customer has two others, or four are being read in all.

    Args:
        name: the file's, as the browser is to save it.
        rows: read while they are sent, without a statement that stays open between them: it would keep the write-ahead
            log from being emptied. Texts in them are no formulas, see `format_csv`.
        with_bom: begin with U+FEFF, by which spreadsheets know UTF-8.
    """
    return _stream_download(
        name, "text/csv; charset=utf-8", _iterate_csv_chunks(columns, rows, _BYTE_ORDER_MARK if with_bom else "")
    )


def stream_json_lines(name: str, rows: Iterable[Mapping[str, object]]) -> Response:
    """Answer with a file of an object a line (JSON Lines); otherwise like `stream_csv`."""
    return _stream_download(name, "application/jsonl; charset=utf-8", _iterate_json_chunks(rows))


def _stream_download(name: str, content_type: str, chunks: Iterator[str]) -> Response:
    lines = limit_downloads(access.get_current_user().customer_id, chunks)
    if next(lines) != _SLOT_GRANTED:
        abort(503)
    return Response(
        stream_with_context(lines),
        content_type=content_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def limit_downloads(customer_id: int | None, lines: Iterator[str]) -> Iterator[str]:
    """The lines after `_SLOT_GRANTED`, or "" where others take all slots; the slot is given back at the end."""
    with _lock:
        has_slot = _running_downloads.total() < _MAX_DOWNLOADS and _running_downloads[customer_id] < _MAX_PER_CUSTOMER
        _running_downloads[customer_id] += has_slot
    if not has_slot:
        yield ""
        return
    try:
        yield _SLOT_GRANTED
        yield from lines
    finally:
        with _lock:
            _running_downloads[customer_id] -= 1


def _iterate_json_chunks(rows: Iterable[Mapping[str, object]]) -> Iterator[str]:
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    remaining = iter(rows)
    while batch := list(islice(remaining, _LINES_PER_CHUNK)):
        yield "".join(f"{encode(each)}\n" for each in batch)


def _iterate_csv_chunks(columns: Sequence[str], rows: Iterable[Sequence[object]], prefix: str) -> Iterator[str]:
    remaining = iter(rows)
    head = prefix + format_csv([columns])
    while batch := list(islice(remaining, _LINES_PER_CHUNK)):
        yield head + format_csv(batch)
        head = ""
    yield head
