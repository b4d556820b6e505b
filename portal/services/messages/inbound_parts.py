"""What carriers send from handsets: what its octets mean, and long messages, which come in parts and are joined.

The parts come in any order, over any bind of an upstream, and before or after a restart. A letter may begin in one and
end in the next, so their octets are joined, not their texts. What takes a connection is called inside
`write_transaction()`.
"""

import hashlib
import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from portal.core import gsm0338
from portal.core.clock import HOUR_MS, MINUTE_MS
from portal.core.db import BulkInsert
from portal.services.messages.validation import MAX_PARTS, Segment, unpack_body
from portal.services.upstreams.settings import GSM_PACKED, OTHER_CHARSETS

PART_WAIT_MS = HOUR_MS
"""So long a part waits for the others of its message, and a message that was joined is known by its parts."""
HOLD_MS = MINUTE_MS
"""So long a message waits of which a part may be of an earlier one."""
MAX_WAITING_PARTS = 100_000
"""So many parts are kept: a carrier can send any number that belong to nothing. As many joined messages are known."""
MAX_PART_OCTETS = 320
"""What claims to be a part and is longer is none: one holds 160 septets at most, of up to two octets each in UTF-8."""

_CONCATENATION_ELEMENTS = (0x00, 0x08)
_HASH_OCTETS = 8
BINARY_DATA_CODING = 4
_ASCII_DATA_CODING = 1
# What no text has that is ASCII. Servers made with the package smpp of npm say data_coding 1 and write GSM 03.38.
_NO_ASCII = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
# What one message holds of them (GSM 03.40, 9.2.3.16).
_PACKED_OCTETS, _PACKED_SEPTETS = 140, 160
# So many characters, or octets, fit in MAX_PARTS whatever they are: a part has room for 33 that take two code units.
_SURELY_SHORT = MAX_PARTS * 33


class DecodedContent(NamedTuple):
    """The fields of these names of a `MobileOriginatedMessage`."""

    text: str
    data_coding: int
    body: bytes | None


