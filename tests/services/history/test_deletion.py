"""Customers delete messages; the self-check can still prove what was charged and counted for them."""

import threading
from collections.abc import Generator, Iterator
from types import SimpleNamespace

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.services.accounts import account_messages
from portal.services.accounts.accounts import Account
from portal.services.common import idempotency
from portal.services.common.audit import SHELL
from portal.services.common.message_states import UNDELIVERABLE
from portal.services.credits import credits
from portal.services.history import deletion, history, refunds, removal, retention, search, search_index
from portal.services.history.deletion import SENT
from portal.services.history.search import SearchQuery
from portal.services.messages import blacklist, deliveries, inbound, inbound_numbers, query_cancel, text_policy
from portal.services.messages.inbound import InboundMessage, MobileOriginatedMessage
from portal.services.messages.validation import Segment
from portal.services.operations import self_check
from portal.services.people import customers
from portal.services.statistics import rollup
from tests.services.audit_log import list_audit_entries
from tests.services.history.deleting import MARTA, NOW, delete, end, leave_former_sums, left, sent, small_batches
from tests.services.submitting import store_messages
from tests.support import prepare_submit

# --- what goes, and what stays


def test_ticked_messages_go_and_the_others_stay(conn, acme_1):
    first, second, third = sent(conn, acme_1, "one", "two", "three")

    result = delete(conn, acme_1, deletion.build_selection_scope(SENT, [first, third]))

    assert (result.removed, result.total, result.underway, result.waiting) == (2, 2, 0, 0)
    assert result.ended_at is not None
    assert left(conn, acme_1) == [second]
    assert self_check.list_problem_texts(conn) == []


def test_what_its_client_asks_for_afterwards_is_unknown(conn, acme_1):
    (message,) = sent(conn, acme_1, "one")

    delete(conn, acme_1, deletion.build_selection_scope(SENT, [message]))

    assert query_cancel.find_message_status(conn, acme_1.id, message) is None
    with pytest.raises(history.NoSuchMessage):
        history.get_sent_text_by_message_id(conn, acme_1.id, message)
    # A second outcome, which comes late, is nobody's.
    assert end(conn, [message], state=UNDELIVERABLE, ptt=9) == []
    assert self_check.list_problem_texts(conn) == []


def test_ids_of_old_clients_go_with_their_messages(conn, acme_1):
    submits = [prepare_submit(conn, acme_1.id) for _ in range(3)]
    for each in submits:
        each.needs_hex_id = True
    message_ids = store_messages(conn, submits)
    accepted = end(conn, message_ids)
    deliveries.remove_accepted_deliveries(conn, accepted)

    delete(conn, acme_1, deletion.build_selection_scope(SENT, message_ids[:2]))

    assert [tuple(row) for row in conn.execute("SELECT * FROM hex_ids")] == [(message_ids[2], 3)]


def test_another_accounts_message_stays(conn, acme_1, globex_1):
    (other,) = sent(conn, globex_1, "theirs", source="GLOBEX")

    result = delete(conn, acme_1, deletion.build_selection_scope(SENT, [other]))

    assert result.removed == 0
    assert left(conn, globex_1) == [other]


def test_all_that_a_search_finds_goes_as_it_was_when_it_was_asked(conn, acme_1):
    some = sent(conn, acme_1, "your parcel", "your invoice", "a parcel")
    scope = deletion.build_query_scope(conn, acme_1.id, SearchQuery(text="parcel"))
    (later,) = sent(conn, acme_1, "the next parcel")

    result = delete(conn, acme_1, deletion.parse_deletion_scope(SENT, str(scope)))

    assert result.removed == result.total == 2
    assert left(conn, acme_1) == [some[1], later]


def test_what_ended_after_the_question_stays(conn, acme_1):
    (message,) = sent(conn, acme_1, "on its way", ended=False)
    scope = deletion.build_query_scope(conn, acme_1.id, SearchQuery())
    end(conn, [message], at=scope.as_of + 1)

    result = delete(conn, acme_1, scope)

    assert (result.removed, result.underway) == (0, 1)
    assert left(conn, acme_1) == [message]


