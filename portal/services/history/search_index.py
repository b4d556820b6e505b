"""The search index: one Bloom filter for each 256 messages (a chunk) of an account, so that a search can skip chunks.

A filter contains the senders, the prefixes of the recipients' numbers, and the prefixes of the words of the texts. It
says "certainly not" or "perhaps". That takes 18 bytes a message, where SQLite's full-text index takes 107
(docs/design.md). Chunks are built in the background; messages that have none yet are simply read. Where texts are not
kept, a chunk has no words (`worded` is 0), and a search for words reads its messages.
"""

import re
import sqlite3
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from zlib import crc32

from portal.core.db import write_transaction
from portal.services.accounts import account_messages
from portal.services.common import ids
from portal.services.history import history
from portal.services.messages import text_policy
from portal.services.messages.intake import MAX_SEGMENT_GAP_MS

CHUNK_SIZE = 256
"""How many messages a chunk has."""
# A step takes a few milliseconds, and writes in one short transaction.
_MAX_CHUNKS_PER_STEP = 4
# With eight bits for each term, three of them set, one chunk in thirty is a false positive.
_BITS_PER_TERM, _MIN_BITS = 8, 64
# Longer prefixes select better, but each message adds its own to the filter; these lengths are a compromise.
_NUMBER_PREFIX_LENGTHS, _WORD_PREFIX_LENGTHS = (11, 9, 7, 6, 5, 4, 3), (8, 5, 4, 3)
_WORD_PATTERN = re.compile(r"\w+")


# --- words and terms


class _AccentStripper(dict[int, str]):
    """A table for `str.translate` that removes accents. It is filled while it is used."""

    def __missing__(self, code: int) -> str:
        parts = unicodedata.normalize("NFD", chr(code))
        self[code] = stripped = "".join(each for each in parts if not unicodedata.combining(each))
        return stripped


_WITHOUT_ACCENTS = _AccentStripper()


def fold_text(text: str) -> str:
    """Fold a text for comparison: case and accents are removed."""
    text = text.casefold()
    return text if text.isascii() else text.translate(_WITHOUT_ACCENTS)


def split_words(text: str) -> list[str]:
    """Split a text into words: runs of letters, digits and underscores, folded."""
    return _WORD_PATTERN.findall(fold_text(text))


def has_word_with_prefix(text: str, prefix: str) -> bool:
    """Whether a word of the text begins with the prefix; both are folded."""
    position = text.find(prefix)
    while position > 0 and (text[position - 1].isalnum() or text[position - 1] == "_"):
        position = text.find(prefix, position + 1)
    return position >= 0


def index_terms_of_sender(sender: str) -> list[str]:
    """The terms of a chunk with a message from this sender. Empty: there is none."""
    return [f"s{sender.lstrip('+').casefold()}"] if sender else []


def index_terms_of_number(prefix: str) -> list[str]:
    """The terms of a chunk with a message to a number that begins so, the most selective first.

    Empty: the prefix is too short.
    """
    return [f"d{prefix[:length]}" for length in _NUMBER_PREFIX_LENGTHS if len(prefix) >= length]


def index_terms_of_word(prefix: str) -> list[str]:
    """The terms of a chunk with a word that begins so, the most selective first. Empty: the prefix is too short.

    All of them are checked: the bits of one term alone may be those of words that every chunk has.
    """
    return [f"t{prefix[:length]}" for length in _WORD_PREFIX_LENGTHS if len(prefix) >= length]


# --- Bloom filters

TermLists = tuple[tuple[str, ...], ...]


def get_bloom_filter_bits(term: str, bit_count: int) -> tuple[int, int, int]:
    """The three bits of a term in a filter of `bit_count` bits, a power of two."""
    hashed = crc32(term.encode())
    step = hashed >> 14 | 1
    mask = bit_count - 1
    return hashed & mask, hashed + step & mask, hashed + 2 * step & mask


@lru_cache(maxsize=64)
def _list_bits(term_lists: TermLists, bit_count: int) -> list[list[int]]:
    return [[bit for term in terms for bit in get_bloom_filter_bits(term, bit_count)] for terms in term_lists]


def may_contain(bits: bytes, term_lists: TermLists) -> bool:
    """Whether a filter contains, certainly not or perhaps, all terms of one of these lists."""
    return any(all(bits[bit >> 3] >> (bit & 7) & 1 for bit in each) for each in _list_bits(term_lists, len(bits) * 8))


