"""Ids of eight hexadecimal digits: given one after the other, and again only when no receipt can name them."""

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.messages import client_ids, outcomes
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.validation import DELIVERY_VALIDITY_MS
from tests.services.submitting import store_messages
from tests.support import prepare_submit

LAST_ID = 0xFFFFFFFF


def send(conn: Connection, account: Account, count: int, at: int | None = None) -> list[int]:
    submits = [prepare_submit(conn, account.id) for _ in range(count)]
    for each in submits:
        each.needs_hex_id = True
    store_messages(conn, submits, at)
    return [each.hex_id or 0 for each in submits]


def end(conn: Connection, hex_id: int, at: int) -> int:
    """End a message; returns its id."""
    message_id = client_ids.find_row_id_by_hex_id(conn, hex_id)
    assert message_id is not None
    outcomes.finish_messages(conn, [MessageOutcome(message_id, 2, 0, at)])
    return message_id


def set_last_hex_id(conn: Connection, value: int) -> None:
    conn.execute("UPDATE counters SET value = ? WHERE name = 'hex_id'", (value,))


def test_they_have_eight_digits():
    assert [client_ids.format_hex_id(each) for each in (1, 0xABC, LAST_ID)] == ["00000001", "00000ABC", "FFFFFFFF"]


def test_a_message_has_one_only_where_its_client_needs_it(conn, acme_1):
    store_messages(conn, [prepare_submit(conn, acme_1.id)])
    assert send(conn, acme_1, 2) == [1, 2]
    store_messages(conn, [prepare_submit(conn, acme_1.id)])
    assert send(conn, acme_1, 1) == [3]
    ids = [row[0] for row in conn.execute("SELECT id FROM messages ORDER BY id")]
    assert client_ids.read_hex_ids(conn, ids) == {ids[1]: 1, ids[2]: 2, ids[4]: 3}


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_after_the_last_one_they_begin_again(conn, acme_1, count):
    set_last_hex_id(conn, LAST_ID - 2)
    assert send(conn, acme_1, count) == [LAST_ID - 1, LAST_ID, *range(1, 9)][:count]


def test_one_is_given_again_only_when_its_message_can_have_no_receipt(conn, acme_1):
    long_ago = now_ms() - DELIVERY_VALIDITY_MS - 2 * DAY_MS
    assert send(conn, acme_1, 5, long_ago) == [1, 2, 3, 4, 5]
    former = end(conn, 1, long_ago + 1)
    end(conn, 2, now_ms() - DELIVERY_VALIDITY_MS)
    end(conn, 4, now_ms())
    # 3 and 5 are still on their way: scheduled messages are for a year.
    set_last_hex_id(conn, LAST_ID)
    assert send(conn, acme_1, 3) == [1, 6, 7]
    assert client_ids.find_row_id_by_hex_id(conn, 1) != former
    assert client_ids.read_hex_ids(conn, [former]) == {}
