-- What a dispute leaves to be given back: an inquiry does not stand in the way of a refund, and what a lost one took is not
-- there any more.

--- postgres
-- Whoever holds a lock on a table for longer than this makes the change fail as a whole: nobody queues behind it.
SET LOCAL lock_timeout = '10s';
--- both
-- During it the gateway gives money back on order.
ALTER TABLE disputes ADD COLUMN refundable BIGINT NOT NULL DEFAULT 0;
-- It ended for the payer, who keeps the disputed amount.
ALTER TABLE disputes ADD COLUMN lost BIGINT NOT NULL DEFAULT 0;
UPDATE disputes SET lost = 1 WHERE closed = 1 AND status = 'lost';
-- The gateway's name of the money that is disputed.
ALTER TABLE disputes ADD COLUMN capture_ref {text};
