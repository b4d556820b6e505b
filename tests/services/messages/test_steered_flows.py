"""What is held, moved and released while upstreams answer: of what goes to one number, all goes, one by one."""

import random
from collections.abc import Callable

import pytest

from portal.core.clock import HOUR_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection, write_transaction
from portal.services.common.message_states import ENROUTE
from portal.services.messages import outcomes, query_cancel, queue_works, sending
from portal.services.messages.message_parts import AcceptedMessage
from portal.services.messages.queue_selection import ACTIONS, HOLD, MOVE, RELEASE, QueueSelection
from portal.services.messages.sending import UnsentMessage, UnsentReason
from portal.services.operations import self_check
from portal.services.upstreams import paths, upstreams
from portal.services.upstreams.claims import Claim
from portal.services.upstreams.upstreams import Upstream
from tests.services.messages.test_queue_works import ANNA, ask, begin, run, run_step
from tests.services.upstreams.waiting import add_upstream, choose_path, queue_messages, queue_of_each

NUMBERS = ("393331234567", "393337654321", "393330000000")


class Carriers:
    """Two upstreams, the first of which is the default one; what they have, and what they have accepted."""

    def __init__(self, conn: Connection, keys: Keys) -> None:
        self.conn = conn
        self.first, self.second = (add_upstream(conn, keys, name) for name in ("first", "second"))
        self.under_way: list[tuple[int, int]] = []
        self.accepted: list[int] = []

    def claim(self, upstream: Upstream, limit: int = 1_000, now: int | None = None) -> list[int]:
        """What an upstream takes now of the paths that are its, as the server has it."""
        takers = upstreams.find_takers(self.conn, paths.list_paths(self.conn).values())
        own = [path for path, taker in takers.items() if taker == upstream.id and not paths.is_held_path(path)]
        claim = Claim(upstream.id, own, limit)
        claimed = sending.claim_messages(self.conn, claim, now or now_ms(), choose_path(self.conn))
        message_ids = [each.id for each in claimed.messages]
        self.under_way += [(upstream.id, each) for each in message_ids]
        return message_ids

    def accept(self, count: int = 1_000) -> None:
        """The first of what is under way is accepted."""
        answered, self.under_way = self.under_way[:count], self.under_way[count:]
        self.accepted += [message_id for _, message_id in answered]
        sending.store_accepted_messages(self.conn, [AcceptedMessage(*each, str(each[1]), 1, 0) for each in answered])

    def refuse(self, reason: UnsentReason) -> None:
        """The first of what is under way is not."""
        unsent = [UnsentMessage(*each, reason) for each in self.under_way[:1]]
        del self.under_way[:1]
        sending.store_unsent_messages(self.conn, unsent, now_ms(), choose_path(self.conn))

    def drain(self) -> None:
        """They take and accept all that goes out, today and later."""
        while self.claim(self.first, now=now_ms() + HOUR_MS) or self.claim(self.second, now=now_ms() + HOUR_MS):
            self.accept()
        self.accept()


@pytest.fixture(autouse=True)
def carriers(conn: Connection, keys: Keys) -> Carriers:
    return Carriers(conn, keys)


def test_what_is_answered_between_two_steps_of_a_release_is_followed_by_the_others(conn, cast, carriers, monkeypatch):
    monkeypatch.setattr(queue_works, "_STEP_SIZES", dict.fromkeys(ACTIONS, 3))
    waiting = [queue_of_each(conn, cast.smpp_acme_1.id, NUMBERS) for _ in range(5)]
    begin(conn, HOLD)
    run(conn)
    for action, target in ((RELEASE, None), (HOLD, None), (MOVE, carriers.second)):
        begin(conn, action, target)
        while queue_works.has_open_works(conn):
            run_step(conn)
            carriers.claim(carriers.first, 2)
            carriers.claim(carriers.second, 2)
            carriers.accept()
            assert self_check.list_problem_texts(conn) == []
    carriers.drain()
    assert sorted(carriers.accepted) == sorted(each for of_each in waiting for each in of_each)
    for flow in zip(*waiting, strict=True):
        assert [each for each in carriers.accepted if each in flow] == [*flow]


