-- Tables of the first release.
--
-- Times are milliseconds since 1970 (UTC); credits are thousandths; the ids of messages and movements grow with time
-- (milliseconds shifted left by 20 bits), so that a period is a range of ids.

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
