from collections import Counter
from itertools import pairwise

import pytest

from portal.core.db import Connection, write_transaction
from portal.services.common import message_states
from portal.services.messages import outcomes, query_cancel
from portal.services.upstreams import claims, paths, queue, waiting_counts
from portal.services.upstreams.claims import Claim, ClaimedIds
from tests.services.upstreams.waiting import add_upstream, queue_messages, queue_of_each

UPSTREAM = 1
NOW = 1_800_000_000_000


def claim(conn: Connection, limit: int, after: int = 0, now: int = NOW) -> ClaimedIds:
    with write_transaction(conn):
        return claims.claim_message_ids(conn, Claim(UPSTREAM, [()], limit, after), now)


def hold(conn: Connection, message_id: int, now: int = NOW, *, is_unanswered: bool = False) -> bool:
    with write_transaction(conn):
        return queue.hold_message(conn, message_id, "ESME_RSYSERR 0x08", now, is_unanswered=is_unanswered)


def list_held(conn: Connection) -> list[tuple[int, int, int | None]]:
    rows = conn.execute("SELECT message_id, attempts, not_before FROM held_messages ORDER BY message_id")
    return [tuple(row) for row in rows]


def test_messages_of_one_account_go_in_their_order(conn, cast):
    ids = queue_messages(conn, cast.smpp_acme_1.id, 5)
    first = claim(conn, 2)
    assert first.message_ids == ids[:2]
    assert first.left_count
    assert claim(conn, 10).message_ids == ids[2:]
    assert claim(conn, 10).message_ids == []


def test_a_higher_priority_goes_first_within_its_account(conn, cast):
    low = queue_messages(conn, cast.smpp_acme_1.id)
    high = queue_messages(conn, cast.smpp_acme_1.id, priority=3)
    middle = queue_messages(conn, cast.smpp_acme_1.id, priority=1)
    # SMPP 3.4, 5.2.14 knows no more than 3.
    beyond = queue_messages(conn, cast.smpp_acme_1.id, priority=9)
    assert claim(conn, 10).message_ids == [*high, *beyond, *middle, *low]


def test_a_reserved_priority_has_the_place_of_the_highest(conn, cast):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id, priority=9)

    def is_waiting() -> bool:
        status = query_cancel.find_message_status(conn, cast.smpp_acme_1.id, message_id)
        return status is not None and status.is_queued

    assert is_waiting()
    claim(conn, 1)
    with write_transaction(conn):
        queue.put_back_messages(conn, [message_id], NOW)
    assert is_waiting()
    with write_transaction(conn):
        queue.remove_waiting_messages(conn, [message_id])
    assert not queue.has_queue(conn)


def test_accounts_take_turns_however_much_one_of_them_has(conn, cast):
    queue_messages(conn, cast.smpp_acme_1.id, 50)
    single = queue_messages(conn, cast.smpp_globex_1.id)
    claimed = claim(conn, 10)
    assert single[0] in claimed.message_ids
    assert len(claimed.message_ids) == 10


def test_with_room_for_one_the_turn_goes_on_from_account_to_account(conn, cast):
    first = queue_messages(conn, cast.smpp_acme_1.id, 5)
    other = queue_messages(conn, cast.smpp_globex_1.id, 2)
    order, after = [], 0
    for _ in range(8):
        claimed = claim(conn, 1, after)
        order += claimed.message_ids
        after = claimed.last_account_id
    assert sorted(order) == sorted(first + other)
    # While both have something, neither gets two in a row.
    owners = ["other" if each in other else "first" for each in order]
    assert all(a != b for a, b in pairwise(owners[:4]))


def test_that_accounts_without_a_turn_wait_is_told(conn, cast):
    ids = [
        message_id
        for account in (cast.smpp_acme_1, cast.smpp_globex_1)
        for message_id in queue_messages(conn, account.id)
    ]
    claimed = claim(conn, 1)
    got = claimed.message_ids
    while claimed.left_count != 0:
        claimed = claim(conn, 1, claimed.last_account_id)
        got += claimed.message_ids
    assert sorted(got) == sorted(ids)


def test_what_is_claimed_is_that_upstream_s_and_no_one_else_s(conn, cast):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    assert claim(conn, 1).message_ids == [message_id]
    assert conn.execute("SELECT upstream FROM messages").fetchone()[0] == UPSTREAM
    assert claim(conn, 1).message_ids == []


def test_an_account_without_anything_more_is_told_once(conn, cast):
    queue_messages(conn, cast.smpp_acme_1.id, 2)
    assert claim(conn, 1).emptied_account_ids == []
    claimed = claim(conn, 1)
    assert claimed.emptied_account_ids == [cast.smpp_acme_1.id]
    assert claimed.left_count == 0


