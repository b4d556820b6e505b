"""Which message an upstream's receipt is about: by the id that it gives, in any form, and by the number it names."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from portal.services.common import ids
from portal.services.common.message_states import ENROUTE
from portal.services.messages.outcomes import MessageOutcome
from portal.services.upstreams import message_ids, paths
from portal.services.upstreams.message_ids import IdForms, build_key_sql
from portal.services.upstreams.paths import SIMULATED_BIND
from portal.services.upstreams.receipt_texts import find_text_id, parse_receipt_text
from portal.services.upstreams.settings import UpstreamSettings

MIN_DIGITS = 7
"""With fewer an address is none that a message goes to; and so many at the end agree, whatever stands in front."""
_MAX_CANDIDATES = 50
_NEEDS_NUMBER = ": a message has it in another form, and it names no number (see message_ids)"


@dataclass(slots=True)
class UpstreamReceipt:
    """A receipt that an upstream has sent.

    `message_ids`: the ids that it gives, one or two. `state`: its message_state, None where it is not known.
    `is_final`: nothing more will come of that message. `status`: the state and error as they came. `done_at`:
    milliseconds, None: it gives no time. `source`, `destination`: the addresses of the deliver_sm, the handset's first.
    `is_repeated`: the same came a short time ago, so that it need not be kept where it matches nothing. `is_counted`:
    it was looked for before. `received_at`: when it came (milliseconds): it is about no later message; None: just now.
    """

    upstream: int
    message_ids: tuple[str, ...]
    state: int | None
    ptt: int
    is_final: bool
    status: str
    done_at: int | None
    source: str
    destination: str
    text: str
    is_repeated: bool = False
    is_counted: bool = False
    received_at: int | None = None


class ReceiptMatch(NamedTuple):
    """What was found for a receipt: the message's id here and there, None where there is none.

    `tried`: what was looked for, as a sentence for operators. `number`: which part of a text it is of, 0: of the whole.
    """

    message_id: int | None
    upstream_id: str
    tried: str
    number: int = 0


class _Candidate(NamedTuple):
    """A message that has the key of an id, or the part of one (`number`, 0: the whole)."""

    message_id: int
    upstream_id: str
    destination: str
    number: int = 0

    @property
    def key(self) -> tuple[int, int]:
        return self.message_id, self.number


def find_messages(conn: sqlite3.Connection, receipts: Sequence[UpstreamReceipt]) -> list[ReceiptMatch]:
    """Find the messages of receipts, and learn from these how the upstreams write ids.

    One query for each upstream finds all, and another one what isn't there in the form that was learned. The caller is
    inside `write_transaction()`.
    """
    by_upstream: dict[int, list[UpstreamReceipt]] = defaultdict(list)
    for receipt in receipts:
        by_upstream[receipt.upstream].append(receipt)
    forms = message_ids.load_id_forms(conn, by_upstream)
    matches = {
        upstream_id: iter(_find_messages_of_upstream(conn, upstream_id, of_it, forms[upstream_id]))
        for upstream_id, of_it in by_upstream.items()
    }
    return [next(matches[receipt.upstream]) for receipt in receipts]


def _find_messages_of_upstream(
    conn: sqlite3.Connection, upstream_id: int, receipts: Sequence[UpstreamReceipt], forms: IdForms
) -> list[ReceiptMatch]:
    preferred, possible = forms.preferred, forms.possible
    taken: set[tuple[int, int]] = set()
    choices = _choose_messages(conn, upstream_id, receipts, preferred, forms.trusted, taken)
    missing = [position for position, choice in enumerate(choices) if choice is None or choice.is_elsewhere]
    if missing and preferred != possible:
        of_missing = [receipts[position] for position in missing]
        others = _choose_messages(conn, upstream_id, of_missing, possible, forms.trusted, taken)
        for position, choice in zip(missing, others, strict=True):
            choices[position] = choice
    has_learned = False
    matches = []
    for receipt, choice in zip(receipts, choices, strict=True):
        if choice is None or choice.is_elsewhere:
            tried = _describe_search(receipt, possible)
            if choice is not None:
                tried += ": its message went to another number" if _is_number(receipt.source) else _NEEDS_NUMBER
            matches.append(ReceiptMatch(None, "", tried))
            continue
        found = choice.candidate
        has_learned |= forms.record_match(choice.forms)
        matches.append(ReceiptMatch(found.message_id, found.upstream_id, "", found.number))
    if has_learned:
        message_ids.save_id_forms(conn, upstream_id, forms)
    return matches


_Key = tuple[str, str, tuple[str, ...]]


class _Choice(NamedTuple):
    """A message that a receipt may be about; the least of them is the likeliest.

    `is_elsewhere`: it went to another number, or to one that the receipt has to name, and doesn't. `rank`: how unlikely
    the first of the `forms` is in which the receipt gives its id. `is_altered`: that isn't as it was given. `position`:
    of the id in the receipt. `age`: less for a later one.
    """

    is_elsewhere: bool
    rank: int
    is_altered: bool
    position: int
    age: int
    candidate: _Candidate
    forms: tuple[str, ...]


def _choose_messages(
    conn: sqlite3.Connection,
    upstream_id: int,
    receipts: Sequence[UpstreamReceipt],
    allowed: Sequence[str],
    trusted: str,
    taken: set[tuple[int, int]],
) -> list[_Choice | None]:
    """The likeliest message of each receipt of an upstream, in the forms that are allowed for it.

    Args:
        trusted: the form in which the receipt need not name the message's number.
        taken: the messages, and parts of messages, that final receipts of the batch are about; added to. Another
            receipt is of another one, where there is one: a carrier may give all parts of a text the same id.
    """
    # The message of one that comes again may have ended, so that in another form another's would be found.
    keys = [_list_keys(each.message_ids, (trusted,) if each.is_counted else allowed) for each in receipts]
    candidates = _read_candidates(conn, upstream_id, {key for of_it in keys for _, key, _ in of_it})
    return _choose_candidates(candidates, receipts, keys, allowed, trusted, taken)


def _choose_candidates(
    candidates: Mapping[str, Sequence[_Candidate]],
    receipts: Sequence[UpstreamReceipt],
    keys: Sequence[Sequence[_Key]],
    allowed: Sequence[str],
    trusted: str,
    taken: set[tuple[int, int]],
) -> list[_Choice | None]:
    choices: list[_Choice | None] = []
    for receipt, of_it in zip(receipts, keys, strict=True):
        found = [
            _Choice(
                not _is_to_same_number(candidate.destination, receipt.source, receipt.destination, trusted in forms),
                allowed.index(forms[0]),
                candidate.upstream_id != given_id,
                position,
                -candidate.message_id,
                candidate,
                forms,
            )
            for position, (given_id, key, forms) in enumerate(of_it)
            for candidate in candidates.get(key, ())
            if receipt.received_at is None or ids.time_from_id(candidate.message_id) <= receipt.received_at
        ]
        if len(found) > 1:
            # What is taken comes last of those to the number.
            found.sort(key=lambda each: (each.is_elsewhere, each.candidate.key in taken, each))
        choice = found[0] if found else None
        if choice is not None and not choice.is_elsewhere and receipt.is_final:
            taken.add(choice.candidate.key)
        choices.append(choice)
    return choices


def _list_keys(ids: Iterable[str], allowed: Sequence[str]) -> list[_Key]:
    """What to look for: each id, a key that its message may have, and in which of the allowed forms that is so."""
    return [
        (given_id, key, forms)
        for given_id in ids
        for key, forms in message_ids.build_message_keys(given_id, allowed).items()
    ]


def _describe_search(receipt: UpstreamReceipt, allowed: Sequence[str]) -> str:
    """The ids as they came, and what else these can be."""
    folded = {message_ids.fold_id(each) for each in receipt.message_ids}
    others = [key for _, key, _ in _list_keys(receipt.message_ids, allowed) if key not in folded]
    return ", ".join(dict.fromkeys([*receipt.message_ids, *others]))


# One row for all: Python releases the GIL for each row. The newest of each id: a carrier may give all the same one.
_SELECT_CANDIDATES = f"""
SELECT json_group_array(json_array(given.value, messages.id, upstream_id, destination))
FROM json_each(:keys) AS given CROSS JOIN messages ON messages.id IN (
    SELECT sent.id FROM messages AS sent INDEXED BY messages_upstream
    WHERE {build_key_sql("sent.upstream_id")} = given.value AND sent.upstream = :upstream
        AND sent.state = {ENROUTE} AND sent.bind IS NOT {SIMULATED_BIND} AND sent.upstream_id IS NOT ''
    ORDER BY sent.id DESC LIMIT {_MAX_CANDIDATES})
