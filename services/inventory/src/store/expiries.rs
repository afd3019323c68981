//! When holds expire, summed by product and second.
//!
//! The expiries of a product are found by comparing rows: only the primary key can do that. An index that starts with
//! the time would pass those of all products.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::stock::product_id;
use crate::model::{DueExpiries, ProductId};

/// Reads what expired until now and is not settled yet, for locked products, each with the time until which it is
/// settled.
pub(crate) async fn due_expiries(
    connection: &mut PgConnection,
    products: &[(&str, DateTime<Utc>)],
    now: DateTime<Utc>,
) -> Result<HashMap<ProductId, DueExpiries>, sqlx::Error> {
    let (ids, settled_until): (Vec<&str>, Vec<DateTime<Utc>>) = products.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"SELECT product_id AS "product_id!", quantity AS "quantity!", holds AS "holds!", (
               -- Expiries whose holds have all ended are passed only once.
               SELECT expires_at FROM expiry
               WHERE (expiry.product_id, expires_at) > (product.product_id, $3)
                 AND (expiry.product_id, expires_at) < (product.product_id, 'infinity') AND holds > 0
               ORDER BY expiry.product_id, expires_at LIMIT 1
           ) AS next_expiry
           FROM unnest($1::text[], $2::timestamptz[]) AS product (product_id, settled_until), LATERAL (
               SELECT coalesce(sum(quantity), 0)::bigint AS quantity, coalesce(sum(holds), 0)::bigint AS holds FROM expiry
               WHERE (expiry.product_id, expires_at) > (product.product_id, settled_until)
                 AND (expiry.product_id, expires_at) <= (product.product_id, $3)
           ) AS due"#,
        &ids as &[&str],
        &settled_until,
        now,
    )
    .fetch_all(connection)
    .await?;
    let due = rows.into_iter().map(|row| {
        let due = DueExpiries { quantity: row.quantity, holds: row.holds, next_expiry: row.next_expiry };
        Ok((product_id(row.product_id)?, due))
    });
    due.collect()
}

/// Finds the products whose holds expired at `from` or later, at least `delay` ago, and are not settled yet: those of
/// the `limit` oldest expiries, sorted.
pub(crate) async fn unsettled_products(
    connection: &mut PgConnection,
    from: DateTime<Utc>,
    delay: Duration,
    limit: i64,
) -> Result<Vec<ProductId>, sqlx::Error> {
    let products = sqlx::query_scalar!(
        "SELECT DISTINCT product_id FROM (
             SELECT product_id, expires_at FROM expiry
             WHERE expires_at >= $1 AND expires_at <= statement_timestamp() - make_interval(secs => $2) AND holds > 0
             ORDER BY expires_at LIMIT $3
         ) AS due
         WHERE expires_at > (SELECT settled_until FROM stock WHERE stock.product_id = due.product_id)
         ORDER BY product_id",
        from,
        delay.as_secs_f64(),
        limit,
    )
    .fetch_all(connection)
    .await?;
    products.into_iter().map(product_id).collect()
}

/// Deletes up to `limit` expiries that no longer count, the oldest first, if they expired at `from` or later and at least
/// `delay` ago. Returns how many, and when the last of them expired. It skips locked rows, so it never waits.
pub(crate) async fn prune_expiries(
    connection: &mut PgConnection,
    from: DateTime<Utc>,
    delay: Duration,
    limit: i64,
) -> Result<(i64, Option<DateTime<Utc>>), sqlx::Error> {
    let pruned = sqlx::query!(
        r#"WITH pruned AS (
               DELETE FROM expiry WHERE ctid = ANY (ARRAY(
                   SELECT ctid FROM expiry AS old
                   WHERE expires_at >= $1 AND expires_at <= statement_timestamp() - make_interval(secs => $2)
                     AND (holds = 0 OR expires_at <= (
                         SELECT settled_until FROM stock WHERE stock.product_id = old.product_id
                     ))
                   ORDER BY expires_at LIMIT $3 FOR UPDATE SKIP LOCKED
               ))
               RETURNING expires_at
           )
           SELECT count(*) AS "count!", max(expires_at) AS last FROM pruned"#,
        from,
        delay.as_secs_f64(),
        limit,
    )
    .fetch_one(connection)
    .await?;
    Ok((pruned.count, pruned.last))
}
