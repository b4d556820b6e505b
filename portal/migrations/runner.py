"""The database's schema, as numbered steps that are only ever added to.

A step that has been released is never edited: a database out there has already taken it.
"""

import fcntl
import sqlite3
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlite_utils import Database, Migrations

from portal.core import db

migrations = Migrations("portal")


class NewerDatabase(Exception):
    """A newer version of this program has changed the database in ways that this one doesn't know."""


# Times are milliseconds since 1970 (UTC); credits are thousandths; the ids of messages and movements grow with time
# (milliseconds shifted left by 20 bits), so that a period is a range of ids.
_INITIAL = """
CREATE TABLE customers (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    contact_email TEXT NOT NULL,
    language TEXT NOT NULL DEFAULT 'en',
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER REFERENCES customers,
    email TEXT NOT NULL UNIQUE COLLATE NOCASE,
    role TEXT NOT NULL CHECK (role IN ('owner', 'manager', 'viewer', 'operator')),
    password_hash TEXT,
    totp_secret BLOB,
    totp_enrolled_at INTEGER,
    totp_last_step INTEGER NOT NULL DEFAULT 0,
    language TEXT,
    created_at INTEGER NOT NULL,
    CHECK ((role = 'operator') = (customer_id IS NULL))
) STRICT;

CREATE TABLE recovery_codes (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    code_hash BLOB NOT NULL,
    used_at INTEGER
) STRICT;
CREATE INDEX recovery_codes_user ON recovery_codes (user_id);

CREATE TABLE one_time_links (
    token_hash BLOB PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    expires_at INTEGER NOT NULL,
    used_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE login_sessions (
    id INTEGER PRIMARY KEY,
    token_hash BLOB NOT NULL UNIQUE,
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT;
CREATE INDEX login_sessions_user ON login_sessions (user_id);

CREATE TABLE throttle_buckets (
    name TEXT PRIMARY KEY,
    tokens REAL NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    kind TEXT NOT NULL CHECK (kind IN ('smpp', 'sms')),
    description TEXT NOT NULL DEFAULT '',
    balance INTEGER NOT NULL DEFAULT 0 CHECK (balance >= 0),
    windowing INTEGER NOT NULL,
    throughput INTEGER NOT NULL,
    binds INTEGER NOT NULL,
    any_sender INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    disabled_at INTEGER,
    deleted_at INTEGER,
    config_version INTEGER NOT NULL DEFAULT 0,
    applied_version INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX accounts_customer ON accounts (customer_id);
CREATE INDEX accounts_config_version ON accounts (config_version);

-- AUTOINCREMENT where somebody remembers an id: a session that of its password, an open page that of an address or a
-- sender. It may never come back as another one's.
CREATE TABLE smpp_passwords (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    digest BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    replaced_at INTEGER,
    expires_at INTEGER
) STRICT;
CREATE INDEX smpp_passwords_account ON smpp_passwords (account_id);
CREATE UNIQUE INDEX smpp_passwords_current ON smpp_passwords (account_id) WHERE replaced_at IS NULL;

CREATE TABLE allowed_ips (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    network TEXT NOT NULL,
    label TEXT NOT NULL DEFAULT '',
    expires_at INTEGER,
    created_at INTEGER NOT NULL,
    UNIQUE (account_id, network)
) STRICT;

CREATE TABLE senders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    address TEXT NOT NULL,
    type TEXT NOT NULL CHECK (type IN ('alpha', 'shortcode', 'numeric', 'virtual')),
    status TEXT NOT NULL CHECK (status IN ('enable', 'disable', 'waitingValidation', 'refused')),
    description TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    comment TEXT NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL,
    decided_at INTEGER,
    UNIQUE (account_id, address)
) STRICT;

CREATE TABLE prices (
    country TEXT PRIMARY KEY,
    price INTEGER NOT NULL CHECK (price > 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE movements (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    kind TEXT NOT NULL CHECK (kind IN ('grant', 'purchase', 'transfer_out', 'transfer_in', 'usage', 'refund',
                                       'correction', 'expiry')),
    amount INTEGER NOT NULL,
    balance_after INTEGER NOT NULL,
    actor TEXT NOT NULL,
    note TEXT NOT NULL DEFAULT '',
    counterpart_id INTEGER REFERENCES accounts,
    messages INTEGER,
    first_message_id INTEGER,
    last_message_id INTEGER
) STRICT;
CREATE INDEX movements_account ON movements (account_id);

CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    source TEXT NOT NULL,
    source_ton INTEGER NOT NULL,
    source_npi INTEGER NOT NULL,
    destination TEXT NOT NULL,
    country TEXT NOT NULL,
    text TEXT NOT NULL,
    udh BLOB,
    data_coding INTEGER NOT NULL,
    registered_delivery INTEGER NOT NULL,
    reference INTEGER,
    parts INTEGER NOT NULL,
    price INTEGER NOT NULL,
    state INTEGER NOT NULL,
    ptt INTEGER NOT NULL,
    done_at INTEGER
) STRICT;
CREATE INDEX messages_account ON messages (account_id);
CREATE INDEX messages_enroute ON messages (id) WHERE state = 1;

CREATE TABLE receipts (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    message_id INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_at INTEGER NOT NULL
) STRICT;
CREATE INDEX receipts_account ON receipts (account_id);
CREATE INDEX receipts_message ON receipts (message_id);

CREATE TABLE daily_totals (
    account_id INTEGER NOT NULL REFERENCES accounts,
    day INTEGER NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    stopped INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    parts INTEGER NOT NULL DEFAULT 0,
    price INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (account_id, day)
) STRICT, WITHOUT ROWID;

CREATE TABLE connections (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    address TEXT NOT NULL,
    bind_type TEXT NOT NULL CHECK (bind_type IN ('transmitter', 'receiver', 'transceiver')),
    tls TEXT NOT NULL,
    password_id INTEGER NOT NULL,
    bound_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    submitted INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    window INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX connections_account ON connections (account_id);

CREATE TABLE refused_binds (
    account_id INTEGER NOT NULL REFERENCES accounts,
    address TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, address, reason)
) STRICT, WITHOUT ROWID;

CREATE TABLE components (
    name TEXT PRIMARY KEY,
    started_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE mails (
    id INTEGER PRIMARY KEY,
    recipient TEXT NOT NULL,
    content BLOB,
    created_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_at INTEGER,
    sent_at INTEGER,
    error TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX mails_waiting ON mails (next_attempt_at) WHERE next_attempt_at IS NOT NULL;

CREATE TABLE audit_log (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    address TEXT NOT NULL,
    customer_id INTEGER,
    account_id INTEGER,
    action TEXT NOT NULL,
    details TEXT NOT NULL
) STRICT;
CREATE INDEX audit_log_account ON audit_log (account_id);

CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO counters VALUES ('config_version', 0), ('message_id', 0), ('movement_id', 0);
"""

