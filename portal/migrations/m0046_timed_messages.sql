-- Of what was tried of an account to a destination, either upstreams have some, which now stands in `not_before` (1 << 50),
-- or the first alone has a time for the next try.
UPDATE held_messages SET not_before = 1125899906842624 WHERE attempts > 0
    AND EXISTS (SELECT 1 FROM messages WHERE id = message_id AND state = 1 AND upstream IS NOT NULL);
CREATE INDEX held_messages_timed ON held_messages (account_id, destination) WHERE not_before IS NOT NULL;
-- What operators held had a time, each, so that nobody scheduled what came behind it.
UPDATE held_messages AS h SET not_before = NULL WHERE not_before < 1125899906842624 AND EXISTS (
    SELECT 1 FROM held_messages AS o WHERE o.account_id = h.account_id AND o.destination = h.destination
    AND o.attempts > 0 AND o.message_id < h.message_id);
UPDATE held_messages AS h SET not_before = 0 WHERE attempts > 0 AND not_before IS NULL
    AND NOT EXISTS (SELECT 1 FROM held_messages AS o WHERE o.account_id = h.account_id AND o.destination = h.destination
        AND o.attempts > 0 AND o.message_id < h.message_id)
    AND NOT EXISTS (SELECT 1 FROM held_messages AS o WHERE o.account_id = h.account_id AND o.destination = h.destination
        AND o.not_before IS NOT NULL);
DROP INDEX held_messages_begun;
CREATE INDEX held_messages_begun ON held_messages (path, account_id) WHERE not_before = 1125899906842624;
