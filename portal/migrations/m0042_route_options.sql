-- What a route may do beside choosing upstreams, which sender went out instead of a customer's, and what went by routes.

-- `version` grows with each change of what the route says, so that nobody overwrites what somebody else has changed.
-- `replace_sender`: the sender that goes out instead of the customer's. `quiet_hours`: the time of each day in which its
-- messages wait, as "22:00-08:00 Europe/Rome". `buying_price`: what a part costs, in thousandths of a credit.
ALTER TABLE routes ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE routes ADD COLUMN replace_sender TEXT;
ALTER TABLE routes ADD COLUMN quiet_hours TEXT;
ALTER TABLE routes ADD COLUMN buying_price INTEGER;

-- The route by which a carrier has accepted a message; 0: by none, as the default upstream has got it.
ALTER TABLE messages ADD COLUMN route INTEGER;

-- The senders that went out instead of those of `messages`.
CREATE TABLE replaced_senders (
    message_id INTEGER PRIMARY KEY,
    sender TEXT NOT NULL
) STRICT;

-- What carriers have accepted, by the month of the submit (UTC; years times twelve, and months from 0), the route that
-- decided (0: none did) and the country. `price` was charged for it, `cost` is what carriers bill, both in thousandths of a
-- credit; `priced_parts`: those of a route that had a buying price then.
CREATE TABLE route_usage (
    month INTEGER NOT NULL,
    route_id INTEGER NOT NULL,
    country TEXT NOT NULL,
    messages INTEGER NOT NULL,
    parts INTEGER NOT NULL,
    price INTEGER NOT NULL,
    priced_parts INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    PRIMARY KEY (month, route_id, country)
) STRICT, WITHOUT ROWID;
