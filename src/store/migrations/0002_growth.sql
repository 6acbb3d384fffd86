-- What grows is let go by the month (ADR 0025).

--- postgres
-- Raw webhook calls are the bulk: one partition a month, so that old ones are dropped and not deleted. The present
-- table becomes the first partition; no row moves but those whose ids lie in the future (a clock that was set back).
-- Whoever holds a lock on the table for longer than this makes the change fail as a whole: nobody queues behind it.
SET LOCAL lock_timeout = '10s';
ALTER TABLE deliveries RENAME TO deliveries_first;
ALTER TABLE deliveries_first RENAME CONSTRAINT deliveries_pkey TO deliveries_first_pkey;
ALTER INDEX deliveries_by_account RENAME TO deliveries_first_by_account;
CREATE TABLE deliveries (LIKE deliveries_first) PARTITION BY RANGE (id);
ALTER TABLE deliveries ADD PRIMARY KEY (merchant_id, id);
CREATE INDEX deliveries_by_account ON deliveries (merchant_id, account_id, id);
-- Where a call goes whose month has no partition: an insert never fails for that.
CREATE TABLE deliveries_default PARTITION OF deliveries DEFAULT;
WITH late AS (
    DELETE FROM deliveries_first WHERE id >= '{next_month:dlv}'
    RETURNING merchant_id, id, account_id, provider, verdict, headers, query, body, body_sha256, repeats, received_at, last_at
)
INSERT INTO deliveries_default (merchant_id, id, account_id, provider, verdict, headers, query, body, body_sha256, repeats, received_at, last_at)
SELECT merchant_id, id, account_id, provider, verdict, headers, query, body, body_sha256, repeats, received_at, last_at FROM late;
ALTER TABLE deliveries ATTACH PARTITION deliveries_first FOR VALUES FROM (MINVALUE) TO ('{next_month:dlv}');
-- Replaced, not made anew: it keeps its grants.
CREATE OR REPLACE VIEW deliveries_readable AS
SELECT merchant_id, id, account_id, provider, verdict, body_sha256, repeats, {time:received_at} AS received FROM deliveries;
--- both

-- Work that is done once in a while by whoever comes first: the key is the election.
CREATE TABLE scheduled_runs (
    name {text} NOT NULL,
    slot BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    done_at BIGINT,
    PRIMARY KEY (name, slot)
);

-- Up to which row of a table a merchant's old rows were emptied, so that they are not looked at again.
CREATE TABLE house_marks (
    merchant_id {text} NOT NULL,
    name {text} NOT NULL,
    mark {text} NOT NULL,
    PRIMARY KEY (merchant_id, name)
);

-- The only growing table whose key does not begin with its time.
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (merchant_id, created_at);

-- Lists that would otherwise walk through all rows of a merchant.
CREATE INDEX notices_by_payment ON notices (merchant_id, payment_id, id);
CREATE INDEX cases_by_payer ON cases (merchant_id, payer_id, id);
CREATE INDEX tellings_by_endpoint ON tellings (merchant_id, endpoint_id, id);

--- postgres
-- Rows that are written again keep room in their page: where no indexed column changed, the next version lies beside the
-- last and no index is touched. An attempt doubles its size when the gateway's link comes, then ends; an invoice goes
-- from state to state; a case moves once.
ALTER TABLE attempts SET (fillfactor = 50);
ALTER TABLE invoices SET (fillfactor = 70);
ALTER TABLE cases SET (fillfactor = 90);
-- A fifth of a table of many millions is too much to wait for: dead rows and statistics are seen to after a fiftieth.
ALTER TABLE payments SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE attempts SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE events SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE messages SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE tellings SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE idempotency_keys SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE invoices SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
