"""What the history says of messages that go through upstreams: to customers, and to operators."""

import re
from collections.abc import Callable

import pytest

from portal.core import clock, db, i18n
from portal.core.clock import HOUR_MS
from portal.core.crypto import Keys
from portal.services.accounts import session_records
from portal.services.common import ids, message_states
from portal.services.common.audit import SHELL
from portal.services.messages import message_parts, outcomes, sending
from portal.services.messages.message_parts import TextPart
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.sending import AcceptedMessage, UnsentMessage, UnsentReason
from portal.services.upstreams import binds, holds, paths, steering, upstreams
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.queue import HELD_BY_OPERATOR, HIGHEST_PRIORITY, MOVED_BY_OPERATOR
from portal.services.upstreams.steering import WaitingRange
from tests.services.routing.adding import create_route
from tests.services.upstreams.waiting import queue_of_each
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text
from tests.web.conftest import Browser
from tests.web.core.test_live import OpenPage

Client = Callable[[Person], Browser]
Queue = Callable[..., list[int]]
HISTORY = "/accounts/smpp-acme-1/history"
NUMBER = "393401234567"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


@pytest.fixture(autouse=True)
def _carrier(conn: db.Connection, keys: Keys) -> None:
    upstreams.create_upstream(conn, keys, SHELL, "bigcarrier", host="h", system_id="s", password="p")
    outcomes.mark_last_simulated_message(conn)


@pytest.fixture
def queue(conn: db.Connection) -> Queue:
    """Sends texts, which wait in the queue."""

    def send(*texts: str, parts: bool = False) -> list[int]:
        message_ids = (acting.send_in_parts if parts else acting.send_texts)(conn, "smpp-acme-1", *texts)
        account_id = acting.get_account(conn, "smpp-acme-1").id
        for each in message_ids:
            conn.execute("UPDATE messages SET upstream = NULL WHERE id = ?", (each,))
            conn.execute("DELETE FROM queued_messages WHERE message_id = ?", (each,))
            conn.execute("INSERT INTO queued_messages VALUES (0, ?, 3, ?)", (account_id, each))
        return message_ids

    return send


def claim(conn: db.Connection, message_id: int) -> None:
    """Let the upstream have it, as the dispatcher does."""
    conn.execute("DELETE FROM queued_messages WHERE message_id = ?", (message_id,))
    conn.execute("UPDATE messages SET upstream = 1 WHERE id = ?", (message_id,))


def accept(conn: db.Connection, message_id: int, at: int, upstream_id: str = "a1b2") -> None:
    """Let the upstream accept it on its second bind."""
    claim(conn, message_id)
    values = (upstream_id, at, message_id)
    conn.execute("UPDATE messages SET upstream_id = ?, bind = 2, sent_at = ? WHERE id = ?", values)


def hold(
    conn: db.Connection,
    message_id: int,
    attempts: int,
    not_before: int | None,
    error: str,
    destination: str = NUMBER,
) -> None:
    conn.execute("DELETE FROM queued_messages WHERE message_id = ?", (message_id,))
    conn.execute("UPDATE messages SET destination = ? WHERE id = ?", (destination, message_id))
    account_id = acting.get_account(conn, "smpp-acme-1").id
    values = (account_id, destination, message_id, attempts, not_before, error)
    conn.execute(
        "INSERT INTO held_messages (account_id, destination, message_id, attempts, not_before, error)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        values,
    )


def exact(at: int) -> str:
    return i18n.format_date_time(at, "UTC")


