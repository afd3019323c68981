//! The plans of all statements, whenever they are made.

use std::path::Path;

use sqlx::{PgPool, raw_sql};
use test_support::plans::plans;

/// Adds users with a wish each.
async fn add(pool: &PgPool, count: i64) {
    let add = "WITH added AS (
             INSERT INTO users (id, name, email) SELECT gen_random_uuid(), 'Ada', gen_random_uuid() || '@example.com'
             FROM generate_series(1, $1) RETURNING id
         ) INSERT INTO wishlist (user_id, product_id) SELECT id, 'p' FROM added";
    sqlx::query(add).bind(count).execute(pool).await.expect("added");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn plans_do_not_depend_on_when_they_were_made(pool: PgPool) {
    let service = Path::new(env!("CARGO_MANIFEST_DIR"));
    let first = plans(&pool, service).await;
    for count in [1, 1000, 50_000] {
        add(&pool, count).await;
        assert_eq!(plans(&pool, service).await, first, "{count} more users, with old statistics");
        raw_sql("ANALYZE").execute(&pool).await.expect("statistics");
        assert_eq!(plans(&pool, service).await, first, "{count} more users");
    }
}
