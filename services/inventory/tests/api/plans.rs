//! The plans of all statements, whenever they are made.

use std::path::Path;

use sqlx::{PgPool, raw_sql};
use test_support::plans::plans;

/// Adds a number of products with holds of each, which expire at different times, half of them in the past.
async fn add(pool: &PgPool, products: i64, holds: i64) {
    let add = "WITH product AS (
             SELECT gen_random_uuid()::text AS product_id FROM generate_series(1, $1)
         ), hold AS (
             SELECT product_id, n, gen_random_uuid() AS id,
                    date_trunc('second', clock_timestamp()) + (n - $2 / 2) * interval '1 s' AS expires_at
             FROM product, generate_series(1, $2) AS n
         ), stocked AS (
             INSERT INTO stock (product_id, on_hand, reserved, version, next_expiry)
             SELECT product_id, $2, $2, $2 + 1, clock_timestamp() FROM product
         ), held AS (
             INSERT INTO reservation (id, state, expires_at, product_ids, quantities)
             SELECT id, 'held', expires_at, ARRAY[product_id], ARRAY[1] FROM hold
         ), expiring AS (
             INSERT INTO expiry (product_id, expires_at, quantity, holds) SELECT product_id, expires_at, 1, 1 FROM hold
         ), answered AS (
             INSERT INTO idempotency (id, fingerprint, answer, expires_at)
             SELECT uuid_send(id), uuid_send(id), '{}', expires_at FROM hold
         )
         INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reservation_id)
         SELECT product_id, n, 'hold', 0, 1, $2, n, id FROM hold";
    sqlx::query(add).bind(products).bind(holds).execute(pool).await.expect("added");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn plans_do_not_depend_on_when_they_were_made(pool: PgPool) {
    let service = Path::new(env!("CARGO_MANIFEST_DIR"));
    let first = plans(&pool, service).await;
    for (products, holds) in [(1, 1), (1, 1000), (1000, 1), (1, 50_000), (5000, 10)] {
        add(&pool, products, holds).await;
        assert_eq!(plans(&pool, service).await, first, "{products} more products with {holds} holds, old statistics");
        raw_sql("ANALYZE").execute(&pool).await.expect("statistics");
        assert_eq!(plans(&pool, service).await, first, "{products} more products with {holds} holds");
    }
}
