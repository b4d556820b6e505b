"""The blacklist of an account: numbers that asked for no more messages (STOP), or that somebody added by hand.

Messages to them are not sent and not charged.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from portal.core.clock import now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_, ngettext
from portal.core.progress import Progress, no_progress
from portal.services.accounts.accounts import Account, record_account_action
from portal.services.common import keyset
from portal.services.common.audit import Actor
from portal.services.common.csv_import import InvalidCsvLine, InvalidCsvLines, NotCsv, iterate_csv_lines
from portal.services.common.errors import Refused
from portal.services.messages import text_policy
from portal.services.messages.validation import SubmittedMessage
from portal.services.prices import countries

# The texts that ask for no more messages, as `inbound_numbers.normalize_words` returns them.
_STOP_PHRASES = (["STOP"], ["STOP", "SMS"], ["STOPSMS"], ["ARRET"])
STOP_WORDS = frozenset(word for phrase in _STOP_PHRASES for word in phrase)

CSV_COLUMNS = ("number", "since", "reason", "added_by", "message")
MAX_TYPED_NUMBERS = 1000
MAX_FILE_BYTES = 1_000_000
MAX_NUMBERS_IN_FILE = 20_000
"""How many numbers a file uploaded to the page may have: the page carries them from the preview to the import."""
MAX_NUMBERS_AT_ONCE = 100_000
"""How many are written in one transaction: it takes about a second, and the SMPP server has to wait for it."""
_NUMBERS_A_STEP = 1_000


class InvalidHandsetNumber(Refused, field="number"):
    sentence = N_("“%(number)s” is no phone number: digits with the country code first (393401234567).")


class NotBlacklisted(Refused, field="number"):
    sentence = N_("%(number)s isn't on the blacklist.")


class NoNumbers(Refused, field="numbers"):
    sentence = N_("Enter a number.")


class TooManyNumbers(Refused, field="numbers"):
    sentence = N_("At most %(most)s numbers at once.")


class InvalidNumberLines(InvalidCsvLines, field="numbers"):
    """Nothing was added: these of the typed lines are no phone numbers."""

    def localized(self) -> str:
        return ngettext(
            "Nothing was added: %(num)s line is no phone number.",
            "Nothing was added: %(num)s lines are no phone numbers.",
            len(self.lines),
        )


class BlacklistFileTooBig(Refused, field="file"):
    sentence = N_("The file is too big: 1 MB at most.")


class NoNumbersInFile(Refused, field="file"):
    sentence = N_("There is no number in the file.")


@dataclass(frozen=True, slots=True)
class BlacklistEntry:
    """A number on the blacklist, since when (milliseconds), and the id of the message that asked for STOP, if one did.

    `added_by`: who added it by hand, as in the audit log. `said`: the text of the STOP message, even after that was
    deleted. `kept`: whether the message's text is stored (0 or 1); None where the message isn't in the history.
    """

    number: str
    since: int
    received_id: int | None
    added_by: str
    said: str | None
    kept: int | None = 1
    hidden: bool = False

    @property
    def text_placeholder(self) -> str:
        """What is shown where the message is stored without its text, in English; a key of the translations."""
        return text_policy.get_text_placeholder(self.kept, self.hidden)

    def without_text(self) -> "BlacklistEntry":
        """The entry as shown to somebody who may not read texts."""
        return self if self.said is None else replace(self, said="", hidden=True)

    @property
    def id(self) -> str:
        """Its place in the list, as URLs contain it; see `parse_blacklist_cursor`."""
        return f"{self.since}-{self.number}"

    @property
    def cursor(self) -> "BlacklistCursor":
        return self.since, self.number

    @property
    def reason(self) -> str:
        """Why it is on the list, as CSV downloads have it."""
        return "STOP" if self.received_id is not None else "by hand"


BlacklistCursor = tuple[int, str]
"""The place of an entry in the list: since when, and the number. The list is sorted by these, newest first."""
_BEFORE_ALL: BlacklistCursor = (1 << 63) - 1, ""


def parse_blacklist_cursor(text: str) -> BlacklistCursor:
    """Read a `BlacklistEntry.id`.

    Raises: ValueError
    """
    since, _, number = text.partition("-")
    if not 0 <= int(since) < 1 << 63:
        raise ValueError(text)
    return int(since), number


def normalize_phone_number(number: str) -> str:
    """Return a handset's number as E.164 digits, the form of the messages' destinations.

    Args:
        number: as people write it: `+39 340 123-4567`.

    Raises: InvalidHandsetNumber
    """
    digits = countries.strip_separators(number)
    if countries.find_country(digits) is None:
        raise InvalidHandsetNumber(number=number[:_MAX_SHOWN_DIGITS])
    return digits


_MAX_SHOWN_DIGITS = 40


def is_stop_request(words: Sequence[str], keyword: str = "") -> bool:
    """Whether a text asks for no more messages: STOP, STOP SMS, STOPSMS or ARRET.

    Args:
        words: the text, as `inbound_numbers.normalize_words` returns it.
        keyword: may stand before or after the phrase.
    """
    phrase = list(words)
    if keyword and keyword in phrase[:1]:
        phrase = phrase[1:]
    elif keyword and keyword in phrase[-1:]:
        phrase = phrase[:-1]
    return phrase in _STOP_PHRASES


def find_blacklisted_destinations(
    conn: sqlite3.Connection, submits: Sequence[SubmittedMessage]
) -> set[tuple[int, str]]:
    """Return the destinations that are on the blacklist of their message's account, as (account id, number)."""
    # Each result is one row: Python releases the GIL for each statement and row. Next to a busy event loop, one query
    # for each message would cost as much as storing it.
    account_ids = json.dumps(list({each.account_id for each in submits}))
    (blacklisting_json,) = conn.execute(
        "SELECT json_group_array(value) FROM json_each(?)"
        " WHERE EXISTS (SELECT 1 FROM blacklist WHERE account_id = value)",
        (account_ids,),
    ).fetchone()
    blacklisting_ids = frozenset(json.loads(blacklisting_json))
    candidates = [(each.account_id, each.destination) for each in submits if each.account_id in blacklisting_ids]
    if not candidates:
        return set()
    (matches_json,) = conn.execute(
        "SELECT json_group_array(json_array(account_id, number)) FROM json_each(?) AS sent CROSS JOIN blacklist"
        " ON account_id = json_extract(sent.value, '$[0]') AND number = json_extract(sent.value, '$[1]')",
        (json.dumps(candidates),),
    ).fetchone()
    return {(account_id, number) for account_id, number in json.loads(matches_json)}