"""
_SELECT_PARTS = f"""
SELECT json_group_array(json_array(given.value, messages.id, p.upstream_id, destination, p.number))
FROM json_each(:keys) AS given CROSS JOIN message_parts AS p ON (p.message_id, p.number) IN (
    SELECT sent.message_id, sent.number FROM message_parts AS sent INDEXED BY message_parts_upstream
    WHERE {build_key_sql("sent.upstream_id")} = given.value AND sent.upstream = :upstream
        AND sent.state = {ENROUTE} AND sent.upstream_id IS NOT ''
    ORDER BY sent.message_id DESC LIMIT {_MAX_CANDIDATES}) CROSS JOIN messages ON messages.id = p.message_id
"""


def _read_candidates(
    conn: sqlite3.Connection, upstream_id: int, keys: Iterable[str]
) -> Mapping[str, Sequence[_Candidate]]:
    """The messages, and parts of messages, on their way by an upstream that have one of these keys."""
    candidates: dict[str, list[_Candidate]] = defaultdict(list)
    given = {"upstream": upstream_id, "keys": json.dumps([*keys])}
    for select in (_SELECT_CANDIDATES, *((_SELECT_PARTS,) if paths.has_cut_messages(conn) else ())):
        for key, *fields in json.loads(conn.execute(select, given).fetchone()[0]):
            candidates[key].append(_Candidate(*fields))
    return candidates


def _is_to_same_number(destination: str, source: str, other: str, is_trusted: bool) -> bool:
    """Whether a message to a number is one that a receipt with these addresses can be about.

    The last seven digits decide, for carriers write country codes, prefixes and routing digits in front as they please.
    Some have the two addresses the other way round. One that names no number doesn't say otherwise, where its id has
    the form that is trusted: in another one it may be any message's.
    """
    tail = destination[-MIN_DIGITS:]
    return source.endswith(tail) or other.endswith(tail) or (is_trusted and not _is_number(source))


def _is_number(source: str) -> bool:
    digits = source.lstrip("+")
    return len(digits) >= MIN_DIGITS and digits.isascii() and digits.isdigit()


# --- receipts that are kept, as they matched nothing


def list_kept_receipts(
    conn: sqlite3.Connection, upstream_id: int, limit: int, *, before_id: int | None = None, since: int = 0
) -> list[tuple[int, UpstreamReceipt]]:
    """Kept receipts of an upstream with smaller ids than `before_id` that came after `since` (milliseconds), each with
    its id, newest first. One that gives no date has for it when it came.
    """
    rows = conn.execute(
        f"SELECT {_KEPT_COLUMNS} FROM unmatched_receipts WHERE upstream = ? AND id < ? AND received_at > ?"
        " ORDER BY id DESC LIMIT ?",
        (upstream_id, (1 << 63) - 1 if before_id is None else before_id, since, limit),
    )
    kept = []
    for row in rows:
        receipt = _receipt_from_row(row)
        receipt.received_at = row["received_at"]
        receipt.done_at = receipt.done_at or receipt.received_at
        kept.append((row["id"], receipt))
    return kept


def read_ids(receipt: UpstreamReceipt, settings: UpstreamSettings) -> tuple[str, ...]:
    """The ids that a kept receipt gives by other settings than those with which it came: what its parameter said is
    known only where that was looked at then.
    """
    fields = parse_receipt_text(receipt.text)
    text_id = find_text_id(receipt.text, fields, settings.receipt_id_pattern)
    if settings.receipt_id_from == "text":
        return (text_id,) if text_id else ()
    if settings.receipt_id_from == "tlv":
        return receipt.message_ids[:1]
    plain_id = fields.get("id") if settings.receipt_id_pattern else None
    kept_ids = (each for each in receipt.message_ids if each != plain_id)
    return tuple(filter(None, dict.fromkeys((*kept_ids, text_id))))


class IdSearch(NamedTuple):
    """A search by ids: the forms that are `allowed`, and in which one a receipt need not name the message's number."""

    allowed: Sequence[str]
    trusted: str


