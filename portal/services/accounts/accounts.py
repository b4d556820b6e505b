"""Accounts: creating them, what state they are in, switching them off and on."""

import re
import secrets
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, Unpack

from portal.core.clock import now_ms
from portal.core.db import insert_row, update_row, write_transaction
from portal.core.gsm0338 import Encoding
from portal.core.i18n import N_
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, parse_whole_number, require_found

DEFAULT_WINDOWING = 10
DEFAULT_THROUGHPUT = 20
DEFAULT_BINDS = 1

# SMPP 3.4, 5.2.19: the values of data_coding that an account may be allowed beside GSM 03.38 (0) and UCS-2 (8).
OPTIONAL_DATA_CODINGS = frozenset((Encoding.ASCII, Encoding.LATIN_1, Encoding.BINARY))

# What TON 2 (national) of a destination means (SMPP 3.4, 5.2.5), beside a country's code.
NATIONAL_IGNORED, NATIONAL_REFUSED = "ignored", "refused"

# SMPP 3.4, 5.2.1: system_id is a C-octet string of at most 16 octets with its NUL.
_NAME_PATTERN = re.compile(r"(smpp|sms)-[a-z0-9][a-z0-9-]*")
_MAX_NAME_LENGTH = 15
_MAX_LIMIT = 100_000

# Classic accounts have no SMPP login, so nothing of theirs waits for an IP or for the server.
SUCCESS = "SUCCESS"
WAITING_IP = "WAITING_IP"
UPDATING_IP = "UPDATING_IP"
ERROR = "ERROR"
ON_HOLD = "ON_HOLD"
STATUS_LABELS = {
    SUCCESS: N_("OK"),
    WAITING_IP: N_("Waiting for your IPs"),
    UPDATING_IP: N_("Updating"),
    ERROR: N_("Disabled"),
    ON_HOLD: N_("On hold"),
}


class NoSuchAccount(NotFound, field="account"):
    sentence = N_("There is no account “%(name)s”.")


class AccountExists(Refused, field="name"):
    sentence = N_("There is already an account “%(name)s”.")


class InvalidAccountName(Refused, field="name"):
    sentence = N_(
        "“%(name)s” can't be an account's name: it begins with %(kind)s-, goes on with small letters, digits and"
        " hyphens, and has at most 15 characters, like %(kind)s-acme-1."
    )


class InvalidAccountLimit(Refused):
    sentence = N_("“%(value)s” can't be a limit: it is a whole number from 0 (no limit) to 100000.")


class InvalidDataCoding(Refused, field="data_codings"):
    sentence = N_("“%(value)s” isn't among the data codings that an account can be allowed: 1, 3, 4.")


class InvalidNationalNumbers(Refused, field="national_numbers"):
    sentence = N_(
        "“%(value)s” doesn't say what becomes of national numbers (TON 2): it is ignored, refused, or the code of a"
        " country, such as IT."
    )


@dataclass(frozen=True, slots=True)
class Account:
    """An account as pages and commands see it. Limits are 0 where there is none; `balance` is in thousandths.

    `data_codings` are those of OPTIONAL_DATA_CODINGS that its messages may have; `packed_gsm`: GSM 03.38 comes as
    packed septets, not one a byte. `national_numbers` says what TON 2 of a destination means: nothing
    (NATIONAL_IGNORED), a refusal (NATIONAL_REFUSED), or by its ISO 3166 code the country of whose numbers it is.

    Below `alert_below` a mail goes to `alert_to` (to the customer's contact address
    where that is empty); below `recredit_below` a pack of `recredit_pack` is bought, at most `recredit_per_day` times a
    day. All of these in thousandths, None: not set. `texts` is what becomes of the texts of the customer's
    messages (`services/messages/text_policy.py`). `is_on_hold`: what it submits is accepted, and waits.
    """

    id: int
    customer_id: int
    name: str
    kind: str
    description: str
    balance: int
    windowing: int
    throughput: int
    binds: int
    any_sender: bool
    data_codings: frozenset[int]
    packed_gsm: bool
    national_numbers: str
    alert_below: int | None
    alert_to: tuple[str, ...]
    recredit_below: int | None
    recredit_pack: int | None
    recredit_per_day: int
    disabled: bool
    is_on_hold: bool
    texts: str
    status: str

    @property
    def shown_status(self) -> str:
        """The status as people read it: on hold, whatever its clients wait for, unless it is disabled."""
        return ON_HOLD if self.is_on_hold and self.status != ERROR else self.status


