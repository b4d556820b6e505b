"""Long messages from handsets, which come in parts: kept until all are there, and joined before they are read.

The parts come in any order, over any bind of an upstream, and before or after a restart. A letter may begin in one and
end in the next, so their octets are joined, not their texts. Everything here is called inside `write_transaction()`.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from portal.core import gsm0338
from portal.core.clock import HOUR_MS
from portal.services.messages.validation import Segment

PART_WAIT_MS = HOUR_MS
"""So long a part waits for the others of its message."""
MAX_WAITING_PARTS = 100_000
"""So many parts are kept: a carrier can send any number that belong to nothing."""
MAX_PART_OCTETS = 160
"""What claims to be a part and is longer is none: one holds so many septets at most."""

_CONCATENATION_ELEMENTS = (0x00, 0x08)


@dataclass(slots=True)
class InboundPart:
    """A part of a message from a handset, or a message that was joined of its parts, for which `segment` is None.

    `content`: what follows `udh`; of GSM 03.38 unpacked septets. `data_coding`: as it came. `charset`: the upstream's,
    of data_coding 0.
    """

    source: str
    destination: str
    upstream: int
    segment: Segment | None
    data_coding: int
    charset: str
    udh: bytes | None
    content: bytes


_KEY_COLUMNS = "source, destination, upstream, reference, total, data_coding"
_IS_OF_KEY = " AND ".join(f"{each} = ?" for each in _KEY_COLUMNS.split(", "))
_COLUMNS = f"{_KEY_COLUMNS}, number, received_at, charset, udh, content"
_Key = tuple[object, ...]


def add_part(conn: sqlite3.Connection, part: InboundPart, segment: Segment, at: int) -> list[InboundPart]:
    """Keep a part that has come at a moment (milliseconds), unless it is there already.

    Returns:
        What no longer waits: the whole message where this was its last part. Where another text is there under the same
        number of the same message, that is an earlier message of which a part is missing: its parts, as they came.
    """
    key = (part.source, part.destination, part.upstream, segment.reference, segment.total, part.data_coding)
    waiting = _read_parts(conn, key)
    same = next((each for each in waiting if each.segment and each.segment.number == segment.number), None)
    ended: list[InboundPart] = []
    if same is not None:
        if same.content == part.content:
            return []
        ended, waiting = waiting, []
        _delete_parts(conn, key)
    if len(waiting) + 1 < segment.total:
        placeholders = ", ".join("?" * len(_COLUMNS.split(",")))
        conn.execute(
            f"INSERT INTO inbound_parts ({_COLUMNS}) VALUES ({placeholders})",
            (*key, segment.number, at, part.charset, part.udh, part.content),
        )
        return ended
    _delete_parts(conn, key)
    return [*ended, _join_parts([*waiting, part])]


def _join_parts(parts: Sequence[InboundPart]) -> InboundPart:
    ordered = sorted(parts, key=lambda each: each.segment.number if each.segment else 0)
    first = ordered[0]
    return InboundPart(
        first.source,
        first.destination,
        first.upstream,
        None,
        first.data_coding,
        first.charset,
        _remove_concatenation(first.udh),
        b"".join(each.content for each in ordered),
    )


def _remove_concatenation(udh: bytes | None) -> bytes | None:
    """What else a user data header says: ports, a national language; None where it says nothing else."""
    elements = [
        bytes((identifier, len(value))) + value
        for identifier, value in gsm0338.iterate_udh_elements(udh or b"")
        if identifier not in _CONCATENATION_ELEMENTS
    ]
    joined = b"".join(elements)
    return bytes((len(joined),)) + joined if joined else None


def take_old_parts(conn: sqlite3.Connection, now: int, limit: int) -> list[InboundPart]:
    """Take out parts that have waited for the others too long at a moment (milliseconds), and those that are too many:
    as they came, the oldest first, and with each all that are there of its message. Some `limit` messages at once.
    """
    keys = conn.execute(
        f"SELECT {_KEY_COLUMNS} FROM inbound_parts INDEXED BY inbound_parts_received WHERE received_at < ?"
        " ORDER BY received_at LIMIT ?",
        (now - PART_WAIT_MS, limit),
    ).fetchall()
    (count,) = conn.execute("SELECT count(*) FROM inbound_parts").fetchone()
    if not keys and count > MAX_WAITING_PARTS:
        keys = conn.execute(
            f"SELECT {_KEY_COLUMNS} FROM inbound_parts INDEXED BY inbound_parts_received ORDER BY received_at LIMIT ?",
            (min(count - MAX_WAITING_PARTS, limit),),
        ).fetchall()
    taken = []
    for key in dict.fromkeys(tuple(each) for each in keys):
        taken += _read_parts(conn, key)
        _delete_parts(conn, key)
    return taken


def _read_parts(conn: sqlite3.Connection, key: _Key) -> list[InboundPart]:
    rows = conn.execute(f"SELECT {_COLUMNS} FROM inbound_parts WHERE {_IS_OF_KEY} ORDER BY number", key)
    return [
        InboundPart(
            source, destination, upstream, Segment(reference, total, number), data_coding, charset, udh, content
        )
        for source, destination, upstream, reference, total, data_coding, number, _, charset, udh, content in rows
    ]


def _delete_parts(conn: sqlite3.Connection, key: _Key) -> None:
    conn.execute(f"DELETE FROM inbound_parts WHERE {_IS_OF_KEY}", key)
