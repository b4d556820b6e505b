"""The audit log as operators read it: filters, pages, and a million rows."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from portal.core import db
from portal.core.clock import DAY_MS, now_ms
from portal.services.accounts import accounts
from portal.services.accounts.accounts import NoSuchAccount
from portal.services.common import audit
from portal.services.common.audit import SHELL, Actor
from portal.services.common.periods import Period, parse_period
from portal.services.operations import audit_log
from portal.services.operations.audit_log import AuditFilter, build_audit_filter, list_audit_page
from tests.support import ROOT, Cast

MARTA = Actor("marta@acme.example", "203.0.113.7")


@pytest.fixture(autouse=True)
def rows(conn: db.Connection, cast: Cast) -> None:
    """Four rows and no others: what made the cast is forgotten."""
    conn.execute("DELETE FROM audit_log")
    account = accounts.get_account(conn, "smpp-acme-1")
    now = now_ms()
    audit.record_action(conn, SHELL, "customer.add", customer_id=cast.globex, at=now - 100 * DAY_MS, name="Globex")
    accounts.record_account_action(conn, MARTA, "ip.add", account, at=now - 50 * DAY_MS, network="192.0.2.1")
    accounts.record_account_action(conn, MARTA, "ip.remove", account, at=now - 2000, network="192.0.2.1")
    audit.record_action(
        conn, Actor("Marta@Acme.example", "2001:db8::7"), "login.wrong_password", at=now - 1000, count=7, last_at=now
    )


def find(conn: db.Connection, **typed: object) -> list[str]:
    return [each.action for each in list_audit_page(conn, build_audit_filter(conn, **typed))]  # type: ignore[arg-type]


def days(first: int, last: int) -> Period:
    """From so many days ago to so many."""
    begins, ends = (datetime.now(UTC).date() - timedelta(each) for each in (first, last))
    return parse_period("range", begins.isoformat(), ends.isoformat(), "UTC", now_ms())


def test_newest_first_with_names_and_counts(conn: db.Connection) -> None:
    newest, removed, _, oldest = list_audit_page(conn, AuditFilter())
    assert (newest.actor, newest.count, newest.last_at - newest.at, newest.details) == (
        "Marta@Acme.example",
        7,
        1000,
        {},
    )
    assert (removed.customer, removed.account, removed.count) == ("Acme", "smpp-acme-1", 1)
    assert removed.last_at == removed.at
    assert (oldest.customer, oldest.account, oldest.details) == ("Globex", None, {"name": "Globex"})


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ({}, ["login.wrong_password", "ip.remove", "ip.add", "customer.add"]),
        ({"account": "SMPP-acme-1"}, ["ip.remove", "ip.add"]),
        ({"actor": "MARTA@acme.example"}, ["login.wrong_password", "ip.remove", "ip.add"]),
        ({"actor": "marta@nowhere.example"}, []),
        ({"actor": "shell"}, ["customer.add"]),
        ({"action": "ip.add"}, ["ip.add"]),
        ({"address": "203.0.113.7"}, ["ip.remove", "ip.add"]),
        ({"address": "2001:DB8:0::7"}, ["login.wrong_password"]),
        ({"actor": "marta@acme.example", "address": "203.0.113.7", "action": "ip.remove"}, ["ip.remove"]),
        ({"actor": "shell", "address": "203.0.113.7"}, []),
        ({"period": days(60, 40)}, ["ip.add"]),
        ({"period": days(60, 0)}, ["login.wrong_password", "ip.remove", "ip.add"]),
        ({"period": days(300, 60)}, ["customer.add"]),
        ({"period": days(300, 200)}, []),
        ({"period": days(40, 10)}, []),
        ({"period": days(60, 0), "actor": "marta@acme.example", "account": "smpp-acme-1"}, ["ip.remove", "ip.add"]),
        ({"period": days(30, 0), "actor": "shell"}, []),
    ],
)
def test_filters_alone_and_together(conn: db.Connection, typed: dict[str, object], found: list[str]) -> None:
    assert find(conn, **typed) == found


def test_by_customer(conn: db.Connection, cast: Cast) -> None:
    assert find(conn, customer_id=cast.globex) == ["customer.add"]
    assert find(conn, customer_id=cast.acme, action="ip.add") == ["ip.add"]


def test_an_account_that_is_not_there_is_refused(conn: db.Connection) -> None:
    with pytest.raises(NoSuchAccount):
        find(conn, account="smpp-nobodys")


@pytest.mark.parametrize("wrong", [-20_000 * DAY_MS, 2_000 * DAY_MS])
def test_a_clock_that_was_years_off_once_hides_nothing(conn: db.Connection, wrong: int) -> None:
    audit.record_action(conn, SHELL, "order.pay", at=now_ms() + wrong)
    audit.record_action(conn, SHELL, "order.cancel")
    found = ["login.wrong_password", "ip.remove", "ip.add", "customer.add"]
    assert find(conn) == ["order.cancel", "order.pay", *found]
    assert find(conn, period=parse_period("all", "", "", "UTC", now_ms())) == ["order.cancel", "order.pay", *found]
    assert find(conn, period=days(60, 0)) == ["order.cancel", *found[:3]]


def test_rows_that_were_written_late_are_in_their_period(conn: db.Connection) -> None:
    """Refused logins are written after others that came later."""
    conn.execute("DELETE FROM audit_log")
    yesterday, today = days(1, 1), days(0, 0)
    for after_midnight in (100, -50, 200, 50, -100, -200):
        audit.record_action(conn, SHELL, "order.pay", at=today.since + after_midnight)

    def find_times(period: Period) -> list[int]:
        return [each.at - today.since for each in list_audit_page(conn, AuditFilter(period=period))]

    assert find_times(yesterday) == [-200, -100, -50]
    assert find_times(today) == [50, 200, 100]


def test_pages_there_and_back(conn: db.Connection) -> None:
    ids = [each.id for each in list_audit_page(conn, AuditFilter())]
    first, second = (list_audit_page(conn, AuditFilter(), limit=2, before=before) for before in (None, ids[1]))
    assert [each.id for each in (*first, *second)] == ids
    assert [each.id for each in list_audit_page(conn, AuditFilter(), limit=2, after=ids[2])] == ids[:2]
    assert [each.id for each in audit_log.iterate_audit_log(conn, AuditFilter(), batch=3)] == ids


def test_what_scripts_read(conn: db.Connection) -> None:
    value = audit_log.audit_entry_to_dict(list_audit_page(conn, AuditFilter(action="login.wrong_password"))[0])
    assert json.loads(json.dumps(value)) == value
    assert value["count"] == 7
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", str(value["last"]))


@pytest.mark.parametrize(
    "audit_filter",
    [
        AuditFilter(),
        AuditFilter(customer_id=1),
        AuditFilter(account_id=1),
        AuditFilter(actor="a"),
        AuditFilter(action="login"),
        AuditFilter(address="192.0.2.1"),
        AuditFilter(period=days(60, 40)),
        AuditFilter(actor="a", action="login", period=days(60, 40)),
    ],
)
def test_no_filter_reads_all_rows_or_sorts(conn: db.Connection, audit_filter: AuditFilter) -> None:
    """Quick at a million rows, which `bench/audit` measures."""
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    list_audit_page(conn, audit_filter)
    conn.set_trace_callback(None)
    for statement in statements:
        plan = [row["detail"] for row in conn.execute(f"EXPLAIN QUERY PLAN {statement}")]
        assert not [each for each in plan if "SCAN audit_log" in each or "TEMP B-TREE" in each], (statement, plan)


@pytest.mark.parametrize(
    ("audit_filter", "index"),
    [
        (AuditFilter(actor="shell", action="order.pay"), "audit_log_actor"),
        (AuditFilter(actor="system", action="order.pay"), "audit_log_action"),
        (AuditFilter(actor="system", action="order.pay", address="192.0.2.9"), "audit_log_address"),
    ],
)
def test_the_rarest_condition_is_looked_for(conn: db.Connection, audit_filter: AuditFilter, index: str) -> None:
    for number in range(50):
        audit.record_action(conn, Actor("system"), "order.pay" if number < 30 else "order.cancel")
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    list_audit_page(conn, audit_filter)
    conn.set_trace_callback(None)
    plan = [row["detail"] for row in conn.execute(f"EXPLAIN QUERY PLAN {statements[-1]}")]
    assert index in plan[0]


def test_every_action_that_the_program_names_has_words() -> None:
    """Those that no test records, too: what a call names. The fixture of all tests sees what is put together."""
    source = "".join(each.read_text() for each in (ROOT / "portal" / "services").rglob("*.py"))
    named = re.findall(r'record_(?:account_|order_|route_)?(?:action|audit)\([^()"]*"([a-z_.]+)"', source)
    assert len(named) > 30
    assert set(named) <= audit_log.ACTION_LABELS.keys()