@pytest.mark.parametrize("indexed", [0, 3, 6])
def test_all_of_them_go_however_many_are_in_the_index(conn, acme_1, globex_1, indexed):
    sent(conn, acme_1, "one", "two", "three", "four", "five", "six")
    if indexed:
        account_messages.index_message_batch(conn, max_messages=indexed)
    (other,) = sent(conn, globex_1, "other", source="GLOBEX")

    scope = deletion.build_query_scope(conn, acme_1.id, SearchQuery())
    (later,) = sent(conn, acme_1, "after the question")

    with small_batches(read=5, removed=2):
        assert delete(conn, acme_1, scope).removed == 6
    account_messages.index_message_batch(conn)
    rows = conn.execute("SELECT message_id FROM account_messages ORDER BY message_id").fetchall()
    assert [row[0] for row in rows] == [other, later]
    assert self_check.list_problem_texts(conn) == []


@pytest.mark.slow
def test_messages_are_taken_into_the_index_while_they_are_deleted(conn, connect, acme_1):
    indexing, stops = connect(), threading.Event()

    def index_again_and_again() -> None:
        while not stops.is_set() or account_messages.index_message_batch(indexing, max_messages=1):
            account_messages.index_message_batch(indexing, max_messages=3)

    thread = threading.Thread(target=index_again_and_again)
    thread.start()
    try:
        for _ in range(5):
            sent(conn, acme_1, *["text"] * 40)
            scope = deletion.build_query_scope(conn, acme_1.id, SearchQuery())
            with small_batches(read=7, removed=3):
                assert delete(conn, acme_1, scope).removed == 40
    finally:
        stops.set()
        thread.join()
    assert account_messages.get_last_indexed_id(conn) > 0
    assert conn.execute("SELECT count(*) FROM account_messages").fetchone()[0] == 0
    assert self_check.list_problem_texts(conn) == []


def test_what_is_on_its_way_stays_and_is_counted(conn, acme_1):
    gone, stays = sent(conn, acme_1, "one", "two", ended=False)
    end(conn, [gone])

    result = delete(conn, acme_1, deletion.build_query_scope(conn, acme_1.id, SearchQuery()))

    assert (result.removed, result.underway, result.waiting) == (1, 1, 0)
    assert left(conn, acme_1) == [stays]
    end(conn, [stays])
    rollup.roll_up_all(conn)
    assert self_check.list_problem_texts(conn) == []


def test_a_message_whose_receipt_waits_stays_until_a_client_has_it(conn, acme_1):
    sent(conn, acme_1, "one", registered_delivery=1)
    everything = deletion.build_query_scope(conn, acme_1.id, SearchQuery())

    result = delete(conn, acme_1, everything)

    assert (result.removed, result.waiting) == (0, 1)
    deliveries.remove_accepted_deliveries(conn, deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready)
    assert delete(conn, acme_1, everything).removed == 1
    assert left(conn, acme_1) == []


def test_a_text_in_segments_goes_as_a_whole_or_not_at_all(conn, acme_1):
    parts = [
        sent(conn, acme_1, f"part {number}", segment=Segment(7, 3, number), ended=False)[0] for number in (1, 2, 3)
    ]
    end(conn, parts[:2])

    assert delete(conn, acme_1, deletion.build_selection_scope(SENT, parts[:1])).underway == 1
    assert left(conn, acme_1) == parts

    end(conn, parts[2:])
    # A segment that isn't the first one is no text.
    assert delete(conn, acme_1, deletion.build_selection_scope(SENT, parts[1:])).removed == 0
    assert delete(conn, acme_1, deletion.build_selection_scope(SENT, parts[:1])).removed == 1
    assert left(conn, acme_1) == []
    rollup.roll_up_all(conn)
    assert self_check.list_problem_texts(conn) == []


@pytest.mark.parametrize("remove", ["by the customer", "by retention"])
def test_a_transaction_takes_few_messages_however_many_segments_texts_have(conn, acme_1, remove):
    for reference in (1, 2, 3):
        for number in (1, 2, 3, 4, 5):
            sent(conn, acme_1, "part", segment=Segment(reference, 5, number), at=NOW - 100 * DAY_MS)
    steps: Iterator[object]
    if remove == "by retention":
        steps = retention.purge_messages(conn, 1, NOW)
    else:
        deletion_id = deletion.create_deletion(
            conn, MARTA, acme_1, deletion.build_query_scope(conn, acme_1.id, SearchQuery()), total=3
        )
        steps = deletion.run_deletion(conn, deletion_id)

    seen = [15]
    with small_batches(read=2_000, removed=4):
        for _ in steps:
            seen.append(len(left(conn, acme_1)))
    assert sorted(set(seen)) == [0, 5, 10, 15]


