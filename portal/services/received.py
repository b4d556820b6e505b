"""Messages from handsets (MO): which account each is for, keeping it, and obeying those that say STOP."""

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from portal.db import immediate, now_ms
from portal.services import blacklist, credits, deliveries

log = logging.getLogger(__name__)

_STOP_WORDS = frozenset(("STOP", "STOP SMS", "STOPSMS", "ARRET", "ARRÊT"))


@dataclass(slots=True)
class FromHandset:
    """What an upstream has got from a handset: E.164 digits of who sent it, the number or short code that it was sent
    to, its text; `body` instead where it is no text, `data_coding` as in SMPP 3.4, 5.2.19: 0, 4 or 8.
    """

    source: str
    destination: str
    text: str
    data_coding: int = 0
    udh: bytes | None = None
    body: bytes | None = None


def take_in(conn: sqlite3.Connection, messages: Sequence[FromHandset]) -> set[int]:
    """Store messages for the accounts that they are meant for, and let them wait for their receivers.

    One to a number that nobody has is let go.

    Returns:
        The ids of the accounts for which something waits now.
    """
    now = now_ms()
    added = []
    with immediate(conn):
        first = credits.next_ids(conn, "received", len(messages))
        for row_id, each in enumerate(messages, first):
            keywords = _routes(conn, each.destination)
            words = each.text.split()
            keyword = _keyword(words, keywords)
            if is_stop(words, keyword):
                said_to = {keywords[keyword]} if keyword in keywords else set(keywords.values())
                for account_id in said_to:
                    blacklist.add(conn, account_id, each.source, row_id)
            if keyword not in keywords:
                log.warning("nobody has what was sent to %s", each.destination)
                continue
            account_id = keywords[keyword]
            conn.execute(
                "INSERT INTO received (id, account_id, source, destination, keyword, text, body, udh, data_coding)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row_id,
                    account_id,
                    each.source,
                    each.destination,
                    keyword,
                    each.text,
                    each.body,
                    each.udh,
                    each.data_coding,
                ),
            )
            added.append((account_id, row_id))
        return deliveries.add_received(conn, added, now)


def is_stop(words: Sequence[str], keyword: str = "") -> bool:
    """Whether a text asks for no more messages: STOP, STOP SMS or ARRET, in any case, with its keyword or without."""
    said = [word.upper().strip(".!") for word in words if word.upper() != keyword]
    return " ".join(said) in _STOP_WORDS


def _routes(conn: sqlite3.Connection, number: str) -> dict[str, int]:
    """Whose a number is: keyword in capitals (empty: anything else) to account id."""
    rows = conn.execute("SELECT keyword, account_id FROM routes WHERE number = ?", (number,))
    return {keyword.upper(): account_id for keyword, account_id in rows}


def _keyword(words: Sequence[str], keywords: dict[str, int]) -> str:
    """The keyword that a text begins with, or that follows upon STOP; empty where there is none."""
    for word in words[:2]:
        if word.upper() in keywords:
            return word.upper()
        if word.upper() not in _STOP_WORDS:
            break
    return ""
