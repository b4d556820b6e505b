"""Ending sessions, their rates, and mails about refused binds."""

from sqlite_utils import Database

from portal.migrations.sql import create_version_trigger, execute_statements

_STATEMENTS = """
ALTER TABLE connections ADD COLUMN rates TEXT NOT NULL DEFAULT '';
ALTER TABLE connections ADD COLUMN ending_at INTEGER;
CREATE INDEX connections_ending ON connections (account_id) WHERE ending_at IS NOT NULL;

ALTER TABLE refused_binds ADD COLUMN password_id INTEGER;

ALTER TABLE users ADD COLUMN refusal_mails INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN refusals_mailed_at INTEGER NOT NULL DEFAULT 0;

-- Who has been told of which refusals. They go with the refusals, which are bounded.
CREATE TABLE mailed_refusals (
    account_id INTEGER NOT NULL,
    address TEXT NOT NULL,
    reason TEXT NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    PRIMARY KEY (account_id, address, reason, user_id),
    FOREIGN KEY (account_id, address, reason) REFERENCES refused_binds ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX mailed_refusals_user ON mailed_refusals (user_id);
"""


def m0003_sessions(database: Database) -> None:
    execute_statements(database, _STATEMENTS)
    # An UPDATE of another column (a session's progress, every two seconds) must not move the version.
    create_version_trigger(database, "connections", "ending", "UPDATE OF ending_at", "NEW.account_id")
