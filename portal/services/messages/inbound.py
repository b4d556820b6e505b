"""Messages from handsets (MO): which account each is for, storing, simulating and searching them, and obeying STOP."""

import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from portal.core import gsm0338
from portal.core.clock import now_ms
from portal.core.db import BulkInsert, insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.common import ids
from portal.services.common.errors import NotFound, Refused, require_found
from portal.services.common.periods import ALL_TIME_PERIOD, Period
from portal.services.messages import blacklist, client_ids, deliveries, inbound_numbers, inbound_parts, text_policy
from portal.services.messages.inbound_parts import DecodedContent, InboundPart, PartJoiner
from portal.services.messages.validation import MAX_PARTS, add_concatenation
from portal.services.prices import countries
from portal.services.upstreams import unclaimed

log = logging.getLogger(__name__)


@dataclass(slots=True)
class MobileOriginatedMessage:
    """A message from a handset as an upstream delivers it.

    `source`: the handset's number, E.164 digits; `destination`: the number or short code that it was sent to.
    `data_coding`: one of `gsm0338.ENCODINGS`; `text`: as it is displayed; `body`: the content where it can't be made
    of `text` again, as in `SubmittedMessage`. `simulated_id`: its row in `simulated` where it comes from the command
    line; the transaction that stores the message deletes that row. `upstream`: the one that brought it, else None.
    `opening`: of a later part of a text that isn't all there, what is known of the text's beginning, which says whose
    it is; None: the message's own text does.
    """

    source: str
    destination: str
    text: str
    data_coding: int = 0
    udh: bytes | None = None
    body: bytes | None = None
    simulated_id: int | None = None
    upstream: int | None = None
    opening: str | None = None


InboundItem = MobileOriginatedMessage | InboundPart
"""What upstreams bring from handsets."""


@dataclass(frozen=True, slots=True)
class InboundRecipients:
    """The accounts that a message from a handset is for (none where nobody has the number), the keyword that it
    carries, and whether it asks for no more messages.
    """

    account_ids: tuple[int, ...]
    keyword: str
    is_stop_request: bool


_INSERT_RECEIVED = BulkInsert("received", "id, account_id, keyword, source, destination, text, body, udh, data_coding")


def store_inbound_messages(
    conn: sqlite3.Connection, messages: Sequence[InboundItem], now: int | None = None
) -> set[int]:
    """Store messages for the accounts that they are for, queue them for the accounts' receivers, and add the senders
    of STOP messages to the accounts' blacklists.

    A part of a long message is kept until the others are there. One to a number that nobody has is kept for operators.
    A simulated one is stored once, however often it comes.

    Args:
        now: when they came (milliseconds), for a history that is written afterwards; None: this moment.

    Returns:
        The ids of the accounts for which something was queued.
    """
    at = now_ms() if now is None else now
    with write_transaction(conn):
        whole: list[MobileOriginatedMessage] = []
        joiner = PartJoiner(conn, [each for each in messages if isinstance(each, InboundPart)])
        for each in messages:
            if isinstance(each, InboundPart):
                whole += _messages_from_parts(joiner.add(each))
            elif each.simulated_id is None or (
                conn.execute("DELETE FROM simulated WHERE id = ?", (each.simulated_id,)).rowcount
            ):
                whole.append(each)
        joiner.save(at)
        return _store_whole_messages(conn, whole, now, at)


RELEASE_BATCH_SIZE = 500


def release_old_parts(conn: sqlite3.Connection, now: int) -> tuple[set[int], bool]:
    """Store parts that have waited too long for the others at a moment (milliseconds), as they came: some
    RELEASE_BATCH_SIZE messages' at most. The log tells of unowned messages that it has not told of.

    Returns:
        The ids of the accounts for which something was queued, and whether there may be more to release.
    """
    unclaimed.unowned_log.tell()
    with write_transaction(conn):
        parts, has_more_parts = inbound_parts.take_old_parts(conn, now, RELEASE_BATCH_SIZE)
        has_more = inbound_parts.forget_joined_messages(conn, now, RELEASE_BATCH_SIZE) or has_more_parts
        return _store_whole_messages(conn, _messages_from_parts(parts), None, now), has_more


