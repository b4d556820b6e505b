-- A part of a long message from a handset that a carrier repeats behind its message is known.
--
-- `joined_messages`: those of the last hour; `hashes`: eight octets of each part, in their order. `repeated`: such a
-- part waits like others, since another text may have it, too.

CREATE TABLE joined_messages (
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    upstream INTEGER NOT NULL,
    reference INTEGER NOT NULL,
    total INTEGER NOT NULL,
    data_coding INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    PRIMARY KEY (source, destination, upstream, reference, total, data_coding)
) STRICT, WITHOUT ROWID;
CREATE INDEX joined_messages_received ON joined_messages (received_at);

ALTER TABLE inbound_parts ADD COLUMN repeated INTEGER NOT NULL DEFAULT 0;
