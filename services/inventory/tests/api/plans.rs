//! The plans of all statements, whenever they are made, and how much they read.

use std::path::Path;

use sqlx::{PgPool, raw_sql};
use test_support::plans::{blocks, plans};

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
    for (products, holds) in [(0, 0), (1, 1), (1, 1000), (1000, 1), (1, 50_000), (5000, 10)] {
        add(&pool, products, holds).await;
        assert_eq!(plans(&pool, service).await, first, "{products} more products with {holds} holds, old statistics");
        raw_sql("ANALYZE").execute(&pool).await.expect("statistics");
        assert_eq!(plans(&pool, service).await, first, "{products} more products with {holds} holds");
    }
}

/// A product with a hold that expires in each second of the next day, of which all but the last have ended, and with a
/// few that have just expired.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn reading_what_expired_does_not_pass_later_expiries(pool: PgPool) {
    let service = Path::new(env!("CARGO_MANIFEST_DIR"));
    let add = "WITH added AS (
             INSERT INTO expiry (product_id, expires_at, quantity, holds)
             SELECT 'p', date_trunc('second', clock_timestamp()) + n * interval '1 s', ended::int, ended::int
             FROM generate_series(-2, 86400) AS n, LATERAL (SELECT n <= 0 OR n = 86400 AS ended) AS hold
         )
         INSERT INTO stock (product_id, on_hand, reserved, version, next_expiry)
         VALUES ('p', 4, 4, 5, clock_timestamp() - interval '2 s')";
    sqlx::query(add).execute(&pool).await.expect("added");
    for (text, parameters) in [
        ("AS due\n               WHERE product_id = ANY ($1)", "ARRAY['p']"),
        ("AS due\n               WHERE product_id > $1", "'', 10"),
        ("AS next_expiry\n           FROM unnest(", "ARRAY['p'], ARRAY['epoch'::timestamptz], clock_timestamp()"),
    ] {
        for statistics in ["old", "new"] {
            let read = blocks(&pool, service, text, parameters).await;
            assert!(read <= 20, "{read} blocks, {statistics} statistics: {text}");
            raw_sql("ANALYZE").execute(&pool).await.expect("statistics");
        }
    }
}

/// The sweeper reads a limited number of expiries, even if it can settle or delete none of them.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_sweeper_does_not_pass_the_whole_backlog(pool: PgPool) {
    let service = Path::new(env!("CARGO_MANIFEST_DIR"));
    add(&pool, 10, 10_000).await;
    let read = blocks(&pool, service, "AS \"is_unsettled!\"", "'epoch', '', 5, 100").await;
    assert!(read <= 1000, "{read} blocks for 100 rows and their products");
    let overdue = "SELECT format('%L, %L', array_agg(product_id), array_agg(expires_at))
                   FROM (SELECT product_id, expires_at FROM expiry ORDER BY expires_at, product_id LIMIT 100) AS overdue";
    let overdue: String = sqlx::query_scalar(overdue).fetch_one(&pool).await.expect("the parameters");
    let read = blocks(&pool, service, "DELETE FROM expiry", &overdue).await;
    assert!(read <= 1000, "{read} blocks to check 100 rows and their products");
}
