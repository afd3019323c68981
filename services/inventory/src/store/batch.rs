//! Writes the changeset of a batch.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::model::{Changeset, CommitMarker, ProductId, Reason};

/// Writes the movements of locked products, the counters they lead to, and new reservations. The first movement carries
/// the batch's id.
pub(crate) async fn write_movements(
    connection: &mut PgConnection,
    changeset: &Changeset,
    batch: Uuid,
) -> Result<(), sqlx::Error> {
    let products = &changeset.products;
    let ids: Vec<&str> = products.iter().map(|(id, _)| id.as_str()).collect();
    let on_hand: Vec<i64> = products.iter().map(|(_, product)| product.counters.on_hand).collect();
    let reserved: Vec<i64> = products.iter().map(|(_, product)| product.counters.reserved).collect();
    let versions: Vec<i64> = products.iter().map(|(_, product)| product.counters.version).collect();
    let next_expiries: Vec<Option<DateTime<Utc>>> = products.iter().map(|(_, product)| product.next_expiry).collect();

    let hold_ids: Vec<Uuid> = changeset.holds.iter().map(|hold| hold.id.0).collect();
    let hold_expiries: Vec<DateTime<Utc>> = changeset.holds.iter().map(|hold| hold.expires_at).collect();
    let expires_at: HashMap<_, _> = changeset.holds.iter().map(|hold| (Some(hold.id), hold.expires_at)).collect();

    let movements = &changeset.movements;
    let movement_products: Vec<&str> = movements.iter().map(|movement| movement.product_id.as_str()).collect();
    let movement_versions: Vec<i64> = movements.iter().map(|movement| movement.after.version).collect();
    let kinds: Vec<&str> = movements.iter().map(|movement| movement.kind).collect();
    let on_hand_deltas: Vec<i64> = movements.iter().map(|movement| movement.on_hand_delta).collect();
    let reserved_deltas: Vec<i64> = movements.iter().map(|movement| movement.reserved_delta).collect();
    let on_hand_after: Vec<i64> = movements.iter().map(|movement| movement.after.on_hand).collect();
    let reserved_after: Vec<i64> = movements.iter().map(|movement| movement.after.reserved).collect();
    let reasons: Vec<Option<&str>> =
        movements.iter().map(|movement| movement.reason.as_ref().map(Reason::as_str)).collect();
    let reservations: Vec<Option<Uuid>> =
        movements.iter().map(|movement| movement.reservation_id.map(|id| id.0)).collect();
    let expiries: Vec<Option<DateTime<Utc>>> = movements
        .iter()
        .map(|movement| expires_at.get(&movement.reservation_id).copied().filter(|_| movement.kind == "hold"))
        .collect();
    let mut batches: Vec<Option<Uuid>> = vec![None; movements.len()];
    if let Some(first) = batches.first_mut() {
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
        &hold_ids,
        &hold_expiries,
        &movement_products as &[&str],
        &movement_versions,
        &kinds as &[&str],
        &on_hand_deltas,
        &reserved_deltas,
        &on_hand_after,
        &reserved_after,
        &reasons as &[Option<&str>],
        &reservations as &[Option<Uuid>],
        &expiries as &[Option<DateTime<Utc>>],
        &batches as &[Option<Uuid>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Closes lines and ends reservations.
pub(crate) async fn close_reservations(
    connection: &mut PgConnection,
    changeset: &Changeset,
) -> Result<(), sqlx::Error> {
    let lines: Vec<Uuid> = changeset.closed_lines.iter().map(|(id, _)| id.0).collect();
    let products: Vec<&str> = changeset.closed_lines.iter().map(|(_, product)| product.as_str()).collect();
    let ended: Vec<Uuid> = changeset.ended.iter().map(|(id, _)| id.0).collect();
    let states: Vec<&str> = changeset.ended.iter().map(|(_, state)| state.name()).collect();
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

/// Checks whether a transaction was committed. First waits for it to end by locking a product that it has locked; one
/// is enough because a transaction releases all its locks together.
pub(crate) async fn was_committed(connection: &mut PgConnection, marker: &CommitMarker) -> Result<bool, sqlx::Error> {
    let product_id: &ProductId = &marker.product_id;
    sqlx::query!("SELECT FROM stock WHERE product_id = $1 FOR UPDATE", product_id.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    // A separate statement: the previous one does not see rows committed while it waited.
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM movement WHERE product_id = $1 AND version = $2 AND batch = $3) AS "found!""#,
        product_id.as_str(),
        marker.version,
        marker.batch,
    );
    found.fetch_one(connection).await
}
