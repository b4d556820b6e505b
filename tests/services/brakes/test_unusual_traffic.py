"""What is unusual, who is told, and what is held."""

from collections import Counter
from dataclasses import replace
from email import message_from_bytes, policy

import pytest

from portal.core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from portal.core.config import BrakeSettings
from portal.services.brakes import brakes, unusual_traffic
from portal.services.brakes.brakes import HOLD, OFF, Brakes
from portal.services.brakes.unusual_traffic import OURS, TrafficWatch
from portal.services.common.audit import SHELL, Actor
from portal.services.common.mail import send_due_mails
from portal.services.messages import intake
from portal.services.people import users
from portal.services.statistics import rollup
from portal.services.upstreams import holds
from tests.services.mails import get_text
from tests.services.submitting import store_messages
from tests.support import prepare_submit

NOON = 1_900_000_000_000 // DAY_MS * DAY_MS + 12 * HOUR_MS
SMALL = BrakeSettings(busy_hour_messages=5, busy_hour_factor=10)
ALICE = Actor("alice@acme.example")
CHINESE = "8613812345678"


@pytest.fixture
def watch(keys):
    return TrafficWatch(SMALL, keys)


@pytest.fixture
def send(conn, acme_1):
    """Stores so many messages at a moment, to numbers that aren't next to each other, and has them counted."""
    sent: Counter[int] = Counter()

    def send(count, at, *numbers, account=acme_1, **fields):
        sent[account.id] += count
        first = 393_400_000_000 + 1_000 * sent[account.id]
        to = numbers or [str(first + 7 * each) for each in range(count)]
        submits = [prepare_submit(conn, account.id, destination=each, **fields) for each in to]
        store_messages(conn, submits, at)
        rollup.roll_up_all(conn)

    return send


@pytest.fixture
def list_mails(conn, config, keys):
    """The mails since the last call: to whom, subject and text."""

    def list_mails():
        list(send_due_mails(conn, config, keys))
        files = sorted((config.data / "outbox").iterdir()) if (config.data / "outbox").exists() else []
        messages = [message_from_bytes(each.read_bytes(), policy=policy.default) for each in files]
        for each in files:
            each.unlink()
        return {each["To"]: (each["Subject"], " ".join(get_text(each).split())) for each in messages}

    return list_mails


def list_open(conn):
    return [(each.kind, each.country, each.answer) for each in unusual_traffic.list_open_events(conn)]


# --- busy hours


def test_the_threshold_is_ten_times_the_median_hour_and_500_at_least():
    settings = BrakeSettings()
    assert unusual_traffic.compute_busy_threshold([], settings) == (500, 0)
    # 14 days have 336 hours: in half of them nothing was sent.
    assert unusual_traffic.compute_busy_threshold([4000] * 167, settings) == (500, 0)
    assert unusual_traffic.compute_busy_threshold([20, 30] * 168, settings) == (500, 25)
    assert unusual_traffic.compute_busy_threshold([*range(1, 201)], settings) == (500, 32)
    assert unusual_traffic.compute_busy_threshold([60] * 100 + [100] * 100 + [4000] * 136, settings) == (1000, 100)


def test_an_hour_above_the_threshold_is_told_once_until_it_is_over(conn, watch, send, list_mails):
    send(5, NOON)
    watch.look(conn, NOON)
    assert list_open(conn) == []
    send(1, NOON + MINUTE_MS)
    for _ in range(3):
        watch.look(conn, NOON + 2 * MINUTE_MS)
    assert list_open(conn) == [("busy_hour", "", None)]
    mails = list_mails()
    assert set(mails) == {"alice@acme.example", "olga@portal.example"}
    subject, text = mails["alice@acme.example"]
    assert subject == "Unusual traffic of smpp-acme-1"
    assert "6 messages in an hour. More than 5 are unusual for this account" in text
    assert "/accounts/smpp-acme-1" in text
    assert "/admin/accounts/smpp-acme-1" in mails["olga@portal.example"][1]
    # It goes on in the next hour: nobody is told again.
    send(9, NOON + HOUR_MS)
    watch.look(conn, NOON + HOUR_MS + MINUTE_MS)
    # An hour without follows: over.
    watch.look(conn, NOON + 3 * HOUR_MS)
    assert (list_open(conn), list_mails()) == ([], {})
    # What is busy after that is told again.
    send(6, NOON + 4 * HOUR_MS)
    watch.look(conn, NOON + 4 * HOUR_MS)
    (event,) = unusual_traffic.list_open_events(conn)
    assert event.figures == {"messages": 6, "threshold": 5, "usual": 0}
    assert len(list_mails()) == 2


def test_an_account_that_sends_much_in_most_hours_may_send_more(conn, keys, send):
    watch = TrafficWatch(replace(SMALL, busy_hour_days=1), keys)
    for hour in range(15, 1, -1):
        send(2, NOON - hour * HOUR_MS)
    send(20, NOON)
    watch.look(conn, NOON)
    assert list_open(conn) == []
    send(1, NOON)
    watch.look(conn, NOON)
    (event,) = unusual_traffic.list_open_events(conn)
    assert event.figures == {"messages": 21, "threshold": 20, "usual": 2}


