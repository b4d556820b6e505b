import pytest

from portal.core.clock import now_ms
from portal.core.db import Connection
from portal.services.accounts import accounts, allowed_ips
from portal.services.common.audit import SHELL
from portal.services.messages import smpp_config


def confirm(conn: Connection) -> None:
    smpp_config.save_applied_config_versions(
        conn, {each.id: each.version for each in smpp_config.load_account_configs(conn)}
    )


def test_a_new_account_has_nothing_and_waits_for_an_ip(conn, cast):
    account = accounts.create_account(conn, SHELL, cast.acme)
    assert account.name.startswith("smpp-")
    assert account.status == accounts.WAITING_IP
    assert (account.balance, account.windowing, account.throughput, account.binds) == (0, 10, 20, 1)


def test_a_name_that_is_made_up_is_a_name_that_is_allowed(conn, cast):
    for kind in ("smpp", "sms"):
        made_up = accounts.create_account(conn, SHELL, cast.acme, kind=kind).name
        accounts.create_account(conn, SHELL, cast.acme, kind=kind, name=f"{made_up[:-1]}2")


@pytest.mark.parametrize(
    "name",
    ["acme-1", "sms-acme", "smpp-", "smpp--a", "smpp-ACME", "smpp-a b", "smpp-è", "smpp-a_b", "smpp-0123456789x"],
)
def test_names_that_are_refused(conn, cast, name):
    with pytest.raises(accounts.InvalidAccountName, match="smpp-acme-1"):
        accounts.create_account(conn, SHELL, cast.acme, name=name)


def test_the_longest_name_fits_a_system_id(conn, cast):
    assert len(accounts.create_account(conn, SHELL, cast.acme, name="smpp-0123456789").name) == 15


@pytest.mark.parametrize("name", ["smpp-acme-1", "smpp-globex-1"])
def test_a_name_is_given_once(conn, cast, name):
    with pytest.raises(accounts.AccountExists):
        accounts.create_account(conn, SHELL, cast.acme, name=name)


@pytest.mark.parametrize("limits", [{"windowing": -1}, {"throughput": 100_001}, {"binds": -5}])
def test_limits_that_are_refused(conn, cast, limits):
    with pytest.raises(accounts.InvalidAccountLimit):
        accounts.create_account(conn, SHELL, cast.acme, **limits)


def test_zero_is_no_limit(conn, cast):
    account = accounts.create_account(conn, SHELL, cast.acme, windowing=0, throughput=0, binds=0)
    assert (account.windowing, account.throughput, account.binds) == (0, 0, 0)


def test_an_account_of_another_customer_is_not_found(conn, cast):
    with pytest.raises(accounts.NoSuchAccount):
        accounts.get_account(conn, cast.smpp_globex_1.name, cast.acme)
    assert accounts.get_account(conn, cast.smpp_globex_1.name, cast.globex).id == cast.smpp_globex_1.id


def test_a_customers_list_has_smpp_accounts_first_and_nobody_elses(conn, cast):
    names = [each.name for each in accounts.list_accounts(conn, cast.acme)]
    assert names == ["smpp-acme-1", "smpp-acme-2", "sms-acme-1"]
    assert len(accounts.list_accounts(conn)) == 4


def test_status_follows_what_the_server_has_confirmed(conn, acme_1):
    assert acme_1.status == accounts.UPDATING_IP
    confirm(conn)
    assert accounts.get_account(conn, acme_1.name).status == accounts.SUCCESS
    allowed_ips.add_allowed_ip(conn, SHELL, acme_1, "203.0.113.7")
    assert accounts.get_account(conn, acme_1.name).status == accounts.UPDATING_IP


def test_an_older_confirmation_does_not_hide_a_later_change(conn, acme_1):
    seen = {each.id: each.version for each in smpp_config.load_account_configs(conn)}
    allowed_ips.add_allowed_ip(conn, SHELL, acme_1, "203.0.113.7")
    smpp_config.save_applied_config_versions(conn, seen)
    assert accounts.get_account(conn, acme_1.name).status == accounts.UPDATING_IP


def test_an_account_whose_last_ip_ran_out_waits_again(conn, acme_2):
    allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.7", expires_at=now_ms() + 60_000)
    confirm(conn)
    assert accounts.get_account(conn, acme_2.name).status == accounts.SUCCESS
    conn.execute("UPDATE allowed_ips SET expires_at = ? WHERE account_id = ?", (now_ms() - 1, acme_2.id))
    assert accounts.get_account(conn, acme_2.name).status == accounts.WAITING_IP


