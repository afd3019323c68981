-- Responses to requests with an `Idempotency-Key`, so that a repetition gets the first one.
CREATE TABLE idempotency (
    -- SHA-256 of the client, the operation and the key. The texts can be long, and sort by locale.
    id          bytea PRIMARY KEY,
    -- SHA-256 of the request as it was parsed.
    fingerprint bytea NOT NULL,
    -- The response. NULL while the transaction that claimed the key runs, and after a refusal that is not stored.
    answer      json,
    expires_at  timestamptz NOT NULL
) WITH (fillfactor = 50); -- Each row is updated once, by the transaction that inserts it, and stays on its page.

CREATE INDEX idempotency_expires_at ON idempotency (expires_at);
