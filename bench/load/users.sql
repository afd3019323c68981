-- The state before a round.
TRUNCATE users CASCADE;
VACUUM ANALYZE users;
CHECKPOINT;
