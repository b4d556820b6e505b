"""The history of sent messages, as pages and downloads show it.

A text that its client has split into segments is several messages, each with its id, price and receipt; pages show it
as one.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from portal.core import gsm0338
from portal.core.i18n import N_
from portal.services.common import ids
from portal.services.common.errors import NotFound, require_found
from portal.services.common.message_states import ENROUTE, PTT_DESCRIPTIONS, PTT_NONE
from portal.services.messages import client_ids, message_parts, text_policy
from portal.services.messages.message_parts import MessagePart
from portal.services.upstreams import queue
from portal.services.upstreams.upstreams import SIMULATOR

MISSING_SEGMENTS_MARK = "[…]"
"""Shown instead of the segments of a text that have not come."""


class NoSuchMessage(NotFound):
    sentence = N_("That message isn't in the history.")


# Not frozen: a download creates one for each line, and frozen instances take five times as long to create.
@dataclass(slots=True)
class SentMessage:
    """A message as it was submitted; `price` in thousandths of a credit, times in milliseconds.

    `body` has the content where `text` can't hold it (`SubmittedMessage`). `segment_number`
    of `segment_total` is its place in a text that its client has split; None where it is whole. `is_scheduled`:
    `scheduled_at`, the date that its client has set, is still to come. `is_queued`: it waits for an upstream.
    `text`, `body` and `udh`, which may carry text too, are empty where they were removed (`kept` is 0), or where the
    reader may not see them (`hide_text`).
    """

    id: int
    source: str
    destination: str
    country: str
    text: str
    parts: int
    price: int
    state: int
    ptt: int
    done_at: int | None
    data_coding: int
    udh: bytes | None
    body: bytes | None
    segment_total: int | None
    segment_number: int | None
    scheduled_at: int | None
    kept: int
    is_scheduled: bool
    is_queued: bool
    hidden: bool = False

    @property
    def submitted_at(self) -> int:
        return ids.time_from_id(self.id)

    @property
    def text_placeholder(self) -> str:
        """What is shown instead of the text, in English; a key of the translations. Empty: the text is there."""
        return text_policy.get_text_placeholder(self.kept, self.hidden)

    def hide_text(self) -> None:
        """Remove the text, for a reader who may not see it."""
        self.text, self.body, self.udh, self.hidden = "", None, None, True

    @property
    def ptt_description(self) -> str:
        """What the ptt code means, in English; a key of the translations."""
        return PTT_DESCRIPTIONS.get(self.ptt, PTT_DESCRIPTIONS[255])

    @property
    def alphabet(self) -> gsm0338.Alphabet:
        """How its octets are read."""
        return gsm0338.get_alphabet(self.data_coding, self.udh)

    @property
    def content(self) -> str:
        """The text, or the octets as hexadecimal digits of what can't be shown as text."""
        return gsm0338.format_content(self.text, self.body, self.alphabet)


class SegmentContent(NamedTuple):
    """What a segment holds, as it is stored; see `SentMessage`, which says it, too."""

    segment_number: int
    text: str
    data_coding: int
    udh: bytes | None
    body: bytes | None


@dataclass(slots=True)
class SentText:
    """One line of the history: a message, or all segments that have come of a text that its client has split.

    `messages`, at least one, are in the order of the text; `id` is the smallest of their ids.
    """

    id: int
    messages: tuple[SentMessage, ...]

    @property
    def submitted_at(self) -> int:
        return ids.time_from_id(self.id)

    @property
    def first_message(self) -> SentMessage:
        """The first of them, for what is the same in all of them: source, destination, country."""
        return self.messages[0]

    @property
    def segment_count(self) -> int:
        """Of how many segments the text consists, whether they have come or not; 1 where it was not split."""
        return self.first_message.segment_total or 1

    @property
    def parts(self) -> int:
        return sum(each.parts for each in self.messages)

    @property
    def price(self) -> int:
        return sum(each.price for each in self.messages)

    @property
    def done_at(self) -> int | None:
        """When the last of its messages ended (milliseconds); None while one has not ended."""
        ended = [each.done_at for each in self.messages if each.done_at is not None]
        return max(ended) if len(ended) == len(self.messages) else None

    @property
    def delivered_count(self) -> int:
        """How many of the segments have been delivered."""
        return sum(each.ptt == PTT_NONE for each in self.messages)

    @property
    def ptt(self) -> int | None:
        """The code that all its messages have; None where they differ, or where not all segments are delivered."""
        codes = {each.ptt for each in self.messages}
        if len(codes) > 1 or (codes == {PTT_NONE} and self.delivered_count < self.segment_count):
            return None
        return codes.pop()

    @property
    def scheduled_at(self) -> int | None:
        """The date that its client has set (milliseconds)."""
        return self.first_message.scheduled_at

    @property
    def is_scheduled(self) -> bool:
        """Whether that date is still to come for all of it."""
        return all(each.is_scheduled for each in self.messages)

    @property
    def is_queued(self) -> bool:
        """Whether all of it waits for an upstream."""
        return all(each.is_queued for each in self.messages)

    @property
    def ptt_description(self) -> str:
        """What `ptt` means; see `SentMessage.ptt_description`."""
        return self.first_message.ptt_description

    @property
    def text_placeholder(self) -> str:
        """What is shown where all of the text is missing; see `SentMessage.text_placeholder`."""
        return self.first_message.text_placeholder if all(each.text_placeholder for each in self.messages) else ""

    @property
    def text(self) -> str:
        """The whole text, with MISSING_SEGMENTS_MARK for segments that have not come or were removed.

        Empty where no segment is there.
        """
        if self.text_placeholder:
            return ""
        pieces: list[str] = []
        previous, separator = 0, ""
        for each in self.messages:
            if each.kept:
                number = each.segment_number or 1
                if pieces and number == previous + 1:
                    pieces.append(separator)
                else:
                    separator = "" if each.alphabet.is_text else " "
                    if number > previous + 1:
                        pieces.append(MISSING_SEGMENTS_MARK)
                pieces.append(each.content)
                previous = number
        if previous < self.segment_count:
            pieces.append(MISSING_SEGMENTS_MARK)
        return "".join(pieces)


