//! Locks without waiting.

use std::collections::HashSet;

use sqlx::PgConnection;

/// Locks those of the products that no other transaction holds, in order of their ids. Returns the others that exist.
pub(crate) async fn lock_available(
    connection: &mut PgConnection,
    ids: &[&str],
) -> Result<HashSet<String>, sqlx::Error> {
    let available = sqlx::query_scalar!(
        "SELECT product_id FROM stock WHERE product_id = ANY ($1) ORDER BY product_id FOR UPDATE SKIP LOCKED",
        ids as &[&str],
    );
    let available = available.fetch_all(&mut *connection).await?;
    let others = sqlx::query_scalar!(
        "SELECT product_id FROM stock WHERE product_id = ANY ($1) AND product_id <> ALL ($2)",
        ids as &[&str],
        &available,
    );
    Ok(others.fetch_all(connection).await?.into_iter().collect())
}
