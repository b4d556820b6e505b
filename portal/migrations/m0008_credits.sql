-- Price lists, packs and orders, expiring credits, and the monthly cost of messages.
--
-- A row of prices is the price of a part from a time on, to a country or to numbers with a prefix; NULL: nothing is
-- sent there. List 1 is the default list; the others have only prices that differ from it.
--
-- Thresholds are columns of accounts, which each batch of messages reads anyway. What a month's messages cost is summed
-- up as they are stored, so that a summary reads few rows, however many messages there were.

CREATE TABLE price_lists (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    created_at INTEGER NOT NULL
) STRICT;
INSERT INTO price_lists VALUES (1, '', 0);
CREATE TABLE list_prices (
    list_id INTEGER NOT NULL REFERENCES price_lists ON DELETE CASCADE,
    destination TEXT NOT NULL,
    valid_from INTEGER NOT NULL,
    price INTEGER CHECK (price > 0),
    PRIMARY KEY (list_id, destination, valid_from)
) STRICT, WITHOUT ROWID;
INSERT INTO list_prices SELECT 1, country, 0, price FROM prices;
DROP TABLE prices;
ALTER TABLE list_prices RENAME TO prices;
INSERT INTO counters VALUES ('prices_version', 0);

ALTER TABLE customers ADD COLUMN price_list_id INTEGER REFERENCES price_lists;
ALTER TABLE customers ADD COLUMN credit_line INTEGER NOT NULL DEFAULT 0;
ALTER TABLE customers ADD COLUMN recredit_min_age_days INTEGER NOT NULL DEFAULT 60;

ALTER TABLE accounts ADD COLUMN alert_below INTEGER;
ALTER TABLE accounts ADD COLUMN alert_to TEXT NOT NULL DEFAULT '';
ALTER TABLE accounts ADD COLUMN recredit_below INTEGER;
ALTER TABLE accounts ADD COLUMN recredit_pack INTEGER;
ALTER TABLE accounts ADD COLUMN recredit_per_day INTEGER NOT NULL DEFAULT 1;

CREATE TABLE packs (
    credits INTEGER PRIMARY KEY CHECK (credits > 0),
    price INTEGER NOT NULL CHECK (price >= 0),
    currency TEXT NOT NULL
) STRICT;
INSERT INTO packs VALUES (100000, 700, 'EUR'), (200000, 1360, 'EUR'), (250000, 1650, 'EUR'), (500000, 3150, 'EUR'),
    (1000000, 6000, 'EUR'), (5000000, 28500, 'EUR'), (10000000, 54000, 'EUR');

CREATE TABLE orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts,
    origin TEXT NOT NULL CHECK (origin IN ('customer', 'automatic')),
    credits INTEGER NOT NULL CHECK (credits > 0),
    price INTEGER NOT NULL CHECK (price >= 0),
    currency TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    movement_id INTEGER UNIQUE REFERENCES movements,
    paid_at INTEGER,
    paid_by TEXT NOT NULL DEFAULT '',
    payment TEXT NOT NULL DEFAULT '',
    cancelled_at INTEGER,
    cancelled_by TEXT NOT NULL DEFAULT '',
    CHECK (paid_at IS NULL OR cancelled_at IS NULL),
    CHECK (paid_at IS NULL OR movement_id IS NOT NULL)
) STRICT;
CREATE INDEX orders_account ON orders (account_id);
CREATE INDEX orders_open ON orders (account_id) WHERE paid_at IS NULL AND cancelled_at IS NULL;
CREATE INDEX orders_automatic ON orders (account_id, movement_id) WHERE origin = 'automatic';

CREATE TABLE credit_notices (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts,
    kind TEXT NOT NULL CHECK (kind IN ('low', 'recredited', 'requested')),
    at INTEGER NOT NULL,
    balance INTEGER NOT NULL,
    order_id INTEGER REFERENCES orders
) STRICT;

-- What of a movement runs out at a date. A transfer may bring credits of several dates. Where something
-- was left at the date, expiry_id is the movement that took it away.
CREATE TABLE expiring_credits (
    account_id INTEGER NOT NULL REFERENCES accounts,
    movement_id INTEGER NOT NULL REFERENCES movements,
    expires_at INTEGER NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    expired_at INTEGER,
    expiry_id INTEGER UNIQUE REFERENCES movements,
    PRIMARY KEY (account_id, movement_id, expires_at)
) STRICT, WITHOUT ROWID;
CREATE INDEX expiring_credits_due ON expiring_credits (expires_at) WHERE expired_at IS NULL;

CREATE TABLE monthly_usage (
    account_id INTEGER NOT NULL REFERENCES accounts,
    month INTEGER NOT NULL,
    country TEXT NOT NULL,
    source TEXT NOT NULL,
    messages INTEGER NOT NULL,
    parts INTEGER NOT NULL,
    price INTEGER NOT NULL,
    PRIMARY KEY (account_id, month, country, source)
) STRICT, WITHOUT ROWID;
INSERT INTO monthly_usage
    SELECT account_id, strftime('%Y', (id >> 20) / 1000, 'unixepoch') * 12
           + strftime('%m', (id >> 20) / 1000, 'unixepoch') - 1 AS month,
           country, source, count(*), sum(parts), sum(price)
    FROM messages WHERE price > 0 GROUP BY account_id, month, country, source;

CREATE TABLE checks (at INTEGER PRIMARY KEY, problems TEXT NOT NULL) STRICT;

CREATE UNIQUE INDEX movements_refunds ON movements (first_message_id)
    WHERE kind = 'refund' AND first_message_id IS NOT NULL;
CREATE INDEX movements_kinds ON movements (account_id, kind) WHERE kind <> 'usage';
