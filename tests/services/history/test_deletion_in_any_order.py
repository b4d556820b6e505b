"""Messages come, end, are deleted and grow old in any order: the numbers agree."""

import random
from collections.abc import Iterator, Sequence

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.services.accounts import account_messages
from portal.services.accounts.accounts import Account
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED, ENROUTE, UNDELIVERABLE
from portal.services.history import deletion, refunds, retention, search, search_index
from portal.services.history.deletion import SENT
from portal.services.history.search import SearchQuery
from portal.services.messages import blacklist, deliveries, intake, outcomes
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.validation import Segment
from portal.services.operations import self_check
from portal.services.statistics import rollup
from tests.services.history.deleting import delete, keep, left, small_batches
from tests.services.submitting import cancel_message
from tests.support import prepare_submit


@pytest.fixture(autouse=True)
def _small_batches() -> Iterator[None]:
    with small_batches(read=7, removed=3):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_in_whatever_order_it_happens_the_numbers_agree(conn, acme_1, globex_1, seed):
    story = Story(conn, random.Random(seed), (acme_1, globex_1))
    for number in range(120):
        story.go_on()
        if number % 4 == 0:
            assert self_check.list_problem_texts(conn) == [], number
    for account in story.accounts:
        delete(conn, account, deletion.build_query_scope(conn, account.id, SearchQuery()))
    assert self_check.list_problem_texts(conn) == []
    assert story.removed > 20
    # It would have told.
    conn.execute("DELETE FROM deleted_messages")
    assert self_check.list_problem_texts(conn) != []


