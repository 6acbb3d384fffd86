--- postgres
-- What is made together is often changed together: a page must have room for a second row of each, which is a little
-- longer. A row that finds none in its page moves to another and is entered into all indexes of its table again
-- (ADR 0036). Pages that are written from now on keep that room.
SET LOCAL lock_timeout = '10s';
ALTER TABLE payments SET (fillfactor = 48);
ALTER TABLE tellings SET (fillfactor = 48);
--- both