# The status is a fact of the row and of the moment (an IP may have run out), so it is worked out where it is read.
_SELECT = f"""
SELECT id, customer_id, name, kind, description, balance, windowing, throughput, binds, any_sender,
       data_codings, packed_gsm, national_numbers, alert_below, alert_to, recredit_below, recredit_pack,
       recredit_per_day,
       disabled_at IS NOT NULL AS disabled, id IN (SELECT account_id FROM account_holds) AS is_on_hold,
       (SELECT texts FROM customers WHERE customers.id = accounts.customer_id) AS texts,
       CASE WHEN disabled_at IS NOT NULL THEN '{ERROR}'
            WHEN kind = 'sms' THEN '{SUCCESS}'
            WHEN NOT EXISTS (SELECT 1 FROM allowed_ips
                             WHERE account_id = accounts.id AND (expires_at IS NULL OR expires_at > :now))
                 THEN '{WAITING_IP}'
            WHEN applied_version < config_version THEN '{UPDATING_IP}'
            ELSE '{SUCCESS}' END AS status
FROM accounts
"""


def _account_from_row(row: sqlite3.Row) -> Account:
    values = dict(row)
    for name in ("any_sender", "packed_gsm", "disabled", "is_on_hold"):
        values[name] = bool(values[name])
    values["data_codings"] = frozenset(map(int, values["data_codings"].split()))
    values["alert_to"] = tuple(values["alert_to"].split())
    return Account(**values)


class AccountSettings(TypedDict, total=False):
    """What an account may do; what is None or missing stays as it is, or is a new account's default.

    windowing: submits in flight on a connection; 0: no limit.
    throughput: submits a second and connection; 0: no limit.
    binds: transceivers, or pairs of transmitter and receiver, at the same time; 0: no limit.
    any_sender: messages may carry any source address.
    data_codings, packed_gsm, national_numbers: see `Account`.
    """

    windowing: int | None
    throughput: int | None
    binds: int | None
    any_sender: bool | None
    data_codings: Collection[int] | None
    packed_gsm: bool | None
    national_numbers: str | None


_DEFAULT_LIMITS = {"windowing": DEFAULT_WINDOWING, "throughput": DEFAULT_THROUGHPUT, "binds": DEFAULT_BINDS}


def create_account(
    conn: sqlite3.Connection,
    actor: Actor,
    customer_id: int,
    *,
    kind: str = "smpp",
    name: str = "",
    description: str = "",
    **settings: Unpack[AccountSettings],
) -> Account:
    """Create an account, without credits and (SMPP) without a password.

    Args:
        kind: `smpp` or `sms` (classic).
        name: the system_id; one is made up when empty.

    Raises:
        InvalidAccountName, AccountExists, InvalidAccountLimit, InvalidDataCoding, InvalidNationalNumbers
    """
    name = name.strip() or f"{kind}-{secrets.token_hex(3)}-1"
    if len(name) > _MAX_NAME_LENGTH or not _NAME_PATTERN.fullmatch(name) or not name.startswith(f"{kind}-"):
        raise InvalidAccountName(name=name, kind=kind)
    columns = _DEFAULT_LIMITS | _settings_to_columns(settings)
    with write_transaction(conn):
        try:
            account_id = insert_row(
                conn,
                "accounts",
                customer_id=customer_id,
                name=name,
                kind=kind,
                description=" ".join(description.split()),
                created_at=now_ms(),
                **columns,
            )
        except sqlite3.IntegrityError:
            raise AccountExists(name=name) from None
        audit.record_action(conn, actor, "account.add", customer_id=customer_id, account_id=account_id, name=name)
        return get_account(conn, name)


