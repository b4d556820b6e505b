-- New ids for the waiting receipts of the first release.
--
-- The id of a delivery contains the time since which it waits, after which it is given up. In the first release ids
-- were plain numbers, so that all receipts would be given up at once. The id of a receipt's message replaces them: it
-- is about as old, and keeps the order.

UPDATE deliveries SET id = message_id WHERE id < 1 << 40;
