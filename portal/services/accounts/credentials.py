"""SMPP passwords: made by us, shown once, kept as a digest."""

import secrets
import sqlite3
import string
from dataclasses import dataclass

from portal.core.clock import DAY_MS, HOUR_MS, MINUTE_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account, record_account_action
from portal.services.common import mail, rate_limit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.people import customers

# SMPP 3.4, 5.2.2: password is a C-octet string of at most 9 octets with its NUL. Some clients cut a longer one
# silently, so that both sides believe in different passwords.
SMPP_PASSWORD_LENGTH = 8
_PASSWORD_ALPHABET = string.ascii_letters + string.digits

MAX_CHANGES_PER_HOUR = 100
# The digests of so many replaced passwords of an account are kept, to tell "the password it uses was replaced" from
# "wrong password". Each bind is compared with them all.
_MAX_REPLACED_PASSWORDS = 5
# As expires_at: the moment of the replacement would lie in the future once more when a clock is set back.
_ALREADY_EXPIRED = 0

GRACE_PERIODS = {"0": 0, "15m": 15 * MINUTE_MS, "1h": HOUR_MS, "24h": DAY_MS}


class AccountNotReady(Refused):
    sentence = N_("A new password can be generated once the status of %(name)s is OK.")


class NoSmppPassword(Refused):
    sentence = N_("%(name)s is a classic account: it has no SMPP password.")


class InvalidGracePeriod(Refused, field="grace"):
    sentence = N_("The old password can stay good for 15 minutes, 1 hour or 24 hours, or not at all.")


@dataclass(frozen=True, slots=True)
class SmppPasswordInfo:
    """When and by whom the password in force was made, and until when (ms) the one before it stays good, if it does."""

    id: int
    changed_at: int
    changed_by: str
    old_until: int | None


def parse_grace_period(choice: str) -> int:
    """Read a grace period as forms send it; in milliseconds.

    Raises:
        InvalidGracePeriod: it isn't one.
    """
    if choice not in GRACE_PERIODS:
        raise InvalidGracePeriod()
    return GRACE_PERIODS[choice]


def regenerate_smpp_password(
    conn: sqlite3.Connection,
    keys: Keys,
    actor: Actor,
    account: Account,
    *,
    grace_ms: int = 0,
    send_mail: bool = True,
    require_ready: bool = False,
) -> str:
    """Replace an account's password.

    Args:
        grace_ms: how long the old one stays good, in milliseconds.
        send_mail: send the new one to the customer's contact address.
        require_ready: refuse unless the account's status is OK; what holds for customers, not for operators, who
            must be able to mend an account.

    Returns:
        The new password; it is not kept and can't be had again.

    Raises:
        NoSmppPassword: the account is a classic one.
        AccountNotReady
        TooManyAttempts: with `require_ready`, for each password is a mail to an address that somebody else reads.
        InvalidGracePeriod: longer than 24 hours, or negative.
    """
    if account.kind != "smpp":
        raise NoSmppPassword(name=account.name)
    if not 0 <= grace_ms <= GRACE_PERIODS["24h"]:
        raise InvalidGracePeriod()
    password = "".join(secrets.choice(_PASSWORD_ALPHABET) for _ in range(SMPP_PASSWORD_LENGTH))
    with write_transaction(conn):
        # Read again: the account that the caller holds is from before the write lock.
        if require_ready and accounts.get_account(conn, account.name).status != accounts.SUCCESS:
            raise AccountNotReady(name=account.name)
        if require_ready:
            rate_limit.take_token(conn, f"password:{account.id}", MAX_CHANGES_PER_HOUR, HOUR_MS)
        now = now_ms()
        # Without grace everything older ends too, also what an earlier grace period still allowed: whoever asks for
        # this may know that a password has leaked.
        conn.execute(
            "UPDATE smpp_passwords SET replaced_at = ifnull(replaced_at, ?1), expires_at = CASE"
            " WHEN ?2 AND replaced_at IS NULL THEN ?1 + ?2 WHEN ?2 AND expires_at > ?1 THEN expires_at ELSE ?3 END"
            " WHERE account_id = ?4",
            (now, grace_ms, _ALREADY_EXPIRED, account.id),
        )
        conn.execute(
            "DELETE FROM smpp_passwords WHERE account_id = ?1 AND expires_at = ?2 AND id NOT IN"
            " (SELECT id FROM smpp_passwords WHERE account_id = ?1 AND expires_at = ?2 ORDER BY id DESC LIMIT ?3)",
            (account.id, _ALREADY_EXPIRED, _MAX_REPLACED_PASSWORDS),
        )
        insert_row(
            conn,
            "smpp_passwords",
            account_id=account.id,
            digest=keys.digest_smpp_password(password),
            created_at=now,
            created_by=actor.name,
        )
        record_account_action(conn, actor, "password.regenerate", account, grace=grace_ms)
        if send_mail:
            contact = customers.get_customer_by_id(conn, account.customer_id).contact_email
            mail.queue_mail(
                conn, keys, contact, "password", actor.language, account=account.name, password=password, grace=grace_ms
            )
    return password


def find_smpp_password_info(conn: sqlite3.Connection, account_id: int) -> SmppPasswordInfo | None:
    """About the password in force; None where none has been made."""
    row = conn.execute(
        "SELECT id, created_at, created_by, (SELECT max(expires_at) FROM smpp_passwords old"
        " WHERE old.account_id = new.account_id AND old.expires_at > ?)"
        " FROM smpp_passwords new WHERE account_id = ? AND replaced_at IS NULL",
        (now_ms(), account_id),
    ).fetchone()
    return SmppPasswordInfo(*row) if row else None
