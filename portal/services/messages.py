"""Messages: the rules for accepting one, storing it with its debit, its final state, and the receipts that wait."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from portal import gsm0338
from portal.db import immediate
from portal.i18n import N_
from portal.services import credits, prices
from portal.services.directory import AccountConfig
from portal.services.errors import Refused

# SMPP 3.4, 5.2.28: message_state.
ENROUTE, DELIVERED, EXPIRED, DELETED, UNDELIVERABLE, ACCEPTED, UNKNOWN, REJECTED = 1, 2, 3, 4, 5, 6, 7, 8

# What a customer reads as the status of a message ("ptt").
PTT_NONE, PTT_NO_CREDIT, PTT_PENDING = 0, 10, 254

# SMPP 3.4, 5.2.19: data_coding.
GSM, UCS2 = 0, 8

# GSM 03.40, 9.2.3.24.1: a concatenated message counts its parts in one octet.
MOST_PARTS = 255
_UDH_INDICATOR = 0x40
_DAY_MS = 86_400_000
RECEIPT_VALID_MS = 7 * _DAY_MS


class InvalidSource(Refused):
    sentence = N_("The sender %(source)s isn't allowed for this account.")


class InvalidDestination(Refused):
    sentence = N_("%(destination)s isn't a number that messages can be sent to.")


class UnsupportedDataCoding(Refused):
    sentence = N_("data_coding %(data_coding)s isn't supported: use 0 (GSM 03.38) or 8 (UCS-2).")


class NotDecodable(Refused):
    sentence = N_("The text can't be decoded as GSM 03.38.")


class BodyTooLong(Refused):
    sentence = N_("The text is too long.")


# What there is one of for each message isn't frozen: that would make it five times as dear to make.
@dataclass(slots=True)
class Submit:
    """A message that obeys every rule but one: whether the credits cover it is decided when it is stored."""

    account_id: int
    source: str
    source_ton: int
    source_npi: int
    destination: str
    country: str
    text: str
    udh: bytes | None
    data_coding: int
    registered_delivery: int
    reference: int | None
    parts: int
    price: int


@dataclass(slots=True)
class ToSend:
    """What an upstream needs of a message."""

    id: int
    account_id: int
    source: str
    destination: str
    text: str
    udh: bytes | None
    data_coding: int


@dataclass(slots=True)
class Outcome:
    """What became of a message: its final message_state, its ptt code, and when (milliseconds)."""

    message_id: int
    state: int
    ptt: int
    at: int


@dataclass(slots=True)
class Receipt:
    """A delivery receipt that waits for one of the account's receivers."""

    id: int
    account_id: int
    message_id: int
    attempts: int
    source: str
    source_ton: int
    source_npi: int
    destination: str
    text: str
    reference: int | None
    parts: int
    state: int
    ptt: int
    done_at: int

    @property
    def submitted_at(self) -> int:
        return credits.time_of(self.message_id)


def prepare(
    account: AccountConfig,
    price_list: Mapping[str, int],
    *,
    source: str,
    source_ton: int,
    source_npi: int,
    destination: str,
    esm_class: int,
    data_coding: int,
    registered_delivery: int,
    body: bytes,
    reference: int | None = None,
) -> Submit:
    """Check a submit against the account's rules, decode it and price it. Pure: nothing is stored.

    Args:
        price_list: thousandths of a credit a part, by country.
        destination: E.164 digits, with or without a plus.
        esm_class: SMPP 3.4, 5.2.12; only the UDH indicator matters here.
        body: short_message or message_payload, one character a byte for GSM 03.38.
        reference: user_message_reference, given back in the receipt.

    Raises:
        InvalidSource, InvalidDestination, UnsupportedDataCoding, NotDecodable, BodyTooLong
    """
    if not account.any_sender and source.removeprefix("+") not in account.senders:
        raise InvalidSource(source=source)
    digits = destination.removeprefix("+")
    country = prices.country_of(digits)
    price = price_list.get(country) if country else None
    if country is None or price is None:
        raise InvalidDestination(destination=destination)
    udh, content = _without_udh(body) if esm_class & _UDH_INDICATOR else (None, body)
    text, parts = _decode(content, len(udh) if udh else 0, data_coding)
    return Submit(
        account.id,
        source,
        source_ton,
        source_npi,
        digits,
        country,
        text,
        udh,
        data_coding,
        # 5.2.17: bits 0 and 1 ask for the receipt; Kannel sets more (0x11).
        registered_delivery & 0x03,
        reference,
        parts,
        price * parts,
    )


