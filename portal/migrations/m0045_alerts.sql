-- What is wrong with the installation, for operators: each told once until it is over, which is told, too.

-- `subject_id`: the upstream or the account that it is about, 0: none; `subject`: its name. `seen_at`: when it was last
-- found to be wrong. Until `told_at` it may be over without anybody having been told. `figures`: JSON.
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    subject_id INTEGER NOT NULL,
    subject TEXT NOT NULL,
    figures TEXT NOT NULL,
    since INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    told_at INTEGER,
    over_at INTEGER
) STRICT;
CREATE UNIQUE INDEX alerts_open ON alerts (kind, subject_id) WHERE over_at IS NULL;

-- What is sent to the webhook, in this order. `next_attempt_at` is NULL once it was sent, or given up.
CREATE TABLE alert_posts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    alert_id INTEGER NOT NULL REFERENCES alerts ON DELETE CASCADE,
    is_over INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_at INTEGER,
    sent_at INTEGER,
    error TEXT NOT NULL DEFAULT '',
    UNIQUE (alert_id, is_over)
) STRICT;
CREATE INDEX alert_posts_waiting ON alert_posts (id) WHERE next_attempt_at IS NOT NULL;
