"""Deletion of messages from the history, as a customer asks for it: ticked ones, or all that a search finds.

What was there when the question was asked is what goes. A deletion is a row that says what is wanted and how far it is;
each step is a short transaction that moves both, so whoever takes it up, after a crash too, goes on where it was.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection, immediate, insert
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account
from portal.services.common import audit, idempotency
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.common.periods import EVER, LAST_DAY, Period
from portal.services.history import removal, search
from portal.services.history.removal import Look
from portal.services.messages import inbound
from portal.services.statistics import rollup

SENT, RECEIVED = "sent", "received"
KINDS = (SENT, RECEIVED)
MOST_TICKED = 1_000
MOST_OPEN = 10
"""How many deletions of one account may be under way."""

_FURTHEST = (1 << 63) - 1
# As many as are looked at before some of them go: some milliseconds of reading.
_AT_ONCE = 2_000
_SECONDS = 0.02
# A page says for so long what became of a deletion; after a month only the audit log does.
_TOLD_MS = 10 * 60_000
_KEPT_MS = 30 * DAY_MS
# The search's fields that are words.
_WORDS = {
    SENT: ("sender", "recipient", "status", "said"),
    RECEIVED: ("sender", "recipient", "keyword", "state", "said"),
}
_LONGEST = 200

Wanted = search.Wanted | inbound.Wanted


class TooManyAtOnce(Refused):
    sentence = N_("Too many deletions are under way. Wait until one of them has ended.")


@dataclass(frozen=True)
class Scope:
    """What is to go: the texts (or received messages) with these `ids`, or, where `wanted` is given, all that this
    search finds; of what was there at a moment, `at` (milliseconds): ids below `before`, ended by then.
    """

    kind: str
    at: int
    before: int
    ids: tuple[int, ...] = ()
    wanted: Wanted | None = None

    def __str__(self) -> str:
        """As forms carry it, for `scope`."""
        found: dict[str, Any] = {"at": self.at, "before": self.before}
        if self.wanted is None:
            found["ids"] = list(self.ids)
        else:
            found |= {"since": self.wanted.within.since, "until": self.wanted.within.until}
            found |= {name: getattr(self.wanted, name) for name in _WORDS[self.kind]}
        return json.dumps(found)


def scope(kind: str, text: str) -> Scope:
    """Read what `str` of a scope of this kind has written.

    Raises:
        ValueError: it was something else.
    """
    try:
        found = json.loads(text)
        at, before = _number(found["at"]), _number(found["before"])
        if "ids" in found:
            ticked = tuple(_number(each) for each in found["ids"])
            if len(ticked) > MOST_TICKED:
                raise ValueError(text)
            return Scope(kind, at, before, ticked)
        since, until = (_number(found[each], EVER.until + 1) for each in ("since", "until"))
        within = Period(since, until, None, LAST_DAY)
        words = {name: _word(found[name]) for name in _WORDS[kind]}
    except (LookupError, TypeError, RecursionError):
        raise ValueError(text) from None
    wanted: Wanted
    if kind == RECEIVED:
        wanted = inbound.Wanted(within, **words)
    else:
        wanted = search.Wanted(within, **words)
        if wanted.status and wanted.status not in search.STATUSES and not _is_code(wanted.status):
            raise ValueError(text)
    return Scope(kind, at, before, wanted=wanted)


def _number(value: object, bound: int = _FURTHEST) -> int:
    if not isinstance(value, int) or not 0 <= value < bound:
        raise ValueError(value)
    return value


def _word(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError(value)
    # JSON can write half a surrogate pair, which SQLite takes from nobody (UnicodeEncodeError is a ValueError).
    value.encode()
    return value


def _is_code(status: str) -> bool:
    return status.isascii() and status.isdigit() and int(status) in search.failures()


def ticked(kind: str, message_ids: Sequence[int]) -> Scope:
    """Of these messages, what is there now."""
    return Scope(kind, now_ms(), _FURTHEST - 1, tuple(sorted(set(message_ids), reverse=True))[:MOST_TICKED])


def all_of(conn: sqlite3.Connection, account_id: int, wanted: Wanted) -> Scope:
    """All that a search finds now."""
    kind = RECEIVED if isinstance(wanted, inbound.Wanted) else SENT
    table = "received" if kind == RECEIVED else "messages"
    (newest,) = conn.execute(f"SELECT max(id) FROM {table} WHERE account_id = ?", (account_id,)).fetchone()
    return Scope(kind, now_ms(), (newest or 0) + 1, wanted=wanted)


@dataclass(slots=True)
class Count:
    """What a deletion would remove, and how many texts would stay, as far as there was time to count them.

    `text_ids` are the first ones that would go.
    """

    removed: int = 0
    underway: int = 0
    waiting: int = 0
    is_complete: bool = True
    text_ids: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.removed + self.underway + self.waiting


def count(conn: Connection, account_id: int, scope: Scope, seconds: float = float("inf")) -> Count:
    """Count what a scope is about, for so long at the least."""
    ends = time.monotonic() + seconds
    found = Count()
    for batch in _batches(conn, account_id, scope, scope.before):
        if not found.text_ids:
            found.text_ids = [text[0] for text in batch.look.texts[:3]]
        found.removed += len(batch.look.texts)
        found.underway += len(batch.look.underway)
        found.waiting += len(batch.look.waiting)
        if time.monotonic() >= ends and not batch.is_last:
            found.is_complete = False
            break
    return found


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some of what is to go, newest first; all with an id of `end` or more have been looked at by then."""

    look: Look
    end: int
    is_last: bool


