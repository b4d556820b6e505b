"""Messages from handsets (MO): which account each is for, keeping it, and obeying those that say STOP."""

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from portal import gsm0338
from portal.db import immediate, insert, now_ms
from portal.i18n import N_
from portal.services import blacklist, deliveries, ids, routes
from portal.services.errors import Refused
from portal.services.messages import MOST_PARTS

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


def take_in(conn: sqlite3.Connection, messages: Sequence[FromHandset]) -> set[int]:
    """Store messages for the accounts that they are meant for, let them wait for their receivers, and put the senders
    of those that say STOP on the accounts' blacklists.

    One to a number that nobody has is let go. One from the shell is taken in once, however often it comes.

    Returns:
        The ids of the accounts for which something waits now.
    """
    now = now_ms()
    added = []
    with immediate(conn):
        for each in messages:
            if each.simulated_id is not None and not _spend(conn, each.simulated_id):
                continue
            found = recipients(conn, each.destination, each.text)
            if not found.account_ids:
                log.warning("nobody has what was sent to %s", each.destination)
            for account_id in found.account_ids:
                row_id = ids.next_ids(conn, "received", 1)
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
                    blacklist.stop(conn, account_id, each.source, row_id)
        return deliveries.add_received(conn, added, now)


def recipients(conn: sqlite3.Connection, number: str, text: str) -> Recipients:
    """Whom a text to a number is for.

    That is the account whose keyword it begins with, or that follows upon STOP; else the one that has the rest. A STOP
    that names no keyword may be meant for anyone who shares the number, and so it is for all of them.
    """
    keywords = routes.to_number(conn, number)
    words = routes.words(text)
    for keyword in words[:1]:
        if keyword in keywords:
            return Recipients((keywords[keyword],), keyword, blacklist.is_stop(words, keyword))
    for keyword in words[-1:]:
        if keyword in keywords and blacklist.is_stop(words, keyword):
            return Recipients((keywords[keyword],), keyword, stops=True)
    if blacklist.is_stop(words):
        return Recipients(tuple(sorted(set(keywords.values()))), "", stops=True)
    return Recipients((keywords[""],) if "" in keywords else (), "", stops=False)


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
            keywords = routes.to_number(conn, destination)
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