def _messages_from_parts(parts: Iterable[InboundPart]) -> list[MobileOriginatedMessage]:
    """`parts`: whole messages, and parts of others, those of each message in their order."""
    messages = []
    openings: dict[object, str] = {}
    for each in parts:
        try:
            # A part is a message of its own, whose header then says where it belongs.
            udh = each.udh if each.segment is None else add_concatenation(each.udh or b"\0", each.segment)
            content = inbound_parts.decode_content(each.content, each.data_coding, udh, each.charset)
        except (ValueError, OverflowError) as error:
            # The others must not wait for it for ever.
            log.error("the header of a part to %s can't be written: %s", each.destination, error)
            udh, content = None, DecodedContent("", inbound_parts.BINARY_DATA_CODING, each.content)
        text, data_coding, body = content
        message = MobileOriginatedMessage(
            each.source, each.destination, text, data_coding, udh, body, upstream=each.upstream
        )
        if each.segment is not None:
            key = inbound_parts.get_key(each)
            if each.segment.number == 1:
                openings[key] = message.text
            else:
                message.opening = openings.get(key, "")
        messages.append(message)
    return messages


def _store_whole_messages(
    conn: sqlite3.Connection, messages: Sequence[MobileOriginatedMessage], now: int | None, at: int
) -> set[int]:
    numbers = {each.destination for each in messages}
    keywords_by_number = {each: inbound_numbers.get_accounts_by_keyword(conn, each) for each in numbers}
    unowned: list[tuple[int, int | None, str, str, str]] = []
    rows: list[tuple[object, ...]] = []
    stops: list[tuple[int, str, int, int]] = []
    # Those after it are of this batch, too.
    row_id = ids.allocate_id(conn, "received", now) - 1
    added: list[tuple[int, int]] = []
    for each in messages:
        text = each.text if each.opening is None else each.opening
        matched = match_recipients(keywords_by_number[each.destination], text)
        if not matched.account_ids:
            content = gsm0338.format_content(each.text, each.body, gsm0338.get_alphabet(each.data_coding, each.udh))
            unowned.append((at, each.upstream, each.source, each.destination, content))
        columns = (each.source, each.destination, each.text, each.body, each.udh, each.data_coding)
        for account_id in matched.account_ids:
            row_id += 1
            rows.append((row_id, account_id, matched.keyword, *columns))
            added.append((account_id, row_id))
            if matched.is_stop_request:
                stops.append((account_id, each.source, at, row_id))
    _INSERT_RECEIVED.run(conn, rows)
    blacklist.blacklist_stop_senders(conn, stops)
    unclaimed.keep_unowned_messages(conn, unowned)
    return deliveries.enqueue_inbound_deliveries(conn, added, at)


def match_recipients(keywords: Mapping[str, int], text: str) -> InboundRecipients:
    """Find the accounts that a text to a number is for.

    That is the account whose keyword the text begins with, or whose keyword follows STOP; else the account that has
    the number without a keyword. A STOP without a keyword is for all accounts that share the number.

    Args:
        keywords: the accounts of the number by keyword.
    """
    words = inbound_numbers.normalize_words(text)
    for keyword in words[:1]:
        if keyword in keywords:
            return InboundRecipients((keywords[keyword],), keyword, blacklist.is_stop_request(words, keyword))
    for keyword in words[-1:]:
        if keyword in keywords and blacklist.is_stop_request(words, keyword):
            return InboundRecipients((keywords[keyword],), keyword, is_stop_request=True)
    if blacklist.is_stop_request(words):
        return InboundRecipients(tuple(sorted(set(keywords.values()))), "", is_stop_request=True)
    return InboundRecipients((keywords[""],) if "" in keywords else (), "", is_stop_request=False)


# --- messages that the command line simulates; they come as an upstream brings others

SIMULATED_BATCH_SIZE = 500


class NumberNotAssigned(Refused, field="number"):
    sentence = N_("What is sent to %(number)s reaches no account. Give it to one: number add ACCOUNT %(number)s")


class KeywordNotAssigned(Refused, field="text"):
    sentence = N_("What is sent to %(number)s reaches an account only if it begins with one of: %(keywords)s")


class InvalidInboundText(Refused, field="text"):
    sentence = N_("No handset can send this text: it is too long, or it isn't Unicode.")


