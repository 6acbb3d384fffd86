-- Bodies of webhooks are the largest thing that is written (ADR 0028). PostgreSQL squeezes what is longer than a quarter of
-- a page, by default in a way that costs most of the row; lz4 costs a tenth of that. It is worth no wait: a server that
-- was built without it, or whose table somebody else holds (a dump), keeps its own way.
--- postgres
SET LOCAL lock_timeout = '3s';
DO $$ BEGIN
    EXECUTE 'ALTER TABLE deliveries ALTER COLUMN body SET COMPRESSION lz4';
EXCEPTION WHEN feature_not_supported OR lock_not_available THEN
    NULL;
END $$;
--- both