def test_a_segment_that_comes_while_its_text_goes_keeps_it(conn, acme_1):
    (first,) = sent(conn, acme_1, "part 1", segment=Segment(7, 2, 1))
    result = removal.plan_removal(conn, acme_1.id, [first], now_ms())
    (second,) = sent(conn, acme_1, "part 2", segment=Segment(7, 2, 2))

    assert removal.delete_sent_messages(conn, acme_1.id, result.texts) == 0

    assert left(conn, acme_1) == [first, second]


def test_nothing_goes_that_the_statistics_have_not_counted(conn, acme_1):
    sent(conn, acme_1, "one", "two")

    delete(conn, acme_1, deletion.build_query_scope(conn, acme_1.id, SearchQuery()))

    counted = conn.execute(
        "SELECT sum(sent), sum(delivered) FROM statistics WHERE length = ?", (rollup.DAY,)
    ).fetchone()
    assert tuple(counted) == (2, 2)


def test_totals_ledger_and_balance_stay(conn, acme_1):
    sent(conn, acme_1, "one", "two")
    before = [tuple(row) for table in ("daily_totals", "movements") for row in conn.execute(f"SELECT * FROM {table}")]
    balance = conn.execute("SELECT balance FROM accounts WHERE id = ?", (acme_1.id,)).fetchone()[0]

    delete(conn, acme_1, deletion.build_query_scope(conn, acme_1.id, SearchQuery()))

    after = [tuple(row) for table in ("daily_totals", "movements") for row in conn.execute(f"SELECT * FROM {table}")]
    assert after == before
    assert conn.execute("SELECT balance FROM accounts WHERE id = ?", (acme_1.id,)).fetchone()[0] == balance


def test_an_id_is_never_given_again(conn, acme_1):
    (newest,) = sent(conn, acme_1, "one", at=now_ms() + DAY_MS)
    end(conn, [newest], at=now_ms())
    delete(conn, acme_1, deletion.build_selection_scope(SENT, [newest]))

    assert sent(conn, acme_1, "two")[0] > newest


def test_chunks_of_which_nothing_is_left_go_and_the_search_finds_the_rest(conn, acme_1):
    texts = [f"{word} {number}" for number in range(10) for word in ("parcel", "invoice")]
    messages = sent(conn, acme_1, *texts)
    for _ in search_index.build_search_chunks(conn, chunk_size=4):
        pass
    chunks = conn.execute("SELECT count(*) FROM history_chunks").fetchone()[0]

    delete(conn, acme_1, deletion.build_selection_scope(SENT, messages[:5]))

    assert conn.execute("SELECT count(*) FROM history_chunks").fetchone()[0] == chunks - 1
    delete(conn, acme_1, deletion.build_selection_scope(SENT, messages[13:]))
    result = [each.id for each in search.iterate_texts(conn, acme_1.id, SearchQuery(text="parcel"))]
    assert result == messages[6:13:2][::-1]
    # Where the newest chunks went, new ones are built from there on.
    more = sent(conn, acme_1, *texts)
    for _ in search_index.build_search_chunks(conn, chunk_size=4):
        pass
    result = [each.id for each in search.iterate_texts(conn, acme_1.id, SearchQuery(text="invoice"))]
    assert result == [*messages[5:13:2], *more[1::2]][::-1]


def test_it_is_asked_with_the_count(conn, acme_1):
    sent(conn, acme_1, "one", "two")
    sent(conn, acme_1, "three", ended=False)
    sent(conn, acme_1, "four", registered_delivery=1)

    result = deletion.preview_deletion(conn, acme_1.id, deletion.build_query_scope(conn, acme_1.id, SearchQuery()))

    assert (result.removed, result.underway, result.waiting, result.is_complete) == (2, 1, 1, True)


def test_a_long_count_ends_in_time(conn, acme_1):
    sent(conn, acme_1, *["text"] * 5)

    with small_batches(read=2, removed=250):
        result = deletion.preview_deletion(
            conn, acme_1.id, deletion.build_query_scope(conn, acme_1.id, SearchQuery()), seconds=0
        )

    assert (result.removed, result.is_complete) == (2, False)


def test_the_audit_log_says_who_deleted_how_many(conn, acme_1):
    messages = sent(conn, acme_1, "one", "two")

    delete(conn, acme_1, deletion.build_selection_scope(SENT, messages))

    (entry,) = [each for each in list_audit_entries(conn, acme_1.id) if each.action == "history.delete"]
    assert (entry.actor, entry.address, entry.details["removed"]) == (MARTA.name, MARTA.address, 2)


