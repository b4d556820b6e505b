"""What operators ask for of messages that wait for upstreams: hold, release, cancel or move them.

Which messages are meant was fixed when the operator was told how many they are. A work is a row with its selection and
its position, which the SMPP server does in short steps: each is one transaction, so that a crash leaves each message as
it was or as it is to be, and another process goes on.
"""

import json
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from portal.core.clock import now_ms
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.common import audit, ids
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.common.message_states import ENROUTE
from portal.services.messages import query_cancel
from portal.services.messages.outcomes import DueMessages
from portal.services.messages.query_cancel import MessageStatus
from portal.services.messages.queue_selection import (
    CANCEL,
    HOLD,
    MOVE,
    RELEASE,
    QueueSelection,
    parse_selection,
    read_fitting_prices,
)
from portal.services.routing.route_table import RouteTable
from portal.services.upstreams import paths, steering, upstreams
from portal.services.upstreams.paths import ChoosePath
from portal.services.upstreams.steering import WaitingRange
from portal.services.upstreams.upstreams import Upstream

log = logging.getLogger(__name__)

RETRY_MS = 30_000
"""After how long a work is tried again of which a step went wrong."""
_MAX_ERROR_LENGTH = 200
# A step of these takes some milliseconds. Most accounts have messages of one priority alone, on a few paths.
_STEP_SIZES = {HOLD: 500, MOVE: 500, RELEASE: 250, CANCEL: 200}
_MAX_STEP_RANGES = 200


class UpstreamTakesNothing(Refused, field="to"):
    sentence = N_("%(name)s is disabled or drained: it would never send them.")


class MoveTargetMissing(Refused, field="to"):
    sentence = N_("Say to which upstream they are to be moved.")


@dataclass(frozen=True, slots=True)
class QueueWork:
    """A work that is under way, or has ended. Times in milliseconds.

    Of `asked_count` messages `done_count` are done so far; `left_count` were left as they are, since upstreams may have
    them; `refunded`: what was given back (thousandths of a credit). `target`: the upstream to which they are moved.
    `error`: why the last step went wrong, which is tried again; empty: it didn't.
    """

    id: int
    action: str
    selection: QueueSelection
    error: str
    target: str | None
    asked_at: int
    asked_by: str
    asked_count: int
    done_count: int
    left_count: int
    refunded: int
    ended_at: int | None


def create_queue_work(
    conn: sqlite3.Connection,
    actor: Actor,
    action: str,
    selection: QueueSelection,
    *,
    asked_count: int,
    target: Upstream | None = None,
) -> int:
    """Have a work done, which the SMPP server begins with at once, or when it runs; returns its id.

    Args:
        asked_count: how many messages that are now.
        target: the upstream to which they are moved.

    Raises:
        MoveTargetMissing, UpstreamTakesNothing
        NoSuchUpstream: it was removed meanwhile.
    """
    with write_transaction(conn):
        if action == MOVE:
            if target is None:
                raise MoveTargetMissing()
            target = upstreams.get_upstream_by_id(conn, target.id)
            if not target.enabled or target.draining:
                raise UpstreamTakesNothing(name=target.name)
            others = tuple(each for each in selection.paths if each != paths.pin_path(each, target.id))
            selection = replace(selection, paths=others)
        work_id = insert_row(
            conn,
            "queue_works",
            action=action,
            selection=str(selection),
            upstream_id=None if target is None else target.id,
            asked_at=now_ms(),
            asked_by=actor.name,
            asked_count=asked_count,
        )
        audit.record_action(
            conn,
            actor,
            f"queue.{action}",
            **_describe_selection(conn, selection),
            count=asked_count,
            to=None if target is None else target.name,
        )
    return work_id


def _describe_selection(conn: sqlite3.Connection, selection: QueueSelection) -> dict[str, Any]:
    """Which messages are meant, for the audit log: whose, which upstreams they wait for or would wait for if they
    weren't held, which route they take, and when they were submitted at the latest.
    """
    row = conn.execute("SELECT customer_id FROM accounts WHERE id = ?", (selection.account_id,)).fetchone()
    takers, names = upstreams.find_takers(conn, selection.paths), upstreams.get_upstream_names(conn)
    return {
        "customer_id": row and row[0],
        "account_id": selection.account_id,
        "upstreams": sorted({names[each] for each in takers.values() if each in names}),
        "route": selection.route_id,
        "before": ids.time_from_id(selection.before_id),
    }


def list_queue_works(conn: sqlite3.Connection, limit: int = 5) -> list[QueueWork]:
    """The last works, newest first, and all that have not ended."""
    rows = conn.execute(
        "SELECT queue_works.id, action, selection, error, upstreams.name, asked_at, asked_by, asked_count,"
        " done_count, left_count, refunded, ended_at FROM queue_works LEFT JOIN upstreams ON upstreams.id = upstream_id"
        " WHERE ended_at IS NULL OR queue_works.id > (SELECT coalesce(max(id), 0) - ? FROM queue_works)"
        " ORDER BY queue_works.id DESC",
        (limit,),
    )
    return [QueueWork(work_id, action, parse_selection(text), *rest) for work_id, action, text, *rest in rows]


def purge_queue_works(conn: sqlite3.Connection, before: int) -> None:
    """Delete what has ended before a moment (milliseconds)."""
    conn.execute("DELETE FROM queue_works WHERE ended_at < ?", (before,))