# What the SMPP server keeps in memory. Triggers move the version, so that no writer can forget to: a row that is
# changed by hand in the sqlite3 shell reaches the open sessions too.
_WATCHED = {
    "allowed_ips": ("account_id", ""),
    "smpp_passwords": ("account_id", ""),
    "senders": ("account_id", ""),
    "accounts": ("id", " OF name, disabled_at, deleted_at, windowing, throughput, binds, any_sender"),
}


@migrations()
def m0001_initial(database: Database) -> None:
    _execute_all(database, _INITIAL)
    for table, (account, columns) in _WATCHED.items():
        for event, row in (("INSERT", "NEW"), (f"UPDATE{columns}", "NEW"), ("DELETE", "OLD")):
            name = event.split()[0].lower()
            database.execute(_moving_the_version(table, name, event, f"{row}.{account}"))
    for event in ("INSERT", "UPDATE", "DELETE"):
        database.execute(
            f"CREATE TRIGGER prices_{event.lower()} AFTER {event} ON prices BEGIN "
            f"UPDATE counters SET value = value + 1 WHERE name = 'config_version'; END"
        )


def _moving_the_version(table: str, name: str, event: str, account_id: str) -> str:
    """A trigger after which the SMPP server reads the account anew."""
    return (
        f"CREATE TRIGGER {table}_{name} AFTER {event} ON {table} BEGIN "
        f"UPDATE counters SET value = value + 1 WHERE name = 'config_version'; "
        f"UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') "
        f"WHERE id = {account_id}; END"
    )


