"""Numbers that get nothing of an account, for they have said STOP or somebody put them there: nothing is charged."""

import csv
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import StringIO

from portal.core.clock import now_ms
from portal.core.db import immediate
from portal.core.i18n import N_, ngettext
from portal.services.accounts.accounts import Account
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.csv_import import BadLine, BadLines, NotCsv, NotUtf8
from portal.services.common.errors import Refused
from portal.services.messages import text_policy
from portal.services.messages.validation import Submit, ToSend
from portal.services.prices import countries

# What a handset says to get no more messages, as `routes.words` reads it.
_STOP = (["STOP"], ["STOP", "SMS"], ["STOPSMS"], ["ARRET"])
STOP_WORDS = frozenset(word for phrase in _STOP for word in phrase)

COLUMNS = ("number", "since", "reason", "added_by", "message")
MOST_TYPED = 1000
MOST_BYTES = 1_000_000
MOST_IN_FILE = 20_000
"""How many numbers a file in the page may have: it carries them from the preview to the answer."""
MOST_AT_ONCE = 100_000
"""How many are written at once: a second or so, in which the SMPP server has to wait."""


class InvalidNumber(Refused):
    sentence = N_("“%(number)s” is no phone number: digits with the country code first (393401234567).")
    field = "number"


class NotListed(Refused):
    sentence = N_("%(number)s isn't on the blacklist.")
    field = "number"


class NoNumber(Refused):
    sentence = N_("Enter a number.")
    field = "numbers"


class TooManyNumbers(Refused):
    sentence = N_("At most %(most)s numbers at once.")
    field = "numbers"


class BadNumbers(BadLines):
    """Nothing was added, for these of the numbers that were typed are none."""

    field = "numbers"

    def localized(self) -> str:
        return ngettext(
            "Nothing was added: %(num)s line is no phone number.",
            "Nothing was added: %(num)s lines are no phone numbers.",
            len(self.lines),
        )


class FileTooBig(Refused):
    sentence = N_("The file is too big: 1 MB at most.")
    field = "file"


class NoNumberInFile(Refused):
    sentence = N_("There is no number in the file.")
    field = "file"


@dataclass(frozen=True, slots=True)
class Listed:
    """A number, since when (milliseconds), and the message with which it has said STOP, where one did.

    `added_by`: who put it there by hand, as in the audit log; `said`: the message's text, also when it was
    deleted. `kept` is None where the message isn't in the history.
    """

    number: str
    since: int
    received_id: int | None
    added_by: str
    said: str | None
    kept: int | None = 1
    hidden: bool = False

    @property
    def missing(self) -> str:
        """Why the message's text isn't there though the message is, in English; a key of the translations."""
        return text_policy.missing(self.kept, self.hidden)

    def without_text(self) -> "Listed":
        """What of it somebody sees who may not read texts."""
        return self if self.said is None else replace(self, said="", hidden=True)

    @property
    def id(self) -> str:
        """Its place in the list, as addresses say it."""
        return f"{self.since}-{self.number}"

    @property
    def place(self) -> "Place":
        return self.since, self.number

    @property
    def reason(self) -> str:
        """For machines."""
        return "STOP" if self.received_id is not None else "by hand"


Place = tuple[int, str]
"""Of a number in the list, which begins with the newest one."""


def place(text: str) -> Place:
    """Read a `Listed.id`.

    Raises: ValueError
    """
    since, _, number = text.partition("-")
    if not 0 <= int(since) < 1 << 63:
        raise ValueError(text)
    return int(since), number


def normalised(number: str) -> str:
    """A handset's number as the destinations of messages are written: E.164 digits.

    Args:
        number: as people write it: `+39 340 123-4567`.

    Raises: InvalidNumber
    """
    digits = countries.plain(number)
    if countries.country_of(digits) is None:
        raise InvalidNumber(number=number[:_SHOWN_CHARACTERS])
    return digits


_SHOWN_CHARACTERS = 40


def is_stop(words: Sequence[str], keyword: str = "") -> bool:
    """Whether a text (as `routes.words` reads it) asks for no more messages: STOP, STOP SMS or ARRET.

    Args:
        keyword: one that may stand before or after it.
    """
    said = list(words)
    if keyword and keyword in said[:1]:
        said = said[1:]
    elif keyword and keyword in said[-1:]:
        said = said[:-1]
    return said in _STOP