def test_hours_of_more_than_14_days_ago_do_not_count(conn, watch, send):
    send(100, NOON - 15 * DAY_MS)
    send(6, NOON)
    watch.look(conn, NOON)
    assert list_open(conn) == [("busy_hour", "", None)]


def test_each_account_is_looked_at_by_itself(conn, watch, send, globex_1):
    send(4, NOON)
    send(4, NOON, account=globex_1, source="GLOBEX")
    watch.look(conn, NOON)
    assert list_open(conn) == []
    send(2, NOON, account=globex_1, source="GLOBEX")
    watch.look(conn, NOON)
    (event,) = unusual_traffic.list_open_events(conn)
    assert event.account == "smpp-globex-1"


# --- expensive countries


def test_the_first_message_in_90_days_to_an_expensive_country(conn, keys, send, list_mails):
    watch = TrafficWatch(replace(SMALL, expensive_credits="0.9"), keys)
    # Italy costs a credit, France half of one.
    send(1, NOON - 91 * DAY_MS)
    send(1, NOON, "33612345678")
    watch.look(conn, NOON)
    assert list_open(conn) == []
    send(1, NOON)
    watch.look(conn, NOON)
    assert list_open(conn) == [("expensive_country", "IT", None)]
    assert "The first messages in 90 days to Italy, at 1 credits a part." in list_mails()["alice@acme.example"][1]
    # Tomorrow it is no longer the first one.
    send(1, NOON + DAY_MS)
    watch.look(conn, NOON + DAY_MS)
    assert (list_open(conn), list_mails()) == ([], {})


def test_no_country_is_expensive_where_the_setting_is_0(conn, keys, send):
    send(1, NOON)
    TrafficWatch(replace(SMALL, expensive_credits="0"), keys).look(conn, NOON)
    assert list_open(conn) == []


# --- consecutive numbers


@pytest.mark.parametrize(
    ("numbers", "count"),
    [
        ([], 0),
        (["393401234560", "393401234560"], 0),
        (["393401234561", "393401234560"], 2),
        (["10", "12", "14", "15", "16", "20"], 3),
    ],
)
def test_consecutive_numbers_are_counted_once_in_any_order(numbers, count):
    assert unusual_traffic.count_consecutive_numbers(numbers) == count


def test_more_than_half_of_the_last_100_recipients_one_apart(conn, keys, send):
    watch = TrafficWatch(BrakeSettings(), keys)
    row = [str(393_300_000_000 + each) for each in range(51)]
    send(60, NOON)
    send(50, NOON, *row[:50])
    watch.look(conn, NOON)
    assert list_open(conn) == []
    send(1, NOON, row[50])
    watch.look(conn, NOON)
    (event,) = unusual_traffic.list_open_events(conn)
    assert (event.kind, event.figures) == ("consecutive_numbers", {"numbers": 51, "of": 100})
    # Other numbers come.
    send(60, NOON)
    watch.look(conn, NOON)
    assert list_open(conn) == []


# --- what follows


def test_an_account_is_held_if_so_set_and_an_answer_lets_it_go_on(conn, watch, send, acme_1, list_mails):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(unusual=HOLD))
    send(6, NOON)
    watch.look(conn, NOON)
    (hold,) = holds.list_account_holds(conn)
    assert (hold.account, hold.reason, hold.actor) == ("smpp-acme-1", "brake: busy_hour", "system")
    subject, text = list_mails()["alice@acme.example"]
    assert subject == "smpp-acme-1 is on hold: unusual traffic"
    assert "can be released, or cancelled with a refund" in text
    assert "If this isn’t the account’s own traffic, generate a new password for it first." in " ".join(text.split())
    # Its hour is over, and it still waits for an answer.
    watch.look(conn, NOON + 3 * HOUR_MS)
    assert list_open(conn) == [("busy_hour", "", None)]
    assert unusual_traffic.answer_events(conn, ALICE, acme_1, OURS)
    assert holds.list_account_holds(conn) == []
    assert not unusual_traffic.answer_events(conn, ALICE, acme_1, OURS)
    watch.look(conn, NOON + 3 * HOUR_MS)
    assert list_open(conn) == []


def test_what_was_answered_is_not_held_again_until_it_is_over(conn, watch, send, acme_1, list_mails):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(unusual=HOLD))
    send(6, NOON)
    watch.look(conn, NOON)
    unusual_traffic.answer_events(conn, ALICE, acme_1, OURS)
    list_mails()
    send(60, NOON + MINUTE_MS)
    watch.look(conn, NOON + MINUTE_MS)
    assert (holds.list_account_holds(conn), list_mails()) == ([], {})
    assert list_open(conn) == [("busy_hour", "", OURS)]


