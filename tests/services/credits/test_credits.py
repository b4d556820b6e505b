import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.core import i18n
from portal.core.clock import now_ms
from portal.core.db import write_transaction
from portal.services.billing import statement
from portal.services.common import credit_amounts, idempotency, ids
from portal.services.common.audit import SHELL
from portal.services.credits import credits, ledger
from portal.services.operations import self_check
from tests.services.audit_log import list_audit_entries


@pytest.mark.parametrize(("text", "thousandths"), [("100", 100_000), ("0.5", 500), (" 0.001 ", 1), (".5", 500)])
def test_amounts_are_read_to_the_thousandth(text, thousandths):
    assert credit_amounts.parse_amount(text) == thousandths


@pytest.mark.parametrize(
    "text", ["", "x", "0", "-1", "0.0001", "NaN", "Infinity", "10000000000000", "1,5", "1e3", "1E3", "1e-1", "1_0"]
)
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(credit_amounts.InvalidAmount):
        credit_amounts.parse_amount(text)


@pytest.fixture
def italian() -> None:
    i18n.use_language("it")


@pytest.mark.usefixtures("italian")
@pytest.mark.parametrize(("text", "thousandths"), [("0,5", 500), ("1.000", 1_000_000), ("4.520,3", 4_520_300)])
def test_amounts_are_read_as_the_page_writes_them(text, thousandths):
    assert credit_amounts.parse_amount(text) == thousandths


@pytest.mark.usefixtures("italian")
@pytest.mark.parametrize(
    ("text", "meant"), [("0.5", "5 o 0,5"), ("1.5", "15 o 1,5"), ("4,520.3", "4.520,3"), ("1.234.5", "12.345")]
)
def test_an_amount_in_another_languages_writing_is_not_guessed_at(text, meant):
    with pytest.raises(credit_amounts.AmbiguousAmount) as refused:
        credit_amounts.parse_amount(text)
    assert refused.value.localized().endswith(f"{meant}.")


@pytest.mark.parametrize(("text", "meant"), [("1,5", "15 or 1.5"), ("1.234,5", "1,234.5"), ("12,34", "1,234 or 12.34")])
def test_what_was_meant_is_said_in_the_readers_writing(text, meant):
    with pytest.raises(credit_amounts.AmbiguousAmount, match=f"Write {meant}."):
        credit_amounts.parse_amount(text)


@given(st.integers(min_value=1, max_value=10**15), st.sampled_from(["en", "it"]))
def test_an_amount_that_a_page_shows_is_read_back(thousandths, language):
    i18n.use_language(language)
    assert credit_amounts.parse_amount(i18n.format_credits(thousandths)) == thousandths


@pytest.mark.parametrize(
    ("text", "thousandths"),
    [("100", 100_000), ("+0.5", 500), (" -1,234.5 ", -1_234_500), ("- 7", -7_000), ("\u22120.001", -1)],
)
def test_changes_are_read_with_their_sign(text, thousandths):
    assert credit_amounts.parse_amount_change(text) == thousandths


@pytest.mark.usefixtures("italian")
@pytest.mark.parametrize(("text", "thousandths"), [("-1.234,5", -1_234_500), ("+0,5", 500), ("-1.000", -1_000_000)])
def test_changes_are_read_as_the_page_writes_them(text, thousandths):
    assert credit_amounts.parse_amount_change(text) == thousandths


@pytest.mark.parametrize("text", ["", "-", "0", "-0", "+-5", "--5", "5-", "-0.0001", "-1e3", "NaN", "-Infinity"])
def test_what_is_no_change_is_refused(text):
    with pytest.raises(credit_amounts.InvalidAmountChange, match="isn't a change of credits"):
        credit_amounts.parse_amount_change(text)


@given(st.integers(min_value=1, max_value=10**15))
def test_an_amount_written_is_read_back(thousandths):
    assert credit_amounts.parse_amount(f"{thousandths // 1000}.{thousandths % 1000:03}") == thousandths


@pytest.mark.parametrize(("thousandths", "plain"), [(8_412_500, 8412.5), (500_000, 500), (0, 0), (1, 0.001)])
def test_plain_numbers(thousandths, plain):
    assert credit_amounts.credits_to_json_number(thousandths) == plain
    assert type(credit_amounts.credits_to_json_number(thousandths)) is type(plain)


def test_a_grant_stands_in_the_ledger(conn, acme_2):
    assert credits.grant_credits(conn, SHELL, acme_2, 1_500, "welcome") == 101_500
    latest = statement.list_movements_page(conn, acme_2.id)[0]
    assert (latest.kind, latest.amount, latest.balance_after) == ("grant", 1_500, 101_500)
    assert (latest.actor, latest.note) == ("shell", "welcome")
    assert abs(latest.at - now_ms()) < 10_000


@pytest.mark.parametrize(("amount", "after"), [(500, 100_500), (-100_000, 0)])
def test_a_correction_stands_in_the_ledger_and_the_audit_log_with_its_reason(conn, acme_2, amount, after):
    assert credits.correct_balance(conn, SHELL, acme_2, amount, " counted  twice ") == after
    latest = statement.list_movements_page(conn, acme_2.id)[0]
    assert (latest.kind, latest.amount, latest.balance_after, latest.note) == (
        "correction",
        amount,
        after,
        "counted twice",
    )
    entry = list_audit_entries(conn, acme_2.id)[0]
    assert (entry.actor, entry.action) == ("shell", "credits.correction")
    assert entry.details == {"amount": amount, "reason": "counted twice"}


