-- What is deleted after a while, and storage settings for tables whose rows come and go.

-- An opening movement stands for the deleted ones before it. All rows satisfied the stricter condition, so they are not
-- read again.
ALTER TABLE movement
    DROP CONSTRAINT movement_kind_check,
    ADD CONSTRAINT movement_kind_check
        CHECK (kind IN ('set', 'adjust', 'hold', 'commit', 'release', 'expire', 'opening')) NOT VALID;

-- Rows that were deleted after a while, or expiries that passed, are at most 5% of a table instead of 20%. It is a share
-- of the table, because each vacuum reads all indexes.
ALTER TABLE reservation SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE movement SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE expiry SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
