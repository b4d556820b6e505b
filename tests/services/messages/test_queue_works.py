"""What operators do to messages that wait: which are meant, what becomes of each, and of what comes behind them."""

import json
import sqlite3
from collections import Counter
from typing import Any

import pytest

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection, write_transaction
from portal.services.accounts import accounts
from portal.services.common import ids, message_states
from portal.services.common.audit import SHELL, Actor
from portal.services.credits import credits
from portal.services.messages import queue_selection, queue_works
from portal.services.messages.outcomes import DueMessages
from portal.services.messages.queue_selection import (
    ACCOUNT,
    AGE,
    CANCEL,
    HOLD,
    MOVE,
    RELEASE,
    ROUTE,
    UPSTREAM,
    QueueFilter,
    QueuePreview,
    QueueSelection,
    QuietMessages,
)
from portal.services.messages.queue_works import QueueWork
from portal.services.operations import self_check
from portal.services.routing import route_table, routes
from portal.services.routing.route_usage import NO_ROUTE
from portal.services.routing.routes import RouteTexts
from portal.services.upstreams import claims, holds, paths, queue, steering, upstreams, waiting, waiting_counts
from portal.services.upstreams.claims import Claim
from portal.services.upstreams.paths import UpstreamPath
from portal.services.upstreams.upstreams import Upstream
from tests.services.routing.adding import create_route
from tests.services.upstreams.waiting import add_upstream, choose_path, queue_messages, queue_of_each, reroute

ANNA = Actor("anna@example.com")
NOW = 1_800_000_000_000


@pytest.fixture(autouse=True)
def carriers(conn: Connection, keys: Keys) -> list[Upstream]:
    """Two upstreams; the first one is the default."""
    return [add_upstream(conn, keys, name) for name in ("first", "second")]


def ask(conn: Connection, action: str, **fits: Any) -> tuple[QueueSelection, QueuePreview]:
    selection = queue_selection.build_selection(conn, action, QueueFilter(**fits))
    return selection, queue_selection.preview_selection(conn, action, selection, fits.get("older_ms"))


def begin(conn: Connection, action: str, target: Upstream | None = None, **fits: Any) -> QueuePreview:
    selection, preview = ask(conn, action, **fits)
    queue_works.create_queue_work(conn, ANNA, action, selection, asked_count=preview.count, target=target)
    return preview


def run_step(conn: Connection) -> tuple[DueMessages, int | None]:
    return queue_works.run_queue_step(conn, route_table.load_route_table(conn), choose_path(conn))


def run(conn: Connection) -> DueMessages:
    """Do all that is open; returns what follows from it."""
    all_due = DueMessages()
    pause_ms: int | None = 0
    while pause_ms == 0:
        due, pause_ms = run_step(conn)
        all_due.waiting |= due.waiting
        all_due.receipts += due.receipts
    return all_due


def do(conn: Connection, action: str, target: Upstream | None = None, **fits: Any) -> QueueWork:
    begin(conn, action, target, **fits)
    run(conn)
    return queue_works.list_queue_works(conn)[0]


def claim(conn: Connection, upstream: Upstream, limit: int = 1_000, now: int | None = None) -> list[int]:
    """What an upstream takes now of all paths that are its, as the server has it."""
    takers = upstreams.find_takers(conn, paths.list_paths(conn).values())
    own = [path for path, taker in takers.items() if taker == upstream.id and not paths.is_held_path(path)]
    with write_transaction(conn):
        found = claims.claim_message_ids(conn, Claim(upstream.id, own, limit), now or now_ms(), choose_path(conn))
    return found.message_ids


def accept(conn: Connection, message_ids: list[int]) -> None:
    """The upstream has accepted these."""
    conn.executemany("UPDATE messages SET upstream_id = id WHERE id = ?", [(each,) for each in message_ids])
    with write_transaction(conn):
        queue.release_held_messages(conn, message_ids)


def get_balance(conn: sqlite3.Connection, account_id: int) -> int:
    return int(conn.execute("SELECT balance FROM accounts WHERE id = ?", (account_id,)).fetchone()[0])


