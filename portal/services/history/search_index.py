"""What lets a search leave out most of a history: for each 256 messages of an account, what is not among them.

A chunk is a Bloom filter of the senders, of the beginnings of the recipients' numbers, and of those of the words of
the texts: it says "certainly not" or "perhaps". That costs 16 bytes a message. An index of all words takes a hundred
times as much and is written at random places, and so is one on the recipient; this one is written behind the messages,
by whoever has time, and what has no chunk yet is just read. Where texts are not kept, a chunk knows no words
(`worded`), and who looks for some reads it.
"""

import re
import sqlite3
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from zlib import crc32

from portal.core.db import immediate
from portal.services.common import ids
from portal.services.history import history
from portal.services.messages import text_policy
from portal.services.messages.intake import SEGMENTS_TOGETHER_MS

CHUNK = 256
"""How many messages."""
# A step is a few milliseconds of work and one short transaction.
_CHUNKS_AT_ONCE = 4
# With eight bits for each, three of them set, one chunk in thirty says "perhaps" for nothing.
_BITS_A_TERM, _LEAST_BITS = 8, 64
# Longer beginnings tell more, but a message has its own: these double the chance from one to the next, or more.
_DIGITS, _LETTERS = (11, 9, 7, 6, 5, 4, 3), (8, 5, 4, 3)
_WORD = re.compile(r"\w+")


# --- what is looked for


class _Plain(dict[int, str]):
    """For `str.translate`: a character without its accents. It learns each when it meets it."""

    def __missing__(self, code: int) -> str:
        parts = unicodedata.normalize("NFD", chr(code))
        self[code] = plain = "".join(each for each in parts if not unicodedata.combining(each))
        return plain


_PLAIN = _Plain()


def folded(text: str) -> str:
    """A text without what people don't type when they look for it: capitals, accents."""
    text = text.casefold()
    return text if text.isascii() else text.translate(_PLAIN)


def words(text: str) -> list[str]:
    """The words of a text: runs of letters, digits and low lines, folded."""
    return _WORD.findall(folded(text))


def begins_a_word(text: str, beginning: str) -> bool:
    """Whether a word of a text begins so; both are folded."""
    at = text.find(beginning)
    while at > 0 and (text[at - 1].isalnum() or text[at - 1] == "_"):
        at = text.find(beginning, at + 1)
    return at >= 0


def of_sender(sender: str) -> list[str]:
    """The terms that a chunk with a message of this sender has."""
    return [f"s{sender.lstrip('+').casefold()}"]


def of_number(beginning: str) -> list[str]:
    """The terms that a chunk with a message to such a number has, those that tell most first: none where there are too
    few digits to tell."""
    return [f"d{beginning[:length]}" for length in _DIGITS if len(beginning) >= length]


def of_word(beginning: str) -> list[str]:
    """The terms that a chunk has which holds such a word, those that tell most first: none where there are too few
    letters to tell.

    All of them: the bits of one term alone may be those of words that every chunk has.
    """
    return [f"t{beginning[:length]}" for length in _LETTERS if len(beginning) >= length]


# --- Bloom filters


def places(term: str, size: int) -> tuple[int, int, int]:
    """The bits that stand for a term in a chunk of so many; `size` is a power of two."""
    hashed = crc32(term.encode())
    step = hashed >> 14 | 1
    last = size - 1
    return hashed & last, hashed + step & last, hashed + 2 * step & last


