-- Receipts find their message whatever becomes of letter case and leading zeros of its id, and whatever form it has.
--
-- What is looked up is an expression of the id, which itself stays as it came; messages to which an upstream has given
-- no id are not in the index. `learned_ids`: by which form the last receipts of an upstream were found, and how many in
-- a row.

DROP INDEX messages_upstream;
CREATE INDEX messages_upstream ON messages (lower(ltrim(upstream_id, '0')), upstream)
    WHERE state = 1 AND upstream IS NOT NULL AND bind IS NOT 0 AND upstream_id IS NOT '';

DROP INDEX unmatched_receipts_message;
DROP INDEX unmatched_receipts_other;
CREATE INDEX unmatched_receipts_message ON unmatched_receipts (lower(ltrim(message_id, '0')), received_at);
CREATE INDEX unmatched_receipts_other ON unmatched_receipts (lower(ltrim(other_id, '0')), received_at)
    WHERE other_id IS NOT NULL;

CREATE TABLE learned_ids (
    upstream INTEGER PRIMARY KEY REFERENCES upstreams ON DELETE CASCADE,
    form TEXT NOT NULL,
    matches INTEGER NOT NULL
) STRICT;
