-- Ids of eight hexadecimal digits, for the messages of clients that keep no longer ones (SMPP 3.3 and older).
--
-- `counters` has the id that was given last.

CREATE TABLE hex_ids (
    message_id INTEGER PRIMARY KEY,
    hex_id INTEGER NOT NULL UNIQUE
) STRICT;
INSERT INTO counters (name, value) VALUES ('hex_id', 0);