def _without_udh(body: bytes) -> tuple[bytes, bytes]:
    """Split off the user data header, whose first octet is its length (GSM 03.40, 9.2.3.24)."""
    if not body or body[0] + 1 > len(body):
        raise BodyTooLong()
    end = body[0] + 1
    return body[:end], body[end:]


def _decode(content: bytes, header: int, data_coding: int) -> tuple[str, int]:
    """The text, and in how many parts it travels. A submit with a UDH of its own is one part of a longer message."""
    if data_coding == GSM:
        encoding = gsm0338.Encoding.GSM
        try:
            text = gsm0338.decode(content)
        except ValueError:
            raise NotDecodable() from None
    elif data_coding == UCS2:
        encoding = gsm0338.Encoding.UCS2
        if len(content) % 2:
            raise BodyTooLong()
        # "replace": a lone surrogate is a client's torn emoji; the message goes out as it came, the history shows �.
        text = content.decode("utf-16-be", "replace")
    else:
        raise UnsupportedDataCoding(data_coding=data_coding)
    if header:
        if len(content) > gsm0338.room(encoding, header):
            raise BodyTooLong()
        return text, 1
    parts = gsm0338.part_count(content, encoding)
    if parts > MOST_PARTS:
        raise BodyTooLong()
    return text, parts


# --- storing


def store(conn: sqlite3.Connection, submits: Sequence[Submit], now: int | None = None) -> list[int | None]:
    """Store messages with their debits: all in one transaction, which is on disk when this returns.

    Submits are taken in their order. One that its account's credits don't cover is kept in the history as refused (ptt
    10) and costs nothing; the others don't suffer.

    Args:
        now: when they were submitted (milliseconds), for a history that is written afterwards; None: at this moment.

    Returns:
        For each submit its message id, or None where the credits didn't cover it.

    Raises:
        sqlite3.Error: nothing was stored.
    """
    with immediate(conn):
        first = credits.next_ids(conn, "message_id", len(submits), now)
        account_ids = {each.account_id for each in submits}
        balances = {account_id: credits.balance(conn, account_id) for account_id in account_ids}
        left = dict(balances)
        results: list[int | None] = []
        rows = []
        charged: dict[int, list[tuple[int, Submit]]] = defaultdict(list)
        refused: dict[int, int] = defaultdict(int)
        for message_id, each in enumerate(submits, first):
            remaining = left[each.account_id] - each.price
            if remaining >= 0:
                left[each.account_id] = remaining
                charged[each.account_id].append((message_id, each))
                results.append(message_id)
                rows.append(_row(message_id, each, each.price, ENROUTE, PTT_PENDING, None))
            else:
                refused[each.account_id] += 1
                results.append(None)
                rows.append(_row(message_id, each, 0, REJECTED, PTT_NO_CREDIT, credits.time_of(message_id)))
        conn.executemany(f"INSERT INTO messages VALUES ({', '.join('?' * 17)})", rows)
        day = credits.time_of(first) // _DAY_MS
        for account_id, messages in charged.items():
            _charge(conn, account_id, balances[account_id], left[account_id], messages, now)
        for account_id, count in refused.items():
            _add_to_day(conn, account_id, day, refused=count)
    return results


def _row(message_id: int, submit: Submit, price: int, state: int, ptt: int, done_at: int | None) -> tuple[object, ...]:
    return (
        message_id,
        submit.account_id,
        submit.source,
        submit.source_ton,
        submit.source_npi,
        submit.destination,
        submit.country,
        submit.text,
        submit.udh,
        submit.data_coding,
        submit.registered_delivery,
        submit.reference,
        submit.parts,
        price,
        state,
        ptt,
        done_at,
    )


def _charge(
    conn: sqlite3.Connection,
    account_id: int,
    before: int,
    after: int,
    messages: list[tuple[int, Submit]],
    now: int | None,
) -> None:
    """The debit of one account's messages of one batch: balance, one line in the ledger, the day's totals."""
    conn.execute("UPDATE accounts SET balance = ? WHERE id = ?", (after, account_id))
    conn.execute(
        "INSERT INTO movements (id, account_id, kind, amount, balance_after, actor, messages, first_message_id,"
        " last_message_id) VALUES (?, ?, 'usage', ?, ?, 'system', ?, ?, ?)",
        (
            credits.next_ids(conn, "movement_id", 1, now),
            account_id,
            after - before,
            after,
            len(messages),
            messages[0][0],
            messages[-1][0],
        ),
    )
    parts = sum(each.parts for _, each in messages)
    day = credits.time_of(messages[0][0]) // _DAY_MS
    _add_to_day(conn, account_id, day, sent=len(messages), parts=parts, price=before - after)


