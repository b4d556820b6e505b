"""Messages by which operators try an upstream: they are no customer's, cost nothing, and go through that one alone.

The SMPP server sends each once, on the upstream's own binds, as it would send any other message. Its row says what came
of it: no other table has it.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields

from portal.core import gsm0338
from portal.core.clock import HOUR_MS, MINUTE_MS, now_ms
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, require_found
from portal.services.common.message_states import DELIVERED
from portal.services.messages.receipt_matching import MIN_DIGITS, UpstreamReceipt
from portal.services.messages.validation import SubmittedMessage
from portal.services.prices import countries
from portal.services.senders import senders
from portal.services.upstreams import binds, message_ids
from portal.services.upstreams.upstreams import SIMULATOR, Upstream

WAITING, ACCEPTED, REFUSED, UNANSWERED, UNSENT = "waiting", "accepted", "refused", "unanswered", "unsent"
ARRIVED, UNDELIVERED = "delivered", "undelivered"
"""Until the SMPP server has the carrier's answer; the answer, or why there is none; what a receipt says."""
_VALIDITY_MS = HOUR_MS
# Receipts that came before the answer was stored.
_EARLY_RECEIPT_MS = MINUTE_MS


class NoSuchTestMessage(NotFound):
    sentence = N_("There is no such test message.")


class SimulatorSendsNothing(Refused):
    sentence = N_("“%(name)s” is a simulator: it connects to nothing, so no message can test it.")


class UpstreamNotBound(Refused):
    sentence = N_("“%(name)s” is not bound, so it can't send anything now: mend that first.")


class InvalidTestText(Refused, field="text"):
    sentence = N_(
        "The text of a test message can't be empty, nor longer than one part: 160 characters, or 70 in UCS-2."
    )


