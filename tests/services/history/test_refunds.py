"""Giving back what messages cost."""

import pytest

from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.billing import statement
from portal.services.common import idempotency
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.services.history import history, refunds
from tests.web import acting


def test_what_a_message_cost_is_given_back_once(conn: Connection, acme_1: Account) -> None:
    (message_id,) = acting.send_texts(conn, acme_1.name, "x" * 200)
    acting.fail_messages(conn, message_id)
    assert refunds.refund_message(conn, SHELL, acme_1, message_id, "a broken route") == 3_000
    latest = statement.list_movements_page(conn, acme_1.id)[0]
    assert (latest.kind, latest.amount, latest.note, latest.messages) == ("refund", 3_000, "a broken route", 1)
    assert refunds.sum_refunds(conn, history.get_sent_text_by_message_id(conn, acme_1.id, message_id)) == 3_000
    with pytest.raises(refunds.AlreadyRefunded, match="already"):
        refunds.refund_message(conn, SHELL, acme_1, message_id, "again")
    assert credits.get_balance(conn, acme_1.id) == 1_000_000


def test_what_is_on_its_way_is_not_given_back(conn: Connection, acme_1: Account) -> None:
    (message_id,) = acting.send_texts(conn, acme_1.name, "hello")
    with pytest.raises(refunds.MessageNotFinished):
        refunds.refund_message(conn, SHELL, acme_1, message_id, "a reason")
    assert credits.get_balance(conn, acme_1.id) == 999_000


def test_what_was_called_back_has_been_given_back(conn: Connection, acme_1: Account) -> None:
    (message_id,) = acting.send_texts(conn, acme_1.name, "hello")
    acting.cancel_message(conn, acme_1.name, message_id)
    with pytest.raises(refunds.AlreadyRefunded):
        refunds.refund_message(conn, SHELL, acme_1, message_id, "a reason")
    assert credits.get_balance(conn, acme_1.id) == 1_000_000


def test_what_cost_nothing_is_not_given_back(conn: Connection, acme_1: Account) -> None:
    credits.correct_balance(conn, SHELL, acme_1, -1_000_000, "a poor start")
    acting.send_texts(conn, acme_1.name, "hello")
    (message_id,) = [row[0] for row in conn.execute("SELECT id FROM messages")]
    with pytest.raises(refunds.MessageWasFree):
        refunds.refund_message(conn, SHELL, acme_1, message_id, "a reason")


def test_another_account_s_message_is_not_found(conn: Connection, acme_1: Account, acme_2: Account) -> None:
    (message_id,) = acting.send_texts(conn, acme_1.name, "hello")
    acting.deliver_messages(conn, message_id)
    for other in (message_id, message_id + 1):
        with pytest.raises(history.NoSuchMessage):
            refunds.refund_message(conn, SHELL, acme_2, other, "a reason")


def test_a_refund_needs_a_reason(conn: Connection, acme_1: Account) -> None:
    (message_id,) = acting.send_texts(conn, acme_1.name, "hello")
    acting.deliver_messages(conn, message_id)
    with pytest.raises(credits.ReasonMissing):
        refunds.refund_message(conn, SHELL, acme_1, message_id, "")


def test_of_a_text_that_was_cut_up_is_given_back_what_was_not_yet(conn: Connection, acme_1: Account) -> None:
    message_ids = acting.send_in_parts(conn, acme_1.name, "one", "two", "three")
    acting.deliver_messages(conn, *message_ids)
    refunds.refund_message(conn, SHELL, acme_1, message_ids[1], "a reason")
    text, number = (
        history.get_sent_text_by_message_id(conn, acme_1.id, message_ids[0]),
        idempotency.new_idempotency_key(),
    )
    with idempotency.once(conn, number):
        assert refunds.refund_text(conn, SHELL, acme_1, text, "a reason") == 2_000
    assert refunds.sum_refunds(conn, text) == text.price == 3_000
    with pytest.raises(idempotency.FormAlreadySent), idempotency.once(conn, number):
        refunds.refund_text(conn, SHELL, acme_1, text, "a reason")
    with pytest.raises(refunds.AlreadyRefunded):
        refunds.refund_text(conn, SHELL, acme_1, text, "a reason")


def test_of_a_text_with_a_part_on_its_way_nothing_is_given_back(conn: Connection, acme_1: Account) -> None:
    message_ids = acting.send_in_parts(conn, acme_1.name, "one", "two")
    acting.deliver_messages(conn, message_ids[0])
    with pytest.raises(refunds.MessageNotFinished):
        refunds.refund_text(
            conn, SHELL, acme_1, history.get_sent_text_by_message_id(conn, acme_1.id, message_ids[0]), "a reason"
        )
    assert credits.get_balance(conn, acme_1.id) == 998_000