def test_what_an_operator_holds_is_not_released_by_an_answer(conn, watch, send, acme_1):
    holds.hold_account(conn, SHELL, acme_1.id, "unpaid")
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(unusual=HOLD))
    send(6, NOON)
    watch.look(conn, NOON)
    (event,) = unusual_traffic.list_open_events(conn)
    assert not event.is_held
    unusual_traffic.answer_events(conn, ALICE, acme_1, OURS)
    assert [each.reason for each in holds.list_account_holds(conn)] == ["unpaid"]


def test_nobody_is_told_where_it_is_off(conn, watch, send, acme_1, list_mails):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(unusual=OFF))
    send(6, NOON)
    watch.look(conn, NOON)
    assert (list_open(conn), list_mails()) == ([], {})


def test_each_reads_it_in_their_language(conn, cast, watch, send, list_mails):
    users.set_user_language(conn, users.get_user_by_email(conn, "alice@acme.example"), "it")
    send(6, NOON)
    watch.look(conn, NOON)
    mails = list_mails()
    assert mails["alice@acme.example"][0] == "Traffico insolito di smpp-acme-1"
    assert mails["olga@portal.example"][0] == "Unusual traffic of smpp-acme-1"


def test_two_processes_that_look_record_it_once(conn, connect, keys, send, list_mails):
    send(6, NOON)
    for each in (conn, connect()):
        TrafficWatch(SMALL, keys).look(each, NOON)
    assert len(unusual_traffic.list_latest_events(conn)) == 1
    assert len(list_mails()) == 2


def test_what_goes_on_is_held_once_that_is_set(conn, watch, send, acme_1, list_mails):
    """At three in the morning the first mail came; whoever reads it sets the account to be held."""
    send(6, NOON)
    watch.look(conn, NOON)
    list_mails()
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(unusual=HOLD))
    for _ in range(2):
        watch.look(conn, NOON + MINUTE_MS)
        assert [each.actor for each in holds.list_account_holds(conn)] == ["system"]
    mails = list_mails()
    assert {subject for subject, _ in mails.values()} == {"smpp-acme-1 is on hold: unusual traffic"}
    assert set(mails) == {"alice@acme.example", "olga@portal.example"}
    (event,) = unusual_traffic.list_open_events(conn)
    assert event.is_held
    # Whoever releases it without an answer isn't contradicted.
    holds.release_account(conn, SHELL, acme_1.id)
    watch.look(conn, NOON + 2 * MINUTE_MS)
    assert (holds.list_account_holds(conn), list_mails()) == ([], {})


def test_what_was_answered_is_not_held_once_that_is_set(conn, watch, send, acme_1):
    send(6, NOON)
    watch.look(conn, NOON)
    (event,) = unusual_traffic.list_open_events(conn)
    unusual_traffic.answer_events(conn, ALICE, acme_1, OURS)
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(unusual=HOLD))
    watch.look(conn, NOON)
    # It was answered while another process looked.
    unusual_traffic.hold_for_event(conn, watch.keys, event)
    assert holds.list_account_holds(conn) == []


def test_the_latest_events_begin_with_those_that_go_on(conn, watch, send, acme_1, globex_1):
    for at in (NOON, NOON + DAY_MS):
        send(6, at)
        watch.look(conn, at)
        watch.look(conn, at + DAY_MS // 2)
    send(6, NOON + 2 * DAY_MS)
    send(6, NOON + 2 * DAY_MS, account=globex_1, source="GLOBEX")
    watch.look(conn, NOON + 2 * DAY_MS)
    unusual_traffic.answer_events(conn, ALICE, globex_1, OURS)
    found = [(each.account, each.began_at - NOON) for each in unusual_traffic.list_latest_events(conn)]
    open_events = [("smpp-acme-1", 2 * DAY_MS), ("smpp-globex-1", 2 * DAY_MS)]
    assert found == [*open_events, ("smpp-acme-1", DAY_MS), ("smpp-acme-1", 0)]
    for limit in (1, 2, 3):
        assert len(unusual_traffic.list_latest_events(conn, limit)) == limit


def test_events_that_are_over_are_forgotten_and_others_stay(conn, watch, send):
    send(6, NOON)
    watch.look(conn, NOON)
    unusual_traffic.purge_events(conn, NOON + 2 * DAY_MS)
    assert len(unusual_traffic.list_latest_events(conn)) == 1
    watch.look(conn, NOON + DAY_MS)
    unusual_traffic.purge_events(conn, NOON + DAY_MS)
    assert len(unusual_traffic.list_latest_events(conn)) == 1
    unusual_traffic.purge_events(conn, NOON + DAY_MS + 1)
    assert unusual_traffic.list_latest_events(conn) == []


def test_what_is_refused_is_no_traffic(conn, watch, acme_1):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(day_messages=5))
    intake.store_messages(conn, [prepare_submit(conn, acme_1.id) for _ in range(50)], NOON)
    rollup.roll_up_all(conn)
    watch.look(conn, NOON)
    assert list_open(conn) == []
