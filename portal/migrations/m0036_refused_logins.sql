-- Wrong second factors are counted by day, and the audit log is found by what its page is filtered by.
--
-- Each index of one column has the ids in their order behind it, so a page of the newest rows is one range of it.

ALTER TABLE users ADD COLUMN wrong_codes INTEGER NOT NULL DEFAULT 0;
CREATE INDEX audit_log_at ON audit_log (at);
CREATE INDEX audit_log_customer ON audit_log (customer_id);
CREATE INDEX audit_log_actor ON audit_log (actor COLLATE NOCASE);
CREATE INDEX audit_log_address ON audit_log (address);
CREATE INDEX audit_log_action ON audit_log (action);
