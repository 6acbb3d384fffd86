-- A payment's status is in no index any more: on PostgreSQL a payment that moves then stays in its page, and none of its
-- indexes is written (ADR 0027). What the partial index said, the case of an unfinished payment says: the column is made
-- from status and case by the database, so that an older program beside this one keeps the rule too (R-5W-16).
ALTER TABLE payments ADD COLUMN open_case_id {text} GENERATED ALWAYS AS (CASE WHEN status = 'started' THEN case_id END) {generated};
CREATE UNIQUE INDEX payments_one_open_per_case ON payments (merchant_id, open_case_id) WHERE open_case_id IS NOT NULL;
DROP INDEX payments_one_started_per_case;

--- postgres
ALTER TABLE payments SET (fillfactor = 70);
--- both

-- Rows of one payment in the order of their ids come from one index, and no engine walks the key of the merchant for them.
DROP INDEX captures_by_payment;
CREATE INDEX captures_by_payment ON captures (merchant_id, payment_id, id);
DROP INDEX refunds_by_payment;
CREATE INDEX refunds_by_payment ON refunds (merchant_id, payment_id, id);
DROP INDEX alerts_by_payment;
CREATE INDEX alerts_by_payment ON alerts (merchant_id, payment_id, id);
DROP INDEX events_by_delivery;
CREATE INDEX events_by_delivery ON events (merchant_id, delivery_id, id);
-- The unique key over payment and kind begins with the same.
DROP INDEX invoices_by_payment;
