"""Paths: who takes them, what is claimed from them, what must not be passed, and where it goes when routes change."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection, write_transaction
from portal.services.accounts import session_records
from portal.services.common import message_states
from portal.services.common.audit import SHELL
from portal.services.messages import outcomes, query_cancel, sending
from portal.services.messages.message_parts import TextPart
from portal.services.messages.sending import AcceptedMessage, UnsentMessage, UnsentReason
from portal.services.operations import self_check
from portal.services.upstreams import claims, health, obstacles, paths, queue, upstreams
from portal.services.upstreams.claims import Claim, ClaimedIds
from portal.services.upstreams.health import FAILING, GOOD, TRYING, UpstreamHealth
from portal.services.upstreams.obstacles import Obstacle, list_obstacles
from portal.services.upstreams.paths import ReroutingPosition, UpstreamPath
from tests.services.submitting import store_messages
from tests.services.upstreams.waiting import add_upstream, prepare_waiting
from tests.support import prepare_submit

NOW = 1_800_000_000_000
NUMBER, OTHER_NUMBER = "393331111111", "393332222222"


@pytest.fixture
def ids(conn: Connection, keys: Keys) -> tuple[int, int]:
    """Two upstreams; the first is the default one."""
    first, second = (add_upstream(conn, keys, name) for name in ("first", "second"))
    return first.id, second.id


@pytest.fixture
def enqueue(conn: Connection) -> Callable[..., list[int]]:
    def enqueue_messages(account_id: int, path: UpstreamPath, *destinations: str, priority: int = 0) -> list[int]:
        submits = [prepare_waiting(conn, account_id, destination=each, priority=priority) for each in destinations]
        for each in submits:
            each.path = path
        return store_messages(conn, submits)

    return enqueue_messages


def claim(conn: Connection, upstream_id: int, *taken: UpstreamPath, limit: int = 10, now: int = NOW) -> ClaimedIds:
    with write_transaction(conn):
        return claims.claim_message_ids(conn, Claim(upstream_id, taken, limit), now)


def list_waiting(conn: Connection) -> dict[int, UpstreamPath]:
    """The paths of what waits in the queue, by message."""
    known = paths.list_paths(conn)
    return {row[0]: known[row[1]] for row in conn.execute("SELECT message_id, path FROM queued_messages ORDER BY 1")}


@pytest.mark.parametrize(
    ("states", "taker"),
    [
        ({1: GOOD, 2: GOOD}, 1),
        ({1: FAILING, 2: GOOD}, 2),
        ({1: TRYING, 2: GOOD}, 2),
        ({1: TRYING, 2: FAILING}, 1),
        ({1: FAILING, 2: FAILING}, 1),
        ({2: FAILING}, 2),
        ({3: GOOD}, None),
    ],
)
def test_the_first_that_is_not_failing_takes_a_path(states, taker):
    assert paths.choose_taker((1, 2), states) == taker


def test_only_what_waits_on_the_paths_that_it_takes_is_claimed(conn, acme_1, enqueue, ids):
    first, second = ids
    both = enqueue(acme_1.id, (first, second), NUMBER)
    alone = enqueue(acme_1.id, (second,), NUMBER)
    default = enqueue(acme_1.id, (), NUMBER)
    assert claim(conn, second, (second,)).message_ids == alone
    claimed = claim(conn, first, (), (first, second))
    assert sorted(claimed.message_ids) == [*both, *default]
    assert not queue.has_queue(conn)
    # Nothing waits there, nor has ever.
    assert claim(conn, second, (second, first)).message_ids == []


def test_priority_and_age_count_over_all_paths_of_an_account(conn, acme_1, enqueue, ids):
    first, second = ids
    low = enqueue(acme_1.id, (first,), NUMBER, NUMBER)
    others = enqueue(acme_1.id, (first, second), OTHER_NUMBER)
    urgent = enqueue(acme_1.id, (), NUMBER, priority=3)
    assert claim(conn, first, (), (first,), (first, second)).message_ids == [*urgent, *low, *others]


def test_accounts_take_turns_over_all_paths(conn, acme_1, globex_1, enqueue, ids):
    first, second = ids
    enqueue(acme_1.id, (first,), *[NUMBER] * 10)
    enqueue(acme_1.id, (first, second), *[OTHER_NUMBER] * 10)
    single = enqueue(globex_1.id, (first, second), NUMBER)
    claimed = claim(conn, first, (first,), (first, second), limit=4)
    assert single[0] in claimed.message_ids
    assert len(claimed.message_ids) == 4
    assert claimed.left_count


def test_a_claim_reads_hardly_more_than_it_takes_from_however_many_paths(conn, acme_1, enqueue, ids):
    for upstream_id in range(1, 21):
        enqueue(acme_1.id, (upstream_id,), *[NUMBER] * 50)
    steps = []
    for count in (1, 20):
        steps.append(0)

        def count_step() -> None:
            steps[-1] += 1

        conn.set_progress_handler(count_step, 10)
        claimed = claim(conn, ids[0], *((each,) for each in range(1, count + 1)), limit=50)
        conn.set_progress_handler(None, 0)
        assert len(claimed.message_ids) == 50
    # All of each path would be some nine times as much.
    assert steps[1] < steps[0] * 5


def test_a_path_that_an_account_has_nothing_more_on_is_told(conn, acme_1, enqueue, ids):
    first, second = ids
    enqueue(acme_1.id, (first,), NUMBER)
    enqueue(acme_1.id, (second,), OTHER_NUMBER)
    claimed = claim(conn, first, (first,))
    assert (claimed.emptied_paths, claimed.emptied_account_ids) == ([((first,), acme_1.id)], [])
    claimed = claim(conn, second, (second,))
    assert (claimed.emptied_paths, claimed.emptied_account_ids) == ([((second,), acme_1.id)], [acme_1.id])


def test_retries_are_claimed_by_path(conn, acme_1, enqueue, ids):
    first, second = ids
    enqueued = enqueue(acme_1.id, (first,), NUMBER) + enqueue(acme_1.id, (second,), OTHER_NUMBER)
    claim(conn, first, (first,), (second,))
    with write_transaction(conn):
        for message_id, path in zip(enqueued, ((first,), (second,)), strict=True):
            queue.hold_message(conn, message_id, "ESME_RSYSERR", NOW, lambda *_, path=path: path)
    assert queue.get_next_retry_time(conn) == NOW + 5_000
    assert queue.get_next_retry_time(conn, [()]) is None
    assert claim(conn, second, (second,), now=NOW + 5_000).message_ids == enqueued[1:]
    assert claim(conn, second, (second,), now=NOW + 5_000).message_ids == []
    with write_transaction(conn):
        paths.retry_held_messages_now(conn, (first,), NOW)
    assert claim(conn, second, (first,), now=NOW).message_ids == enqueued[:1]


def test_what_is_not_answered_holds_up_what_comes_behind_it(conn, acme_1, enqueue, ids):
    first, second = ids
    under_way = enqueue(acme_1.id, (first, second), NUMBER, NUMBER)
    behind, elsewhere = enqueue(acme_1.id, (first, second), NUMBER, OTHER_NUMBER)
    claim(conn, first, (first, second), limit=2)
    with write_transaction(conn):
        assert paths.hold_followers(conn, [first], lambda *_: (first, second)) == {((first, second), acme_1.id)}
    assert claim(conn, second, (first, second)).message_ids == [elsewhere]
    for message_id, expected in zip(under_way, ([], [behind]), strict=True):
        sending.store_accepted_messages(conn, [AcceptedMessage(first, message_id, str(message_id), 1, NOW)])
        assert claim(conn, second, (first, second)).message_ids == expected
    assert conn.execute("SELECT count(*) FROM held_messages").fetchone()[0] == 0


@pytest.mark.parametrize("reason", [UnsentReason.UNSURE, UnsentReason.HELD])
def test_what_the_one_before_has_not_taken_goes_first_with_the_next_one(conn, acme_1, enqueue, ids, reason):
    first, second = ids
    path = (first, second)
    (under_way, behind) = enqueue(acme_1.id, path, NUMBER, NUMBER)
    claim(conn, first, path, limit=1)
    with write_transaction(conn):
        paths.hold_followers(conn, [first], lambda *_: path)
    assert claim(conn, second, path).message_ids == []
    sending.store_unsent_messages(conn, [UnsentMessage(first, under_way, reason, status="why")], NOW, lambda *_: path)
    # It was its first try: at once, or after five seconds.
    at = NOW + 5_000 if reason == UnsentReason.HELD else NOW
    assert claim(conn, second, path, now=at).message_ids == [under_way]
    assert claim(conn, second, path, now=at).message_ids == []
    sending.store_accepted_messages(conn, [AcceptedMessage(second, under_way, "1", 1, NOW)])
    assert claim(conn, second, path, now=at).message_ids == [behind]
    assert not queue.has_queue(conn)


def test_what_is_put_back_does_not_pass_an_earlier_one_that_is_under_way(conn, acme_1, enqueue, ids):
    first, second = ids
    path = (first, second)
    sent, ready = enqueue(acme_1.id, path, NUMBER, NUMBER)
    claim(conn, first, path)
    with write_transaction(conn):
        paths.hold_followers(conn, [first], lambda *_: path)
    sending.store_unsent_messages(conn, [UnsentMessage(first, ready, UnsentReason.PUT_BACK)], NOW, lambda *_: path)
    assert claim(conn, second, path).message_ids == []
    sending.store_unsent_messages(conn, [UnsentMessage(first, sent, UnsentReason.UNSURE)], NOW, lambda *_: path)
    assert claim(conn, second, path).message_ids == [sent]
    sending.store_accepted_messages(conn, [AcceptedMessage(second, sent, "1", 1, NOW)])
    assert claim(conn, second, path, now=NOW * 2).message_ids == [ready]


def test_of_two_that_were_not_begun_the_later_one_does_not_pass_whichever_is_put_back_first(conn, acme_1, enqueue, ids):
    first, second = ids
    path = (first, second)
    earlier, trial, behind = enqueue(acme_1.id, path, NUMBER, NUMBER, NUMBER)
    assert claim(conn, second, path, limit=1).message_ids == [earlier]
    with write_transaction(conn):
        claims.claim_message_ids(conn, Claim(first, [path], 1, holds_followers=True), NOW, lambda *_: path)
    sending.store_unsent_messages(conn, [UnsentMessage(first, trial, UnsentReason.PUT_BACK)], NOW, lambda *_: path)
    with write_transaction(conn):
        paths.hold_followers(conn, [second], lambda *_: path)
    assert claim(conn, first, path).message_ids == []
    sending.store_unsent_messages(conn, [UnsentMessage(second, earlier, UnsentReason.PUT_BACK)], NOW, lambda *_: path)
    assert claim(conn, first, path).message_ids == [earlier, trial, behind]
    assert not queue.has_queue(conn)


def test_a_message_that_is_given_to_one_beside_the_taker_holds_up_what_comes_behind_it(conn, acme_1, enqueue, ids):
    first, second = ids
    path = (first, second)
    trial, behind = enqueue(acme_1.id, path, NUMBER, NUMBER)
    with write_transaction(conn):
        claimed = claims.claim_message_ids(conn, Claim(first, [path], 1, holds_followers=True), NOW, lambda *_: path)
    assert claimed.message_ids == [trial]
    assert claim(conn, second, path).message_ids == []
    sending.store_accepted_messages(conn, [AcceptedMessage(first, trial, "1", 1, NOW)])
    assert claim(conn, second, path).message_ids == [behind]


def reroute(conn: Connection, choose: paths.ChoosePath, limit: int) -> int:
    """Returns in how many steps."""
    position: ReroutingPosition | None = ReroutingPosition()
    steps = 0
    while position is not None:
        with write_transaction(conn):
            position = paths.reroute_messages(conn, position, limit, choose)
        steps += 1
    return steps


@pytest.mark.parametrize("limit", [1, 2, 1000])
def test_what_waits_takes_the_routes_that_there_are_now(conn, acme_1, globex_1, enqueue, ids, limit):
    first, second = ids
    moved = enqueue(acme_1.id, (), NUMBER, NUMBER) + enqueue(globex_1.id, (first,), NUMBER)
    (kept,) = enqueue(acme_1.id, (), OTHER_NUMBER)
    held, behind = enqueue(acme_1.id, (), "393333333333", "393333333333")
    claim(conn, first, (), limit=1)
    with write_transaction(conn):
        queue.put_back_messages(conn, moved[:1], NOW)
    conn.execute("DELETE FROM queued_messages WHERE message_id IN (?, ?)", (held, behind))
    conn.executemany(
        "INSERT INTO held_messages (path, account_id, destination, message_id, attempts, not_before, error)"
        " VALUES (0, ?, '393333333333', ?, ?, ?, '')",
        [(acme_1.id, held, 2, 1), (acme_1.id, behind, 0, None)],
    )
    new_path = (second, first)

    def choose(_account_id: int, destination: str, _country: str, source: str) -> UpstreamPath:
        assert source in ("ACME", "GLOBEX")
        return () if destination == OTHER_NUMBER else new_path

    assert reroute(conn, choose, limit) >= 6 // limit
    assert list_waiting(conn) == dict.fromkeys(moved, new_path) | {kept: ()}
    assert set(paths.list_paths(conn).values()) == {(), new_path}
    assert queue.list_waiting_accounts(conn) == {(new_path, acme_1.id), (new_path, globex_1.id), ((), acme_1.id)}
    assert set(claim(conn, second, new_path).message_ids) == {*moved, held}
    assert [row[0] for row in conn.execute("SELECT path > 0 FROM held_messages")] == [1, 1]


def test_what_was_refused_for_the_moment_takes_a_new_route_without_its_pause(conn, acme_1, enqueue, ids):
    first, second = ids
    moved, kept = enqueue(acme_1.id, (first,), NUMBER, OTHER_NUMBER)
    claim(conn, first, (first,))
    now = now_ms()
    with write_transaction(conn):
        for each in (moved, kept):
            queue.hold_message(conn, each, "ESME_RSYSERR", now + DAY_MS, lambda *_: (first,))
    reroute(conn, lambda _, destination, *__: (second,) if destination == NUMBER else (first,), 10)
    assert claim(conn, second, (second,), now=now_ms()).message_ids == [moved]
    assert claim(conn, first, (first,), now=now_ms()).message_ids == []


def list_held(conn: Connection) -> dict[int, UpstreamPath]:
    """The paths of what was tried, or waits behind that, by message."""
    known = paths.list_paths(conn)
    return {row[0]: known[row[1]] for row in conn.execute("SELECT message_id, path FROM held_messages ORDER BY 1")}


def test_a_text_that_an_upstream_has_begun_stays_with_it(conn, acme_1, enqueue, ids):
    first, second = ids
    text, behind = enqueue(acme_1.id, (first, second), NUMBER, NUMBER)
    assert claim(conn, first, (first, second), limit=1).message_ids == [text]
    accepted = AcceptedMessage(first, text, "1", 1, NOW, TextPart(1, 3, "{}"))
    sending.store_accepted_messages(conn, [accepted])
    unsent = UnsentMessage(first, text, UnsentReason.HELD, status="ESME_RSYSERR 0x08")
    # Its routes have changed meanwhile.
    sending.store_unsent_messages(conn, [unsent], NOW, lambda *_: (second,))
    assert list_held(conn) == {text: (first,)}
    for taken in ((second, first), (second,)):
        reroute(conn, lambda *_, taken=taken: taken, 10)
        assert claim(conn, second, taken, now=NOW + 10_000).message_ids == []
        assert list_held(conn) == {text: (first,), behind: taken}
    assert claim(conn, first, (first,), now=NOW + 10_000).message_ids == [text]
    sending.store_accepted_messages(conn, [replace(accepted, part=TextPart(each, 3, "{}")) for each in (2, 3)])
    assert claim(conn, second, (second,)).message_ids == [behind]


def test_a_text_that_was_begun_is_tried_again_at_once_where_another_upstream_became_the_default(
    conn, acme_1, enqueue, ids
):
    first, second = ids
    (text,) = enqueue(acme_1.id, (), NUMBER)
    assert claim(conn, first, ()).message_ids == [text]
    sending.store_accepted_messages(conn, [AcceptedMessage(first, text, "1", 1, NOW, TextPart(1, 3, "{}"))])
    unsent = UnsentMessage(first, text, UnsentReason.HELD, status="ESME_RSYSERR 0x08")
    sending.store_unsent_messages(conn, [unsent], NOW)
    upstreams.set_default_upstream(conn, SHELL, upstreams.get_upstream(conn, "second"))
    assert claim(conn, second, (), now=NOW + 5_000).message_ids == []
    assert claim(conn, first, (first,), now=NOW + 5_000).message_ids == [text]


def test_a_text_that_was_begun_is_left_to_its_upstream_wherever_it_waits(conn, acme_1, enqueue, ids):
    first, second = ids
    text, other = enqueue(acme_1.id, (second,), NUMBER, OTHER_NUMBER)
    assert claim(conn, first, (second,)).message_ids == [text, other]
    with write_transaction(conn):
        for each in (text, other):
            queue.hold_message(conn, each, "ESME_RSYSERR", NOW, lambda *_: (second,))
    sending.store_accepted_messages(conn, [AcceptedMessage(first, text, "1", 1, NOW, TextPart(1, 3, "{}"))])
    claimed = claim(conn, second, (second,), now=NOW + 5_000)
    assert claimed.message_ids == [other]
    # So that the first one hears of it at once.
    assert claimed.moved_paths == {((first,), acme_1.id)}
    assert claim(conn, first, (first,), now=NOW + 5_000).message_ids == [text]


def test_waiting_messages_are_counted_for_those_that_take_them(conn, acme_1, enqueue, ids):
    first, second = ids
    enqueue(acme_1.id, (), NUMBER)
    enqueue(acme_1.id, (first, second), NUMBER, NUMBER)
    enqueue(acme_1.id, (second,), *[NUMBER] * 4)
    assert upstreams.count_waiting_messages(conn) == {first: 3, second: 4}
    session_records.record_component_heartbeat(conn, "smsc", 0)
    health.record_health(conn, first, UpstreamHealth(FAILING, NOW, "it is not bound"))
    assert upstreams.count_waiting_messages(conn) == {first: 1, second: 6}
    upstreams.set_default_upstream(conn, SHELL, None)
    assert upstreams.count_waiting_messages(conn) == {second: 6}
    upstreams.disable_upstream(conn, SHELL, upstreams.get_upstream(conn, "second"))
    assert upstreams.count_waiting_messages(conn) == {first: 2, second: 4}


def test_it_is_told_that_all_upstreams_of_a_route_fail(conn, acme_1, enqueue, ids):
    first, second = ids
    enqueue(acme_1.id, (first, second), NUMBER, NUMBER)
    session_records.record_component_heartbeat(conn, "smsc", 0)
    assert list_obstacles(conn) == [Obstacle("unbound", 2, "first")]
    conn.execute(
        "INSERT INTO upstream_binds (upstream, number, kind, state, since) VALUES (?, 1, 'trx', 'bound', 1)", (second,)
    )
    assert list_obstacles(conn) == []
    health.record_health(conn, second, UpstreamHealth(FAILING, NOW, "it answers nothing"))
    assert list_obstacles(conn) == [Obstacle("unbound", 2, "first")]
    conn.execute(
        "INSERT INTO upstream_binds (upstream, number, kind, state, since) VALUES (?, 1, 'trx', 'bound', 1)", (first,)
    )
    health.record_health(conn, first, UpstreamHealth(FAILING, NOW, "it answers nothing"))
    assert list_obstacles(conn) == [Obstacle(obstacles.TAKES_NOTHING, 2, "first", "it answers nothing")]
    # Where messages of several routes wait, each reason is told with its own, that of most of them first.
    enqueue(acme_1.id, (), NUMBER)
    upstreams.set_default_upstream(conn, SHELL, None)
    assert list_obstacles(conn) == [
        Obstacle(obstacles.TAKES_NOTHING, 2, "first", "it answers nothing"),
        Obstacle(obstacles.NO_DEFAULT, 1),
    ]
    enqueue(acme_1.id, (), *[NUMBER] * 2)
    assert list_obstacles(conn) == [
        Obstacle(obstacles.NO_DEFAULT, 3),
        Obstacle(obstacles.TAKES_NOTHING, 2, "first", "it answers nothing"),
    ]
    conn.execute("DELETE FROM components")
    upstreams.set_default_upstream(conn, SHELL, upstreams.get_upstream(conn, "first"))
    assert list_obstacles(conn) == [Obstacle(obstacles.SERVER_STOPPED, 5)]


def test_states_of_health_are_forgotten_with_the_upstream_and_the_server(conn, ids):
    for each in ids:
        health.record_health(conn, each, UpstreamHealth(FAILING, NOW, "it is not bound"))
    assert health.list_health(conn) == {}
    session_records.record_component_heartbeat(conn, "smsc", 0)
    assert set(health.list_health(conn)) == set(ids)
    upstreams.remove_upstream(conn, SHELL, upstreams.get_upstream(conn, "second"))
    health.record_health(conn, 99, UpstreamHealth(GOOD, NOW))
    assert set(health.list_health(conn)) == {ids[0]}
    health.clear_health(conn)
    assert health.list_health(conn) == {}


@pytest.mark.parametrize(("refunding", "is_refunded"), [("first", False), ("second", True)])
@pytest.mark.parametrize("is_claimed", [False, True])
def test_what_expires_while_it_waits_is_refunded_by_the_first_upstream_of_its_path(
    conn, keys, acme_1, ids, refunding, is_refunded, is_claimed
):
    upstream = upstreams.get_upstream(conn, refunding)
    upstreams.change_upstream(conn, keys, SHELL, upstream, refund="undelivered")
    message = prepare_waiting(conn, acme_1.id)
    message.path = (ids[1], ids[0])
    (balance,) = conn.execute("SELECT balance FROM accounts WHERE id = ?", (acme_1.id,)).fetchone()
    (message_id,) = store_messages(conn, [message])
    if is_claimed:
        claimed = sending.claim_messages(conn, Claim(ids[0], [message.path], 10), NOW, lambda *_: message.path)
        assert (claimed.messages, claimed.ids.emptied_account_ids) == ([], [acme_1.id])
    else:
        with write_transaction(conn):
            outcomes.expire_messages(conn, [message_id], NOW)
    (after,) = conn.execute("SELECT balance FROM accounts WHERE id = ?", (acme_1.id,)).fetchone()
    assert (after == balance) == is_refunded
    assert not queue.has_queue(conn)


def test_what_waits_on_a_route_is_known_to_wait_and_leaves_when_it_ends(conn, acme_1, enqueue, ids):
    (message_id,) = enqueue(acme_1.id, ids, NUMBER)
    status = query_cancel.find_message_status(conn, acme_1.id, message_id)
    assert status is not None
    assert status.is_queued
    assert self_check.list_problem_texts(conn) == []
    query_cancel.cancel_messages(conn, [status])
    assert not queue.has_queue(conn)
    (state,) = conn.execute("SELECT state FROM messages").fetchone()
    assert state == message_states.DELETED


def test_a_dated_message_gets_its_path_at_its_date(conn, acme_1, ids):
    (message_id,) = store_messages(conn, [prepare_submit(conn, acme_1.id, scheduled_at=NOW)])
    due = outcomes.process_due_messages(conn, NOW + 1, lambda *_: ids)
    assert due.waiting == {(ids, acme_1.id)}
    assert list_waiting(conn) == {message_id: ids}


def test_what_a_removed_simulator_had_is_told_with_the_paths_that_it_waits_on(conn, keys, acme_1, enqueue, ids):
    sim = upstreams.create_upstream(conn, keys, SHELL, "sim", kind=upstreams.SIMULATOR)
    tried, untried = enqueue(acme_1.id, (sim.id,), NUMBER, OTHER_NUMBER)
    claim(conn, sim.id, (sim.id,))
    with write_transaction(conn):
        queue.hold_message(conn, tried, "ESME_RSYSERR", NOW, lambda *_: (ids[1],))
    claim(conn, sim.id, (ids[1],), now=NOW + 5_000)
    conn.execute("UPDATE upstreams SET removed_at = 1 WHERE id = ?", (sim.id,))
    waiting = sending.put_back_abandoned_messages(conn, [tried, untried], NOW, lambda *_: ids)
    assert waiting == {((ids[1],), acme_1.id), (ids, acme_1.id)}
