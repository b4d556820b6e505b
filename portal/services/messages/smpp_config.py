"""The configuration of accounts that the SMPP server holds in memory, and how it learns of changes."""

import hmac
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from portal.core.db import write_transaction
from portal.services.accounts import allowed_ips, refused_binds
from portal.services.accounts.accounts import NATIONAL_IGNORED
from portal.services.accounts.allowed_ips import IPAddress, IPNetwork
from portal.services.prices import price_lists
from portal.services.senders import senders


@dataclass(frozen=True, slots=True)
class SmppPassword:
    """A current or former password: a few replaced ones are known, so that a bind with one can be explained."""

    id: int
    digest: bytes
    expires_at: int | None

    def is_valid(self, now: int) -> bool:
        """Whether it may be used at this moment (milliseconds)."""
        return _is_unexpired(self.expires_at, now)


@dataclass(frozen=True, slots=True)
class AccountConfig:
    """All settings that decide about an account's binds and submits, except its balance. A limit of 0 means none."""

    id: int
    name: str
    kind: str
    enabled: bool
    windowing: int
    throughput: int
    binds: int
    any_sender: bool
    version: int
    networks: tuple[tuple[IPNetwork, int | None], ...]
    """Those that clients may bind from, each with when that ends (milliseconds); None: never."""
    passwords: tuple[SmppPassword, ...]
    senders: frozenset[str]
    ending_session_ids: frozenset[int] = frozenset()
    """The account's sessions that are to be unbound."""
    data_codings: frozenset[int] = frozenset()
    """The values of data_coding that it may use beside GSM 03.38 and UCS-2 (SMPP 3.4, 5.2.19)."""
    packed_gsm: bool = False
    """Whether it sends GSM 03.38 packed, eight septets in seven octets, instead of one in each octet."""
    national_numbers: str = NATIONAL_IGNORED
    """What TON 2 of a destination means, see `Account`."""
    price_list_id: int = price_lists.DEFAULT_LIST
    """The price list of its messages."""
    countries: frozenset[str] | None = None
    """Those that it may send to (ISO 3166 codes); None: all."""
    refused_pdus_until: int | None = None
    """Until when (milliseconds) its refused PDUs are kept; None: they aren't."""

    def permits_address(self, address: IPAddress, now: int) -> bool:
        """Whether a client from this address may bind. An IPv4 address mapped into IPv6 comes as the IPv4 one."""
        return allowed_ips.is_address_in(self._list_valid_networks(now), address)

    def _list_valid_networks(self, now: int) -> list[IPNetwork]:
        return [network for network, expires_at in self.networks if _is_unexpired(expires_at, now)]

    def find_bind_refusal(self, password: SmppPassword | None, address: IPAddress, now: int) -> str:
        """Return why a client with this password (None: a wrong one) at this address can't bind, or be bound any more.

        Returns:
            A constant of `refused_binds`; empty where it may.
        """
        if self.kind != "smpp":
            return refused_binds.CLASSIC_ACCOUNT
        if not self.enabled:
            return refused_binds.ACCOUNT_DISABLED
        if not self._list_valid_networks(now):
            return refused_binds.NO_IP
        if not self.permits_address(address, now):
            return refused_binds.NOT_AUTHORISED
        if password is None:
            return refused_binds.WRONG_PASSWORD
        return "" if password.is_valid(now) else refused_binds.REPLACED_PASSWORD

    def find_valid_password_id(self, digest: bytes, now: int) -> int | None:
        """The id of the valid password with this digest: the current one, or an older one in its grace period."""
        match = find_password(self.passwords, digest)
        return match.id if match and match.is_valid(now) else None

    def is_smpp_session_valid(self, password_id: int, address: IPAddress, now: int) -> bool:
        """Whether a session that was bound with this password from this address may go on."""
        password = next((each for each in self.passwords if each.id == password_id), None)
        return not self.find_bind_refusal(password, address, now)

    def next_access_expiry(self, now: int) -> int | None:
        """When (milliseconds) the next of its addresses or passwords expires; None: none of them does."""
        ends = [expires_at for _, expires_at in self.networks] + [each.expires_at for each in self.passwords]
        return min((end for end in ends if end is not None and end > now), default=None)


