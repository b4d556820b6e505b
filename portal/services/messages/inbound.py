"""Messages from handsets (MO): which account each is for, keeping and finding it, and obeying those that say STOP."""

import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from portal.core import gsm0338
from portal.core.clock import now_ms
from portal.core.db import immediate, insert
from portal.core.i18n import N_
from portal.services.common import ids
from portal.services.common.errors import Refused
from portal.services.common.periods import EVER, Period
from portal.services.messages import blacklist, deliveries, inbound_numbers, text_policy
from portal.services.messages.validation import MOST_PARTS
from portal.services.prices import countries

log = logging.getLogger(__name__)


class NobodyHasIt(Refused):
    sentence = N_("What is sent to %(number)s reaches no account. Give it to one: route add ACCOUNT %(number)s")
    field = "number"


class NobodyHasTheKeyword(Refused):
    sentence = N_("What is sent to %(number)s reaches an account only if it begins with one of: %(keywords)s")
    field = "text"


class NoText(Refused):
    sentence = N_("No handset can send this text: it is too long, or it isn't Unicode.")
    field = "text"


@dataclass(slots=True)
class FromHandset:
    """What an upstream has got from a handset: E.164 digits of who sent it, the number or short code that it was sent
    to, its text; `body` instead where it is no text, `data_coding` as in SMPP 3.4, 5.2.19: 0, 4 or 8.

    `simulated_id`: where it comes from the shell, its row there, which goes in the transaction that takes it in.
    """

    source: str
    destination: str
    text: str
    data_coding: int = 0
    udh: bytes | None = None
    body: bytes | None = None
    simulated_id: int | None = None


@dataclass(frozen=True, slots=True)
class Recipients:
    """Whom a message from a handset is for: ids of accounts, none where nobody has the number; the keyword that it
    carries; whether it asks for no more messages.
    """

    account_ids: tuple[int, ...]
    keyword: str
    stops: bool


def take_in(conn: sqlite3.Connection, messages: Sequence[FromHandset], now: int | None = None) -> set[int]:
    """Store messages for the accounts that they are meant for, let them wait for their receivers, and put the senders
    of those that say STOP on the accounts' blacklists.

    One to a number that nobody has is let go. One from the shell is taken in once, however often it comes.

    Args:
        now: when they came (milliseconds), for a history that is written afterwards; None: this moment.

    Returns:
        The ids of the accounts for which something waits now.
    """
    at = now_ms() if now is None else now
    added = []
    with immediate(conn):
        for each in messages:
            if each.simulated_id is not None and not _spend(conn, each.simulated_id):
                continue
            found = recipients(conn, each.destination, each.text)
            if not found.account_ids:
                log.warning("nobody has what was sent to %s", each.destination)
            for account_id in found.account_ids:
                row_id = ids.next_ids(conn, "received", 1, now)
                insert(
                    conn,
                    "received",
                    id=row_id,
                    account_id=account_id,
                    source=each.source,
                    destination=each.destination,
                    keyword=found.keyword,
                    text=each.text,
                    body=each.body,
                    udh=each.udh,
                    data_coding=each.data_coding,
                )
                added.append((account_id, row_id))
                if found.stops:
                    blacklist.stop(conn, account_id, each.source, row_id, at)
        return deliveries.add_received(conn, added, at)


def recipients(conn: sqlite3.Connection, number: str, text: str) -> Recipients:
    """Whom a text to a number is for.

    That is the account whose keyword it begins with, or that follows upon STOP; else the one that has the rest. A STOP
    that names no keyword may be meant for anyone who shares the number, and so it is for all of them.
    """
    keywords = inbound_numbers.to_number(conn, number)
    words = inbound_numbers.words(text)
    for keyword in words[:1]:
        if keyword in keywords:
            return Recipients((keywords[keyword],), keyword, blacklist.is_stop(words, keyword))
    for keyword in words[-1:]:
        if keyword in keywords and blacklist.is_stop(words, keyword):
            return Recipients((keywords[keyword],), keyword, stops=True)
    if blacklist.is_stop(words):
        return Recipients(tuple(sorted(set(keywords.values()))), "", stops=True)
    return Recipients((keywords[""],) if "" in keywords else (), "", stops=False)


# --- what was received

