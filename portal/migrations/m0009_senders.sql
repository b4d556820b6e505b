-- Senders' documents, and senders that were removed.
--
-- Documents are stored in the database, so that one file is the whole backup; in pieces, because writing five megabytes
-- in one transaction would block the SMPP server. A removed sender is moved to another table, from where it can be
-- restored: so no query of an account's senders can include it by mistake.

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
