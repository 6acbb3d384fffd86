-- Bodies of webhooks are the largest thing that is written (ADR 0028). PostgreSQL squeezes what is longer than a quarter of
-- a page, by default in a way that costs more than all indexes of the row; lz4 costs a tenth of that. Servers that were
-- built without it keep their own way.
--- postgres
DO $$ BEGIN
    EXECUTE 'ALTER TABLE deliveries ALTER COLUMN body SET COMPRESSION lz4';
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END $$;
--- both
