"""Pages of long lists, newest first, by the ids at their ends (keyset): as quick on the last page as on the first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flask import request

from portal.web.core.forms import parse_row_id

# Of every list, unless the address of a list of messages asks for more lines.
PAGE_SIZE = 25
# Arguments of the query: where the page begins or ends, and how many lines it is to have.
PAGING_ARGS = ("before", "after")
LINES_ARG = "lines"
PAGE_SIZE_CHOICES = (PAGE_SIZE, 100)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, and what follows the `?` in the addresses of the pages beside (empty where there is none)."""

    rows: Sequence[Any]
    newer: str
    older: str
    before: Any
    after: Any


def get_page_size() -> int:
    """How many lines the address asks for, of PAGE_SIZE_CHOICES."""
    requested = request.args.get(LINES_ARG, type=int)
    return requested if requested in PAGE_SIZE_CHOICES else PAGE_SIZE


def paginate(
    fetch: Callable[..., Sequence[Any]], size: int = PAGE_SIZE, parse_position: Callable[[str], Any] = parse_row_id
) -> Page:
    """The page that the address asks for with `before=ID` or `after=ID`; the newest rows without.

    Args:
        fetch: gets `limit` rows, which have ids, newest first: with smaller ids than `before`, or the ones that follow
            upon `after`.
        parse_position: makes of an id of the address what `fetch` takes, where that is no number. Raises ValueError
            where it is no id.
    """
    before, after = request.args.get("before", type=parse_position), request.args.get("after", type=parse_position)
    if after is not None:
        rows = fetch(after=after, limit=size + 1)
        if len(rows) > size:
            rows = rows[-size:]
            return Page(rows, f"after={rows[0].id}", f"before={rows[-1].id}", None, after)
        # The way back ends at the newest rows: a whole page of them, not the few that are left over.
        before = None
    rows = fetch(before=before, limit=size + 1)
    has_more, rows = len(rows) > size, rows[:size]
    newer = f"after={rows[0].id}" if before is not None and rows else ""
    return Page(rows, newer, f"before={rows[-1].id}" if has_more else "", before, None)