def decode_segments(segments: Sequence[SegmentContent | SentMessage]) -> list[str]:
    """The text of each of these segments of one text, which are in its order and have not been removed.

    A character that was split between two segments is in the second one's.
    """
    if all(each.body is None for each in segments):
        return [each.text for each in segments]
    texts = []
    begun = b""
    alphabets = [gsm0338.get_alphabet(each.data_coding, each.udh) for each in segments]
    for position, (each, alphabet) in enumerate(zip(segments, alphabets, strict=True)):
        try:
            octets = begun + (gsm0338.encode_body(each.text, alphabet.encoding) if each.body is None else each.body)
        except ValueError:
            # Nothing of it can belong to another segment's character.
            texts.append(gsm0338.decode_as_displayed(begun, alphabet) + each.text)
            begun = b""
            continue
        continues = (
            position + 1 < len(segments)
            and segments[position + 1].segment_number == (each.segment_number or 1) + 1
            and alphabets[position + 1] == alphabet
        )
        end = len(octets) - (gsm0338.count_incomplete_octets(octets, alphabet.encoding) if continues else 0)
        texts.append(gsm0338.decode_as_displayed(octets[:end], alphabet))
        begun = octets[end:]
    return texts


_COLUMNS = (
    "id source destination country text parts price state ptt done_at data_coding udh body segment_total segment_number"
    " scheduled_at kept"
).split()
IS_SCHEDULED_SQL = "{table}.scheduled_at IS NOT NULL AND {table}.due_at IS {table}.scheduled_at"
"""Whether the date that its client has set is still to come; `table` is `messages`, or its alias."""


def build_message_columns(table: str = "messages") -> str:
    """The columns that a `SentMessage` is made of, in the order of its fields; `table` is `messages`, or its alias."""
    is_scheduled = IS_SCHEDULED_SQL.format(table=table)
    is_waiting = queue.build_waiting_sql(table)
    is_queued = f"{table}.state = {ENROUTE} AND {is_waiting}"
    return ", ".join((*(f"{table}.{each}" for each in _COLUMNS), is_scheduled, is_queued))


MESSAGE_COLUMNS = build_message_columns()


def list_texts_by_id(conn: sqlite3.Connection, account_id: int, first_ids: Sequence[int]) -> list[SentText]:
    """The texts of an account that begin with these messages, oldest first."""
    return _select_texts(
        conn, "id IN (SELECT value FROM json_each(?)) AND +account_id = ?", (json.dumps(first_ids), account_id)
    )


