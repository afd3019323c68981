//! What a batch has decided, written.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    engine::{Marker, Writes},
    model::{ProductId, Reason},
};

/// Writes ledger entries of locked products, the counters they lead to, and what is newly held. The first entry bears
/// the batch's name.
pub(crate) async fn record(connection: &mut PgConnection, writes: &Writes, batch: Uuid) -> Result<(), sqlx::Error> {
    let products = &writes.products;
    let ids: Vec<&str> = products.iter().map(|(id, _)| id.as_str()).collect();
    let on_hand: Vec<i64> = products.iter().map(|(_, product)| product.counters.on_hand).collect();
    let reserved: Vec<i64> = products.iter().map(|(_, product)| product.counters.reserved).collect();
    let versions: Vec<i64> = products.iter().map(|(_, product)| product.counters.version).collect();
    let next_expiries: Vec<Option<DateTime<Utc>>> = products.iter().map(|(_, product)| product.next_expiry).collect();

    let held: Vec<Uuid> = writes.holds.iter().map(|hold| hold.id.0).collect();
    let held_until: Vec<DateTime<Utc>> = writes.holds.iter().map(|hold| hold.expires_at).collect();
    let until: HashMap<_, _> = writes.holds.iter().map(|hold| (Some(hold.id), hold.expires_at)).collect();

    let entries = &writes.entries;
    let entry_ids: Vec<&str> = entries.iter().map(|entry| entry.product_id.as_str()).collect();
    let entry_versions: Vec<i64> = entries.iter().map(|entry| entry.after.version).collect();
    let kinds: Vec<&str> = entries.iter().map(|entry| entry.kind).collect();
    let on_hand_deltas: Vec<i64> = entries.iter().map(|entry| entry.on_hand_delta).collect();
    let reserved_deltas: Vec<i64> = entries.iter().map(|entry| entry.reserved_delta).collect();
    let on_hand_after: Vec<i64> = entries.iter().map(|entry| entry.after.on_hand).collect();
    let reserved_after: Vec<i64> = entries.iter().map(|entry| entry.after.reserved).collect();
    let reasons: Vec<Option<&str>> = entries.iter().map(|entry| entry.reason.as_ref().map(Reason::as_str)).collect();
    let reservations: Vec<Option<Uuid>> = entries.iter().map(|entry| entry.reservation_id.map(|id| id.0)).collect();
    let expiries: Vec<Option<DateTime<Utc>>> = entries
        .iter()
        .map(|entry| until.get(&entry.reservation_id).copied().filter(|_| entry.kind == "hold"))
        .collect();
    let mut names: Vec<Option<Uuid>> = vec![None; entries.len()];
    if let Some(first) = names.first_mut() {
        *first = Some(batch);
    }
    sqlx::query!(
        "WITH entry AS (
             SELECT * FROM unnest(
                 $8::text[], $9::bigint[], $10::text[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[],
                 $15::text[], $16::uuid[], $17::timestamptz[], $18::uuid[]
             ) AS entry (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved,
                         reason, reservation_id, expires_at, batch)
         ), product AS (
             UPDATE stock SET on_hand = new.on_hand, reserved = new.reserved, version = new.version,
                              next_expiry = new.next_expiry
             FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::timestamptz[])
                  AS new (product_id, on_hand, reserved, version, next_expiry)
             WHERE stock.product_id = new.product_id
         ), held AS (
             INSERT INTO reservation (id, state, expires_at)
             SELECT id, 'held', expires_at FROM unnest($6::uuid[], $7::timestamptz[]) AS hold (id, expires_at)
         ), line AS (
             INSERT INTO reservation_line (reservation_id, product_id, quantity, expires_at)
             SELECT reservation_id, product_id, reserved_delta, expires_at FROM entry WHERE kind = 'hold'
         )
         INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved,
                               reason, reservation_id, batch)
         SELECT product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reason, reservation_id, batch
         FROM entry",
        &ids as &[&str],
        &on_hand,
        &reserved,
        &versions,
        &next_expiries as &[Option<DateTime<Utc>>],
        &held,
        &held_until,
        &entry_ids as &[&str],
        &entry_versions,
        &kinds as &[&str],
        &on_hand_deltas,
        &reserved_deltas,
        &on_hand_after,
        &reserved_after,
        &reasons as &[Option<&str>],
        &reservations as &[Option<Uuid>],
        &expiries as &[Option<DateTime<Utc>>],
        &names as &[Option<Uuid>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes what has come to its end: lines that no longer count as reserved, and reservations.
pub(crate) async fn close(connection: &mut PgConnection, writes: &Writes) -> Result<(), sqlx::Error> {
    let lines: Vec<Uuid> = writes.closed.iter().map(|(id, _)| id.0).collect();
    let products: Vec<&str> = writes.closed.iter().map(|(_, product)| product.as_str()).collect();
    let ended: Vec<Uuid> = writes.ended.iter().map(|(id, _)| id.0).collect();
    let states: Vec<&str> = writes.ended.iter().map(|(_, state)| state.name()).collect();
    sqlx::query!(
        "WITH line AS (
             UPDATE reservation_line SET live = false
             FROM unnest($1::uuid[], $2::text[]) AS closed (reservation_id, product_id)
             WHERE reservation_line.reservation_id = closed.reservation_id
               AND reservation_line.product_id = closed.product_id
         )
         UPDATE reservation SET state = ended.state FROM unnest($3::uuid[], $4::text[]) AS ended (id, state)
         WHERE reservation.id = ended.id",
        &lines,
        &products as &[&str],
        &ended,
        &states as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Finds out whether a transaction that no longer goes on was committed. To see that it has ended this locks a product
/// that it had locked: one is enough, for its locks end together.
pub(crate) async fn was_recorded(connection: &mut PgConnection, marker: &Marker) -> Result<bool, sqlx::Error> {
    let product_id: &ProductId = &marker.product_id;
    sqlx::query!("SELECT FROM stock WHERE product_id = $1 FOR UPDATE", product_id.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    // In a statement of its own: the one before may see nothing of what was committed while it waited.
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM movement WHERE product_id = $1 AND version = $2 AND batch = $3) AS "found!""#,
        product_id.as_str(),
        marker.version,
        marker.batch,
    );
    found.fetch_one(connection).await
}
