"""Brakes: to which countries an account sends, how much in a day and to one number, and what unusual traffic leads to.

Operators set them for an account, and for new accounts; an account's owner may make them stricter. What they refuse is
counted with all else that is refused (`refusals`).
"""

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, NamedTuple

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_, format_credits, format_number, gettext
from portal.services.accounts import refusals
from portal.services.accounts.accounts import Account, record_account_action
from portal.services.accounts.refusals import RefusalGroup
from portal.services.accounts.refused_messages import COUNTRY, DAY_CREDITS, DAY_MESSAGES, HOUR_MESSAGES
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.prices import countries

# What unusual traffic leads to, from the mildest to the strictest.
OFF, ALERT, HOLD = "off", "alert", "hold"
REACTION_TEXTS = {
    OFF: N_("Nobody is told"),
    ALERT: N_("Owners and operators get a mail"),
    HOLD: N_("A mail, and messages wait until somebody releases them"),
}
REACTIONS = tuple(REACTION_TEXTS)

COUNTRY_TEXT = N_("This account sends no messages to %(country)s: whoever has set its countries can add this one.")
LIMIT_TEXTS = {
    DAY_MESSAGES: N_(
        "The most messages a day (%(limit)s) were reached. From midnight (UTC) on it sends again, or as soon as the"
        " limit is raised."
    ),
    DAY_CREDITS: N_(
        "The most credits a day (%(limit)s) were reached. From midnight (UTC) on it sends again, or as soon as the"
        " limit is raised."
    ),
    HOUR_MESSAGES: N_(
        "The most messages an hour to one number (%(limit)s) were reached. From the next hour on it sends to it again,"
        " or as soon as the limit is raised."
    ),
}

REFUSAL_REASONS = (COUNTRY, *LIMIT_TEXTS)
_LIMIT_PATTERN = re.compile("[0-9]{1,12}")
_SEPARATORS = re.compile(r"[\s,;]+")
_ALL = "all"


class InvalidCountry(Refused, field="countries"):
    sentence = N_("“%(text)s” is no country. Write codes such as IT or FR, with spaces between them.")


class InvalidBrakeLimit(Refused):
    sentence = N_("“%(text)s” can't be a limit: it is a number above 0, or empty for none.")


class LimitNotStricter(Refused):
    sentence = N_("The operator has set %(most)s: here it can only be less.")


class CountriesNotStricter(Refused, field="countries"):
    sentence = N_("The operator allows no messages to %(countries)s: here countries can only be left out.")


class ReactionNotStricter(Refused, field="unusual"):
    sentence = N_("The operator has chosen something stricter: here it can't be milder.")


@dataclass(frozen=True, slots=True)
class Brakes:
    """One set of brakes; None: no limit, and all countries.

    countries: ISO 3166 codes of those that may be sent to.
    day_messages, day_credits: the most submits, and thousandths of a credit, on a day in UTC.
    hour_messages: the most submits to one number in an hour of the clock.
    unusual: OFF, ALERT or HOLD.
    """

    countries: frozenset[str] | None = None
    day_messages: int | None = None
    day_credits: int | None = None
    hour_messages: int | None = None
    unusual: str = ALERT

    @property
    def fingerprint(self) -> str:
        """Another text for other brakes; a form carries what it was drawn with."""
        return "|".join("" if each is None else str(each) for each in _row_from_brakes(self))

    def combine(self, other: "Brakes") -> "Brakes":
        """Both: of each the stricter one."""
        both = [each.countries for each in (self, other) if each.countries is not None]
        return Brakes(
            frozenset.intersection(*both) if both else None,
            _lower(self.day_messages, other.day_messages),
            _lower(self.day_credits, other.day_credits),
            _lower(self.hour_messages, other.hour_messages),
            max(self.unusual, other.unusual, key=REACTIONS.index),
        )


_LIMITS = ("day_messages", "day_credits", "hour_messages")
_COLUMNS = tuple(each.name for each in fields(Brakes))
NO_BRAKES = Brakes()
NO_OWN_BRAKES = Brakes(unusual=OFF)