def test_what_is_put_back_has_its_place_again(conn, cast):
    ids = queue_messages(conn, cast.smpp_acme_1.id, 3)
    claim(conn, 2)
    with write_transaction(conn):
        queue.put_back_messages(conn, ids[:2], NOW)
    assert claim(conn, 10).message_ids == ids


def test_what_has_ended_is_not_put_back(conn, cast):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn, 1)
    outcomes.finish_messages(
        conn, [outcomes.MessageOutcome(message_id, message_states.EXPIRED, message_states.PTT_EXPIRED, NOW)]
    )
    with write_transaction(conn):
        queue.put_back_messages(conn, [message_id], NOW)
    assert not queue.has_queue(conn)


def test_a_refused_message_is_tried_again_later_and_later(conn, cast):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn, 1)
    now, delays = NOW, []
    for _ in range(9):
        hold(conn, message_id, now=now)
        not_before = queue.get_next_retry_time(conn)
        assert not_before is not None
        assert claim(conn, 1, now=not_before - 1).message_ids == []
        claimed = claim(conn, 1, now=not_before)
        assert claimed.message_ids == [message_id]
        delays.append((not_before - now) // 1000)
        now = not_before
    assert delays == [5, 10, 20, 40, 80, 160, 320, 600, 600]


def test_the_same_destination_waits_behind_a_refused_message_and_no_other(conn, cast):
    first, second, elsewhere, third = queue_of_each(
        conn, cast.smpp_acme_1.id, ["393331111111", "393331111111", "393332222222", "393331111111"]
    )
    assert claim(conn, 1).message_ids == [first]
    hold(conn, first)
    claimed = claim(conn, 10)
    assert claimed.message_ids == [elsewhere]
    assert claimed.emptied_account_ids == []
    assert claimed.held_destinations == {((), cast.smpp_acme_1.id): ["393331111111"]}
    assert [row[:2] for row in list_held(conn)] == [(first, 1), (second, 0), (third, 0)]
    retried = claim(conn, 10, now=NOW + 5_000)
    assert retried.message_ids == [first]
    assert claim(conn, 10, now=NOW + 5_000).message_ids == []
    with write_transaction(conn):
        assert queue.release_held_messages(conn, [first]) == []
    assert claim(conn, 10).message_ids == [second, third]
    assert list_held(conn) == []


def test_another_account_s_messages_to_that_destination_go(conn, cast):
    (held,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn, 1)
    hold(conn, held)
    others = queue_messages(conn, cast.smpp_globex_1.id)
    assert claim(conn, 10).message_ids == others


@pytest.mark.parametrize("refused_order", [(0, 1), (1, 0)])
def test_of_several_that_are_refused_together_the_first_is_tried_first(conn, cast, refused_order):
    ids = queue_messages(conn, cast.smpp_acme_1.id, 2)
    claim(conn, 2)
    for index in refused_order:
        hold(conn, ids[index])
    assert claim(conn, 10, now=NOW + 60_000).message_ids == ids[:1]
    with write_transaction(conn):
        queue.release_held_messages(conn, ids[:1])
    assert claim(conn, 10, now=NOW).message_ids == ids[1:]


def test_the_first_is_tried_first_where_another_was_refused_while_it_was_under_way(conn, cast):
    ids = queue_messages(conn, cast.smpp_acme_1.id, 2)
    claim(conn, 2)
    hold(conn, ids[1])
    # It is under way again when the first one is refused, and is refused again.
    with write_transaction(conn):
        conn.execute("UPDATE held_messages SET not_before = ?", (NOW,))
    assert claim(conn, 10).message_ids == ids[1:]
    hold(conn, ids[0])
    hold(conn, ids[1])
    assert claim(conn, 10, now=NOW + 60_000).message_ids == ids[:1]


def test_one_that_fails_again_holds_up_the_others_again(conn, cast):
    ids = queue_messages(conn, cast.smpp_acme_1.id, 3)
    claim(conn, 1)
    hold(conn, ids[0])
    claim(conn, 10)
    assert claim(conn, 10, now=NOW + 5_000).message_ids == ids[:1]
    hold(conn, ids[0], now=NOW + 5_000)
    assert claim(conn, 10, now=NOW + 10_000).message_ids == []
    assert list_held(conn) == [(ids[0], 2, NOW + 15_000), (ids[1], 0, None), (ids[2], 0, None)]


def test_a_retry_that_is_put_back_comes_at_once(conn, cast):
    ids = queue_messages(conn, cast.smpp_acme_1.id, 2)
    claim(conn, 1)
    hold(conn, ids[0])
    claim(conn, 10, now=NOW + 5_000)
    with write_transaction(conn):
        queue.put_back_messages(conn, ids[:1], NOW + 6_000)
    assert claim(conn, 10, now=NOW + 6_000).message_ids == ids[:1]


def test_when_one_ends_that_waits_behind_a_refused_one_the_others_go_on_waiting(conn, cast):
    ids = queue_messages(conn, cast.smpp_acme_1.id, 3)
    claim(conn, 1)
    hold(conn, ids[0])
    claim(conn, 10)
    with write_transaction(conn):
        queue.remove_waiting_messages(conn, [ids[1]])
    assert [row[0] for row in list_held(conn)] == [ids[0], ids[2]]
    assert claim(conn, 10).message_ids == []


def test_when_a_refused_one_ends_those_behind_it_go(conn, cast):
    ids = queue_messages(conn, cast.smpp_acme_1.id, 3)
    claim(conn, 1)
    hold(conn, ids[0])
    claim(conn, 10)
    with write_transaction(conn):
        queue.remove_waiting_messages(conn, [ids[0]])
    assert claim(conn, 10).message_ids == ids[1:]


def test_many_retries_leave_others_their_turn(conn, cast):
    destinations = [f"39333{each:07d}" for each in range(20)]
    held = queue_of_each(conn, cast.smpp_acme_1.id, destinations)
    claim(conn, 20)
    for each in held:
        hold(conn, each)
    (single,) = queue_messages(conn, cast.smpp_globex_1.id)
    claimed = claim(conn, 10, now=NOW + 60_000)
    assert single in claimed.message_ids
    assert len(claimed.message_ids) == 10


def test_every_message_is_claimed_once_whatever_the_sizes(conn, cast):
    ids = queue_messages(conn, cast.smpp_acme_1.id, 40) + queue_messages(conn, cast.smpp_globex_1.id, 7)
    seen: Counter[int] = Counter()
    after, limit = 0, 1
    has_more = True
    while has_more:
        claimed = claim(conn, limit, after)
        seen.update(claimed.message_ids)
        after, limit, has_more = claimed.last_account_id, limit % 5 + 1, claimed.left_count != 0
    assert seen == Counter(ids)


def test_the_waiting_are_counted_and_their_accounts_listed(conn, cast):
    queue_messages(conn, cast.smpp_acme_1.id, 3)
    (held,) = queue_messages(conn, cast.smpp_globex_1.id)
    claim(conn, 1, after=cast.smpp_acme_1.id)
    hold(conn, held)
    assert waiting_counts.count_waiting_messages_by_path(conn) == {(): 4}
    assert queue.list_waiting_accounts(conn) == {((), cast.smpp_acme_1.id), ((), cast.smpp_globex_1.id)}
    assert queue.get_next_retry_time(conn) == NOW + 5_000


def test_of_what_is_held_only_what_was_tried_and_has_no_time_is_looked_up(conn, cast):
    held = queue_of_each(conn, cast.smpp_acme_1.id, [f"39333{each:07d}" for each in range(300)])
    claim(conn, 300)
    for each in held:
        hold(conn, each)
    queue_of_each(conn, cast.smpp_acme_1.id, [f"39333{each:07d}" for each in range(50)])
    # These wait behind the first ones.
    assert claim(conn, 50).message_ids == []
    steps: list[int] = []

    def count() -> int:
        steps.append(0)

        def count_step() -> None:
            steps[-1] += 1

        conn.set_progress_handler(count_step, 1)
        (waiting_count,) = waiting_counts.count_waiting_messages_by_path(conn).values()
        conn.set_progress_handler(None, 0)
        return waiting_count

    assert count() == 350
    # To look at each row of `messages`, too, took 16 steps for each.
    assert steps[-1] < 350 * 10
    # What is under way waits no more, and another one that was tried waits behind it.
    assert claim(conn, 300, now=NOW + 5_000).message_ids == held
    assert count() == 50


def test_there_is_more_while_other_accounts_wait(conn, cast):
    first = queue_messages(conn, cast.smpp_acme_1.id)
    other = queue_messages(conn, cast.smpp_globex_1.id)
    claimed = claim(conn, 1)
    assert (claimed.message_ids, claimed.left_count) == (first, 1)
    claimed = claim(conn, 1, claimed.last_account_id)
    assert (claimed.message_ids, claimed.left_count) == (other, 0)


def test_a_row_without_its_message_is_passed_over(conn, cast):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    conn.execute("INSERT INTO queued_messages VALUES (0, ?, 0, 1)", (cast.smpp_acme_1.id,))
    claimed = claim(conn, 5)
    assert (claimed.message_ids, claimed.left_count) == ([message_id], 0)
    assert not queue.has_queue(conn)


@pytest.mark.parametrize("becomes", ["held", "put back", "released"])
def test_what_becomes_of_one_of_many_to_a_number_does_not_look_at_all_of_them(conn, keys, cast, becomes):
    """Else a thousand of them would take the writer seconds."""
    add_upstream(conn, keys)
    steps = []
    for count in (20, 80):
        destination = f"3934012300{count}"
        ids = queue_messages(conn, cast.smpp_acme_1.id, count, destination=destination)
        assert {*claim(conn, 200).message_ids} >= {*ids}
        with write_transaction(conn):
            if becomes != "held":
                paths.hold_followers(conn, [UPSTREAM])
        steps.append(0)

        def count_step() -> None:
            steps[-1] += 1

        with write_transaction(conn):
            conn.set_progress_handler(count_step, 10)
            if becomes == "held":
                for each in ids:
                    queue.hold_message(conn, each, "ESME_RSYSERR 0x08", NOW)
            elif becomes == "put back":
                queue.put_back_messages(conn, ids, NOW)
            else:
                queue.release_held_messages(conn, ids)
            conn.set_progress_handler(None, 0)
    # Four times as many; all of them for each would be nearly sixteen.
    assert steps[1] < steps[0] * 6


def test_what_is_tried_again_has_one_turn_among_the_accounts(conn, cast):
    held = queue_of_each(conn, cast.smpp_acme_1.id, [f"39333{each:07d}" for each in range(6)])
    claim(conn, 6)
    for each in held:
        hold(conn, each)
    waiting = queue_messages(conn, cast.smpp_globex_1.id, 6)
    order: list[int] = []
    after = 0
    for _ in range(12):
        claimed = claim(conn, 1, after, now=NOW + 60_000)
        order += claimed.message_ids
        after = claimed.last_account_id
    assert [each in held for each in order] == [False, True] * 6
    assert [each for each in order if each in waiting] == waiting


def test_what_has_ended_behind_a_refused_message_does_not_wait_again(conn, cast):
    ids = queue_messages(conn, cast.smpp_acme_1.id, 3)
    claim(conn, 1)
    hold(conn, ids[0])
    claim(conn, 10)
    outcomes.finish_messages(
        conn,
        [outcomes.MessageOutcome(each, message_states.EXPIRED, message_states.PTT_EXPIRED, NOW) for each in ids[:2]],
    )
    with write_transaction(conn):
        queue.remove_waiting_messages(conn, ids[:2])
    assert claim(conn, 10).message_ids == ids[2:]
    assert not queue.has_queue(conn)


def test_of_several_without_an_answer_it_stays_known_how_often(conn, cast):
    ids = queue_messages(conn, cast.smpp_acme_1.id, 4)
    claim(conn, 3)
    for each in ids[:3]:
        hold(conn, each, is_unanswered=True)
    claim(conn, 10, now=NOW - 1)
    # One after the other is tried again, and what was never sent waits for the last of them.
    for index in range(3):
        assert claim(conn, 10).message_ids == [ids[index]]
        assert [row[:2] for row in list_held(conn)] == [*((each, 1) for each in ids[index:3]), (ids[3], 0)]
        with write_transaction(conn):
            queue.release_held_messages(conn, [ids[index]])
    assert claim(conn, 10).message_ids == [ids[3]]
    assert not queue.has_queue(conn)


def test_what_is_never_answered_is_given_up_behind_another_one_too(conn, cast):
    first, second = queue_messages(conn, cast.smpp_acme_1.id, 2)
    claim(conn, 2)
    is_tried_again = [hold(conn, each, is_unanswered=True) for each in (first, second)]
    claim(conn, 1)
    with write_transaction(conn):
        queue.release_held_messages(conn, [first])
    now = NOW
    for _ in range(queue.MAX_UNANSWERED - 1):
        assert claim(conn, 1, now=now).message_ids == [second]
        is_tried_again.append(hold(conn, second, now=now, is_unanswered=True))
        now += 60_000
    assert is_tried_again == [True] * 4 + [False]


def test_however_much_waits_behind_a_number_holding_a_message_costs_the_same(conn, cast):
    account_id = cast.smpp_acme_1.id
    (message_id,) = queue_messages(conn, account_id)
    claim(conn, 1)
    hold(conn, message_id)
    steps = []
    for count in (100, 5_000):
        conn.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT OR IGNORE INTO"
            " held_messages (account_id, destination, message_id) SELECT account_id, destination, message_id + i"
            " FROM held_messages, n WHERE message_id = ?",
            (count, message_id),
        )
        steps.append(0)

        def count_step() -> None:
            steps[-1] += 1

        conn.set_progress_handler(count_step, 10)
        hold(conn, message_id)
        # Another one of them ends.
        with write_transaction(conn):
            queue.release_held_messages(conn, [message_id + 1])
        conn.set_progress_handler(None, 0)
    assert steps[1] < steps[0] * 2


def test_what_an_upstream_has_accepted_is_not_put_back(conn, cast):
    ids = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn, 1)
    with write_transaction(conn):
        conn.execute("UPDATE messages SET upstream_id = 'ab12' WHERE id = ?", ids)
        assert queue.put_back_messages(conn, ids, NOW) == set()
    assert not queue.has_queue(conn)
