-- The state before a round: the 10,000 products of the load, each with its first movement. The ids are plain numbers,
-- so that pgbench can use a random number as the parameter.
TRUNCATE stock, movement, reservation, expiry, idempotency CASCADE;
INSERT INTO stock (product_id, on_hand, version)
SELECT id::text, 1000000000, 1 FROM generate_series(100000, 109999) AS id;
INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved)
SELECT product_id, 1, 'set', on_hand, 0, on_hand, 0 FROM stock;
VACUUM ANALYZE stock, movement, reservation, expiry, idempotency;
CHECKPOINT;
