"""The parts of texts that were cut on their way to a carrier: how each of them is, and what that makes of the message.

A message of which an upstream has taken a part has a row in `cut_messages`, and in `message_parts` one for each part
that was answered, or that ended without: the others are still to be sent. All functions that write are called inside
`write_transaction()`.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from portal.core.i18n import N_
from portal.services.common.message_states import (
    DELIVERED,
    ENROUTE,
    EXPIRED,
    NO_ANSWER,
    PTT_EXPIRED,
    PTT_PENDING,
    PTT_UNKNOWN,
    REJECTED,
    UNKNOWN,
)
from portal.services.routing.route_usage import RouteUse
from portal.services.upstreams import paths
from portal.services.upstreams.settings import REFUND_REFUSED, REFUND_UNDELIVERED

NOT_SENT = N_("not sent")
"""What stands where an upstream's status would, of a part that was not sent, as another one was refused."""

IS_CUT_SQL = "EXISTS (SELECT 1 FROM cut_messages AS c WHERE c.message_id = messages.id)"
"""Whether an upstream has taken a part of a row of `messages`, as an expression."""
IS_SILENT_SQL = (
    "(p.upstream_id = '' OR coalesce((SELECT json_extract(settings, '$.registered_delivery') FROM upstreams"
    " WHERE upstreams.id = p.upstream), 1) <> 1)"
)
"""Whether a part, or a message, `p` can have no receipt that says that it arrived: none is asked for, or the upstream
has given it no id."""


class CutText(NamedTuple):
    """A text of which an upstream has taken parts already.

    `settings`: those of the upstream by which it was cut, as JSON. `answered`: the numbers of the parts, from 1, that
    need not be sent any more.
    """

    upstream: int
    total: int
    settings: str
    answered: frozenset[int]


class TextPart(NamedTuple):
    """Which part of a text an upstream has accepted: its number, from 1, of how many, and how the text was cut (see
    `CutText.settings`).
    """

    number: int
    total: int
    settings: str


@dataclass(slots=True)
class AcceptedMessage:
    """A message that an upstream has accepted.

    `upstream_message_id`: its id there, "" where it gave none. `bind`: the number of the bind. `part`: where it is a
    part of a text. `use`: how it took its route.
    """

    upstream: int
    message_id: int
    upstream_message_id: str
    bind: int
    sent_at: int
    part: TextPart | None = None
    use: RouteUse | None = None


@dataclass(slots=True)
class MessageOutcome:
    """The end of a message, or of a part: its final message_state, its ptt code, and when it ended (milliseconds).

    `upstream_id` and `upstream_status`: the upstream's own id and status of the message, where an upstream got it.
    """

    message_id: int
    state: int
    ptt: int
    ended_at: int
    upstream_id: str | None = None
    upstream_status: str | None = None


@dataclass(frozen=True, slots=True)
class MessagePart:
    """A part as its message's page shows it; times in milliseconds. `state`: None where it is not sent yet."""

    number: int
    state: int | None
    ptt: int
    upstream_id: str | None
    upstream_status: str | None
    bind: int | None
    sent_at: int | None
    done_at: int | None


def find_cut_messages(conn: sqlite3.Connection, message_ids: Iterable[int]) -> dict[int, CutText]:
    """Those of these messages of which an upstream has taken a part, by message id."""
    if not paths.has_cut_messages(conn):
        return {}
    rows = conn.execute(
        "SELECT message_id, upstream, total, settings, (SELECT json_group_array(number) FROM message_parts AS p"
        " WHERE p.message_id = cut_messages.message_id) FROM cut_messages"
        " WHERE message_id IN (SELECT value FROM json_each(?))",
        (json.dumps([*message_ids]),),
    )
    return {
        message_id: CutText(upstream, total, settings, frozenset(json.loads(numbers)))
        for message_id, upstream, total, settings, numbers in rows
    }


def store_accepted_parts(conn: sqlite3.Connection, accepted: Sequence[AcceptedMessage]) -> dict[int, int]:
    """Store those that are parts of what upstreams have accepted; returns the upstreams by message id. A part that has
    ended meanwhile stays so, and so does a text that another upstream has by now.
    """
    parts = [(each, each.part) for each in accepted if each.part is not None]
    conn.executemany(
        "INSERT INTO cut_messages (message_id, upstream, total, settings) SELECT id, ?1, ?2, ?3 FROM messages"
        f" WHERE id = ?4 AND state = {ENROUTE} AND coalesce(upstream, ?1) = ?1 ON CONFLICT DO NOTHING",
        [(each.upstream, part.total, part.settings, each.message_id) for each, part in parts],
    )
    conn.executemany(
        "INSERT INTO message_parts (number, state, ptt, upstream, upstream_id, bind, sent_at, message_id)"
        f" SELECT ?1, {ENROUTE}, {PTT_PENDING}, ?2, ?3, ?4, ?5, message_id FROM cut_messages WHERE message_id = ?6"
        " AND upstream = ?2 ON CONFLICT DO NOTHING",
        [
            (part.number, each.upstream, each.upstream_message_id, each.bind, each.sent_at, each.message_id)
            for each, part in parts
        ],
    )
    return {each.message_id: each.upstream for each, _ in parts}


