"""Looking for messages, sent and received ones: what an address asks for, and a page of what is found."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from flask import request

from portal.services.common import ids
from portal.services.common.errors import Refused
from portal.services.common.periods import ALL
from portal.services.prices import countries
from portal.web.core import access, forms, paging, periods
from portal.web.core.paging import LINES

LIVE = "live"
# Texts weigh more than amounts do, and the form above them is long.
_USUAL_LINES = 8
_LONGEST = 100
_SECONDS = 1.0
"""One of the few threads that make pages looks through messages so long at a time."""

_W = TypeVar("_W")


@dataclass(frozen=True)
class Filter(paging.Query, Generic[_W]):
    """What is shown: the period that was asked for, what else is looked for, and what of it can't be."""

    asked: periods.Asked
    wanted: _W
    refusals: Sequence[Refused]

    @property
    def is_on(self) -> bool:
        """Whether it leaves anything out."""
        return any(name not in (LINES, LIVE) for name in self.said)

    @property
    def is_refused(self) -> bool:
        """Whether the form says what is wrong with something that was asked for."""
        return bool(self.asked.refusal or self.refusals)


@dataclass(frozen=True)
class Address:
    """What an address asks for.

    `said` is how other addresses say the same, without what is usual or empty; `values` is what is looked for: empty
    where that can't be, of which `refusals` tell.
    """

    asked: periods.Asked
    said: Mapping[str, str]
    values: Mapping[str, str]
    refusals: Sequence[Refused]


def read(names: Sequence[str], *, numbers: Collection[str], choices: Mapping[str, Collection[str]]) -> Address:
    """Read this request's query.

    Args:
        names: of its fields; `text` is empty for who may not read texts: they could guess them, word by word.
        numbers: those of them that are numbers, or the digits that they begin with.
        choices: what others may be; anything else is nothing.
    """
    asked = periods.asked(usual=ALL)
    said = {name: request.args.get(name, "").strip()[:_LONGEST] for name in names}
    if not access.may_read():
        said["text"] = ""
    for name, known in choices.items():
        if said[name] not in known:
            said[name] = ""
    values, refusals = dict(said), []
    for name in numbers:
        try:
            said[name] = values[name] = countries.digits(said[name], name)
        except Refused as refusal:
            values[name] = ""
            refusals.append(refusal)
    lines = paging.lines(_USUAL_LINES)
    said = {**(asked.said if asked.choice != ALL else {}), **said, LINES: "" if lines == _USUAL_LINES else str(lines)}
    return Address(asked, {name: value for name, value in said.items() if value}, values, refusals)


def show(form: periods.Form, asked: Filter[Any]) -> None:
    """Show in the form what was asked for, or what is wrong with it."""
    if not access.may_read():
        del form.text
    form.show(asked.asked)
    for each in asked.refusals:
        forms.attach(form, each)


class _Found(Protocol):
    @property
    def reached(self) -> int | None: ...


_F = TypeVar("_F", bound=_Found)


def page(
    asked: Filter[Any], find: Callable[..., _F], readable: Callable[[_F], Sequence[Any]], names: Sequence[str]
) -> dict[str, Any]:
    """What a list of messages is drawn with.

    Args:
        find: looks for them; takes `before`, `after`, `limit` and `seconds`.
        readable: the messages found, as this reader may see them.
        names: of the fields of the query.
    """
    reached: list[int] = []

    def fetch(*, before: int | None = None, after: int | None = None, limit: int) -> Sequence[Any]:
        found = find(before=before, after=after, limit=limit, seconds=_SECONDS)
        reached[:] = [] if found.reached is None else [found.reached]
        return readable(found)

    shown = paging.page(fetch, paging.lines(_USUAL_LINES))
    unfinished = reached[0] if reached and not shown.older and shown.after is None else None
    return {
        "page": shown,
        "usual": _USUAL_LINES,
        "asked": asked,
        "args": {name: request.args[name] for name in asks(names) if _is_asked(name)},
        "unfinished": unfinished,
        "reached": ids.time_of(unfinished) if unfinished else None,
    }


def asks(names: Sequence[str]) -> tuple[str, ...]:
    """All that the address of such a list may ask for."""
    return (*periods.ASKS, *names, *paging.ASKS, LINES)


def _is_asked(name: str) -> bool:
    return bool(request.args.get(name)) and (name != "text" or access.may_read())
