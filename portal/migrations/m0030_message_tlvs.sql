-- Optional parameters of messages that an upstream is to get as their client has sent them.
--
-- `tlvs`: their values in hexadecimal digits by tag, as JSON.

CREATE TABLE message_tlvs (
    message_id INTEGER PRIMARY KEY,
    tlvs TEXT NOT NULL
) STRICT;
