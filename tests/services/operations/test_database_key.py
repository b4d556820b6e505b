"""A key that belongs to another database is noticed, and looked for only while nobody replaces the database."""

import pytest

from portal.core.crypto import KeyFileError, Keys
from portal.services.operations import database_key, folder_locks
from tests.older_database import list_applied, make_older, make_older_with_operator

OTHER_KEY = "ab" * 32


def test_a_key_of_another_database_is_noticed(conn, data):
    database_key.require_key_of_database(conn, data)
    (data / "secret.key").write_text(OTHER_KEY)
    with pytest.raises(KeyFileError, match="belongs to another database"):
        database_key.require_key_of_database(conn, data)
    # One secret that opens is enough: with it, somebody has begun anew.
    conn.execute(
        "UPDATE users SET totp_secret = ? WHERE id = (SELECT max(id) FROM users WHERE totp_secret IS NOT NULL)",
        (Keys.load(data).encrypt_column(b"secret"),),
    )
    database_key.require_key_of_database(conn, data)


def test_a_database_without_secrets_takes_any_key_and_a_key_may_come_later(conn, data):
    (data / "secret.key").unlink()
    database_key.require_key_of_database(conn, data)
    conn.execute("UPDATE users SET totp_secret = NULL")
    (data / "secret.key").write_text(OTHER_KEY)
    database_key.require_key_of_database(conn, data)


def test_the_key_is_compared_with_what_a_restore_has_put_in_place(data, keys):
    make_older_with_operator(data, keys)
    (data / "secret.key").write_text(OTHER_KEY)
    restoring = folder_locks.acquire_data_folder_lock(data, alone=True)

    def end_restore(done: int, total: int) -> None:
        if not restoring.closed:
            make_older(data)
            restoring.close()

    lock, applied = folder_locks.lock_migrated_database(data, end_restore)
    lock.close()
    assert set(applied) < list_applied(data)
