"""What operators and owners set, and what that refuses."""

import subprocess
import sys
from collections import Counter
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial

import pytest

from portal.core import db
from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.db import write_transaction
from portal.services.accounts import accounts
from portal.services.billing import auto_recredit
from portal.services.brakes import brake_counters, brakes
from portal.services.brakes.brakes import ALERT, HOLD, NO_BRAKES, NO_OWN_BRAKES, OFF, Brakes
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.services.messages import blacklist, intake, smpp_config, validation
from portal.services.operations import self_check
from portal.services.people import customers
from tests.support import ROOT, list_submitted, prepare_submit, record_refused_messages

# A moment in the middle of an hour and of a day, which ids and days' totals can have whenever the test runs.
NOON = 1_900_000_000_000 // DAY_MS * DAY_MS + 12 * HOUR_MS


def store(conn, account, count=1, now=None, counters=None, **overrides):
    """Store so many equal messages one by one; returns why each was refused, "" where it wasn't."""
    reasons = []
    for _ in range(count):
        submit = prepare_submit(conn, account.id, **overrides)
        stored = intake.store_messages(conn, [submit], now, counters=counters)
        reasons.append("no_credit" if stored.message_ids == [None] and not stored.braked else "")
        reasons[-1] = stored.braked.get(submit.id, reasons[-1])
    return reasons


# --- what is set


def test_an_account_has_no_brakes_but_an_alert(conn, acme_1):
    found = brakes.get_brakes(conn, acme_1.id)
    assert found.in_force == NO_BRAKES == Brakes(None, None, None, None, ALERT)


def test_of_an_operators_and_an_owners_brakes_the_stricter_hold(conn, acme_1):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(frozenset(("IT", "FR")), 100, 5000, None))
    brakes.set_own_brakes(conn, SHELL, acme_1, Brakes(frozenset(("IT",)), 40, None, 3, HOLD))
    assert brakes.get_brakes(conn, acme_1.id).in_force == Brakes(frozenset(("IT",)), 40, 5000, 3, HOLD)
    # An operator's that become stricter than the owner's hold, too.
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(frozenset(("FR",)), 10))
    assert brakes.get_brakes(conn, acme_1.id).in_force == Brakes(frozenset(), 10, None, 3, HOLD)


@pytest.mark.parametrize(
    ("own", "refusal", "field"),
    [
        ({"day_messages": 101}, brakes.LimitNotStricter, "day_messages"),
        ({"day_credits": 5001}, brakes.LimitNotStricter, "day_credits"),
        ({"hour_messages": 6}, brakes.LimitNotStricter, "hour_messages"),
        ({"countries": frozenset(("IT", "DE"))}, brakes.CountriesNotStricter, "countries"),
        ({"unusual": ALERT}, brakes.ReactionNotStricter, "unusual"),
    ],
)
def test_an_owner_can_only_be_stricter(conn, acme_1, own, refusal, field):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(frozenset(("IT", "FR")), 100, 5000, 5, HOLD))
    with pytest.raises(refusal) as refused:
        brakes.set_own_brakes(conn, SHELL, acme_1, replace(NO_OWN_BRAKES, **own))
    assert refused.value.field == field
    assert brakes.get_brakes(conn, acme_1.id).own == NO_OWN_BRAKES


def test_a_change_of_somebody_else_is_not_overwritten(conn, acme_1):
    seen = brakes.get_brakes(conn, acme_1.id)
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(day_messages=5))
    brakes.set_own_brakes(conn, SHELL, acme_1, Brakes(day_messages=4, unusual=OFF))
    with pytest.raises(brakes.BrakesChangedMeanwhile):
        brakes.set_brakes(conn, SHELL, acme_1, Brakes(day_messages=9), seen=seen.operator.fingerprint)
    with pytest.raises(brakes.BrakesChangedMeanwhile):
        brakes.set_own_brakes(conn, SHELL, acme_1, Brakes(day_messages=3, unusual=OFF), seen=seen.own.fingerprint)
    assert brakes.get_brakes(conn, acme_1.id).in_force.day_messages == 4


def test_new_accounts_get_the_defaults_and_others_keep_all(conn, cast, acme_1):
    brakes.set_default_brakes(conn, SHELL, Brakes(frozenset(("IT",)), 7, unusual=HOLD))
    added = accounts.create_account(conn, SHELL, cast.acme, name="smpp-acme-9")
    assert brakes.get_brakes(conn, added.id).in_force == Brakes(frozenset(("IT",)), 7, unusual=HOLD)
    assert brakes.get_brakes(conn, acme_1.id).in_force == NO_BRAKES
    config = {each.name: each.countries for each in smpp_config.load_account_configs(conn)}
    assert (config["smpp-acme-9"], config["smpp-acme-1"]) == (frozenset(("IT",)), None)