def test_from_the_queue_to_the_receipt(alice: Browser, olga: Browser, conn: db.Connection, queue: Queue) -> None:
    (message_id,) = queue("hello")
    address = f"{HISTORY}/{message_id}"
    accepted = f"Accepted {exact(ids.time_from_id(message_id))}"
    # While nothing takes messages, and while the upstream does.
    stopped = extract_text(alice.get(address).text)
    assert f"{accepted} Queued Messages aren’t sent on at this moment Sent on Not yet" in stopped
    record_bind(conn, binds.BOUND)
    queued = extract_text(alice.get(address).text)
    assert f"{accepted} Queued It waits for its turn Sent on Not yet Final status Not yet" in queued
    assert "Status Queued ptt 254" in queued

    claim(conn, message_id)
    under_way = extract_text(alice.get(address).text)
    assert f"{accepted} Sent on On its way, not accepted yet Final status Not yet" in under_way
    assert "Status On its way" in under_way

    at = clock.now_ms()
    accept(conn, message_id, at)
    sent = extract_text(alice.get(address).text)
    assert f"{accepted} Sent on {exact(at)} Final status Not yet" in sent
    assert "Upstream’s id a1b2" in sent

    delivered = MessageOutcome(message_id, message_states.DELIVERED, 0, at + 1000, "a1b2", "stat:DELIVRD err:000")
    outcomes.finish_messages(conn, [delivered])
    ended = extract_text(alice.get(address).text)
    assert f"Sent on {exact(at)} Delivered {exact(at + 1000)} after" in ended
    assert "Upstream’s status stat:DELIVRD err:000" in ended

    # Which carriers there are is the operators' business.
    assert "bigcarrier" not in ended
    assert "Upstream bigcarrier bind 2 Upstream’s id a1b2" in extract_text(olga.get(address).text)


def record_bind(conn: db.Connection, state: str) -> None:
    session_records.record_component_heartbeat(conn, "smsc", 0)
    binds.record_bind_states(conn, 1, [BindState(1, "trx", state, 1)])


def test_what_waits_after_a_refusal(alice: Browser, olga: Browser, conn: db.Connection, queue: Queue) -> None:
    record_bind(conn, binds.BOUND)
    tried, behind = queue("tried", "behind it")
    at = clock.now_ms() + 20_000
    hold(conn, tried, 3, at, "ESME_RSYSERR 0x08")
    hold(conn, behind, 0, None, "")
    page = extract_text(alice.get(f"{HISTORY}/{tried}").text)
    assert f"Queued Tried 3 times · next time at {exact(at)} Sent on Not yet" in page
    assert "ESME_RSYSERR" not in page
    told = f"Queued Tried 3 times · ESME_RSYSERR 0x08 · next time at {exact(at)} Sent on Not yet"
    assert told in extract_text(olga.get(f"{HISTORY}/{tried}").text)
    page = extract_text(alice.get(f"{HISTORY}/{behind}").text)
    assert "Queued It waits behind an earlier message to this number Sent on Not yet" in page
    # While nothing is sent, nothing is tried again either.
    record_bind(conn, binds.UNBOUND)
    page = extract_text(alice.get(f"{HISTORY}/{tried}").text)
    assert "Queued Tried 3 times · Messages aren’t sent on at this moment Sent on Not yet" in page
    page = extract_text(alice.get(f"{HISTORY}/{behind}").text)
    assert "Queued Messages aren’t sent on at this moment Sent on Not yet" in page


def test_a_time_that_has_passed_is_not_the_next_one(alice: Browser, conn: db.Connection, queue: Queue) -> None:
    record_bind(conn, binds.BOUND)
    (tried,) = queue("tried")
    hold(conn, tried, 3, clock.now_ms() - 1, "ESME_RSYSERR 0x08")
    assert "Queued Tried 3 times Sent on Not yet" in extract_text(alice.get(f"{HISTORY}/{tried}").text)


@pytest.mark.parametrize(
    ("state", "ptt", "end"),
    [(message_states.EXPIRED, 801, "Expired"), (message_states.DELETED, 802, "Cancelled")],
)
def test_what_ends_in_the_queue_was_never_sent(
    alice: Browser, conn: db.Connection, queue: Queue, state: int, ptt: int, end: str
) -> None:
    (message_id,) = queue("hello")
    conn.execute("DELETE FROM queued_messages")
    outcomes.finish_messages(conn, [MessageOutcome(message_id, state, ptt, clock.now_ms())])
    page = extract_text(alice.get(f"{HISTORY}/{message_id}").text)
    assert re.search(rf"Accepted [^A-Z]+\w+[^A-Z]+UTC Sent on Never {end} \d", page)
    assert "Upstream’s id" not in page


