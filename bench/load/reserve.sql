-- The rows that POST /reservations writes, in one statement, for `pgbench -M prepared -D others=N`: for a random
-- product of the first N + 1. peers/sqlx uses the same statement, and peers/fastapi a slightly different one.
\set id random(100000, 100000 + :others)
WITH clock AS MATERIALIZED (
    SELECT gen_random_uuid() AS id, clock_timestamp() + interval '900 s' AS expires_at
), product AS (
    UPDATE stock SET reserved = reserved + 1, version = version + 1,
                     next_expiry = least(next_expiry, (SELECT expires_at FROM clock))
    WHERE product_id = :id AND on_hand - reserved >= 1 AND (next_expiry IS NULL OR next_expiry > clock_timestamp())
    RETURNING product_id, on_hand, reserved, version
), held AS (
    INSERT INTO reservation (id, state, expires_at) SELECT id, 'held', expires_at FROM clock, product
), line AS (
    INSERT INTO reservation_line (reservation_id, product_id, quantity, expires_at)
    SELECT id, product_id, 1, expires_at FROM clock, product
)
INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reservation_id)
SELECT product_id, version, 'hold', 0, 1, on_hand, reserved, id FROM clock, product;