def test_a_refund_stands_in_the_ledger_with_its_reason(conn, acme_2):
    assert credits.refund_credits(conn, SHELL, acme_2, 500, "out of order on Monday") == 100_500
    latest = statement.list_movements_page(conn, acme_2.id)[0]
    assert (latest.kind, latest.amount, latest.note) == ("refund", 500, "out of order on Monday")


def test_a_correction_never_takes_more_than_there_is(conn, acme_2):
    with pytest.raises(ledger.NotEnoughCredits, match="holds 100 credits"):
        credits.correct_balance(conn, SHELL, acme_2, -100_001, "a reason")
    assert credits.get_balance(conn, acme_2.id) == 100_000


@pytest.mark.parametrize("what", [credits.correct_balance, credits.refund_credits])
def test_without_a_reason_nothing_moves(conn, acme_2, what):
    number = idempotency.new_idempotency_key()
    with pytest.raises(credits.ReasonMissing), idempotency.once(conn, number):
        what(conn, SHELL, acme_2, 500, "  ")
    assert credits.get_balance(conn, acme_2.id) == 100_000
    with idempotency.once(conn, number):
        assert what(conn, SHELL, acme_2, 500, "a reason") == 100_500


@pytest.mark.parametrize("what", [credits.correct_balance, credits.refund_credits])
def test_a_form_that_is_sent_twice_moves_credits_once(conn, acme_2, what):
    number = idempotency.new_idempotency_key()
    with idempotency.once(conn, number):
        what(conn, SHELL, acme_2, 500, "a reason")
    with pytest.raises(idempotency.FormAlreadySent), idempotency.once(conn, number):
        what(conn, SHELL, acme_2, 500, "a reason")
    assert credits.get_balance(conn, acme_2.id) == 100_500


def test_a_transfer_is_two_movements_that_cancel_out(conn, acme_1, classic):
    assert credits.transfer_credits(conn, SHELL, acme_1, classic, 250_000) == (750_000, 300_000)
    out, into = statement.list_movements_page(conn, acme_1.id)[0], statement.list_movements_page(conn, classic.id)[0]
    assert (out.kind, out.amount, out.counterpart) == ("transfer_out", -250_000, classic.name)
    assert (into.kind, into.amount, into.counterpart) == ("transfer_in", 250_000, acme_1.name)
    assert self_check.list_problem_texts(conn) == []


def test_a_transfer_needs_the_credits(conn, acme_1, acme_2):
    with pytest.raises(ledger.NotEnoughCredits, match="holds 100 credits"):
        credits.transfer_credits(conn, SHELL, acme_2, acme_1, 100_001)
    assert credits.get_balance(conn, acme_2.id) == 100_000
    assert credits.get_balance(conn, acme_1.id) == 1_000_000


def test_all_of_a_balance_can_be_transferred(conn, acme_1, acme_2):
    assert credits.transfer_credits(conn, SHELL, acme_2, acme_1, 100_000)[0] == 0


def test_a_transfer_to_itself_is_refused(conn, acme_1):
    with pytest.raises(credits.TransferToSameAccount):
        credits.transfer_credits(conn, SHELL, acme_1, acme_1, 1)


def test_a_transfer_to_another_customer_is_refused(conn, acme_1, globex_1):
    with pytest.raises(credits.CrossCustomerTransfer):
        credits.transfer_credits(conn, SHELL, acme_1, globex_1, 1)


def test_transfers_at_the_same_time_never_spend_twice(connect, acme_1, acme_2):
    done, start = [], threading.Barrier(4)

    def move() -> None:
        conn = connect()
        start.wait()
        for _ in range(10):
            try:
                credits.transfer_credits(conn, SHELL, acme_2, acme_1, 7_000)
            except ledger.NotEnoughCredits:
                return
            done.append(1)

    threads = [threading.Thread(target=move) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    conn = connect()
    assert len(done) == 14
    assert credits.get_balance(conn, acme_2.id) == 100_000 - 14 * 7_000
    assert self_check.list_problem_texts(conn) == []


def test_a_page_of_the_ledger_goes_on_where_the_last_one_ended(conn, acme_2):
    for amount in range(1, 6):
        credits.grant_credits(conn, SHELL, acme_2, amount)
    first = statement.list_movements_page(conn, acme_2.id, limit=3)
    second = statement.list_movements_page(conn, acme_2.id, before=first[-1].id, limit=3)
    assert [each.amount for each in first + second] == [5, 4, 3, 2, 1, 100_000]


def test_ids_grow_even_when_the_clock_is_set_back(conn, acme_1):
    credits.grant_credits(conn, SHELL, acme_1, 1, now=now_ms() + 60_000)
    (last, *_) = statement.list_movements_page(conn, acme_1.id)
    with write_transaction(conn):
        assert ids.allocate_id(conn, "movements") == last.id + 1


def test_the_id_of_a_deleted_row_is_not_given_again(conn, acme_1):
    last = ids.min_id_at_time(now_ms() + 60_000)
    conn.execute(
        "INSERT INTO received (id, account_id, source, destination, text, data_coding) VALUES (?, ?, '', '', '', 0)",
        (last, acme_1.id),
    )
    conn.execute("DELETE FROM received")
    with write_transaction(conn):
        assert ids.allocate_id(conn, "received") == last + 1


def test_an_id_holds_its_time(conn):
    at = now_ms()
    with write_transaction(conn):
        assert ids.time_from_id(ids.allocate_id(conn, "movements", now=at)) == at
