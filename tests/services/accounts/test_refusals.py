"""Refused binds and messages: what is counted, by what, and within which bounds."""

from dataclasses import replace

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.services.accounts import credentials, refusals, refused_binds
from portal.services.accounts.refusals import MAX_VALUES, OTHERS, RefusalKey
from portal.services.accounts.refused_binds import NOT_AUTHORISED, RefusedBind
from portal.services.accounts.refused_messages import (
    CODING,
    DESTINATION,
    ENDING,
    RECEIVER,
    SENDER,
    STATE,
    THROUGHPUT,
    MessageRefusalCounts,
    split_counts,
)
from portal.services.common.audit import SHELL
from tests.support import list_refused_binds, record_refused_messages

# Noon of some day in UTC.
NOON = 1_900_000_000_000 // DAY_MS * DAY_MS + 12 * HOUR_MS


def list_counts(conn, account, since=0, until=None):
    """Counts by reason and value."""
    found = refusals.list_refusals(conn, account.id, since, NOON + DAY_MS if until is None else until)
    return {(each.reason, each.value): each.count for each in found}


# --- messages


def test_messages_are_counted_by_the_hour_reason_and_value(conn, acme_1, acme_2):
    for at in (NOON, NOON + 1, NOON + HOUR_MS):
        record_refused_messages(conn, acme_1.id, {(SENDER, "NOTMINE"): 2, (CODING, "4"): 1}, at)
    record_refused_messages(conn, acme_2.id, {(SENDER, "NOTMINE"): 7}, NOON)
    assert list_counts(conn, acme_1) == {(SENDER, "NOTMINE"): 6, (CODING, "4"): 3}
    assert list_counts(conn, acme_1, NOON, NOON + HOUR_MS) == {(SENDER, "NOTMINE"): 4, (CODING, "4"): 2}
    assert list_counts(conn, acme_2) == {(SENDER, "NOTMINE"): 7}
    (latest, _) = refusals.list_refusals(conn, acme_1.id, 0, NOON + DAY_MS)
    assert (latest.first_at, latest.last_at) == (NOON, NOON + HOUR_MS)


def test_how_many_messages_of_an_account_were_refused_in_some_hours(conn, acme_1, acme_2):
    record_refused_messages(conn, acme_1.id, {(SENDER, "NOTMINE"): 2, (CODING, "4"): 3}, NOON)
    record_refused_messages(conn, acme_1.id, {(SENDER, "NOTMINE"): 10}, NOON + HOUR_MS)
    record_refused_messages(conn, acme_2.id, {(SENDER, "NOTMINE"): 100}, NOON)
    refused_binds.record_refused_binds(conn, [RefusedBind(acme_1.id, "203.0.113.7", NOT_AUTHORISED, NOON)])
    assert refusals.count_refused_messages(conn, acme_1.id, NOON, NOON + 2 * HOUR_MS) == 15
    assert refusals.count_refused_messages(conn, acme_1.id, NOON, NOON + HOUR_MS) == 5
    assert refusals.count_refused_messages(conn, acme_1.id, NOON + HOUR_MS + 1, NOON + DAY_MS) == 10
    assert refusals.count_refused_messages(conn, acme_1.id, NOON - DAY_MS, NOON) == 0
    assert refusals.count_refused_messages(conn, acme_1.id, 0) == 0, "that hour is still to come"


def test_of_a_day_the_most_frequent_values_are_kept_and_all_are_counted(conn, acme_1):
    """A million values come, each once, a thousand at a time; of one sender a message comes with each thousand."""
    counts = MessageRefusalCounts()
    for batch in range(40):
        for number in range(MAX_VALUES):
            counts.add(acme_1.id, SENDER, f"{batch}-{number}")
        for _ in range(3):
            counts.add(acme_1.id, SENDER, "NOTMINE")
        counts.add(acme_1.id, THROUGHPUT, "20")
        if batch % 4 == 3:
            refusals.record_refusals(conn, counts.take(), NOON + batch * 60_000)
    found = list_counts(conn, acme_1)
    assert len(found) < 2 * MAX_VALUES + 2
    assert found[SENDER, "NOTMINE"] == 120
    # Every other value has come 40 times less, so it is nearly sure to be among the rare ones.
    assert found[THROUGHPUT, "20"] == 40
    assert sum(found.values()) == 40 * (MAX_VALUES + 4)
    assert found[SENDER, OTHERS] > 40 * MAX_VALUES - 2 * MAX_VALUES


def test_what_no_client_makes_up_is_counted_by_itself_among_ever_new_values(conn, acme_1):
    """The reason alone says what was wrong, or the one of two values."""
    seldom = {(DESTINATION, ""), (STATE, RECEIVER), (STATE, ENDING)}
    counts = MessageRefusalCounts()
    for batch in range(3):
        for reason, value in seldom:
            counts.add(acme_1.id, reason, value)
        for number in range(5 * MAX_VALUES):
            counts.add(acme_1.id, SENDER, f"{batch}-{number % MAX_VALUES}")
        refusals.record_refusals(conn, counts.take(), NOON + batch)
        # In the database, too, they are the rarest.
        record_refused_messages(conn, acme_1.id, {(SENDER, f"{batch}+{each}"): 9 for each in range(MAX_VALUES)}, NOON)
    found = list_counts(conn, acme_1)
    assert {key: found.get(key) for key in seldom} == dict.fromkeys(seldom, 3)
    assert {key for key in found if key[1] == OTHERS} == {(SENDER, OTHERS)}