def test_all_that_waits_is_held_and_released_in_its_order(conn, cast, carriers):
    first, _ = carriers
    held = queue_of_each(conn, cast.smpp_acme_1.id, [f"39333{each:07d}" for each in range(1_200 // 2)])
    others = queue_messages(conn, cast.smpp_globex_1.id, 20)
    work = do(conn, HOLD)
    assert (work.action, work.asked_count, work.done_count, work.left_count) == (HOLD, 620, 620, 0)
    assert work.ended_at is not None
    assert claim(conn, first) == []
    assert self_check.list_problem_texts(conn) == []
    # It waits for no upstream, and nobody is told that one is missing.
    assert upstreams.count_waiting_messages(conn) == {}
    assert waiting.list_waiting(conn) == {}
    assert queue.get_next_retry_time(conn) is None
    assert do(conn, HOLD).asked_count == 0
    assert do(conn, RELEASE).done_count == 620
    claimed = claim(conn, first)
    assert [each for each in claimed if each in set(held)] == held
    assert [each for each in claimed if each not in set(held)] == others
    assert self_check.list_problem_texts(conn) == []


def test_what_comes_behind_a_held_message_to_its_number_waits_and_nothing_else_does(conn, cast, carriers):
    first, _ = carriers
    (held,) = queue_of_each(conn, cast.smpp_acme_1.id, ["393331234567"])
    do(conn, HOLD)
    behind, other = queue_of_each(conn, cast.smpp_acme_1.id, ["393331234567", "393337654321"])
    assert claim(conn, first) == [other]
    do(conn, RELEASE)
    # One that was released while others wait for it goes first.
    assert claim(conn, first) == [held, behind]
    assert self_check.list_problem_texts(conn) == []


def test_the_older_ones_are_released_in_front_of_those_that_are_still_held(conn, cast, carriers):
    first, _ = carriers
    older, newer = queue_messages(conn, cast.smpp_acme_1.id, 2)
    do(conn, HOLD)
    selection, _ = ask(conn, RELEASE)
    bounded = QueueSelection(selection.paths, None, None, newer)
    queue_works.create_queue_work(conn, ANNA, RELEASE, bounded, asked_count=1)
    run(conn)
    assert claim(conn, first) == [older]
    assert claim(conn, first) == []
    accept(conn, [older])
    assert claim(conn, first) == []
    do(conn, RELEASE)
    assert claim(conn, first) == [newer]


def test_moved_messages_go_to_that_upstream_alone_one_after_the_other(conn, cast, carriers):
    first, second = carriers
    one, two = queue_messages(conn, cast.smpp_acme_1.id, 2)
    (other,) = queue_of_each(conn, cast.smpp_acme_1.id, ["393337654321"])
    work = do(conn, MOVE, second)
    assert (work.done_count, work.target) == (3, "second")
    assert upstreams.count_waiting_messages(conn) == {second.id: 3}
    behind = queue_messages(conn, cast.smpp_acme_1.id)
    assert claim(conn, first) == []
    assert set(claim(conn, second)) == {one, other}
    accept(conn, [one, other])
    assert claim(conn, second) == [two]
    assert claim(conn, first) == []
    accept(conn, [two])
    # What was submitted afterwards takes its own way.
    assert claim(conn, first) == behind
    assert self_check.list_problem_texts(conn) == []


def test_what_was_moved_stays_so_when_routes_change_and_when_it_is_refused_for_the_moment(conn, cast, carriers):
    first, second = carriers
    moved, held = queue_of_each(conn, cast.smpp_acme_1.id, ["393331234567", "33612345678"])
    create_route(conn, "first", country="FR")
    do(conn, HOLD, account_id=cast.smpp_acme_1.id)
    selection = QueueSelection(((0,),), None, None, held)
    queue_works.create_queue_work(conn, ANNA, MOVE, selection, asked_count=1, target=second)
    run(conn)
    create_route(conn, "second")
    reroute(conn, 1)
    known = paths.list_paths(conn)
    stored = {row[0]: known[row[1]] for row in conn.execute("SELECT message_id, path FROM held_messages")}
    assert stored == {moved: (second.id, 0), held: (0,)}
    assert claim(conn, second) == [moved]
    with write_transaction(conn):
        queue.hold_message(conn, moved, "ESME_RSYSERR 0x08", NOW, lambda *_: (first.id,))
    assert claim(conn, first, now=NOW + 60_000) == []
    assert claim(conn, second, now=NOW + 60_000) == [moved]
    # One that was not begun goes back there, too.
    with write_transaction(conn):
        assert queue.put_back_messages(conn, [moved], NOW, lambda *_: (first.id,)) == {
            ((second.id, 0), cast.smpp_acme_1.id)
        }
    assert claim(conn, second, now=NOW + 60_000) == [moved]


def test_what_is_held_or_moved_keeps_the_quiet_hours_of_its_route_and_is_routed_anew_once_released(
    conn, cast, carriers
):
    first, second = carriers
    route = create_route(conn, "first,second", country="IT", quiet_hours="22:00-08:00 Europe/Rome")
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)

    def find_path() -> tuple[str, UpstreamPath, int | None]:
        """Where it waits after routes have changed: as it is stored, its upstreams, and whose quiet hours it has."""
        reroute(conn)
        (path_id,) = conn.execute(
            "SELECT path FROM queued_messages UNION ALL SELECT path FROM held_messages"
        ).fetchone()
        (text,) = conn.execute("SELECT upstream_ids FROM queue_paths WHERE id = ?", (path_id,)).fetchone()
        path = paths.list_paths(conn)[path_id]
        assert paths.format_path(path) == text
        assert (paths.is_held_path(path), paths.may_be_of_any_route(path)) == ("-" in text, ",0" in text)
        return text, paths.get_path_upstreams(path), paths.get_quiet_route(path)

    quiet = ("1,2,q1", (first.id, second.id), route.id)
    assert find_path() == quiet
    for action, target, expected in (
        (HOLD, None, ("-1,-2,q1", (1, 2), 1)),
        (RELEASE, None, quiet),
        (MOVE, second, ("2,0,q1", (2,), 1)),
        (HOLD, None, ("-2,0,q1", (2,), 1)),
        (MOVE, first, ("1,0,q1", (1,), 1)),
        (RELEASE, None, quiet),
    ):
        assert do(conn, action, target, route_id=route.id).done_count == 1
        assert find_path() == expected
    routes.change_route(conn, SHELL, route.id, RouteTexts("second", country="IT"))
    assert find_path() == ("2", (second.id,), None)
    assert claim(conn, second) == [message_id]
    assert self_check.list_problem_texts(conn) == []


def test_cancelled_messages_cost_nothing_and_their_customers_get_receipts(conn, cast, carriers):
    account_id = cast.smpp_acme_1.id
    before = get_balance(conn, account_id)
    message_ids = queue_of_each(conn, account_id, [f"39333{each:07d}" for each in range(450)])
    kept = queue_messages(conn, cast.smpp_globex_1.id, 3)
    do(conn, HOLD, account_id=account_id)
    charged = before - get_balance(conn, account_id)
    selection, preview = ask(conn, CANCEL, account_id=account_id)
    assert (preview.count, preview.refund, preview.is_exact) == (450, charged, True)
    assert preview.counts_by_account == {account_id: 450}
    queue_works.create_queue_work(conn, ANNA, CANCEL, selection, asked_count=preview.count)
    # After a crash another process goes on, and each message is either as it was or cancelled and paid back.
    run_step(conn)
    states = Counter(row[0] for row in conn.execute("SELECT state FROM messages WHERE account_id = ?", (account_id,)))
    assert states == {message_states.DELETED: 200, message_states.ENROUTE: 250}
    assert get_balance(conn, account_id) == before - charged * 250 // 450
    assert self_check.list_problem_texts(conn) == []
    receipts = run(conn).receipts
    assert len(receipts) == 250
    assert conn.execute("SELECT count(*) FROM deliveries").fetchone()[0] == len(message_ids)
    assert get_balance(conn, account_id) == before
    work = queue_works.list_queue_works(conn)[0]
    assert (work.done_count, work.left_count, work.refunded) == (450, 0, charged)
    assert set(claim(conn, carriers[0])) == set(kept)
    assert self_check.list_problem_texts(conn) == []


def test_what_an_upstream_may_have_is_not_cancelled_and_told_apart(conn, cast, carriers):
    first, _ = carriers
    unsure, under_way, waiting = queue_of_each(
        conn, cast.smpp_acme_1.id, ["393330000001", "393330000002", "393330000003"]
    )
    claim(conn, first, 2)
    with write_transaction(conn):
        queue.hold_message(conn, unsure, "no answer", NOW, is_unanswered=True)
        paths.hold_followers(conn, [first.id])
    assert {each.count for each in waiting_counts.list_waiting_groups(conn)} == {2}
    work = do(conn, CANCEL)
    assert (work.done_count, work.left_count) == (1, 2)
    states = dict(conn.execute("SELECT id, state FROM messages").fetchall())
    assert states == {
        unsure: message_states.ENROUTE,
        under_way: message_states.ENROUTE,
        waiting: message_states.DELETED,
    }
    # It can be held all the same, and is not counted as tried for that; what is under way is left.
    work = do(conn, HOLD)
    assert (work.done_count, work.left_count) == (1, 1)
    do(conn, RELEASE)
    assert claim(conn, first) == [unsure]
    assert self_check.list_problem_texts(conn) == []


def test_a_text_that_an_upstream_has_begun_stays_with_it(conn, cast, carriers):
    first, second = carriers
    (begun,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn, first)
    with write_transaction(conn):
        queue.hold_message(conn, begun, "ESME_RSYSERR 0x08", NOW)
    conn.execute(
        "INSERT INTO cut_messages (message_id, upstream, total, settings) VALUES (?, ?, 2, '{}')", (begun, first.id)
    )
    assert (do(conn, MOVE, second).left_count, do(conn, HOLD).done_count) == (1, 1)
    assert do(conn, CANCEL).left_count == 1
    do(conn, RELEASE)
    assert claim(conn, second) == []
    assert claim(conn, first) == [begun]


def test_a_filter_fits_by_upstream_account_route_and_age(conn, cast, carriers):
    first, second = carriers
    acme, globex = cast.smpp_acme_1.id, cast.smpp_globex_1.id
    to_france = create_route(conn, "second", country="FR")
    of_globex = create_route(conn, "second", account=None, sender="GLOBEX")
    for account_id in (acme, globex):
        queue_of_each(conn, account_id, ["393331234567", "33612345678", "33612345679"])
    reroute(conn)

    def count(action: str = HOLD, **fits: Any) -> int:
        return ask(conn, action, **fits)[1].count

    assert count() == 6
    assert count(upstream_id=first.id) == 1
    assert count(upstream_id=second.id) == 5
    assert count(account_id=globex) == 3
    assert count(route_id=to_france.id) == 4
    assert count(route_id=of_globex.id) == 1
    assert count(route_id=to_france.id, account_id=acme) == 2
    assert count(older_ms=60_000) == 0
    assert count(RELEASE) == 0
    assert do(conn, HOLD, route_id=to_france.id).done_count == 4
    assert count(RELEASE, upstream_id=second.id) == 4
    assert count(HOLD) == 2
    assert set(claim(conn, second)) | set(claim(conn, first)) == {
        row[0] for row in conn.execute("SELECT id FROM messages WHERE destination = '393331234567'")
    }


def test_only_what_is_old_enough_is_meant(conn, cast, carriers):
    old, new = queue_of_each(conn, cast.smpp_acme_1.id, ["393331234567", "393337654321"])
    ago = old - (DAY_MS << 12)
    conn.execute("UPDATE messages SET id = ? WHERE id = ?", (ago, old))
    conn.execute("UPDATE queued_messages SET message_id = ? WHERE message_id = ?", (ago, old))
    work = do(conn, HOLD, older_ms=HOUR_MS)
    assert (work.asked_count, work.done_count) == (1, 1)
    assert claim(conn, carriers[0]) == [new]


def fill_queue(conn: Connection, count: int, account_count: int = 1) -> None:
    """Rows of messages that wait, as far as counting looks at them, of accounts that there aren't."""
    conn.execute(
        "WITH RECURSIVE numbers (id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM numbers WHERE id < ?1)"
        " INSERT INTO queued_messages SELECT 0, 1000 + id % ?2, 3, -id FROM numbers",
        (count, account_count),
    )


def test_where_a_great_many_wait_pages_have_what_was_counted_before(conn, cast):
    queue_of_each(conn, cast.smpp_acme_1.id, ["393331234567", "393337654321"])

    def count() -> tuple[int, int, int, bool]:
        """In the list, in a question, and by path; and whether that is told as exact."""
        rows = queue_selection.list_queue_groups(conn, UPSTREAM, QueueFilter()).rows
        preview = ask(conn, HOLD)[1]
        by_path = waiting_counts.read_path_counts(conn)
        return sum(each.waiting for each in rows), preview.count, sum(by_path.values()), preview.is_exact

    waiting_counts.keep_waiting_groups(conn)
    assert count() == (2, 2, 2, True)
    fill_queue(conn, 20_000)
    try:
        waiting_counts.keep_waiting_groups(conn)
        queue_messages(conn, cast.smpp_globex_1.id)
        assert count() == (20_002, 20_002, 20_002, False)
        # Where something follows from it, it is counted.
        assert sum(waiting_counts.count_waiting_messages_by_path(conn).values()) == 20_003
        while count()[0] == 20_002:
            waiting_counts.keep_waiting_groups(conn)
        assert count() == (20_003, 20_003, 20_003, False)
    finally:
        conn.execute("DELETE FROM queued_messages WHERE account_id >= 1000")
        waiting_counts.keep_waiting_groups(conn)
    assert count() == (3, 3, 3, True)


@pytest.mark.parametrize("older_ms", [None, HOUR_MS])
def test_thousands_of_accounts_are_counted_as_quickly_as_a_few(conn, older_ms):
    def count_steps(account_count: int) -> int:
        """How many hundred steps of SQLite the list and the question take together."""
        conn.execute("DELETE FROM queued_messages")
        fill_queue(conn, 5_000, account_count)
        steps = 0

        def count_step() -> None:
            nonlocal steps
            steps += 1

        conn.set_progress_handler(count_step, 100)
        (row,) = queue_selection.list_queue_groups(conn, UPSTREAM, QueueFilter(older_ms=older_ms)).rows
        _, preview = ask(conn, HOLD, older_ms=older_ms)
        conn.set_progress_handler(None, 0)
        assert (row.waiting, preview.count) == (5_000, 5_000)
        return steps

    assert count_steps(2_500) < 5 * count_steps(1)


def test_a_question_that_has_no_time_says_about_what_is_given_back(conn, cast, monkeypatch):
    for account_id in (cast.smpp_acme_1.id, cast.smpp_globex_1.id):
        queue_messages(conn, account_id, 2)
    monkeypatch.setattr(queue_selection, "_LOOK_SECONDS", 0.0)
    _, preview = ask(conn, CANCEL)
    assert (preview.count, preview.refund, preview.is_exact) == (4, 4_000, False)
    assert ask(conn, CANCEL, account_id=cast.smpp_acme_1.id)[1].is_exact


def test_a_question_is_answered_in_time_where_nothing_of_what_was_counted_is_there_any_more(conn, monkeypatch):
    fill_queue(conn, 20_000, account_count=2_000)
    try:
        waiting_counts.keep_waiting_groups(conn)
        conn.execute("DELETE FROM queued_messages")
        monkeypatch.setattr(queue_selection, "_LOOK_SECONDS", 0.0)
        looked_at: list[Any] = []
        list_range_ids = steering.list_range_ids

        def list_and_note(*values: Any) -> list[int]:
            looked_at.append(values)
            return list_range_ids(*values)

        monkeypatch.setattr(steering, "list_range_ids", list_and_note)
        _, preview = ask(conn, CANCEL)
        assert (preview.count, preview.is_exact) == (20_000, False)
        assert 0 < len(looked_at) < 2_000
    finally:
        conn.execute("DELETE FROM queued_messages")
        waiting_counts.keep_waiting_groups(conn)


def test_what_is_still_being_held_is_cancelled_with_the_rest(conn, cast):
    queue_messages(conn, cast.smpp_acme_1.id, 3)
    begin(conn, HOLD)
    assert do(conn, CANCEL).done_count == 3


def test_what_comes_after_the_question_is_not_meant(conn, cast, carriers):
    queue_messages(conn, cast.smpp_acme_1.id, 2)
    begin(conn, HOLD)
    later = queue_of_each(conn, cast.smpp_acme_1.id, ["393339999999"])
    run(conn)
    assert claim(conn, carriers[0]) == later


def test_a_selection_comes_back_from_its_text_and_nothing_else_does(conn, cast):
    queue_messages(conn, cast.smpp_acme_1.id)
    selection, _ = ask(conn, HOLD, account_id=cast.smpp_acme_1.id)
    assert queue_selection.parse_selection(str(selection)) == selection
    for text in (
        "",
        "[]",
        "{}",
        '[["x"], null, null, 1]',
        "[[1], null, null, 1]",
        '[[""], null, null, null]',
        f"[[], 1, 1, {1 << 64}]",
        "[" * 50_000,
    ):
        with pytest.raises(ValueError):
            queue_selection.parse_selection(text)


def test_nothing_is_moved_to_one_that_takes_nothing(conn, cast, carriers):
    selection, _ = ask(conn, MOVE)
    with pytest.raises(queue_works.MoveTargetMissing):
        queue_works.create_queue_work(conn, ANNA, MOVE, selection, asked_count=1)
    # Also where that was done after the question.
    upstreams.disable_upstream(conn, SHELL, carriers[1])
    with pytest.raises(queue_works.UpstreamTakesNothing, match="second is disabled or drained"):
        begin(conn, MOVE, carriers[1])


def test_one_for_which_moved_messages_wait_is_not_removed_and_held_ones_hold_nothing_up(conn, cast, carriers):
    _, second = carriers
    queue_messages(conn, cast.smpp_acme_1.id)
    do(conn, MOVE, second)
    with pytest.raises(upstreams.MessagesWaitForUpstream):
        upstreams.remove_upstream(conn, SHELL, second)
    do(conn, HOLD)
    upstreams.remove_upstream(conn, SHELL, second)
    do(conn, RELEASE)
    assert len(claim(conn, carriers[0])) == 1
    assert self_check.list_problem_texts(conn) == []


def test_one_to_which_messages_are_to_be_moved_stays_until_they_are(conn, cast, carriers):
    _, second = carriers
    queue_messages(conn, cast.smpp_acme_1.id)
    begin(conn, MOVE, second)
    with pytest.raises(upstreams.MessagesAreBeingMoved, match="being moved to “second”"):
        upstreams.remove_upstream(conn, SHELL, second)
    run(conn)
    with pytest.raises(upstreams.MessagesWaitForUpstream):
        upstreams.remove_upstream(conn, SHELL, second)
    do(conn, RELEASE)
    # What was asked when it was still there moves nothing once it isn't.
    upstreams.remove_upstream(conn, SHELL, second)
    with pytest.raises(upstreams.NoSuchUpstream):
        begin(conn, MOVE, second)
    assert len(claim(conn, carriers[0])) == 1


def test_the_check_names_what_waits_for_one_that_was_removed(conn, cast, carriers):
    _, second = carriers
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    do(conn, MOVE, second)
    assert self_check.list_problem_texts(conn) == []
    conn.execute("UPDATE upstreams SET removed_at = 1, enabled = 0 WHERE id = ?", (second.id,))
    assert (
        f"smpp-acme-1: messages that wait for an upstream which was removed: 1, the first is messages row {message_id}"
    ) in self_check.list_problem_texts(conn)


def test_what_was_moved_there_already_is_left(conn, cast, carriers):
    queue_messages(conn, cast.smpp_acme_1.id)
    do(conn, MOVE, carriers[1])
    assert do(conn, MOVE, carriers[1]).done_count == 0
    assert do(conn, MOVE, carriers[0]).done_count == 1


def test_what_waits_is_listed_in_groups(conn, cast, carriers):
    first, _ = carriers
    route = create_route(conn, "second", country="FR")
    for account_id in (cast.smpp_acme_1.id, cast.smpp_globex_1.id):
        queue_of_each(conn, account_id, ["393331234567", "33612345678"])
    reroute(conn)
    do(conn, HOLD, route_id=route.id, account_id=cast.smpp_acme_1.id)
    holds.hold_account(conn, ANNA, cast.smpp_globex_1.id, "")
    (oldest,) = conn.execute("SELECT min(id) FROM messages").fetchone()

    def list_rows(grouping: str, **fits: Any) -> list[tuple[str, int, int]]:
        return [
            (each.name, each.waiting, each.held)
            for each in queue_selection.list_queue_groups(conn, grouping, QueueFilter(**fits)).rows
        ]

    assert list_rows(UPSTREAM) == [("first", 1, 1), ("second", 0, 2)]
    assert list_rows(ACCOUNT) == [("smpp-acme-1", 1, 1), ("smpp-globex-1", 0, 2)]
    assert list_rows(ROUTE) == [("", 1, 1), (str(route.id), 0, 2)]
    assert list_rows(AGE) == []
    assert list_rows(UPSTREAM, route_id=NO_ROUTE) == [("first", 1, 1)]
    assert list_rows(ACCOUNT, upstream_id=first.id) == [("smpp-acme-1", 1, 0), ("smpp-globex-1", 0, 1)]
    row = queue_selection.list_queue_groups(conn, UPSTREAM, QueueFilter()).rows[0]
    assert row.key == first.id
    groups = queue_selection.list_queue_groups(conn, ACCOUNT, QueueFilter(), limit=1)
    assert [each.name for each in groups.rows] == ["smpp-acme-1"]
    assert (groups.left_count, groups.waiting, groups.held) == (1, 1, 3)
    assert row.oldest_at == ids.time_from_id(oldest)
    # A day later.
    conn.execute("UPDATE queued_messages SET message_id = message_id - (? << 12)", (DAY_MS + 1,))
    assert list_rows(AGE) == [("", 1, 2), ("", 1, 2), ("", 1, 2)]
    assert list_rows(UPSTREAM, older_ms=DAY_MS) == [("first", 1, 1), ("second", 0, 1)]


@pytest.mark.parametrize("action", [MOVE, RELEASE])
def test_a_step_reads_no_more_of_what_waits_for_one_number_than_it_does(conn, cast, carriers, action):
    def count_steps(count: int) -> int:
        """How many hundred steps of SQLite the first step of the work takes."""
        queue_messages(conn, cast.smpp_acme_1.id, count)
        do(conn, HOLD)
        begin(conn, action, carriers[1] if action == MOVE else None)
        steps = 0

        def count_step() -> None:
            nonlocal steps
            steps += 1

        conn.set_progress_handler(count_step, 100)
        assert run_step(conn)[1] == 0
        conn.set_progress_handler(None, 0)
        return steps

    credits.grant_credits(conn, SHELL, accounts.get_account(conn, cast.smpp_acme_1.name), 10_000_000)
    few = count_steps(600)
    run(conn)
    do(conn, RELEASE)
    many = count_steps(5_400)
    assert many < few + 100


def test_a_step_that_goes_wrong_leaves_all_as_it_was_and_others_go_on_meanwhile(conn, cast, carriers, caplog):
    waiting = queue_messages(conn, cast.smpp_acme_1.id, 600)
    begin(conn, HOLD)
    assert run_step(conn)[1] == 0
    conn.execute(
        "CREATE TEMP TRIGGER full AFTER INSERT ON main.held_messages BEGIN"
        f" SELECT RAISE(ABORT, 'no room') WHERE NEW.message_id = {waiting[-1]}; END"
    )
    for _ in range(2):
        assert run_step(conn) == (DueMessages(), queue_works.RETRY_MS)
    (work,) = queue_works.list_queue_works(conn)
    assert (work.done_count, work.error, work.ended_at) == (500, "IntegrityError: no room", None)
    assert len([each for each in caplog.records if "will be tried again" in each.message]) == 1
    globex = queue_messages(conn, cast.smpp_globex_1.id)
    begin(conn, HOLD, account_id=cast.smpp_globex_1.id)
    assert run_step(conn)[1] == 0
    assert [each.done_count for each in queue_works.list_queue_works(conn)] == [len(globex), 500]
    assert run_step(conn)[1] == queue_works.RETRY_MS
    conn.execute("DROP TRIGGER full")
    run(conn)
    work = queue_works.list_queue_works(conn)[-1]
    assert (work.done_count, work.error) == (600, "")
    assert not queue_works.has_open_works(conn)


def test_what_waits_for_the_end_of_quiet_hours_is_told_apart(conn, cast, monkeypatch):
    day = now_ms() // DAY_MS * DAY_MS
    monkeypatch.setattr(queue_selection, "now_ms", lambda: day + 23 * HOUR_MS)
    route = create_route(conn, "second", country="IT", quiet_hours="22:00-08:00 UTC")
    for account_id in (cast.smpp_acme_1.id, cast.smpp_globex_1.id):
        queue_of_each(conn, account_id, ["393331234567", "33612345678"])
    holds.hold_account(conn, ANNA, cast.smpp_globex_1.id, "")
    reroute(conn)

    def list_rows(**fits: Any) -> list[tuple[str, int, int, list[QuietMessages]]]:
        rows = queue_selection.list_queue_groups(conn, UPSTREAM, QueueFilter(**fits)).rows
        return [(each.name, each.waiting, each.held, [*each.quiet]) for each in rows]

    # Not what is of an account on hold.
    of_route = ("second", 1, 1, [QuietMessages(route.id, day + 32 * HOUR_MS, 1)])
    assert list_rows() == [("first", 1, 1, []), of_route]
    assert list_rows(is_quiet=True) == [of_route]
    assert ask(conn, HOLD, is_quiet=True)[1].count == 2
    monkeypatch.setattr(queue_selection, "now_ms", lambda: day + 9 * HOUR_MS)
    assert list_rows() == [("first", 1, 1, []), ("second", 1, 1, [])]
    assert list_rows(is_quiet=True) == []
    monkeypatch.undo()
    # Nor what operators hold.
    do(conn, HOLD)
    monkeypatch.setattr(queue_selection, "now_ms", lambda: day + 23 * HOUR_MS)
    assert [row[3] for row in list_rows()] == [[], []]


def test_works_that_have_ended_are_forgotten_and_open_ones_stay(conn, cast):
    queue_messages(conn, cast.smpp_acme_1.id)
    do(conn, HOLD)
    begin(conn, RELEASE)
    queue_works.purge_queue_works(conn, now_ms() - DAY_MS)
    assert len(queue_works.list_queue_works(conn)) == 2
    queue_works.purge_queue_works(conn, now_ms() + 1)
    assert [each.action for each in queue_works.list_queue_works(conn)] == [RELEASE]


def test_who_asked_for_what_is_in_the_audit_log(conn, cast, carriers):
    _, newest = queue_messages(conn, cast.smpp_acme_1.id, 2)
    queue_messages(conn, cast.smpp_globex_1.id)
    do(conn, MOVE, carriers[1], account_id=cast.smpp_acme_1.id, older_ms=-HOUR_MS)
    do(conn, HOLD, upstream_id=carriers[1].id)
    rows = conn.execute(
        "SELECT action, actor, customer_id, account_id, details FROM audit_log WHERE action LIKE 'queue.%'"
    ).fetchall()
    moved, held = (json.loads(row["details"]) for row in rows)
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    assert [tuple(row)[:4] for row in rows] == [
        ("queue.move", ANNA.name, account.customer_id, account.id),
        ("queue.hold", ANNA.name, None, None),
    ]
    assert held.pop("before") >= ids.time_from_id(newest)
    assert moved.pop("before") > now_ms() + HOUR_MS // 2
    assert moved == {"upstreams": ["first"], "route": None, "count": 2, "to": "second"}
    assert held == {"upstreams": ["second"], "route": None, "count": 2, "to": None}