def unpack_content(content: bytes, charset: str, header_length: int) -> bytes:
    """The content of a message in GSM 03.38 as unpacked septets.

    Args:
        content: what follows a user data header of so many octets.
        charset: an upstream's `receipt_charset`.
    """
    if charset != GSM_PACKED:
        return content
    # Of a longer one each message's octets by themselves: the work grows with the square of their number.
    whole = range(0, max(len(content) - 1, 0) // _PACKED_OCTETS * _PACKED_OCTETS, _PACKED_OCTETS)
    if header_length or not whole:
        return unpack_body(content[:_PACKED_OCTETS], header_length)
    pieces = [gsm0338.unpack_septets(content[start : start + _PACKED_OCTETS], _PACKED_SEPTETS) for start in whole]
    return b"".join(pieces) + unpack_body(content[whole.stop :], 0)


def decode_content(content: bytes, data_coding: int, udh: bytes | None, charset: str) -> DecodedContent:
    """What a content without its user data header means.

    Args:
        content: octets; of GSM 03.38 unpacked septets.
        data_coding: as it came; one that isn't known is binary.
        charset: that of data_coding 0. A text in one that isn't GSM 03.38 gets the data_coding that customers' clients
            read it by.
    """
    if data_coding == 0 and charset in OTHER_CHARSETS:
        text = content.decode(charset, "replace")
        return DecodedContent(text, int(gsm0338.choose_encoding(text)), None)
    if data_coding == _ASCII_DATA_CODING and _NO_ASCII.search(content):
        data_coding = 0
    data_coding = data_coding if data_coding in gsm0338.ENCODINGS else BINARY_DATA_CODING
    try:
        if udh and gsm0338.has_shift_elements(udh):
            raise ValueError("the text is in the table of a national language")
        return DecodedContent(gsm0338.decode_body(content, gsm0338.ENCODINGS[data_coding]), data_coding, None)
    except ValueError:
        text = gsm0338.decode_as_displayed(content, gsm0338.get_alphabet(data_coding, udh))
        return DecodedContent(text, data_coding, content)


def is_too_long(text: str, data_coding: int, body: bytes | None) -> bool:
    """Whether a content, as decoded, has more parts than a handset can send (GSM 03.40, 9.2.3.24.1): a deliver_sm with
    it may be longer than clients read, or than any can be.
    """
    if len(text if body is None else body) <= _SURELY_SHORT:
        return False
    encoding = gsm0338.ENCODINGS[data_coding]
    octets = gsm0338.encode_body(text, encoding) if body is None else body
    return gsm0338.count_parts(octets, encoding) > MAX_PARTS


# --- parts


@dataclass(slots=True)
class InboundPart:
    """A part of a message from a handset, or a message that was joined of its parts, for which `segment` is None.

    `content`: what follows `udh`; of GSM 03.38 unpacked septets. `data_coding`: as it came. `charset`: the upstream's,
    of data_coding 0. `is_repeated`: whether a message that was joined has the same part, which `PartJoiner` says.
    `received_at`: when it came (milliseconds), where it waits; else 0.
    """

    source: str
    destination: str
    upstream: int
    segment: Segment | None
    data_coding: int
    charset: str
    udh: bytes | None
    content: bytes
    is_repeated: bool = False
    received_at: int = 0


_KEY_COLUMNS = "source, destination, upstream, reference, total, data_coding"
_INSERT_PARTS = BulkInsert("inbound_parts", f"{_KEY_COLUMNS}, number, received_at, charset, udh, content, repeated")
_INSERT_JOINED = BulkInsert(
    "joined_messages",
    f"{_KEY_COLUMNS}, received_at, hashes",
    "ON CONFLICT DO UPDATE SET received_at = excluded.received_at, hashes = excluded.hashes",
)
_Key = tuple[str, str, int, int, int, int]


class PartJoiner:
    """Joins the parts of a batch with each other, and with those that wait: what it needs of these is read at once.

    Args:
        parts: all those that will be added.
    """

    def __init__(self, conn: sqlite3.Connection, parts: Sequence[InboundPart]) -> None:
        self._conn = conn
        keys = [get_key(each) for each in parts]
        self._waiting = _read_parts(conn, keys)
        self._known_hashes = _read_hashes(conn, keys)
        self._joined_keys: set[_Key] = set()
        # Of these, what is stored gives way to what waits now.
        self._outdated_keys: set[_Key] = set()

    def add(self, part: InboundPart) -> list[InboundPart]:
        """Add a part, unless it is there already.

        A carrier repeats one whose answer was late, also when its message has been joined. Such a one waits like
        others, since the handset may have sent another text with the same part under the same reference. It gives way
        to any that comes in its place, and a message with it waits a while for that.

        Returns:
            What no longer waits: the whole message where this was its last part, or all its parts, where that is
            longer than any handset sends. Where another text is there under the same number of the same message, that
            is an earlier message of which a part is missing: its parts, as they came.
        """
        assert part.segment is not None
        key, number = get_key(part), part.segment.number
        hashes, start = self._known_hashes.get(key, b""), _HASH_OCTETS * (number - 1)
        part.is_repeated = bool(hashes) and hashes[start : start + _HASH_OCTETS] == _hash_content(part.content)
        waiting = self._waiting.setdefault(key, {})
        other = waiting.get(number)
        ended: list[InboundPart] = []
        if other is not None:
            if other.content == part.content or (part.is_repeated and not other.is_repeated):
                return []
            self._outdated_keys.add(key)
            if not other.is_repeated:
                ended = self._end(key)
        waiting[number] = part
        if _is_whole(waiting):
            self._outdated_keys.add(key)
            if not any(each.is_repeated for each in waiting.values()):
                ended += self._end(key)
        return ended

    def _end(self, key: _Key) -> list[InboundPart]:
        """Take out all parts of a message."""
        waiting = self._waiting[key]
        ended = _release_parts(waiting)
        if _is_whole(waiting):
            self._known_hashes[key] = _hash_parts(waiting)
            self._joined_keys.add(key)
        waiting.clear()
        return ended

    def save(self, at: int) -> None:
        """Keep what waits of the parts that came at this moment (milliseconds), and by what those are known that come
        again.
        """
        _delete_keys(self._conn, "inbound_parts", self._outdated_keys)
        rows: list[tuple[object, ...]] = []
        for key, waiting in self._waiting.items():
            for number, part in waiting.items():
                if part.received_at and key not in self._outdated_keys:
                    continue
                # One that is whole waits only for what may come in the place of a repeated part.
                received_at = at - PART_WAIT_MS + HOLD_MS if _is_whole(waiting) else part.received_at or at
                rows.append((*key, number, received_at, part.charset, part.udh, part.content, part.is_repeated))
        _INSERT_PARTS.run(self._conn, rows)
        _INSERT_JOINED.run(self._conn, [(*key, at, self._known_hashes[key]) for key in self._joined_keys])


def get_key(part: InboundPart) -> _Key:
    """What the parts of a message have in common."""
    assert part.segment is not None
    reference, total, _ = part.segment
    return part.source, part.destination, part.upstream, reference, total, part.data_coding


def _hash_content(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_HASH_OCTETS).digest()


def _hash_parts(parts: Mapping[int, InboundPart]) -> bytes:
    return b"".join(_hash_content(part.content) for _, part in sorted(parts.items()))


def _is_whole(parts: Mapping[int, InboundPart]) -> bool:
    return any(each.segment is not None and each.segment.total == len(parts) for each in parts.values())


def _release_parts(waiting: Mapping[int, InboundPart]) -> list[InboundPart]:
    """What becomes of those parts of a message that wait, by their numbers, where it waits for no more."""
    parts = [part for _, part in sorted(waiting.items())]
    if _is_whole(waiting):
        return _join_parts(parts)
    return [] if all(each.is_repeated for each in parts) else parts


def _join_parts(parts: list[InboundPart]) -> list[InboundPart]:
    """The whole message; the parts again where it is too long."""
    first = parts[0]
    content = b"".join(each.content for each in parts)
    joined = replace(first, segment=None, udh=_remove_concatenation(first.udh), content=content, is_repeated=False)
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
    """Take out parts that have waited too long at a moment (milliseconds), and those that are too many: the oldest
    first, and with each all that are there of its message. Some `limit` messages at once.

    Returns:
        The parts as they came, but for messages of which only repeated ones are there, or the whole message where all
        are; and whether there may be more to take.
    """
    keys, has_more = _list_old_keys(conn, "inbound_parts", now, limit)
    found = _read_parts(conn, keys)
    _delete_keys(conn, "inbound_parts", found)
    _INSERT_JOINED.run(conn, [(*key, now, _hash_parts(parts)) for key, parts in found.items() if _is_whole(parts)])
    return [part for parts in found.values() for part in _release_parts(parts)], has_more


def forget_joined_messages(conn: sqlite3.Connection, now: int, limit: int) -> bool:
    """Forget messages that were joined long enough before a moment (milliseconds), and those that are too many: some
    `limit` at once. Returns whether there may be more.
    """
    keys, has_more = _list_old_keys(conn, "joined_messages", now, limit)
    _delete_keys(conn, "joined_messages", keys)
    return has_more


def _list_old_keys(conn: sqlite3.Connection, table: str, now: int, limit: int) -> tuple[list[_Key], bool]:
    (count,) = conn.execute(f"SELECT count(*) FROM {table}").fetchone()
    rows = conn.execute(
        f"SELECT received_at, {_KEY_COLUMNS} FROM {table} INDEXED BY {table}_received ORDER BY received_at LIMIT ?",
        (limit,),
    )
    keys: list[_Key] = []
    for received_at, *key in rows:
        # Those behind it are neither old nor too many. Each row that is read keeps submits waiting.
        if received_at >= now - PART_WAIT_MS and len(keys) >= count - MAX_WAITING_PARTS:
            break
        keys.append(tuple(key))
    return keys, len(keys) == limit


_IS_OF_KEY = " AND ".join(f"{name} = value ->> {index}" for index, name in enumerate(_KEY_COLUMNS.split(", ")))
_SELECT_PARTS = (
    "SELECT source, destination, upstream, reference, total, number, data_coding, charset, udh, content, repeated,"
    f" received_at FROM json_each(?) CROSS JOIN inbound_parts ON {_IS_OF_KEY}"
)
_KEY_VALUES = ", ".join(f"value ->> {index}" for index in range(len(_KEY_COLUMNS.split(", "))))
_SELECT_HASHES = f"SELECT {_KEY_COLUMNS}, hashes FROM json_each(?) CROSS JOIN joined_messages ON {_IS_OF_KEY}"


def _read_parts(conn: sqlite3.Connection, keys: Sequence[_Key]) -> dict[_Key, dict[int, InboundPart]]:
    """The parts that wait of some messages, by their numbers."""
    parts: dict[_Key, dict[int, InboundPart]] = defaultdict(dict)
    if not keys:
        return {}
    for row in conn.execute(_SELECT_PARTS, (json.dumps([*dict.fromkeys(keys)]),)):
        source, destination, upstream, reference, total, number, *rest = row
        part = InboundPart(source, destination, upstream, Segment(reference, total, number), *rest)
        parts[get_key(part)][number] = part
    return dict(parts)


def _read_hashes(conn: sqlite3.Connection, keys: Sequence[_Key]) -> dict[_Key, bytes]:
    """Those of the parts of messages that were joined."""
    if not keys:
        return {}
    rows = conn.execute(_SELECT_HASHES, (json.dumps([*dict.fromkeys(keys)]),))
    return {tuple(key): hashes for *key, hashes in rows}


def _delete_keys(conn: sqlite3.Connection, table: str, keys: Collection[_Key]) -> None:
    if keys:
        conn.execute(
            f"DELETE FROM {table} WHERE ({_KEY_COLUMNS}) IN (SELECT {_KEY_VALUES} FROM json_each(?))",
            (json.dumps([*keys]),),
        )
