//! All SQL of inventory.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::{
    engine::Entry,
    model::{Counters, Movement, ProductId, Reason, Stock},
};

/// Reads the counters of the products that are known.
pub(crate) async fn counters(
    connection: &mut PgConnection,
    ids: &[&str],
) -> Result<HashMap<String, Counters>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT product_id, on_hand, reserved, version FROM stock WHERE product_id = ANY ($1)",
        ids as &[&str],
    )
    .fetch_all(connection)
    .await?;
    let counters = rows
        .into_iter()
        .map(|row| (row.product_id, Counters { on_hand: row.on_hand, reserved: row.reserved, version: row.version }));
    Ok(counters.collect())
}

/// Locks products, in order of their ids, and reads the counters of those that are known.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    ids: &[&str],
) -> Result<Vec<(ProductId, Counters)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT product_id, on_hand, reserved, version FROM stock
         WHERE product_id = ANY ($1) ORDER BY product_id FOR UPDATE",
        ids as &[&str],
    )
    .fetch_all(connection)
    .await?;
    let locked = rows.into_iter().map(|row| {
        let counters = Counters { on_hand: row.on_hand, reserved: row.reserved, version: row.version };
        Ok((product_id(row.product_id)?, counters))
    });
    locked.collect()
}

/// Adds those of the products that are not known, with nothing on hand; `ids` are sorted.
pub(crate) async fn add(connection: &mut PgConnection, ids: &[&str]) -> Result<(), sqlx::Error> {
    sqlx::query!("INSERT INTO stock (product_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", ids as &[&str],)
        .execute(connection)
        .await?;
    Ok(())
}

/// Writes ledger entries of locked products, and the counters they lead to.
pub(crate) async fn record(connection: &mut PgConnection, entries: &[Entry]) -> Result<(), sqlx::Error> {
    let counters: HashMap<&str, Counters> =
        entries.iter().map(|entry| (entry.product_id.as_str(), entry.after)).collect();
    let ids: Vec<&str> = counters.keys().copied().collect();
    let on_hand: Vec<i64> = counters.values().map(|counters| counters.on_hand).collect();
    let reserved: Vec<i64> = counters.values().map(|counters| counters.reserved).collect();
    let versions: Vec<i64> = counters.values().map(|counters| counters.version).collect();

    let entry_ids: Vec<&str> = entries.iter().map(|entry| entry.product_id.as_str()).collect();
    let entry_versions: Vec<i64> = entries.iter().map(|entry| entry.after.version).collect();
    let kinds: Vec<&str> = entries.iter().map(|entry| entry.kind).collect();
    let on_hand_deltas: Vec<i64> = entries.iter().map(|entry| entry.on_hand_delta).collect();
    let on_hand_after: Vec<i64> = entries.iter().map(|entry| entry.after.on_hand).collect();
    let reserved_after: Vec<i64> = entries.iter().map(|entry| entry.after.reserved).collect();
    let reasons: Vec<Option<&str>> = entries.iter().map(|entry| entry.reason.as_ref().map(Reason::as_str)).collect();
    sqlx::query!(
        "WITH written AS (
             UPDATE stock SET on_hand = new.on_hand, reserved = new.reserved, version = new.version
             FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
                  AS new (product_id, on_hand, reserved, version)
             WHERE stock.product_id = new.product_id
         )
         INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reason)
         SELECT product_id, version, kind, on_hand_delta, 0, on_hand, reserved, reason
         FROM unnest($5::text[], $6::bigint[], $7::text[], $8::bigint[], $9::bigint[], $10::bigint[], $11::text[])
              AS entry (product_id, version, kind, on_hand_delta, on_hand, reserved, reason)",
        &ids as &[&str],
        &on_hand,
        &reserved,
        &versions,
        &entry_ids as &[&str],
        &entry_versions,
        &kinds as &[&str],
        &on_hand_deltas,
        &on_hand_after,
        &reserved_after,
        &reasons as &[Option<&str>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Reads up to `limit` products by id, those after `after`. A product is listed from its first movement on.
pub(crate) async fn list(connection: &mut PgConnection, after: &str, limit: i64) -> Result<Vec<Stock>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT product_id, on_hand, reserved, version FROM stock
         WHERE product_id > $1 AND version > 0 ORDER BY product_id LIMIT $2",
        after,
        limit,
    )
    .fetch_all(connection)
    .await?;
    let stock = rows.into_iter().map(|row| {
        let counters = Counters { on_hand: row.on_hand, reserved: row.reserved, version: row.version };
        Ok(Stock::new(product_id(row.product_id)?, counters))
    });
    stock.collect()
}

/// Reads up to `limit` movements of a product, newest first, those before number `before`.
pub(crate) async fn movements(
    connection: &mut PgConnection,
    product_id: &ProductId,
    before: i64,
    limit: i64,
) -> Result<Vec<Movement>, sqlx::Error> {
    sqlx::query_as!(
        Movement,
        "SELECT product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reason, reservation_id, at
         FROM movement WHERE product_id = $1 AND version < $2 ORDER BY version DESC LIMIT $3",
        product_id.as_str(),
        before,
        limit,
    )
    .fetch_all(connection)
    .await
}

fn product_id(text: String) -> Result<ProductId, sqlx::Error> {
    text.try_into().map_err(|error: &str| sqlx::Error::Decode(error.into()))
}
