from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.core.clock import now_ms
from portal.services.accounts import allowed_ips
from portal.services.common.audit import SHELL
from portal.services.common.errors import Refused


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("203.0.113.7", "203.0.113.7"),
        (" 203.0.113.7 ", "203.0.113.7"),
        ("203.0.113.7/32", "203.0.113.7"),
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("2001:db8::/64", "2001:db8::/64"),
        ("::1", "::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
        ("255.255.255.0/255.255.255.0", None),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_what_is_typed_is_kept_in_one_writing(conn, acme_2, text, shown):
    if shown is None:
        with pytest.raises(Refused):
            allowed_ips.add_allowed_ip(conn, SHELL, acme_2, text)
    else:
        assert allowed_ips.add_allowed_ip(conn, SHELL, acme_2, text).network == shown
        assert [each.network for each in allowed_ips.list_allowed_ips(conn, acme_2.id)] == [shown]


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", allowed_ips.InvalidIPAddress),
        ("example.com", allowed_ips.InvalidIPAddress),
        ("300.1.1.1", allowed_ips.InvalidIPAddress),
        ("1.2.3.4/33", allowed_ips.InvalidIPAddress),
        ("1.2.3", allowed_ips.InvalidIPAddress),
        ("01.2.3.4", allowed_ips.InvalidIPAddress),
        ("fe80::1%eth0", allowed_ips.InvalidIPAddress),
        ("10.0.0.1/8", allowed_ips.HostBitsSet),
        ("2001:db8::1/64", allowed_ips.HostBitsSet),
        ("0.0.0.0", allowed_ips.UnusableIPAddress),
        ("::", allowed_ips.UnusableIPAddress),
        ("0.1.2.3", allowed_ips.UnusableIPAddress),
        ("224.0.0.1", allowed_ips.UnusableIPAddress),
        ("ff02::1", allowed_ips.UnusableIPAddress),
        ("240.0.0.1", allowed_ips.UnusableIPAddress),
        ("255.255.255.255", allowed_ips.UnusableIPAddress),
        ("::ffff:224.0.0.1", allowed_ips.UnusableIPAddress),
        ("0.0.0.0/0", allowed_ips.IPRangeTooWide),
        ("128.0.0.0/1", allowed_ips.IPRangeTooWide),
        ("::/0", allowed_ips.IPRangeTooWide),
        ("2000::/3", allowed_ips.IPRangeTooWide),
        ("::ffff:0:0/96", allowed_ips.IPRangeTooWide),
        ("::ffff:0.0.0.0/97", allowed_ips.IPRangeTooWide),
    ],
)
def test_what_is_refused_and_why(conn, acme_2, text, refusal):
    with pytest.raises(refusal) as caught:
        allowed_ips.add_allowed_ip(conn, SHELL, acme_2, text)
    assert caught.value.field == "network"
    assert allowed_ips.list_allowed_ips(conn, acme_2.id) == []


@given(st.text(max_size=50))
def test_nothing_that_is_typed_breaks_the_reading(text):
    try:
        network = allowed_ips.parse_ip_network(text)
    except Refused as refusal:
        assert str(refusal)
    else:
        assert allowed_ips.parse_ip_network(allowed_ips.format_ip_network(network)) == network


@given(st.ip_addresses())
def test_each_address_is_read_or_refused(address):
    try:
        network = allowed_ips.parse_ip_network(str(address))
    except Refused:
        return
    mapped = getattr(address, "ipv4_mapped", None)
    assert network.network_address == (mapped or address)
    assert allowed_ips.is_ip_allowed(
        [allowed_ips.AllowedIP(1, allowed_ips.format_ip_network(network), "", None)], str(address)
    )


def test_host_bits_are_refused_with_both_things_that_may_be_meant(conn, acme_2):
    with pytest.raises(allowed_ips.HostBitsSet, match=r"10\.0\.0\.1, or the range 10\.0\.0\.0/8"):
        allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "10.0.0.1/8")


@pytest.mark.parametrize("again", ["203.0.113.0/24", "203.0.113.0/255.255.255.0", "::ffff:203.0.113.0/120"])
def test_a_duplicate_is_refused(conn, acme_2, again):
    allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.0/24")
    with pytest.raises(allowed_ips.AllowedIPExists):
        allowed_ips.add_allowed_ip(conn, SHELL, acme_2, again)