WAITING, DELIVERED, GIVEN_UP, UNKNOWN = "waiting", "delivered", "given-up", "unknown"
STATES = (DELIVERED, WAITING, GIVEN_UP, UNKNOWN)
_FURTHEST = (1 << 63) - 1
# As many as a few milliseconds suffice for.
_AT_ONCE = 1000
# That so many wait is counted, and no more: an open page asks every two seconds.
_MOST_COUNTED = 1000
# The delivery of a message gets its place when the message does; the time that it holds may be this much older.
_EARLIER_MS = 60_000


class NoSuchMessage(Exception):
    """The account has received no message of this id."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message from a handset. `body` is what it carries where that is no text (binary).

    `ended_at`: when a client accepted it, or it was given up (milliseconds); None: neither yet; 0: not known.
    Where the text was removed (`kept` is 0), or the reader may not see it (`hidden`), text, body and udh are empty.
    """

    id: int
    source: str
    destination: str
    keyword: str
    text: str
    body: bytes | None
    udh: bytes | None
    data_coding: int
    ended_at: int | None
    given_up: bool
    kept: int
    hidden: bool = False

    @property
    def missing(self) -> str:
        """Why the text isn't there, in English; a key of the translations. Empty: it is."""
        return text_policy.missing(self.kept, self.hidden)

    def without_text(self) -> "Received":
        """What of it somebody sees who may not read texts."""
        return replace(self, text="", body=None, udh=None, hidden=True)

    @property
    def at(self) -> int:
        """When it came, in milliseconds: the id holds it."""
        return ids.time_of(self.id)

    @property
    def state(self) -> str:
        """What has become of its delivery to the account's clients: one of STATES."""
        if self.ended_at is None:
            return WAITING
        if self.given_up:
            return GIVEN_UP
        return DELIVERED if self.ended_at else UNKNOWN

    @property
    def content(self) -> str:
        """The text, or what it carries in hexadecimal digits."""
        return self.text if self.body is None else self.body.hex(" ")


@dataclass(frozen=True)
class Wanted:
    """What is looked for: messages for which all of it is true. Empty: it doesn't matter.

    Args:
        within: the period in which it came.
        sender: the handset's number, or the digits that it begins with.
        recipient: the number or short code that it was sent to, or the digits that it begins with.
        keyword: the one that it carries. Capitals and accents don't matter.
        state: of STATES.
        said: words, or beginnings of words; the text has each of them. Capitals and accents don't matter.
    """

    within: Period = EVER
    sender: str = ""
    recipient: str = ""
    keyword: str = ""
    state: str = ""
    said: str = ""

    @cached_property
    def _words(self) -> list[str]:
        return inbound_numbers.words(self.said)

    @cached_property
    def _keyword(self) -> str:
        return "".join(inbound_numbers.words(self.keyword))

    @property
    def is_all(self) -> bool:
        """Whether everything of the period is."""
        return not any((self.sender, self.recipient, self.keyword, self.state, self.said))

    def fits(self, message: Received) -> bool:
        """Whether a message of the period is one of those that are looked for."""
        if not message.source.startswith(countries.plain(self.sender)):
            return False
        if not message.destination.startswith(countries.plain(self.recipient)):
            return False
        if self.keyword and message.keyword != self._keyword:
            return False
        if self.state and message.state != self.state:
            return False
        if not self.said:
            return True
        words = inbound_numbers.words(message.text)
        return bool(self._words) and all(any(each.startswith(begins) for each in words) for begins in self._words)


@dataclass(frozen=True, slots=True)
class Found:
    """Messages, newest first. `reached`: all beyond this id has not been looked at, for want of time; None: all has."""

    messages: list[Received]
    reached: int | None = None


EVERYTHING = Wanted()
_COLUMNS = "id, source, destination, keyword, text, body, udh, data_coding, ended_at, given_up, kept"


def find(
    conn: sqlite3.Connection,
    account_id: int,
    wanted: Wanted = EVERYTHING,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    seconds: float = float("inf"),
) -> Found:
    """A page of what an account has received, newest first.

    Whatever is looked for beside the period is compared one message after the other.

    Args:
        before: only those with a smaller id than this (the last one of the page before).
        after: the ones that follow upon this id, for the way back to newer ones.
        seconds: how long to look, at the least; it is asked every few milliseconds.
    """
    low = max(ids.first_id_at(wanted.within.since), 0 if after is None else after + 1)
    high = min(ids.first_id_at(wanted.within.until), _FURTHEST if before is None else before)
    ends = time.monotonic() + seconds
    at_once = limit if wanted.is_all else _AT_ONCE
    order = "DESC" if after is None else "ASC"
    found: list[Received] = []
    reached = None
    while len(found) < limit:
        rows = conn.execute(
            f"SELECT {_COLUMNS} FROM received WHERE account_id = ? AND id >= ? AND id < ? ORDER BY id {order} LIMIT ?",
            (account_id, low, high, at_once),
        ).fetchall()
        messages = [Received(*row) for row in rows]
        found += [each for each in messages if wanted.fits(each)][: limit - len(found)]
        if len(messages) < at_once:
            break
        if after is None:
            high = messages[-1].id
        else:
            low = messages[-1].id + 1
        if len(found) < limit and time.monotonic() >= ends:
            reached = messages[-1].id
            break
    return Found(found if after is None else found[::-1], reached)