def _settings_to_columns(settings: AccountSettings) -> dict[str, Any]:
    """Raises: InvalidAccountLimit, InvalidDataCoding, InvalidNationalNumbers"""
    columns: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    for name, value in columns.items():
        if name in _DEFAULT_LIMITS and not 0 <= value <= _MAX_LIMIT:
            raise InvalidAccountLimit(field=name, value=value)
        if name == "data_codings":
            columns[name] = _format_data_codings(value)
        elif name == "national_numbers":
            columns[name] = _check_national_numbers(value)
        else:
            columns[name] = int(value)
    return columns


def _format_data_codings(data_codings: Collection[int]) -> str:
    for each in data_codings:
        if each not in OPTIONAL_DATA_CODINGS:
            raise InvalidDataCoding(value=each)
    return " ".join(map(str, sorted(set(data_codings))))


def _check_national_numbers(value: str) -> str:
    if value in (NATIONAL_IGNORED, NATIONAL_REFUSED):
        return value
    # Imported here: it takes as long as all else of `account list`.
    import phonenumbers

    country = value.strip().upper()
    if country not in phonenumbers.SUPPORTED_REGIONS:
        raise InvalidNationalNumbers(value=value)
    return country


def parse_account_limit(field: str, text: str) -> int:
    """Read a limit as it was typed into `field`.

    Raises:
        InvalidAccountLimit: not a whole number.
    """
    return parse_whole_number(text, InvalidAccountLimit(field=field, value=text))


def change_account(
    conn: sqlite3.Connection, actor: Actor, account: Account, **settings: Unpack[AccountSettings]
) -> None:
    """Set what an account may do; open sessions go on under it.

    Raises:
        InvalidAccountLimit, InvalidDataCoding, InvalidNationalNumbers
    """
    changes = _settings_to_columns(settings)
    if not changes:
        return
    with write_transaction(conn):
        update_row(conn, "accounts", account.id, **changes)
        record_account_action(conn, actor, "account.change", account, **changes)


def record_account_action(
    conn: sqlite3.Connection, actor: Actor, action: str, account: Account, /, **details: Any
) -> None:
    """Like `audit.record_action`, about an account and its customer."""
    audit.record_action(conn, actor, action, customer_id=account.customer_id, account_id=account.id, **details)


def get_account(conn: sqlite3.Connection, name: str, customer_id: int | None = None) -> Account:
    """One account.

    Args:
        customer_id: only an account of this customer is found; None: of any (operators, the shell).

    Raises:
        NoSuchAccount: also when it exists, but belongs to another customer.
    """
    row = conn.execute(
        _SELECT + "WHERE name = :name AND (:customer IS NULL OR customer_id = :customer) AND deleted_at IS NULL",
        {"name": name, "customer": customer_id, "now": now_ms()},
    ).fetchone()
    return _account_from_row(require_found(row, NoSuchAccount(name=name)))


def list_accounts(conn: sqlite3.Connection, customer_id: int | None = None) -> list[Account]:
    """A customer's accounts (None: everyone's), SMPP ones first, then by name."""
    rows = conn.execute(
        _SELECT + "WHERE (:customer IS NULL OR customer_id = :customer) AND deleted_at IS NULL ORDER BY kind, name",
        {"customer": customer_id, "now": now_ms()},
    )
    return [_account_from_row(row) for row in rows]


def _set_account_enabled(conn: sqlite3.Connection, actor: Actor, account: Account, *, enabled: bool) -> None:
    with write_transaction(conn):
        updated_rows = conn.execute(
            "UPDATE accounts SET disabled_at = ? WHERE id = ? AND (disabled_at IS NOT NULL) = ?",
            (None if enabled else now_ms(), account.id, enabled),
        ).rowcount
        if updated_rows:
            record_account_action(conn, actor, "account.enable" if enabled else "account.disable", account)


disable_account = partial(_set_account_enabled, enabled=False)
"""Switch an account off: its sessions are unbound and nothing can bind until it is enabled."""
enable_account = partial(_set_account_enabled, enabled=True)
"""Switch an account on again."""