def test_a_disabled_account_is_in_error_until_it_is_enabled(conn, acme_1):
    accounts.disable_account(conn, SHELL, acme_1)
    assert accounts.get_account(conn, acme_1.name).status == accounts.ERROR
    accounts.enable_account(conn, SHELL, acme_1)
    assert accounts.get_account(conn, acme_1.name).status == accounts.UPDATING_IP


def test_disabling_twice_is_one_change(conn, acme_1):
    accounts.disable_account(conn, SHELL, acme_1)
    before = smpp_config.read_config_version(conn)
    accounts.disable_account(conn, SHELL, acme_1)
    assert smpp_config.read_config_version(conn) == before
    done = conn.execute("SELECT count(*) FROM audit_log WHERE action = 'account.disable'").fetchone()[0]
    assert done == 1


def test_classic_accounts_are_always_ok(classic):
    assert classic.status == accounts.SUCCESS


def test_what_is_not_said_stays_as_it_is(conn, acme_1):
    accounts.change_account(conn, SHELL, acme_1, windowing=3, any_sender=True, data_codings={4, 1}, packed_gsm=True)
    accounts.change_account(conn, SHELL, acme_1, binds=7)
    accounts.change_account(conn, SHELL, acme_1)
    changed = accounts.get_account(conn, acme_1.name)
    assert (changed.windowing, changed.throughput, changed.binds, changed.any_sender) == (3, 20, 7, True)
    assert (changed.data_codings, changed.packed_gsm) == (frozenset({1, 4}), True)
    accounts.change_account(conn, SHELL, acme_1, any_sender=False, data_codings=(), packed_gsm=False)
    changed = accounts.get_account(conn, acme_1.name)
    assert (changed.any_sender, changed.data_codings, changed.packed_gsm) == (False, frozenset(), False)


def test_what_national_numbers_mean_is_set_and_the_smpp_server_learns_of_it(conn, cast, acme_1):
    assert acme_1.national_numbers == accounts.NATIONAL_IGNORED
    for value in (accounts.NATIONAL_REFUSED, "IT"):
        before = smpp_config.read_config_version(conn)
        accounts.change_account(conn, SHELL, acme_1, national_numbers=value)
        assert accounts.get_account(conn, acme_1.name).national_numbers == value
        (changed,) = smpp_config.load_account_configs(conn, before)
        assert changed.national_numbers == value
    accounts.change_account(conn, SHELL, acme_1, binds=7)
    assert accounts.get_account(conn, acme_1.name).national_numbers == "IT"
    assert accounts.create_account(conn, SHELL, cast.acme, national_numbers=" de").national_numbers == "DE"


@pytest.mark.parametrize("value", ["", "Italy", "XX", "39", "001"])
def test_what_national_numbers_cannot_mean(conn, cast, acme_1, value):
    with pytest.raises(accounts.InvalidNationalNumbers):
        accounts.change_account(conn, SHELL, acme_1, national_numbers=value)
    with pytest.raises(accounts.InvalidNationalNumbers):
        accounts.create_account(conn, SHELL, cast.acme, national_numbers=value)
    assert accounts.get_account(conn, acme_1.name).national_numbers == accounts.NATIONAL_IGNORED


@pytest.mark.parametrize("coding", [0, 2, 8, 0xF5])
def test_codings_that_are_no_choice(conn, cast, acme_1, coding):
    with pytest.raises(accounts.InvalidDataCoding):
        accounts.change_account(conn, SHELL, acme_1, data_codings={1, coding})
    with pytest.raises(accounts.InvalidDataCoding):
        accounts.create_account(conn, SHELL, cast.acme, data_codings={coding})
    assert accounts.get_account(conn, acme_1.name).data_codings == frozenset()


def test_the_smpp_server_learns_of_new_codings(conn, acme_1):
    confirm(conn)
    before = smpp_config.read_config_version(conn)
    accounts.change_account(conn, SHELL, acme_1, data_codings={3, 4}, packed_gsm=True)
    (changed,) = smpp_config.load_account_configs(conn, before)
    assert (changed.data_codings, changed.packed_gsm) == (frozenset({3, 4}), True)
    assert accounts.get_account(conn, acme_1.name).status == accounts.UPDATING_IP
