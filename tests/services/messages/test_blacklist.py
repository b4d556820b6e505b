import pytest

from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL, Actor
from portal.services.messages import blacklist
from tests.services.audit_log import list_audit_entries
from tests.support import prepare_submit

NUMBER, OTHER = "393337654321", "393337654322"


def numbers(conn: Connection, account: Account) -> list[tuple[str, int | None]]:
    return [(each.number, each.received_id) for each in blacklist.list_blacklist(conn, account.id)]


@pytest.mark.parametrize(
    "typed", [NUMBER, f"+{NUMBER}", f" {NUMBER} ", "+39 333 765-4321", f"00{NUMBER}", "00 39 333 7654321"]
)
def test_a_number_is_kept_as_destinations_are(conn, acme_1, acme_2, typed):
    assert blacklist.add_blacklist_number(conn, SHELL, acme_1, typed).number == NUMBER
    assert numbers(conn, acme_1) == [(NUMBER, None)]
    assert numbers(conn, acme_2) == []


@pytest.mark.parametrize("typed", ["", "12345", "0393337654321", "ACME", "9999999999"])
def test_what_is_no_number(conn, acme_1, typed):
    with pytest.raises(blacklist.InvalidHandsetNumber):
        blacklist.add_blacklist_number(conn, SHELL, acme_1, typed)
    assert numbers(conn, acme_1) == []


def test_only_its_own_account_s_is_removed(conn, acme_1, acme_2):
    blacklist.add_blacklist_number(conn, SHELL, acme_1, NUMBER)
    with pytest.raises(blacklist.NotBlacklisted):
        blacklist.remove_blacklist_number(conn, SHELL, acme_2, NUMBER)
    assert blacklist.remove_blacklist_number(conn, SHELL, acme_1, f"+{NUMBER}").number == NUMBER
    assert numbers(conn, acme_1) == []


def test_which_destinations_are_on_their_own_account_s(conn, cast, acme_1):
    blacklist.add_blacklist_number(conn, SHELL, acme_1, NUMBER)
    conn.execute("UPDATE accounts SET any_sender = 1")
    submits = [
        prepare_submit(conn, account.id, destination=destination)
        for account in (cast.smpp_acme_1, cast.smpp_globex_1)
        for destination in (NUMBER, OTHER, NUMBER)
    ]
    assert blacklist.find_blacklisted_destinations(conn, submits) == {(acme_1.id, NUMBER)}
    assert blacklist.find_blacklisted_destinations(conn, submits[3:]) == set()
    assert blacklist.find_blacklisted_destinations(conn, []) == set()


def test_what_changes_is_in_the_audit_log(conn, acme_1):
    for _ in range(2):
        blacklist.add_blacklist_number(conn, SHELL, acme_1, NUMBER)
    blacklist.remove_blacklist_number(conn, SHELL, acme_1, NUMBER)
    logged = [(each.action, each.details) for each in list_audit_entries(conn, acme_1.id, 2)]
    assert logged == [
        ("blacklist.remove", {"number": NUMBER}),
        ("blacklist.add", {"number": NUMBER}),
    ]


def test_what_is_listed_says_who_put_it_there(conn, acme_1):
    blacklist.add_blacklist_number(conn, Actor("alice@acme.example"), acme_1, NUMBER)
    blacklist.blacklist_stop_senders(conn, [(acme_1.id, OTHER, 1000, 4711)])
    assert [(each.reason, each.added_by) for each in blacklist.list_blacklist(conn, acme_1.id)] == [
        ("by hand", "alice@acme.example"),
        ("STOP", ""),
    ]


def test_a_sender_that_is_no_number_is_listed_where_no_digits_are_asked_for(conn, acme_1):
    for at, source in enumerate(("ACME", NUMBER)):
        blacklist.blacklist_stop_senders(conn, [(acme_1.id, source, at, 4711)])
    assert [each.number for each in blacklist.list_blacklist_page(conn, acme_1.id)] == [NUMBER, "ACME"]
    assert [each.number for each in blacklist.iterate_blacklist(conn, acme_1.id, batch_size=1)] == [NUMBER, "ACME"]
    assert numbers(conn, acme_1) == [(NUMBER, 4711), ("ACME", 4711)]
    assert [each.number for each in blacklist.list_blacklist_page(conn, acme_1.id, "39")] == [NUMBER]
    assert blacklist.list_blacklist_page(conn, acme_1.id, "A") == []


def test_pages_hold_each_number_once_in_both_directions(conn, acme_1, acme_2):
    for at in range(5):
        for number in range(10):
            blacklist.blacklist_stop_senders(conn, [(acme_1.id, f"39340{at}{number:06}", at, 1)])
    blacklist.add_blacklist_number(conn, SHELL, acme_2, NUMBER)
    everyone = [each.cursor for each in blacklist.iterate_blacklist(conn, acme_1.id, batch_size=7)]
    assert everyone == sorted(everyone, reverse=True)
    assert len(set(everyone)) == 50
    for begins in ("", "39340"):
        below = blacklist.list_blacklist_page(conn, acme_1.id, begins, before=everyone[19], limit=10)
        assert [each.cursor for each in below] == everyone[20:30]
        above = blacklist.list_blacklist_page(conn, acme_1.id, begins, after=everyone[20], limit=10)
        assert [each.cursor for each in above] == everyone[10:20]
    assert [each.cursor for each in blacklist.list_blacklist_page(conn, acme_1.id, "393403")] == everyone[10:20]


def test_too_many_for_one_transaction_are_refused(conn, acme_1):
    too_many = [NUMBER, OTHER] * (blacklist.MAX_NUMBERS_AT_ONCE // 2 + 1)
    with pytest.raises(blacklist.TooManyNumbers):
        blacklist.import_blacklist_numbers(conn, SHELL, acme_1, too_many)
    assert numbers(conn, acme_1) == []