def test_what_an_upstream_refuses(alice: Browser, olga: Browser, conn: db.Connection, queue: Queue) -> None:
    (message_id,) = queue("hello")
    claim(conn, message_id)
    refused = MessageOutcome(message_id, message_states.REJECTED, 100, clock.now_ms(), None, "ESME_RINVDSTADR 0x0B")
    outcomes.finish_messages(conn, [refused])
    page = extract_text(alice.get(f"{HISTORY}/{message_id}").text)
    assert re.search(r"Sent on Not accepted Failed \d", page)
    assert "Upstream’s status ESME_RINVDSTADR 0x0B" in page
    assert "Upstream bigcarrier" in extract_text(olga.get(f"{HISTORY}/{message_id}").text)


def test_parts_say_each_where_they_are(alice: Browser, olga: Browser, conn: db.Connection, queue: Queue) -> None:
    one, two = queue("first, ", "second", parts=True)
    assert "first, second 2 2 Queued" in extract_text(alice.get(HISTORY).text)
    at = clock.now_ms()
    accept(conn, one, at)
    page = extract_text(alice.get(f"{HISTORY}/{one}").text)
    assert "Queued Messages aren’t sent on at this moment Sent on Not yet" in page
    assert re.search(rf"1 of 2 On its way .*{one}.* a1b2 Not yet 2 of 2 Queued .*{two}", page)
    accept(conn, two, at + 5000)
    page = extract_text(olga.get(f"{HISTORY}/{one}").text)
    assert f"Sent on {exact(at + 5000)} Final status" in page
    assert f"bigcarrier · bind 2 · {exact(at)}" in page
    assert "bigcarrier" not in alice.get(f"{HISTORY}/{one}").text


def test_the_list_says_what_is_queued_while_it_is_open(alice: Browser, conn: db.Connection, queue: Queue) -> None:
    queued, sent = queue("the queued one", "the sent one")
    claim(conn, sent)
    opened = OpenPage(alice, HISTORY)
    text = extract_text(opened.text)
    assert "the queued one 1 1 Queued" in text
    assert "the sent one 1 1 On its way" in text
    assert opened.ask().status_code == 204
    claim(conn, queued)
    assert "the queued one 1 1 On its way" in extract_text(opened.ask().text)


def test_the_list_says_so_of_what_is_held_too(alice: Browser, conn: db.Connection, queue: Queue) -> None:
    tried, first, second = queue("the tried one", "the first one", "the second one")
    hold(conn, first, 1, clock.now_ms(), "", destination="393400000001")
    hold(conn, second, 1, clock.now_ms(), "", destination="393400000002")
    hold(conn, tried, 1, clock.now_ms(), "", destination="393400000003")
    opened = OpenPage(alice, HISTORY)
    assert opened.ask().status_code == 204
    # Tried again: it holds up others still.
    conn.execute("UPDATE messages SET upstream = 1 WHERE id = ?", (tried,))
    conn.execute("UPDATE held_messages SET not_before = NULL WHERE message_id = ?", (tried,))
    assert "the tried one 1 1 On its way" in extract_text(opened.ask().text)
    # Accepted.
    conn.execute("DELETE FROM held_messages WHERE message_id = ?", (second,))
    accept(conn, second, clock.now_ms())
    assert "the second one 1 1 On its way" in extract_text(opened.ask().text)
    assert "the first one 1 1 Queued" in extract_text(alice.get(HISTORY).text)


