-- Upstreams: operators' connections to carriers, the states of their binds, and what is counted of each.
--
-- A row that is removed stays, without its password: messages go on naming it, its number is never given again, and
-- that there is any row tells that this installation has had an upstream.

CREATE TABLE upstreams (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL COLLATE NOCASE,
    kind TEXT NOT NULL,
    enabled INTEGER NOT NULL DEFAULT 1,
    draining INTEGER NOT NULL DEFAULT 0,
    is_default INTEGER NOT NULL DEFAULT 0,
    settings TEXT NOT NULL DEFAULT '{}' CHECK (json_type(settings) = 'object'),
    password BLOB,
    created_at INTEGER NOT NULL,
    removed_at INTEGER,
    version INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX upstreams_name ON upstreams (name) WHERE removed_at IS NULL;
CREATE UNIQUE INDEX upstreams_default ON upstreams (is_default) WHERE is_default;

-- What the SMPP server writes itself (binds, counters) is elsewhere.
CREATE TABLE upstream_binds (
    upstream INTEGER NOT NULL REFERENCES upstreams ON DELETE CASCADE,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    since INTEGER NOT NULL,
    error TEXT NOT NULL DEFAULT '',
    status INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (upstream, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE upstream_counters (
    upstream INTEGER NOT NULL REFERENCES upstreams ON DELETE CASCADE,
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (upstream, name)
) STRICT, WITHOUT ROWID;