def test_what_a_range_covers_already_is_refused(conn, acme_2):
    allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.0/24")
    with pytest.raises(allowed_ips.AllowedIPAlreadyCovered, match=r"203\.0\.113\.0/24"):
        allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.7")


def test_a_range_that_covers_single_addresses_may_be_added(conn, acme_2):
    allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.7")
    allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.0/24")


def test_a_lasting_address_inside_a_range_that_runs_out_may_be_added(conn, acme_2):
    allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.0/24", expires_at=now_ms() + 60_000)
    allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.7")


def test_the_list_has_an_end(conn, acme_2):
    for last in range(1, 4):
        allowed_ips.add_allowed_ip(conn, SHELL, acme_2, f"203.0.113.{last}", limit=3)
    with pytest.raises(allowed_ips.TooManyAllowedIPs, match="All 3"):
        allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.4", limit=3)


def test_an_entry_that_ran_out_makes_room_and_is_no_duplicate(conn, acme_2):
    allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.7", limit=1, expires_at=now_ms() + 60_000)
    conn.execute("UPDATE allowed_ips SET expires_at = ? WHERE account_id = ?", (now_ms() - 1, acme_2.id))
    assert allowed_ips.list_allowed_ips(conn, acme_2.id) == []
    allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.7", limit=1)


def test_an_end_in_the_past_is_refused(conn, acme_2):
    with pytest.raises(allowed_ips.IPExpiryNotInFuture):
        allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.7", expires_at=now_ms() - 1)


@pytest.mark.parametrize("text", ["9999-12-31T23:59-12:00", "9999-06-01"])
def test_an_end_that_no_page_could_show_is_refused(text):
    with pytest.raises(allowed_ips.InvalidIPExpiry):
        allowed_ips.parse_ip_expiry(text, "Europe/Rome")


def test_an_end_beyond_all_dates_is_refused(conn, acme_2):
    with pytest.raises(allowed_ips.IPExpiryNotInFuture):
        allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.7", expires_at=1 << 70)


def test_a_label_that_is_too_long_is_refused(conn, acme_2):
    with pytest.raises(allowed_ips.IPLabelTooLong):
        allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.7", label="x" * 61)


def test_classic_accounts_have_no_addresses(conn, classic):
    with pytest.raises(allowed_ips.NotSmppAccount):
        allowed_ips.add_allowed_ip(conn, SHELL, classic, "203.0.113.7")


def test_removing_returns_what_was_there(conn, acme_2):
    added = allowed_ips.add_allowed_ip(conn, SHELL, acme_2, "203.0.113.7", label="Office")
    assert allowed_ips.remove_allowed_ip(conn, SHELL, acme_2, added.id) == added
    assert allowed_ips.list_allowed_ips(conn, acme_2.id) == []


def test_an_entry_of_another_account_cannot_be_removed(conn, acme_1, acme_2):
    entry = allowed_ips.list_allowed_ips(conn, acme_1.id)[0]
    with pytest.raises(allowed_ips.NoSuchAllowedIP):
        allowed_ips.remove_allowed_ip(conn, SHELL, acme_2, entry.id)
    assert entry in allowed_ips.list_allowed_ips(conn, acme_1.id)


def test_an_entry_is_found_by_what_is_typed(conn, acme_1):
    assert allowed_ips.get_allowed_ip_by_network(conn, acme_1.id, "::ffff:127.0.0.1").network == "127.0.0.1"
    with pytest.raises(allowed_ips.NoSuchAllowedIP):
        allowed_ips.get_allowed_ip_by_network(conn, acme_1.id, "203.0.113.7")


@pytest.mark.parametrize(
    ("client", "allowed"),
    [("203.0.113.9", True), ("::ffff:203.0.113.9", True), ("203.0.114.9", False), ("2001:db8::9", False)],
)
def test_who_is_permitted(client, allowed):
    entries = [allowed_ips.AllowedIP(1, "203.0.113.0/24", "", None)]
    assert allowed_ips.is_ip_allowed(entries, client) is allowed
    assert str(ip_address(client))