def _batches(conn: Connection, account_id: int, scope: Scope, before: int) -> Iterator[_Batch]:
    """What is to go of all before an id, newest first."""
    while True:
        lines, before = _lines(conn, account_id, scope, before)
        if scope.kind == SENT:
            found = removal.look(conn, account_id, lines, scope.at)
        else:
            found = _look_at_received(conn, account_id, lines, scope.at)
        found.texts.sort(reverse=True)
        yield _Batch(found, before, before == 0)
        if before == 0:
            return


def _lines(conn: Connection, account_id: int, scope: Scope, before: int) -> tuple[list[int], int]:
    """Some of what a scope is about, newest first, and the id before which the others are; 0: there are none."""
    if scope.wanted is None:
        return [each for each in scope.ids if each < before], 0
    lines: Sequence[int]
    if isinstance(scope.wanted, search.Wanted):
        lines, reached = search.lines(conn, account_id, scope.wanted, before=before, limit=_AT_ONCE, seconds=_SECONDS)
    else:
        found = inbound.find(conn, account_id, scope.wanted, before=before, limit=_AT_ONCE, seconds=_SECONDS)
        lines, reached = [each.id for each in found.messages], found.reached
    if reached is None:
        reached = lines[-1] if len(lines) == _AT_ONCE else 0
    return lines, reached


def _look_at_received(conn: sqlite3.Connection, account_id: int, received_ids: Sequence[int], at: int) -> Look:
    rows = conn.execute(
        "SELECT id, coalesce(ended_at, ?) <= ? FROM received"
        " WHERE id IN (SELECT value FROM json_each(?)) AND +account_id = ?",
        (_FURTHEST, at, json.dumps(received_ids), account_id),
    ).fetchall()
    return Look([[row[0]] for row in rows if row[1]], waiting=[row[0] for row in rows if not row[1]])


