-- Answers to requests with an `Idempotency-Key`, so that a repetition gets the first one's.
CREATE TABLE idempotency (
    -- SHA-256 of whose key it is, for which operation, and the key: the texts can be long, and sort by locale.
    id          bytea PRIMARY KEY,
    -- SHA-256 of the request as it was understood.
    fingerprint bytea NOT NULL,
    -- NULL: the request was refused in a way that is not kept. Within a transaction: it is being answered.
    answer      json,
    expires_at  timestamptz NOT NULL
) WITH (fillfactor = 50); -- Each row is updated once, by the transaction that inserts it; so it stays on its page.

CREATE INDEX idempotency_expires_at ON idempotency (expires_at);

-- The first movement that a transaction writes names it: after a COMMIT without an answer this shows whether it was made.
ALTER TABLE movement ADD COLUMN batch uuid;