def end_part(conn: sqlite3.Connection, number: int, outcome: MessageOutcome) -> None:
    """Store the end of a part that an upstream has accepted; the first one counts."""
    conn.execute(
        "UPDATE message_parts SET state = ?, ptt = ?, upstream_status = ?, done_at = ?"
        f" WHERE message_id = ? AND number = ? AND state = {ENROUTE}",
        (outcome.state, outcome.ptt, outcome.upstream_status, outcome.ended_at, outcome.message_id, number),
    )


def store_unsure_messages(conn: sqlite3.Connection, part_statuses: Mapping[int, Mapping[int, str]]) -> None:
    """Store in how many parts messages were cut of which none was accepted, but one may have arrived.

    Args:
        part_statuses: what was said of their parts, by their numbers, by message id.
    """
    conn.executemany(
        "INSERT INTO cut_messages (message_id, upstream, total, settings) SELECT id, upstream, ?, '{}' FROM messages"
        f" WHERE id = ? AND state = {ENROUTE} AND upstream IS NOT NULL ON CONFLICT DO NOTHING",
        [(max(said), message_id) for message_id, said in part_statuses.items() if NO_ANSWER in said.values()],
    )


def end_unanswered_parts(
    conn: sqlite3.Connection, cut: CutText, outcome: MessageOutcome, statuses: Mapping[int, str] | None = None
) -> None:
    """End the parts of a message that no upstream has accepted: they are not sent (again).

    Args:
        outcome: what has ended them.
        statuses: what was said of single ones, by their numbers; the others were not sent. None: that of the outcome
            is of all.
    """
    rows = []
    for number in range(1, cut.total + 1):
        if number not in cut.answered:
            said = outcome.upstream_status if statuses is None else statuses.get(number, NOT_SENT)
            is_unsure = statuses is not None and said == NO_ANSWER
            ended = (UNKNOWN, PTT_UNKNOWN) if is_unsure else (outcome.state, outcome.ptt)
            rows.append((outcome.message_id, number, *ended, cut.upstream, said, outcome.ended_at))
    conn.executemany(
        "INSERT INTO message_parts (message_id, number, state, ptt, upstream, upstream_status, done_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        rows,
    )


def expire_open_parts(conn: sqlite3.Connection, message_ids: Collection[int], at: int) -> None:
    """End the accepted parts of messages whose validity has ended (ptt 801); those that can have no receipt end as
    unknown (804), without a status.
    """
    if paths.has_cut_messages(conn):
        conn.execute(
            "UPDATE message_parts AS p SET done_at = ?,"
            f" state = CASE WHEN {IS_SILENT_SQL} THEN {UNKNOWN} ELSE {EXPIRED} END,"
            f" ptt = CASE WHEN {IS_SILENT_SQL} THEN {PTT_UNKNOWN} ELSE {PTT_EXPIRED} END"
            f" WHERE message_id IN (SELECT value FROM json_each(?)) AND state = {ENROUTE}",
            (at, json.dumps([*message_ids])),
        )


def end_silent_parts(conn: sqlite3.Connection, message_ids: Collection[int], at: int) -> None:
    """Wait no longer for parts that can have no receipt, where these alone are open and another one has failed."""
    conn.execute(
        f"UPDATE message_parts SET done_at = ?, state = {UNKNOWN}, ptt = {PTT_UNKNOWN}"
        f" WHERE state = {ENROUTE} AND message_id IN (SELECT p.message_id FROM message_parts AS p"
        "  JOIN cut_messages AS c ON c.message_id = p.message_id WHERE p.message_id IN (SELECT value FROM json_each(?))"
        f"  GROUP BY p.message_id HAVING count(*) = total AND max(p.state NOT IN ({ENROUTE}, {DELIVERED}))"
        f"   AND min(p.state <> {ENROUTE} OR {IS_SILENT_SQL}))",
        (at, json.dumps([*message_ids])),
    )


_REFUSED_SQL = f"p.state = {REJECTED} AND p.upstream_id IS NULL"
# What can have no receipt may have arrived.
_UNDELIVERED_SQL = f"p.state <> {DELIVERED} AND NOT (p.state = {UNKNOWN} AND p.upstream_status IS NULL)"
COUNT_REFUSED_SQL, COUNT_UNDELIVERED_SQL = (
    f"(SELECT count(*) FROM message_parts AS p WHERE p.message_id = messages.id AND {each})"
    for each in (_REFUSED_SQL, _UNDELIVERED_SQL)
)
"""How many parts of a row of `messages` its upstream has refused, and how many have not arrived, as expressions."""


