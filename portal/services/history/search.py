"""Finding texts in an account's history: by period, sender, recipient, status and words, in pages of any depth.

Ids are the order of the history, and a period is a range of them. Within it a search takes the way that leads past the
fewest messages: what failed and what has no final state have indexes of their own; what names a sender, a number or
words leaves out the chunks in which these certainly are not (`search_index`); all else reads on until there is enough.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from portal.core.db import Connection
from portal.services.common import ids
from portal.services.common.message_states import ENROUTE, PTT, PTT_BLACKLISTED, PTT_NO_CREDIT, PTT_NONE, PTT_PENDING
from portal.services.common.periods import EVER, Period
from portal.services.history import history, search_index
from portal.services.history.history import Message, Text
from portal.services.statistics.rollup import MONTH

DELIVERED, UNDERWAY, SCHEDULED, FAILED = "delivered", "pending", "scheduled", "failed"
STATUSES = (DELIVERED, UNDERWAY, SCHEDULED, FAILED)

# As many messages as a few milliseconds suffice for.
_CHUNKS_AT_ONCE = 16
_IDS_AT_ONCE = 500
_FURTHEST = (1 << 63) - 1


@dataclass(frozen=True)
class Wanted:
    """What is looked for: texts for which all of it is true. Empty: it doesn't matter.

    Args:
        within: the period in which the text, or the first segment of it that came, was submitted.
        sender: with or without a plus; capitals don't matter.
        recipient: the number, or the digits that it begins with.
        status: of STATUSES, or a ptt code (`failures()`) in digits. A text in segments has that of each of these.
        said: words, or beginnings of words; the text has each of them. Capitals and accents don't matter.
    """

    within: Period = EVER
    sender: str = ""
    recipient: str = ""
    status: str = ""
    said: str = ""

    @cached_property
    def words(self) -> list[str]:
        return search_index.words(self.said)

    @cached_property
    def terms(self) -> list[str]:
        """What the chunks have which have such texts, beside words; none: nothing that they could tell."""
        found = search_index.of_sender(self.sender) if self.sender else []
        return found + search_index.of_number(self.recipient)

    @cached_property
    def word_terms(self) -> list[str]:
        """What those have that know words."""
        return [term for word in self.words for term in search_index.of_word(word)]

    @property
    def is_of_failures(self) -> bool:
        return self.status == FAILED or self.status.isdigit()


@dataclass(frozen=True, slots=True)
class Found:
    """Texts, newest first. `reached`: all beyond this id has not been looked at, for want of time; None: all has."""

    texts: list[Text]
    reached: int | None = None


EVERYTHING = Wanted()


def failures() -> dict[int, str]:
    """The ptt codes that a search can ask for, with what they mean: of several that mean the same, the smallest."""
    found: dict[str, int] = {}
    for code, words in PTT.items():
        if code not in (PTT_NONE, PTT_PENDING):
            found.setdefault(words, code)
    return {code: words for words, code in found.items()}


def reasons(conn: Connection, account_id: int) -> dict[int, str]:
    """Those of `failures()` that an account has ever met, as far as the statistics have them."""
    rows = conn.execute(
        "SELECT DISTINCT ptt FROM statistics_endings WHERE account_id = :account AND length = :month"
        " UNION SELECT :stopped FROM statistics WHERE account_id = :account AND length = :month AND stopped > 0"
        " UNION SELECT :refused FROM statistics WHERE account_id = :account AND length = :month AND refused > 0",
        {"account": account_id, "month": MONTH, "stopped": PTT_BLACKLISTED, "refused": PTT_NO_CREDIT},
    )
    met = {PTT.get(row[0]) for row in rows}
    return {code: words for code, words in failures().items() if words in met}


def find(
    conn: Connection,
    account_id: int,
    wanted: Wanted = EVERYTHING,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    seconds: float = float("inf"),
) -> Found:
    """A page of texts, each in the place of that segment of it that came first.

    Args:
        before: only those with a smaller id than this (the last one of the page before).
        after: the ones that follow upon this id, for the way back to newer ones.
        seconds: how long to look, at the least; it is asked every few milliseconds.
    """
    rows, reached = _lines(conn, account_id, wanted, _COLUMNS, before, after, limit, seconds)
    texts = history.whole(conn, [Message(*row) for row in rows])
    return Found(texts if after is None else texts[::-1], reached)


def lines(
    conn: Connection,
    account_id: int,
    wanted: Wanted = EVERYTHING,
    *,
    before: int | None = None,
    limit: int,
    seconds: float = float("inf"),
) -> tuple[list[int], int | None]:
    """Only the ids of what `find` finds, and how far it has looked (`Found.reached`): for who has millions to find."""
    rows, reached = _lines(conn, account_id, wanted, "line.id", before, None, limit, seconds)
    return [row[0] for row in rows], reached


def _lines(
    conn: Connection,
    account_id: int,
    wanted: Wanted,
    columns: str,
    before: int | None,
    after: int | None,
    limit: int,
    seconds: float,
) -> tuple[list[Any], int | None]:
    """Rows of these columns, which begin with the id; how far was looked, if not to the end."""
    conn.teach("says", 2, _says)
    low = max(ids.first_id_at(wanted.within.since), 1 if after is None else after + 1)
    high = min(ids.first_id_at(wanted.within.until), _FURTHEST if before is None else before)
    ends = time.monotonic() + seconds
    rows: list[Any] = []
    query = _Query(account_id, wanted, columns, newest_first=after is None)
    for first, bound in query.stretches(conn, low, high):
        rows += query.rows(conn, first, bound, limit - len(rows))
        if len(rows) == limit:
            break
        if time.monotonic() >= ends and (first > low if after is None else bound < high):
            return rows, first if after is None else bound - 1
    return rows, None


def each(conn: Connection, account_id: int, wanted: Wanted = EVERYTHING, batch: int = 1000) -> Iterator[Text]:
    """All texts that are looked for, newest first, in constant memory."""
    before = None
    while found := find(conn, account_id, wanted, before=before, limit=batch).texts:
        yield from found
        before = found[-1].id


# --- how they are found

_COLUMNS = ", ".join(
    [
        *(f"line.{each}" for each in history.COLUMNS.split(", ")[:-1]),
        "line.scheduled_at IS NOT NULL AND line.due_at IS line.scheduled_at",
    ]
)
_BY_TIME = """
messages AS line INDEXED BY messages_account WHERE line.account_id = :account AND line.joined_to IS NULL
"""
# The order of both loops is said (CROSS JOIN), and that of the rows is the index's.
_BY_FAILURE = f"""
messages AS failed INDEXED BY messages_failed
CROSS JOIN messages AS line ON line.id = coalesce(failed.joined_to, failed.id)
WHERE failed.account_id = :account AND failed.ptt NOT IN ({PTT_NONE}, {PTT_PENDING})
"""
_UNFINISHED = f"""
SELECT DISTINCT coalesce(joined_to, id) FROM messages AS part INDEXED BY messages_unfinished
WHERE part.state = {ENROUTE} AND part.account_id = ?
"""
_SEGMENT_HAS = (
    "({condition} OR (line.segment_total IS NOT NULL AND EXISTS (SELECT 1 FROM messages AS part"
    " WHERE part.joined_to = line.id AND {of_part})))"
)
# As `Text.text` puts it together: what is missing between two segments parts words.
_WHOLE = """
(SELECT group_concat(said, '') FROM (
    SELECT iif(segment_number = 1 + lag(segment_number) OVER (ORDER BY segment_number), '', ' ') || text AS said
    FROM messages AS part WHERE part.id = line.id OR part.joined_to = line.id ORDER BY segment_number))
