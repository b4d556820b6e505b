-- What customers delete leaves a row without destination and text, so that charges and totals can still be checked.
--
-- `refunded`: what was given back of a message that was sent in parts, of which less may have come back than it cost.
-- `deleted_days`, `deleted_charges` and `deleted_refunds` are sums of what was deleted before; nothing is added to
-- them.

CREATE TABLE deleted_messages (
    account_id INTEGER NOT NULL REFERENCES accounts,
    id INTEGER NOT NULL,
    country TEXT NOT NULL,
    source TEXT NOT NULL,
    state INTEGER NOT NULL,
    ptt INTEGER NOT NULL,
    parts INTEGER NOT NULL,
    price INTEGER NOT NULL,
    refunded INTEGER,
    PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;
