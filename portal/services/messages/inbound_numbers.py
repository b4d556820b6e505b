"""Inbound numbers: which numbers and short codes reach an account, and with which keyword where several share one."""

import re
import sqlite3
import unicodedata
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account, record_account_action
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, require_found
from portal.services.messages import blacklist

# A short code, or a number with its country code (E.164).
_MAX_SHORT_CODE_DIGITS = 8
_NUMBER_PATTERN = re.compile(r"[0-9]{3,8}|[1-9][0-9]{8,14}")
_WORD_PATTERN = re.compile(r"[^\W_]+")
_MAX_KEYWORD_LENGTH = 20


class InvalidInboundNumber(Refused, field="number"):
    sentence = N_(
        "“%(number)s” can't be a number that messages are sent to: it is a short code of 3 to 8 digits, or a number"
        " with its country code (393401234567)."
    )


class InvalidKeyword(Refused, field="keyword"):
    sentence = N_("A keyword is one word of at most %(length)s letters and digits.")


class ReservedKeyword(Refused, field="keyword"):
    sentence = N_("“%(keyword)s” can't be a keyword: it asks for no more messages.")


class InboundNumberTaken(Refused, field="number"):
    sentence = N_("What is sent to %(number)s reaches %(account)s already.")


class NoSuchInboundNumber(NotFound, field="number"):
    sentence = N_("%(number)s isn't in the list.")


@dataclass(frozen=True, slots=True)
class InboundNumber:
    """A number with its keyword in capitals. Without a keyword it gets all texts that begin with no other keyword."""

    id: int
    account_id: int
    number: str
    keyword: str
    created_at: int

    def __str__(self) -> str:
        return _format_inbound_number(self.number, self.keyword)


_SELECT_NUMBERS = "SELECT id, account_id, number, keyword, created_at FROM inbound_numbers "


def normalize_words(text: str) -> list[str]:
    """Split a text into words in the form in which keywords are compared: capitals, no accents, no punctuation."""
    plain = text
    if not text.isascii():
        plain = "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))
    return _WORD_PATTERN.findall(plain.upper())


def add_inbound_number(
    conn: sqlite3.Connection, actor: Actor, account: Account, number: str, keyword: str = ""
) -> InboundNumber:
    """Assign a number to an account: what is sent to it reaches the account.

    Args:
        number: as typed, with or without a plus.
        keyword: only texts that begin with it reach the account, where several share the number; empty: all others.

    Raises:
        InvalidInboundNumber, InvalidKeyword, ReservedKeyword, InboundNumberTaken
    """
    number, keyword = _parse_inbound_number(number), _parse_keyword(keyword)
    with write_transaction(conn):
        taken = conn.execute(
            "SELECT name FROM inbound_numbers JOIN accounts ON accounts.id = account_id"
            " WHERE number = ? AND keyword = ?",
            (number, keyword),
        ).fetchone()
        if taken:
            raise InboundNumberTaken(number=_format_inbound_number(number, keyword), account=taken[0])
        insert_row(conn, "inbound_numbers", account_id=account.id, number=number, keyword=keyword, created_at=now_ms())
        record_account_action(conn, actor, "number.add", account, number=number, keyword=keyword)
        return _get_inbound_number(conn, account, number, keyword)


def remove_inbound_number(
    conn: sqlite3.Connection, actor: Actor, account: Account, number: str, keyword: str = ""
) -> InboundNumber:
    """Take a number away from an account.

    Raises: NoSuchInboundNumber
    """
    number, keyword = normalize_inbound_number(number), keyword.strip()
    with write_transaction(conn):
        removed = _get_inbound_number(conn, account, number, "".join(normalize_words(keyword)))
        conn.execute("DELETE FROM inbound_numbers WHERE id = ?", (removed.id,))
        details = {"number": removed.number, "keyword": removed.keyword}
        record_account_action(conn, actor, "number.remove", account, **details)
    return removed


def get_inbound_number_by_id(conn: sqlite3.Connection, number_id: int) -> InboundNumber:
    """Raises: NoSuchInboundNumber"""
    row = conn.execute(_SELECT_NUMBERS + "WHERE id = ?", (number_id,)).fetchone()
    return InboundNumber(*require_found(row, NoSuchInboundNumber(number=number_id)))


def list_inbound_numbers(conn: sqlite3.Connection, account_id: int) -> list[InboundNumber]:
    """An account's numbers, sorted by number and keyword."""
    rows = conn.execute(_SELECT_NUMBERS + "WHERE account_id = ? ORDER BY number, keyword", (account_id,))
    return [InboundNumber(*row) for row in rows]


def get_accounts_by_keyword(conn: sqlite3.Connection, number: str) -> dict[str, int]:
    """The accounts that share a number: account id by keyword (empty: all other texts)."""
    rows = conn.execute("SELECT keyword, account_id FROM inbound_numbers WHERE number = ?", (number,))
    return dict(rows.fetchall())


def normalize_inbound_number(text: str) -> str:
    """A number as it was typed, without the plus or 00 in front of a country code; a short code may begin with 00."""
    number = text.strip().removeprefix("+")
    return number.removeprefix("00") if len(number) > _MAX_SHORT_CODE_DIGITS else number


def _parse_inbound_number(text: str) -> str:
    number = normalize_inbound_number(text)
    if not _NUMBER_PATTERN.fullmatch(number):
        raise InvalidInboundNumber(number=text)
    return number


def _parse_keyword(text: str) -> str:
    if not text.strip():
        return ""
    tokens = normalize_words(text)
    if len(tokens) != 1 or not _WORD_PATTERN.fullmatch(text.strip()) or len(tokens[0]) > _MAX_KEYWORD_LENGTH:
        raise InvalidKeyword(length=_MAX_KEYWORD_LENGTH)
    if tokens[0] in blacklist.STOP_WORDS:
        raise ReservedKeyword(keyword=text.strip())
    return tokens[0]


def _get_inbound_number(conn: sqlite3.Connection, account: Account, number: str, keyword: str) -> InboundNumber:
    row = conn.execute(
        _SELECT_NUMBERS + "WHERE account_id = ? AND number = ? AND keyword = ?", (account.id, number, keyword)
    ).fetchone()
    return InboundNumber(*require_found(row, NoSuchInboundNumber(number=_format_inbound_number(number, keyword))))


def _format_inbound_number(number: str, keyword: str) -> str:
    return f"{number} {keyword}".rstrip()
