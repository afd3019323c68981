//! Products and their ledgers.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::model::{Counters, Movement, ProductId, ProductRow, Stock, Version};

/// Selects the counters of products as if their due expiries were settled. Each expired hold takes a number in the
/// ledger then, so it counts in the version. Expiries are read, once, only if some may be due: those after the mark, in
/// a range of the primary key. A comparison of rows would not end that range: it would pass all later expiries of the
/// product.
macro_rules! settled_stock {
    ($condition:literal, $($arguments:tt)*) => {
        sqlx::query!(
            r#"SELECT product_id, on_hand, reserved - coalesce(due.quantity, 0) AS "reserved!",
                      version + coalesce(due.holds, 0) AS "version!", expired + coalesce(due.holds, 0) AS "expired!"
               FROM stock, LATERAL (
                   SELECT sum(quantity)::bigint AS quantity, sum(holds)::bigint AS holds FROM expiry
                   WHERE next_expiry <= statement_timestamp()
                     AND expiry.product_id = stock.product_id
                     AND expires_at > settled_until AND expires_at <= statement_timestamp()
               ) AS due
               "# + $condition,
            $($arguments)*
        )
    };
}

/// Reads the counters of the products that exist.
pub(crate) async fn counters(
    connection: &mut PgConnection,
    ids: &[&str],
) -> Result<HashMap<String, Counters>, sqlx::Error> {
    let rows = settled_stock!("WHERE product_id = ANY ($1)", ids as &[&str],).fetch_all(connection).await?;
    let counters = rows.into_iter().map(|row| {
        let version = Version { number: row.version, expired: row.expired };
        (row.product_id, Counters { on_hand: row.on_hand, reserved: row.reserved, version })
    });
    Ok(counters.collect())
}

/// Locked products, and the server's time at which the statement that locked them started.
pub(crate) type Locked = (HashMap<ProductId, ProductRow>, Option<DateTime<Utc>>);

/// Locks products in order of their ids and reads those that exist.
pub(crate) async fn lock(connection: &mut PgConnection, ids: &[&str]) -> Result<Locked, sqlx::Error> {
    let rows = sqlx::query_as!(
        LockedRow,
        r#"SELECT product_id, on_hand, reserved, version, expired, next_expiry, settled_until,
                  statement_timestamp() AS "now!"
           FROM stock WHERE product_id = ANY ($1) ORDER BY product_id FOR UPDATE"#,
        ids as &[&str],
    );
    LockedRow::collect(rows.fetch_all(connection).await?)
}

/// The same, without those that another transaction has locked; it never waits.
pub(crate) async fn lock_free(connection: &mut PgConnection, ids: &[&str]) -> Result<Locked, sqlx::Error> {
    let rows = sqlx::query_as!(
        LockedRow,
        r#"SELECT product_id, on_hand, reserved, version, expired, next_expiry, settled_until,
                  statement_timestamp() AS "now!"
           FROM stock WHERE product_id = ANY ($1) ORDER BY product_id FOR UPDATE SKIP LOCKED"#,
        ids as &[&str],
    );
    LockedRow::collect(rows.fetch_all(connection).await?)
}

/// Returns those of the products that exist.
pub(crate) async fn existing(connection: &mut PgConnection, ids: &[&str]) -> Result<Vec<ProductId>, sqlx::Error> {
    let found = sqlx::query_scalar!("SELECT product_id FROM stock WHERE product_id = ANY ($1)", ids as &[&str]);
    found.fetch_all(connection).await?.into_iter().map(product_id).collect()
}

/// Lets the rest of the transaction wait for a lock only for a moment.
pub(crate) async fn limit_waits(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT set_config('lock_timeout', '10ms', true)").fetch_one(connection).await?;
    Ok(())
}

/// The columns of a locked product.
struct LockedRow {
    product_id: String,
    on_hand: i64,
    reserved: i64,
    version: i64,
    expired: i64,
    next_expiry: Option<DateTime<Utc>>,
    settled_until: DateTime<Utc>,
    now: DateTime<Utc>,
}

impl LockedRow {
    fn collect(rows: Vec<Self>) -> Result<Locked, sqlx::Error> {
        let now = rows.first().map(|row| row.now);
        let locked = rows.into_iter().map(|row| {
            let version = Version { number: row.version, expired: row.expired };
            let counters = Counters { on_hand: row.on_hand, reserved: row.reserved, version };
            let Self { next_expiry, settled_until, .. } = row;
            Ok((product_id(row.product_id)?, ProductRow { counters, next_expiry, settled_until, changed: false }))
        });
        Ok((locked.collect::<Result<_, sqlx::Error>>()?, now))
    }
}

/// Inserts those of the products that do not exist, with nothing on hand; `ids` must be sorted.
pub(crate) async fn insert_products(connection: &mut PgConnection, ids: &[&str]) -> Result<(), sqlx::Error> {
    sqlx::query!("INSERT INTO stock (product_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", ids as &[&str])
        .execute(connection)
        .await?;
    Ok(())
}

/// Reads up to `limit` products with ids after `after`, in order of their ids, with the same counters as [`counters`].
/// Products without a movement are not listed.
pub(crate) async fn list(connection: &mut PgConnection, after: &str, limit: i64) -> Result<Vec<Stock>, sqlx::Error> {
    let rows = settled_stock!("WHERE product_id > $1 AND version > 0 ORDER BY product_id LIMIT $2", after, limit,)
        .fetch_all(connection)
        .await?;
    let stock = rows.into_iter().map(|row| {
        let version = Version { number: row.version, expired: row.expired };
        let counters = Counters { on_hand: row.on_hand, reserved: row.reserved, version };
        Ok(Stock::new(product_id(row.product_id)?, counters))
    });
    stock.collect()
}

/// Reads up to `limit` movements of a product with numbers below `before`, newest first.
pub(crate) async fn movements(
    connection: &mut PgConnection,
    product_id: &ProductId,
    before: i64,
    limit: i64,
) -> Result<Vec<Movement>, sqlx::Error> {
    sqlx::query_as!(
        Movement,
        "SELECT product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reason, reservation_id,
                holds, expired_until, at
         FROM movement WHERE product_id = $1 AND version < $2 ORDER BY version DESC LIMIT $3",
        product_id.as_str(),
        before,
        limit,
    )
    .fetch_all(connection)
    .await
}

/// Converts a column that holds a product id.
pub(super) fn product_id(text: String) -> Result<ProductId, sqlx::Error> {
    text.try_into().map_err(|error: &str| sqlx::Error::Decode(error.into()))
}