def _build_bloom_filter(terms: Collection[str]) -> bytes:
    bit_count = _MIN_BITS
    while bit_count < _BITS_PER_TERM * len(terms):
        bit_count *= 2
    bits = bytearray(bit_count // 8)
    for term in terms:
        for bit in get_bloom_filter_bits(term, bit_count):
            bits[bit >> 3] |= 1 << (bit & 7)
    return bytes(bits)


# --- building

# Account id, first and last message id, the Bloom filter, and whether it contains words.
_ChunkRow = tuple[int, int, int, bytes, bool]


def build_search_chunks(conn: sqlite3.Connection, *, chunk_size: int = CHUNK_SIZE) -> Iterator[int]:
    """Build chunks that can be built, a few of each account; yields after each step how many it has built.

    Each step is a transaction of its own, and between two of them none is open: the caller may pause. A chunk has
    `chunk_size` messages.
    """
    # Chunks are made of what is in the index of the accounts' messages.
    while account_messages.index_message_batch(conn):
        yield 0
    for account_id, last_indexed_id in _list_unindexed_accounts(conn):
        worded = _keeps_texts(conn, account_id)
        chunks = list(
            islice(_iterate_next_chunks(conn, account_id, last_indexed_id, worded, chunk_size), _MAX_CHUNKS_PER_STEP)
        )
        if not chunks:
            continue
        with write_transaction(conn):
            # Meanwhile it may have been decided that the account's texts are no longer kept.
            may_be_stored = not worded or _keeps_texts(conn, account_id)
            if may_be_stored:
                conn.executemany(
                    "INSERT OR IGNORE INTO history_chunks (account_id, first_id, last_id, bits, worded)"
                    " VALUES (?, ?, ?, ?, ?)",
                    chunks,
                )
        yield len(chunks) if may_be_stored else 0


def _keeps_texts(conn: sqlite3.Connection, account_id: int) -> bool:
    return not text_policy.find_accounts_discarding_texts(conn, [account_id])


def _list_unindexed_accounts(conn: sqlite3.Connection) -> list[tuple[int, int]]:
    """Accounts with messages that have no chunk yet, each with the last message id that has one."""
    rows = conn.execute(
        "SELECT id, coalesce((SELECT max(last_id) FROM history_chunks WHERE account_id = accounts.id), 0)"
        " AS last_indexed FROM accounts"
        " WHERE last_indexed < (SELECT max(message_id) FROM account_messages WHERE account_id = accounts.id)"
    )
    return [(row[0], row[1]) for row in rows]


def _iterate_next_chunks(
    conn: sqlite3.Connection, account_id: int, last_indexed_id: int, worded: bool, chunk_size: int
) -> Iterator[_ChunkRow]:
    """Build the chunks that follow an id, as far as there are messages enough."""
    while end := conn.execute(
        "SELECT message_id FROM account_messages WHERE account_id = ? AND message_id > ?"
        f" ORDER BY message_id LIMIT 1 OFFSET {chunk_size - 1}",
        (account_id, last_indexed_id),
    ).fetchone():
        first, last_indexed_id = last_indexed_id + 1, end[0]
        bits = build_chunk_filter(conn, account_id, first, last_indexed_id, worded=worded)
        if bits is None:
            return
        yield account_id, first, last_indexed_id, bits, worded


def build_chunk_filter(
    conn: sqlite3.Connection, account_id: int, first: int, last: int, *, worded: bool
) -> bytes | None:
    """Build the filter of a chunk.

    Args:
        first: id of its first message.
        last: id of its last message.
        worded: whether it contains words.

    Returns:
        None where more segments of a text may come that begins in it; not without words.
    """
    messages = account_messages.list_account_messages(
        conn,
        account_id,
        first,
        last + 1,
        "line.source, line.destination, line.text, line.id, line.segment_total IS NOT NULL AND line.joined_to IS NULL",
    )
    texts: list[str] = []
    if worded:
        whole_texts = _list_complete_texts(conn, account_id, [each[3] for each in messages if each[4]])
        if whole_texts is None:
            return None
        texts = [*(each[2] for each in messages), *whole_texts]
    # All texts at once: most words occur many times.
    words = set(_WORD_PATTERN.findall("\n".join(map(fold_text, texts))))
    terms = {term for sender in {each[0] for each in messages} for term in index_terms_of_sender(sender)}
    terms.update(term for number in {each[1] for each in messages} for term in index_terms_of_number(number))
    terms.update(term for word in words for term in index_terms_of_word(word))
    return _build_bloom_filter(terms)


def _list_complete_texts(conn: sqlite3.Connection, account_id: int, first_ids: Sequence[int]) -> list[str] | None:
    """The texts that begin with these messages, whole and by segments; None: more segments of one may come."""
    if not first_ids:
        return []
    (newest,) = conn.execute("SELECT max(id) FROM messages").fetchone()
    texts = []
    for text in history.list_texts_by_id(conn, account_id, first_ids):
        latest = max(each.id for each in text.messages)
        # Ids only grow, even if the clock is set back: with a newer id beyond the gap no more segments can come.
        if len(text.messages) < text.segment_count and newest < latest + ids.id_span(MAX_SEGMENT_GAP_MS):
            return None
        # A word may be split between segments, and so may a character, which makes two words of one.
        texts += [text.text, *(each.text for each in text.messages)]
    return texts