class BrakesChangedMeanwhile(Refused):
    """`found`: what is set now."""

    sentence = N_("Somebody else has changed the brakes meanwhile. Look at what is set now, and send yours once more.")

    def __init__(self, found: Brakes) -> None:
        super().__init__()
        self.found = found


class AccountBrakes(NamedTuple):
    """What operators, and what the owner has set; `in_force`: both."""

    operator: Brakes
    own: Brakes

    @property
    def in_force(self) -> Brakes:
        return self.operator.combine(self.own)


CAPS_SQL = ", ".join(
    f"min(coalesce({name}, own_{name}), coalesce(own_{name}, {name})) AS {column}"
    for name, column in zip(_LIMITS, ("most_messages", "most_credits", "most_to_number"), strict=True)
)
"""SQL for the limits of a row of `brakes` that are in force, as columns; NULL: none."""
HAS_BRAKES_SQL = "EXISTS (SELECT 1 FROM brakes)"
"""SQL for whether anything is set for any account."""


def _lower(first: int | None, second: int | None) -> int | None:
    return min((each for each in (first, second) if each is not None), default=None)


# --- what is typed


def parse_countries(text: str) -> frozenset[str] | None:
    """Read ISO 3166 codes with spaces, commas or lines between them; None for all countries: nothing, or `all`.

    Raises:
        InvalidCountry
    """
    codes = [each.upper() for each in _SEPARATORS.split(text) if each]
    if codes in ([], [_ALL.upper()]):
        return None
    for each in codes:
        if each not in countries.COUNTRIES:
            raise InvalidCountry(text=each)
    return frozenset(codes)


def format_countries(codes: frozenset[str] | None) -> str:
    """The codes in their order, with spaces between them; empty: all."""
    return " ".join(sorted(codes or ()))


def parse_limit(field: str, text: str) -> int | None:
    """Read a limit as it was typed into `field`; None: none.

    Raises:
        InvalidBrakeLimit
    """
    text = text.strip()
    if not text:
        return None
    if not _LIMIT_PATTERN.fullmatch(text):
        raise InvalidBrakeLimit(field=field, text=text)
    return int(text) or None


# --- what is set


def get_brakes(conn: sqlite3.Connection, account_id: int) -> AccountBrakes:
    """What is set for an account."""
    columns = ", ".join((*_COLUMNS, *(f"own_{name}" for name in _COLUMNS)))
    row = conn.execute(f"SELECT {columns} FROM brakes WHERE account_id = ?", (account_id,)).fetchone()
    if row is None:
        return AccountBrakes(NO_BRAKES, NO_OWN_BRAKES)
    middle = len(_COLUMNS)
    return AccountBrakes(_brakes_from_row(row[:middle]), _brakes_from_row(row[middle:]))


def get_default_brakes(conn: sqlite3.Connection) -> Brakes:
    """What new accounts get."""
    row = conn.execute(f"SELECT {', '.join(_COLUMNS)} FROM brake_defaults").fetchone()
    return NO_BRAKES if row is None else _brakes_from_row(tuple(row))


def _brakes_from_row(row: Sequence[Any]) -> Brakes:
    codes, *others = row
    return Brakes(None if codes is None else frozenset(codes.split()), *others)


def _row_from_brakes(brakes: Brakes) -> tuple[object, ...]:
    codes, *others = astuple(brakes)
    return (None if codes is None else format_countries(codes), *others)


def set_brakes(
    conn: sqlite3.Connection, actor: Actor, account: Account, brakes: Brakes, *, seen: str | None = None
) -> None:
    """Set an operator's brakes of an account; open sessions go on under them. Where they are set already, nothing is
    done.

    Args:
        seen: the fingerprint of what was set when the form was shown; None: whatever is set is replaced.

    Raises:
        BrakesChangedMeanwhile
    """
    with write_transaction(conn):
        before = get_brakes(conn, account.id).operator
        if brakes == before:
            return
        if seen not in (None, before.fingerprint):
            raise BrakesChangedMeanwhile(before)
        _write_brakes(conn, account.id, "", brakes)
        record_account_action(conn, actor, "brakes.set", account, **_describe_change(brakes))