def find_password(passwords: Iterable[SmppPassword], digest: bytes) -> SmppPassword | None:
    """Find the password with this digest. It may have been replaced, see `SmppPassword.is_valid`.

    All are compared, each in constant time, so that the time taken reveals nothing.
    """
    match = None
    for each in passwords:
        if hmac.compare_digest(each.digest, digest):
            match = each
    return match


def _is_unexpired(expires_at: int | None, now: int) -> bool:
    return expires_at is None or expires_at > now


def read_config_version(conn: sqlite3.Connection) -> int:
    """The version of what `load_account_configs`, `prices.load_price_lists` and `upstreams.list_upstreams` return.

    It grows with each change. This reads one row, so it may be called often.
    """
    return int(conn.execute("SELECT value FROM counters WHERE name = 'config_version'").fetchone()[0])


# One statement, so that all tables are read in the same state.
_SELECT_CONFIGS = f"""
SELECT accounts.id, accounts.name, kind, disabled_at IS NULL AND accounts.deleted_at IS NULL AS enabled, windowing,
    throughput, binds, any_sender, config_version AS version, data_codings, packed_gsm, national_numbers,
    refused_pdus_until, coalesce(price_list_id, {price_lists.DEFAULT_LIST}) AS price_list_id,
    (SELECT json_group_array(json_array(network, expires_at)) FROM allowed_ips WHERE account_id = accounts.id)
        AS networks,
    (SELECT json_group_array(json_array(id, hex(digest), expires_at)) FROM smpp_passwords
        WHERE account_id = accounts.id) AS passwords,
    (SELECT json_group_array(address) FROM senders WHERE account_id = accounts.id AND +status = '{senders.ENABLED}')
        AS senders,
    (SELECT json_group_array(id) FROM connections WHERE account_id = accounts.id AND ending_at IS NOT NULL)
        AS ending_session_ids,
    (SELECT json_array(countries, own_countries) FROM brakes WHERE account_id = accounts.id) AS countries
FROM accounts JOIN customers ON customers.id = customer_id WHERE config_version > ?
"""


def load_account_configs(
    conn: sqlite3.Connection, since_version: int = -1, account_id: int | None = None
) -> list[AccountConfig]:
    """Load the accounts that changed after a version; with -1 all of them. Deleted ones are not `enabled`.

    Args:
        account_id: only this one.
    """
    configs = []
    one = () if account_id is None else (account_id,)
    for row in conn.execute(_SELECT_CONFIGS + " AND accounts.id = ?" * len(one), (since_version, *one)):
        values = dict(row)
        values |= {name: bool(row[name]) for name in ("enabled", "any_sender", "packed_gsm")}
        values |= {name: frozenset(json.loads(row[name])) for name in ("senders", "ending_session_ids")}
        values["data_codings"] = frozenset(map(int, row["data_codings"].split()))
        values["networks"] = tuple((ip_network(text), expires_at) for text, expires_at in json.loads(row["networks"]))
        values["passwords"] = tuple(
            SmppPassword(password_id, bytes.fromhex(digest), expires_at)
            for password_id, digest, expires_at in json.loads(row["passwords"])
        )
        allowed = [frozenset(each.split()) for each in json.loads(row["countries"] or "[]") if each is not None]
        values["countries"] = frozenset.intersection(*allowed) if allowed else None
        configs.append(AccountConfig(**values))
    return configs


def save_applied_config_versions(conn: sqlite3.Connection, versions: Mapping[int, int]) -> None:
    """Store that the SMPP server uses these versions of accounts (version by id): `UPDATING_IP` becomes OK."""
    with write_transaction(conn):
        conn.executemany(
            "UPDATE accounts SET applied_version = ?1 WHERE id = ?2 AND applied_version < ?1",
            [(applied, account_id) for account_id, applied in versions.items()],
        )


def has_unapplied_config_changes(conn: sqlite3.Connection, account_id: int) -> bool:
    """Whether the SMPP server does not use the latest change of the account yet."""
    row = conn.execute("SELECT applied_version < config_version FROM accounts WHERE id = ?", (account_id,)).fetchone()
    return bool(row[0])