def count_matches(
    conn: sqlite3.Connection,
    upstream_id: int,
    receipts: Sequence[UpstreamReceipt],
    searches: Sequence[IdSearch],
) -> list[int]:
    """How many messages, or parts of messages, receipts are about, by each of some searches; nothing is learned or
    stored. One query finds what all of them need.
    """
    every_form = [_list_keys(each.message_ids, message_ids.FORMS) for each in receipts]
    candidates = _read_candidates(conn, upstream_id, {key for of_it in every_form for _, key, _ in of_it})
    found = [[each for each in of_it if each[1] in candidates] for of_it in every_form]
    counts = []
    for allowed, trusted in searches:
        keys = [
            [
                (given_id, key, fitting)
                for given_id, key, forms in of_it
                if (fitting := tuple(each for each in allowed if each in forms))
            ]
            for of_it in found
        ]
        choices = _choose_candidates(candidates, receipts, keys, allowed, trusted, set())
        counts.append(len({each.candidate.key for each in choices if each is not None and not each.is_elsewhere}))
    return counts


# --- receipts that come before the answer to their submit_sm


def may_be_about(receipt: UpstreamReceipt, tails: Collection[str]) -> bool:
    """Whether a receipt can be about one of some messages, by the last MIN_DIGITS of the numbers that they go to."""
    source, other = receipt.source, receipt.destination
    return bool(tails) and (source[-MIN_DIGITS:] in tails or other[-MIN_DIGITS:] in tails or not _is_number(source))


