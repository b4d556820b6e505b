from collections.abc import Callable
from typing import Any

import pytest

from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts import accounts, credentials
from portal.services.accounts.accounts import Account
from portal.services.accounts.credentials import SmppPasswordInfo
from portal.services.common.audit import SHELL, Actor
from portal.services.common.mail import send_due_mails
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.messages import smpp_config
from portal.services.messages.smpp_config import find_password

MINUTE_MS = 60_000


@pytest.fixture
def password_id(conn: Connection, keys: Keys, acme_1: Account) -> Callable[[str], int | None]:
    """Which of smpp-acme-1's passwords this is, None for none, as the SMPP server sees it."""

    def find(password: str) -> int | None:
        config = next(each for each in smpp_config.load_account_configs(conn) if each.id == acme_1.id)
        return config.find_valid_password_id(keys.digest_smpp_password(password), now_ms())

    return find


def password_info(conn: Connection, account: Account) -> SmppPasswordInfo:
    info = credentials.find_smpp_password_info(conn, account.id)
    assert info is not None
    return info


def regenerate(conn: Connection, keys: Keys, account: Account, **options: Any) -> str:
    return credentials.regenerate_smpp_password(conn, keys, SHELL, account, **{"send_mail": False} | options)


def test_a_new_password_ends_the_old_one(conn, keys, cast, acme_1, password_id):
    assert password_id(cast.smpp_acme_1.password)
    new = regenerate(conn, keys, acme_1)
    assert password_id(new)
    assert password_id(cast.smpp_acme_1.password) is None


def test_a_password_fits_smpp(conn, keys, acme_1):
    made = {regenerate(conn, keys, acme_1) for _ in range(20)}
    assert len(made) == 20
    assert all(len(each) == 8 and each.isascii() and each.isalnum() for each in made)


def test_with_grace_both_are_good_for_a_while(conn, keys, cast, acme_1, password_id):
    new = regenerate(conn, keys, acme_1, grace_ms=15 * MINUTE_MS)
    assert password_id(new) != password_id(cast.smpp_acme_1.password) is not None
    until = password_info(conn, acme_1).old_until
    assert until is not None
    assert abs(until - now_ms() - 15 * MINUTE_MS) < 10_000
    conn.execute("UPDATE smpp_passwords SET expires_at = ? WHERE expires_at IS NOT NULL", (now_ms() - 1,))
    assert password_id(cast.smpp_acme_1.password) is None
    assert password_info(conn, acme_1).old_until is None


def test_without_grace_everything_older_ends(conn, keys, cast, acme_1, password_id):
    second = regenerate(conn, keys, acme_1, grace_ms=15 * MINUTE_MS)
    regenerate(conn, keys, acme_1)
    assert password_id(cast.smpp_acme_1.password) is None
    assert password_id(second) is None


@pytest.mark.slow
def test_the_latest_replaced_ones_are_known_and_never_good_again(conn, keys, cast, acme_1, password_id):
    made = [cast.smpp_acme_1.password]
    for number in range(8):
        # A grace period that has ended is the end as well.
        made.append(regenerate(conn, keys, acme_1, grace_ms=15 * MINUTE_MS if number == 5 else 0))
        conn.execute("UPDATE smpp_passwords SET expires_at = ? WHERE expires_at > 0", (now_ms(),))
    config = next(each for each in smpp_config.load_account_configs(conn) if each.id == acme_1.id)
    known = [find_password(config.passwords, keys.digest_smpp_password(each)) for each in made]
    assert [each is not None for each in known] == [False] * 3 + [True] * 6
    an_hour_ago = now_ms() - 60 * MINUTE_MS
    assert [each.is_valid(an_hour_ago) for each in known if each is not None] == [False] * 5 + [True]
    assert password_id(made[-1])


@pytest.mark.parametrize("grace", [-1, 24 * 3_600_000 + 1])
def test_a_grace_period_has_bounds(conn, keys, acme_1, grace):
    with pytest.raises(credentials.InvalidGracePeriod):
        regenerate(conn, keys, acme_1, grace_ms=grace)


def test_customers_need_an_account_that_is_ok(conn, keys, cast, acme_1, password_id):
    with pytest.raises(credentials.AccountNotReady):
        regenerate(conn, keys, acme_1, require_ready=True)
    assert password_id(cast.smpp_acme_1.password)
    smpp_config.save_applied_config_versions(conn, {acme_1.id: smpp_config.read_config_version(conn)})
    assert regenerate(conn, keys, acme_1, require_ready=True)


def test_classic_accounts_have_no_password(conn, keys, classic):
    with pytest.raises(credentials.NoSmppPassword):
        regenerate(conn, keys, classic)


def test_neither_password_nor_mail_can_be_read_in_the_database(conn, keys, acme_1):
    password = regenerate(conn, keys, acme_1, send_mail=True)
    assert password.encode() not in b"\n".join(line.encode() for line in conn.iterdump())


def test_the_new_password_goes_to_the_contact_address(conn, keys, config, acme_1):
    actor = Actor("alice@acme.example", language="it")
    password = credentials.regenerate_smpp_password(conn, keys, actor, acme_1)
    list(send_due_mails(conn, config, keys))
    (file,) = (config.data / "outbox").iterdir()
    text = file.read_text()
    assert "To: marta@acme.example" in text
    assert "Content-Language: it" in text
    assert password in text


def test_who_changed_it_and_when(conn, keys, acme_1, acme_2):
    credentials.regenerate_smpp_password(conn, keys, Actor("alice@acme.example"), acme_1, send_mail=False)
    info = password_info(conn, acme_1)
    assert info.changed_at is not None
    assert info.changed_by == "alice@acme.example"
    assert abs(info.changed_at - now_ms()) < 10_000
    conn.execute("DELETE FROM smpp_passwords WHERE account_id = ?", (acme_2.id,))
    assert credentials.find_smpp_password_info(conn, acme_2.id) is None
    assert accounts.get_account(conn, acme_2.name).id == acme_2.id


def test_customers_send_no_flood_of_mails(conn, keys, cast, acme_1):
    smpp_config.save_applied_config_versions(conn, {acme_1.id: smpp_config.read_config_version(conn)})
    for _ in range(credentials.MAX_CHANGES_PER_HOUR):
        regenerate(conn, keys, acme_1, require_ready=True)
        smpp_config.save_applied_config_versions(conn, {acme_1.id: smpp_config.read_config_version(conn)})
    with pytest.raises(TooManyAttempts):
        regenerate(conn, keys, acme_1, require_ready=True)
    assert regenerate(conn, keys, acme_1)