@migrations()
def m0002_spent_forms(database: Database) -> None:
    database.execute("CREATE TABLE spent_forms (number TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID")


# An UPDATE of another column (a session's progress, every two seconds) must not move the version.
_SESSIONS = """
ALTER TABLE connections ADD COLUMN rates TEXT NOT NULL DEFAULT '';
ALTER TABLE connections ADD COLUMN ending_at INTEGER;
CREATE INDEX connections_ending ON connections (account_id) WHERE ending_at IS NOT NULL;

ALTER TABLE refused_binds ADD COLUMN password_id INTEGER;

ALTER TABLE users ADD COLUMN refusal_mails INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN refusals_mailed_at INTEGER NOT NULL DEFAULT 0;

-- Who has been told of which refusals. They go with the refusals, which are bounded.
CREATE TABLE mailed_refusals (
    account_id INTEGER NOT NULL,
    address TEXT NOT NULL,
    reason TEXT NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    PRIMARY KEY (account_id, address, reason, user_id),
    FOREIGN KEY (account_id, address, reason) REFERENCES refused_binds ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX mailed_refusals_user ON mailed_refusals (user_id);
"""


@migrations()
def m0003_sessions(database: Database) -> None:
    _execute_all(database, _SESSIONS)
    database.execute(_moving_the_version("connections", "ending", "UPDATE OF ending_at", "NEW.account_id"))


