-- An index of the deliveries that have failed before.

-- Most deliveries are accepted at the first attempt, and so are never in this index.
CREATE INDEX deliveries_retried ON deliveries (account_id, next_attempt_at) WHERE attempts > 0;