"""
_WAITS = "({row}.scheduled_at IS NOT NULL AND {row}.due_at IS {row}.scheduled_at)"


class _Query:
    """The statements of a search, and the way it takes."""

    def __init__(self, account_id: int, wanted: Wanted, columns: str, *, newest_first: bool) -> None:
        self._select = f"SELECT {columns} FROM"
        self._wanted = wanted
        self._newest_first = newest_first
        self._order = "DESC" if newest_first else "ASC"
        self._values: dict[str, object] = {
            "account": account_id,
            "sender": wanted.sender.lstrip("+"),
            "least": wanted.recipient,
            # What follows upon all that begin with these digits: the colon comes after 9.
            "most": f"{wanted.recipient}:",
            "words": " ".join(wanted.words),
            **{f"digits{number}": word for number, word in enumerate(wanted.words) if _is_digits(word)},
        }

    def stretches(self, conn: Connection, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Where to look, in the order of the answer: first ids, and bounds that are beyond the last ones."""
        wanted = self._wanted
        plain = not wanted.sender and not wanted.recipient and not wanted.said
        if low >= high or (wanted.said and not wanted.words):
            # No time at all, or nothing but marks, and no text has such a word.
            return
        if wanted.status in (UNDERWAY, SCHEDULED) or (plain and (wanted.status == "" or wanted.is_of_failures)):
            yield low, high
            return
        account = self._values["account"]
        (done,) = conn.execute(
            "SELECT coalesce(max(last_id), 0) FROM history_chunks WHERE account_id = ?", (account,)
        ).fetchone()
        tail = (max(low, done + 1), high)
        if self._newest_first and tail[0] < high:
            yield tail
        yield from self._chunks(conn, low, min(high, done + 1))
        if not self._newest_first and tail[0] < high:
            yield tail

    def _chunks(self, conn: Connection, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Runs of chunks which may have what is looked for, within bounds."""
        terms, word_terms = self._wanted.terms, self._wanted.word_terms
        places: dict[tuple[int, int], list[int]] = {}
        run: tuple[int, int] | None = None
        length = 0
        chunks = conn.execute(
            f"SELECT first_id, last_id{', worded, bits' if terms or word_terms else ''} FROM history_chunks"
            " WHERE account_id = :account AND last_id >= :low AND last_id <= coalesce((SELECT min(last_id)"
            "  FROM history_chunks WHERE account_id = :account AND last_id >= :high - 1), :high)"
            f" ORDER BY last_id {self._order}",
            {"account": self._values["account"], "low": low, "high": high},
        )
        for first, last, *rest in chunks:
            first, bound = max(first, low), min(last + 1, high)
            if first >= bound:
                continue
            if rest:
                worded, bits = rest
                size = len(bits) * 8
                if (worded, size) not in places:
                    asked = terms + word_terms if worded else terms
                    places[worded, size] = [place for term in asked for place in search_index.places(term, size)]
                may_have = all(bits[place >> 3] >> (place & 7) & 1 for place in places[worded, size])
            else:
                may_have = True
            if may_have:
                run = (first, bound) if run is None else (min(run[0], first), max(run[1], bound))
                length += 1
            if run is not None and (not may_have or length == _CHUNKS_AT_ONCE):
                yield run
                run, length = None, 0
        if run is not None:
            yield run

    def rows(self, conn: Connection, first: int, bound: int, limit: int) -> Sequence[Any]:
        """Rows of the texts within bounds, in the order of the answer."""
        values = self._values | {"first": first, "bound": bound}
        if self._wanted.status in (UNDERWAY, SCHEDULED):
            return self._unfinished(conn, values, limit)
        if self._wanted.is_of_failures:
            return self._failed(conn, values, limit)
        return conn.execute(
            f"{self._select} {_BY_TIME} AND line.id >= :first AND line.id < :bound{self._conditions}"
            f" ORDER BY line.id {self._order} LIMIT {limit}",
            values,
        ).fetchall()

    def _failed(self, conn: Connection, values: dict[str, object], limit: int) -> Sequence[Any]:
        place = "coalesce(failed.joined_to, failed.id)"
        of_code = f" AND failed.ptt IN ({_codes(self._wanted.status)})" if self._wanted.status != FAILED else ""
        found: dict[int, Any] = {}
        rows = conn.execute(
            f"{self._select} {_BY_FAILURE}{of_code} AND {place} >= :first AND {place} < :bound{self._conditions}"
            f" ORDER BY {place} {self._order}",
            values,
        )
        # Several segments of a text may have failed.
        for row in rows:
            found[row[0]] = row
            if len(found) == limit:
                break
        rows.close()
        return list(found.values())

    def _unfinished(self, conn: Connection, values: dict[str, object], limit: int) -> Sequence[Any]:
        waits = _WAITS.format(row="part")
        which = waits if self._wanted.status == SCHEDULED else f"NOT {waits}"
        found = conn.execute(f"{_UNFINISHED} AND {which}", (values["account"],)).fetchall()
        lines = sorted((row[0] for row in found), reverse=self._newest_first)
        rows: list[Any] = []
        for start in range(0, len(lines), _IDS_AT_ONCE):
            some = json.dumps(lines[start : start + _IDS_AT_ONCE])
            rows += conn.execute(
                f"{self._select} json_each(:ids) AS wanted CROSS JOIN messages AS line ON line.id = wanted.value"
                f" WHERE line.id >= :first AND line.id < :bound{self._conditions} LIMIT {limit - len(rows)}",
                values | {"ids": some},
            )
            if len(rows) == limit:
                break
        return rows

    @cached_property
    def _conditions(self) -> str:
        """What is asked of a line beside its place, each after AND: the cheapest first."""
        wanted = self._wanted
        found = []
        if wanted.recipient:
            found.append("line.destination >= :least AND line.destination < :most")
        if wanted.sender:
            found.append("ltrim(line.source, '+') = :sender COLLATE NOCASE")
        if wanted.status == DELIVERED:
            found.append(_SEGMENT_HAS.format(condition=f"line.ptt = {PTT_NONE}", of_part=f"part.ptt = {PTT_NONE}"))
        for number, word in enumerate(wanted.words):
            if _is_digits(word):
                # In C, before a function of ours is called: folding makes no digits.
                found.append(f"(instr(line.text, :digits{number}) OR line.segment_total IS NOT NULL)")
        if wanted.words:
            found.append(f"(says(line.text, :words) OR (line.segment_total IS NOT NULL AND says({_WHOLE}, :words)))")
        return "".join(f" AND {each}" for each in found)


def _is_digits(word: str) -> bool:
    return word.isascii() and word.isdigit()


def _codes(status: str) -> str:
    """All codes that mean the same as this one."""
    means = PTT.get(int(status))
    return ", ".join(str(code) for code, words in PTT.items() if words == means)


def _says(text: str | None, beginnings: str) -> bool:
    folded = search_index.folded(text or "")
    return all(search_index.begins_a_word(folded, each) for each in _split(beginnings))


@lru_cache(maxsize=64)
def _split(beginnings: str) -> list[str]:
    return beginnings.split()
