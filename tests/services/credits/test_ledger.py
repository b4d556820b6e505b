"""The one way in which balances change: what it refuses, whoever asks."""

import pytest

from portal.core import db
from portal.services.common.audit import SHELL
from portal.services.credits import credits, ledger
from portal.services.operations import self_check

COMES = (ledger.GRANT, ledger.PURCHASE, ledger.TRANSFER_IN, ledger.REFUND)
GOES = (ledger.TRANSFER_OUT, ledger.USAGE, ledger.EXPIRY)


@pytest.mark.parametrize(
    ("kind", "amount"),
    [
        *((kind, amount) for kind in COMES for amount in (-1, 0)),
        *((kind, amount) for kind in GOES for amount in (1, 0)),
        (ledger.CORRECTION, 0),
    ],
)
def test_credits_go_the_way_of_their_kind(conn, acme_1, kind, amount):
    with pytest.raises(ValueError, match=f"{kind} of {amount}"), db.write_transaction(conn):
        ledger.post_movement(conn, SHELL, acme_1.id, kind, amount)
    assert credits.get_balance(conn, acme_1.id) == acme_1.balance
    assert self_check.list_problem_texts(conn) == []


def test_a_transfer_is_not_turned_round(conn, acme_1, acme_2):
    with pytest.raises(ValueError, match="transfer_out of 5000"):
        credits.transfer_credits(conn, SHELL, acme_1, acme_2, -5_000)
    assert credits.get_balance(conn, acme_2.id) == acme_2.balance


def test_a_correction_goes_either_way_and_never_below_nothing(conn, acme_1):
    with db.write_transaction(conn):
        assert ledger.post_movement(conn, SHELL, acme_1.id, ledger.CORRECTION, -acme_1.balance)[1] == 0
    with pytest.raises(ledger.NotEnoughCredits), db.write_transaction(conn):
        ledger.post_movement(conn, SHELL, acme_1.id, ledger.CORRECTION, -1)
    with db.write_transaction(conn):
        assert ledger.post_movement(conn, SHELL, acme_1.id, ledger.CORRECTION, 1)[1] == 1