# What a message may carry beyond its text (binary body, place in a concatenated text, dates), and what an account may
# send. `due_at`: when the SMPP server has to look at a message that waits: its date, then the end of its validity.
_WHOLE_PROMISE = """
ALTER TABLE messages ADD COLUMN body BLOB;
ALTER TABLE messages ADD COLUMN subunit INTEGER;
ALTER TABLE messages ADD COLUMN segment_reference INTEGER;
ALTER TABLE messages ADD COLUMN segment_total INTEGER;
ALTER TABLE messages ADD COLUMN segment_number INTEGER;
ALTER TABLE messages ADD COLUMN joined_to INTEGER;
ALTER TABLE messages ADD COLUMN scheduled_at INTEGER;
ALTER TABLE messages ADD COLUMN expires_at INTEGER;
ALTER TABLE messages ADD COLUMN due_at INTEGER;
CREATE INDEX messages_due ON messages (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX messages_joined ON messages (joined_to) WHERE joined_to IS NOT NULL;
CREATE INDEX messages_segments ON messages (account_id, destination, segment_reference)
    WHERE segment_reference IS NOT NULL;

ALTER TABLE accounts ADD COLUMN data_codings TEXT NOT NULL DEFAULT '';
ALTER TABLE accounts ADD COLUMN packed_gsm INTEGER NOT NULL DEFAULT 0;
DROP TRIGGER accounts_update;

-- What was received from handsets (MO).
CREATE TABLE received (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    keyword TEXT NOT NULL DEFAULT '',
    text TEXT NOT NULL,
    body BLOB,
    udh BLOB,
    data_coding INTEGER NOT NULL
) STRICT;
CREATE INDEX received_account ON received (account_id);

-- Which account gets what is sent to a number; '' is the keyword of whatever begins with no other one's.
CREATE TABLE routes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    number TEXT NOT NULL,
    keyword TEXT NOT NULL DEFAULT '' COLLATE NOCASE,
    created_at INTEGER NOT NULL,
    UNIQUE (number, keyword)
) STRICT;
CREATE INDEX routes_account ON routes (account_id);

CREATE TABLE blacklist (
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    number TEXT NOT NULL,
    since INTEGER NOT NULL,
    received_id INTEGER,
    PRIMARY KEY (account_id, number)
) STRICT, WITHOUT ROWID;

-- What the SMPP server is to take for a message from a handset: the way from the shell to the built-in upstream.
CREATE TABLE simulated (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE TRIGGER simulated_insert AFTER INSERT ON simulated BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'config_version'; END;

-- What waits for an account's receivers: the receipt of a message, or what was received. One tree, in the order of
-- delivery, because each row is written and deleted once a message; no reference to it, so that nothing has to look for
-- it when a message is deleted.
CREATE TABLE deliveries (
    account_id INTEGER NOT NULL,
    id INTEGER NOT NULL,
    message_id INTEGER,
    received_id INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, id),
    CHECK ((message_id IS NULL) <> (received_id IS NULL))
) STRICT, WITHOUT ROWID;
INSERT INTO deliveries (account_id, id, message_id, attempts, next_attempt_at)
    SELECT account_id, id, message_id, attempts, next_attempt_at FROM receipts;
DROP TABLE receipts;

-- No message's id is ever given again, also not that of the newest one after it was deleted and the clock was set back.
CREATE TRIGGER messages_delete AFTER DELETE ON messages
    WHEN OLD.id > (SELECT value FROM counters WHERE name = 'message_id') BEGIN
    UPDATE counters SET value = OLD.id WHERE name = 'message_id'; END;
CREATE TRIGGER received_delete AFTER DELETE ON received
    WHEN OLD.id > (SELECT value FROM counters WHERE name = 'message_id') BEGIN
    UPDATE counters SET value = OLD.id WHERE name = 'message_id'; END;
"""


@migrations()
def m0004_whole_promise(database: Database) -> None:
    _execute_all(database, _WHOLE_PROMISE)
    columns = "name, disabled_at, deleted_at, windowing, throughput, binds, any_sender, data_codings, packed_gsm"
    database.execute(_moving_the_version("accounts", "update", f"UPDATE OF {columns}", "NEW.id"))


@migrations()
def m0005_retries(database: Database) -> None:
    # Few of what waits has been tried in vain, and most of it is never in here.
    database.execute("CREATE INDEX deliveries_retried ON deliveries (account_id, next_attempt_at) WHERE attempts > 0")


@migrations()
def m0006_ages_of_receipts(database: Database) -> None:
    # The id of what waits holds the time since when it does, and is given up by that. Those of the first release were
    # plain numbers, which would be given up at once; the id of its message is as old, and as much in order.
    database.execute("UPDATE deliveries SET id = message_id WHERE id < 1 << 40")


# What the SMPP server looks for twice a second among messages without a final state: dates that have come, and those
# without a date (NULL) that are too old. Within one date an index is in the order of ids. By the other index a message
# that waits for a date is found among all of them, when it is called back by its destination.
_UNFINISHED = """
DROP INDEX messages_enroute;
DROP INDEX messages_due;
CREATE INDEX messages_unfinished ON messages (due_at) WHERE state = 1;
CREATE INDEX messages_dated ON messages (account_id, destination) WHERE state = 1 AND due_at IS NOT NULL;
"""


@migrations()
def m0007_unfinished_messages(database: Database) -> None:
    _execute_all(database, _UNFINISHED)


# Price lists: a row says what a part costs from a moment on, to a country or to numbers that begin with some digits;
# NULL: nothing is sent there. List 1 is the default one, and the others say what differs from it.
# Thresholds stand in the row that each batch of messages reads anyway. What a month's messages cost is counted as it
# happens, so that a summary reads few rows however many messages there were.
_CREDITS = """
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
"""


