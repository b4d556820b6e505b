import multiprocessing
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlite_utils import Database, Migrations

from portal import migrations
from portal.core import db
from portal.core.clock import now_ms
from portal.migrations import MigrationFailed
from portal.migrations import steps as steps_module
from portal.migrations.steps import migrations as all_steps
from portal.services.accounts import account_messages, accounts, session_records
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.history import history, search
from portal.services.history.search import SearchQuery
from portal.services.messages import blacklist, deliveries, inbound, inbound_numbers, outcomes, sending, smpp_config
from portal.services.messages.deliveries import DeliveryReceipt
from portal.services.operations import self_check
from portal.services.people import users
from portal.services.routing import routes
from portal.services.upstreams import claims, queue, waiting_counts
from portal.services.upstreams.claims import Claim
from tests.core.test_pasted_text import MARKS
from tests.services.audit_log import list_audit_entries
from tests.support import ROOT, list_submitted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / db.FILE_NAME


def schema(file: Path) -> list[tuple[str]]:
    conn = sqlite3.connect(file)
    rows = conn.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
    conn.close()
    return rows


def copies(file: Path) -> list[Path]:
    return sorted((file.parent / "backups").glob("before-migration-*.db"))


def migrate_by(steps: Migrations, file: Path) -> list[str]:
    """Migrate by other steps than those that there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps_module, "migrations", steps)
        patch.setattr(migrations, "KNOWN_NAMES", frozenset(each.name for each in steps._migrations))
        return migrations.migrate(file)


def test_an_empty_file_gets_the_whole_schema(file):
    taken = migrations.migrate(file)
    assert taken[0] == "m0001_initial"
    conn = sqlite3.connect(file)
    tables = {row[0] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    conn.close()
    assert {"customers", "accounts", "messages", "movements", "mails"} <= tables
    assert copies(file) == [], "there was nothing to copy"


def test_what_is_up_to_date_is_left_alone(file):
    migrations.migrate(file)
    before = schema(file)
    assert migrations.migrate(file) == []
    assert schema(file) == before
    assert copies(file) == []


def at_once(file: Path, barrier: Barrier, results: "Queue[int]") -> None:
    barrier.wait()
    results.put(len(migrations.migrate(file)))


@pytest.mark.slow
def test_processes_that_start_together_migrate_once(file):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=at_once, args=(file, barrier, results)) for _ in range(3)]
    for each in processes:
        each.start()
    taken = sorted(results.get(timeout=30) for _ in processes)
    for each in processes:
        each.join()
        assert each.exitcode == 0
    assert taken == [0, 0, len(all_steps._migrations)]


def test_each_migration_has_a_file_of_its_name(file):
    assert {each.name for each in all_steps._migrations} == migrations.KNOWN_NAMES
    assert set(migrations.list_pending_migrations(file)) == migrations.KNOWN_NAMES
    migrations.migrate(file)
    assert migrations.list_pending_migrations(file) == []


@pytest.mark.slow
def test_a_copy_is_made_before_a_step_and_old_ones_go_only_when_it_has_served(file):
    migrations.migrate(file)
    steps = Migrations("portal")
    steps._migrations = list(all_steps._migrations)
    for number in range(3):

        @steps(name=f"m9{number}_later")
        def later(database: Database) -> None:
            database.execute(f"CREATE TABLE later_{len(steps._migrations)} (x)")

        assert migrate_by(steps, file) == [f"m9{number}_later"]
    made = copies(file)
    assert len(made) == 3
    tables = [sql for (sql,) in schema(made[-1]) if "later_" in sql]
    assert len(tables) == 2, "as it was before the third step"
    # What older versions left where there was no room.
    (file.parent / "backups" / "before-migration-99990101T000000000000.db").touch()
    migrations.remove_old_copies(file.parent, keep=2)
    assert copies(file) == made[1:]
    migrations.remove_old_copies(file.parent, keep=0)
    assert copies(file) == []


def test_a_copy_has_its_name_only_when_all_steps_are_done(file):
    migrations.migrate(file)
    steps = Migrations("portal")
    steps._migrations = list(all_steps._migrations)
    seen: list[str] = []

    @steps(name="m90_looks")
    def looks(database: Database) -> None:
        seen.extend(each.suffix for each in (file.parent / "backups").iterdir())

    migrate_by(steps, file)
    assert seen == [".part"]
    assert len(copies(file)) == 1


def test_what_a_killed_one_left_of_its_copy_goes_with_the_next(file):
    migrations.migrate(file)
    steps = Migrations("portal")
    steps._migrations = list(all_steps._migrations)
    backups = file.parent / "backups"
    backups.mkdir(exist_ok=True)
    for ending in (".part", ".part-journal"):
        (backups / f"before-migration-20260101T000000000000{ending}").write_bytes(b"half")

    @steps(name="m90_later")
    def later(database: Database) -> None:
        database.execute("CREATE TABLE later (x)")

    migrate_by(steps, file)
    assert [each.name for each in backups.iterdir()] == [each.name for each in copies(file)]
    assert len(copies(file)) == 1


def copy_steps() -> Migrations:
    """All steps that there are, for more to be added."""
    steps = Migrations("portal")
    steps._migrations = list(all_steps._migrations)
    return steps


def test_a_step_that_fails_leaves_the_database_as_it_was(file):
    migrations.migrate(file)
    before = schema(file)
    steps = copy_steps()

    @steps(name="m90_done")
    def done(database: Database) -> None:
        database.execute("CREATE TABLE done (x)")

    @steps(name="m91_fails")
    def fails(database: Database) -> None:
        database.execute("CREATE TABLE half_done (x)")
        raise RuntimeError("a defect, say")

    with pytest.raises(MigrationFailed, match="failed at migration m91_fails: RuntimeError: a defect, say"):
        migrate_by(steps, file)
    assert schema(file) == before, "without the step before it, too"
    assert list((file.parent / "backups").iterdir()) == []


def test_nothing_begins_without_room(file, monkeypatch):
    migrations.migrate(file)
    before = schema(file)
    steps = copy_steps()

    @steps(name="m90_later")
    def later(database: Database) -> None:
        database.execute("CREATE TABLE later (x)")

    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=16 << 20))
    with pytest.raises(MigrationFailed, match=rf"needs up to [0-9]+ MB in {file.parent}, where 16 MB are free"):
        migrate_by(steps, file)
    assert schema(file) == before
    assert not (file.parent / "backups").exists()


def test_a_signal_just_after_the_commit_leaves_the_copy(file, monkeypatch):
    migrations.migrate(file)
    steps = Migrations("portal")
    steps._migrations = list(all_steps._migrations)

    @steps(name="m90_later")
    def later(database: Database) -> None:
        database.execute("CREATE TABLE later (x)")

    @contextmanager
    def interrupt_afterwards(conn: sqlite3.Connection) -> Iterator[None]:
        with write_transaction(conn):
            yield
        raise KeyboardInterrupt

    write_transaction = db.write_transaction
    monkeypatch.setattr(db, "write_transaction", interrupt_afterwards)
    with pytest.raises(KeyboardInterrupt):
        migrate_by(steps, file)
    assert len(copies(file)) == 1


def test_a_newer_versions_database_is_refused(file):
    migrations.migrate(file)
    conn = sqlite3.connect(file)
    conn.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('portal', 'm9999_later', '')"
    )
    conn.commit()
    conn.close()
    before = schema(file)
    with pytest.raises(migrations.NewerDatabase, match="m9999_later"):
        migrations.migrate(file)
    assert schema(file) == before


def test_a_database_of_the_first_release_is_brought_up_to_date_with_all_it_holds(file):
    conn = sqlite3.connect(file)  # without foreign keys: a dump's tables are in no order
    conn.executescript((ROOT / "tests" / "saved" / "m0002.sql").read_text())
    conn.close()
    assert migrations.migrate(file)[0] == "m0003_sessions"
    conn = db.connect(file)
    assert self_check.list_problem_texts(conn) == []
    account = accounts.get_account(conn, "smpp-acme-1")
    # They have waited since the messages were taken in, and not for so long that they would be given up.
    now = (1882593556140392448 >> 20) + 86_400_000
    assert deliveries.expire_deliveries(conn, now) == 0
    receipts = deliveries.list_due_deliveries(conn, account.id, now, 10).ready
    assert [
        (each.destination, each.state, each.attempts) for each in receipts if isinstance(each, DeliveryReceipt)
    ] == [
        ("393401234567", 2, 0),
        ("33612345678", 5, 1),
    ]
    assert [each.text for each in outcomes.list_outbound_messages(conn, outcomes.list_simulated_message_ids(conn))] == [
        "waits"
    ]
    with db.write_transaction(conn):
        assert ids.allocate_id(conn, "messages") > list_submitted(conn, account.id)[0].id
    accounts.change_account(conn, SHELL, account, windowing=5, throughput=5, binds=1, any_sender=True)
    assert smpp_config.has_unapplied_config_changes(conn, account.id)
    conn.close()


def before_step(file: Path, name: str, script: str) -> None:
    """A database as it was before a step, with some rows."""
    steps = Migrations("portal")
    steps._migrations = [each for each in all_steps._migrations if each.name < name]
    migrate_by(steps, file)
    conn = sqlite3.connect(file)
    conn.executescript(
        """
        INSERT INTO customers (id, name, contact_email, created_at) VALUES (1, 'Acme', 'marta@acme.example', 0);
        INSERT INTO accounts (id, customer_id, kind, name, windowing, throughput, binds, created_at)
            VALUES (1, 1, 'smpp', 'smpp-acme-1', 10, 20, 5, 0);
        """
        + script
    )
    conn.close()


def test_who_put_numbers_on_blacklists_and_what_waits_is_known_after_the_step_that_asks(file):
    before_step(
        file,
        "m0011",
        """
        INSERT INTO blacklist VALUES (1, '393337654321', 5, 7), (1, '393337654322', 6, NULL);
        INSERT INTO received (id, account_id, source, destination, text, data_coding)
            VALUES (7, 1, '393337654321', '48484', 'STOP', 0), (8, 1, '393337654321', '48484', 'waits', 0);
        INSERT INTO deliveries (account_id, id, received_id, next_attempt_at) VALUES (1, 9, 8, 0);
        """,
    )
    migrations.migrate(file)
    conn = db.connect(file)
    assert [(each.reason, each.added_by) for each in blacklist.list_blacklist(conn, 1)] == [
        ("STOP", ""),
        ("by hand", "shell"),
    ]
    assert [each.state for each in inbound.search_inbound_messages(conn, 1).messages] == [
        inbound.WAITING,
        inbound.UNKNOWN,
    ]
    conn.close()


def test_accounts_have_their_messages_after_the_step_that_moves_their_index(file):
    before_step(
        file,
        "m0018",
        """
        INSERT INTO accounts (id, customer_id, kind, name, windowing, throughput, binds, created_at)
            VALUES (2, 1, 'smpp', 'smpp-acme-2', 10, 20, 5, 0);
        INSERT INTO messages (id, account_id, source, source_ton, source_npi, destination, country, text, data_coding,
            registered_delivery, parts, price, state, ptt)
            SELECT value, 1 + value % 2, 'ACME', 5, 0, '393401234567', 'IT', '', 0, 0, 1, 0, 2, 0
            FROM json_each('[5, 6, 7, 9, 10]');
        """,
    )
    migrations.migrate(file)
    conn = db.connect(file)
    assert account_messages.get_last_indexed_id(conn) == 10
    rows = conn.execute("SELECT account_id, message_id FROM account_messages").fetchall()
    assert [tuple(row) for row in rows] == [(1, 6), (1, 10), (2, 5), (2, 7), (2, 9)]
    conn.close()


def test_words_of_four_letters_are_found_in_messages_from_before_chunks_told_them(file):
    before_step(
        file,
        "m0016",
        """
        INSERT INTO connections (id, account_id, address, bind_type, tls, password_id, bound_at, seen_at)
            VALUES (1000 << 20, 1, '127.0.0.1', 'transceiver', '', 1, 0, 0);
        INSERT INTO messages (id, account_id, source, source_ton, source_npi, destination, country, text, data_coding,
            registered_delivery, parts, price, state, ptt)
            VALUES (7, 1, 'ACME', 5, 0, '393401234567', 'IT', 'a parc', 0, 0, 1, 0, 2, 0);
        -- Of this chunk there is nothing but three letters, if anything.
        INSERT INTO history_chunks (account_id, first_id, last_id, bits) VALUES (1, 1, 7, zeroblob(8));
        """,
    )
    migrations.migrate(file)
    conn = db.connect(file)
    (text,) = search.search_texts(conn, 1, SearchQuery(text="parc")).texts
    (details,) = history.read_message_details(conn, text).values()
    assert (details.session_id, details.upstream_id, details.upstream_status) == (None, None, None)
    assert session_records.list_open_smpp_sessions(conn, 1) == [], "its server is gone, and its id is of another kind"
    assert session_records.get_last_smpp_session_id(conn) == 0
    conn.close()


def test_names_and_addresses_lose_what_nobody_sees(file):
    marked = [f"{mark}bill{mark}{number}@x.example{mark}" for number, mark in enumerate(MARKS)]
    marked.append(f"\u00a0bill{len(marked)}@x.example\u00a0")
    statements = [
        f"INSERT INTO customers (id, name, contact_email, created_at) VALUES ({90 + each}, '{name}', '{email}', 0);"
        for each, (name, email) in enumerate(
            [
                ("Ini\u00adtech", "\u202ax@initech.example\u202c"),
                ("\u200bInitech Due", "y@initech.example"),
                ("Taken", "z@taken.example"),
                ("\ufefftaken", "z@taken.example"),
                ("می‌خواهم", "w@other.example"),
            ]
        )
    ]
    statements += [
        f"INSERT INTO users (customer_id, email, role, created_at) VALUES (90, '{each}', 'viewer', 0);"
        for each in [*marked, "Carl@x.example", "carl@x.example\u200b"]
    ]
    statements.append("UPDATE accounts SET alert_to = 'a@x.example\u200b \u202ab@x.example\u202c' WHERE id = 1;")
    before_step(file, "m0022", "\n".join(statements))
    migrations.migrate(file)
    conn = db.connect(file)
    rows = conn.execute("SELECT name, contact_email FROM customers WHERE id >= 90 ORDER BY id").fetchall()
    assert [tuple(row) for row in rows] == [
        ("Initech", "x@initech.example"),
        ("Initech Due", "y@initech.example"),
        ("Taken", "z@taken.example"),
        ("\ufefftaken", "z@taken.example"),
        ("می‌خواهم", "w@other.example"),
    ]
    # What is typed finds them.
    for number in range(len(marked)):
        assert users.get_user_by_email(conn, f"BILL{number}@x.example").customer_id == 90
    assert users.get_user_by_email(conn, "carl@x.example").email == "Carl@x.example"
    assert accounts.get_account(conn, "smpp-acme-1").alert_to == ("a@x.example", "b@x.example")
    conn.close()


def test_what_simulators_have_leaves_the_index_of_what_carriers_have(file):
    before_step(
        file,
        "m0025",
        """
        INSERT INTO upstreams (id, name, kind, created_at) VALUES (1, 'carrier', 'smpp', 0), (2, 'sim', 'simulator', 0);
        INSERT INTO messages (id, account_id, source, source_ton, source_npi, destination, country, text, data_coding,
            registered_delivery, parts, price, state, ptt, upstream)
            SELECT value, 1, 'ACME', 5, 0, '393401234567', 'IT', '', 0, 0, 1, 0, 1, 254, 1 + value % 2
            FROM json_each('[5, 6, 7]');
        """,
    )
    migrations.migrate(file)
    conn = db.connect(file)
    assert [sending.list_unanswered_message_ids(conn, each) for each in (1, 2)] == [[6], []]
    assert outcomes.list_simulated_message_ids(conn, 2) == [5, 7]
    conn.close()


def test_numbers_that_reach_accounts_are_no_routes_any_more(file):
    before_step(
        file,
        "m0026",
        """
        INSERT INTO routes (id, account_id, number, keyword, created_at) VALUES (7, 1, '48484', 'INFO', 1);
        INSERT INTO audit_log (at, actor, address, account_id, action, details)
            VALUES (1, 'shell', '', 1, 'route.add', '{}'), (2, 'shell', '', 1, 'route.remove', '{}'),
            (3, 'shell', '', 1, 'account.change', '{}');
        """,
    )
    migrations.migrate(file)
    conn = db.connect(file)
    (number,) = inbound_numbers.list_inbound_numbers(conn, 1)
    assert (number.id, number.number, number.keyword) == (7, "48484", "INFO")
    account = accounts.get_account(conn, "smpp-acme-1")
    assert inbound_numbers.add_inbound_number(conn, SHELL, account, "48485").id == 8, "ids go on"
    actions = [each.action for each in list_audit_entries(conn, 1, 4)]
    assert actions == ["number.add", "account.change", "number.remove", "number.add"]
    assert routes.list_routes(conn) == []
    conn.close()


def test_what_waits_for_nothing_after_operators_held_or_moved_it_is_tried_again(file):
    before_step(
        file,
        "m0046",
        """
        INSERT INTO upstreams (id, name, kind, settings, created_at, is_default)
            VALUES (1, 'first', 'smpp', '{}', 0, 1);
        INSERT INTO messages (id, account_id, source, source_ton, source_npi, destination, country, text, data_coding,
            registered_delivery, parts, price, state, ptt, upstream)
            SELECT value, 1, 'ACME', 5, 0, value / 10, 'IT', '', 0, 0, 1, 0, 1, 254, iif(value = 32, 1, NULL)
            FROM json_each('[10, 11, 20, 21, 22, 30, 31, 32]');
        INSERT INTO queue_paths (id, upstream_ids) VALUES (1, '0');
        INSERT INTO held_messages (account_id, destination, message_id, attempts, not_before, path)
            -- Stuck; stuck, with a later one that is held; one is under way.
            VALUES (1, '1', 10, 1, NULL, 0), (1, '1', 11, 1, NULL, 0),
            (1, '2', 20, 1, NULL, 0), (1, '2', 21, 1, 1000, 1), (1, '2', 22, 0, NULL, 0),
            (1, '3', 30, 1, NULL, 0), (1, '3', 31, 0, NULL, 0), (1, '3', 32, 1, NULL, 0);
        """,
    )
    migrations.migrate(file)
    conn = db.connect(file)
    assert not [each for each in self_check.list_problem_texts(conn) if "held_messages" in each]
    with db.write_transaction(conn):
        assert claims.claim_message_ids(conn, Claim(1, [()], 10), 1000).message_ids == [10, 20]
        queue.release_held_messages(conn, [32])
        assert claims.claim_message_ids(conn, Claim(1, [()], 10), now_ms()).message_ids == [30]
    conn.close()


def test_what_has_waited_goes_to_the_default_upstream(file):
    before_step(
        file,
        "m0027",
        """
        INSERT INTO messages (id, account_id, source, source_ton, source_npi, destination, country, text, data_coding,
            registered_delivery, parts, price, state, ptt)
            SELECT value, 1, 'ACME', 5, 0, '393401234567', 'IT', '', 0, 0, 1, 0, 1, 254
            FROM json_each('[5, 6, 7]');
        INSERT INTO queued_messages (account_id, priority_rank, message_id) VALUES (1, 3, 5), (1, 0, 6);
        INSERT INTO held_messages (account_id, destination, message_id, attempts, not_before, error)
            VALUES (1, '393401234567', 7, 2, 1000, 'ESME_RSYSERR');
        """,
    )
    migrations.migrate(file)
    conn = db.connect(file)
    assert waiting_counts.count_waiting_messages_by_path(conn) == {(): 3}
    assert queue.list_waiting_accounts(conn) == {((), 1)}
    with db.write_transaction(conn):
        claimed = claims.claim_message_ids(conn, Claim(1, [()], 10), 1000)
    # What is tried again, and what was queued behind it.
    assert claimed.message_ids == [7]
    assert [row[0] for row in conn.execute("SELECT message_id FROM held_messages ORDER BY 1")] == [5, 6, 7]
    conn.close()
