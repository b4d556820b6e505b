-- Texts that are cut into parts on their way to a carrier: one message, and a row for each part that is not open.
--
-- Only messages that an upstream has taken a part of, or more, are in `cut_messages`; all others have no row here.

-- `settings`: those of the upstream by which the text was cut, as JSON: what is sent again is cut in the same way.
CREATE TABLE cut_messages (
    message_id INTEGER PRIMARY KEY,
    upstream INTEGER NOT NULL,
    total INTEGER NOT NULL,
    settings TEXT NOT NULL
) STRICT;

-- A part has a row from the answer to its submit_sm on, or from its end. `upstream_id` is NULL where the upstream has
-- not accepted it.
CREATE TABLE message_parts (
    message_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    state INTEGER NOT NULL,
    ptt INTEGER NOT NULL,
    upstream INTEGER NOT NULL,
    upstream_id TEXT,
    upstream_status TEXT,
    bind INTEGER,
    sent_at INTEGER,
    done_at INTEGER,
    PRIMARY KEY (message_id, number)
) STRICT, WITHOUT ROWID;
-- By the key of the id, as `messages_upstream` (`m0029_learned_ids`).
CREATE INDEX message_parts_upstream ON message_parts (lower(ltrim(upstream_id, '0')), upstream)
    WHERE state = 1 AND upstream_id IS NOT '';
