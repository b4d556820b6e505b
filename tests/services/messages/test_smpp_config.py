from ipaddress import ip_address

import pytest

from portal.core.clock import now_ms
from portal.services.accounts import accounts, allowed_ips
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.services.messages import smpp_config
from portal.services.senders import senders

HOME = ip_address("127.0.0.1")
AWAY = ip_address("203.0.113.7")


@pytest.fixture
def look(conn, acme_1):
    return lambda: next(each for each in smpp_config.load(conn) if each.id == acme_1.id)


def test_what_the_server_knows_of_an_account(look, cast, keys):
    config, now = look(), now_ms()
    assert (config.name, config.kind, config.enabled) == ("smpp-acme-1", "smpp", True)
    assert config.permits(HOME, now)
    assert config.permits(ip_address("::1"), now)
    assert not config.permits(AWAY, now)
    assert config.senders == {"ACME"}
    password = config.password_id(keys.smpp_digest(cast.smpp_acme_1.password), now)
    assert config.still_valid(password, HOME, now)
    assert not config.still_valid(password, AWAY, now)
    assert not config.still_valid(password + 1, HOME, now)
    assert config.password_id(keys.smpp_digest("wrong"), now) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda conn, account: allowed_ips.add(conn, SHELL, account, "203.0.113.7"),
        lambda conn, account: allowed_ips.remove(conn, SHELL, account, allowed_ips.of_account(conn, account.id)[0].id),
        lambda conn, account: accounts.disable(conn, SHELL, account),
        lambda conn, account: senders.decide(conn, SHELL, account, "ACME", approve=False),
        lambda conn, account: conn.execute("UPDATE accounts SET throughput = 5 WHERE id = ?", (account.id,)),
        lambda conn, account: conn.execute("DELETE FROM smpp_passwords WHERE account_id = ?", (account.id,)),
    ],
)
def test_each_change_is_news_about_that_account_only(conn, acme_1, change):
    before = smpp_config.version(conn)
    change(conn, acme_1)
    assert smpp_config.version(conn) > before
    assert [each.id for each in smpp_config.load(conn, before)] == [acme_1.id]


def test_what_happens_all_the_time_is_no_news(conn, acme_1):
    before = smpp_config.version(conn)
    credits.grant(conn, SHELL, acme_1, 1000)
    smpp_config.confirm(conn, {acme_1.id: before})
    assert smpp_config.version(conn) == before
    assert smpp_config.load(conn, before) == []


def test_what_runs_out_does_so_by_itself(conn, acme_1, look):
    now = now_ms()
    assert look().next_expiry(now) is None
    allowed_ips.add(conn, SHELL, acme_1, "203.0.113.7", expires_at=now + 60_000)
    config = look()
    assert config.next_expiry(now) == now + 60_000
    assert config.permits(AWAY, now + 59_999)
    assert not config.permits(AWAY, now + 60_000)
    assert config.next_expiry(now + 60_000) is None


def test_a_confirmation_is_seen(conn, acme_1, look):
    assert smpp_config.unconfirmed(conn, acme_1.id)
    smpp_config.confirm(conn, {acme_1.id: look().version})
    assert not smpp_config.unconfirmed(conn, acme_1.id)