@pytest.mark.parametrize("change", [brakes.set_brakes, brakes.set_own_brakes])
def test_a_change_makes_the_smpp_server_load_the_account(conn, acme_1, change):
    before = smpp_config.read_config_version(conn)
    change(conn, SHELL, acme_1, Brakes(frozenset(("IT",)), unusual=HOLD))
    (changed,) = smpp_config.load_account_configs(conn, before)
    assert (changed.name, changed.countries) == ("smpp-acme-1", frozenset(("IT",)))


def test_countries_and_limits_as_they_are_typed():
    assert brakes.parse_countries(" it, FR\nde ") == frozenset(("IT", "FR", "DE"))
    assert brakes.parse_countries("") is brakes.parse_countries("all") is None
    assert (brakes.parse_limit("day_messages", " 12 "), brakes.parse_limit("day_messages", "0")) == (12, None)
    with pytest.raises(brakes.InvalidCountry):
        brakes.parse_countries("IT XX")
    for text in ("-1", "1.5", "many", "9" * 20):
        with pytest.raises(brakes.InvalidBrakeLimit):
            brakes.parse_limit("day_messages", text)


# --- what is refused


def test_a_country_that_is_not_allowed_is_refused_before_anything_is_stored(conn, acme_1):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(frozenset(("FR",))))
    prepare_submit(conn, acme_1.id, destination="33612345678")
    with pytest.raises(validation.CountryNotAllowed) as refused:
        prepare_submit(conn, acme_1.id)
    assert refused.value.country == "IT"


def test_the_most_messages_a_day(conn, acme_1):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(day_messages=3))
    assert store(conn, acme_1, 5, NOON) == ["", "", "", "day_messages", "day_messages"]
    # The day ends at midnight in UTC.
    assert store(conn, acme_1, 1, NOON + 12 * HOUR_MS - 1) == ["day_messages"]
    assert store(conn, acme_1, 1, NOON + 12 * HOUR_MS) == [""]
    assert len(list_submitted(conn, acme_1.id)) == 4


def test_the_most_credits_a_day_count_all_parts(conn, acme_1):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(day_credits=5000))
    # 200 characters are two parts of a credit each.
    assert store(conn, acme_1, 3, NOON, body=b"x" * 200) == ["", "", "day_credits"]
    assert store(conn, acme_1, 2, NOON) == ["", "day_credits"]
    assert accounts.get_account(conn, acme_1.name).balance == acme_1.balance - 5000


def test_the_most_messages_an_hour_to_one_number(conn, acme_1):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(hour_messages=2))
    assert store(conn, acme_1, 3, NOON) == ["", "", "hour_messages"]
    assert store(conn, acme_1, 1, NOON, destination="393409999999") == [""]
    assert store(conn, acme_1, 1, NOON + HOUR_MS - 1) == ["hour_messages"]
    assert store(conn, acme_1, 3, NOON + HOUR_MS) == ["", "", "hour_messages"]


def test_messages_of_one_batch_are_counted_one_by_one(conn, acme_1, globex_1):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(day_messages=4, hour_messages=2))
    submits = [prepare_submit(conn, acme_1.id, destination=f"3934012345{number % 3}0") for number in range(9)]
    others = [prepare_submit(conn, globex_1.id, source="GLOBEX") for _ in range(9)]
    stored = intake.store_messages(conn, [each for pair in zip(submits, others, strict=True) for each in pair], NOON)
    assert [stored.braked.get(each.id, "") for each in submits] == [""] * 4 + ["day_messages"] * 5
    assert not any(each.id in stored.braked for each in others)


def test_what_is_not_sent_does_not_count(conn, acme_1):
    """What credits don't cover, and what is for the blacklist."""
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(day_messages=2, hour_messages=2))
    blacklist.add_blacklist_number(conn, SHELL, acme_1, "393409999999")
    credits.correct_balance(conn, SHELL, acme_1, -acme_1.balance + 2000, "for the test")
    assert store(conn, acme_1, 3, NOON, destination="393409999999") == ["", "", ""]
    assert store(conn, acme_1, 1, NOON, body=b"x" * 500) == ["no_credit"]
    assert store(conn, acme_1, 3, NOON) == ["", "", "day_messages"]


def test_what_the_blacklist_has_stopped_does_not_count_in_a_process_that_goes_on(conn, acme_1):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(hour_messages=2))
    counters = brake_counters.BrakeCounters()
    assert store(conn, acme_1, 1, NOON, counters, destination="393401111111") == [""]
    blacklist.add_blacklist_number(conn, SHELL, acme_1, "393409999999")
    assert store(conn, acme_1, 3, NOON, counters, destination="393409999999") == ["", "", ""]
    blacklist.remove_blacklist_number(conn, SHELL, acme_1, "393409999999")
    assert store(conn, acme_1, 3, NOON, counters, destination="393409999999") == ["", "", "hour_messages"]


