-- What operators look into: the PDUs of one upstream for some minutes, and kept receipts that are tried again after a
-- change of what says where their ids are.

-- The SMPP server follows those whose end is still to come. `left_out`: how many PDUs came faster than they are kept.
CREATE TABLE upstream_traces (
    upstream INTEGER PRIMARY KEY REFERENCES upstreams ON DELETE CASCADE,
    started_at INTEGER NOT NULL,
    ends_at INTEGER NOT NULL,
    left_out INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TRIGGER upstream_traces_insert AFTER INSERT ON upstream_traces BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'config_version'; END;
CREATE TRIGGER upstream_traces_update AFTER UPDATE OF ends_at ON upstream_traces BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'config_version'; END;
CREATE TRIGGER upstream_traces_delete AFTER DELETE ON upstream_traces BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'config_version'; END;

-- `is_sent`: to the carrier. `status`: the name and the number; empty of a request. `fields`: of the body as JSON, texts and numbers masked.
CREATE TABLE traced_pdus (
    id INTEGER PRIMARY KEY,
    upstream INTEGER NOT NULL REFERENCES upstreams ON DELETE CASCADE,
    at INTEGER NOT NULL,
    is_sent INTEGER NOT NULL,
    bind INTEGER NOT NULL,
    sequence_number INTEGER NOT NULL,
    command TEXT NOT NULL,
    status TEXT NOT NULL,
    fields TEXT NOT NULL
) STRICT;
CREATE INDEX traced_pdus_upstream ON traced_pdus (upstream, id);
CREATE INDEX traced_pdus_at ON traced_pdus (at);

-- The kept receipts with smaller ids than `before_id` are still to be tried again.
CREATE TABLE receipt_retries (
    upstream INTEGER PRIMARY KEY REFERENCES upstreams ON DELETE CASCADE,
    before_id INTEGER NOT NULL
) STRICT;
CREATE INDEX unmatched_receipts_upstream ON unmatched_receipts (upstream, id);
CREATE INDEX unowned_messages_upstream ON unowned_messages (upstream, id);