def blacklist_stop_senders(conn: sqlite3.Connection, stops: Sequence[tuple[int, str, int, int]]) -> None:
    """Add numbers that sent STOP to blacklists, unless they are there; each is given with its account's id, the moment
    (milliseconds), and the id of the message. The caller is inside `write_transaction()`.
    """
    conn.executemany(
        "INSERT INTO blacklist (account_id, number, since, received_id) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        stops,
    )


def add_blacklist_number(conn: sqlite3.Connection, actor: Actor, account: Account, number: str) -> BlacklistEntry:
    """Add a number to an account's blacklist; an existing entry stays as it is.

    Raises: InvalidHandsetNumber
    """
    number = normalize_phone_number(number)
    with write_transaction(conn):
        if _insert_blacklist_numbers(conn, actor, account, [number]):
            record_account_action(conn, actor, "blacklist.add", account, number=number)
        return find_blacklist_entries(conn, account.id, [number])[0]


def add_blacklist_numbers(conn: sqlite3.Connection, actor: Actor, account: Account, numbers: Sequence[str]) -> int:
    """Add numbers (see `normalize_phone_number`) to an account's blacklist; existing entries stay as they are.

    Returns:
        How many were added.
    """
    with write_transaction(conn):
        added = _insert_blacklist_numbers(conn, actor, account, numbers)
        if added:
            record_account_action(conn, actor, "blacklist.add", account, numbers=list(numbers))
        return added