def test_no_pack_is_bought_for_what_a_brake_refuses(conn, cast, acme_1):
    acme = customers.get_customer_by_id(conn, cast.acme)
    customers.change_customer(conn, SHELL, acme, credit_line=10**9, min_age_days=0)
    auto_recredit.set_recredit_rule(conn, SHELL, acme_1, 999_000, 100_000, 9)
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(day_messages=2))
    intake.store_messages(conn, [prepare_submit(conn, acme_1.id) for _ in range(200)])
    # The second message takes the balance below 999: one pack. Without brakes there would be two more.
    assert accounts.get_account(conn, acme_1.name).balance == 1000_000 + 100_000 - 2000


def test_what_a_brake_refuses_is_not_stored_and_the_books_agree(conn, acme_1):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(day_messages=2))
    assert store(conn, acme_1, 5) == ["", "", *3 * ["day_messages"]]
    assert self_check.list_problem_texts(conn) == []


def test_refused_messages_are_those_that_brakes_have_refused_in_a_day(conn, acme_1):
    record_refused_messages(conn, acme_1.id, {("country", "FR"): 7, ("sender", "NOTMINE"): 8})
    record_refused_messages(conn, acme_1.id, {("day_messages", ""): 3}, now_ms() - 2 * DAY_MS)
    found = brakes.list_refused_messages(conn, acme_1.id)
    assert [(each.reason, each.value, each.count) for each in found] == [("country", "FR", 7)]


def test_a_process_that_goes_on_counts_what_another_has_stored_and_what_came_before_its_start(conn, acme_1):
    """What is rolled back doesn't count."""
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(hour_messages=5))
    assert store(conn, acme_1, now=NOON) == [""]
    counters = brake_counters.load_counters(conn, NOON)
    with suppress(ZeroDivisionError), write_transaction(conn):
        store(conn, acme_1, now=NOON, counters=counters)
        raise ZeroDivisionError
    assert store(conn, acme_1, 2, now=NOON, counters=counters) == ["", ""]
    assert store(conn, acme_1, now=NOON) == [""]
    assert store(conn, acme_1, 2, now=NOON, counters=counters) == ["", "hour_messages"]


def test_one_that_was_silent_for_an_hour_is_counted_again(conn, acme_1, globex_1):
    for each in (acme_1, globex_1):
        brakes.set_brakes(conn, SHELL, each, Brakes(hour_messages=2))
    counters = brake_counters.load_counters(conn, NOON)
    assert store(conn, acme_1, 1, NOON, counters) == [""]
    others = {"source": "GLOBEX"}
    for hour, (account, values) in enumerate(((globex_1, others), (globex_1, others), (acme_1, {})), start=1):
        assert store(conn, account, 3, NOON + hour * HOUR_MS, counters, **values) == ["", "", "hour_messages"]


def test_what_an_account_has_sent_before_it_gets_a_limit_counts_once(conn, data, acme_1, globex_1):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(hour_messages=100))
    counters = brake_counters.load_counters(conn, NOON)
    assert store(conn, globex_1, 4, NOON, counters, source="GLOBEX") == ["", "", "", ""]
    with closing(db.connect(data / db.FILE_NAME)) as other:
        brakes.set_brakes(other, SHELL, globex_1, Brakes(hour_messages=6))
    assert store(conn, globex_1, 3, NOON, counters, source="GLOBEX") == ["", "", "hour_messages"]


def test_what_others_change_holds_at_once_in_a_process_that_goes_on(conn, data, acme_1):
    """What it may send in any case is known to it only as long as nobody changes anything."""
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(day_messages=100, day_credits=100_000))
    counters = brake_counters.load_counters(conn, NOON)
    assert store(conn, acme_1, 3, NOON, counters) == ["", "", ""]
    with closing(db.connect(data / db.FILE_NAME)) as other:
        brakes.set_brakes(other, SHELL, acme_1, Brakes(day_messages=4))
        assert store(conn, acme_1, 2, NOON, counters) == ["", "day_messages"]
        brakes.set_brakes(other, SHELL, acme_1, Brakes(day_messages=6))
        assert store(other, acme_1, 1, NOON) == [""]
        assert store(conn, acme_1, 2, NOON, counters) == ["", "day_messages"]
    # A day later.
    assert store(conn, acme_1, 7, NOON + DAY_MS, counters)[5:] == ["", "day_messages"]


