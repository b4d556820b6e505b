-- Which messages are an account's: a table instead of an index, so that it can be kept behind the messages.
--
-- `portal/services/accounts/account_messages.py` keeps it. It has the messages with ids up to the counter
-- `indexed_message_id`.

CREATE TABLE account_messages (
    account_id INTEGER NOT NULL,
    message_id INTEGER NOT NULL,
    PRIMARY KEY (account_id, message_id)
) STRICT, WITHOUT ROWID;
INSERT INTO account_messages SELECT account_id, id FROM messages INDEXED BY messages_account ORDER BY account_id, id;
INSERT INTO counters SELECT 'indexed_message_id', coalesce(max(id), 0) FROM messages;
DROP INDEX messages_account;
