-- What always comes with something else bears its number or is named by it, and needs no entry of its own in an index
-- (ADR 0039). The indexes hold what was written without that: by programs before this one, by polls, replays and second
-- tries.

--- postgres
-- Whoever holds a lock on a table for longer than this makes the change fail as a whole: nobody queues behind it.
SET LOCAL lock_timeout = '10s';
--- both
-- 1: a transition of its payment names the event as its cause, and was written with it.
ALTER TABLE events ADD COLUMN has_moved BIGINT;
DROP INDEX events_by_payment;
CREATE INDEX events_by_payment ON events (merchant_id, payment_id, id) WHERE has_moved IS NULL;
-- The first event of a delivery bears its number.
DROP INDEX events_by_delivery;
CREATE INDEX events_by_delivery ON events (merchant_id, delivery_id, id) WHERE substr(id, 5) <> substr(delivery_id, 5);
-- 1: the message tells of the transition whose number it bears.
ALTER TABLE messages ADD COLUMN of_transition BIGINT;
DROP INDEX messages_by_subject;
CREATE INDEX messages_by_subject ON messages (merchant_id, subject, id) WHERE of_transition IS NULL;
