-- Statistics of messages, which `portal/services/statistics/rollup.py` writes.
--
-- `length` is that of a period (hour, day or month), and `begins` counts periods since 1970 (months: since the year 0).
-- `ended` has the ids of messages whose final states are still to be counted, eight octets each; `gathered` has the
-- last message and the last row of `ended` that have been counted.

CREATE TABLE statistics (
    account_id INTEGER NOT NULL REFERENCES accounts,
    length INTEGER NOT NULL,
    begins INTEGER NOT NULL,
    country TEXT NOT NULL,
    source TEXT NOT NULL,
    sent INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    stopped INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    parts INTEGER NOT NULL,
    price INTEGER NOT NULL,
    PRIMARY KEY (account_id, length, begins, country, source)
) STRICT, WITHOUT ROWID;
CREATE TABLE statistics_endings (
    account_id INTEGER NOT NULL REFERENCES accounts,
    length INTEGER NOT NULL,
    begins INTEGER NOT NULL,
    ptt INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    PRIMARY KEY (account_id, length, begins, ptt)
) STRICT, WITHOUT ROWID;
CREATE TABLE statistics_times (
    account_id INTEGER NOT NULL REFERENCES accounts,
    length INTEGER NOT NULL,
    begins INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    PRIMARY KEY (account_id, length, begins, bucket)
) STRICT, WITHOUT ROWID;
CREATE TABLE ended (id INTEGER PRIMARY KEY, messages BLOB NOT NULL) STRICT;
CREATE TABLE gathered (message_id INTEGER NOT NULL, ended_id INTEGER NOT NULL) STRICT;
INSERT INTO gathered VALUES (0, 0);
DROP TABLE monthly_usage;
