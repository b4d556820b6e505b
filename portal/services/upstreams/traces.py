"""Traces: the PDUs of one upstream, which operators have kept for some minutes, with texts and numbers masked."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from portal.core.clock import DAY_MS, MINUTE_MS, now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.upstreams.upstreams import SIMULATOR, Upstream, get_upstream_by_id

MAX_MINUTES = 60
MAX_ROWS = 5_000
"""So many PDUs of an upstream are kept, the newest; and each for KEPT_MS."""
KEPT_MS = DAY_MS


class InvalidTraceMinutes(Refused, field="minutes"):
    sentence = N_("A trace takes from 1 to %(limit)s minutes.")


class SimulatorTraced(Refused):
    sentence = N_("“%(name)s” is a simulator: it sends no PDUs.")


@dataclass(frozen=True, slots=True)
class Trace:
    """When it has begun, and when it ends or has ended (milliseconds). `left_out`: how many PDUs came faster than they
    are kept.
    """

    started_at: int
    ends_at: int
    left_out: int

    def is_running(self, now: int) -> bool:
        return now < self.ends_at


@dataclass(frozen=True, slots=True)
class TracedPdu:
    """A PDU as operators see it.

    `at`: milliseconds. `is_sent`: to the carrier, and not by it. `bind`: its number. `command`: its name. `status`: the
    command_status of a response, name and number. `fields`: those of its body that aren't empty, by their names
    in SMPP 3.4, masked.
    """

    at: int
    is_sent: bool
    bind: int
    sequence_number: int
    command: str
    status: str
    fields: Mapping[str, str] = field(default_factory=dict)
    id: int = 0


# --- asked for by operators


def start_trace(conn: sqlite3.Connection, actor: Actor, upstream: Upstream, minutes: int | str) -> Trace:
    """Have the PDUs of an upstream kept from now on, for so many minutes; where that is so already, for so many more.

    Raises:
        SimulatorTraced, InvalidTraceMinutes
        NoSuchUpstream: it was removed meanwhile.
    """
    if upstream.kind == SIMULATOR:
        raise SimulatorTraced(name=upstream.name)
    text = str(minutes).strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_MINUTES):
        raise InvalidTraceMinutes(limit=MAX_MINUTES)
    now = now_ms()
    with write_transaction(conn):
        get_upstream_by_id(conn, upstream.id)
        conn.execute(
            "INSERT INTO upstream_traces (upstream, started_at, ends_at) VALUES (?1, ?2, ?3) ON CONFLICT (upstream)"
            " DO UPDATE SET started_at = iif(ends_at > ?2, started_at, ?2), ends_at = ?3,"
            " left_out = iif(ends_at > ?2, left_out, 0)",
            (upstream.id, now, now + int(text) * MINUTE_MS),
        )
        audit.record_action(conn, actor, "upstream.trace", name=upstream.name, minutes=int(text))
        return get_trace(conn, upstream.id) or Trace(now, now, 0)


def stop_trace(conn: sqlite3.Connection, actor: Actor, upstream: Upstream) -> None:
    """End a trace now; what it has kept stays. One that has ended isn't changed."""
    now = now_ms()
    with write_transaction(conn):
        if conn.execute(
            "UPDATE upstream_traces SET ends_at = ?1 WHERE upstream = ?2 AND ends_at > ?1", (now, upstream.id)
        ).rowcount:
            audit.record_action(conn, actor, "upstream.trace_stop", name=upstream.name)


def get_trace(conn: sqlite3.Connection, upstream_id: int) -> Trace | None:
    """The one that runs, or the last one; None where there was none."""
    row = conn.execute(
        "SELECT started_at, ends_at, left_out FROM upstream_traces WHERE upstream = ?", (upstream_id,)
    ).fetchone()
    return Trace(*row) if row else None


def list_pdus(
    conn: sqlite3.Connection, upstream_id: int, *, limit: int, before: int | None = None, after: int | None = None
) -> list[TracedPdu]:
    """Kept PDUs of an upstream, newest first: those with smaller ids than `before`, or those that follow `after`."""
    condition, order = ("id > ?2", "ASC") if after is not None else ("(?2 IS NULL OR id < ?2)", "DESC")
    rows = conn.execute(
        "SELECT at, is_sent, bind, sequence_number, command, status, fields, id FROM traced_pdus"
        f" WHERE upstream = ?1 AND {condition} ORDER BY id {order} LIMIT ?3",
        (upstream_id, before if after is None else after, limit),
    ).fetchall()
    return [
        TracedPdu(at, bool(is_sent), bind, sequence_number, command, status, json.loads(fields), row_id)
        for at, is_sent, bind, sequence_number, command, status, fields, row_id in (
            rows if after is None else rows[::-1]
        )
    ]


# --- asked by the SMPP server


def list_running_traces(conn: sqlite3.Connection) -> dict[int, int]:
    """When each trace that runs ends (milliseconds), by the id of its upstream."""
    return dict(conn.execute("SELECT upstream, ends_at FROM upstream_traces WHERE ends_at > ?", (now_ms(),)).fetchall())


def store_pdus(conn: sqlite3.Connection, upstream_id: int, pdus: Sequence[TracedPdu], left_out: int) -> None:
    """Keep PDUs of an upstream, in their order, in place of the oldest; and count those that were left out. Of an
    upstream that has been removed meanwhile nothing is kept.
    """
    with write_transaction(conn):
        if conn.execute(
            "UPDATE upstream_traces SET left_out = left_out + ? WHERE upstream = ?", (left_out, upstream_id)
        ).rowcount:
            conn.executemany(
                "INSERT INTO traced_pdus (upstream, at, is_sent, bind, sequence_number, command, status, fields)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        upstream_id,
                        each.at,
                        int(each.is_sent),
                        each.bind,
                        each.sequence_number,
                        each.command,
                        each.status,
                        json.dumps(each.fields, ensure_ascii=False),
                    )
                    for each in pdus
                ],
            )
            conn.execute(
                "DELETE FROM traced_pdus WHERE upstream = ?1 AND id <= (SELECT id FROM traced_pdus WHERE upstream = ?1"
                " ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                (upstream_id, MAX_ROWS),
            )
