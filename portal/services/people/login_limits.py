"""How often somebody may fail to log in, and by what that is counted: strangers must not lock a person out.

A browser in which the person has logged in before has a count of its own, and so has an address from which they have.
Everybody else shares one for each person, which whoever knows the e-mail address can use up; a link that is mailed to
the person makes their browser a known one for a quarter of an hour.
"""

import secrets
import sqlite3
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from portal.core.clock import DAY_MS, HOUR_MS, MINUTE_MS, now_ms
from portal.core.crypto import Keys, hash_token
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.common import rate_limit
from portal.services.common.errors import Refused, require_found
from portal.services.common.mail import queue_mail
from portal.services.people import login_mails
from portal.services.people.users import SELECT_USERS, User

PERIOD_MS = 15 * MINUTE_MS
# One address may stand for a whole office, and a wider network for more of them.
_ADDRESS_CAPACITY_FACTORS = (10, 20, 40)
_IPV6_PREFIX_LENGTHS = (64, 56, 48)
_NETWORK_RETENTION_MS = 90 * DAY_MS

LINK_VALID_MS = HOUR_MS
UNLOCKED_MS = 15 * MINUTE_MS
_MAX_LINKS_PER_HOUR = 3


class InvalidUnlockLink(Refused):
    sentence = N_("This link was used, or has run out. Ask for a new one where you log in.")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who tries to log in: their address, and the id of their browser where that is known with the e-mail address."""

    address: str
    known_browser: str = ""


def list_networks(address: str) -> list[str]:
    """The networks by which attempts from an address are counted: of IPv6 the /64, /56 and /48.

    Whoever has an IPv6 address has its /64; providers give out the wider ones.
    """
    parsed = ip_address(address)
    if not isinstance(parsed, IPv6Address):
        return [address]
    return [str(ip_network((parsed, length), strict=False)) for length in _IPV6_PREFIX_LENGTHS]


def list_buckets(
    conn: sqlite3.Connection, step: str, email: str, visitor: Visitor, max_failures: int
) -> list[tuple[str, int]]:
    """What an attempt is counted by: names of token buckets (see `rate_limit`), with their capacities.

    Args:
        step: of the login; each has counts of its own.
        max_failures: of one user, or of one known browser, in `PERIOD_MS`.
    """
    email = email.lower()
    if visitor.known_browser:
        return [(f"{step}:browser:{visitor.known_browser}:{email}", max_failures)]
    networks = list_networks(visitor.address)
    user_bucket = f"{step}:user:{email}"
    if is_known_network(conn, email, networks[0]):
        # The wider networks may hold strangers.
        user_bucket += f":{networks[0]}"
        networks = networks[:1]
    by_network = zip(networks, _ADDRESS_CAPACITY_FACTORS, strict=False)
    return [
        *((f"{step}:address:{network}", max_failures * factor) for network, factor in by_network),
        (user_bucket, max_failures),
    ]


def remember_network(conn: sqlite3.Connection, user: User, address: str) -> None:
    """Note in a transaction that a user has logged in from an address."""
    conn.execute(
        "INSERT INTO login_networks VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seen_at = excluded.seen_at",
        (user.id, list_networks(address)[0], now_ms()),
    )


def is_known_network(conn: sqlite3.Connection, email: str, network: str) -> bool:
    query = "SELECT 1 FROM login_networks JOIN users ON users.id = user_id WHERE users.email = ? AND network = ?"
    return conn.execute(query, (email, network)).fetchone() is not None


def forget_user(conn: sqlite3.Connection, user: User) -> None:
    """Forget in a transaction where a user has logged in from, and end their links."""
    conn.execute("DELETE FROM login_networks WHERE user_id = ?", (user.id,))
    conn.execute("DELETE FROM unlock_links WHERE user_id = ?", (user.id,))


def purge_login_networks(conn: sqlite3.Connection, now: int) -> None:
    """Delete networks from which nobody has logged in for three months, and links that have run out (`now` in ms)."""
    conn.execute("DELETE FROM login_networks WHERE seen_at < ?", (now - _NETWORK_RETENTION_MS,))
    conn.execute("DELETE FROM unlock_links WHERE expires_at <= ?", (now,))


# --- links that lift a lock


def queue_unlock_link(conn: sqlite3.Connection, keys: Keys, email: str, address: str, max_failures: int) -> None:
    """Mail a one-time link to a user who can't get in because others try. Where there is no such user nothing is sent.

    Earlier ones stay good, so that nobody ends them by asking for more; with three in an hour one is good at any time,
    and further ones aren't sent.

    Raises:
        TooManyAttempts: so many were asked for from this address.
    """
    networks = zip(list_networks(address), _ADDRESS_CAPACITY_FACTORS, strict=False)
    rate_limit.take_tokens(
        conn, [(f"unlock:address:{network}", max_failures * factor) for network, factor in networks], PERIOD_MS
    )
    row = conn.execute(
        SELECT_USERS + "WHERE users.email = ? AND users.totp_enrolled_at IS NOT NULL", (email.strip()[:254],)
    ).fetchone()
    if row is None:
        return
    user, token, now = User(*row), secrets.token_urlsafe(32), now_ms()
    with write_transaction(conn):
        try:
            rate_limit.take_token(conn, f"unlock:user:{user.id}", _MAX_LINKS_PER_HOUR, HOUR_MS)
        except rate_limit.TooManyAttempts:
            return
        insert_row(conn, "unlock_links", token_hash=hash_token(token), user_id=user.id, expires_at=now + LINK_VALID_MS)
        queue_mail(conn, keys, user.email, "unlock", login_mails.read_language(conn, user), token=token)


def get_user_by_unlock_link(conn: sqlite3.Connection, token: str) -> User:
    """Raises: InvalidUnlockLink, which is unknown, used or run out."""
    row = conn.execute(
        SELECT_USERS + "JOIN unlock_links AS link ON link.user_id = users.id"
        " WHERE link.token_hash = ? AND link.expires_at > ?",
        (hash_token(token), now_ms()),
    ).fetchone()
    return User(*require_found(row, InvalidUnlockLink()))


def use_unlock_link(conn: sqlite3.Connection, token: str) -> User:
    """Use up a link: the browser that has it is to be a known one for `UNLOCKED_MS`.

    Raises:
        InvalidUnlockLink
    """
    with write_transaction(conn):
        user = get_user_by_unlock_link(conn, token)
        conn.execute("DELETE FROM unlock_links WHERE token_hash = ?", (hash_token(token),))
        return user