def test_what_simulators_have_was_sent_at_once(alice: Browser, olga: Browser, conn: db.Connection, keys: Keys) -> None:
    built_in, by_name = acting.send_texts(conn, "smpp-acme-1", "built-in", "by name")
    conn.execute("UPDATE counters SET value = ? WHERE name = 'last_simulated_message'", (built_in,))
    simulator = upstreams.create_upstream(conn, keys, SHELL, "sim", kind=upstreams.SIMULATOR)
    conn.execute("UPDATE messages SET upstream = ? WHERE id = ?", (simulator.id, by_name))
    for each, text in ((built_in, "built-in"), (by_name, "by name")):
        assert f"{text} 1 1 On its way" in extract_text(alice.get(HISTORY).text)
        assert "Sent on At once Final status Not yet" in extract_text(alice.get(f"{HISTORY}/{each}").text)
        delivered = MessageOutcome(each, message_states.DELIVERED, 0, clock.now_ms(), "1a", "stat:DELIVRD err:000")
        outcomes.finish_messages(conn, [delivered])
        assert "Sent on At once Delivered" in extract_text(alice.get(f"{HISTORY}/{each}").text)
    assert "Upstream sim" in extract_text(olga.get(f"{HISTORY}/{by_name}").text)
    assert "Upstream sim" not in extract_text(olga.get(f"{HISTORY}/{built_in}").text)


def leave_unanswered(conn: db.Connection, message_id: int) -> None:
    sending.store_unsent_messages(conn, [UnsentMessage(1, message_id, UnsentReason.UNSURE)], clock.now_ms())


def test_what_is_not_answered_and_not_sent_again(alice: Browser, conn: db.Connection, keys: Keys, queue: Queue) -> None:
    carrier = upstreams.get_upstream(conn, "bigcarrier")
    upstreams.change_upstream(conn, keys, SHELL, carrier, unanswered="fail")
    (message_id,) = queue("hello")
    claim(conn, message_id)
    leave_unanswered(conn, message_id)
    assert "Sent on Not answered Failed" in extract_text(alice.get(f"{HISTORY}/{message_id}").text)
    alice.post("/language", data={"locale": "it", "next": "/"})
    assert "Stato secondo l’upstream nessuna risposta" in extract_text(alice.get(f"{HISTORY}/{message_id}").text)


def expire(conn: db.Connection, message_id: int) -> None:
    with db.write_transaction(conn):
        outcomes.expire_messages(conn, [message_id], clock.now_ms())


def stop(conn: db.Connection, message_id: int) -> None:
    with db.write_transaction(conn):
        messages = outcomes.list_outbound_messages(conn, [message_id])
        outcomes.reject_blacklisted_messages(conn, messages, clock.now_ms())


@pytest.mark.parametrize(("end", "word"), [(expire, "Expired"), (stop, "Failed")])
def test_what_ends_after_it_was_not_answered_may_have_been_sent(
    alice: Browser, conn: db.Connection, queue: Queue, end: Callable[[db.Connection, int], None], word: str
) -> None:
    (message_id,) = queue("hello")
    claim(conn, message_id)
    leave_unanswered(conn, message_id)
    end(conn, message_id)
    assert f"Sent on Not answered {word}" in extract_text(alice.get(f"{HISTORY}/{message_id}").text)


def test_what_waits_for_its_date_is_scheduled(alice: Browser, conn: db.Connection) -> None:
    message_id = acting.schedule_text(conn, "smpp-acme-1", "later", clock.now_ms() + clock.DAY_MS)
    page = extract_text(alice.get(f"{HISTORY}/{message_id}").text)
    assert "Queued" not in page
    assert "Sent on Not yet" in page
    assert "later 1 1 Scheduled" in extract_text(alice.get(HISTORY).text)


