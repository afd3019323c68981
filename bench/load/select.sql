-- The query of GET /inventory/{product_id}, for `pgbench -M prepared`.
\set id random(100000, 109999)
SELECT product_id, on_hand, reserved, version FROM stock WHERE product_id = :id;