def test_what_a_busy_account_had_sent_before_it_got_a_limit_is_counted_in_short_transactions(conn, acme_1, globex_1):
    """A million messages in one transaction would keep all clients waiting for seconds."""
    count, first_id = 100_000, ids.min_id_at_time(NOON)
    conn.execute(
        "INSERT INTO messages (id, account_id, source, source_ton, source_npi, destination, country, text, data_coding,"
        " registered_delivery, parts, price, state, ptt)"
        " WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?)"
        " SELECT ? + n, ?, 'ACME', 5, 0, iif(n = 0, '393400000000', '39340' || (1000000 + n)), 'IT', '', 0, 0, 1,"
        " iif(n % 100 = 50, 0, 1000), 1, 2 FROM numbers",
        (count, first_id, acme_1.id),
    )
    brakes.set_brakes(conn, SHELL, globex_1, Brakes(hour_messages=1))
    counters = brake_counters.load_counters(conn, NOON)
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(hour_messages=1))
    steps: Counter[int] = Counter()
    for turn in range(30):
        conn.set_progress_handler(partial(steps.update, [turn]), 1000)
        assert store(conn, acme_1, 1, NOON, counters, destination=f"3933300000{turn:02}") == [""]
    conn.set_progress_handler(None, 0)
    # What a process that begins counts, all at once, and what the last one has been told by and by.
    for counted in (counters, brake_counters.load_counters(conn, NOON)):
        assert store(conn, acme_1, 1, NOON, counted, destination="393400000000") == ["hour_messages"]
        assert counted.get(acme_1.id, "393401000001") == 1
        assert counted.get(acme_1.id, "393401000050") == 0
    assert max(steps.values()) < sum(steps.values()) / 10


def test_an_account_of_which_nothing_is_set_any_more_costs_nothing(conn, acme_1):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(day_messages=2))
    brakes.set_own_brakes(conn, SHELL, acme_1, Brakes(day_messages=1, unusual=OFF))
    brakes.set_brakes(conn, SHELL, acme_1, NO_BRAKES)
    assert conn.execute(f"SELECT {brakes.HAS_BRAKES_SQL}").fetchone()[0]
    version = smpp_config.read_config_version(conn)
    brakes.set_own_brakes(conn, SHELL, acme_1, NO_OWN_BRAKES)
    assert not conn.execute(f"SELECT {brakes.HAS_BRAKES_SQL}").fetchone()[0]
    assert [each.name for each in smpp_config.load_account_configs(conn, version)] == ["smpp-acme-1"]


def test_what_is_set_already_changes_nothing(conn, acme_1):
    """A form that is sent twice isn't told of somebody else's change, and a change of nothing is no action."""
    limits = Brakes(frozenset(("IT",)), 5)
    for _ in range(2):
        brakes.set_brakes(conn, SHELL, acme_1, limits, seen=NO_BRAKES.fingerprint)
        brakes.set_own_brakes(conn, SHELL, acme_1, limits, seen=NO_OWN_BRAKES.fingerprint)
        brakes.set_default_brakes(conn, SHELL, limits, seen=NO_BRAKES.fingerprint)
    actions = conn.execute("SELECT action, count(*) FROM audit_log WHERE action LIKE 'brakes.%' GROUP BY 1").fetchall()
    assert dict(actions) == {"brakes.set": 1, "brakes.own": 1, "brakes.default": 1}


_SENDER = """
import sys
from pathlib import Path
from portal.core import db
from portal.services.messages import intake
from portal.services.brakes.brake_counters import BrakeCounters
from tests.support import prepare_submit
conn = db.connect(Path(sys.argv[1]))
account_id, now, counters = int(sys.argv[2]), int(sys.argv[3]), BrakeCounters()
batches = [
    [prepare_submit(conn, account_id, destination=f"39340123456{digit}") for digit in (0, 1, 2, 3)] for _ in range(150)
]
stored = [intake.store_messages(conn, batches.pop(), now, counters=counters)]
print("ready", flush=True)
sys.stdin.readline()
stored += [intake.store_messages(conn, batch, now, counters=counters) for batch in batches]
print(sum(message_id is not None for each in stored for message_id in each.message_ids), flush=True)
"""


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Brakes(day_messages=301), 301),
        (Brakes(day_credits=255_500), 255),
        (Brakes(hour_messages=37), 4 * 37),
    ],
    ids=["messages a day", "credits a day", "messages an hour to one number"],
)
def test_two_processes_under_load_send_exactly_as_much_together(conn, data, acme_1, limits, expected):
    """Each of two processes submits 600 messages, all but the first four as fast as it can."""
    brakes.set_brakes(conn, SHELL, acme_1, limits)
    command = [sys.executable, "-c", _SENDER, str(data / db.FILE_NAME), str(acme_1.id), str(NOON)]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for each in running:
        assert each.stdout
        assert each.stdout.readline() == "ready\n"
    for each in running:
        assert each.stdin
        print(file=each.stdin, flush=True)
    sent = [int(each.communicate()[0]) for each in running]
    assert sum(sent) == expected == len(list_submitted(conn, acme_1.id))
    assert all(sent)
    assert self_check.list_problem_texts(conn) == []