def has_open_works(conn: sqlite3.Connection) -> bool:
    """Whether anything is to be done. Cheap."""
    return bool(conn.execute("SELECT EXISTS (SELECT 1 FROM queue_works WHERE ended_at IS NULL)").fetchone()[0])


@dataclass(slots=True)
class _Done:
    """What a step has done, and what follows from it: what waits elsewhere now, and receipts that were queued."""

    due: DueMessages = field(default_factory=DueMessages)
    done_count: int = 0
    left_count: int = 0
    refunded: int = 0


def run_queue_step(
    conn: sqlite3.Connection, table: RouteTable, choose_path: ChoosePath
) -> tuple[DueMessages, int | None]:
    """Go on with the oldest work that has not ended, by some hundred messages; with one of which a step went wrong only
    where there is no other.

    Returns:
        What waits elsewhere now, and receipts that were queued; and after how many milliseconds to go on: 0, or
        RETRY_MS where it went wrong, of which nothing was done then. None: there is no more to do.

    Raises:
        sqlite3.OperationalError: the database can't be written.
    """
    with write_transaction(conn):
        row = conn.execute(
            "SELECT id, action, selection, upstream_id, position, error FROM queue_works WHERE ended_at IS NULL"
            " ORDER BY error <> '', id LIMIT 1"
        ).fetchone()
        if row is None:
            return DueMessages(), None
        conn.execute("SAVEPOINT queue_step")
        try:
            done = _do_step(conn, row, table, choose_path)
        except sqlite3.OperationalError:
            raise
        except Exception as error:
            conn.execute("ROLLBACK TO queue_step")
            _record_error(conn, row["id"], row["error"], error)
            return DueMessages(), RETRY_MS
        return done.due, 0 if has_open_works(conn) else None


def _record_error(conn: sqlite3.Connection, work_id: int, known_error: str, error: Exception) -> None:
    """Store with a work why it doesn't go on; the log has each error once."""
    text = f"{type(error).__name__}: {error}"[:_MAX_ERROR_LENGTH]
    if text != known_error:
        log.exception("work %d on what waits will be tried again", work_id)
    conn.execute("UPDATE queue_works SET error = ? WHERE id = ?", (text, work_id))


def _do_step(conn: sqlite3.Connection, row: sqlite3.Row, table: RouteTable, choose_path: ChoosePath) -> _Done:
    work_id, action, text, upstream_id, position, _ = row
    selection = parse_selection(text)
    found, next_position = _find_next(conn, selection, position, _STEP_SIZES[action])
    done = _Done()
    for of, message_ids in found:
        if selection.route_id is not None:
            message_ids = [*read_fitting_prices(conn, selection, table, message_ids)]
        if message_ids:
            _do_action(conn, action, upstream_id, of, message_ids, choose_path, done)
    conn.execute(
        "UPDATE queue_works SET position = ?, error = '', done_count = done_count + ?, left_count = left_count + ?,"
        " refunded = refunded + ?, ended_at = ? WHERE id = ?",
        (
            next_position,
            done.done_count,
            done.left_count,
            done.refunded,
            now_ms() if next_position is None else None,
            work_id,
        ),
    )
    return done


def _find_next(
    conn: sqlite3.Connection, selection: QueueSelection, position: str | None, limit: int
) -> tuple[list[tuple[WaitingRange, list[int]]], str | None]:
    """The next messages of a selection behind a position, by their ranges, and the position behind them; None: there is
    nothing more.
    """
    start, after_id = None, 0
    if position is not None:
        path_id, is_held, account_id, rank, after_id = json.loads(position)
        start = WaitingRange(path_id, bool(is_held), account_id, rank)
    found: list[tuple[WaitingRange, list[int]]] = []
    found_count = 0
    known = paths.find_path_ids(conn, selection.paths).values()
    for number, of in enumerate(steering.iterate_ranges(conn, known, selection.account_ids, start)):
        first_id = after_id if of == start else 0
        if number == _MAX_STEP_RANGES:
            return found, _format_position(of, first_id)
        message_ids = steering.list_range_ids(conn, of, first_id, selection.before_id, limit - found_count)
        if message_ids:
            found.append((of, message_ids))
            found_count += len(message_ids)
        if found_count == limit:
            # There may be more of the same range.
            return found, _format_position(of, message_ids[-1])
    return found, None


def _format_position(of: WaitingRange, after_id: int) -> str:
    return json.dumps([of.path_id, of.is_held, of.account_id, of.rank, after_id])


def _do_action(
    conn: sqlite3.Connection,
    action: str,
    upstream_id: int,
    of: WaitingRange,
    message_ids: Sequence[int],
    choose_path: ChoosePath,
    done: _Done,
) -> None:
    """Do it with messages of a range."""
    now = now_ms()
    if action == HOLD:
        count = steering.hold_messages(conn, of, message_ids, now)
    elif action == MOVE:
        count, path = steering.move_messages(conn, of, message_ids, upstream_id, now)
        done.due.waiting.add((path, of.account_id))
    elif action == RELEASE:
        count, found = steering.release_messages(conn, of, message_ids, choose_path, now)
        done.due.waiting |= {(path, of.account_id) for path in found}
    else:
        waiting: list[Any] = [MessageStatus(each, "", "", ENROUTE, 0, None, False, True) for each in message_ids]
        cancelled = query_cancel.cancel_messages(conn, waiting)
        count = sum(cancelled.was_cancelled)
        done.due.receipts += cancelled.receipts
        done.refunded += cancelled.refunded
    done.done_count += count
    done.left_count += len(message_ids) - count
