-- A dispute during which the gateway gives money back on order: an inquiry.

--- postgres
-- Whoever holds a lock on a table for longer than this makes the change fail as a whole: nobody queues behind it.
SET LOCAL lock_timeout = '10s';
--- both
ALTER TABLE disputes ADD COLUMN refundable BIGINT NOT NULL DEFAULT 0;
