-- Brakes: what an account may send to whom and how much, and unusual traffic.
--
-- `brakes` has a row of an account where something is set: by operators, and by its owner (`own_`). Countries are ISO
-- 3166 codes with spaces between them, NULL: all; numbers are NULL without a limit, credits in thousandths. `unusual`:
-- off, alert or hold. A new account gets the row of `brake_defaults`, if there is one; older ones keep all.

CREATE TABLE brakes (
    account_id INTEGER PRIMARY KEY REFERENCES accounts ON DELETE CASCADE,
    countries TEXT,
    day_messages INTEGER,
    day_credits INTEGER,
    hour_messages INTEGER,
    unusual TEXT NOT NULL DEFAULT 'alert',
    own_countries TEXT,
    own_day_messages INTEGER,
    own_day_credits INTEGER,
    own_hour_messages INTEGER,
    own_unusual TEXT NOT NULL DEFAULT 'off'
) STRICT;

CREATE TABLE brake_defaults (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    countries TEXT,
    day_messages INTEGER,
    day_credits INTEGER,
    hour_messages INTEGER,
    unusual TEXT NOT NULL
) STRICT;

-- Messages that a brake has refused, counted; `country` is '' but where that was the reason.
CREATE TABLE refused_messages (
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    reason TEXT NOT NULL,
    country TEXT NOT NULL,
    messages INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, reason, country)
) STRICT, WITHOUT ROWID;

-- Unusual traffic. An event is open until what it tells of is over; somebody may have answered it before.
CREATE TABLE brake_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    kind TEXT NOT NULL,
    country TEXT NOT NULL,
    began_at INTEGER NOT NULL,
    ended_at INTEGER,
    figures TEXT NOT NULL,
    is_held INTEGER NOT NULL,
    answer TEXT,
    answered_at INTEGER,
    answered_by TEXT
) STRICT;
CREATE UNIQUE INDEX brake_events_open ON brake_events (account_id, kind, country) WHERE ended_at IS NULL;
CREATE INDEX brake_events_account ON brake_events (account_id, kind, country, began_at);
