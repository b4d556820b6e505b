-- Simulators' messages are told from others' by `bind` 0, and leave the index of what upstreams have.
--
-- No receipt looks for them there, and each message would pay for its place in it: with an idle carrier beside the
-- simulator, 14 % of the SMPP server's rate (`bench/upstream --only submits`).

UPDATE messages INDEXED BY messages_upstream SET bind = 0
    WHERE state = 1 AND upstream IN (SELECT id FROM upstreams WHERE kind = 'simulator');
DROP INDEX messages_upstream;
CREATE INDEX messages_upstream ON messages (upstream_id, upstream)
    WHERE state = 1 AND upstream IS NOT NULL AND bind IS NOT 0;
