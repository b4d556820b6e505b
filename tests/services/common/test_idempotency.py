"""What is sent twice happens once."""

import pytest

from portal.core import db
from portal.services.common import idempotency


def test_a_number_is_good_once(conn: db.Connection) -> None:
    number = idempotency.new_idempotency_key()
    idempotency.use_idempotency_key(conn, number)
    with pytest.raises(idempotency.FormAlreadySent):
        idempotency.use_idempotency_key(conn, number)
    idempotency.use_idempotency_key(conn, idempotency.new_idempotency_key())


def test_what_failed_has_not_used_it_up(conn: db.Connection) -> None:
    number = idempotency.new_idempotency_key()

    def fail() -> None:
        with db.write_transaction(conn):
            idempotency.use_idempotency_key(conn, number)
            raise ValueError("after it")

    with pytest.raises(ValueError, match="after it"):
        fail()
    idempotency.use_idempotency_key(conn, number)


def test_who_has_no_form_may_repeat(conn: db.Connection) -> None:
    idempotency.use_idempotency_key(conn, "")
    idempotency.use_idempotency_key(conn, "")


def test_old_numbers_are_forgotten(conn: db.Connection) -> None:
    idempotency.use_idempotency_key(conn, idempotency.new_idempotency_key())
    conn.execute("UPDATE spent_forms SET at = at - 31 * 86400000")
    idempotency.use_idempotency_key(conn, idempotency.new_idempotency_key())
    assert conn.execute("SELECT count(*) FROM spent_forms").fetchone()[0] == 1


def test_a_number_that_nobody_was_given_takes_no_more_room(conn: db.Connection) -> None:
    idempotency.use_idempotency_key(conn, "x" * 1_000_000)
    assert conn.execute("SELECT max(length(number)) FROM spent_forms").fetchone()[0] <= 64
