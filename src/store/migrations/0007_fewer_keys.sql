-- Fewer keys for what every webhook writes (ADR 0032). Each is a twentieth of what the database does for one.

--- postgres
-- Whoever holds a lock on a table for longer than this makes the change fail as a whole: nobody queues behind it.
SET LOCAL lock_timeout = '10s';
-- Whoever looks for a capture by the gateway's word for it has no attempt yet. The key keeps its columns, in another
-- order: what an older program writes against it goes on working.
CREATE UNIQUE INDEX captures_by_gateway_ref ON captures (merchant_id, gateway_ref, attempt_id);
ALTER TABLE captures DROP CONSTRAINT captures_merchant_id_attempt_id_gateway_ref_key;
ALTER TABLE captures DROP CONSTRAINT captures_pkey;
ALTER TABLE captures REPLICA IDENTITY USING INDEX captures_by_gateway_ref;
-- Transitions are only ever read by their payment.
ALTER TABLE transitions DROP CONSTRAINT transitions_pkey;
ALTER TABLE transitions ADD PRIMARY KEY (merchant_id, payment_id, id);
DROP INDEX transitions_by_payment;
-- 0005 reached the table that is divided, and so the months made after it, but not those that were there (nor headers,
-- which come next when a row is still too long). It is worth no wait.
SET LOCAL lock_timeout = '3s';
DO $$ DECLARE part regclass; BEGIN
    FOR part IN SELECT 'deliveries'::regclass UNION ALL SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'deliveries'::regclass
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN body SET COMPRESSION lz4, ALTER COLUMN headers SET COMPRESSION lz4', part);
    END LOOP;
EXCEPTION WHEN feature_not_supported OR lock_not_available THEN
    NULL;
END $$;
--- sqlite
-- Small rows live in their key: one tree where there were three.
CREATE TABLE captures_anew (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    payment_id {text} NOT NULL,
    attempt_id {text} NOT NULL,
    gateway_ref {text} NOT NULL,
    state {text} NOT NULL,
    amount BIGINT NOT NULL,
    currency {text} NOT NULL,
    surplus BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, payment_id, id)
) WITHOUT ROWID;
INSERT INTO captures_anew SELECT merchant_id, id, payment_id, attempt_id, gateway_ref, state, amount, currency, surplus, updated_at FROM captures;
DROP TABLE captures;
ALTER TABLE captures_anew RENAME TO captures;
CREATE UNIQUE INDEX captures_by_gateway_ref ON captures (merchant_id, gateway_ref, attempt_id);
DROP VIEW transitions_readable;
CREATE TABLE transitions_anew (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    payment_id {text} NOT NULL,
    from_status {text},
    to_status {text} NOT NULL,
    reason {text},
    cause {text} NOT NULL,
    cause_id {text},
    at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, payment_id, id)
) WITHOUT ROWID;
INSERT INTO transitions_anew SELECT merchant_id, id, payment_id, from_status, to_status, reason, cause, cause_id, at FROM transitions;
DROP TABLE transitions;
ALTER TABLE transitions_anew RENAME TO transitions;
CREATE VIEW transitions_readable AS
SELECT merchant_id, id, payment_id, from_status, to_status, reason, cause, cause_id, {time:at} AS moved FROM transitions;
--- both