@migrations()
def m0008_credits(database: Database) -> None:
    _execute_all(database, _CREDITS)
    for event in ("INSERT", "UPDATE", "DELETE"):
        database.execute(
            f"CREATE TRIGGER prices_{event.lower()} AFTER {event} ON prices BEGIN "
            f"UPDATE counters SET value = value + 1 WHERE name IN ('config_version', 'prices_version'); END"
        )
    database.execute(
        "CREATE TRIGGER customers_price_list AFTER UPDATE OF price_list_id ON customers BEGIN "
        "UPDATE counters SET value = value + 1 WHERE name = 'config_version'; "
        "UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') "
        "WHERE customer_id = NEW.id; END"
    )


# Documents lie in the database, so that one file is the whole backup; in pieces, because whoever writes five megabytes
# at once keeps the SMPP server from writing meanwhile. A sender that was removed waits for an undo in a table of its
# own: whoever asks for an account's senders can't forget to leave it out.
_SENDERS = """
CREATE TABLE sender_documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    name TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL CHECK (type IN ('pdf', 'png', 'jpeg')),
    size INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX sender_documents_account ON sender_documents (account_id);

CREATE TABLE sender_document_pieces (
    document_id INTEGER NOT NULL REFERENCES sender_documents ON DELETE CASCADE,
    number INTEGER NOT NULL,
    content BLOB NOT NULL,
    UNIQUE (document_id, number)
) STRICT;

ALTER TABLE senders ADD COLUMN document_id INTEGER REFERENCES sender_documents;
CREATE INDEX senders_document ON senders (document_id);
CREATE INDEX senders_status ON senders (status);

CREATE TABLE removed_senders (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    address TEXT NOT NULL,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    description TEXT NOT NULL,
    reason TEXT NOT NULL,
    comment TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    decided_at INTEGER,
    document_id INTEGER REFERENCES sender_documents,
    removed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX removed_senders_account ON removed_senders (account_id);
CREATE INDEX removed_senders_document ON removed_senders (document_id);
"""


@migrations()
def m0009_senders(database: Database) -> None:
    _execute_all(database, _SENDERS)


# Who put a number on a blacklist; until now only the shell did, and STOP. Its page lists the newest first. What became
# of a message from a handset: when a client accepted it, or it was given up (0: nobody wrote down which, or when).
_BLACKLIST_AND_RECEIVED = """
ALTER TABLE blacklist ADD COLUMN added_by TEXT NOT NULL DEFAULT '';
UPDATE blacklist SET added_by = 'shell' WHERE received_id IS NULL;
CREATE INDEX blacklist_newest ON blacklist (account_id, since);

ALTER TABLE received ADD COLUMN ended_at INTEGER;
ALTER TABLE received ADD COLUMN given_up INTEGER NOT NULL DEFAULT 0;
UPDATE received SET ended_at = 0
    WHERE id NOT IN (SELECT received_id FROM deliveries WHERE received_id IS NOT NULL);
CREATE INDEX received_waiting ON received (account_id) WHERE ended_at IS NULL;
"""


@migrations()
def m0011_blacklist_and_received(database: Database) -> None:
    _execute_all(database, _BLACKLIST_AND_RECEIVED)


# Of each 256 messages of an account, which words, numbers and senders are not among them (`search_index`).
# Failed messages are few; the index is in the order of the history's lines, and knows the codes.
_SEARCH = """
CREATE TABLE history_chunks (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    bits BLOB NOT NULL,
    UNIQUE (account_id, last_id)
) STRICT;
CREATE INDEX messages_failed ON messages (account_id, coalesce(joined_to, id), ptt) WHERE ptt NOT IN (0, 254);
"""


@migrations()
def m0012_search(database: Database) -> None:
    _execute_all(database, _SEARCH)