def set_own_brakes(
    conn: sqlite3.Connection, actor: Actor, account: Account, own: Brakes, *, seen: str | None = None
) -> None:
    """Set what an account's owner wants stricter than operators do.

    Raises:
        LimitNotStricter, CountriesNotStricter, ReactionNotStricter, BrakesChangedMeanwhile
    """
    with write_transaction(conn):
        before = get_brakes(conn, account.id)
        if own == before.own:
            return
        if seen not in (None, before.own.fingerprint):
            raise BrakesChangedMeanwhile(before.own)
        _check_stricter(own, before.operator)
        _write_brakes(conn, account.id, "own_", own)
        record_account_action(conn, actor, "brakes.own", account, **_describe_change(own))


def _check_stricter(own: Brakes, operator: Brakes) -> None:
    for name in _LIMITS:
        wanted, most = getattr(own, name), getattr(operator, name)
        if wanted is not None and most is not None and wanted > most:
            raise LimitNotStricter(field=name, most=format_limit(name, most))
    if own.countries is not None and operator.countries is not None and not own.countries <= operator.countries:
        raise CountriesNotStricter(countries=format_countries(own.countries - operator.countries))
    if own.unusual != OFF and REACTIONS.index(own.unusual) < REACTIONS.index(operator.unusual):
        raise ReactionNotStricter()


def set_default_brakes(conn: sqlite3.Connection, actor: Actor, brakes: Brakes, *, seen: str | None = None) -> None:
    """Set what new accounts get; those that exist keep what they have. `seen`: as in `set_brakes`.

    Raises:
        BrakesChangedMeanwhile
    """
    with write_transaction(conn):
        before = get_default_brakes(conn)
        if brakes == before:
            return
        if seen not in (None, before.fingerprint):
            raise BrakesChangedMeanwhile(before)
        conn.execute(
            f"INSERT OR REPLACE INTO brake_defaults (id, {', '.join(_COLUMNS)}) VALUES (1, ?, ?, ?, ?, ?)",
            _row_from_brakes(brakes),
        )
        audit.record_action(conn, actor, "brakes.default", **_describe_change(brakes))


def _write_brakes(conn: sqlite3.Connection, account_id: int, prefix: str, brakes: Brakes) -> None:
    columns = [f"{prefix}{name}" for name in _COLUMNS]
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
    conn.execute(
        f"INSERT INTO brakes (account_id, {', '.join(columns)}) VALUES (?, ?, ?, ?, ?, ?)"
        f" ON CONFLICT (account_id) DO UPDATE SET {changes}",
        (account_id, *_row_from_brakes(brakes)),
    )
    if get_brakes(conn, account_id) == AccountBrakes(NO_BRAKES, NO_OWN_BRAKES):
        # While no account has a row (`HAS_BRAKES_SQL`), nothing is looked at for brakes.
        conn.execute("DELETE FROM brakes WHERE account_id = ?", (account_id,))


def _describe_change(brakes: Brakes) -> dict[str, Any]:
    return dict(zip(_COLUMNS, _row_from_brakes(brakes), strict=True))


def format_limit(name: str, limit: int) -> str:
    """A limit in the language in use; `day_credits` is in thousandths."""
    return format_credits(limit) if name == DAY_CREDITS else format_number(limit)


# --- what was refused


def list_refused_messages(conn: sqlite3.Connection, account_id: int) -> list[RefusalGroup]:
    """What brakes have refused to an account in the last day, the latest first."""
    found = refusals.list_refusals(conn, account_id, now_ms() - DAY_MS, is_bind=False)
    return [each for each in found if each.reason in REFUSAL_REASONS]


def explain_refusal(reason: str, country: str, in_force: Brakes) -> str:
    """Why messages were refused, and what helps, in the language in use; empty where it is so no more.

    Args:
        country: with COUNTRY, its code.
        in_force: the account's brakes as they are now.
    """
    if reason == COUNTRY:
        allowed = in_force.countries
        if allowed is None or country in allowed:
            return ""
        return gettext(COUNTRY_TEXT, country=countries.get_country_name(country))
    limit = getattr(in_force, reason)
    return "" if limit is None else gettext(LIMIT_TEXTS[reason], limit=format_limit(reason, limit))
