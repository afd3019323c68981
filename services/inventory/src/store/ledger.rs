//! The ends of ledgers: old movements, for which an opening movement stands once they are deleted.
//!
//! Writers only append to a ledger, so no lock of a product is needed to prune its ledger. A single pruner works at a
//! time, so none waits for another.

use std::time::Duration;

use sqlx::PgConnection;

/// Claims the right to prune until the transaction ends. Returns false, at once, if another transaction has it.
pub(crate) async fn lock_pruning(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock(hashtextextended('inventory.pruning', 0)) AS "locked!""#)
        .fetch_one(connection)
        .await
}

/// Of the next `limit` products after `after`, in order of their ids, says whether each has a movement that is older
/// than `retention` and not an opening one.
pub(crate) async fn old_ledgers(
    connection: &mut PgConnection,
    after: &str,
    retention: Duration,
    limit: i64,
) -> Result<Vec<(String, bool)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT product_id, coalesce((
               SELECT at FROM movement WHERE movement.product_id = product.product_id AND kind <> 'opening'
               ORDER BY version LIMIT 1
           ) <= statement_timestamp() - make_interval(secs => $2), false) AS "is_old!"
           FROM (SELECT product_id FROM stock WHERE product_id > $1 ORDER BY product_id LIMIT $3) AS product"#,
        after,
        retention.as_secs_f64(),
        limit,
    );
    let rows = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.product_id, row.is_old)).collect())
}

/// What [`prune_ledger`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PrunedLedger {
    /// The number of the opening movement; `None` if there is nothing old.
    pub(crate) opening: Option<i64>,
    /// How many old movements were found, the opening one included.
    pub(crate) found: i64,
}

/// Finds the oldest movements of a product from number `from` on, at most `limit`, that are older than `retention`.
/// The last of them becomes the opening movement, with the counters as its deltas, and the others are deleted; so the
/// sums stay the same.
pub(crate) async fn prune_ledger(
    connection: &mut PgConnection,
    product_id: &str,
    from: i64,
    retention: Duration,
    limit: i64,
) -> Result<PrunedLedger, sqlx::Error> {
    sqlx::query_as!(
        PrunedLedger,
        r#"WITH entry AS (
               -- Only what comes before the first younger movement, so that no gap remains if a clock was set back.
               SELECT version, expired_until,
                      bool_and(at <= statement_timestamp() - make_interval(secs => $3)) OVER (ORDER BY version) AS is_old
               FROM (
                   SELECT version, at, expired_until FROM movement
                   WHERE product_id = $1 AND version >= $2 ORDER BY version LIMIT $4
               ) AS first
           ), old AS (
               SELECT max(version) AS last, max(expired_until) AS expired_until, count(*) AS found
               FROM entry WHERE is_old
           ), deleted AS (
               DELETE FROM movement WHERE product_id = $1 AND version >= $2 AND version < (SELECT last FROM old)
           ), opening AS (
               UPDATE movement
               SET kind = 'opening', on_hand_delta = on_hand, reserved_delta = reserved, reason = NULL,
                   reservation_id = NULL, holds = NULL, expired_until = (SELECT expired_until FROM old), batch = NULL
               WHERE product_id = $1 AND version = (SELECT last FROM old) AND kind <> 'opening'
           )
           SELECT last AS opening, found AS "found!" FROM old"#,
        product_id,
        from,
        retention.as_secs_f64(),
        limit,
    )
    .fetch_one(connection)
    .await
}
