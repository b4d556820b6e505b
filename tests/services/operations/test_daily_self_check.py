"""The daily check: its result is stored, and operators get mails about new problems."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.common.audit import SHELL
from portal.services.common.mail import send_due_mails
from portal.services.operations import daily_self_check
from portal.services.operations.daily_self_check import NoDiskSpaceForCopy, SelfCheckResult, open_database_copy
from portal.services.operations.self_check.problem import Problem
from portal.services.people import users
from tests.faults import storage
from tests.mailbox import Mailbox
from tests.services.mails import get_text


@pytest.fixture
def run(conn: Connection, keys: Keys, data: Path) -> Callable[[], list[Problem]]:
    """Runs the daily check."""
    return lambda: daily_self_check.run_daily_check(conn, keys, data)


@pytest.fixture
def mails(conn: Connection) -> Callable[[], int]:
    """Counts the mails that were queued so far."""
    return lambda: conn.execute("SELECT count(*) FROM mails").fetchone()[0]


@pytest.fixture
def damage(conn: Connection) -> Callable[[str], object]:
    """Makes an account's balance wrong."""
    return lambda name: conn.execute("UPDATE accounts SET balance = balance + 1500 WHERE name = ?", (name,))


def last_result(conn: Connection) -> SelfCheckResult:
    result = daily_self_check.find_last_result(conn)
    assert result is not None
    return result


def test_its_result_is_kept(conn, run, damage, mails):
    assert daily_self_check.find_last_result(conn) is None
    before = now_ms()
    assert run() == []
    result = last_result(conn)
    assert before <= result.at <= now_ms()
    assert result.problems == []
    damage("smpp-acme-1")
    problems = run()
    assert "smpp-acme-1: the balance (accounts row 1) differs by 1.5" in str(problems[0])
    assert last_result(conn).problems == problems
    assert mails() == 1


def test_it_is_due_a_day_after_the_last_one(conn, keys):
    now = now_ms()
    assert daily_self_check.is_check_due(conn, now)
    daily_self_check.save_result(conn, keys, SelfCheckResult(now, []))
    assert not daily_self_check.is_check_due(conn, now + DAY_MS - 1)
    assert daily_self_check.is_check_due(conn, now + DAY_MS)
    # The clock was wrong when the last one was made.
    assert daily_self_check.is_check_due(conn, now - DAY_MS)


def test_old_results_are_forgotten(conn, keys):
    now = now_ms()
    for days in (100, 91, 89, 0):
        daily_self_check.save_result(conn, keys, SelfCheckResult(now - days * DAY_MS, []))
    assert [row[0] for row in conn.execute("SELECT (? - at) / ? FROM checks", (now, DAY_MS))] == [89, 0]


def test_a_finding_is_mailed_once(conn, run, damage, mails, acme_1):
    damage("smpp-acme-1")
    run()
    run()
    assert mails() == 1
    # What goes on meanwhile makes it no other finding.
    conn.execute("UPDATE movements SET amount = amount - 1, balance_after = balance_after - 1")
    conn.execute("UPDATE accounts SET balance = balance - 1")
    run()
    assert mails() == 1


def test_a_new_finding_and_one_that_comes_back_are_mailed(conn, run, damage, mails):
    damage("smpp-acme-1")
    run()
    damage("smpp-acme-2")
    run()
    assert mails() == 2
    conn.execute("UPDATE accounts SET balance = balance - 1500 WHERE name = 'smpp-acme-1'")
    run()
    assert mails() == 2
    damage("smpp-acme-1")
    run()
    assert mails() == 3


def test_each_operator_gets_it_in_their_language(conn, keys, config, run, damage, cast):
    users.set_user_language(conn, users.get_user_by_email(conn, cast.olga.email), "it")
    users.create_user(conn, keys, SHELL, "otto@portal.example", users.OPERATOR, None)
    damage("smpp-acme-1")
    run()
    with Mailbox().listening() as mailbox:
        to_server = replace(config, mail=replace(config.mail, url=mailbox.url))
        assert sum(send_due_mails(conn, to_server, keys)) == 2
        received = {mail["To"]: mail for mail in (mailbox.wait_for_mail(), mailbox.wait_for_mail())}
    assert received["otto@portal.example"]["Subject"] == "The daily check has found problems"
    assert received[cast.olga.email]["Subject"] == "La verifica quotidiana ha trovato qualcosa che non va"
    for part in ("plain", "html"):
        english = get_text(received["otto@portal.example"], part)
        assert "smpp-acme-1: the balance (accounts row 1) differs by 1.5 " in re.sub(r"<[^>]+>", "", english)
        italian = get_text(received[cast.olga.email], part)
        assert "smpp-acme-1: il saldo (riga 1 di accounts) differisce di 1,5 " in re.sub(r"<[^>]+>", "", italian)


def test_of_many_the_first_twenty_are_told(conn, keys, config, cast):
    problems = [Problem("file: %(line)s", {"line": f"page {number}"}) for number in range(25)]
    daily_self_check.save_result(conn, keys, SelfCheckResult(now_ms(), problems))
    with Mailbox().listening() as mailbox:
        to_server = replace(config, mail=replace(config.mail, url=mailbox.url))
        list(send_due_mails(conn, to_server, keys))
        text = get_text(mailbox.wait_for_mail())
    assert text.count("- file: page") == 20
    assert "5 more are not listed here." in text


def test_that_there_is_no_room_for_it_is_told_too(conn, keys, data, mails, tmp_path):
    try:
        with storage.mount_small_disk(tmp_path / "small", "8m") as small:
            with pytest.raises(NoDiskSpaceForCopy), open_database_copy(conn, small):
                pass
            (problem,) = daily_self_check.run_daily_check(conn, keys, small)
    except storage.FaultNotPossible as error:
        pytest.skip(str(error))
    assert re.fullmatch(
        rf"The check needs \d\d MB for a copy of the database; in {small} \d MB are free\.", str(problem)
    )
    assert last_result(conn).problems == [problem]
    assert mails() == 1
