"""The addresses from which an account's clients may bind."""

import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from zoneinfo import ZoneInfo

from portal.core.clock import DAY_MS, HOUR_MS, MINUTE_MS, now_ms
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account, record_account_action
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, require_found
from portal.services.common.periods import LATEST_SHOWN_MS, day_start_ms, parse_moment

_MAX_LABEL_LENGTH = 60
# What a customer may open at most. Wider ranges are whole providers or the internet, so the list would protect nothing.
_MIN_PREFIX_LENGTHS = {4: 8, 6: 16}
_DURATION_PATTERN = re.compile(r"([1-9][0-9]{0,3})([mhd])")
_UNIT_MS = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}

IPNetwork = IPv4Network | IPv6Network
IPAddress = IPv4Address | IPv6Address


class InvalidIPAddress(Refused, field="network"):
    sentence = N_("“%(text)s” isn't an IP address or range. Examples: 203.0.113.7, 203.0.113.0/24, 2001:db8::/64.")


class HostBitsSet(Refused, field="network"):
    sentence = N_(
        "%(text)s names one computer and a range at once. Did you mean %(address)s, or the range %(network)s?"
    )


class UnusableIPAddress(Refused, field="network"):
    sentence = N_("No client can come from %(text)s: it is an unspecified, multicast or reserved address.")


class IPRangeTooWide(Refused, field="network"):
    sentence = N_(
        "%(text)s would let a large part of the internet in. An IPv4 range has at least /%(v4)s, an IPv6 range at"
        " least /%(v6)s."
    )


class AllowedIPExists(Refused, field="network"):
    sentence = N_("%(text)s is already in the list.")


class AllowedIPAlreadyCovered(Refused, field="network"):
    sentence = N_("%(text)s is already covered by %(network)s.")


class TooManyAllowedIPs(Refused, field="network"):
    sentence = N_("All %(limit)s addresses are in use. Remove one, or join several into a range.")


class IPExpiryNotInFuture(Refused, field="expires"):
    sentence = N_("The end must lie in the future.")


class InvalidIPExpiry(Refused, field="expires"):
    sentence = N_("“%(text)s” isn't a date and time. Example: 2027-01-31 18:00.")


class IPLabelTooLong(Refused, field="label"):
    sentence = N_("A label has at most %(length)s characters.")


class NotSmppAccount(Refused):
    sentence = N_("%(name)s is a classic account: no IP addresses belong to it.")


class NoSuchAllowedIP(NotFound):
    sentence = N_("That address isn't in the list.")


@dataclass(frozen=True, slots=True)
class AllowedIP:
    """One entry. `expires_at` in milliseconds; None: stays until removed."""

    id: int
    network: str
    label: str
    expires_at: int | None


def unmap_ipv4(address: IPAddress) -> IPAddress:
    """The IPv4 address that is mapped into an IPv6 one (RFC 4291, 2.5.5.2); of others the same."""
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def parse_ip_network(text: str) -> IPNetwork:
    """Read an address or a range as people type them.

    An IPv4 address that is mapped into IPv6 (RFC 4291, 2.5.5.2) counts as the IPv4 address that it is: that is how
    the server sees the client.

    Raises:
        InvalidIPAddress, HostBitsSet, UnusableIPAddress, IPRangeTooWide
    """
    text = text.strip()
    if "%" in text:
        # A zone (fe80::1%eth0) means something on one machine only.
        raise InvalidIPAddress(text=text)
    try:
        network: IPNetwork = ip_network(text, strict=False)
    except ValueError:
        raise InvalidIPAddress(text=text) from None
    host = text.partition("/")[0]
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        # Of a network that is wider than those 32 bits the first address is no mapped one.
        host = str(ip_address(host).ipv4_mapped)  # type: ignore[union-attr]
        network = ip_network(f"{host}/{network.prefixlen - 96}", strict=False)
    if network.prefixlen < _MIN_PREFIX_LENGTHS[network.version]:
        raise IPRangeTooWide(text=text, v4=_MIN_PREFIX_LENGTHS[4], v6=_MIN_PREFIX_LENGTHS[6])
    if network.is_unspecified or network.is_multicast or _is_reserved_network(network):
        raise UnusableIPAddress(text=text)
    if network.network_address != ip_address(host):
        raise HostBitsSet(text=text, address=host, network=format_ip_network(network))
    return network


def _is_reserved_network(network: IPNetwork) -> bool:
    this_network = isinstance(network, IPv4Network) and network.network_address.packed[0] == 0
    # ipaddress counts ::1 as reserved too (all of ::/8 is), and a client on the same machine comes from there.
    return this_network or (network.is_reserved and not network.is_loopback)


def format_ip_network(network: IPNetwork) -> str:
    """As people write it: a single address without its prefix length."""
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def parse_ip_expiry(text: str, timezone: str) -> int | None:
    """Read when an entry stops being good, as forms send it.

    Args:
        text: empty or `never`; a time from now such as `8h` or `7d`; `tonight`, which is the end of the day; or a date
            and time (ISO 8601).
        timezone: IANA name; that of the day, and of a date and time without one.

    Returns:
        Milliseconds; None: never.

    Raises:
        InvalidIPExpiry
    """
    text = text.strip()
    if text in ("", "never"):
        return None
    if duration := _DURATION_PATTERN.fullmatch(text):
        return now_ms() + int(duration[1]) * _UNIT_MS[duration[2]]
    if text == "tonight":
        zone = ZoneInfo(timezone)
        return day_start_ms(datetime.now(zone).date() + timedelta(days=1), zone)
    return parse_moment(text, timezone, InvalidIPExpiry(text=text))


