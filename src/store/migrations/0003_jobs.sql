-- The job table holds the work that is to be done and nothing else, with as few indexes as can be (ADR 0026).

--- postgres
SET LOCAL lock_timeout = '10s';
--- sqlite
DROP VIEW jobs_readable;
--- both
ALTER TABLE jobs RENAME TO jobs_before;
CREATE TABLE jobs (
    merchant_id {text} NOT NULL,
    subject {text} NOT NULL,
    kind {text} NOT NULL,
    -- Empty while the work is to be done; the job's own id when it is set aside for people. So there is one live job of
    -- a kind for a subject, and what failed is not in the way of new work.
    set_aside {text} NOT NULL DEFAULT '',
    id {text} NOT NULL,
    state {text} NOT NULL,
    -- Not before; of a job that runs: until when its run owns it. So the job of a run that died is simply due again.
    run_at BIGINT NOT NULL,
    -- When the present run was due.
    due_at BIGINT,
    attempts BIGINT NOT NULL,
    crashes BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    last_error {text},
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    CONSTRAINT jobs_key PRIMARY KEY (merchant_id, subject, kind, set_aside)
);
--- postgres
-- Every row is written three times and deleted: room in the pages, and a vacuum that comes early and does not dawdle.
ALTER TABLE jobs SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
-- A telling is written once more, when it was told.
ALTER TABLE tellings SET (fillfactor = 85);
--- both
INSERT INTO jobs (merchant_id, subject, kind, set_aside, id, state, run_at, due_at, attempts, crashes, fence, last_error, created_at, finished_at)
SELECT merchant_id, subject, kind, CASE WHEN state = 'failed' THEN id ELSE '' END, id, state,
    CASE WHEN state = 'running' THEN COALESCE(lease_until, run_at) ELSE run_at END, run_at,
    attempts, crashes, fence, last_error, created_at, finished_at
FROM jobs_before WHERE state <> 'done';
--- postgres
-- Replaced, not made anew: it keeps its grants.
CREATE OR REPLACE VIEW jobs_readable AS
--- sqlite
CREATE VIEW jobs_readable AS
--- both
SELECT merchant_id, id, kind, subject, state, attempts, last_error, {time:run_at} AS due, {time:finished_at} AS finished FROM jobs;
DROP TABLE jobs_before;
-- Each live job is in one of the two: what tells clients never stands in the way of the rest.
CREATE INDEX jobs_due ON jobs (run_at) WHERE kind <> 'tell_client' AND set_aside = '';
CREATE INDEX jobs_due_telling ON jobs (run_at) WHERE kind = 'tell_client' AND set_aside = '';
-- Few rows, for people; jobs that go well never touch it.
CREATE INDEX jobs_set_aside ON jobs (merchant_id, id) WHERE set_aside <> '';