def test_a_text_that_was_cut_says_how_many_of_its_parts_have_arrived(
    alice: Browser, olga: Browser, conn: db.Connection, queue: Queue
) -> None:
    (message_id,) = queue("a long text")
    claim(conn, message_id)
    address, at = f"{HISTORY}/{message_id}", clock.now_ms()
    for number in (1, 3):
        part = TextPart(number, 3, "{}")
        sending.store_accepted_messages(conn, [AcceptedMessage(1, message_id, f"id{number}", 2, at, part)])
    ended = MessageOutcome(message_id, message_states.DELIVERED, 0, at + 1000, None, "stat:DELIVRD err:000")
    message_parts.end_part(conn, 1, ended)
    page = extract_text(alice.get(address).text)
    assert "1 of 3 parts delivered" in page
    assert "Sent on On its way, not accepted yet" in page
    for each in ("id1", "2 of 3 Not sent", "bigcarrier"):
        assert each not in page
    page = extract_text(olga.get(address).text)
    assert f"1 of 3 Delivered {exact(at + 1000)} id1 stat:DELIVRD err:000 bind 2 · {exact(at)}" in page
    assert "2 of 3 Not sent" in page
    assert f"3 of 3 On its way id3 Not yet bind 2 · {exact(at)}" in page


def test_what_waits_for_quiet_hours_or_of_an_account_on_hold_says_so(
    alice: Browser, olga: Browser, conn: db.Connection, cast: Cast
) -> None:
    account_id = cast.smpp_acme_1.id
    record_bind(conn, binds.BOUND)
    now = clock.now_ms()
    hour = now // HOUR_MS % 24
    route = create_route(conn, "bigcarrier", quiet_hours=f"{hour}:00-{(hour + 2) % 24}:00 UTC")
    path = paths.mark_quiet_path((1,), route.id)
    untried_id, refused_id, held_id = queue_of_each(conn, account_id, [NUMBER, "393401234568", "393401234569"])
    with db.write_transaction(conn):
        path_id = paths.get_path_ids(conn, [path])[path]
        conn.execute("UPDATE queued_messages SET path = ?", (path_id,))
        steering.hold_messages(conn, WaitingRange(path_id, False, account_id, HIGHEST_PRIORITY), [held_id], now)
    hold(conn, refused_id, 1, now, "ESME_RSYSERR 0x08", "393401234568")
    conn.execute("UPDATE held_messages SET path = ? WHERE message_id = ?", (path_id, refused_id))
    ends_at = exact(now // HOUR_MS * HOUR_MS + 2 * HOUR_MS)
    quiet = f"Quiet hours: it waits until {ends_at} Sent on Not yet"
    for browser in (alice, olga):
        assert f"Queued {quiet}" in extract_text(browser.get(f"{HISTORY}/{untried_id}").text)
        assert quiet in extract_text(browser.get(f"{HISTORY}/{refused_id}").text)
        assert "Quiet hours" not in extract_text(browser.get(f"{HISTORY}/{held_id}").text)
    holds.hold_account(conn, SHELL, account_id, "")
    assert "Queued The account is on hold Sent on Not yet" in extract_text(alice.get(f"{HISTORY}/{untried_id}").text)
    holds.release_account(conn, SHELL, account_id)
    conn.execute("UPDATE routes SET quiet_hours = ?", (f"{(hour + 2) % 24}:00-{(hour + 3) % 24}:00 UTC",))
    assert "Queued It waits for its turn" in extract_text(alice.get(f"{HISTORY}/{untried_id}").text)


@pytest.mark.parametrize("done", [HELD_BY_OPERATOR, MOVED_BY_OPERATOR])
def test_what_operators_do_to_a_message_that_waits_is_told_to_operators(
    alice: Browser, olga: Browser, conn: db.Connection, queue: Queue, done: str
) -> None:
    (message_id,) = queue("hello")
    record_bind(conn, binds.BOUND)
    hold(conn, message_id, 1, clock.now_ms(), done)
    address = f"{HISTORY}/{message_id}"
    assert f"Queued {done} Sent on Not yet" in extract_text(olga.get(address).text)
    customers = extract_text(alice.get(address).text)
    assert "Queued It waits for its turn Sent on Not yet" in customers
    assert "operator" not in customers
