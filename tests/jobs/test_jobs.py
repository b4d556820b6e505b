"""What the jobs of the web process do."""

import socket
import sqlite3
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from portal import jobs
from portal.core import clock, db
from portal.core.config import Config
from portal.core.crypto import Keys, hash_token
from portal.services.common import mail
from portal.services.common.audit import SHELL
from portal.services.history import deletion, removal
from portal.services.history.search import SearchQuery
from portal.services.operations import daily_self_check
from tests.mailbox import Mailbox
from tests.support import ROOT, Cast, store_as_older_versions
from tests.web import acting


@pytest.mark.slow
def test_no_job_is_missing_without_a_word(config: Config, keys: Keys) -> None:
    config.database_file.unlink(missing_ok=True)
    config.database_file.mkdir()
    with pytest.raises(sqlite3.OperationalError, match="unable to open database file"):
        jobs.start_jobs(jobs.list_jobs(config, keys, []), config.database_file)


def test_what_comes_gets_into_the_index_of_its_account(conn: db.Connection, config: Config, keys: Keys) -> None:
    message_ids = acting.send_texts(conn, "smpp-acme-1", "one", "two")
    (job,) = [each for each in jobs.list_jobs(config, keys, []) if each.name == "account messages"]
    assert job.run_once(conn)
    assert [row[0] for row in conn.execute("SELECT message_id FROM account_messages")] == message_ids
    assert job.run_once(conn)


def test_recovery_codes_of_older_versions_are_keyed(
    conn: db.Connection, config: Config, keys: Keys, cast: Cast
) -> None:
    store_as_older_versions(conn, cast.alice.id, ["aaaaabbbbb"])
    (job,) = [each for each in jobs.list_jobs(config, keys, []) if each.name == "housekeeping"]
    assert job.run_once(conn)
    assert hash_token("aaaaabbbbb") not in {row[0] for row in conn.execute("SELECT code_hash FROM recovery_codes")}


def test_works_on_the_queue_and_unusual_traffic_are_kept_as_long_as_the_audit_log(
    conn: db.Connection, config: Config, keys: Keys, cast: Cast
) -> None:
    now = clock.now_ms()
    for days in (729, 731):
        ended_at = now - days * clock.DAY_MS
        work = {"action": "hold", "selection": "[[], null, null, 1]", "asked_at": 1, "asked_by": ""}
        db.insert_row(conn, "queue_works", **work, asked_count=1, ended_at=ended_at)
        event = {"account_id": cast.smpp_acme_1.id, "kind": "hour", "country": "", "figures": "{}", "is_held": 0}
        db.insert_row(conn, "brake_events", **event, began_at=1, ended_at=ended_at)
    (job,) = [each for each in jobs.list_jobs(config, keys, []) if each.name == "housekeeping"]
    assert job.run_once(conn)
    for table in ("queue_works", "brake_events"):
        assert [row[0] for row in conn.execute(f"SELECT ended_at FROM {table}")] == [now - 729 * clock.DAY_MS], table


@pytest.mark.slow
def test_a_process_that_ends_waits_for_the_mail_that_is_being_sent(
    conn: db.Connection, config: Config, keys: Keys
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"smtp://127.0.0.1:{silent.getsockname()[1]}"
        to_server = replace(config, mail=replace(config.mail, url=url))
        mail.queue_mail(conn, keys, "marta@acme.example", "check", "en", problems=[], more=0)
        (job,) = [each for each in jobs.list_jobs(to_server, keys, []) if each.name == "mails"]
        thread = threading.Thread(target=job.run_once, args=[db.connect(config.database_file)])
        thread.start()
        talking, _ = silent.accept()
        assert not jobs.sending_mail.acquire(blocking=False)
        talking.close()
        with jobs.sending_mail:
            assert conn.execute("SELECT attempts, error <> '' FROM mails").fetchone()[:] == (1, 1)
        thread.join()


def test_a_process_that_ends_begins_no_other_mail(conn: db.Connection, config: Config, keys: Keys) -> None:
    mail.queue_mail(conn, keys, "marta@acme.example", "check", "en", problems=[], more=0)
    mail.queue_mail(conn, keys, "alice@acme.example", "check", "en", problems=[], more=0)
    (job,) = [each for each in jobs.list_jobs(config, keys, []) if each.name == "mails"]
    steps = job.steps(conn)
    next(steps)
    jobs.is_ending.set()
    try:
        assert list(steps) == []
    finally:
        jobs.is_ending.clear()
    assert conn.execute("SELECT count(next_attempt_at), count(*) FROM mails").fetchone()[:] == (1, 2)


def test_a_mail_in_the_outbox_leaves_it_once_it_was_sent(conn: db.Connection, config: Config, keys: Keys) -> None:
    def run(config: Config, *names: str) -> None:
        for job in jobs.list_jobs(config, keys, []):
            if job.name in names:
                assert job.run_once(conn)

    mail.queue_mail(conn, keys, "marta@acme.example", "check", "en", problems=[], more=0)
    run(config, "mails", "outbox")
    assert len(mail.list_outbox(config.data)) == 1
    with Mailbox().listening() as mailbox:
        to_server = replace(config, mail=replace(config.mail, url=mailbox.url))
        run(to_server, "outbox")
        run(to_server, "mails")
        assert mailbox.wait_for_mail()["To"] == "marta@acme.example"
    run(to_server, "outbox")
    assert mail.list_outbox(config.data) == []


@pytest.mark.slow
def test_nobodys_deletion_waits_for_the_end_of_anothers(conn: db.Connection, cast: Cast) -> None:
    names = ("smpp-acme-1", "smpp-globex-1")
    for name, how_many in zip(names, (1000, 1), strict=True):
        conn.execute("UPDATE accounts SET any_sender = 1")
        account = acting.get_account(conn, name)
        acting.fail_messages(conn, *acting.send_texts(conn, name, *["text"] * how_many))
        conn.execute("DELETE FROM deliveries")
        deletion.create_deletion(
            conn, SHELL, account, deletion.build_query_scope(conn, account.id, SearchQuery()), total=how_many
        )

    acme, globex = deletion.list_open_deletion_ids(conn)
    conn.execute(
        "INSERT INTO deletions SELECT 0, account_id, kind, 'nonsense', asked_at, asked_by, address, before, 0,"
        " 0, 0, 0, NULL FROM deletions WHERE id = ?",
        (acme,),
    )
    for _ in jobs.continue_message_deletions(conn):
        if globex not in deletion.list_open_deletion_ids(conn):
            break

    assert deletion.get_deletion_by_id(conn, globex).removed == 1
    assert deletion.get_deletion_by_id(conn, acme).removed <= 2 * removal.BATCH_SIZE
    with pytest.raises(ValueError):
        for _ in jobs.continue_message_deletions(conn):
            pass
    assert deletion.get_deletion_by_id(conn, acme).removed == 1000


@pytest.mark.slow
def test_it_makes_the_daily_check_once_a_day(data: Path, conn: db.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(ROOT / "app.py"), "web"])
    conn.execute("UPDATE accounts SET balance = balance + 1000 WHERE name = 'smpp-acme-1'")
    jobs.run_daily_check_if_due(conn, ["--data", str(data)])
    first = daily_self_check.find_last_result(conn)
    assert first is not None
    assert [str(each) for each in first.problems] == [
        "smpp-acme-1: the balance (accounts row 1) differs by 1 from what the ledger adds up to"
    ]
    assert conn.execute("SELECT count(*) FROM mails").fetchone()[0] == 1
    jobs.run_daily_check_if_due(conn, ["--data", str(data)])
    assert daily_self_check.find_last_result(conn) == first
