-- The policy for a customer's texts (`portal/services/messages/text_policy.py`).
--
-- `kept` is 0 where the text of a message was removed. A chunk that is not `worded` contains no words. `text_removals`
-- has the work left for an account whose texts are no longer kept: up to which message, and the progress; `texts` is 1
-- where stored texts are removed, too.

ALTER TABLE customers ADD COLUMN texts TEXT NOT NULL DEFAULT 'shown' CHECK (texts IN ('shown', 'hidden', 'none'));
CREATE INDEX customers_without_texts ON customers (id) WHERE texts = 'none';
ALTER TABLE messages ADD COLUMN kept INTEGER NOT NULL DEFAULT 1;
ALTER TABLE received ADD COLUMN kept INTEGER NOT NULL DEFAULT 1;
ALTER TABLE history_chunks ADD COLUMN worded INTEGER NOT NULL DEFAULT 1;
CREATE TABLE text_removals (
    account_id INTEGER PRIMARY KEY REFERENCES accounts ON DELETE CASCADE,
    texts INTEGER NOT NULL,
    after_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    received_after_id INTEGER NOT NULL
) STRICT;
