-- Indexes for the queries that the SMPP server runs twice a second on messages without a final state.
--
-- They find messages whose date has come, and messages without a date (NULL) that are too old. Within one date an index
-- is in the order of ids. The other index finds scheduled messages by destination, for cancel_sm.

DROP INDEX messages_enroute;
DROP INDEX messages_due;
CREATE INDEX messages_unfinished ON messages (due_at) WHERE state = 1;
CREATE INDEX messages_dated ON messages (account_id, destination) WHERE state = 1 AND due_at IS NOT NULL;
