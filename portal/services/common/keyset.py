"""Pages of long lists, newest first, by the ids at their ends (keyset): as quick on the last page as on the first."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

_END_ID = (1 << 63) - 1
_RowT = TypeVar("_RowT")


class PageBounds(TypedDict, total=False):
    """Which page of a list, newest first; without any the first one.

    before: only rows with a smaller id than this (the last one of the page before).
    after: the ones that follow upon this id, for the way back to newer ones.
    limit: how many rows at most.
    """

    before: int | None
    after: int | None
    limit: int


def select_page(
    conn: sqlite3.Connection,
    query: str,
    values: Mapping[str, object],
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    id_column: str = "id",
    first_id: int = 0,
    end_id: int = _END_ID,
) -> list[sqlite3.Row]:
    """A page of what a query finds, newest first.

    Args:
        query: SELECT … WHERE …, without an order.
        before, after, limit: see `PageBounds`.
        id_column: the ids' column, as the query calls it.
        first_id, end_id: only rows whose id is at least the one, and less than the other.
    """
    bounds = {
        "page_first": first_id if after is None else max(first_id, after + 1),
        "page_end": end_id if before is None else min(end_id, before),
        "page_limit": limit,
    }
    direction = "DESC" if after is None else "ASC"
    rows = conn.execute(
        f"{query} AND {id_column} >= :page_first AND {id_column} < :page_end"
        f" ORDER BY {id_column} {direction} LIMIT :page_limit",
        {**values, **bounds},
    ).fetchall()
    return rows if after is None else rows[::-1]


def iterate_pages(
    list_page: Callable[..., Sequence[_RowT]], batch_size: int, get_position: Callable[[_RowT], Any]
) -> Iterator[_RowT]:
    """All rows of a list, newest first, in constant memory.

    Args:
        list_page: a page of them; takes `before` and `limit`.
        get_position: what the page after a row takes as `before`.
    """
    before = None
    while page := list_page(before=before, limit=batch_size):
        yield from page
        before = get_position(page[-1])