def _select_texts(conn: sqlite3.Connection, condition: str, values: Sequence[object]) -> list[SentText]:
    rows = conn.execute(f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE {condition} ORDER BY id", values)
    return assemble_texts(conn, [SentMessage(*row) for row in rows])


def assemble_texts(conn: sqlite3.Connection, first_messages: Sequence[SentMessage]) -> list[SentText]:
    """The texts to which these messages belong; each message is the segment of its text that came first."""
    later_segments = _list_later_segments(conn, [each.id for each in first_messages if each.segment_total is not None])
    return [
        _text_from_segments(each, later_segments[each.id]) if each.id in later_segments else SentText(each.id, (each,))
        for each in first_messages
    ]


def _list_later_segments(conn: sqlite3.Connection, first_ids: Sequence[int]) -> dict[int, list[SentMessage]]:
    """The segments that came after the first ones of their texts, by the ids of the first ones."""
    segments: dict[int, list[SentMessage]] = defaultdict(list)
    if first_ids:
        rows = conn.execute(
            f"SELECT {MESSAGE_COLUMNS}, joined_to FROM messages WHERE joined_to IN (SELECT value FROM json_each(?))",
            (json.dumps(first_ids),),
        )
        for *fields, joined_to in rows:
            segments[joined_to].append(SentMessage(*fields))
    return segments


def _text_from_segments(first: SentMessage, later_segments: Sequence[SentMessage]) -> SentText:
    messages = sorted((first, *later_segments), key=lambda each: each.segment_number or 1)
    kept = [each for each in messages if each.kept]
    for each, text in zip(kept, decode_segments(kept), strict=True):
        each.text = text
    return SentText(first.id, tuple(messages))


def get_sent_text_by_message_id(conn: sqlite3.Connection, account_id: int, message_id: int) -> SentText:
    """The text that a message of an account is, or belongs to.

    Args:
        message_id: its id, or the one by which its client knows it.

    Raises:
        NoSuchMessage: there is none with this id, or it is another account's.
    """
    texts = _select_texts(
        conn,
        "account_id = ?1 AND id = (SELECT coalesce(joined_to, id) FROM messages WHERE id = ?2 AND account_id = ?1)",
        (account_id, client_ids.find_row_id(conn, "messages", message_id)),
    )
    return require_found(next(iter(texts), None), NoSuchMessage())


@dataclass(frozen=True, slots=True)
class MessageDetails:
    """Further fields of a message, which only the page of one message shows.

    From the client (SMPP 3.4, 5.2): source_addr_ton and source_addr_npi, registered_delivery, user_message_reference,
    dest_addr_subunit, the end of its validity (milliseconds; None: the default) and the session that it came from.
    From the upstream: its id and its status of the message, which of its binds has taken it, and when (milliseconds).
    `upstream_name`: empty where no upstream by name has had it. `is_simulated`: a simulator has it, the built-in one or
    another, which takes all at once. `hex_id`: the id by which its client knows it, where that keeps no longer ones
    (SMPP 3.3 and older). `route_id`: the route by which the upstream has got it; None: by none, or it has not.
    `sent_source`: the sender that went out in place of its own. `parts`: where it was cut on its way to the upstream.

    Where it waits for another try, since an upstream has refused it for the moment, or an earlier one to its number:
    `attempts`: how often it was tried; 0: it waits behind another one; None: it waits for none. `not_before`: when it
    is tried again (milliseconds; None: when that other one is, or at this moment). `error`: what the upstream said
    last.
    """

    source_ton: int
    source_npi: int
    registered_delivery: int
    reference: int | None
    subunit: int | None
    expires_at: int | None
    session_id: int | None
    upstream_id: str | None
    upstream_status: str | None
    bind: int | None
    sent_at: int | None
    upstream_name: str
    is_simulated: bool
    hex_id: str | None
    attempts: int | None
    not_before: int | None
    error: str | None
    route_id: int | None
    sent_source: str | None
    parts: Sequence[MessagePart]


# All that there are while there is no upstream, and until the SMPP server has seen the first one.
_LAST_SIMULATED_SQL = """
(SELECT iif(value = 0 OR NOT EXISTS (SELECT 1 FROM upstreams), messages.id, value) FROM counters
 WHERE name = 'last_simulated_message')
"""
_SELECT_DETAILS = f"""
SELECT messages.id, source_ton, source_npi, registered_delivery, reference, subunit, expires_at, session_id,
       upstream_id, upstream_status, bind, sent_at, coalesce(upstreams.name, ''),
       CASE WHEN upstream IS NULL THEN messages.id <= {_LAST_SIMULATED_SQL} AND NOT {queue.IS_WAITING_SQL}
            ELSE kind = '{SIMULATOR}' END,
       (SELECT printf('%08X', hex_id) FROM hex_ids WHERE message_id = messages.id),
       attempts - ({queue.IS_FIRST_TRY_SQL}), not_before, error, nullif(messages.route, 0),
       (SELECT sender FROM replaced_senders WHERE message_id = messages.id)
FROM messages LEFT JOIN upstreams ON upstreams.id = upstream
LEFT JOIN held_messages AS held ON held.account_id = messages.account_id AND held.destination = messages.destination
                                   AND held.message_id = messages.id
WHERE messages.id IN (SELECT value FROM json_each(?))
"""


def read_message_details(conn: sqlite3.Connection, text: SentText) -> dict[int, MessageDetails]:
    """Read the details of each message of a text, by message id."""
    message_ids = [each.id for each in text.messages]
    parts = message_parts.read_message_parts(conn, message_ids)
    rows = conn.execute(_SELECT_DETAILS, (json.dumps(message_ids),))
    return {message_id: MessageDetails(*(*fields, parts.get(message_id, ()))) for message_id, *fields in rows}


def read_queue_mark(conn: sqlite3.Connection, account_id: int) -> Hashable:
    """What changes when a message of an account leaves the queue, is held, or is tried again: the first of each path,
    and of what is held the count, the last one and the times of the next tries, of ten thousand at most: 2 ms.
    """
    row = conn.execute(
        "SELECT (SELECT json_group_array((SELECT message_id FROM queued_messages WHERE path = queue_paths.id"
        "  AND account_id = ?1 ORDER BY priority_rank, message_id LIMIT 1)) FROM queue_paths),"
        " count(*), max(message_id), total(not_before)"
        " FROM (SELECT message_id, not_before FROM held_messages WHERE account_id = ?1 LIMIT 10000)",
        (account_id,),
    ).fetchone()
    return tuple(row)
