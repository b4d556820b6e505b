-- Parts of long messages from handsets that wait for the others, and messages that no account has taken.
--
-- `content`: of GSM 03.38 as unpacked septets, without the user data header `udh`.

CREATE TABLE inbound_parts (
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    upstream INTEGER NOT NULL,
    reference INTEGER NOT NULL,
    total INTEGER NOT NULL,
    data_coding INTEGER NOT NULL,
    number INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    charset TEXT NOT NULL,
    udh BLOB,
    content BLOB NOT NULL,
    PRIMARY KEY (source, destination, upstream, reference, total, data_coding, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX inbound_parts_received ON inbound_parts (received_at);

CREATE TABLE unowned_messages (
    id INTEGER PRIMARY KEY,
    upstream INTEGER,
    received_at INTEGER NOT NULL,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE INDEX unowned_messages_received ON unowned_messages (received_at);
