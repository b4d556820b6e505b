"""`check` finds whatever is changed behind the services' backs."""

import pytest

from portal.db import now_ms
from portal.services import check, credits, intake, outcomes
from portal.services.audit import SHELL
from portal.services.messages import DELIVERED, EXPIRED
from portal.services.outcomes import Outcome
from tests.support import prepared


@pytest.fixture
def busy(conn, acme_1, classic):
    """A database in which all kinds of things have happened."""
    submit = prepared(conn, acme_1.id, b"x" * 161)
    first, second, _ = intake.store(conn, [submit] * 3).ids
    outcomes.finish(conn, [Outcome(first, DELIVERED, 0, now_ms()), Outcome(second, EXPIRED, 801, now_ms())])
    intake.store(conn, [submit])
    credits.transfer(conn, SHELL, acme_1, classic, 5_000)
    return conn


def test_what_the_services_have_done_is_in_order(busy):
    assert check.problems(busy) == []


@pytest.mark.parametrize(
    ("tampering", "problem"),
    [
        ("UPDATE accounts SET balance = balance + 1 WHERE name = 'smpp-acme-1'", "smpp-acme-1: the balance is"),
        ("UPDATE movements SET amount = amount + 1 WHERE kind = 'grant'", "the ledger adds up to"),
        ("UPDATE movements SET balance_after = balance_after + 1 WHERE kind = 'transfer_out'", "doesn't follow from"),
        ("DELETE FROM movements WHERE kind = 'transfer_in'", "sms-acme-1: the balance is"),
        ("UPDATE messages SET price = price + 1", "smpp-acme-1: 8 credits were charged, its messages cost 8.004"),
        ("DELETE FROM messages WHERE state = 2", "is about 3 messages, 2 are there"),
        ("UPDATE messages SET state = 2 WHERE state = 1", "the daily totals say"),
        ("UPDATE messages SET parts = 3", "smpp-acme-1: the daily totals say 4 sent"),
        ("UPDATE daily_totals SET delivered = delivered + 1", "the daily totals say"),
        ("DELETE FROM daily_totals", "the daily totals say nothing"),
        ("UPDATE deliveries SET message_id = 4711", "what waits for its receivers"),
        ("UPDATE senders SET account_id = 4711", "file: senders row"),
    ],
)
def test_each_tampering_is_named(busy, tampering, problem):
    busy.execute("PRAGMA foreign_keys = OFF")
    assert busy.execute(tampering).rowcount
    assert problem in "\n".join(check.problems(busy))


def test_a_damaged_file_is_named(busy, data, connect):
    page = busy.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages_account'").fetchone()[0]
    size = busy.execute("PRAGMA page_size").fetchone()[0]
    busy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (data / "portal.db").open("r+b") as file:
        file.seek(page * size - 64)
        file.write(b"\xff" * 64)
    assert any(each.startswith("file: ") for each in check.problems(connect()))