def test_a_form_that_is_sent_twice_deletes_once(conn, acme_1):
    scope = deletion.build_selection_scope(SENT, sent(conn, acme_1, "one"))
    form = idempotency.new_idempotency_key()
    with idempotency.once(conn, form):
        deletion.create_deletion(conn, MARTA, acme_1, scope)

    with pytest.raises(idempotency.FormAlreadySent), idempotency.once(conn, form):
        deletion.create_deletion(conn, MARTA, acme_1, scope)
    assert len(conn.execute("SELECT id FROM deletions").fetchall()) == 1


NOBODYS_SEARCH = '{"at":1, "before":2, "since":%d, "until":9, "sender":"%s", "recipient":"", "status":"", "said":""}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"at": 1, "before": "2", "ids": [1]}',
        '{"at": 1, "before": 2, "ids": [-1]}',
        '{"at": 1, "before": 2, "ids": [9223372036854775808]}',
        '{"at": 1, "before": 2, "since": 0, "until": 9, "sender": 5, "recipient": "", "status": "", "said": ""}',
        '{"at": 1, "before": 2, "since": 0, "until": 9, "sender": "", "recipient": "", "status": "x", "said": ""}',
        NOBODYS_SEARCH % (0, "\\ud800"),
        NOBODYS_SEARCH % (1 << 43, ""),
        f'{{"at": 1, "before": 2, "ids": {list(range(1001))}}}',
        "[" * 100_000,
    ],
)
def test_what_no_page_has_written_is_not_read(text):
    with pytest.raises(ValueError):
        deletion.parse_deletion_scope(SENT, text)


def test_an_account_has_only_so_many_under_way(conn, acme_1, globex_1):
    for _ in range(deletion.MAX_OPEN_DELETIONS):
        deletion.create_deletion(conn, MARTA, acme_1, deletion.build_query_scope(conn, acme_1.id, SearchQuery()))
    with pytest.raises(deletion.TooManyDeletions):
        deletion.create_deletion(conn, MARTA, acme_1, deletion.build_query_scope(conn, acme_1.id, SearchQuery()))
    deletion.create_deletion(conn, MARTA, globex_1, deletion.build_query_scope(conn, globex_1.id, SearchQuery()))
    for _ in deletion.run_deletion(conn, deletion.list_open_deletion_ids(conn)[0]):
        pass
    deletion.create_deletion(conn, MARTA, acme_1, deletion.build_query_scope(conn, acme_1.id, SearchQuery()))


# --- a deletion under way


@pytest.fixture
def many(conn: Connection, acme_1: Account) -> Iterator[SimpleNamespace]:
    """Twenty messages, of which two go at once."""
    messages = sent(conn, acme_1, *[f"text {number}" for number in range(20)])
    with small_batches(read=5, removed=2):
        yield SimpleNamespace(messages=messages, scope=deletion.build_query_scope(conn, acme_1.id, SearchQuery()))


def test_it_goes_on_where_it_was(conn, acme_1, many):
    deletion_id = deletion.create_deletion(conn, MARTA, acme_1, many.scope)
    steps = deletion.run_deletion(conn, deletion_id)
    while deletion.get_deletion_by_id(conn, deletion_id).removed < 6:
        next(steps)
    assert isinstance(steps, Generator)
    steps.close()

    assert deletion.get_deletion_by_id(conn, deletion_id).total == 20
    assert self_check.list_problem_texts(conn) == []
    assert deletion.list_open_deletion_ids(conn) == [deletion_id]
    for _ in deletion.run_deletion(conn, deletion_id):
        pass
    result = deletion.get_deletion_by_id(conn, deletion_id)
    assert (result.removed, result.ended_at is not None) == (20, True)
    assert deletion.list_open_deletion_ids(conn) == []
    assert [each.id for each in deletion.list_recent_deletions(conn, acme_1.id, now_ms())] == [deletion_id]


def test_two_that_work_at_once_count_once(conn, acme_1, many):
    end_of_one = sent(conn, acme_1, "on its way", ended=False)
    deletion_id = deletion.create_deletion(
        conn, MARTA, acme_1, deletion.build_query_scope(conn, acme_1.id, SearchQuery())
    )
    workers = [deletion.run_deletion(conn, deletion_id) for _ in range(2)]
    while workers:
        for each in list(workers):
            if next(each, "ended") == "ended":
                workers.remove(each)

    for _ in deletion.run_deletion(conn, deletion_id):
        pass
    result = deletion.get_deletion_by_id(conn, deletion_id)
    assert (result.removed, result.underway, result.total) == (20, 1, 21)
    assert left(conn, acme_1) == end_of_one
    rollup.roll_up_all(conn)
    assert self_check.list_problem_texts(conn) == []


