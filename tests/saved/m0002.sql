BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'portal','m0001_initial','2026-11-22 20:58:42.703011+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'portal','m0002_spent_forms','2026-11-22 20:58:42.705052+00:00');
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
INSERT INTO "accounts" VALUES(1,1,'smpp-acme-1','smpp','',5000,10,20,1,1,1795381122709,NULL,NULL,6,0);
INSERT INTO "accounts" VALUES(2,1,'sms-acme-1','sms','',2000,10,20,1,0,1795381122710,NULL,NULL,4,0);
CREATE TABLE allowed_ips (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    network TEXT NOT NULL,
    label TEXT NOT NULL DEFAULT '',
    expires_at INTEGER,
    created_at INTEGER NOT NULL,
    UNIQUE (account_id, network)
) STRICT;
INSERT INTO "allowed_ips" VALUES(1,1,'192.0.2.7/32','',NULL,1795381122721);
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
INSERT INTO "audit_log" VALUES(1,1795381122709,'shell','',1,NULL,'customer.add','{"name": "Acme", "email": "owner@acme.example"}');
INSERT INTO "audit_log" VALUES(2,1795381122709,'shell','',1,1,'account.add','{"name": "smpp-acme-1"}');
INSERT INTO "audit_log" VALUES(3,1795381122710,'shell','',1,2,'account.add','{"name": "sms-acme-1"}');
INSERT INTO "audit_log" VALUES(4,1795381122710,'shell','',1,1,'credits.grant','{"amount": 10000}');
INSERT INTO "audit_log" VALUES(5,1795381122717,'shell','',1,1,'credits.transfer','{"target": "sms-acme-1", "amount": 2000}');
CREATE TABLE components (
    name TEXT PRIMARY KEY,
    started_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
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
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "counters" VALUES('config_version',6);
INSERT INTO "counters" VALUES('message_id',1882593556140392450);
INSERT INTO "counters" VALUES('movement_id',1882593556140392448);
CREATE TABLE customers (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    contact_email TEXT NOT NULL,
    language TEXT NOT NULL DEFAULT 'en',
    created_at INTEGER NOT NULL
) STRICT;
INSERT INTO "customers" VALUES(1,'Acme','owner@acme.example','en',1795381122708);
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
INSERT INTO "daily_totals" VALUES(1,20779,3,1,1,0,0,4,3000);
CREATE TABLE login_sessions (
    id INTEGER PRIMARY KEY,
    token_hash BLOB NOT NULL UNIQUE,
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT;
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
INSERT INTO "messages" VALUES(1882593556140392448,1,'ACME',5,0,'393401234567','IT','hello',NULL,0,1,NULL,1,1000,2,0,1795381122724);
INSERT INTO "messages" VALUES(1882593556140392449,1,'ACME',5,0,'33612345678','FR','xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx',NULL,0,1,NULL,2,1000,5,800,1795381122724);
INSERT INTO "messages" VALUES(1882593556140392450,1,'ACME',5,0,'393401234568','IT','waits',NULL,0,1,NULL,1,1000,1,254,NULL);
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
INSERT INTO "movements" VALUES(1882593556126760960,1,'grant',10000,10000,'shell','',NULL,NULL,NULL,NULL);
INSERT INTO "movements" VALUES(1882593556134100992,1,'transfer_out',-2000,8000,'shell','',2,NULL,NULL,NULL);
INSERT INTO "movements" VALUES(1882593556134100993,2,'transfer_in',2000,2000,'shell','',1,NULL,NULL,NULL);
INSERT INTO "movements" VALUES(1882593556140392448,1,'usage',-3000,5000,'system','',NULL,3,1882593556140392448,1882593556140392450);
CREATE TABLE one_time_links (
    token_hash BLOB PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    expires_at INTEGER NOT NULL,
    used_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE prices (
    country TEXT PRIMARY KEY,
    price INTEGER NOT NULL CHECK (price > 0)
) STRICT, WITHOUT ROWID;
INSERT INTO "prices" VALUES('FR',500);
INSERT INTO "prices" VALUES('IT',1000);
CREATE TABLE receipts (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    message_id INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_at INTEGER NOT NULL
) STRICT;
INSERT INTO "receipts" VALUES(1,1,1882593556140392448,0,1795381122724);
INSERT INTO "receipts" VALUES(2,1,1882593556140392449,1,1795381122728);
CREATE TABLE recovery_codes (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    code_hash BLOB NOT NULL,
    used_at INTEGER
) STRICT;
CREATE TABLE refused_binds (
    account_id INTEGER NOT NULL REFERENCES accounts,
    address TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, address, reason)
) STRICT, WITHOUT ROWID;
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
CREATE TABLE smpp_passwords (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    digest BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    replaced_at INTEGER,
    expires_at INTEGER
) STRICT;
INSERT INTO "smpp_passwords" VALUES(1,1,X'0000000000000000000000000000000000000000000000000000000000000000',1795381122718,'shell',NULL,NULL);
CREATE TABLE spent_forms (number TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE throttle_buckets (
    name TEXT PRIMARY KEY,
    tokens REAL NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
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
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX recovery_codes_user ON recovery_codes (user_id);
CREATE INDEX login_sessions_user ON login_sessions (user_id);
CREATE INDEX accounts_customer ON accounts (customer_id);
CREATE INDEX accounts_config_version ON accounts (config_version);
CREATE INDEX smpp_passwords_account ON smpp_passwords (account_id);
CREATE UNIQUE INDEX smpp_passwords_current ON smpp_passwords (account_id) WHERE replaced_at IS NULL;
CREATE INDEX movements_account ON movements (account_id);
CREATE INDEX messages_account ON messages (account_id);
CREATE INDEX messages_enroute ON messages (id) WHERE state = 1;
CREATE INDEX receipts_account ON receipts (account_id);
CREATE INDEX receipts_message ON receipts (message_id);
CREATE INDEX connections_account ON connections (account_id);
CREATE INDEX mails_waiting ON mails (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX audit_log_account ON audit_log (account_id);
CREATE TRIGGER allowed_ips_insert AFTER INSERT ON allowed_ips BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') WHERE id = NEW.account_id; END;
CREATE TRIGGER allowed_ips_update AFTER UPDATE ON allowed_ips BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') WHERE id = NEW.account_id; END;
CREATE TRIGGER allowed_ips_delete AFTER DELETE ON allowed_ips BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') WHERE id = OLD.account_id; END;
CREATE TRIGGER smpp_passwords_insert AFTER INSERT ON smpp_passwords BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') WHERE id = NEW.account_id; END;
CREATE TRIGGER smpp_passwords_update AFTER UPDATE ON smpp_passwords BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') WHERE id = NEW.account_id; END;
CREATE TRIGGER smpp_passwords_delete AFTER DELETE ON smpp_passwords BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') WHERE id = OLD.account_id; END;
CREATE TRIGGER senders_insert AFTER INSERT ON senders BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') WHERE id = NEW.account_id; END;
CREATE TRIGGER senders_update AFTER UPDATE ON senders BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') WHERE id = NEW.account_id; END;
CREATE TRIGGER senders_delete AFTER DELETE ON senders BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') WHERE id = OLD.account_id; END;
CREATE TRIGGER accounts_insert AFTER INSERT ON accounts BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') WHERE id = NEW.id; END;
CREATE TRIGGER accounts_update AFTER UPDATE OF name, disabled_at, deleted_at, windowing, throughput, binds, any_sender ON accounts BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') WHERE id = NEW.id; END;
CREATE TRIGGER accounts_delete AFTER DELETE ON accounts BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') WHERE id = OLD.id; END;
CREATE TRIGGER prices_insert AFTER INSERT ON prices BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; END;
CREATE TRIGGER prices_update AFTER UPDATE ON prices BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; END;
CREATE TRIGGER prices_delete AFTER DELETE ON prices BEGIN UPDATE counters SET value = value + 1 WHERE name = 'config_version'; END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('smpp_passwords',1);
INSERT INTO "sqlite_sequence" VALUES('allowed_ips',1);
COMMIT;
