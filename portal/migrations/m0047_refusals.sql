-- Binds and messages that were refused, counted by the hour (since 1970, UTC), by reason, and by what was at fault: the
-- address of a bind, the sender, data_coding or country of a message; '…': all other values.
--
-- `password_id`: that of the latest bind with a password that was replaced. What was counted without hours is taken to
-- be of the latest one.

CREATE TABLE refusals (
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    is_bind INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    reason TEXT NOT NULL,
    value TEXT NOT NULL,
    count INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    password_id INTEGER,
    PRIMARY KEY (account_id, is_bind, hour, reason, value)
) STRICT, WITHOUT ROWID;
INSERT INTO refusals SELECT account_id, 1, last_at / 3600000, reason, address, count, first_at, last_at, password_id
    FROM refused_binds;
INSERT INTO refusals SELECT account_id, 0, last_at / 3600000, reason, country, messages, first_at, last_at, NULL
    FROM refused_messages;

-- When something of an account was refused last: which accounts to look at, and whether there is anything new.
CREATE TABLE latest_refusals (
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    is_bind INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (account_id, is_bind)
) STRICT, WITHOUT ROWID;
INSERT INTO latest_refusals SELECT account_id, is_bind, max(last_at) FROM refusals GROUP BY account_id, is_bind;

-- Binds with a system_id that no account has. Only operators see them.
CREATE TABLE unknown_binds (
    system_id TEXT NOT NULL,
    address TEXT NOT NULL,
    count INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    PRIMARY KEY (system_id, address)
) STRICT, WITHOUT ROWID;
CREATE INDEX unknown_binds_latest ON unknown_binds (last_at);

-- Who has been told of which refusals.
ALTER TABLE mailed_refusals RENAME TO old_mailed_refusals;
DROP INDEX mailed_refusals_user;
CREATE TABLE mailed_refusals (
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    is_bind INTEGER NOT NULL,
    reason TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (user_id, account_id, is_bind, reason, value)
) STRICT, WITHOUT ROWID;
INSERT INTO mailed_refusals SELECT user_id, account_id, 1, reason, address FROM old_mailed_refusals;
DROP TABLE old_mailed_refusals;

DROP TABLE refused_binds;
DROP TABLE refused_messages;

ALTER TABLE connections ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;

-- Until when (milliseconds) the SMPP server keeps the account's last refused PDUs in memory; NULL: it doesn't.
ALTER TABLE accounts ADD COLUMN refused_pdus_until INTEGER;
