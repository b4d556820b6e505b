from collections.abc import Callable
from ipaddress import ip_address

import pytest

from portal.core.clock import now_ms
from portal.core.db import Connection
from portal.services.accounts import accounts, allowed_ips
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.services.messages import smpp_config
from portal.services.messages.smpp_config import AccountConfig
from portal.services.senders import senders

HOME = ip_address("127.0.0.1")
AWAY = ip_address("203.0.113.7")


@pytest.fixture
def load_config(conn: Connection, acme_1: Account) -> Callable[[], AccountConfig]:
    return lambda: next(each for each in smpp_config.load_account_configs(conn) if each.id == acme_1.id)


def test_what_the_server_knows_of_an_account(load_config, cast, keys):
    config, now = load_config(), now_ms()
    assert (config.name, config.kind, config.enabled) == ("smpp-acme-1", "smpp", True)
    assert config.permits_address(HOME, now)
    assert config.permits_address(ip_address("::1"), now)
    assert not config.permits_address(AWAY, now)
    assert config.senders == {"ACME"}
    password = config.find_valid_password_id(keys.digest_smpp_password(cast.smpp_acme_1.password), now)
    assert config.is_smpp_session_valid(password, HOME, now)
    assert not config.is_smpp_session_valid(password, AWAY, now)
    assert not config.is_smpp_session_valid(password + 1, HOME, now)
    assert config.find_valid_password_id(keys.digest_smpp_password("wrong"), now) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda conn, account: allowed_ips.add_allowed_ip(conn, SHELL, account, "203.0.113.7"),
        lambda conn, account: allowed_ips.remove_allowed_ip(
            conn, SHELL, account, allowed_ips.list_allowed_ips(conn, account.id)[0].id
        ),
        lambda conn, account: accounts.disable_account(conn, SHELL, account),
        lambda conn, account: senders.decide_sender(conn, SHELL, account, "ACME", approve=False),
        lambda conn, account: conn.execute("UPDATE accounts SET throughput = 5 WHERE id = ?", (account.id,)),
        lambda conn, account: conn.execute("DELETE FROM smpp_passwords WHERE account_id = ?", (account.id,)),
    ],
)
def test_each_change_is_news_about_that_account_only(conn, acme_1, change):
    before = smpp_config.read_config_version(conn)
    change(conn, acme_1)
    assert smpp_config.read_config_version(conn) > before
    assert [each.id for each in smpp_config.load_account_configs(conn, before)] == [acme_1.id]


def test_what_happens_all_the_time_is_no_news(conn, acme_1):
    before = smpp_config.read_config_version(conn)
    credits.grant_credits(conn, SHELL, acme_1, 1000)
    smpp_config.save_applied_config_versions(conn, {acme_1.id: before})
    assert smpp_config.read_config_version(conn) == before
    assert smpp_config.load_account_configs(conn, before) == []


def test_what_runs_out_does_so_by_itself(conn, acme_1, load_config):
    now = now_ms()
    assert load_config().next_access_expiry(now) is None
    allowed_ips.add_allowed_ip(conn, SHELL, acme_1, "203.0.113.7", expires_at=now + 60_000)
    config = load_config()
    assert config.next_access_expiry(now) == now + 60_000
    assert config.permits_address(AWAY, now + 59_999)
    assert not config.permits_address(AWAY, now + 60_000)
    assert config.next_access_expiry(now + 60_000) is None


def test_a_confirmation_is_seen(conn, acme_1, load_config):
    assert smpp_config.has_unapplied_config_changes(conn, acme_1.id)
    smpp_config.save_applied_config_versions(conn, {acme_1.id: load_config().version})
    assert not smpp_config.has_unapplied_config_changes(conn, acme_1.id)
