"""Deletion of messages from the history by a customer: selected ones, or all that a search finds.

What is deleted was fixed when the customer was asked to confirm. A deletion is a row with its scope and its progress.
Each step is a short transaction that deletes messages and updates the progress, so that any process can continue it,
also after a crash.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection, insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.accounts import account_messages
from portal.services.accounts.accounts import Account
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.common.periods import ALL_TIME_PERIOD, LAST_DAY, Period
from portal.services.history import removal, search
from portal.services.history.removal import RemovalPlan
from portal.services.messages import inbound
from portal.services.statistics import rollup

SENT, RECEIVED = "sent", "received"
MAX_SELECTED = 1_000
MAX_OPEN_DELETIONS = 10
"""How many deletions of one account may be under way at the same time."""

_MAX_ID = (1 << 63) - 1
# How many messages are read before some of them are deleted: some milliseconds.
_BATCH_SIZE = 2_000
_SEARCH_SECONDS = 0.02
# A page shows an ended deletion for so long; after a month only the audit log has it.
_RECENTLY_ENDED_MS = 10 * 60_000
_RETENTION_MS = 30 * DAY_MS
# The fields of a query that are strings, by their keys in the JSON of a scope, which is also in the audit log.
_QUERY_FIELDS = {
    SENT: {"sender": "sender", "recipient": "recipient", "status": "status", "said": "text"},
    RECEIVED: {"sender": "sender", "recipient": "recipient", "keyword": "keyword", "state": "state", "said": "text"},
}
_MAX_FIELD_LENGTH = 200
_QUERY_CLASSES = {SENT: search.SearchQuery, RECEIVED: inbound.InboundQuery}

MessageQuery = search.SearchQuery | inbound.InboundQuery


class TooManyDeletions(Refused):
    sentence = N_("Too many deletions are under way. Wait until one of them has ended.")


@dataclass(frozen=True)
class DeletionScope:
    """What is to be deleted: texts (or received messages) with these `ids` or, where `query` is given, all that this
    search finds.

    Only those that were there and had ended at a moment, `as_of` (milliseconds), with ids below `before`.
    """

    kind: str
    as_of: int
    before: int
    ids: tuple[int, ...] = ()
    query: MessageQuery | None = None

    def __str__(self) -> str:
        """As JSON, for forms and the database; see `parse_deletion_scope`."""
        values: dict[str, Any] = {"at": self.as_of, "before": self.before}
        if self.query is None:
            values["ids"] = list(self.ids)
        else:
            values |= {"since": self.query.period.since, "until": self.query.period.until}
            values |= {key: getattr(self.query, name) for key, name in _QUERY_FIELDS[self.kind].items()}
        return json.dumps(values)


def parse_deletion_scope(kind: str, text: str) -> DeletionScope:
    """Parse the JSON that `str` returns for a scope of this kind.

    Raises:
        ValueError: it is something else.
    """
    try:
        values = json.loads(text)
        as_of, before = _require_int(values["at"]), _require_int(values["before"])
        if "ids" in values:
            selected_ids = tuple(_require_int(each) for each in values["ids"])
            if len(selected_ids) > MAX_SELECTED:
                raise ValueError(text)
            return DeletionScope(kind, as_of, before, selected_ids)
        since, until = (_require_int(values[each], ALL_TIME_PERIOD.until + 1) for each in ("since", "until"))
        period = Period(since, until, None, LAST_DAY)
        fields = {name: _require_string(values[key]) for key, name in _QUERY_FIELDS[kind].items()}
    except (LookupError, TypeError, RecursionError):
        raise ValueError(text) from None
    if fields.get("status", "") not in ("", *search.STATUSES, *map(str, search.list_failure_codes())):
        raise ValueError(text)
    query = _QUERY_CLASSES[kind](period, **fields)
    return DeletionScope(kind, as_of, before, query=query)


def _require_int(value: object, upper_bound: int = _MAX_ID) -> int:
    if not isinstance(value, int) or not 0 <= value < upper_bound:
        raise ValueError(value)
    return value


def _require_string(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_FIELD_LENGTH:
        raise ValueError(value)
    # JSON can contain half a surrogate pair, which SQLite does not accept (UnicodeEncodeError is a ValueError).
    value.encode()
    return value


def build_selection_scope(kind: str, message_ids: Sequence[int]) -> DeletionScope:
    """The scope of these messages, as they are now."""
    return DeletionScope(kind, now_ms(), _MAX_ID - 1, tuple(sorted(set(message_ids), reverse=True))[:MAX_SELECTED])


def build_query_scope(conn: sqlite3.Connection, account_id: int, query: MessageQuery) -> DeletionScope:
    """The scope of all that a search finds now."""
    if isinstance(query, inbound.InboundQuery):
        kind = RECEIVED
        (newest,) = conn.execute("SELECT max(id) FROM received WHERE account_id = ?", (account_id,)).fetchone()
    else:
        kind = SENT
        newest = account_messages.get_latest_message_id(conn, account_id)
    return DeletionScope(kind, now_ms(), (newest or 0) + 1, query=query)


@dataclass(slots=True)
class DeletionPreview:
    """How many texts a deletion would remove, and how many would stay because they are under way or waiting.

    `is_complete`: there was time to count all of them. `text_ids`: the first ones that would be removed.
    """

    removed: int = 0
    underway: int = 0
    waiting: int = 0
    is_complete: bool = True
    text_ids: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.removed + self.underway + self.waiting


def preview_deletion(
    conn: Connection, account_id: int, scope: DeletionScope, seconds: float = float("inf")
) -> DeletionPreview:
    """Count the texts of a scope until all are counted or the time is over."""
    deadline = time.monotonic() + seconds
    preview = DeletionPreview()
    for plan, end_id in iterate_deletion_batches(conn, account_id, scope, scope.before):
        if not preview.text_ids:
            preview.text_ids = [text[0] for text in plan.texts[:3]]
        preview.removed += len(plan.texts)
        preview.underway += len(plan.underway)
        preview.waiting += len(plan.waiting)
        if time.monotonic() >= deadline and end_id:
            preview.is_complete = False
            break
    return preview


def iterate_deletion_batches(
    conn: Connection, account_id: int, scope: DeletionScope, before: int
) -> Iterator[tuple[RemovalPlan, int]]:
    """Yield what is to be removed of a scope below an id, newest first, and the id down to which all has been read."""
    for message_ids, end_id in _iterate_scope_ids(conn, account_id, scope, before):
        if scope.kind == SENT:
            plan = removal.plan_removal(conn, account_id, message_ids, scope.as_of)
        else:
            plan = _plan_inbound_removal(conn, account_id, message_ids, scope.as_of)
        plan.texts.sort(reverse=True)
        yield plan, end_id


def delete_texts(
    conn: Connection, account_id: int, kind: str, texts: Sequence[Sequence[int]], *, keep_rows: bool = True
) -> int:
    """Remove texts of a `RemovalPlan`, or received messages; returns how many. `keep_rows`: see `removal`."""
    if kind == SENT:
        return removal.delete_sent_messages(conn, account_id, texts, keep_rows=keep_rows)
    return removal.delete_inbound_messages(conn, account_id, [text[0] for text in texts])


def _iterate_scope_ids(
    conn: Connection, account_id: int, scope: DeletionScope, before: int
) -> Iterator[tuple[Sequence[int], int]]:
    """Yield ids of a scope below an id, newest first, and the id below which the others are; at the end that is 0."""
    if scope.query is None:
        yield [each for each in scope.ids if each < before], 0
        return
    message_ids: Sequence[int]
    while True:
        if isinstance(scope.query, search.SearchQuery):
            message_ids, reached = search.search_text_ids(
                conn, account_id, scope.query, before=before, limit=_BATCH_SIZE, seconds=_SEARCH_SECONDS
            )
        else:
            page = inbound.search_inbound_messages(
                conn, account_id, scope.query, before=before, limit=_BATCH_SIZE, seconds=_SEARCH_SECONDS
            )
            message_ids, reached = [each.id for each in page.messages], page.reached
        if reached is None:
            reached = message_ids[-1] if len(message_ids) == _BATCH_SIZE else 0
        yield message_ids, reached
        if reached == 0:
            return
        before = reached


def _plan_inbound_removal(
    conn: sqlite3.Connection, account_id: int, received_ids: Sequence[int], as_of: int
) -> RemovalPlan:
    rows = conn.execute(
        "SELECT id, ended_at <= ? FROM received WHERE id IN (SELECT value FROM json_each(?)) AND +account_id = ?",
        (as_of, json.dumps(received_ids), account_id),
    ).fetchall()
    return RemovalPlan([[row[0]] for row in rows if row[1]], waiting=[row[0] for row in rows if not row[1]])


# --- deletions


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion that is under way, or has ended. Times in milliseconds.

    Of `total` texts or received messages (None: not counted yet) `removed` have been removed so far. `underway` ones,
    and those `waiting` for a client, stay.
    """

    id: int
    kind: str
    asked_at: int
    total: int | None
    removed: int
    underway: int
    waiting: int
    ended_at: int | None


