-- Rises with each change of a case and with each of its payments that is completed, so that who read the case without
-- a lock sees at the writing whether it still is what was read (ADR 0029).
--- both
ALTER TABLE cases ADD COLUMN version BIGINT NOT NULL DEFAULT 1;
