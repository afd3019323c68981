-- The rows that POST /reservations writes, in one statement, for `pgbench -M prepared -D others=N`: for a random
-- product of the first N + 1. peers/sqlx uses the same statement, and peers/fastapi a slightly different one.
\set id random(100000, 100000 + :others)
WITH clock AS MATERIALIZED (
    SELECT gen_random_uuid() AS id,
           date_trunc('second', clock_timestamp() + interval '900 s' + interval '999999 us') AS expires_at
), product AS (
    UPDATE stock SET reserved = reserved + 1, version = version + 1,
                     next_expiry = least(next_expiry, (SELECT expires_at FROM clock))
    WHERE product_id = :id AND on_hand - reserved >= 1 AND (next_expiry IS NULL OR next_expiry > clock_timestamp())
    RETURNING product_id, on_hand, reserved, version
), held AS (
    INSERT INTO reservation (id, state, expires_at, product_ids, quantities)
    SELECT id, 'held', expires_at, ARRAY[product_id], ARRAY[1] FROM clock, product
), expiring AS (
    INSERT INTO expiry (product_id, expires_at, quantity, holds) SELECT product_id, expires_at, 1, 1 FROM clock, product
    ON CONFLICT (product_id, expires_at) DO UPDATE
        SET quantity = expiry.quantity + excluded.quantity, holds = expiry.holds + excluded.holds
)
INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reservation_id)
SELECT product_id, version, 'hold', 0, 1, on_hand, reserved, id FROM clock, product;