# What is counted of messages (`rollup`): `length` is that of an hour, a day or a month, which `begins` so
# many of them after 1970 (months: after the year 0). `ended` has the ids of messages whose ends are still to be
# counted, eight octets each; `gathered` the last message and the last row of `ended` that have been.
_STATISTICS = """
CREATE TABLE statistics (
    account_id INTEGER NOT NULL REFERENCES accounts,
    length INTEGER NOT NULL,
    begins INTEGER NOT NULL,
    country TEXT NOT NULL,
    source TEXT NOT NULL,
    sent INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    stopped INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    parts INTEGER NOT NULL,
    price INTEGER NOT NULL,
    PRIMARY KEY (account_id, length, begins, country, source)
) STRICT, WITHOUT ROWID;
CREATE TABLE statistics_endings (
    account_id INTEGER NOT NULL REFERENCES accounts,
    length INTEGER NOT NULL,
    begins INTEGER NOT NULL,
    ptt INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    PRIMARY KEY (account_id, length, begins, ptt)
) STRICT, WITHOUT ROWID;
CREATE TABLE statistics_times (
    account_id INTEGER NOT NULL REFERENCES accounts,
    length INTEGER NOT NULL,
    begins INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    PRIMARY KEY (account_id, length, begins, bucket)
) STRICT, WITHOUT ROWID;
CREATE TABLE ended (id INTEGER PRIMARY KEY, messages BLOB NOT NULL) STRICT;
CREATE TABLE gathered (message_id INTEGER NOT NULL, ended_id INTEGER NOT NULL) STRICT;
INSERT INTO gathered VALUES (0, 0);
DROP TABLE monthly_usage;
"""
_ENDED_IN_ONE_ROW = 500


@migrations()
def m0013_statistics(database: Database) -> None:
    _execute_all(database, _STATISTICS)
    # Counting years of messages takes a while: that is done later, behind the server that runs again.
    rows = database.execute("SELECT id FROM messages WHERE state <> 1 AND price > 0 ORDER BY id")
    while some := rows.fetchmany(_ENDED_IN_ONE_ROW):
        message_ids = array("q", [message_id for (message_id,) in some])
        database.execute("INSERT INTO ended (messages) VALUES (?)", (message_ids.tobytes(),))


# Deletion (`deletion`) and retention (`services/history/retention.py`). What is left of messages that were deleted,
# so that what was charged and counted for them can still be proven: by day, country and sender; by the usage movement
# that has charged them, as the first message that it names (0: none); and, of those whose price was given back, each.
# An account's `kept_since` is the day (days since 1970) before which nothing has to be there; `removed_messages` moves
# with each that goes.
# In `deletions` `wanted` says which messages are to go (JSON), those from `before` on are done with, and `removed` had
# gone by then of `total` (NULL: nobody has counted them), while `underway` and `waiting` (for a client to take their
# receipts) stay. `blacklist.said` is for when the message that has said it was removed.
_DELETION = """
ALTER TABLE accounts ADD COLUMN kept_since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN removed_messages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE customers ADD COLUMN messages_months INTEGER CHECK (messages_months > 0);
ALTER TABLE blacklist ADD COLUMN said TEXT;
CREATE TABLE deleted_days (
    account_id INTEGER NOT NULL REFERENCES accounts,
    day INTEGER NOT NULL,
    country TEXT NOT NULL,
    source TEXT NOT NULL,
    sent INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    stopped INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    parts INTEGER NOT NULL,
    price INTEGER NOT NULL,
    PRIMARY KEY (account_id, day, country, source)
) STRICT, WITHOUT ROWID;
CREATE TABLE deleted_charges (
    account_id INTEGER NOT NULL REFERENCES accounts,
    charged_from INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    price INTEGER NOT NULL,
    PRIMARY KEY (account_id, charged_from)
) STRICT, WITHOUT ROWID;
CREATE TABLE deleted_refunds (
    message_id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    price INTEGER NOT NULL,
    state INTEGER NOT NULL,
    ptt INTEGER NOT NULL
) STRICT;
CREATE TABLE deletions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('sent', 'received')),
    wanted TEXT NOT NULL,
    asked_at INTEGER NOT NULL,
    asked_by TEXT NOT NULL,
    address TEXT NOT NULL,
    before INTEGER NOT NULL,
    total INTEGER,
    removed INTEGER NOT NULL DEFAULT 0,
    underway INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0,
    ended_at INTEGER
) STRICT;
CREATE INDEX deletions_account ON deletions (account_id);
CREATE INDEX deletions_open ON deletions (id) WHERE ended_at IS NULL;
"""