def _build_early_select(column: str, index: str) -> str:
    return f"""
    SELECT early.id FROM json_each(:given) AS given CROSS JOIN unmatched_receipts AS early ON early.id IN (
        SELECT kept.id FROM unmatched_receipts AS kept INDEXED BY {index}
        WHERE {build_key_sql(f"kept.{column}")} = given.value ->> 1 AND kept.{column} <> ''
            AND kept.upstream = given.value ->> 0 AND kept.received_at > :since
        ORDER BY kept.received_at DESC LIMIT {_MAX_CANDIDATES})
    """


_KEPT_COLUMNS = (
    "id, received_at, upstream, message_id, other_id, state, ptt, state IS NOT NULL, status, done_at, source,"
    " destination, text"
)
_SELECT_EARLY = f"""
SELECT {_KEPT_COLUMNS} FROM unmatched_receipts
WHERE id IN ({_build_early_select("message_id", "unmatched_receipts_message")}
    UNION ALL {_build_early_select("other_id", "unmatched_receipts_other")}) ORDER BY id
"""


def _receipt_from_row(row: sqlite3.Row) -> UpstreamReceipt:
    """Of _KEPT_COLUMNS."""
    _, _, upstream_id, first_id, other_id, *fields = row
    return UpstreamReceipt(upstream_id, tuple(filter(None, (first_id, other_id))), *fields)


def take_early_receipts(
    conn: sqlite3.Connection, accepted: Sequence[tuple[int, str]], since: int
) -> list[tuple[int, MessageOutcome]]:
    """Take out the kept receipts of messages that have just been accepted, which are stored as that by now; returns
    what the final ones say, in the order in which they came, with the number of the part that each is of
    (`ReceiptMatch`).

    One query for all of them. The caller is inside `write_transaction()`.

    Args:
        accepted: each message's upstream, and its id there.
        since: when a receipt may have come at the earliest (milliseconds).
    """
    row = conn.execute("SELECT EXISTS (SELECT 1 FROM unmatched_receipts WHERE received_at > ?)", (since,)).fetchone()
    if not row[0]:
        return []
    forms = message_ids.load_id_forms(conn, (upstream_id for upstream_id, _ in accepted))
    given = [
        (upstream_id, key)
        for upstream_id, upstream_message_id in accepted
        for key in message_ids.build_receipt_keys(upstream_message_id, forms[upstream_id].possible)
    ]
    early = conn.execute(_SELECT_EARLY, {"given": json.dumps(given), "since": since}).fetchall()
    if not early:
        return []
    receipts = [*map(_receipt_from_row, early)]
    taken_ids: list[int] = []
    ended: dict[tuple[int, int], MessageOutcome] = {}
    for (kept_id, received_at, *_), receipt, match in zip(early, receipts, find_messages(conn, receipts), strict=True):
        # A carrier may give all parts of a text the same id. What is left is another part's, which follows.
        if match.message_id is None or (receipt.is_final and (match.message_id, match.number) in ended):
            continue
        taken_ids.append(kept_id)
        if receipt.state is not None:
            ended[match.message_id, match.number] = MessageOutcome(
                match.message_id, receipt.state, receipt.ptt, received_at, match.upstream_id, receipt.status
            )
    conn.execute("DELETE FROM unmatched_receipts WHERE id IN (SELECT value FROM json_each(?))", (str(taken_ids),))
    return [(number, outcome) for (_, number), outcome in ended.items()]
