-- The state in which a round begins.
TRUNCATE users CASCADE;
VACUUM ANALYZE users;
CHECKPOINT;
