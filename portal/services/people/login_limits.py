"""How often somebody may fail to log in, and by what that is counted: strangers must not lock a person out.

A browser in which the person has logged in before has a count of its own, and so has an address from which they have.
Everybody else shares one for each person, which whoever knows the e-mail address can use up (see `unlock_links`).
"""

import sqlite3
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from portal.core.clock import DAY_MS, MINUTE_MS, now_ms
from portal.services.people.users import User

PERIOD_MS = 15 * MINUTE_MS
# One address may stand for a whole office, and a wider network for more of them.
_ADDRESS_CAPACITY_FACTORS = (10, 20, 40)
_IPV6_PREFIX_LENGTHS = (64, 56, 48)
_NETWORK_RETENTION_MS = 90 * DAY_MS


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
    network = list_networks(visitor.address)[0]
    network_buckets = list_network_buckets(step, visitor.address, max_failures)
    if is_known_network(conn, email, network):
        # The wider networks may hold strangers.
        return [network_buckets[0], (f"{step}:user:{email}:{network}", max_failures)]
    return [*network_buckets, (f"{step}:user:{email}", max_failures)]


def list_network_buckets(step: str, address: str, max_failures: int) -> list[tuple[str, int]]:
    """Those of `list_buckets` that count all attempts from an address, whoever is tried."""
    networks = zip(list_networks(address), _ADDRESS_CAPACITY_FACTORS, strict=False)
    return [(f"{step}:address:{network}", max_failures * factor) for network, factor in networks]


def remember_network(conn: sqlite3.Connection, user: User, address: str) -> None:
    """Note in a transaction that a user has logged in from an address."""
    conn.execute(
        "INSERT INTO login_networks VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seen_at = excluded.seen_at",
        (user.id, list_networks(address)[0], now_ms()),
    )


def is_known_network(conn: sqlite3.Connection, email: str, network: str) -> bool:
    query = "SELECT 1 FROM login_networks JOIN users ON users.id = user_id WHERE users.email = ? AND network = ?"
    return conn.execute(query, (email, network)).fetchone() is not None


def forget_networks(conn: sqlite3.Connection, user: User, keep_address: str = "") -> None:
    """Forget in a transaction where a user has logged in from, but for the network of one address."""
    kept = list_networks(keep_address)[0] if keep_address else ""
    conn.execute("DELETE FROM login_networks WHERE user_id = ? AND network <> ?", (user.id, kept))


def purge_login_networks(conn: sqlite3.Connection, now: int) -> None:
    """Delete networks from which nobody has logged in for three months (`now` in milliseconds)."""
    conn.execute("DELETE FROM login_networks WHERE seen_at < ?", (now - _NETWORK_RETENTION_MS,))
