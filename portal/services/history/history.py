"""What pages and downloads show of an account's messages.

A text that its client has cut up is several messages, each with its id, price and receipt; pages show it as one.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from portal.core.i18n import N_
from portal.services.accounts.accounts import BINARY
from portal.services.common import ids
from portal.services.common.errors import Refused
from portal.services.common.message_states import PTT, PTT_NONE
from portal.services.messages import text_policy
from portal.services.messages.validation import UCS2

MISSING = "[…]"
"""Stands for the segments of a text that have not come."""


class NoSuchMessage(Refused):
    sentence = N_("That message isn't in the history.")


# A download makes one for each line; frozen ones are five times as dear.
@dataclass(slots=True)
class Message:
    """A message as it was submitted; `price` in thousandths of a credit, times in milliseconds.

    `body` is what `text` can't say: of a binary message, and of UCS-2 that ends within a character.
    `segment_number` of `segment_total` is its place in a text that its client has cut up, None where it is whole.
    `waits`: `scheduled_at`, the date that its client has given it, is still to come. Where the text was removed
    (`kept` is 0), or the reader may not see it (`hide`), text and body are empty.
    """

    id: int
    source: str
    destination: str
    country: str
    text: str
    parts: int
    price: int
    state: int
    ptt: int
    done_at: int | None
    data_coding: int
    body: bytes | None
    segment_total: int | None
    segment_number: int | None
    scheduled_at: int | None
    kept: int
    waits: bool
    hidden: bool = False

    @property
    def at(self) -> int:
        return ids.time_of(self.id)

    @property
    def missing(self) -> str:
        """Why the text isn't there, in English; a key of the translations. Empty: it is."""
        return text_policy.missing(self.kept, self.hidden)

    def hide(self) -> None:
        """Take out what its reader may not see."""
        self.text, self.body, self.hidden = "", None, True

    @property
    def description(self) -> str:
        """What the ptt code means, in English; a key of the translations."""
        return PTT.get(self.ptt, PTT[255])

    @property
    def content(self) -> str:
        """The text, or the octets of a binary message as hexadecimal digits."""
        return self.body.hex(" ") if self.body is not None and self.data_coding != UCS2 else self.text


@dataclass(slots=True)
class Text:
    """One line of the history: a message, or all that have come of a text that its client has cut up.

    `messages` are in the order of the text, and at least one; `id` is the smallest of theirs.
    """

    id: int
    messages: tuple[Message, ...]

    @property
    def at(self) -> int:
        return ids.time_of(self.id)

    @property
    def first(self) -> Message:
        """One that stands for all, where they don't differ: source, destination, country."""
        return self.messages[0]

    @property
    def segments(self) -> int:
        """How many there are to be, whether they have come or not; 1 where the text was not cut up."""
        return self.first.segment_total or 1

    @property
    def parts(self) -> int:
        return sum(each.parts for each in self.messages)

    @property
    def price(self) -> int:
        return sum(each.price for each in self.messages)

    @property
    def done_at(self) -> int | None:
        """When the last of them ended; None while one hasn't."""
        ended = [each.done_at for each in self.messages if each.done_at is not None]
        return max(ended) if len(ended) == len(self.messages) else None

    @property
    def delivered(self) -> int:
        """How many of the segments have been delivered."""
        return sum(each.ptt == PTT_NONE for each in self.messages)

    @property
    def ptt(self) -> int | None:
        """The code that all of them have; None where they differ, or where the delivered ones aren't all."""
        codes = {each.ptt for each in self.messages}
        if len(codes) > 1 or (codes == {PTT_NONE} and self.delivered < self.segments):
            return None
        return codes.pop()

    @property
    def scheduled_at(self) -> int | None:
        """The date that its client has given it."""
        return self.first.scheduled_at

    @property
    def waits(self) -> bool:
        """Whether that date is still to come for all of it."""
        return all(each.waits for each in self.messages)

    @property
    def description(self) -> str:
        """What `ptt` means; see `Message.description`."""
        return self.first.description

    @property
    def missing(self) -> str:
        """Why nothing of the text is there; see `Message.missing`."""
        return self.first.missing if all(each.missing for each in self.messages) else ""

    @property
    def text(self) -> str:
        """The whole text, with MISSING where segments have not come, or are not kept; empty where none is."""
        if self.missing:
            return ""
        said = []
        expected = 1
        for run in _runs([each for each in self.messages if each.kept]):
            if (run[0].segment_number or 1) > expected:
                said.append(MISSING)
            said.append(_joined(run))
            expected = (run[-1].segment_number or 1) + 1
        if expected <= self.segments:
            said.append(MISSING)
        return "".join(said)