@dataclass(frozen=True, slots=True)
class UpstreamTestMessage:
    """A test message. `upstream`: the id. `state`: one of the seven above. `upstream_id`: the carrier's id of it.
    `status`: what it has refused it with, or what the receipt says. Times are in milliseconds.
    """

    id: int
    upstream: int
    created_at: int
    source: str
    destination: str
    text: str
    state: str
    upstream_id: str | None = None
    status: str = ""
    answered_at: int | None = None
    ended_at: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is expected of it."""
        return self.state not in (WAITING, ACCEPTED)


@dataclass(frozen=True, slots=True)
class UpstreamTestAnswer:
    """What came of sending one: `state` is ACCEPTED, REFUSED, UNANSWERED or UNSENT."""

    id: int
    state: str
    upstream_id: str = ""
    status: str = ""


_COLUMNS = ", ".join(each.name for each in fields(UpstreamTestMessage))


# --- asked for by operators


def send_test_message(
    conn: sqlite3.Connection, actor: Actor, upstream: Upstream, source: str, destination: str, text: str
) -> UpstreamTestMessage:
    """Have the SMPP server send a message through an upstream, at once.

    Args:
        source: empty: none, where the carrier puts one in.

    Raises:
        SimulatorSendsNothing, UpstreamNotBound, InvalidTestText
        senders.InvalidSender, senders.UnknownCountryCode
        countries.InvalidPhoneNumber
    """
    if upstream.kind == SIMULATOR:
        raise SimulatorSendsNothing(name=upstream.name)
    address = senders.parse_sender(source)[0] if source.strip() else ""
    number = countries.parse_number_prefix(destination.strip(), "destination")
    if not number or countries.find_country(number) is None:
        raise countries.InvalidPhoneNumber(field="destination", number=destination)
    encoding = gsm0338.choose_encoding(text)
    if not text.strip() or gsm0338.count_parts(gsm0338.encode_body(text, encoding), encoding) > 1:
        raise InvalidTestText()
    with write_transaction(conn):
        state = binds.get_upstream_state(conn, upstream.id)
        if not any(each.state == binds.BOUND and each.kind != "rx" for each in state.binds):
            raise UpstreamNotBound(name=upstream.name)
        message_id = insert_row(
            conn,
            "test_messages",
            upstream=upstream.id,
            created_at=now_ms(),
            source=address,
            destination=number,
            text=text,
            state=WAITING,
        )
        # The number is somebody's: the log has none.
        audit.record_action(conn, actor, "upstream.test_message", name=upstream.name)
    return get_test_message(conn, message_id)


def get_test_message(conn: sqlite3.Connection, message_id: int) -> UpstreamTestMessage:
    """Raises: NoSuchTestMessage"""
    row = conn.execute(f"SELECT {_COLUMNS} FROM test_messages WHERE id = ?", (message_id,)).fetchone()
    return UpstreamTestMessage(*require_found(row, NoSuchTestMessage()))


def list_test_messages(conn: sqlite3.Connection, upstream_id: int, limit: int) -> list[UpstreamTestMessage]:
    """The last ones through an upstream, the newest first."""
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM test_messages WHERE upstream = ? ORDER BY id DESC LIMIT ?", (upstream_id, limit)
    )
    return [UpstreamTestMessage(*row) for row in rows]


# --- asked by the SMPP server


def get_last_test_id(conn: sqlite3.Connection) -> int:
    """The id of the last one that there is; 0: there is none."""
    return int(conn.execute("SELECT coalesce(max(id), 0) FROM test_messages").fetchone()[0])


def list_waiting_messages(conn: sqlite3.Connection, after_id: int) -> list[SubmittedMessage]:
    """Those behind an id that are to be sent, each with its upstream, and as id its own with a minus: so it is none of
    a message.
    """
    now = now_ms()
    rows = conn.execute(
        "SELECT id, upstream, source, destination, text FROM test_messages WHERE id > ? AND state = ? ORDER BY id",
        (after_id, WAITING),
    )
    return [
        SubmittedMessage(
            account_id=0,
            source=source,
            source_ton=0,
            source_npi=0,
            destination=destination,
            country="",
            text=text,
            udh=None,
            data_coding=int(gsm0338.choose_encoding(text)),
            registered_delivery=1,
            reference=None,
            parts=1,
            price=0,
            expires_at=now + _VALIDITY_MS,
            id=-message_id,
            upstream=upstream_id,
        )
        for message_id, upstream_id, source, destination, text in rows
    ]


def give_up_waiting_messages(conn: sqlite3.Connection) -> None:
    """None was sent that waits when the SMPP server starts, or nobody knows of it."""
    with write_transaction(conn):
        conn.execute(
            "UPDATE test_messages SET state = ?, answered_at = ? WHERE state = ?", (UNANSWERED, now_ms(), WAITING)
        )


def store_answers(conn: sqlite3.Connection, answers: Sequence[UpstreamTestAnswer]) -> None:
    """Store what came of sending them. Their receipts may have come already."""
    now = now_ms()
    with write_transaction(conn):
        conn.executemany(
            "UPDATE test_messages SET state = ?, upstream_id = ?, status = ?, answered_at = ? WHERE id = ?",
            [(each.state, each.upstream_id, each.status, now, each.id) for each in answers],
        )
        rows = conn.execute(
            "SELECT id, upstream, message_id, other_id, state, ptt, state IS NOT NULL, status, done_at, source,"
            " destination, text FROM unmatched_receipts WHERE received_at > ? AND upstream IN"
            " (SELECT upstream FROM test_messages WHERE state = ?) ORDER BY id DESC LIMIT 100",
            (now - _EARLY_RECEIPT_MS, ACCEPTED),
        ).fetchall()
        for kept_id, upstream_id, first_id, other_id, *values in rows:
            receipt = UpstreamReceipt(upstream_id, tuple(filter(None, (first_id, other_id))), *values)
            if take_receipt(conn, receipt, now):
                conn.execute("DELETE FROM unmatched_receipts WHERE id = ?", (kept_id,))


def take_receipt(conn: sqlite3.Connection, receipt: UpstreamReceipt, now: int) -> bool:
    """Store what a receipt says that is of no customer's message; returns whether it is of a test message. The caller
    is inside `write_transaction()`.
    """
    rows = conn.execute(
        "SELECT id, upstream_id, destination FROM test_messages INDEXED BY test_messages_accepted"
        " WHERE upstream = ? AND state = 'accepted' ORDER BY id DESC LIMIT 100",
        (receipt.upstream,),
    ).fetchall()
    if not rows:
        return False
    forms = message_ids.load_id_forms(conn, [receipt.upstream])[receipt.upstream].possible
    keys = {key for each in receipt.message_ids for key in message_ids.build_message_keys(each, forms)}
    for message_id, upstream_id, destination in rows:
        tail = destination[-MIN_DIGITS:]
        if message_ids.fold_id(upstream_id) not in keys or tail not in (
            receipt.source[-MIN_DIGITS:],
            receipt.destination[-MIN_DIGITS:],
        ):
            continue
        if receipt.is_final:
            state = ARRIVED if receipt.state == DELIVERED else UNDELIVERED
            conn.execute(
                "UPDATE test_messages SET state = ?, status = ?, ended_at = ? WHERE id = ?",
                (state, receipt.status, now, message_id),
            )
        return True
    return False
