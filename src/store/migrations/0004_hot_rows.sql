-- A payment's status is in no index any more: on PostgreSQL a payment that moves then stays in its page, and none of its
-- indexes is written (ADR 0027). What the partial index said, the case of an unfinished payment says: the column is made
-- from status and case by the database, so that an older program beside this one keeps the rule too (R-5W-16).
ALTER TABLE payments ADD COLUMN open_case_id TEXT GENERATED ALWAYS AS (CASE WHEN status = 'started' THEN case_id END) {generated};
CREATE UNIQUE INDEX payments_one_open_per_case ON payments (merchant_id, open_case_id) WHERE open_case_id IS NOT NULL;
DROP INDEX payments_one_started_per_case;

--- postgres
ALTER TABLE payments SET (fillfactor = 70);
--- both
