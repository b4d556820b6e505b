"""Long messages from handsets, which come in parts: kept until all are there, and joined before they are read.

The parts come in any order, over any bind of an upstream, and before or after a restart. A letter may begin in one and
end in the next, so their octets are joined, not their texts. Everything here is called inside `write_transaction()`.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from portal.core import gsm0338
from portal.core.clock import HOUR_MS
from portal.core.db import BulkInsert
from portal.services.messages.inbound_octets import decode_content, is_too_long
from portal.services.messages.validation import Segment

PART_WAIT_MS = HOUR_MS
"""So long a part waits for the others of its message."""
MAX_WAITING_PARTS = 100_000
"""So many parts are kept: a carrier can send any number that belong to nothing."""
MAX_PART_OCTETS = 320
"""What claims to be a part and is longer is none: one holds 160 septets at most, of up to two octets each in UTF-8."""

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
_COLUMNS = f"{_KEY_COLUMNS}, number, received_at, charset, udh, content"
_INSERT_PARTS = BulkInsert("inbound_parts", _COLUMNS)
_Key = tuple[str, str, int, int, int, int]


class PartJoiner:
    """Joins the parts of a batch with each other, and with those that wait: what it needs of these is read at once.

    Args:
        parts: all those that will be added.
    """

    def __init__(self, conn: sqlite3.Connection, parts: Sequence[InboundPart]) -> None:
        self._conn = conn
        self._waiting = _read_parts(conn, [get_key(each) for each in parts])
        self._stored_keys = {*self._waiting}
        self._ended_keys: set[_Key] = set()
        self._new_parts: dict[_Key, dict[int, InboundPart]] = defaultdict(dict)

    def add(self, part: InboundPart) -> list[InboundPart]:
        """Add a part, unless it is there already.

        Returns:
            What no longer waits: the whole message where this was its last part, or all its parts, where that is
            longer than any handset sends. Where another text is there under the same number of the same message, that
            is an earlier message of which a part is missing: its parts, as they came.
        """
        assert part.segment is not None
        key, number = get_key(part), part.segment.number
        waiting = self._waiting.setdefault(key, {})
        ended: list[InboundPart] = []
        if number in waiting:
            if waiting[number].content == part.content:
                return []
            ended = self._end(key)
        waiting[number] = self._new_parts[key][number] = part
        if len(waiting) == part.segment.total:
            ended += _join_parts(self._end(key))
        return ended

    def _end(self, key: _Key) -> list[InboundPart]:
        """Take out all parts of a message, in their order."""
        parts = [part for _, part in sorted(self._waiting[key].items())]
        self._waiting[key].clear()
        self._new_parts.pop(key, None)
        self._ended_keys.add(key)
        return parts

    def save(self, at: int) -> None:
        """Keep what waits of the parts that came at this moment (milliseconds)."""
        _delete_parts(self._conn, self._ended_keys & self._stored_keys)
        rows = [
            (*key, number, at, part.charset, part.udh, part.content)
            for key, parts in self._new_parts.items()
            for number, part in parts.items()
        ]
        _INSERT_PARTS.run(self._conn, rows)


def get_key(part: InboundPart) -> _Key:
    """What the parts of a message have in common."""
    assert part.segment is not None
    reference, total, _ = part.segment
    return part.source, part.destination, part.upstream, reference, total, part.data_coding


def _join_parts(parts: list[InboundPart]) -> list[InboundPart]:
    """The whole message; the parts again where it is too long."""
    first = parts[0]
    joined = InboundPart(
        first.source,
        first.destination,
        first.upstream,
        None,
        first.data_coding,
        first.charset,
        _remove_concatenation(first.udh),
        b"".join(each.content for each in parts),
    )
    decoded = decode_content(joined.content, joined.data_coding, joined.udh, joined.charset)
    return parts if is_too_long(*decoded) else [joined]


def _remove_concatenation(udh: bytes | None) -> bytes | None:
    """What else a user data header says: ports, a national language; None where it says nothing else."""
    elements = [
        bytes((identifier, len(value))) + value
        for identifier, value in gsm0338.iterate_udh_elements(udh or b"")
        if identifier not in _CONCATENATION_ELEMENTS
    ]
    joined = b"".join(elements)
    return bytes((len(joined),)) + joined if joined else None


def take_old_parts(conn: sqlite3.Connection, now: int, limit: int) -> tuple[list[InboundPart], bool]:
    """Take out parts that have waited for the others too long at a moment (milliseconds), and those that are too many:
    as they came, the oldest first, and with each all that are there of its message. Some `limit` messages at once.

    Returns:
        The parts, and whether there may be more to take.
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
    found = _read_parts(conn, [tuple(each) for each in keys])
    _delete_parts(conn, found)
    taken = [part for parts in found.values() for _, part in sorted(parts.items())]
    return taken, len(keys) == limit or (bool(taken) and count - len(taken) > MAX_WAITING_PARTS)


_IS_OF_KEY = " AND ".join(f"{name} = value ->> {index}" for index, name in enumerate(_KEY_COLUMNS.split(", ")))
_SELECT_PARTS = f"SELECT {_COLUMNS} FROM json_each(?) CROSS JOIN inbound_parts ON {_IS_OF_KEY}"
_KEY_VALUES = ", ".join(f"value ->> {index}" for index in range(len(_KEY_COLUMNS.split(", "))))
_DELETE_PARTS = f"DELETE FROM inbound_parts WHERE ({_KEY_COLUMNS}) IN (SELECT {_KEY_VALUES} FROM json_each(?))"


def _read_parts(conn: sqlite3.Connection, keys: Sequence[_Key]) -> dict[_Key, dict[int, InboundPart]]:
    """The parts that wait of some messages, by their numbers."""
    parts: dict[_Key, dict[int, InboundPart]] = defaultdict(dict)
    if not keys:
        return {}
    for row in conn.execute(_SELECT_PARTS, (json.dumps([*dict.fromkeys(keys)]),)):
        source, destination, upstream, reference, total, data_coding, number, _, charset, udh, content = row
        part = InboundPart(
            source, destination, upstream, Segment(reference, total, number), data_coding, charset, udh, content
        )
        parts[get_key(part)][number] = part
    return dict(parts)


def _delete_parts(conn: sqlite3.Connection, keys: Collection[_Key]) -> None:
    if keys:
        conn.execute(_DELETE_PARTS, (json.dumps([*keys]),))
