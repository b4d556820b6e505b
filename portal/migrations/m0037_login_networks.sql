-- Nobody is locked out by strangers: where people have logged in from, and the links that let their browsers in.
--
-- `network`: an IPv4 address, or the /64 of an IPv6 one.

CREATE TABLE login_networks (
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    network TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, network)
) STRICT, WITHOUT ROWID;

CREATE TABLE unlock_links (
    token_hash BLOB PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