class Story:
    """What may happen to messages, at random, over some months that end now."""

    def __init__(self, conn: Connection, rng: random.Random, accounts: Sequence[Account]) -> None:
        self.conn, self.rng, self.accounts = conn, rng, accounts
        self.at = now_ms() - 100 * DAY_MS
        self.removed = 0
        self.open: list[int] = []
        blacklist.add_blacklist_number(conn, SHELL, accounts[0], "393330000000")

    def go_on(self) -> None:
        self.at += self.rng.randrange(DAY_MS)
        acts = [self.submit, self.submit, self.submit, self.finish, self.finish, self.accept]
        acts += [self.cancel, self.refund, self.delete, self.delete, self.keep, self.index, self.gather]
        acts += [self.index_accounts, self.index_accounts]
        self.rng.choice(acts)()

    def submit(self) -> None:
        submits = []
        for _ in range(self.rng.randrange(1, 9)):
            account = self.rng.choice(self.accounts)
            source = "ACME" if account is self.accounts[0] else "GLOBEX"
            if self.rng.random() < 0.2:
                reference = self.rng.randrange(9)
                submits += [
                    prepare_submit(
                        self.conn, account.id, b"part %d" % number, source=source, segment=Segment(reference, 2, number)
                    )
                    for number in (1, 2)
                ]
                continue
            submits.append(
                prepare_submit(
                    self.conn,
                    account.id,
                    self.rng.choice([b"parcel", b"invoice", b"y" * 155]) + b" %d" % self.rng.randrange(9),
                    source=source,
                    destination=self.rng.choice(["393401234567", "393330000000", "33612345678"]),
                    registered_delivery=self.rng.choice([0, 0, 1]),
                    scheduled_at=self.rng.choice([None, None, None, self.at + DAY_MS]),
                )
            )
        intake.store_messages(self.conn, submits, self.at)

    def finish(self) -> None:
        open_ones = [row[0] for row in self.conn.execute("SELECT id FROM messages WHERE state = ?", (ENROUTE,))]
        some = [each for each in open_ones if self.rng.random() < 0.6]
        outcomes.finish_messages(
            self.conn,
            [
                MessageOutcome(each, *self.rng.choice([(DELIVERED, 0), (DELIVERED, 0), (UNDELIVERABLE, 9)]), self.at)
                for each in some
            ],
        )

    def accept(self) -> None:
        for account in self.accounts:
            deliveries.remove_accepted_deliveries(
                self.conn, deliveries.list_due_deliveries(self.conn, account.id, self.at, 50).ready, self.at
            )

    def cancel(self) -> None:
        rows = self.conn.execute(
            "SELECT id, account_id FROM messages WHERE state = ? AND scheduled_at IS NOT NULL LIMIT 2", (ENROUTE,)
        ).fetchall()
        for message_id, account_id in rows:
            cancel_message(self.conn, account_id, message_id)

    def refund(self) -> None:
        for account in self.accounts:
            rows = self.conn.execute(
                "SELECT id FROM messages WHERE account_id = ? AND state = ? AND price > 0 AND id NOT IN"
                " (SELECT first_message_id FROM movements WHERE kind = 'refund') LIMIT 2",
                (account.id, UNDELIVERABLE),
            ).fetchall()
            for (message_id,) in rows:
                refunds.refund_message(self.conn, SHELL, account, message_id, "a present")

    def delete(self) -> None:
        account = self.rng.choice(self.accounts)
        query = self.rng.choice(
            [
                SearchQuery(text="parcel"),
                SearchQuery(recipient="336"),
                SearchQuery(status="9"),
                SearchQuery(status=search.DELIVERED),
            ]
        )
        texts = list(search.iterate_texts(self.conn, account.id, query))
        if self.rng.random() < 0.5:
            texts = [each for each in texts if self.rng.random() < 0.3]
            scope = deletion.build_selection_scope(SENT, [each.id for each in texts])
        else:
            scope = deletion.build_query_scope(self.conn, account.id, query)
        waiting = {row[0] for row in self.conn.execute("SELECT message_id FROM deliveries")}
        gone = {
            message.id
            for text in texts
            if text.done_at is not None and not waiting & {each.id for each in text.messages}
            for message in text.messages
        }
        before = left(self.conn, account)
        delete(self.conn, account, deletion.parse_deletion_scope(SENT, str(scope)))
        assert left(self.conn, account) == [each for each in before if each not in gone]
        self.removed += len(gone)

    def keep(self) -> None:
        first_day = retention.get_first_retained_day(1, self.at)
        keep(self.conn, 1, self.at)
        rows = self.conn.execute(
            "SELECT id FROM messages WHERE id < ? AND state <> ? AND joined_to IS NULL AND segment_total IS NULL"
            " AND id NOT IN (SELECT message_id FROM deliveries WHERE message_id IS NOT NULL)",
            (ids.min_id_at_time(first_day * DAY_MS), ENROUTE),
        )
        assert rows.fetchall() == []

    def index(self) -> None:
        for _ in search_index.build_search_chunks(self.conn, chunk_size=8):
            pass
        empty = self.conn.execute(
            "SELECT count(*) FROM history_chunks AS chunk WHERE NOT EXISTS (SELECT 1 FROM messages"
            " WHERE messages.account_id = chunk.account_id AND messages.id BETWEEN first_id AND last_id)"
        ).fetchone()[0]
        assert empty == 0
        for account in self.accounts:
            found_ids = {each.id for each in search.iterate_texts(self.conn, account.id, SearchQuery(text="parcel"))}
            rows = self.conn.execute(
                "SELECT id FROM messages WHERE account_id = ? AND text LIKE '%parcel%'", (account.id,)
            )
            assert found_ids == {row[0] for row in rows}

    def index_accounts(self) -> None:
        account_messages.index_message_batch(self.conn, max_messages=self.rng.randrange(1, 9))
        for account in self.accounts:
            rows = account_messages.list_account_messages(self.conn, account.id, 0, 1 << 62)
            assert [row[0] for row in rows] == left(self.conn, account)
            newest = account_messages.get_latest_message_id(self.conn, account.id)
            assert newest == max(left(self.conn, account), default=0)

    def gather(self) -> None:
        rollup.roll_up_batch(self.conn)
