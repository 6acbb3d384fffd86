-- What client apps do with one mode does not reach the other (ADR 0042).

--- postgres
-- Whoever holds a lock on a table for longer than this makes the change fail as a whole: nobody queues behind it.
SET LOCAL lock_timeout = '10s';
--- both
-- The mode of the key that made the endpoint. NULL: made before, or by a program before this one; it is told of both.
ALTER TABLE endpoints ADD COLUMN live BIGINT;