def list_outcomes(conn: sqlite3.Connection, message_ids: Collection[int]) -> list[tuple[MessageOutcome, int, int]]:
    """What the ends of all their parts make of those of these messages that have not ended, and all of whose parts
    have.

    Returns:
        For each: that of the first part that was not delivered, DELIVERED where all were, and when the last of them
        ended; its account's id; and what the parts that have not arrived have cost, where the upstream's setting says
        that it is given back (thousandths of a credit).
    """
    rows = conn.execute(
        "SELECT messages.id, account_id, p.state, p.ptt, p.upstream_status, price, total,"
        f" json_extract(settings_of.settings, '$.refund'), {COUNT_REFUSED_SQL}, {COUNT_UNDELIVERED_SQL},"
        " max(p.done_at) OVER (PARTITION BY c.message_id)"
        " FROM cut_messages AS c JOIN messages ON messages.id = c.message_id"
        " JOIN message_parts AS p ON p.message_id = c.message_id"
        " LEFT JOIN upstreams AS settings_of ON settings_of.id = c.upstream"
        f" WHERE c.message_id IN (SELECT value FROM json_each(?)) AND +messages.state = {ENROUTE} AND total ="
        f"  (SELECT count(*) FROM message_parts AS o WHERE o.message_id = c.message_id AND o.state <> {ENROUTE})"
        # What failed first, then what is unknown, and what was delivered last.
        f" ORDER BY c.message_id, p.state = {DELIVERED}, NOT ({_UNDELIVERED_SQL}), p.done_at, p.number",
        (json.dumps([*message_ids]),),
    )
    outcomes: dict[int, tuple[MessageOutcome, int, int]] = {}
    for message_id, account_id, state, ptt, status, price, total, policy, refused, undelivered, ended_at in rows:
        if message_id not in outcomes:
            count = {REFUND_REFUSED: refused, REFUND_UNDELIVERED: undelivered}.get(policy, 0)
            outcome = MessageOutcome(message_id, state, ptt, ended_at, "", status)
            outcomes[message_id] = outcome, account_id, compute_share(price, count, total)
    return [*outcomes.values()]


def store_answered_messages(conn: sqlite3.Connection, message_ids: Collection[int]) -> list[int]:
    """Store of those of these messages that have not ended, and nothing of which is to be sent any more, that their
    upstream has them; returns the ids of those of which that is new.
    """
    rows = conn.execute(
        "UPDATE messages SET upstream_id = '', (upstream, bind, sent_at) = (SELECT max(p.upstream), max(p.bind),"
        "  max(p.sent_at) FROM message_parts AS p WHERE p.message_id = messages.id)"
        f" WHERE id IN (SELECT value FROM json_each(?)) AND +state = {ENROUTE} AND upstream_id IS NULL"
        " AND (SELECT total FROM cut_messages AS c WHERE c.message_id = messages.id)"
        "  = (SELECT count(*) FROM message_parts AS p WHERE p.message_id = messages.id) RETURNING id",
        (json.dumps([*message_ids]),),
    )
    return [row[0] for row in rows.fetchall()]


def compute_share(price: int, count: int, total: int) -> int:
    """Return what so many parts of a message cost (thousandths of a credit), rounded down to a whole one of these.

    It is sent in `total` parts, which may be more than those that it was charged for.
    """
    return price * count // total


def forget_parts(conn: sqlite3.Connection, message_id: int) -> None:
    """Remove what is known of the parts of a message that goes out whole, from the beginning."""
    for table in ("message_parts", "cut_messages"):
        conn.execute(f"DELETE FROM {table} WHERE message_id = ?", (message_id,))


# Parts are counted in one octet (GSM 03.40, 9.2.3.24.1).
_PART_NUMBERS = json.dumps([*range(1, 256)])
_SELECT_ALL_PARTS = f"""
SELECT c.message_id, place.value, state, coalesce(ptt, {PTT_PENDING}), upstream_id, upstream_status, bind, sent_at,
    done_at
FROM cut_messages AS c JOIN json_each(?) AS place ON place.value <= total
LEFT JOIN message_parts AS p ON p.message_id = c.message_id AND p.number = place.value
WHERE c.message_id IN (SELECT value FROM json_each(?)) ORDER BY c.message_id, place.value
"""


def read_message_parts(conn: sqlite3.Connection, message_ids: Sequence[int]) -> dict[int, list[MessagePart]]:
    """All parts of those of these messages that were cut, by message id, in their order."""
    parts: dict[int, list[MessagePart]] = defaultdict(list)
    for message_id, *fields in conn.execute(_SELECT_ALL_PARTS, (_PART_NUMBERS, json.dumps(message_ids))):
        parts[message_id].append(MessagePart(*fields))
    return parts
