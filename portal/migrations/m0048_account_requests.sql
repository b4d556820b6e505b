-- What customers ask operators for, as only they can change it: a limit, a price, a route.
--
-- `value`: the country, or the data_coding; empty where there is no such thing. `limit_then`: the limit as it was when
-- it was asked for (credits in thousandths). `answer`: 'done' or 'declined'; empty: it waits.

CREATE TABLE account_requests (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    subject TEXT NOT NULL,
    value TEXT NOT NULL,
    limit_then INTEGER,
    note TEXT NOT NULL,
    asked_at INTEGER NOT NULL,
    asked_by TEXT NOT NULL,
    answer TEXT NOT NULL DEFAULT '',
    comment TEXT NOT NULL DEFAULT '',
    answered_at INTEGER,
    answered_by TEXT
) STRICT;
CREATE UNIQUE INDEX account_requests_open ON account_requests (account_id, subject, value) WHERE answer = '';