def test_a_later_one_that_is_held_holds_up_nothing_in_front_of_it(conn, cast, carriers):
    one, two = queue_messages(conn, cast.smpp_acme_1.id, 2)
    begin(conn, MOVE, carriers.second)
    run(conn)
    assert carriers.claim(carriers.second) == [one]
    (three,) = queue_messages(conn, cast.smpp_acme_1.id)
    begin(conn, HOLD, upstream_id=carriers.first.id)
    run(conn)
    carriers.accept()
    assert carriers.claim(carriers.second) == [two]
    assert self_check.list_problem_texts(conn) == []
    begin(conn, RELEASE)
    run(conn)
    assert carriers.claim(carriers.first) == []
    carriers.accept()
    assert carriers.claim(carriers.first) == [three]


@pytest.mark.parametrize("ends", ["cancelled", "expired"])
def test_once_the_first_one_has_ended_the_next_goes_though_a_later_one_is_held(conn, cast, carriers, ends):
    one, two = queue_messages(conn, cast.smpp_acme_1.id, 2)
    begin(conn, MOVE, carriers.second)
    run(conn)
    queue_messages(conn, cast.smpp_acme_1.id)
    begin(conn, HOLD, upstream_id=carriers.first.id)
    run(conn)
    with write_transaction(conn):
        if ends == "expired":
            outcomes.expire_messages(conn, [one], now_ms())
        else:
            status = query_cancel.find_message_status(conn, cast.smpp_acme_1.id, one)
            assert status is not None
            query_cancel.cancel_messages(conn, [status])
    assert self_check.list_problem_texts(conn) == []
    assert carriers.claim(carriers.second) == [two]


@pytest.mark.parametrize("seed", range(10))
def test_whatever_operators_do_and_upstreams_answer_all_goes_out_in_the_end(conn, cast, carriers, monkeypatch, seed):
    monkeypatch.setattr(queue_works, "_STEP_SIZES", dict.fromkeys(ACTIONS, 4))
    rng = random.Random(seed)
    account_ids = (cast.smpp_acme_1.id, cast.smpp_globex_1.id)

    def ask_for_work() -> None:
        action = rng.choices(ACTIONS, (4, 4, 1, 4))[0]
        fits = rng.choice(({}, {"account_id": account_ids[0]}, {"upstream_id": carriers.second.id}))
        selection, preview = ask(conn, action, **fits)
        ids = [row[0] for row in conn.execute("SELECT id FROM messages")]
        before_id = rng.choice([selection.before_id, *ids])
        bounded = QueueSelection(selection.paths, selection.account_id, None, before_id)
        target = rng.choice((carriers.first, carriers.second)) if action == MOVE else None
        queue_works.create_queue_work(conn, ANNA, action, bounded, asked_count=preview.count, target=target)

    def cancel_one() -> None:
        rows = conn.execute("SELECT message_id, account_id FROM held_messages").fetchall()
        if rows:
            status = query_cancel.find_message_status(conn, rng.choice(account_ids), rng.choice(rows)[0])
            if status is not None and status.is_queued:
                query_cancel.cancel_messages(conn, [status])

    def claim() -> None:
        now = now_ms() + rng.choice((0, HOUR_MS))
        carriers.claim(rng.choice((carriers.first, carriers.second)), rng.randint(1, 4), now)

    steps: tuple[tuple[int, Callable[[], object]], ...] = (
        (4, lambda: queue_of_each(conn, rng.choice(account_ids), rng.choices(NUMBERS, k=4))),
        (3, ask_for_work),
        (1, cancel_one),
        (12, lambda: run_step(conn)),
        (4, claim),
        (6, lambda: carriers.accept(rng.randint(1, 3))),
        (1, lambda: carriers.refuse(rng.choice([*UnsentReason][:4]))),
    )
    for number in range(200):
        rng.choices([step for _, step in steps], [weight for weight, _ in steps])[0]()
        if number % 5 == 0:
            assert self_check.list_problem_texts(conn) == []
    begin(conn, RELEASE)
    run(conn)
    carriers.drain()
    assert conn.execute(f"SELECT id FROM messages WHERE state = {ENROUTE} AND upstream_id IS NULL").fetchall() == []
    assert not conn.execute("SELECT 1 FROM held_messages").fetchall()
    assert self_check.list_problem_texts(conn) == []
