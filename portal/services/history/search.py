"""Searching an account's history: by period, sender, recipient, status and words, with paging to any depth.

The history is in the order of ids, and a period is a range of ids. Within it a search reads as few messages as
possible: failed messages and those without a final state have database indexes of their own; a search for a sender, a
number or words skips the chunks that certainly don't contain them (`search_index`); any other search reads messages
until a page is full.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby, islice
from typing import Any

from portal.core.db import Connection
from portal.services.accounts import account_messages
from portal.services.common import addresses, ids, keyset
from portal.services.common.message_states import (
    ENROUTE,
    PTT_BLACKLISTED,
    PTT_DESCRIPTIONS,
    PTT_NO_CREDIT,
    PTT_NONE,
    PTT_PENDING,
)
from portal.services.common.periods import ALL_TIME_PERIOD, Period
from portal.services.history import history, search_index
from portal.services.history.history import SegmentContent, SentMessage, SentText
from portal.services.history.search_index import may_contain
from portal.services.statistics.rollup import MONTH

DELIVERED, UNDERWAY, SCHEDULED, FAILED = "delivered", "pending", "scheduled", "failed"
STATUSES = (DELIVERED, UNDERWAY, SCHEDULED, FAILED)

# So many chunks are read in a few milliseconds.
_MAX_CHUNKS_PER_RUN = 16
_MAX_ID = (1 << 63) - 1


@dataclass(frozen=True)
class SearchQuery:
    """The conditions of a search, all of which a text must meet. An empty one matches everything.

    Args:
        period: the one in which the text, or the first of its segments that came, was submitted.
        sender: a number with or without a plus or 00; case is ignored.
        recipient: the number, or its first digits.
        status: one of STATUSES, or a ptt code (`list_failure_codes()`) in digits. A text in segments has the status of
            each of its segments.
        text: words, or beginnings of words, all of which the text contains; case and accents are ignored.
    """

    period: Period = ALL_TIME_PERIOD
    sender: str = ""
    recipient: str = ""
    status: str = ""
    text: str = ""

    @cached_property
    def words(self) -> list[str]:
        return search_index.split_words(self.text)

    @cached_property
    def index_terms(self) -> Mapping[int, search_index.TermLists]:
        """What a chunk must contain, by whether it has words (`worded`): all terms of one of these lists.

        There is a list for each spelling of the sender. With an empty one no chunk can be skipped.
        """
        number_terms = search_index.index_terms_of_number(self.recipient)
        word_terms = [term for word in self.words for term in search_index.index_terms_of_word(word)]
        sender_terms = [search_index.index_terms_of_sender(each) for each in addresses.list_spellings(self.sender)]
        return {
            0: tuple((*each, *number_terms) for each in sender_terms),
            1: tuple((*each, *number_terms, *word_terms) for each in sender_terms),
        }

    @property
    def is_failure_search(self) -> bool:
        return self.status == FAILED or self.status.isdigit()


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Texts, newest first. `reached`: the id at which the search stopped for lack of time; None: it is complete."""

    texts: list[SentText]
    reached: int | None = None


MATCH_ALL = SearchQuery()


def list_failure_codes() -> dict[int, str]:
    """The ptt codes that a search can have as status, with their descriptions; of several with one, the smallest."""
    smallest_codes: dict[str, int] = {}
    for code, description in PTT_DESCRIPTIONS.items():
        if code not in (PTT_NONE, PTT_PENDING):
            smallest_codes.setdefault(description, code)
    return {code: description for description, code in smallest_codes.items()}


def list_account_failure_codes(conn: Connection, account_id: int) -> dict[int, str]:
    """Those of `list_failure_codes()` that messages of an account have ever had, according to the statistics."""
    rows = conn.execute(
        "SELECT DISTINCT ptt FROM statistics_endings WHERE account_id = :account AND length = :month"
        " UNION SELECT :stopped FROM statistics WHERE account_id = :account AND length = :month AND stopped > 0"
        " UNION SELECT :refused FROM statistics WHERE account_id = :account AND length = :month AND refused > 0",
        {"account": account_id, "month": MONTH, "stopped": PTT_BLACKLISTED, "refused": PTT_NO_CREDIT},
    )
    descriptions = {PTT_DESCRIPTIONS.get(row[0]) for row in rows}
    return {code: description for code, description in list_failure_codes().items() if description in descriptions}


def search_texts(
    conn: Connection,
    account_id: int,
    query: SearchQuery = MATCH_ALL,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    seconds: float = float("inf"),
) -> SearchResult:
    """Search an account's texts; returns a page of them. The id of a text is that of its segment that came first.

    Args:
        before: the texts with a smaller id than this (the last one of the previous page).
        after: the texts just above this id, for going back to newer pages.
        seconds: after so long the search stops, at its next check, which comes every few milliseconds.
    """
    search = _Search(conn, account_id, query, _COLUMNS, newest_first=after is None)
    rows, reached = search.run(before, after, limit, seconds)
    texts = history.assemble_texts(conn, [SentMessage(*row) for row in rows])
    return SearchResult(texts if after is None else texts[::-1], reached)