def each(
    conn: sqlite3.Connection, account_id: int, wanted: Wanted = EVERYTHING, batch: int = _AT_ONCE
) -> Iterator[Received]:
    """All that is looked for, newest first, in constant memory."""
    before = None
    while found := find(conn, account_id, wanted, before=before, limit=batch).messages:
        yield from found
        before = found[-1].id


def by_id(conn: sqlite3.Connection, account_id: int, received_id: int) -> Received:
    """Raises: NoSuchMessage"""
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM received WHERE id = ? AND account_id = ?", (received_id, account_id)
    ).fetchone()
    if row is None:
        raise NoSuchMessage()
    return Received(*row)


def attempts(conn: sqlite3.Connection, account_id: int, message: Received) -> tuple[int, int]:
    """How often a message that waits has been offered in vain, and when it is next (milliseconds); 0, 0: not yet."""
    row = conn.execute(
        "SELECT attempts, next_attempt_at FROM deliveries WHERE account_id = ? AND id >= ? AND received_id = ?",
        (account_id, ids.first_id_at(message.at - _EARLIER_MS), message.id),
    ).fetchone()
    return (row[0], row[1]) if row and row[0] else (0, 0)


def pulse(conn: sqlite3.Connection, account_id: int) -> tuple[int, int, int, int]:
    """Numbers that move when a message has come or gone, or what became of one: cheap to ask for, however many."""
    row = conn.execute(
        "SELECT (SELECT max(id) FROM received WHERE account_id = :account), min(id), count(*),"
        " (SELECT removed_messages FROM accounts WHERE id = :account) FROM"
        " (SELECT id FROM received WHERE account_id = :account AND ended_at IS NULL ORDER BY id LIMIT :most)",
        {"account": account_id, "most": _MOST_COUNTED},
    ).fetchone()
    return row[0] or 0, row[1] or 0, row[2], row[3]


def _spend(conn: sqlite3.Connection, simulated_id: int) -> bool:
    return conn.execute("DELETE FROM simulated WHERE id = ?", (simulated_id,)).rowcount > 0


# --- from the shell, by way of the built-in upstream

SIMULATED_AT_ONCE = 500


def simulate(conn: sqlite3.Connection, source: str, destination: str, text: str) -> Recipients:
    """Have the SMPP server take a text for sent by a handset; when it doesn't run, at its next start.

    Args:
        source: the handset's number, destination: where it is sent to; as typed, with or without a plus.

    Returns:
        Whom it is for, as things are.

    Raises:
        blacklist.InvalidNumber, NobodyHasIt, NobodyHasTheKeyword, NoText
    """
    source, destination = blacklist.normalised(source), destination.strip().removeprefix("+")
    try:
        encoding = gsm0338.choose(text)
        too_long = gsm0338.part_count(gsm0338.to_body(text, encoding), encoding) > MOST_PARTS
    except UnicodeEncodeError:
        raise NoText() from None
    if too_long:
        raise NoText()
    with immediate(conn):
        found = recipients(conn, destination, text)
        if not found.account_ids:
            keywords = inbound_numbers.to_number(conn, destination)
            if keywords:
                raise NobodyHasTheKeyword(number=destination, keywords=", ".join(sorted(keywords)))
            raise NobodyHasIt(number=destination)
        insert(conn, "simulated", source=source, destination=destination, text=text)
    return found


def simulated(conn: sqlite3.Connection, after_id: int) -> list[FromHandset]:
    """What came from the shell after a row, and has not been taken in; at most SIMULATED_AT_ONCE."""
    rows = conn.execute(
        "SELECT source, destination, text, id FROM simulated WHERE id > ? ORDER BY id LIMIT ?",
        (after_id, SIMULATED_AT_ONCE),
    ).fetchall()
    return [
        FromHandset(source, destination, text, gsm0338.choose(text), simulated_id=row_id)
        for source, destination, text, row_id in rows
    ]
