--- postgres
-- Payments that are made together are often paid together, and a page must have room for a second row of each: a row that
-- finds none in its page moves to another, and all indexes of the table are written anew (ADR 0036). Pages that are
-- written from now on keep that room. A little more than half, because the second row is a little longer.
SET LOCAL lock_timeout = '10s';
ALTER TABLE payments SET (fillfactor = 48);
--- both