# --- the check


@pytest.fixture
def deleted(conn: Connection, acme_1: Account) -> SimpleNamespace:
    """Of three messages of one charge the first and the last have gone, and a refunded one."""
    batch = sent(conn, acme_1, "one", "two", "three")
    credits.grant_credits(conn, SHELL, acme_1, 1000)  # what is used afterwards is another line of the ledger
    (paid_back,) = sent(conn, acme_1, "four", destination="33612345678")
    refunds.refund_message(conn, SHELL, acme_1, paid_back, "a present")
    delete(conn, acme_1, deletion.build_selection_scope(SENT, [batch[0], batch[2], paid_back]))
    charge = conn.execute("SELECT max(id) FROM movements WHERE kind = 'usage' AND messages = 3").fetchone()[0]
    refund = conn.execute("SELECT max(id) FROM movements WHERE kind = 'refund'").fetchone()[0]
    names = {"batch": batch, "paid_back": paid_back, "charge": charge, "refund": refund}
    return SimpleNamespace(**names)


def test_deleted_messages_are_proven_by_what_is_left_of_them(conn, deleted):
    assert self_check.list_problem_texts(conn) == []
    assert conn.execute("SELECT count(*) FROM deleted_messages").fetchone()[0] == 3


@pytest.fixture
def summed(conn: Connection, deleted: SimpleNamespace) -> SimpleNamespace:
    """The same, deleted by a former version, which has left sums."""
    leave_former_sums(conn)
    return deleted


def test_what_former_versions_have_deleted_is_proven_by_its_sums(conn, summed):
    assert self_check.list_problem_texts(conn) == []


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("UPDATE deleted_messages SET state = 5 WHERE country = 'IT'", "delivered +2, failed -2"),
        ("UPDATE deleted_messages SET price = price + 250 WHERE country = 'IT'", "price -0.5"),
        ("DELETE FROM deleted_messages", "sent +3"),
        ("UPDATE deleted_messages SET price = price + 1", "found are messages: 3, credits: 3.002"),
        ("UPDATE deleted_messages SET id = id + 1 WHERE id = :first", "doesn't charge just its messages"),
        ("UPDATE deleted_messages SET id = 1 WHERE id = :first", "messages that no movement charges"),
        ("DELETE FROM deleted_messages", "found are messages: 1, credits: 1"),
        ("UPDATE deleted_messages SET price = price + 1", ", which cost "),
        ("UPDATE deleted_messages SET state = 1", "which was neither called back nor stopped"),
        ("DELETE FROM deleted_messages", "gives back what another one's messages row"),
        ("DELETE FROM messages", "delivered +1"),
        ("UPDATE movements SET amount = amount - 1 WHERE kind = 'usage'", "charges messages: 3, credits: 3.001"),
    ],
)
def test_damage_is_named_as_before(conn, deleted, damage, problem):
    conn.execute(damage, {"first": deleted.batch[0]} if ":first" in damage else {})

    assert any(problem in each for each in self_check.list_problem_texts(conn)), self_check.list_problem_texts(conn)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("UPDATE deleted_days SET delivered = delivered + 1 WHERE country = 'IT'", "delivered -1"),
        ("UPDATE deleted_days SET price = price + 500 WHERE country = 'IT'", "price -0.5"),
        ("DELETE FROM deleted_days", "sent +3"),
        ("UPDATE deleted_charges SET price = price + 1", "found are messages: 3, credits: 3.001"),
        ("UPDATE deleted_charges SET messages = messages - 1", "found are messages: 2, credits: 3"),
        ("UPDATE deleted_charges SET first_id = first_id + 1", "doesn't charge just its messages"),
        ("UPDATE deleted_charges SET charged_from = 1 WHERE messages = 2", "messages that no movement charges"),
        ("DELETE FROM deleted_charges", "found are messages: 1, credits: 1"),
        ("UPDATE deleted_refunds SET price = price + 1", ", which cost "),
        ("UPDATE deleted_refunds SET state = 1", "which was neither called back nor stopped"),
        ("DELETE FROM deleted_refunds", "gives back what another one's messages row"),
    ],
)
def test_damage_of_former_sums_is_named(conn, summed, damage, problem):
    conn.execute(damage)

    assert any(problem in each for each in self_check.list_problem_texts(conn)), self_check.list_problem_texts(conn)