def simulate_inbound_message(conn: sqlite3.Connection, source: str, destination: str, text: str) -> InboundRecipients:
    """Let the SMPP server receive a text as if a handset had sent it; when it doesn't run, at its next start.

    Args:
        source: the handset's number, as typed, with or without a plus.
        destination: the number or short code that the text is sent to, as typed.

    Returns:
        The accounts that it is for now.

    Raises:
        blacklist.InvalidHandsetNumber, NumberNotAssigned, KeywordNotAssigned, InvalidInboundText
    """
    source = blacklist.normalize_phone_number(source)
    destination = inbound_numbers.normalize_inbound_number(destination)
    try:
        encoding = gsm0338.choose_encoding(text)
        if gsm0338.count_parts(gsm0338.encode_body(text, encoding), encoding) > MAX_PARTS:
            raise InvalidInboundText()
    except UnicodeEncodeError:
        raise InvalidInboundText() from None
    with write_transaction(conn):
        keywords = inbound_numbers.get_accounts_by_keyword(conn, destination)
        matched = match_recipients(keywords, text)
        if not matched.account_ids:
            if keywords:
                raise KeywordNotAssigned(number=destination, keywords=", ".join(sorted(keywords)))
            raise NumberNotAssigned(number=destination)
        insert_row(conn, "simulated", source=source, destination=destination, text=text)
    return matched


def list_simulated_messages(conn: sqlite3.Connection, after_id: int) -> list[MobileOriginatedMessage]:
    """Simulated messages above an id that have not been stored yet; at most SIMULATED_BATCH_SIZE."""
    rows = conn.execute(
        "SELECT source, destination, text, id FROM simulated WHERE id > ? ORDER BY id LIMIT ?",
        (after_id, SIMULATED_BATCH_SIZE),
    ).fetchall()
    return [
        MobileOriginatedMessage(source, destination, text, gsm0338.choose_encoding(text), simulated_id=row_id)
        for source, destination, text, row_id in rows
    ]


# --- stored messages

WAITING, DELIVERED, GIVEN_UP, UNKNOWN = "waiting", "delivered", "given-up", "unknown"
DELIVERY_STATES = (DELIVERED, WAITING, GIVEN_UP, UNKNOWN)
_MAX_ID = (1 << 63) - 1
# So many are read in a few milliseconds.
_BATCH_SIZE = 1000
# No more than so many waiting messages are counted: an open page asks every two seconds.
_MAX_COUNTED_WAITING = 1000
# A message and its delivery get their ids together; the time in the delivery's id may be this much earlier.
_DELIVERY_ID_MARGIN_MS = 60_000


class NoSuchInboundMessage(NotFound):
    """The account has received no message with this id."""


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """A message from a handset. `text` and `body` as in `MobileOriginatedMessage`.

    `ended_at`: when a client accepted it, or it was given up (milliseconds); None: neither yet; 0: not known. `text`,
    `body` and `udh` are empty where they were removed (`kept` is 0), or where the reader may not see them (`hidden`).
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
    def text_placeholder(self) -> str:
        """What is shown instead of the text, in English; a key of the translations. Empty: the text is there."""
        return text_policy.get_text_placeholder(self.kept, self.hidden)

    def without_text(self) -> "InboundMessage":
        """The message as shown to somebody who may not read texts."""
        return replace(self, text="", body=None, udh=None, hidden=True)

    @property
    def received_at(self) -> int:
        """When it came (milliseconds); the id contains it."""
        return ids.time_from_id(self.id)

    @property
    def state(self) -> str:
        """The state of its delivery to the account's clients: one of DELIVERY_STATES."""
        if self.ended_at is None:
            return WAITING
        if self.given_up:
            return GIVEN_UP
        return DELIVERED if self.ended_at else UNKNOWN

    @property
    def alphabet(self) -> gsm0338.Alphabet:
        """How its octets are read."""
        return gsm0338.get_alphabet(self.data_coding, self.udh)

    @property
    def content(self) -> str:
        """The text, or the octets as hexadecimal digits of what can't be shown as text."""
        return gsm0338.format_content(self.text, self.body, self.alphabet)


@dataclass(frozen=True)
class InboundQuery:
    """The conditions of a search, all of which a message must meet. An empty one matches everything.

    Args:
        period: the one in which the message came.
        sender: the handset's number, or its first digits.
        recipient: the number or short code that it was sent to, or its first digits.
        keyword: the one that it carries; case and accents are ignored.
        state: one of DELIVERY_STATES.
        text: words, or beginnings of words, all of which the message contains; case and accents are ignored.
    """

    period: Period = ALL_TIME_PERIOD
    sender: str = ""
    recipient: str = ""
    keyword: str = ""
    state: str = ""
    text: str = ""

    @cached_property
    def _text_words(self) -> list[str]:
        return inbound_numbers.normalize_words(self.text)

    @cached_property
    def _normalized_keyword(self) -> str:
        return "".join(inbound_numbers.normalize_words(self.keyword))

    def matches(self, message: InboundMessage) -> bool:
        """Whether a message of the period meets the other conditions."""
        return (
            message.source.startswith(countries.strip_separators(self.sender))
            and message.destination.startswith(countries.strip_separators(self.recipient))
            and (not self.keyword or message.keyword == self._normalized_keyword)
            and (not self.state or message.state == self.state)
            and (not self.text or self._is_in_text(message.text))
        )

    def _is_in_text(self, text: str) -> bool:
        words = inbound_numbers.normalize_words(text)
        prefixes = self._text_words
        return bool(prefixes) and all(any(each.startswith(prefix) for each in words) for prefix in prefixes)