def import_blacklist_numbers(
    conn: sqlite3.Connection, actor: Actor, account: Account, numbers: Sequence[str], progress: Progress = no_progress
) -> int:
    """Like `add_blacklist_numbers`, for the numbers of a file: the audit log has only how many they are.

    Args:
        progress: is told numbers.

    Raises:
        TooManyNumbers
        KeyboardInterrupt: from `progress`; none of them is on it.
    """
    if len(numbers) > MAX_NUMBERS_AT_ONCE:
        raise TooManyNumbers(most=MAX_NUMBERS_AT_ONCE)
    with write_transaction(conn):
        added = 0
        for start in range(0, len(numbers), _NUMBERS_A_STEP):
            progress(start, len(numbers))
            added += _insert_blacklist_numbers(conn, actor, account, numbers[start : start + _NUMBERS_A_STEP])
        if added:
            record_account_action(conn, actor, "blacklist.import", account, added=added, numbers=len(numbers))
        return added


def remove_blacklist_number(conn: sqlite3.Connection, actor: Actor, account: Account, number: str) -> BlacklistEntry:
    """Remove a number from the blacklist: messages are sent to it again.

    Raises: NotBlacklisted
    """
    removed = remove_blacklist_numbers(conn, actor, account, [number])
    if not removed:
        raise NotBlacklisted(number=countries.strip_separators(number)[:_MAX_SHOWN_DIGITS])
    return removed[0]


def remove_blacklist_numbers(
    conn: sqlite3.Connection, actor: Actor, account: Account, numbers: Sequence[str]
) -> list[BlacklistEntry]:
    """Remove those of these numbers that are on the blacklist; returns the removed entries."""
    with write_transaction(conn):
        removed = find_blacklist_entries(conn, account.id, numbers)
        for each in removed:
            conn.execute("DELETE FROM blacklist WHERE account_id = ? AND number = ?", (account.id, each.number))
            record_account_action(conn, actor, "blacklist.remove", account, number=each.number)
    return removed


# --- parsing numbers from forms and files


