-- What lists show of a payment, kept with it as text for one version of it (ADR 0034).
--- postgres
-- Whoever holds a lock on the table for longer than this makes the change fail as a whole: nobody queues behind it.
SET LOCAL lock_timeout = '10s';
--- both
ALTER TABLE payments ADD COLUMN glance_version BIGINT;
ALTER TABLE payments ADD COLUMN glance {text};
--- postgres
-- A row is squeezed only when buyer, lines and this are long together; then in the way that costs little, where the
-- server has it.
DO $$ BEGIN
    EXECUTE 'ALTER TABLE payments ALTER COLUMN glance SET COMPRESSION lz4';
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END $$;
--- both