def _add_to_day(conn: sqlite3.Connection, account_id: int, day: int, **amounts: int) -> None:
    columns = ", ".join(amounts)
    added = ", ".join(f"{name} = {name} + excluded.{name}" for name in amounts)
    conn.execute(
        f"INSERT INTO daily_totals (account_id, day, {columns}) VALUES (?, ?{', ?' * len(amounts)})"
        f" ON CONFLICT (account_id, day) DO UPDATE SET {added}",
        (account_id, day, *amounts.values()),
    )


# --- outcomes


def finish(conn: sqlite3.Connection, outcomes: Sequence[Outcome]) -> set[int]:
    """Write final states, the days' totals and the receipts that were asked for. What comes twice counts once.

    Returns:
        The ids of the accounts for which a receipt now waits.
    """
    waiting = set()
    totals: dict[tuple[int, int], dict[str, int]] = defaultdict(lambda: {"delivered": 0, "failed": 0})
    with immediate(conn):
        for each in outcomes:
            row = conn.execute(
                "UPDATE messages SET state = ?, ptt = ?, done_at = ? WHERE id = ? AND state = ?"
                " RETURNING account_id, registered_delivery",
                (each.state, each.ptt, each.at, each.message_id, ENROUTE),
            ).fetchone()
            if row is None:
                continue
            delivered = each.state == DELIVERED
            day = credits.time_of(each.message_id) // _DAY_MS
            totals[row["account_id"], day]["delivered" if delivered else "failed"] += 1
            if _wants_receipt(row["registered_delivery"], delivered):
                conn.execute(
                    "INSERT INTO receipts (account_id, message_id, next_attempt_at) VALUES (?, ?, ?)",
                    (row["account_id"], each.message_id, each.at),
                )
                waiting.add(row["account_id"])
        for (account_id, day), amounts in totals.items():
            _add_to_day(conn, account_id, day, **amounts)
    return waiting


def _wants_receipt(registered_delivery: int, delivered: bool) -> bool:
    # SMPP 3.4, 5.2.17: 1 asks for success and failure, 2 for failure only. 3 is reserved; asking for more is safer.
    return registered_delivery in (1, 3) or (registered_delivery == 2 and not delivered)


def unfinished(conn: sqlite3.Connection, after_id: int, limit: int) -> list[ToSend]:
    """Messages without a final state, in the order of their acceptance: what an upstream is given again at start."""
    # The state stands in the text, and is not bound: only so does SQLite see that the partial index fits.
    rows = conn.execute(
        "SELECT id, account_id, source, destination, text, udh, data_coding FROM messages"
        f" WHERE state = {ENROUTE} AND id > ? ORDER BY id LIMIT ?",
        (after_id, limit),
    )
    return [ToSend(*row) for row in rows]


# --- receipts


def receipts_due(conn: sqlite3.Connection, account_id: int, now: int, limit: int) -> list[Receipt]:
    """The oldest receipts of an account, in order, that may be tried at this moment (milliseconds)."""
    rows = conn.execute(
        "SELECT receipts.id, receipts.account_id, message_id, attempts, source, source_ton, source_npi, destination,"
        " text, reference, parts, state, ptt, done_at FROM receipts JOIN messages ON messages.id = message_id"
        " WHERE receipts.account_id = ? AND next_attempt_at <= ? ORDER BY receipts.id LIMIT ?",
        (account_id, now, limit),
    )
    return [Receipt(*row) for row in rows]


def receipts_done(conn: sqlite3.Connection, receipt_ids: Iterable[int]) -> None:
    """Forget receipts that an ESME has accepted."""
    with immediate(conn):
        conn.executemany("DELETE FROM receipts WHERE id = ?", [(each,) for each in receipt_ids])


def receipts_failed(conn: sqlite3.Connection, retries: Mapping[int, int]) -> None:
    """Note failed attempts: receipt id to the time (milliseconds) of the next one."""
    with immediate(conn):
        conn.executemany(
            "UPDATE receipts SET attempts = attempts + 1, next_attempt_at = ? WHERE id = ?",
            [(at, receipt_id) for receipt_id, at in retries.items()],
        )


def expire_receipts(conn: sqlite3.Connection, now: int) -> int:
    """Give up receipts that nobody has accepted for seven days; returns how many."""
    with immediate(conn):
        return conn.execute(
            "DELETE FROM receipts WHERE message_id < ?", (credits.first_id_at(now - RECEIPT_VALID_MS),)
        ).rowcount
