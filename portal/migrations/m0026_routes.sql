-- Routes: which upstreams a message takes, by account, destination and sender; and a plainer name for inbound numbers.
--
-- `routes` was the table of the numbers that reach an account. That is `inbound_numbers` now, and the lines of the
-- audit log about it say so, for `route.add` means something else from now on.

ALTER TABLE routes RENAME TO inbound_numbers;
DROP INDEX routes_account;
CREATE INDEX inbound_numbers_account ON inbound_numbers (account_id);
UPDATE audit_log SET action = 'number' || substr(action, 6) WHERE action IN ('route.add', 'route.remove');

-- The first by position that fits a message decides about it; what is NULL fits all. `upstreams`: in the order in which
-- they are tried, with the weights by which the first ones share: [{"id": 3, "weight": 70}, {"id": 5, "weight": null}].
CREATE TABLE routes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    position INTEGER NOT NULL,
    customer_id INTEGER REFERENCES customers ON DELETE CASCADE,
    account_id INTEGER REFERENCES accounts ON DELETE CASCADE,
    country TEXT,
    prefix TEXT,
    sender TEXT,
    upstreams TEXT NOT NULL CHECK (json_type(upstreams) = 'array'),
    created_at INTEGER NOT NULL,
    CHECK (customer_id IS NULL OR account_id IS NULL),
    CHECK (country IS NULL OR prefix IS NULL)
) STRICT;