def _bits(terms: Collection[str]) -> bytes:
    size = _LEAST_BITS
    while size < _BITS_A_TERM * len(terms):
        size *= 2
    found = bytearray(size // 8)
    for term in terms:
        first, second, third = places(term, size)
        found[first >> 3] |= 1 << (first & 7)
        found[second >> 3] |= 1 << (second & 7)
        found[third >> 3] |= 1 << (third & 7)
    return bytes(found)


def _terms(messages: Iterable[Sequence[str]], texts: Iterable[str]) -> set[str]:
    """Of messages (source, destination, text), and of whole texts of which they are parts."""
    senders, numbers, said = set(), set(), list(texts)
    for source, destination, text in messages:
        senders.add(source)
        numbers.add(destination)
        said.append(text)
    # In one go: most words come again and again.
    found = set(_WORD.findall("\n".join(map(folded, said))))
    terms = {term for sender in senders for term in of_sender(sender)}
    for length in _DIGITS:
        terms.update([f"d{each[:length]}" for each in numbers if len(each) >= length])
    for length in _LETTERS:
        terms.update([f"t{each[:length]}" for each in found if len(each) >= length])
    return terms


# --- building

# Account, first and last id, bits, and whether they know words.
_Chunk = tuple[int, int, int, bytes, bool]


def build(conn: sqlite3.Connection) -> Iterator[int]:
    """Build the chunks that can be built, a few of each account; says after each step how many there were.

    Each step is a transaction of its own, and between two of them nothing is held: the caller may rest.
    """
    for account_id, done in _waiting(conn):
        worded = not text_policy.not_kept(conn, [account_id])
        chunks: list[_Chunk] = []
        while len(chunks) < _CHUNKS_AT_ONCE and (chunk := _next(conn, account_id, done, worded)):
            chunks.append(chunk)
            done = chunk[2]
        if chunks and _write(conn, chunks):
            yield len(chunks)


def _write(conn: sqlite3.Connection, chunks: Sequence[_Chunk]) -> bool:
    """Write chunks of one account; False: meanwhile its texts are not to be kept, and these know words."""
    with immediate(conn):
        account_id, *_, worded = chunks[0]
        if worded and text_policy.not_kept(conn, [account_id]):
            return False
        conn.executemany(
            "INSERT OR IGNORE INTO history_chunks (account_id, first_id, last_id, bits, worded) VALUES (?, ?, ?, ?, ?)",
            chunks,
        )
        return True


def bits_without_words(conn: sqlite3.Connection, account_id: int, first: int, last: int) -> bytes:
    """Those of a chunk that tells senders and numbers only."""
    rows = conn.execute(
        "SELECT source, destination, '' FROM messages WHERE account_id = ? AND id >= ? AND id <= ?",
        (account_id, first, last),
    ).fetchall()
    return _bits(_terms([tuple(row) for row in rows], []))


def _waiting(conn: sqlite3.Connection) -> list[tuple[int, int]]:
    """Accounts with messages that have no chunk, and the last id that has one."""
    rows = conn.execute(
        "SELECT id, coalesce((SELECT max(last_id) FROM history_chunks WHERE account_id = accounts.id), 0) AS done"
        " FROM accounts WHERE done < (SELECT max(id) FROM messages WHERE account_id = accounts.id)"
    )
    return [(row[0], row[1]) for row in rows]


def _next(conn: sqlite3.Connection, account_id: int, done: int, worded: bool) -> _Chunk | None:
    """The chunk that follows upon an id; None: there are too few messages as yet."""
    end = conn.execute(
        f"SELECT id FROM messages WHERE account_id = ? AND id > ? ORDER BY id LIMIT 1 OFFSET {CHUNK - 1}",
        (account_id, done),
    ).fetchone()
    if end is None:
        return None
    if not worded:
        return account_id, done + 1, end[0], bits_without_words(conn, account_id, done + 1, end[0]), worded
    rows = conn.execute(
        "SELECT source, destination, text, id, segment_total IS NOT NULL AND joined_to IS NULL FROM messages"
        " WHERE account_id = ? AND id > ? AND id <= ?",
        (account_id, done, end[0]),
    ).fetchall()
    found = [tuple(row) for row in rows]
    wholes = _wholes(conn, account_id, [each[3] for each in found if each[4]])
    if wholes is None:
        return None
    return account_id, done + 1, end[0], _bits(_terms([each[:3] for each in found], wholes)), worded


def _wholes(conn: sqlite3.Connection, account_id: int, first_ids: Sequence[int]) -> list[str] | None:
    """What is said by the texts that begin with these messages; None: more may come of one of them."""
    if not first_ids:
        return []
    (newest,) = conn.execute("SELECT max(id) FROM messages").fetchone()
    said = []
    for text in history.texts_by_id(conn, account_id, first_ids):
        latest = max(each.id for each in text.messages)
        # Ids only grow, also where clocks are set back: what comes next is too far away to belong to it.
        if len(text.messages) < text.segments and newest < latest + ids.first_id_at(SEGMENTS_TOGETHER_MS):
            return None
        # A word may be cut in two, and a character too, which makes two words of one.
        said += [text.text, *(each.text for each in text.messages)]
    return said
