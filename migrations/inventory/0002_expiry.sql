-- What reservations need besides.

-- No live line: NULL. Not every client can read 'infinity'. Until now no product had a line.
ALTER TABLE stock ALTER COLUMN next_expiry DROP NOT NULL, ALTER COLUMN next_expiry DROP DEFAULT;
UPDATE stock SET next_expiry = NULL WHERE next_expiry = 'infinity';

-- A void reservation never had an end.
ALTER TABLE reservation ALTER COLUMN expires_at DROP NOT NULL;
ALTER TABLE reservation ADD CHECK (state = 'void' OR expires_at IS NOT NULL);

-- As much as a JSON number carries exactly: 2^53 - 1.
ALTER TABLE reservation_line ADD CHECK (quantity <= 9007199254740991);

-- The lines that are overdue, of all products.
CREATE INDEX reservation_line_overdue ON reservation_line (expires_at) WHERE live;