@migrations()
def m0014_deletion(database: Database) -> None:
    _execute_all(database, _DELETION)


# What becomes of a customer's texts (`text_policy`). `kept` is 0 where the text of a message was removed.
# A chunk that is not `worded` says nothing about words. `text_removals`: what is still to be done for an account whose
# texts are not kept any more: up to which message, and how far it is; 1: the texts that were stored before go, too.
_PRIVACY = """
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
"""


@migrations()
def m0015_privacy(database: Database) -> None:
    _execute_all(database, _PRIVACY)


# Where a message came from, and what its upstream said of it: the session, as long as that is kept; the upstream's own
# id of the message, and its status in its own words. No foreign key: each message would have to look its session up.
# `connections` has the sessions that are open. Those that were when this step was taken have ids of another kind, and
# their server is gone. Chunks are built anew, because they tell one more length of words (`search_index`).
_ORIGINS = """
ALTER TABLE messages ADD COLUMN session_id INTEGER;
ALTER TABLE messages ADD COLUMN upstream_id TEXT;
ALTER TABLE messages ADD COLUMN upstream_status TEXT;
CREATE TABLE ended_sessions (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    address TEXT NOT NULL,
    bind_type TEXT NOT NULL,
    tls TEXT NOT NULL,
    bound_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL
) STRICT;
CREATE INDEX ended_sessions_account ON ended_sessions (account_id, ended_at);
DELETE FROM connections;
INSERT INTO counters VALUES ('session_id', 0);
DELETE FROM history_chunks;
"""


@migrations()
def m0016_origins(database: Database) -> None:
    _execute_all(database, _ORIGINS)


def _execute_all(database: Database, script: str) -> None:
    # Not executescript(): it commits whatever transaction is open, and with it half a migration.
    for statement in script.split(";\n"):
        if statement.strip():
            database.execute(statement)


def migrate(file: Path, *, keep_backups: int) -> list[str]:
    """Bring a database up to date, after a copy of it as it was (`backups/` beside it).

    Processes that start at the same time wait for each other.

    Args:
        file: the database; an empty one gets the whole schema.
        keep_backups: how many of the copies stay.

    Returns:
        The names of the steps taken, none when it was up to date.

    Raises:
        NewerDatabase: nothing has changed.
    """
    with _locked(file.with_suffix(".migrate.lock")):
        conn = db.connect(file)
        try:
            database = Database(conn)
            if unknown := unknown_steps(database):
                raise NewerDatabase(f"{file} was written by a newer version of this program ({', '.join(unknown)})")
            steps = [each.name for each in migrations.pending(database)]
            if steps and migrations.applied(database):
                _copy_before(conn, file, keep_backups)
            if steps:
                migrations.apply(database)
            return steps
        finally:
            conn.close()


def unknown_steps(database: Database) -> list[str]:
    """The steps that a database has taken and this program doesn't have."""
    known = {each.name for each in migrations.pending(Database(memory=True))}
    return [each.name for each in migrations.applied(database) if each.name not in known]


def _copy_before(conn: sqlite3.Connection, file: Path, keep: int) -> None:
    folder = file.parent / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    conn.execute("VACUUM INTO ?", (str(folder / f"before-migration-{stamp}.db"),))
    copies = sorted(folder.glob("before-migration-*.db"))
    for old in copies[: max(0, len(copies) - keep)]:
        old.unlink()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