def add_allowed_ip(
    conn: sqlite3.Connection,
    actor: Actor,
    account: Account,
    text: str,
    *,
    label: str = "",
    expires_at: int | None = None,
    limit: int = 10,
) -> AllowedIP:
    """Authorise an address or a range.

    Args:
        text: IPv4, IPv6 or CIDR, as typed.
        label: what it is, for the reader of the list.
        expires_at: when it stops being good (milliseconds); None: never.
        limit: how many an account may have.

    Raises:
        InvalidIPAddress, HostBitsSet, UnusableIPAddress, IPRangeTooWide, AllowedIPExists, AllowedIPAlreadyCovered,
        TooManyAllowedIPs, IPExpiryNotInFuture, IPLabelTooLong, NotSmppAccount
    """
    if account.kind != "smpp":
        raise NotSmppAccount(name=account.name)
    network = parse_ip_network(text)
    label = " ".join(label.split())
    if len(label) > _MAX_LABEL_LENGTH:
        raise IPLabelTooLong(length=_MAX_LABEL_LENGTH)
    now = now_ms()
    if expires_at is not None and not now < expires_at <= LATEST_SHOWN_MS:
        raise IPExpiryNotInFuture()
    with write_transaction(conn):
        conn.execute("DELETE FROM allowed_ips WHERE account_id = ? AND expires_at <= ?", (account.id, now))
        existing = list_allowed_ips(conn, account.id)
        for each in existing:
            _check_overlap(network, each)
        if len(existing) >= limit:
            raise TooManyAllowedIPs(limit=limit)
        columns: dict[str, Any] = {
            "network": format_ip_network(network),
            "label": label,
            "expires_at": expires_at,
        }
        ip_id = insert_row(conn, "allowed_ips", account_id=account.id, created_at=now, **columns)
        record_account_action(conn, actor, "ip.add", account, **columns)
    return AllowedIP(ip_id, **columns)


def _check_overlap(network: IPNetwork, existing: AllowedIP) -> None:
    existing_network = ip_network(existing.network)
    if network == existing_network:
        raise AllowedIPExists(text=existing.network)
    # An entry that will run out covers nothing for good: a lasting one inside it is worth having.
    # mypy doesn't see that the same version means the same class.
    covers = network.version == existing_network.version and network.subnet_of(existing_network)  # type: ignore[arg-type]
    if covers and existing.expires_at is None:
        raise AllowedIPAlreadyCovered(text=format_ip_network(network), network=existing.network)


def remove_allowed_ip(conn: sqlite3.Connection, actor: Actor, account: Account, ip_id: int) -> AllowedIP:
    """Take an entry off the list; sessions that only it allowed are unbound.

    Returns:
        What was removed, so that it can be put back.

    Raises:
        NoSuchAllowedIP: it isn't in this account's list (any more).
    """
    with write_transaction(conn):
        removed = get_allowed_ip_by_id(conn, account.id, ip_id)
        conn.execute("DELETE FROM allowed_ips WHERE id = ?", (ip_id,))
        record_account_action(conn, actor, "ip.remove", account, network=removed.network)
    return removed


def get_allowed_ip_by_id(conn: sqlite3.Connection, account_id: int, ip_id: int) -> AllowedIP:
    """Raises: NoSuchAllowedIP"""
    return _get_allowed_ip(conn, account_id, "id", ip_id)


def get_allowed_ip_by_network(conn: sqlite3.Connection, account_id: int, text: str) -> AllowedIP:
    """The entry for exactly this address or range.

    Raises:
        NoSuchAllowedIP; and as `parse_ip_network`
    """
    return _get_allowed_ip(conn, account_id, "network", format_ip_network(parse_ip_network(text)))


def _get_allowed_ip(conn: sqlite3.Connection, account_id: int, column: str, value: int | str) -> AllowedIP:
    row = conn.execute(
        f"SELECT id, network, label, expires_at FROM allowed_ips WHERE {column} = ? AND account_id = ?",
        (value, account_id),
    ).fetchone()
    return AllowedIP(*require_found(row, NoSuchAllowedIP()))


def list_allowed_ips(conn: sqlite3.Connection, account_id: int) -> list[AllowedIP]:
    """The entries that are in force, oldest first."""
    rows = conn.execute(
        "SELECT id, network, label, expires_at FROM allowed_ips"
        " WHERE account_id = ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY id",
        (account_id, now_ms()),
    )
    return [AllowedIP(*row) for row in rows]


def is_ip_allowed(entries: list[AllowedIP], address: str) -> bool:
    """Whether these entries, all in force, let a client from this address bind."""
    return is_address_in((ip_network(each.network) for each in entries), unmap_ipv4(ip_address(address)))


def is_address_in(networks: Iterable[IPNetwork], address: IPAddress) -> bool:
    """Whether one of the networks has the address. An IPv4 address mapped into IPv6 comes as the IPv4 one."""
    return any(address in each for each in networks)