@dataclass(frozen=True, slots=True)
class InboundPage:
    """Messages, newest first. `reached`: the id at which the search stopped for lack of time; None: it is complete."""

    messages: list[InboundMessage]
    reached: int | None = None


MATCH_ALL = InboundQuery()
_COLUMNS = "id, source, destination, keyword, text, body, udh, data_coding, ended_at, given_up, kept"


def search_inbound_messages(
    conn: sqlite3.Connection,
    account_id: int,
    query: InboundQuery = MATCH_ALL,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    seconds: float = float("inf"),
) -> InboundPage:
    """Search the messages that an account has received; returns a page of them, newest first.

    No index helps with any condition except the period: the messages are read and compared one by one.

    Args:
        before: the messages with a smaller id than this (the last one of the previous page).
        after: the messages just above this id, for going back to newer pages.
        seconds: after so long the search stops, at its next check, which comes every few milliseconds.
    """
    low = max(ids.min_id_at_time(query.period.since), 0 if after is None else after + 1)
    high = min(ids.min_id_at_time(query.period.until), _MAX_ID if before is None else before)
    deadline = time.monotonic() + seconds
    order = "DESC" if after is None else "ASC"
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM received WHERE account_id = ? AND id >= ? AND id < ? ORDER BY id {order}",
        (account_id, low, high),
    )
    matches: list[InboundMessage] = []
    reached = None
    for count, row in enumerate(rows, start=1):
        message = InboundMessage(*row)
        if query.matches(message):
            matches.append(message)
        if len(matches) == limit:
            break
        if count % _BATCH_SIZE == 0 and time.monotonic() >= deadline:
            reached = message.id
            break
    rows.close()
    return InboundPage(matches if after is None else matches[::-1], reached)


def iterate_inbound_messages(
    conn: sqlite3.Connection, account_id: int, query: InboundQuery = MATCH_ALL, batch_size: int = _BATCH_SIZE
) -> Iterator[InboundMessage]:
    """Yield all messages that a search finds, newest first, in constant memory."""
    before = None
    while page := search_inbound_messages(conn, account_id, query, before=before, limit=batch_size).messages:
        yield from page
        before = page[-1].id


def get_inbound_message(conn: sqlite3.Connection, account_id: int, received_id: int) -> InboundMessage:
    """A message that an account has received.

    Args:
        received_id: its id, or the one by which the account's clients know it.

    Raises:
        NoSuchInboundMessage
    """
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM received WHERE id = ? AND account_id = ?",
        (client_ids.find_row_id(conn, "received", received_id), account_id),
    ).fetchone()
    return InboundMessage(*require_found(row, NoSuchInboundMessage()))


def get_delivery_attempts(conn: sqlite3.Connection, account_id: int, message: InboundMessage) -> tuple[int, int]:
    """How many attempts to deliver a waiting message have failed, and when the next one is due (milliseconds).

    (0, 0): there was no attempt yet.
    """
    row = conn.execute(
        "SELECT attempts, next_attempt_at FROM deliveries WHERE account_id = ? AND id >= ? AND received_id = ?",
        (account_id, ids.min_id_at_time(message.received_at - _DELIVERY_ID_MARGIN_MS), message.id),
    ).fetchone()
    return (row[0], row[1]) if row and row[0] else (0, 0)


def read_inbound_change_counters(conn: sqlite3.Connection, account_id: int) -> tuple[int, int, int, int]:
    """Numbers that change whenever a message comes, is removed or changes its state. Cheap, however many there are."""
    row = conn.execute(
        "SELECT (SELECT max(id) FROM received WHERE account_id = :account), min(id), count(*),"
        " (SELECT removed_messages FROM accounts WHERE id = :account) FROM"
        " (SELECT id FROM received WHERE account_id = :account AND ended_at IS NULL ORDER BY id LIMIT :most)",
        {"account": account_id, "most": _MAX_COUNTED_WAITING},
    ).fetchone()
    return row[0] or 0, row[1] or 0, row[2], row[3]
