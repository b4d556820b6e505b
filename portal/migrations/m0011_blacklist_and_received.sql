-- Who added a number to a blacklist, and when the delivery of a message from a handset ended.
--
-- Before, only the command line and STOP added numbers. The blacklist's page lists the newest first. The delivery of a
-- message from a handset ends when a client accepts it, or it is given up (0: it isn't known which, and when).

ALTER TABLE blacklist ADD COLUMN added_by TEXT NOT NULL DEFAULT '';
UPDATE blacklist SET added_by = 'shell' WHERE received_id IS NULL;
CREATE INDEX blacklist_newest ON blacklist (account_id, since);

ALTER TABLE received ADD COLUMN ended_at INTEGER;
ALTER TABLE received ADD COLUMN given_up INTEGER NOT NULL DEFAULT 0;
UPDATE received SET ended_at = 0
    WHERE id NOT IN (SELECT received_id FROM deliveries WHERE received_id IS NOT NULL);
CREATE INDEX received_waiting ON received (account_id) WHERE ended_at IS NULL;
