"""What the SMPP server keeps in memory of the accounts, and how it learns that something has changed."""

import hmac
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from portal.core.db import immediate
from portal.services.accounts.allowed_ips import Address, Network
from portal.services.prices import price_lists
from portal.services.senders import senders


@dataclass(frozen=True, slots=True)
class AllowedNetwork:
    network: Network
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Password:
    """One that is in force, or was: those that were replaced last are known, so that their users can be told."""

    id: int
    digest: bytes
    expires_at: int | None

    def in_force(self, now: int) -> bool:
        """Whether it may be used at this moment (milliseconds)."""
        return _in_force(self.expires_at, now)


@dataclass(frozen=True, slots=True)
class AccountConfig:
    """All that decides over an account's binds and submits, but its balance. A limit of 0 is none."""

    id: int
    name: str
    kind: str
    enabled: bool
    windowing: int
    throughput: int
    binds: int
    any_sender: bool
    version: int
    networks: tuple[AllowedNetwork, ...]
    passwords: tuple[Password, ...]
    senders: frozenset[str]
    ending: frozenset[int] = frozenset()
    """Ids of the account's sessions that somebody has asked to end."""
    data_codings: frozenset[int] = frozenset()
    """What its messages may be coded in beside GSM 03.38 and UCS-2 (SMPP 3.4, 5.2.19)."""
    packed_gsm: bool = False
    """GSM 03.38 comes packed, eight septets in seven octets, and not one a byte."""
    price_list: int = price_lists.DEFAULT_LIST
    """The id of the list by which its messages cost."""

    def has_network(self, now: int) -> bool:
        """Whether any address may bind at this moment (milliseconds)."""
        return any(_in_force(each.expires_at, now) for each in self.networks)

    def permits(self, address: Address, now: int) -> bool:
        """Whether a client from this address may bind. An IPv4 address mapped into IPv6 comes as the IPv4 one."""
        return any(
            _in_force(each.expires_at, now) and address.version == each.network.version and address in each.network
            for each in self.networks
        )

    def matching(self, digest: bytes) -> Password | None:
        """Which password has this digest: it may have been replaced, see `Password.in_force`.

        All are compared, each in constant time, so that the time taken tells nothing.
        """
        found = None
        for each in self.passwords:
            if hmac.compare_digest(each.digest, digest):
                found = each
        return found

    def password_id(self, digest: bytes, now: int) -> int | None:
        """Which password of those in force has this digest: the current one, or an older one in its grace period."""
        found = self.matching(digest)
        return found.id if found and found.in_force(now) else None

    def still_valid(self, password_id: int, address: Address, now: int) -> bool:
        """Whether a session that was bound with this password from this address may go on."""
        return (
            self.enabled
            and self.permits(address, now)
            and any(each.id == password_id and each.in_force(now) for each in self.passwords)
        )

    def next_expiry(self, now: int) -> int | None:
        """When (milliseconds) the next address or password of these runs out."""
        ends = [each.expires_at for each in self.networks] + [each.expires_at for each in self.passwords]
        return min((end for end in ends if end is not None and end > now), default=None)


def _in_force(expires_at: int | None, now: int) -> bool:
    return expires_at is None or expires_at > now


def version(conn: sqlite3.Connection) -> int:
    """A number that moves with every change of what `load` or `prices.load` returns. One row: cheap to ask often."""
    return int(conn.execute("SELECT value FROM counters WHERE name = 'config_version'").fetchone()[0])


def load(conn: sqlite3.Connection, since: int = -1) -> list[AccountConfig]:
    """The accounts that changed after a version; with -1 all of them. Deleted ones come as not enabled."""
    # One read transaction, so that an account and its addresses are of the same moment.
    conn.execute("BEGIN")
    try:
        rows = conn.execute(
            "SELECT accounts.*, price_list_id FROM accounts JOIN customers ON customers.id = customer_id"
            " WHERE config_version > ?",
            (since,),
        ).fetchall()
        networks, passwords, allowed, ending = (
            _by_account(conn, sql, since)
            for sql in (
                "SELECT account_id, network, allowed_ips.expires_at FROM allowed_ips",
                "SELECT account_id, smpp_passwords.id, digest, smpp_passwords.expires_at FROM smpp_passwords",
                f"SELECT account_id, address FROM senders WHERE status = '{senders.ENABLED}'",
                "SELECT account_id, id FROM connections WHERE ending_at IS NOT NULL",
            )
        )
    finally:
        conn.execute("COMMIT")
    return [
        AccountConfig(
            id=row["id"],
            name=row["name"],
            kind=row["kind"],
            enabled=row["disabled_at"] is None and row["deleted_at"] is None,
            windowing=row["windowing"],
            throughput=row["throughput"],
            binds=row["binds"],
            any_sender=bool(row["any_sender"]),
            version=row["config_version"],
            networks=tuple(AllowedNetwork(ip_network(text), ends) for _, text, ends in networks[row["id"]]),
            passwords=tuple(Password(*tuple(each)[1:]) for each in passwords[row["id"]]),
            senders=frozenset(address for _, address in allowed[row["id"]]),
            ending=frozenset(session_id for _, session_id in ending[row["id"]]),
            data_codings=frozenset(map(int, row["data_codings"].split())),
            packed_gsm=bool(row["packed_gsm"]),
            price_list=row["price_list_id"] or price_lists.DEFAULT_LIST,
        )
        for row in rows
    ]


def _by_account(conn: sqlite3.Connection, select: str, since: int) -> Mapping[int, list[sqlite3.Row]]:
    grouped: dict[int, list[sqlite3.Row]] = defaultdict(list)
    joined = "AND" if "WHERE" in select else "WHERE"
    condition = "account_id IN (SELECT id FROM accounts WHERE config_version > ?)"
    for row in conn.execute(f"{select} {joined} {condition}", (since,)):
        grouped[row["account_id"]].append(row)
    return grouped


def confirm(conn: sqlite3.Connection, versions: Mapping[int, int]) -> None:
    """Note that the SMPP server works by these versions of accounts (id to version): `UPDATING_IP` becomes OK."""
    with immediate(conn):
        conn.executemany(
            "UPDATE accounts SET applied_version = ?1 WHERE id = ?2 AND applied_version < ?1",
            [(seen, account_id) for account_id, seen in versions.items()],
        )


def unconfirmed(conn: sqlite3.Connection, account_id: int) -> bool:
    """Whether a saved change of the account has not reached the SMPP server yet."""
    row = conn.execute("SELECT applied_version < config_version FROM accounts WHERE id = ?", (account_id,)).fetchone()
    return bool(row[0])