def test_counts_are_written_in_small_parts_and_those_of_an_account_together():
    sizes = {1: 150, 2: 50, 3: 1, 4: 900, 5: 1} | dict.fromkeys(range(6, 30), 1)
    counts = {
        RefusalKey(account_id, False, SENDER, f"S{each}"): account_id
        for account_id, size in sizes.items()
        for each in range(size)
    }
    parts = split_counts(counts)
    accounts = [sorted({key.account_id for key in part}) for part in parts]
    assert accounts == [[1, 2], [3], [4], [*range(5, 15)], [*range(15, 25)], [*range(25, 30)]]
    assert {key: count for part in parts for key, count in part.items()} == counts
    assert split_counts({}) == []


def test_values_of_several_hours_of_a_day_are_folded_together_and_those_of_another_day_are_not(conn, acme_1):
    record_refused_messages(conn, acme_1.id, {(SENDER, f"a{each}"): 5 for each in range(MAX_VALUES)}, NOON - DAY_MS)
    for hour in range(2):
        rare = {(SENDER, f"{hour}-{each}"): 1 for each in range(MAX_VALUES // 2)}
        frequent = {(SENDER, f"b{each}"): 2 for each in range(MAX_VALUES)}
        record_refused_messages(conn, acme_1.id, rare | frequent, NOON + hour * HOUR_MS)
    yesterday = list_counts(conn, acme_1, 0, NOON - DAY_MS // 2)
    assert yesterday == {(SENDER, f"a{each}"): 5 for each in range(MAX_VALUES)}
    today = list_counts(conn, acme_1, NOON - DAY_MS // 2)
    assert today == {(SENDER, OTHERS): MAX_VALUES} | {(SENDER, f"b{each}"): 4 for each in range(MAX_VALUES)}


def test_refused_binds_are_not_pushed_out_by_refused_messages(conn, acme_1):
    refused_binds.record_refused_binds(conn, [RefusedBind(acme_1.id, "203.0.113.7", NOT_AUTHORISED, NOON)])
    for batch in range(3):
        senders = {(SENDER, f"{batch}-{each}"): 9 for each in range(MAX_VALUES)}
        record_refused_messages(conn, acme_1.id, senders, NOON)
    assert list_counts(conn, acme_1)[NOT_AUTHORISED, "203.0.113.7"] == 1


def test_seldom_refusals_of_other_reasons_are_not_pushed_out_by_ever_new_senders(conn, acme_1):
    """What helps follows from their values."""
    seldom = {(STATE, RECEIVER): 1, (THROUGHPUT, "20"): 1, (CODING, "4"): 1}
    for batch in range(4):
        counts = MessageRefusalCounts()
        for number in range(MAX_VALUES):
            for _ in range(2):
                counts.add(acme_1.id, SENDER, f"{batch}-{number}")
        if not batch:
            for reason, value in seldom:
                counts.add(acme_1.id, reason, value)
        taken = counts.take()
        if not batch:
            assert seldom.items() <= {(key.reason, key.value): count for key, count in taken.items()}.items()
        refusals.record_refusals(conn, taken, NOON)
        more = {(SENDER, f"{batch}+{number}"): 2 for number in range(MAX_VALUES)}
        record_refused_messages(conn, acme_1.id, more, NOON)
    found = list_counts(conn, acme_1)
    assert seldom.items() <= found.items()
    assert sum(found.values()) == 16 * MAX_VALUES + 3


def test_of_each_account_its_own_values_are_kept_in_memory(conn, acme_1, acme_2):
    counts = MessageRefusalCounts()
    counts.add(acme_2.id, SENDER, "NOTMINE")
    for number in range(20 * MAX_VALUES):
        counts.add(acme_1.id, SENDER, f"{number}")
    taken = counts.take()
    assert taken[RefusalKey(acme_2.id, False, SENDER, "NOTMINE")] == 1
    assert len(taken) <= MAX_VALUES + 2
    assert sum(taken.values()) == 20 * MAX_VALUES + 1
    assert counts.take() == {}


def test_what_could_not_be_written_is_counted_the_next_time(acme_1):
    counts = MessageRefusalCounts()
    counts.add(acme_1.id, SENDER, "NOTMINE")
    counts.put_back(counts.take())
    counts.add(acme_1.id, SENDER, "NOTMINE")
    assert counts.take() == {RefusalKey(acme_1.id, False, SENDER, "NOTMINE"): 2}


def test_what_terminals_would_obey_is_escaped(acme_1):
    counts = MessageRefusalCounts()
    counts.add(acme_1.id, SENDER, "\x1b[2J\x85é")
    assert counts.take() == {RefusalKey(acme_1.id, False, SENDER, "\\x1b[2J\\x85\\xe9"): 1}


def test_what_is_older_than_31_days_is_removed_and_its_account_not_looked_at_any_more(conn, acme_1, acme_2):
    for account, at in ((acme_1, NOON - 31 * DAY_MS - HOUR_MS), (acme_1, NOON), (acme_2, NOON - 31 * DAY_MS - HOUR_MS)):
        record_refused_messages(conn, account.id, {(SENDER, "NOTMINE"): 1}, at)
    refusals.purge_refusals(conn, NOON)
    assert list_counts(conn, acme_1) == {(SENDER, "NOTMINE"): 1}
    assert list_counts(conn, acme_2) == {}
    assert [row["account_id"] for row in conn.execute("SELECT account_id FROM latest_refusals")] == [acme_1.id]


# --- binds


def test_when_the_password_that_a_client_uses_was_replaced(conn, keys, acme_1):
    old = credentials.find_smpp_password_info(conn, acme_1.id)
    assert old is not None
    credentials.regenerate_smpp_password(conn, keys, SHELL, acme_1, send_mail=False)
    now = now_ms()
    refused = RefusedBind(acme_1.id, "127.0.0.1", refused_binds.REPLACED_PASSWORD, now, old.id)
    refused_binds.record_refused_binds(conn, [refused])
    (seen,) = list_refused_binds(conn, acme_1.id)
    replaced_at = refused_binds.find_password_replacement(conn, seen)
    assert replaced_at is not None
    assert now - 10_000 < replaced_at <= now
    refused_binds.record_refused_binds(conn, [replace(refused, password_id=999)])
    (seen,) = list_refused_binds(conn, acme_1.id)
    assert refused_binds.find_password_replacement(conn, seen) is None


def test_refused_binds_are_counted_by_address_and_reason(conn, acme_1):
    now = now_ms()
    refused_binds.record_refused_binds(
        conn, [RefusedBind(acme_1.id, "203.0.113.7", NOT_AUTHORISED, now - 10 + n) for n in range(3)]
    )
    refused_binds.record_refused_binds(conn, [RefusedBind(acme_1.id, "203.0.113.8", refused_binds.WRONG_PASSWORD, now)])
    assert [(each.value, each.reason, each.count) for each in list_refused_binds(conn, acme_1.id)] == [
        ("203.0.113.8", refused_binds.WRONG_PASSWORD, 1),
        ("203.0.113.7", NOT_AUTHORISED, 3),
    ]


def test_what_is_older_than_a_week_is_not_listed(conn, acme_1):
    now = now_ms()
    refused_binds.record_refused_binds(conn, [RefusedBind(acme_1.id, "203.0.113.7", NOT_AUTHORISED, now - 8 * DAY_MS)])
    assert list_refused_binds(conn, acme_1.id) == []
    refused_binds.record_refused_binds(conn, [RefusedBind(acme_1.id, "203.0.113.7", NOT_AUTHORISED, now)])
    (seen,) = list_refused_binds(conn, acme_1.id)
    assert (seen.count, seen.first_at) == (1, now)


def test_binds_with_a_system_id_that_no_account_has_are_kept_for_operators_within_bounds(conn, acme_1):
    for number in range(1_200):
        bind = RefusedBind(0, "203.0.113.7", "", NOON + number, system_id=f"smpp-{number}")
        refused_binds.record_refused_binds(conn, [bind] * 2)
    found = refused_binds.list_unknown_binds(conn, 0)
    assert len(found) == 1_000
    assert (found[0].system_id, found[0].address, found[0].count) == ("smpp-1199", "203.0.113.7", 2)
    assert list_counts(conn, acme_1) == {}
    assert len(refused_binds.list_unknown_binds(conn, NOON + 1_100)) == 100
    refused_binds.purge_unknown_binds(conn, NOON + 1_198 + refusals.RETENTION_MS)
    assert [each.system_id for each in refused_binds.list_unknown_binds(conn, 0)] == ["smpp-1199"]


def test_refused_binds_from_ever_new_addresses_are_kept_within_bounds(conn, acme_1, acme_2):
    refused_binds.record_refused_binds(conn, [RefusedBind(acme_2.id, "203.0.113.7", NOT_AUTHORISED, 1)])
    now = NOON
    for number in range(30):
        refused_binds.record_refused_binds(
            conn,
            [
                RefusedBind(acme_1.id, f"2001:db8::{number:x}:{host:x}", NOT_AUTHORISED, now + number)
                for host in range(10)
            ],
        )
    binds = refusals.list_refusals(conn, acme_1.id, NOON, NOON + HOUR_MS)
    assert 100 < len(binds) <= 200
    assert sum(each.count for each in binds) == 300
    assert binds[0].last_at == now + 29
    assert list_counts(conn, acme_2) == {(NOT_AUTHORISED, "203.0.113.7"): 1}