@pytest.mark.slow
def test_a_charge_is_found_however_far_movements_have_run_ahead(conn, acme_1):
    # The clock was ahead once: what is written since has later ids than its time.
    credits.grant_credits(conn, SHELL, acme_1, 1000, now=now_ms() + 10 * DAY_MS)
    at = now_ms() - DAY_MS
    messages = [sent(conn, acme_1, "one", "two", at=at + 5_000 * number)[0] for number in range(80)]

    delete(conn, acme_1, deletion.build_selection_scope(SENT, messages[5:70:3]))
    assert self_check.list_problem_texts(conn) == []


def test_messages_without_a_charge_stay_named_when_they_go(conn, acme_1):
    messages = sent(conn, acme_1, "one")
    conn.execute("DELETE FROM movements WHERE kind = 'usage'")

    delete(conn, acme_1, deletion.build_selection_scope(SENT, messages))

    assert any(
        "messages that no movement charges: 1, for 1 credits" in each for each in self_check.list_problem_texts(conn)
    )


def test_what_a_deleted_message_cost_is_given_back_once(conn, acme_1, deleted):
    with pytest.raises(history.NoSuchMessage):
        refunds.refund_message(conn, SHELL, acme_1, deleted.paid_back, "again")
    with pytest.raises(history.NoSuchMessage):
        refunds.refund_message(conn, SHELL, acme_1, deleted.batch[0], "for the first time")


# --- received messages


@pytest.fixture
def replies(conn: Connection, acme_1: Account, globex_1: Account) -> list[InboundMessage]:
    """What handsets have sent to two accounts: the first one's STOP was accepted by a client, the others wait."""
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "390123")
    inbound_numbers.add_inbound_number(conn, SHELL, globex_1, "390456")
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage("393401234567", "390123", "Stop!")])
    deliveries.remove_accepted_deliveries(conn, deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready)
    inbound.store_inbound_messages(
        conn,
        [
            MobileOriginatedMessage("393401234568", "390123", "Yes"),
            MobileOriginatedMessage("393401234569", "390456", "No"),
        ],
    )
    return (
        inbound.search_inbound_messages(conn, acme_1.id).messages[::-1]
        + inbound.search_inbound_messages(conn, globex_1.id).messages
    )


def test_a_received_message_goes_and_the_blacklist_keeps_its_words(conn, acme_1, replies):
    stop, waits, _ = replies

    result = delete(conn, acme_1, deletion.build_query_scope(conn, acme_1.id, inbound.InboundQuery()))

    assert (result.removed, result.waiting) == (1, 1)
    assert [each.id for each in inbound.search_inbound_messages(conn, acme_1.id).messages] == [waits.id]
    (listed,) = blacklist.list_blacklist(conn, acme_1.id)
    assert (listed.said, listed.received_id, listed.kept) == ("Stop!", stop.id, None)
    assert self_check.list_problem_texts(conn) == []


def test_where_texts_are_no_longer_kept_those_words_go_too(conn, cast, acme_1, replies):
    delete(conn, acme_1, deletion.build_query_scope(conn, acme_1.id, inbound.InboundQuery()))

    text_policy.change_text_policy(
        conn, SHELL, customers.get_customer_by_id(conn, cast.acme), text_policy.NONE, remove_stored=True
    )

    (listed,) = blacklist.list_blacklist(conn, acme_1.id)
    assert (listed.said, listed.received_id) == (None, replies[0].id)


def test_another_accounts_received_message_stays(conn, acme_1, globex_1, replies):
    conn.execute("UPDATE received SET ended_at = 1")
    conn.execute("DELETE FROM deliveries")

    result = delete(conn, acme_1, deletion.build_selection_scope(deletion.RECEIVED, [each.id for each in replies]))

    assert result.removed == 2
    assert [each.id for each in inbound.search_inbound_messages(conn, globex_1.id).messages] == [replies[2].id]


def test_received_messages_are_found_as_their_page_finds_them(conn, acme_1, replies):
    scope = deletion.build_query_scope(conn, acme_1.id, inbound.InboundQuery(text="yes"))

    result = delete(conn, acme_1, deletion.parse_deletion_scope(deletion.RECEIVED, str(scope)))

    assert (result.total, result.removed, result.waiting) == (1, 0, 1)
