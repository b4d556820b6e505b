"""Routes: which numbers and short codes reach an account, and with which keyword where several share one."""

import re
import sqlite3
import unicodedata
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.core.db import immediate, insert
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.messages import blacklist

# A short code, or a number with its country code (E.164).
_NUMBER = re.compile(r"[0-9]{3,8}|[1-9][0-9]{8,14}")
_WORD = re.compile(r"[^\W_]+")
_KEYWORD_LENGTH = 20


class InvalidRouteNumber(Refused):
    sentence = N_(
        "“%(number)s” can't be a number that messages are sent to: it is a short code of 3 to 8 digits, or a number"
        " with its country code (393401234567)."
    )
    field = "number"


class InvalidKeyword(Refused):
    sentence = N_("A keyword is one word of at most %(length)s letters and digits.")
    field = "keyword"


class ReservedKeyword(Refused):
    sentence = N_("“%(keyword)s” can't be a keyword: it asks for no more messages.")
    field = "keyword"


class RouteTaken(Refused):
    sentence = N_("What is sent to %(route)s reaches %(account)s already.")
    field = "number"


class NoSuchRoute(Refused):
    sentence = N_("%(route)s isn't in the list.")
    field = "number"


@dataclass(frozen=True, slots=True)
class Route:
    """A number with its keyword in capitals; without one it takes whatever begins with no other one's keyword."""

    id: int
    account_id: int
    number: str
    keyword: str
    created_at: int

    def __str__(self) -> str:
        return _shown(self.number, self.keyword)


_SELECT = "SELECT id, account_id, number, keyword, created_at FROM routes "


def words(text: str) -> list[str]:
    """The words of a text as keywords are compared: in capitals, without accents and punctuation."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))
    return _WORD.findall(plain.upper())


def add(conn: sqlite3.Connection, actor: Actor, account: Account, number: str, keyword: str = "") -> Route:
    """Let what is sent to a number reach an account.

    Args:
        number: as typed, with or without a plus.
        keyword: only what begins with it, where several accounts share the number; empty: the rest.

    Raises:
        InvalidRouteNumber, InvalidKeyword, ReservedKeyword, RouteTaken
    """
    number, keyword = _number(number), _keyword(keyword)
    with immediate(conn):
        taken = conn.execute(
            "SELECT name FROM routes JOIN accounts ON accounts.id = account_id WHERE number = ? AND keyword = ?",
            (number, keyword),
        ).fetchone()
        if taken:
            raise RouteTaken(route=_shown(number, keyword), account=taken[0])
        insert(conn, "routes", account_id=account.id, number=number, keyword=keyword, created_at=now_ms())
        _record(conn, actor, "route.add", account, number, keyword)
        return _find(conn, account, number, keyword)


def remove(conn: sqlite3.Connection, actor: Actor, account: Account, number: str, keyword: str = "") -> Route:
    """Let what is sent to a number reach the account no more.

    Raises: NoSuchRoute
    """
    number, keyword = number.strip().removeprefix("+"), keyword.strip()
    with immediate(conn):
        removed = _find(conn, account, number, "".join(words(keyword)))
        conn.execute("DELETE FROM routes WHERE id = ?", (removed.id,))
        _record(conn, actor, "route.remove", account, removed.number, removed.keyword)
    return removed


def by_id(conn: sqlite3.Connection, route_id: int) -> Route:
    """Raises: NoSuchRoute"""
    row = conn.execute(_SELECT + "WHERE id = ?", (route_id,)).fetchone()
    if row is None:
        raise NoSuchRoute(route=route_id)
    return Route(*row)


def of_account(conn: sqlite3.Connection, account_id: int) -> list[Route]:
    """By number and keyword."""
    rows = conn.execute(_SELECT + "WHERE account_id = ? ORDER BY number, keyword", (account_id,))
    return [Route(*row) for row in rows]


def to_number(conn: sqlite3.Connection, number: str) -> dict[str, int]:
    """Whose a number is: keyword (empty: the rest) to account id."""
    rows = conn.execute("SELECT keyword, account_id FROM routes WHERE number = ?", (number,))
    return dict(rows.fetchall())


def _number(text: str) -> str:
    number = text.strip().removeprefix("+")
    if not _NUMBER.fullmatch(number):
        raise InvalidRouteNumber(number=text)
    return number


def _keyword(text: str) -> str:
    if not text.strip():
        return ""
    found = words(text)
    if len(found) != 1 or not _WORD.fullmatch(text.strip()) or len(found[0]) > _KEYWORD_LENGTH:
        raise InvalidKeyword(length=_KEYWORD_LENGTH)
    if found[0] in blacklist.STOP_WORDS:
        raise ReservedKeyword(keyword=text.strip())
    return found[0]


def _find(conn: sqlite3.Connection, account: Account, number: str, keyword: str) -> Route:
    row = conn.execute(
        _SELECT + "WHERE account_id = ? AND number = ? AND keyword = ?", (account.id, number, keyword)
    ).fetchone()
    if row is None:
        raise NoSuchRoute(route=_shown(number, keyword))
    return Route(*row)


def _shown(number: str, keyword: str) -> str:
    return f"{number} {keyword}".rstrip()


def _record(conn: sqlite3.Connection, actor: Actor, action: str, account: Account, number: str, keyword: str) -> None:
    audit.record(
        conn,
        actor,
        action,
        customer_id=account.customer_id,
        account_id=account.id,
        number=number,
        keyword=keyword,
    )