_COLUMNS = "id, kind, asked_at, total, removed, underway, waiting, ended_at"


def create_deletion(
    conn: sqlite3.Connection,
    actor: Actor,
    account: Account,
    scope: DeletionScope,
    *,
    total: int | None = None,
) -> int:
    """Store a deletion, which `run_deletion` works off; returns its id.

    Args:
        total: how many texts the scope has, where they were counted.

    Raises:
        TooManyDeletions
    """
    with write_transaction(conn):
        (open_count,) = conn.execute(
            "SELECT count(*) FROM deletions WHERE account_id = ? AND ended_at IS NULL", (account.id,)
        ).fetchone()
        if open_count >= MAX_OPEN_DELETIONS:
            raise TooManyDeletions()
        return insert_row(
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


def run_deletion(conn: Connection, deletion_id: int) -> Iterator[None]:
    """Continue a deletion to its end. Between two steps no transaction is open: the caller may pause, or stop.

    Two processes may do so at the same time: only one of them makes progress.
    """
    row = conn.execute(
        "SELECT account_id, kind, wanted, before, total FROM deletions WHERE id = ? AND ended_at IS NULL",
        (deletion_id,),
    ).fetchone()
    if row is None:
        return
    account_id, kind, scope_json, before, total = row
    scope = parse_deletion_scope(kind, scope_json)
    if total is None:
        yield from _count_deletion_total(conn, deletion_id, account_id, scope)
    for plan, batch_end_id in iterate_deletion_batches(conn, account_id, scope, before):
        if plan.texts and kind == SENT:
            # All of them have ended. The statistics must have counted that before they are removed.
            yield from rollup.roll_up_in_batches(conn)
        # The last step is of what stays below the last text that is removed.
        for portion in (*removal.split_texts_into_batches(plan.texts), []):
            end_id = portion[-1][0] if portion else batch_end_id
            with write_transaction(conn):
                if not _store_deletion_progress(conn, deletion_id, plan, before, end_id):
                    return
                removed = delete_texts(conn, account_id, kind, portion)
                conn.execute("UPDATE deletions SET removed = removed + ? WHERE id = ?", (removed, deletion_id))
                if end_id == 0:
                    _finish_deletion(conn, deletion_id)
            before = end_id
            yield


def _count_deletion_total(conn: Connection, deletion_id: int, account_id: int, scope: DeletionScope) -> Iterator[None]:
    total = 0
    for message_ids, _ in _iterate_scope_ids(conn, account_id, scope, scope.before):
        total += len(message_ids)
        yield
    with write_transaction(conn):
        # Plus those that were removed already, where an earlier count did not get to its end.
        conn.execute("UPDATE deletions SET total = ? + removed WHERE id = ? AND total IS NULL", (total, deletion_id))


def _store_deletion_progress(
    conn: sqlite3.Connection, deletion_id: int, plan: RemovalPlan, before: int, end_id: int
) -> bool:
    """Store the progress from one id to another, and how many texts between them stay.

    Returns:
        False: another process has got further.
    """
    underway, waiting = (
        sum(end_id <= each < before for each in remaining_ids) for remaining_ids in (plan.underway, plan.waiting)
    )
    updated = conn.execute(
        "UPDATE deletions SET before = ?, underway = underway + ?, waiting = waiting + ?"
        " WHERE id = ? AND before = ? AND ended_at IS NULL",
        (end_id, underway, waiting, deletion_id, before),
    )
    return updated.rowcount > 0


def _finish_deletion(conn: sqlite3.Connection, deletion_id: int) -> None:
    row = conn.execute(
        "UPDATE deletions SET ended_at = ? WHERE id = ?"
        " RETURNING asked_by, address, account_id, kind, wanted, removed, underway, waiting,"
        " (SELECT customer_id FROM accounts WHERE id = account_id) AS customer_id",
        (now_ms(), deletion_id),
    ).fetchone()
    details = dict(row) | {"wanted": json.loads(row["wanted"])}
    actor = Actor(details.pop("asked_by"), details.pop("address"))
    audit.record_action(conn, actor, "history.delete", **details)


def list_open_deletion_ids(conn: sqlite3.Connection) -> list[int]:
    """The ids of the deletions that have not ended, oldest first."""
    return [row[0] for row in conn.execute("SELECT id FROM deletions WHERE ended_at IS NULL ORDER BY id")]


def get_deletion_by_id(conn: sqlite3.Connection, deletion_id: int) -> Deletion:
    """A deletion that is known to be there."""
    return Deletion(*conn.execute(f"SELECT {_COLUMNS} FROM deletions WHERE id = ?", (deletion_id,)).fetchone())


def list_recent_deletions(conn: sqlite3.Connection, account_id: int, now: int) -> list[Deletion]:
    """The deletions of an account that are under way, or have ended in the last minutes, newest first."""
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM deletions WHERE account_id = ? AND (ended_at IS NULL OR ended_at > ?)"
        " ORDER BY id DESC",
        (account_id, now - _RECENTLY_ENDED_MS),
    )
    return [Deletion(*row) for row in rows]


def purge_deletions(conn: sqlite3.Connection, now: int) -> None:
    """Delete the rows of deletions that ended a month ago."""
    conn.execute("DELETE FROM deletions WHERE ended_at < ?", (now - _RETENTION_MS,))
