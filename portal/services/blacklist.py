"""Numbers that have said STOP to an account: nothing is sent to them, and nothing is charged."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from portal.db import immediate, now_ms
from portal.i18n import N_
from portal.services import audit, countries
from portal.services.accounts import Account
from portal.services.audit import Actor
from portal.services.errors import Refused
from portal.services.messages import Submit, ToSend

# What a handset says to get no more messages, as `routes.words` reads it.
_STOP = (["STOP"], ["STOP", "SMS"], ["STOPSMS"], ["ARRET"])
STOP_WORDS = frozenset(word for phrase in _STOP for word in phrase)


class InvalidNumber(Refused):
    sentence = N_("“%(number)s” is no phone number: digits with the country code first (393401234567).")
    field = "number"


class NotListed(Refused):
    sentence = N_("%(number)s isn't on the blacklist.")
    field = "number"


@dataclass(frozen=True, slots=True)
class Listed:
    """A number, since when (milliseconds), and the message with which it has said STOP, where one did."""

    number: str
    since: int
    received_id: int | None


def normalised(number: str) -> str:
    """A handset's number as the destinations of messages are written: E.164 digits.

    Raises: InvalidNumber
    """
    digits = number.strip().removeprefix("+")
    if countries.country_of(digits) is None:
        raise InvalidNumber(number=number)
    return digits


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


def stop(conn: sqlite3.Connection, account_id: int, number: str, received_id: int) -> None:
    """Put a number that has said STOP on an account's blacklist; one that is there stays as it is."""
    with immediate(conn):
        _insert(conn, account_id, number, received_id)


def add(conn: sqlite3.Connection, actor: Actor, account: Account, number: str) -> Listed:
    """Put a number on an account's blacklist; one that is there stays as it is.

    Raises: InvalidNumber
    """
    number = normalised(number)
    with immediate(conn):
        if _insert(conn, account.id, number, None):
            _record(conn, actor, "blacklist.add", account, number)
        return _listed(conn, account, number)


def remove(conn: sqlite3.Connection, actor: Actor, account: Account, number: str) -> Listed:
    """Take a number off: messages reach it again.

    Raises: NotListed
    """
    number = number.strip().removeprefix("+")
    with immediate(conn):
        removed = _listed(conn, account, number)
        conn.execute("DELETE FROM blacklist WHERE account_id = ? AND number = ?", (account.id, number))
        _record(conn, actor, "blacklist.remove", account, number)
    return removed


def of_account(conn: sqlite3.Connection, account_id: int) -> list[Listed]:
    """By number."""
    rows = conn.execute(
        "SELECT number, since, received_id FROM blacklist WHERE account_id = ? ORDER BY number", (account_id,)
    )
    return [Listed(*row) for row in rows]


def _insert(conn: sqlite3.Connection, account_id: int, number: str, received_id: int | None) -> bool:
    inserted = conn.execute(
        "INSERT INTO blacklist VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (account_id, number, now_ms(), received_id)
    )
    return inserted.rowcount > 0


def _listed(conn: sqlite3.Connection, account: Account, number: str) -> Listed:
    row = conn.execute(
        "SELECT number, since, received_id FROM blacklist WHERE account_id = ? AND number = ?", (account.id, number)
    ).fetchone()
    if row is None:
        raise NotListed(number=number)
    return Listed(*row)


def _record(conn: sqlite3.Connection, actor: Actor, action: str, account: Account, number: str) -> None:
    audit.record(conn, actor, action, customer_id=account.customer_id, account_id=account.id, number=number)