def _runs(messages: Sequence[Message]) -> list[list[Message]]:
    """Segments that follow upon each other, together."""
    runs: list[list[Message]] = []
    for each in messages:
        if runs and each.segment_number == (runs[-1][-1].segment_number or 0) + 1:
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


def _joined(run: Sequence[Message]) -> str:
    if all(each.data_coding == UCS2 for each in run):
        # A character outside the BMP may have been cut in two.
        octets = [each.body if each.body is not None else each.text.encode("utf-16-be") for each in run]
        return b"".join(octets).decode("utf-16-be", "replace")
    return (" " if run[0].data_coding == BINARY else "").join(each.content for each in run)


COLUMNS = (
    "id, source, destination, country, text, parts, price, state, ptt, done_at, data_coding, body, segment_total,"
    " segment_number, scheduled_at, kept, scheduled_at IS NOT NULL AND due_at IS scheduled_at"
)
"""The columns of `messages` that a `Message` is made of, in the order of its fields."""


def texts_by_id(conn: sqlite3.Connection, account_id: int, first_ids: Sequence[int]) -> list[Text]:
    """The texts of an account that begin with these messages, oldest first."""
    rows = conn.execute(
        f"SELECT {COLUMNS} FROM messages WHERE id IN (SELECT value FROM json_each(?)) AND +account_id = ? ORDER BY id",
        (json.dumps(first_ids), account_id),
    )
    return whole(conn, [Message(*row) for row in rows])


def whole(conn: sqlite3.Connection, first: Sequence[Message]) -> list[Text]:
    """The texts that begin with these messages, each the segment of its text that came first."""
    others = _others(conn, [each.id for each in first if each.segment_total is not None])
    return [_text(each, others[each.id]) if each.id in others else Text(each.id, (each,)) for each in first]


def _others(conn: sqlite3.Connection, first_ids: Sequence[int]) -> dict[int, list[Message]]:
    """The segments that came after the first ones of their texts, by the ids of these."""
    others: dict[int, list[Message]] = defaultdict(list)
    if first_ids:
        rows = conn.execute(
            f"SELECT {COLUMNS}, joined_to FROM messages WHERE joined_to IN (SELECT value FROM json_each(?))",
            (json.dumps(first_ids),),
        )
        for *fields, joined_to in rows:
            others[joined_to].append(Message(*fields))
    return others


def _text(first: Message, others: Sequence[Message]) -> Text:
    return Text(first.id, tuple(sorted((first, *others), key=lambda each: each.segment_number or 1)))


def by_id(conn: sqlite3.Connection, account_id: int, message_id: int) -> Text:
    """The text that a message of an account is, or belongs to.

    Raises:
        NoSuchMessage: there is none with this id, or it is another account's.
    """
    row = conn.execute(
        f"SELECT {COLUMNS} FROM messages WHERE account_id = ?1 AND id ="
        " (SELECT coalesce(joined_to, id) FROM messages WHERE id = ?2 AND account_id = ?1)",
        (account_id, message_id),
    ).fetchone()
    if row is None:
        raise NoSuchMessage()
    return whole(conn, [Message(*row)])[0]


@dataclass(frozen=True, slots=True)
class Details:
    """What else is known of a message.

    As its client has sent it (SMPP 3.4, 5.2): type and plan of its source address, whether it wanted a receipt
    (registered_delivery), its user_message_reference, its user data header, until when it was to be tried
    (milliseconds; None: as long as is usual), and the session that it came from. As its upstream knows it: its id, and
    its status in the upstream's own words.
    """

    source_ton: int
    source_npi: int
    registered_delivery: int
    reference: int | None
    udh: bytes | None
    expires_at: int | None
    session_id: int | None
    upstream_id: str | None
    upstream_status: str | None


def details(conn: sqlite3.Connection, text: Text) -> dict[int, Details]:
    """What is shown of one text only: of each of its messages, by its id."""
    rows = conn.execute(
        "SELECT id, source_ton, source_npi, registered_delivery, reference, udh, expires_at, session_id, upstream_id,"
        " upstream_status FROM messages WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps([each.id for each in text.messages]),),
    )
    return {message_id: Details(*fields) for message_id, *fields in rows}
