-- Ending sessions, their rates, and mails about refused binds.

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