def among(conn: sqlite3.Connection, submits: Sequence[Submit] | Sequence[ToSend]) -> set[tuple[int, str]]:
    """Which of the destinations of messages are on their account's blacklist: (account id, number)."""
    # Each answer in one row: Python lets go of its lock (GIL) for each statement and row, and beside a busy event loop
    # a look a message would cost as much as all the rest of it.
    account_ids = json.dumps(list({each.account_id for each in submits}))
    (with_any,) = conn.execute(
        "SELECT json_group_array(value) FROM json_each(?)"
        " WHERE EXISTS (SELECT 1 FROM blacklist WHERE account_id = value)",
        (account_ids,),
    ).fetchone()
    careful = frozenset(json.loads(with_any))
    sent = [(each.account_id, each.destination) for each in submits if each.account_id in careful]
    if not sent:
        return set()
    (found,) = conn.execute(
        "SELECT json_group_array(json_array(account_id, number)) FROM json_each(?) AS sent CROSS JOIN blacklist"
        " ON account_id = json_extract(sent.value, '$[0]') AND number = json_extract(sent.value, '$[1]')",
        (json.dumps(sent),),
    ).fetchone()
    return {(account_id, number) for account_id, number in json.loads(found)}


def stop(conn: sqlite3.Connection, account_id: int, number: str, received_id: int, at: int) -> None:
    """Put a number that has said STOP at a moment (milliseconds) on an account's blacklist; one that is there stays."""
    with immediate(conn):
        conn.execute(
            "INSERT INTO blacklist (account_id, number, since, received_id) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (account_id, number, at, received_id),
        )


def add(conn: sqlite3.Connection, actor: Actor, account: Account, number: str) -> Listed:
    """Put a number on an account's blacklist; one that is there stays as it is.

    Raises: InvalidNumber
    """
    number = normalised(number)
    with immediate(conn):
        if _insert(conn, actor, account, [number]):
            _record(conn, actor, "blacklist.add", account, number=number)
        return _listed(conn, account, number)


def add_all(conn: sqlite3.Connection, actor: Actor, account: Account, numbers: Sequence[str]) -> int:
    """Put numbers (`normalised`) on an account's blacklist; those that are there stay as they are.

    Returns:
        How many weren't there.
    """
    with immediate(conn):
        added = _insert(conn, actor, account, numbers)
        if added:
            _record(conn, actor, "blacklist.add", account, numbers=list(numbers))
        return added


def import_all(conn: sqlite3.Connection, actor: Actor, account: Account, numbers: Sequence[str]) -> int:
    """Like `add_all`, for numbers of a file: the audit log counts them.

    Raises: TooManyNumbers
    """
    if len(numbers) > MOST_AT_ONCE:
        raise TooManyNumbers(most=MOST_AT_ONCE)
    with immediate(conn):
        added = _insert(conn, actor, account, numbers)
        if added:
            _record(conn, actor, "blacklist.import", account, added=added, numbers=len(numbers))
        return added


def remove(conn: sqlite3.Connection, actor: Actor, account: Account, number: str) -> Listed:
    """Take a number off: messages reach it again.

    Raises: NotListed
    """
    number = countries.plain(number)
    with immediate(conn):
        removed = _listed(conn, account, number)
        _delete(conn, actor, account, number)
    return removed


def remove_all(conn: sqlite3.Connection, actor: Actor, account: Account, numbers: Sequence[str]) -> list[Listed]:
    """Take numbers off, as `some` finds them; returns what was there of them."""
    with immediate(conn):
        removed = some(conn, account.id, numbers)
        for each in removed:
            _delete(conn, actor, account, each.number)
    return removed


# --- reading what people have


def typed(text: str) -> list[str]:
    """Read numbers, one a line, each of them once.

    Raises: NoNumber, TooManyNumbers, BadNumbers
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise NoNumber()
    if len(lines) > MOST_TYPED:
        raise TooManyNumbers(most=MOST_TYPED)
    found, bad = _read(iter(lines))
    if bad:
        raise BadNumbers(bad)
    return found


def read(content: bytes, most: int = MOST_IN_FILE) -> list[str]:
    """The numbers that a file names, each of them once.

    Args:
        content: CSV in UTF-8, with or without BOM, commas or semicolons between; the column `number` where the first
            line names columns, the first one otherwise. What else stands there doesn't matter.
        most: how many numbers it may have.

    Raises:
        TooManyNumbers, NotUtf8, NoNumberInFile, BadLines
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotUtf8() from None
    fields = _fields(text)
    found, bad = _read(fields)
    if bad:
        raise BadLines(bad)
    if not found:
        raise NoNumberInFile()
    if len(found) > most:
        raise TooManyNumbers(most=most)
    return found


def _fields(text: str) -> Iterator[tuple[int, str | csv.Error]]:
    """The field of each line that isn't empty in which its number stands; the reader's error ends them."""
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(StringIO(text, newline=""), delimiter=";" if ";" in first else ",", strict=True)
    column = None
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, error
            return
        if not any(each.strip() for each in fields):
            continue
        if column is None:
            names = [each.strip().lower() for each in fields]
            column = names.index(COLUMNS[0]) if COLUMNS[0] in names else 0
            if COLUMNS[0] in names:
                continue
        yield reader.line_num, fields[column] if column < len(fields) else ""


