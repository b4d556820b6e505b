"""Statistics gathered behind the messages: whatever happens in between, they are what a count of the messages says."""

import random
from collections import Counter
from datetime import UTC, datetime

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED, ENROUTE, UNDELIVERABLE
from portal.services.messages import blacklist, intake, outcomes, query_cancel
from portal.services.messages.outcomes import MessageOutcome
from portal.services.statistics import rollup
from tests.services.submitting import store_messages
from tests.support import prepare_submit

HOUR_MS = 3_600_000
# Two hours before a month ends.
AT = int(datetime(2026, 10, 31, 22, tzinfo=UTC).timestamp() * 1000)


def begins(length: int, at: int) -> int:
    if length == rollup.HOUR:
        return at // HOUR_MS
    if length == rollup.DAY:
        return at // DAY_MS
    date = datetime.fromtimestamp(at / 1000, UTC)
    return date.year * 12 + date.month - 1


def recounted(conn: Connection) -> list[Counter[tuple[object, ...]]]:
    """What the three tables have to say, from the messages alone."""
    amounts: Counter[tuple[object, ...]] = Counter()
    endings: Counter[tuple[object, ...]] = Counter()
    times: Counter[tuple[object, ...]] = Counter()
    for row in conn.execute("SELECT * FROM messages"):
        at = ids.time_from_id(row["id"])
        charged = row["price"] > 0
        for length in (rollup.HOUR, rollup.DAY, rollup.MONTH):
            start = begins(length, at)
            key = (row["account_id"], length, start, row["country"], row["source"])
            amounts[*key, "sent"] += charged
            amounts[*key, "parts"] += row["parts"] * charged
            amounts[*key, "price"] += row["price"]
            amounts[*key, "delivered"] += row["state"] == DELIVERED
            amounts[*key, "failed"] += charged and row["state"] not in (ENROUTE, DELIVERED)
            amounts[*key, "stopped"] += not charged and row["ptt"] == 53
            amounts[*key, "refused"] += not charged and row["ptt"] == 10
            if charged and row["state"] != ENROUTE:
                endings[row["account_id"], length, start, row["ptt"]] += 1
            if row["state"] == DELIVERED:
                since = row["scheduled_at"] if row["scheduled_at"] is not None else at
                times[row["account_id"], length, start, rollup.get_delivery_time_bucket(row["done_at"] - since)] += 1
    return [+each for each in (amounts, endings, times)]


def gathered(conn: Connection) -> list[Counter[tuple[object, ...]]]:
    amounts: Counter[tuple[object, ...]] = Counter()
    endings: Counter[tuple[object, ...]] = Counter()
    times: Counter[tuple[object, ...]] = Counter()
    for row in conn.execute("SELECT * FROM statistics"):
        for name in ("sent", "delivered", "failed", "stopped", "refused", "parts", "price"):
            amounts[*tuple(row)[:5], name] = row[name]
    for *key, messages in conn.execute("SELECT * FROM statistics_endings"):
        endings[tuple(key)] = messages
    for *key, messages in conn.execute("SELECT * FROM statistics_times"):
        times[tuple(key)] = messages
    return [+each for each in (amounts, endings, times)]


