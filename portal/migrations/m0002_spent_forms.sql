-- The idempotency keys of forms that have been submitted, so that each takes effect once.

CREATE TABLE spent_forms (number TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
