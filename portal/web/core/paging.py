"""Pages of long lists, newest first, by the ids at their ends (keyset): as quick on the last page as on the first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import urlencode

from flask import request

from portal.web.core.forms import row_id

SIZE = 20
# What the page is asked for in the query: its place, and how many lines it is to have.
ASKS = ("before", "after")
LINES = "lines"
MORE_LINES = (25, 100)


class _Row(Protocol):
    @property
    def id(self) -> int | str: ...


_R = TypeVar("_R", bound=_Row, covariant=True)


class _Fetch(Protocol[_R]):
    def __call__(self, *, before: Any = None, after: Any = None, limit: int) -> Sequence[_R]: ...


@dataclass(frozen=True, slots=True)
class Page(Generic[_R]):
    """Rows, and what follows the `?` in the addresses of the pages beside (empty where there is none)."""

    rows: Sequence[_R]
    newer: str
    older: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Query:
    """What a list is asked for; `said` is how an address says it, by the names of its query."""

    said: Mapping[str, str]

    @property
    def query(self) -> str:
        return self.but()

    def page(self, place: str) -> str:
        """The query for another page: `place` is `before=…` or `after=…`."""
        return "&".join(each for each in (self.query, place) if each)

    def but(self, **changed: str) -> str:
        """The query for the same, with something else instead."""
        return urlencode({name: value for name, value in {**self.said, **changed}.items() if value})


def lines(usual: int) -> int:
    """How many lines the address asks for: one of MORE_LINES, or as many as are `usual`, which are light for phones."""
    asked = request.args.get(LINES, type=int)
    return asked if asked in MORE_LINES else usual


def page(fetch: "_Fetch[_R]", size: int = SIZE, place: Callable[[str], Any] = row_id) -> Page[_R]:
    """The page that the address asks for with `before=ID` or `after=ID`; the newest rows without.

    Args:
        fetch: gets rows, newest first: with smaller ids than `before`, or the ones that follow upon `after`.
        place: reads an id of the address into what `fetch` takes, where that is no number (ValueError: it is none).
    """
    before, after = request.args.get("before", type=place), request.args.get("after", type=place)
    if after is not None:
        rows = fetch(after=after, limit=size + 1)
        if len(rows) > size:
            rows = rows[-size:]
            return Page(rows, f"after={rows[0].id}", f"before={rows[-1].id}", None, after)
        # The way back ends at the newest rows: a whole page of them, not the few that are left over.
        before = None
    rows = fetch(before=before, limit=size + 1)
    more, rows = len(rows) > size, rows[:size]
    newer = f"after={rows[0].id}" if before is not None and rows else ""
    return Page(rows, newer, f"before={rows[-1].id}" if more else "", before, None)
