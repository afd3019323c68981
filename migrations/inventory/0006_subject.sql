-- Reservations belong to whoever made them.

-- The issuer and the subject of the caller's token, with a space between them; empty if there was no token. No row is
-- rewritten, and an older version of the service still inserts reservations, of nobody.
ALTER TABLE reservation ADD COLUMN subject text NOT NULL DEFAULT '';