def sent(conn: Connection, rng: random.Random, account: Account, at: int) -> list[int]:
    """A few messages of different kinds; returns those that were taken in to be sent."""
    submits = [
        prepare_submit(
            conn,
            account.id,
            b"x" * rng.choice([5, 200]),
            source=rng.choice(["ACME", "GLOBEX"]),
            destination=rng.choice(["393401234567", "393337654321", "33612345678"]),
            scheduled_at=rng.choice([None, None, at + 5_000]),
        )
        for _ in range(rng.randint(1, 5))
    ]
    stored = intake.store_messages(conn, submits, at)
    stopped = {each.message_id for each in stored.receipts}
    return [each for each in stored.message_ids if each is not None and each not in stopped]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_they_are_what_the_messages_say_however_often_they_are_gathered(conn, acme_1, globex_1, seed, monkeypatch):
    # So that a step seldom has all.
    monkeypatch.setattr(rollup, "_MESSAGES_PER_BATCH", 7)
    monkeypatch.setattr(rollup, "_ROWS_PER_BATCH", 9)
    rng = random.Random(seed)
    conn.execute("UPDATE accounts SET any_sender = 1")
    blacklist.add_blacklist_number(conn, SHELL, acme_1, "393337654321")
    conn.execute("UPDATE accounts SET balance = 20000 WHERE id = ?", (globex_1.id,))
    underway, at = [], AT
    for _ in range(60):
        at += rng.randint(1, HOUR_MS // 3)
        underway += sent(conn, rng, rng.choice([acme_1, globex_1]), at)
        rng.shuffle(underway)
        some, underway = underway[:4], underway[4:]
        ended = [
            MessageOutcome(
                each, *rng.choice([(DELIVERED, 0), (DELIVERED, 0), (UNDELIVERABLE, 9)]), at + rng.randint(0, 9_999)
            )
            for each in some
        ]
        # What comes twice counts once.
        outcomes.finish_messages(conn, ended + ended[:1])
        if underway and rng.random() < 0.2:
            statuses = [
                query_cancel.find_message_status(conn, account.id, underway[0]) for account in (acme_1, globex_1)
            ]
            query_cancel.cancel_messages(conn, [each for each in statuses if each])
        if rng.random() < 0.5:
            rollup.roll_up_batch(conn)
    rollup.roll_up_all(conn)
    assert gathered(conn) == recounted(conn)
    amounts = recounted(conn)[0]
    assert {name for *_, name in amounts} == {"sent", "delivered", "failed", "stopped", "refused", "parts", "price"}
    assert len({key[2] for key in amounts if key[1] == rollup.MONTH}) == 2
    assert rollup.roll_up_batch(conn) is False


def test_two_that_gather_at_once_count_once(conn, connect, acme_1):
    (message_id,) = store_messages(conn, [prepare_submit(conn, acme_1.id)])
    outcomes.finish_messages(conn, [MessageOutcome(message_id, DELIVERED, 0, now_ms())])
    other, results = connect(), []

    def roll_up_other(sql: str) -> None:
        """The other one comes between reading and writing."""
        if sql.startswith("BEGIN"):
            conn.set_trace_callback(None)
            results.append(rollup.roll_up_batch(other))

    conn.set_trace_callback(roll_up_other)
    assert rollup.roll_up_batch(conn) is True
    assert results == [False]
    rollup.roll_up_all(conn)
    assert gathered(conn) == recounted(conn)


def test_what_comes_while_it_catches_up_is_not_waited_for(conn, acme_1, monkeypatch):
    monkeypatch.setattr(rollup, "_MESSAGES_PER_BATCH", 1)
    intake.store_messages(conn, [prepare_submit(conn, acme_1.id)] * 2)
    for step, _ in enumerate(rollup.roll_up_in_batches(conn)):
        assert step < 2
        (message_id,) = store_messages(conn, [prepare_submit(conn, acme_1.id)])
        outcomes.finish_messages(conn, [MessageOutcome(message_id, DELIVERED, 0, now_ms())])
    rollup.roll_up_all(conn)
    assert gathered(conn) == recounted(conn)


def test_a_step_is_short_where_each_message_has_a_sender_of_its_own(conn, acme_1, monkeypatch):
    monkeypatch.setattr(rollup, "_ROWS_PER_BATCH", 9)
    conn.execute("UPDATE accounts SET any_sender = 1")
    intake.store_messages(conn, [prepare_submit(conn, acme_1.id, source=f"Sender {number}") for number in range(20)])

    rows = [0]
    for _ in rollup.roll_up_in_batches(conn):
        rows.append(conn.execute("SELECT count(*) FROM statistics").fetchone()[0])

    assert rows == [0, 9, 18, 27, 36, 45, 54, 60]
    assert gathered(conn) == recounted(conn)


def test_nothing_is_written_where_nothing_has_happened(conn, acme_1):
    intake.store_messages(conn, [prepare_submit(conn, acme_1.id)])
    rollup.roll_up_all(conn)
    before = conn.total_changes
    assert rollup.roll_up_batch(conn) is False
    assert conn.total_changes == before


@pytest.mark.parametrize("milliseconds", [*range(40), 99, 1_000, 12_345, 3_600_000, 259_200_000, 1 << 42])
def test_a_time_lies_within_its_bucket_which_is_narrow(milliseconds):
    shortest, too_long = rollup.get_delivery_bucket_bounds(rollup.get_delivery_time_bucket(milliseconds))
    assert shortest <= milliseconds < too_long
    assert too_long - shortest == 1 or (too_long - shortest) * 8 <= shortest
    assert rollup.get_delivery_time_bucket(too_long) == rollup.get_delivery_time_bucket(milliseconds) + 1


def test_a_clock_that_was_set_back_makes_no_time_shorter_than_none():
    assert rollup.get_delivery_time_bucket(-5) == rollup.get_delivery_time_bucket(0) == 0
