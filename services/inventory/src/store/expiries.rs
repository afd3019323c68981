//! When holds expire, summed by product and second.
//!
//! The expiries of a product in a period are a range of the primary key: one product, and two bounds for the time. So a
//! statement reads what it sums and nothing else, however many later expiries the product has. The sweeper reads those
//! of all products, by an index on expressions that only it uses.

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
               -- The holds of this one may all have ended. To look for one with holds could pass any number of others.
               SELECT expires_at FROM expiry
               WHERE expiry.product_id = product.product_id AND expires_at > greatest(settled_until, $3)
               ORDER BY expires_at LIMIT 1
           ) AS next_expiry
           FROM unnest($1::text[], $2::timestamptz[]) AS product (product_id, settled_until), LATERAL (
               SELECT coalesce(sum(quantity), 0)::bigint AS quantity, coalesce(sum(holds), 0)::bigint AS holds FROM expiry
               WHERE expiry.product_id = product.product_id AND expires_at > settled_until AND expires_at <= $3
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

/// The holds of a product that expired at the same second.
#[derive(Debug)]
pub(crate) struct OverdueExpiry {
    pub(crate) product_id: String,
    pub(crate) expires_at: DateTime<Utc>,
    /// Whether they still count as reserved.
    pub(crate) is_unsettled: bool,
}

/// Reads the first `limit` expiries that are overdue by `delay`, of all products, after the one with this time and
/// product; in order of both.
pub(crate) async fn overdue_expiries(
    connection: &mut PgConnection,
    (time, product_id): (DateTime<Utc>, &str),
    delay: Duration,
    limit: i64,
) -> Result<Vec<OverdueExpiry>, sqlx::Error> {
    sqlx::query_as!(
        OverdueExpiry,
        r#"SELECT product_id, expires_at, holds > 0 AND coalesce(expires_at > (
                      SELECT settled_until FROM stock WHERE stock.product_id = expiry.product_id
                  ), false) AS "is_unsettled!"
           FROM expiry
           WHERE (expires_at AT TIME ZONE 'UTC', product_id || '') > ($1::timestamptz AT TIME ZONE 'UTC', $2)
             AND expires_at AT TIME ZONE 'UTC' <= (statement_timestamp() - make_interval(secs => $3)) AT TIME ZONE 'UTC'
           ORDER BY expires_at AT TIME ZONE 'UTC', product_id || '' LIMIT $4"#,
        time,
        product_id,
        delay.as_secs_f64(),
        limit,
    )
    .fetch_all(connection)
    .await
}

/// Deletes those of the expiries that no longer count. It skips locked rows, so it never waits.
pub(crate) async fn delete_expiries(
    connection: &mut PgConnection,
    expiries: &[OverdueExpiry],
) -> Result<(), sqlx::Error> {
    let product_ids: Vec<&str> = expiries.iter().map(|expiry| expiry.product_id.as_str()).collect();
    let times: Vec<DateTime<Utc>> = expiries.iter().map(|expiry| expiry.expires_at).collect();
    sqlx::query!(
        // As a subquery that locks rows, the part after LATERAL is only planned on its own.
        "DELETE FROM expiry WHERE ctid = ANY (ARRAY(
             SELECT deletable.ctid FROM unnest($1::text[], $2::timestamptz[]) AS overdue (product_id, expires_at), LATERAL (
                 SELECT ctid FROM expiry
                 WHERE expiry.product_id = overdue.product_id AND expiry.expires_at = overdue.expires_at
                   AND (holds = 0 OR expiry.expires_at <= (
                       SELECT settled_until FROM stock WHERE stock.product_id = expiry.product_id
                   ))
                 FOR UPDATE SKIP LOCKED
             ) AS deletable
         ))",
        &product_ids as &[&str],
        &times,
    )
    .execute(connection)
    .await?;
    Ok(())
}