def parse_typed_numbers(text: str) -> list[str]:
    """Parse numbers, one a line; duplicates are dropped.

    Raises: NoNumbers, TooManyNumbers, InvalidNumberLines
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise NoNumbers()
    if len(lines) > MAX_TYPED_NUMBERS:
        raise TooManyNumbers(most=MAX_TYPED_NUMBERS)
    numbers, bad_lines = _parse_number_lines(lines)
    if bad_lines:
        raise InvalidNumberLines(bad_lines)
    return numbers


def parse_numbers_csv(content: bytes, max_numbers: int = MAX_NUMBERS_IN_FILE) -> list[str]:
    """Parse the numbers of a CSV file; duplicates are dropped.

    Args:
        content: CSV in UTF-8, with or without BOM, separated by commas or semicolons. Where the first line names the
            columns, the column `number` is read, otherwise the first one; the other columns are ignored.
        max_numbers: how many numbers the file may have.

    Raises:
        TooManyNumbers, NotUtf8, NoNumbersInFile, InvalidCsvLines
    """
    numbers, bad_lines = _parse_number_lines(_iterate_number_fields(content))
    if bad_lines:
        raise InvalidCsvLines(bad_lines)
    if not numbers:
        raise NoNumbersInFile()
    if len(numbers) > max_numbers:
        raise TooManyNumbers(most=max_numbers)
    return numbers


def _iterate_number_fields(content: bytes) -> Iterator[tuple[int, str | NotCsv]]:
    """Yield (line number, field with the phone number) for each line."""
    column = None
    for number, fields in iterate_csv_lines(content):
        if isinstance(fields, NotCsv):
            yield number, fields
            return
        if column is None:
            names = [each.strip().lower() for each in fields]
            column = names.index(CSV_COLUMNS[0]) if CSV_COLUMNS[0] in names else 0
            if CSV_COLUMNS[0] in names:
                continue
        yield number, fields[column] if column < len(fields) else ""


def _parse_number_lines(lines: Iterable[tuple[int, str | NotCsv]]) -> tuple[list[str], list[InvalidCsvLine]]:
    numbers: dict[str, None] = {}
    bad_lines = []
    for number, field in lines:
        try:
            if isinstance(field, NotCsv):
                raise field
            numbers[normalize_phone_number(field)] = None
        except Refused as refusal:
            bad_lines.append(InvalidCsvLine(number, refusal))
    return list(numbers), bad_lines


# --- reading the list

# What is read of the messages is read only for the entries that are shown.
_SELECT_ENTRIES = """
SELECT number, since, received_id, added_by, coalesce(received.text, said), received.kept
FROM (SELECT number, since, received_id, added_by, said FROM blacklist WHERE account_id = :account AND {conditions})
LEFT JOIN received ON received.id = received_id AND received.account_id = :account
ORDER BY since {order}, number {order}
"""


def list_blacklist_page(
    conn: sqlite3.Connection,
    account_id: int,
    prefix: str = "",
    *,
    before: BlacklistCursor | None = None,
    after: BlacklistCursor | None = None,
    limit: int = 50,
) -> list[BlacklistEntry]:
    """A page of an account's blacklist, newest first.

    Args:
        prefix: a number, or its first digits; empty: all.
        before: the entries older than this cursor (the last one of the previous page).
        after: the entries just newer than this cursor, for going back to newer pages.
    """
    digits = countries.strip_separators(prefix)
    if digits and not (digits.isascii() and digits.isdigit()):
        return []
    # With a prefix the primary key (account, number) is searched; the plus keeps SQLite from using the index by time.
    since = "+since" if digits else "since"
    order, beyond, cursor = ("DESC", "<", before or _BEFORE_ALL) if after is None else ("ASC", ">", after)
    # In ASCII the colon follows the digits.
    prefix_condition = "number >= :begins AND number < :begins || ':' AND" if digits else ""
    conditions = (
        f"{prefix_condition} ({since}, number) {beyond} (:since, :number)"
        f" ORDER BY {since} {order}, number {order} LIMIT :limit"
    )
    values = {"begins": digits, "since": cursor[0], "number": cursor[1], "limit": limit}
    entries = _select_entries(conn, account_id, conditions, values, order)
    return entries if after is None else entries[::-1]


def _select_entries(
    conn: sqlite3.Connection, account_id: int, conditions: str, values: Mapping[str, object], order: str = "DESC"
) -> list[BlacklistEntry]:
    select = _SELECT_ENTRIES.format(conditions=conditions, order=order)
    return [BlacklistEntry(*row) for row in conn.execute(select, {"account": account_id, **values})]


def iterate_blacklist(
    conn: sqlite3.Connection, account_id: int, prefix: str = "", batch_size: int = 1000
) -> Iterator[BlacklistEntry]:
    """Yield all entries of an account's blacklist, newest first, in constant memory."""
    list_page = partial(list_blacklist_page, conn, account_id, prefix)
    return keyset.iterate_pages(list_page, batch_size, lambda each: each.cursor)


def find_blacklist_entries(conn: sqlite3.Connection, account_id: int, numbers: Sequence[str]) -> list[BlacklistEntry]:
    """Return the entries of those of these numbers that are on an account's blacklist, newest first."""
    values = {"numbers": json.dumps([countries.strip_separators(each) for each in numbers])}
    return _select_entries(conn, account_id, "number IN (SELECT value FROM json_each(:numbers))", values)


def list_blacklist(conn: sqlite3.Connection, account_id: int) -> list[BlacklistEntry]:
    """All entries of an account's blacklist, sorted by number."""
    return sorted(iterate_blacklist(conn, account_id), key=lambda entry: entry.number)


def count_blacklist(conn: sqlite3.Connection, account_id: int) -> int:
    """Return how many numbers are on an account's blacklist."""
    (total,) = conn.execute("SELECT count(*) FROM blacklist WHERE account_id = ?", (account_id,)).fetchone()
    return int(total)


def _insert_blacklist_numbers(conn: sqlite3.Connection, actor: Actor, account: Account, numbers: Sequence[str]) -> int:
    # In one statement: see `find_blacklisted_destinations`.
    inserted = conn.execute(
        "INSERT INTO blacklist (account_id, number, since, added_by) SELECT ?, value, ?, ? FROM json_each(?) WHERE true"
        " ON CONFLICT DO NOTHING",
        (account.id, now_ms(), actor.name, json.dumps(numbers)),
    )
    return inserted.rowcount
