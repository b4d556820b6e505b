-- Ids below 2^53: JavaScript and spreadsheets take numbers for floating-point ones, and lose the last digits of others.
--
-- The ids of messages, received messages, movements and deliveries were milliseconds shifted by 20 bits, and a counter;
-- now they are the milliseconds since 2020 shifted by 12 bits, and a counter (`portal/services/common/ids.py`). Order
-- and times stay. An id whose counter needs more than 12 bits gets the next free one; where these are too many, those
-- before them move closer together, so that none leaves its quarter of an hour: a day begins with one in every time
-- zone. Times before 2020, which only wrong clocks give, become the first moments of 2020.
--
-- Clients go on naming their messages by the ids that they were given: those follow from the new ones, except the ones
-- in `former_ids`, which are runs of ids that differ from the former ones by the same number. The counters
-- `former_message_id` and `former_received_id` have the last ids that a client knows by a former one.

CREATE TABLE former_ids (
    first_id INTEGER PRIMARY KEY,
    last_id INTEGER NOT NULL,
    first_former_id INTEGER NOT NULL
) STRICT;

-- What the ids become, where that doesn't follow from the former ones; `crowded_quarters`: where not all of them do.
CREATE TEMP TABLE short_message_ids (former_id INTEGER PRIMARY KEY, short_id INTEGER NOT NULL);
CREATE TEMP TABLE short_movement_ids (former_id INTEGER PRIMARY KEY, short_id INTEGER NOT NULL);
CREATE TEMP TABLE short_delivery_ids (former_id INTEGER PRIMARY KEY, short_id INTEGER NOT NULL);
CREATE TEMP TABLE crowded_quarters (quarter INTEGER PRIMARY KEY);