# --- deletions


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion that is under way, or has ended (milliseconds).

    Of `total` texts or received messages (None: not counted yet) `removed` have gone by now, and of those that were
    looked at so many stay: `underway`, and `waiting` for a client.
    """

    id: int
    kind: str
    asked_at: int
    asked_by: str
    total: int | None
    removed: int
    underway: int
    waiting: int
    ended_at: int | None


_COLUMNS = "id, kind, asked_at, asked_by, total, removed, underway, waiting, ended_at"


def begin(
    conn: sqlite3.Connection,
    actor: Actor,
    account: Account,
    scope: Scope,
    *,
    total: int | None = None,
    form: str = "",
) -> int:
    """Let a deletion be worked off (`work`); returns its id.

    Args:
        total: how many texts the scope is about, where they were counted.
        form: a number of `once.new`.

    Raises:
        AlreadySent, TooManyAtOnce
    """
    with immediate(conn):
        idempotency.spend(conn, form)
        (open_now,) = conn.execute(
            "SELECT count(*) FROM deletions WHERE account_id = ? AND ended_at IS NULL", (account.id,)
        ).fetchone()
        if open_now >= MOST_OPEN:
            raise TooManyAtOnce()
        return insert(
            conn,
            "deletions",
            account_id=account.id,
            kind=scope.kind,
            wanted=str(scope),
            asked_at=now_ms(),
            asked_by=actor.name,
            address=actor.address,
            before=scope.before,
            total=total,
        )


def work(conn: Connection, deletion_id: int) -> Iterator[None]:
    """Go on with a deletion to its end; between two steps nothing is held: the caller may rest, or stop.

    Two may do so at once: only one of them gets further.
    """
    row = conn.execute(
        "SELECT account_id, kind, wanted, before, total FROM deletions WHERE id = ? AND ended_at IS NULL",
        (deletion_id,),
    ).fetchone()
    if row is None:
        return
    account_id, kind, wanted, before, total = row
    wanted = scope(kind, wanted)
    if total is None:
        yield from _count_first(conn, deletion_id, account_id, wanted)
    for batch in _batches(conn, account_id, wanted, before):
        texts = batch.look.texts
        if texts and kind == SENT:
            # All of them had ended before they were looked at. Now that is counted, too.
            yield from rollup.catch_up(conn)
        for some in removal.portions(texts):
            end = some[-1][0]
            with immediate(conn):
                if not _move(conn, deletion_id, batch.look, before, end):
                    return
                if kind == SENT:
                    removed = removal.take(conn, account_id, some)
                else:
                    removed = removal.take_received(conn, account_id, [text[0] for text in some])
                conn.execute("UPDATE deletions SET removed = removed + ? WHERE id = ?", (removed, deletion_id))
            before = end
            yield
        with immediate(conn):
            if not _move(conn, deletion_id, batch.look, before, batch.end):
                return
            if batch.is_last:
                _end(conn, deletion_id)
        before = batch.end
        yield


def _count_first(conn: Connection, deletion_id: int, account_id: int, scope: Scope) -> Iterator[None]:
    total, before = 0, scope.before
    while before:
        lines, before = _lines(conn, account_id, scope, before)
        total += len(lines)
        yield
    with immediate(conn):
        # Those that have gone already, where the count did not get to its end before.
        conn.execute("UPDATE deletions SET total = ? + removed WHERE id = ? AND total IS NULL", (total, deletion_id))


def _move(conn: sqlite3.Connection, deletion_id: int, look: Look, before: int, end: int) -> bool:
    """Go from one id to another, and note what stays between them; False: somebody else has got further."""
    underway, waiting = (sum(end <= each < before for each in stay) for stay in (look.underway, look.waiting))
    moved = conn.execute(
        "UPDATE deletions SET before = ?, underway = underway + ?, waiting = waiting + ?"
        " WHERE id = ? AND before = ? AND ended_at IS NULL",
        (end, underway, waiting, deletion_id, before),
    )
    return moved.rowcount > 0


def _end(conn: sqlite3.Connection, deletion_id: int) -> None:
    row = conn.execute(
        "UPDATE deletions SET ended_at = ? WHERE id = ?"
        " RETURNING account_id, kind, wanted, asked_by, address, removed, underway, waiting",
        (now_ms(), deletion_id),
    ).fetchone()
    account_id, kind, wanted, asked_by, address, removed, underway, waiting = row
    (customer_id,) = conn.execute("SELECT customer_id FROM accounts WHERE id = ?", (account_id,)).fetchone()
    audit.record(
        conn,
        Actor(asked_by, address),
        "history.delete",
        customer_id=customer_id,
        account_id=account_id,
        kind=kind,
        wanted=json.loads(wanted),
        removed=removed,
        underway=underway,
        waiting=waiting,
    )


def open_ones(conn: sqlite3.Connection) -> list[int]:
    """The ids of the deletions that have not ended, oldest first."""
    return [row[0] for row in conn.execute("SELECT id FROM deletions WHERE ended_at IS NULL ORDER BY id")]


def by_id(conn: sqlite3.Connection, deletion_id: int) -> Deletion:
    """One of them."""
    return Deletion(*conn.execute(f"SELECT {_COLUMNS} FROM deletions WHERE id = ?", (deletion_id,)).fetchone())


def of_account(conn: sqlite3.Connection, account_id: int, now: int) -> list[Deletion]:
    """The deletions of an account that are under way, and those that have ended a moment ago, newest first."""
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM deletions WHERE account_id = ? AND (ended_at IS NULL OR ended_at > ?)"
        " ORDER BY id DESC",
        (account_id, now - _TOLD_MS),
    )
    return [Deletion(*row) for row in rows]


def purge(conn: sqlite3.Connection, now: int) -> None:
    """Forget deletions that ended long ago."""
    conn.execute("DELETE FROM deletions WHERE ended_at < ?", (now - _KEPT_MS,))