def search_text_ids(
    conn: Connection, account_id: int, query: SearchQuery, *, before: int, limit: int, seconds: float
) -> tuple[list[int], int | None]:
    """Like `search_texts`, but returns only the ids, and `SearchResult.reached`: for searches that find millions."""
    rows, reached = _Search(conn, account_id, query, "line.id", newest_first=True).run(before, None, limit, seconds)
    return [row[0] for row in rows], reached


def iterate_texts(
    conn: Connection, account_id: int, query: SearchQuery = MATCH_ALL, batch_size: int = 1000
) -> Iterator[SentText]:
    """Yield all texts that a search finds, newest first, in constant memory."""
    return keyset.iterate_pages(
        lambda **page: search_texts(conn, account_id, query, **page).texts, batch_size, lambda each: each.id
    )


# --- the SQL of a search

_COLUMNS = history.build_message_columns("line")
# CROSS JOIN fixes the order of the two loops, so that the rows come in the order of the first one. A text of which
# several segments have failed comes once.
_SELECT_FAILED = f"""
SELECT {{columns}} FROM messages AS failed INDEXED BY messages_failed
CROSS JOIN messages AS line ON line.id = coalesce(failed.joined_to, failed.id)
WHERE failed.account_id = :account AND failed.ptt NOT IN ({PTT_NONE}, {PTT_PENDING})
AND coalesce(failed.joined_to, failed.id) >= :first AND coalesce(failed.joined_to, failed.id) < :bound {{conditions}}
GROUP BY coalesce(failed.joined_to, failed.id) ORDER BY coalesce(failed.joined_to, failed.id) {{order}} LIMIT :limit
"""
# SQLite takes the ids of an IN in their order, and so needs no more of them than the limit. The plus keeps it from
# reading all ids of the range instead.
_SELECT_UNFINISHED = f"""
SELECT {{columns}} FROM messages AS line WHERE line.id IN (
    SELECT coalesce(joined_to, id) FROM messages AS part INDEXED BY messages_unfinished
    WHERE part.state = {ENROUTE} AND part.account_id = :account
    AND ({history.IS_SCHEDULED_SQL.format(table="part")}) = :scheduled
) AND +line.id >= :first AND +line.id < :bound {{conditions}} ORDER BY line.id {{order}} LIMIT :limit
"""
_IS_DELIVERED = f"""
(line.ptt = {PTT_NONE} OR (line.segment_total IS NOT NULL AND EXISTS
 (SELECT 1 FROM messages AS part WHERE part.joined_to = line.id AND part.ptt = {PTT_NONE})))
"""
_WHOLE_TEXT = """
(SELECT join_segments(segment_number, text, data_coding, udh, body)
FROM messages AS part WHERE (part.id = line.id OR part.joined_to = line.id) AND part.kept)
"""


class _JoinSegments:
    """The SQL aggregate `join_segments`: a whole text, in which a missing segment separates words.

    Its arguments are the fields of `SegmentContent`.
    """

    def __init__(self) -> None:
        self._segments: list[SegmentContent] = []

    def step(self, *fields: Any) -> None:
        self._segments.append(SegmentContent(*fields))

    def finalize(self) -> str:
        self._segments.sort(key=lambda each: each.segment_number)
        numbers = [each.segment_number for each in self._segments]
        texts = history.decode_segments(self._segments)
        return "".join(
            text if number == previous + 1 else f" {text}"
            for previous, number, text in zip([0, *numbers], numbers, texts, strict=False)
        )