def _read(lines: Iterator[tuple[int, str]] | Iterator[tuple[int, str | csv.Error]]) -> tuple[list[str], list[BadLine]]:
    found: dict[str, None] = {}
    bad = []
    for number, field in lines:
        try:
            if isinstance(field, csv.Error):
                raise NotCsv(error=field)
            found[normalised(field)] = None
        except Refused as refusal:
            bad.append(BadLine(number, refusal))
    return list(found), bad


# --- what is on it

# Columns of `Listed` but for the text, which only what is shown is read of.
_COLUMNS = "number, since, received_id, added_by, said"
_WITH_TEXTS = """
SELECT number, since, received_id, added_by, coalesce(received.text, said), received.kept FROM ({listed}) AS listed
LEFT JOIN received ON received.id = received_id AND received.account_id = :account
ORDER BY since {order}, number {order}
"""


def find(
    conn: sqlite3.Connection,
    account_id: int,
    begins: str = "",
    *,
    before: Place | None = None,
    after: Place | None = None,
    limit: int = 50,
) -> list[Listed]:
    """A page of an account's blacklist, newest first.

    Args:
        begins: a number, or the digits that it begins with; empty: all.
        before: only what comes after this place in the list (the last one of the page before).
        after: what comes right before this place, for the way back.
    """
    digits = countries.plain(begins)
    if digits and not (digits.isascii() and digits.isdigit()):
        return []
    # With digits to begin with by number (the primary key), and the plus keeps SQLite from going by time all the same.
    since = "+since" if digits else "since"
    order = "DESC" if after is None else "ASC"
    conditions = ["account_id = :account"]
    if digits:
        # After the digits comes the colon.
        conditions.append("number >= :begins AND number < :begins || ':'")
    end = before if after is None else after
    if end is not None:
        conditions.append(f"({since}, number) {'<' if after is None else '>'} (:since, :number)")
    listed = (
        f"SELECT {_COLUMNS} FROM blacklist WHERE {' AND '.join(conditions)}"
        f" ORDER BY {since} {order}, number {order} LIMIT :limit"
    )
    values = {"account": account_id, "begins": digits, "limit": limit}
    if end is not None:
        values |= {"since": end[0], "number": end[1]}
    found = [Listed(*row) for row in conn.execute(_WITH_TEXTS.format(listed=listed, order=order), values)]
    return found if after is None else found[::-1]


def each(conn: sqlite3.Connection, account_id: int, begins: str = "", batch: int = 1000) -> Iterator[Listed]:
    """All of an account's blacklist, newest first, in constant memory."""
    before = None
    while found := find(conn, account_id, begins, before=before, limit=batch):
        yield from found
        before = found[-1].place


def some(conn: sqlite3.Connection, account_id: int, numbers: Sequence[str]) -> list[Listed]:
    """Those of these numbers that are on an account's blacklist, newest first."""
    listed = (
        f"SELECT {_COLUMNS} FROM blacklist WHERE account_id = :account"
        " AND number IN (SELECT value FROM json_each(:numbers))"
    )
    values = {"account": account_id, "numbers": json.dumps([countries.plain(each) for each in numbers])}
    return [Listed(*row) for row in conn.execute(_WITH_TEXTS.format(listed=listed, order="DESC"), values)]


def of_account(conn: sqlite3.Connection, account_id: int) -> list[Listed]:
    """All of it, by number."""
    return sorted(each(conn, account_id), key=lambda listed: listed.number)


def count(conn: sqlite3.Connection, account_id: int) -> int:
    """How many numbers are on an account's blacklist."""
    (found,) = conn.execute("SELECT count(*) FROM blacklist WHERE account_id = ?", (account_id,)).fetchone()
    return int(found)


def _insert(conn: sqlite3.Connection, actor: Actor, account: Account, numbers: Sequence[str]) -> int:
    # In one statement: see `among`.
    inserted = conn.execute(
        "INSERT INTO blacklist (account_id, number, since, added_by) SELECT ?, value, ?, ? FROM json_each(?) WHERE true"
        " ON CONFLICT DO NOTHING",
        (account.id, now_ms(), actor.name, json.dumps(numbers)),
    )
    return inserted.rowcount


def _delete(conn: sqlite3.Connection, actor: Actor, account: Account, number: str) -> None:
    conn.execute("DELETE FROM blacklist WHERE account_id = ? AND number = ?", (account.id, number))
    _record(conn, actor, "blacklist.remove", account, number=number)


def _listed(conn: sqlite3.Connection, account: Account, number: str) -> Listed:
    found = some(conn, account.id, [number])
    if not found:
        raise NotListed(number=number[:_SHOWN_CHARACTERS])
    return found[0]


def _record(conn: sqlite3.Connection, actor: Actor, action: str, account: Account, **details: object) -> None:
    audit.record(conn, actor, action, customer_id=account.customer_id, account_id=account.id, **details)