class _Search:
    """A search of an account: its SQL statements, and the ranges of ids that they are run on."""

    def __init__(
        self, conn: Connection, account_id: int, query: SearchQuery, columns: str, *, newest_first: bool
    ) -> None:
        """Args:
        columns: what is read of `messages AS line`, in SQL, the id first.
        """
        conn.register_function("has_words", 2, _has_words_with_prefixes)
        conn.register_aggregate("join_segments", 5, _JoinSegments)
        self._conn = conn
        self._account_id = account_id
        self._columns = columns
        self._query = query
        self._newest_first = newest_first
        self._order = "DESC" if newest_first else "ASC"
        self._parameters: dict[str, object] = {
            "account": account_id,
            "senders": json.dumps(addresses.list_spellings(query.sender)),
            "scheduled": query.status == SCHEDULED,
            "recipient": query.recipient,
            # Greater than all numbers that begin with these digits: in ASCII the colon follows the 9.
            "recipient_end": f"{query.recipient}:",
            "words": " ".join(query.words),
            "digits": self._digits,
        }

    def run(self, before: int | None, after: int | None, limit: int, seconds: float) -> tuple[list[Any], int | None]:
        """Return the matching rows, and `SearchResult.reached`; arguments as those of `search_texts`."""
        low = max(ids.min_id_at_time(self._query.period.since), 1 if after is None else after + 1)
        high = min(ids.min_id_at_time(self._query.period.until), _MAX_ID if before is None else before)
        deadline = time.monotonic() + seconds
        rows: list[Any] = []
        for first, bound in self._iterate_id_ranges(low, high):
            rows += self._fetch_rows(first, bound, limit - len(rows))
            if len(rows) == limit:
                break
            if time.monotonic() >= deadline and (first > low if self._newest_first else bound < high):
                return rows, first if self._newest_first else bound - 1
        return rows, None

    def _iterate_id_ranges(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of ids to read, each as (first id, end), in the order of the result."""
        query = self._query
        is_period_only = not query.sender and not query.recipient and not query.text
        if low >= high or (query.text and not query.words):
            # The period is empty, or the text has only punctuation, which matches nothing.
            return
        if query.status in (UNDERWAY, SCHEDULED) or (
            is_period_only and (query.status == "" or query.is_failure_search)
        ):
            yield low, high
            return
        (last_indexed_id,) = self._conn.execute(
            "SELECT coalesce(max(last_id), 0) FROM history_chunks WHERE account_id = ?", (self._account_id,)
        ).fetchone()
        tail = max(low, last_indexed_id + 1), high
        tails = [tail] if tail[0] < high else []
        runs = self._iterate_index_chunk_runs(low, min(high, last_indexed_id + 1))
        yield from chain(tails, runs) if self._newest_first else chain(runs, tails)

    def _iterate_index_chunk_runs(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Yield runs of chunks that may contain matches, within a range of ids."""
        chunks = self._conn.execute(
            "SELECT first_id, last_id, worded, bits FROM history_chunks"
            " WHERE account_id = :account AND last_id >= :low AND first_id < :high"
            " AND last_id <= coalesce((SELECT min(last_id) FROM history_chunks"
            "  WHERE account_id = :account AND last_id >= :high - 1), :high)"
            f" ORDER BY last_id {self._order}",
            {"account": self._account_id, "low": low, "high": high},
        )
        terms = self._query.index_terms
        for may_match, group in groupby(chunks, lambda chunk: may_contain(chunk["bits"], terms[chunk["worded"]])):
            while may_match and (run := list(islice(group, _MAX_CHUNKS_PER_RUN))):
                oldest, newest = (run[-1], run[0]) if self._newest_first else (run[0], run[-1])
                yield max(oldest["first_id"], low), min(newest["last_id"] + 1, high)

    def _fetch_rows(self, first: int, bound: int, limit: int) -> Sequence[Any]:
        """Read the matching rows of a range of ids, in the order of the result."""
        query, conditions = self._query, self._where_conditions
        parameters = self._parameters | {"first": first, "bound": bound, "limit": limit}
        if query.status in (UNDERWAY, SCHEDULED):
            statement = _SELECT_UNFINISHED
        elif query.is_failure_search:
            statement = _SELECT_FAILED
            if query.status != FAILED:
                conditions += f" AND failed.ptt IN ({_format_equivalent_ptt_codes(query.status)})"
        else:
            return account_messages.list_account_messages(
                self._conn,
                self._account_id,
                first,
                bound,
                self._columns,
                conditions=f"AND line.joined_to IS NULL{conditions}",
                parameters=self._parameters,
                newest_first=self._newest_first,
                limit=limit,
            )
        sql = statement.format(columns=self._columns, conditions=conditions, order=self._order)
        return self._conn.execute(sql, parameters).fetchall()

    @property
    def _digits(self) -> str:
        """The longest word of digits, which a text has to contain; empty: there is none."""
        return max((each for each in self._query.words if each.isascii() and each.isdigit()), key=len, default="")

    @cached_property
    def _where_conditions(self) -> str:
        """The conditions on a row beside the range of ids, each after AND, the cheapest first."""
        query = self._query
        conditions = (
            (query.recipient, "line.destination >= :recipient AND line.destination < :recipient_end"),
            (query.sender, "line.source COLLATE NOCASE IN (SELECT value FROM json_each(:senders))"),
            (query.status == DELIVERED, _IS_DELIVERED),
            # Digits are looked for by SQLite before the Python function is called: folding never creates any.
            (self._digits, "(instr(line.text, :digits) OR line.segment_total IS NOT NULL)"),
            (query.words, f"has_words(iif(line.segment_total IS NULL, line.text, {_WHOLE_TEXT}), :words)"),
        )
        return "".join(f" AND {sql}" for is_wanted, sql in conditions if is_wanted)


def _format_equivalent_ptt_codes(status: str) -> str:
    """List all ptt codes that have the same description as this one, for SQL."""
    description = PTT_DESCRIPTIONS.get(int(status))
    return ", ".join(str(code) for code, each in PTT_DESCRIPTIONS.items() if each == description)


def _has_words_with_prefixes(text: str | None, prefixes: str) -> bool:
    folded = search_index.fold_text(text or "")
    return all(search_index.has_word_with_prefix(folded, each) for each in prefixes.split())
