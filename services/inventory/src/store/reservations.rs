//! Reservations and their lines.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::stock::product_id;
use crate::model::{
    Item, Items, LockedReservation, OverdueLine, ProductId, Reservation, ReservationId, ReservationState, TimeToLive,
};

/// The maximum number of lines settled in one transaction, so that it ends well before the statement timeout even if
/// many holds expire at once.
pub(crate) const MAX_OVERDUE_LINES: usize = 2000;

/// Reads the products of these reservations. A reservation's products never change.
pub(crate) async fn products(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<(ReservationId, ProductId)>, sqlx::Error> {
    let rows =
        sqlx::query!("SELECT reservation_id, product_id FROM reservation_line WHERE reservation_id = ANY ($1)", ids)
            .fetch_all(connection)
            .await?;
    rows.into_iter().map(|row| Ok((ReservationId(row.reservation_id), product_id(row.product_id)?))).collect()
}

/// Reads these reservations. If all their products are locked, no other transaction can change them.
pub(crate) async fn reservations(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<HashMap<ReservationId, LockedReservation>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT id, state, reservation.expires_at, product_id, quantity, live
         FROM reservation JOIN reservation_line ON reservation_id = id
         WHERE id = ANY ($1) AND state <> 'void'",
        ids,
    )
    .fetch_all(connection)
    .await?;
    let mut found: HashMap<ReservationId, (LockedReservation, Vec<Item>)> = HashMap::new();
    for row in rows {
        let id = ReservationId(row.id);
        let (locked, items) = match found.entry(id) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let (state, expires_at) = (state(&row.state)?, not_null(row.expires_at)?);
                let reservation = Reservation { id, state, items: Items::from_lines(Vec::new()), expires_at };
                entry.insert((LockedReservation { reservation, all_lines_live: true }, Vec::new()))
            }
        };
        locked.all_lines_live &= row.live;
        items.push(Item { product_id: product_id(row.product_id)?, quantity: row.quantity });
    }
    let complete = |(id, (mut locked, items)): (_, (LockedReservation, _))| {
        locked.reservation.items = Items::from_lines(items);
        (id, locked)
    };
    Ok(found.into_iter().map(complete).collect())
}

/// Reads a reservation, and whether it is past its expiry.
pub(crate) async fn reservation(
    connection: &mut PgConnection,
    id: ReservationId,
) -> Result<Option<(Reservation, bool)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT state, reservation.expires_at, reservation.expires_at <= statement_timestamp() AS "is_overdue!",
                  product_id, quantity
           FROM reservation JOIN reservation_line ON reservation_id = id
           WHERE id = $1 AND state <> 'void'"#,
        id.0,
    )
    .fetch_all(connection)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let (state, expires_at, is_overdue) = (state(&first.state)?, not_null(first.expires_at)?, first.is_overdue);
    let items =
        rows.into_iter().map(|row| Ok(Item { product_id: product_id(row.product_id)?, quantity: row.quantity }));
    let items = Items::from_lines(items.collect::<Result<_, sqlx::Error>>()?);
    Ok(Some((Reservation { id, state, items, expires_at }, is_overdue)))
}

/// Reserves an item if enough is available and the product has no overdue line; returns when the hold expires. If the
/// statement waits for the row lock, Postgres checks both conditions again on the current row.
pub(crate) async fn hold(
    connection: &mut PgConnection,
    id: ReservationId,
    item: &Item,
    ttl: TimeToLive,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let held = sqlx::query_scalar!(
        r#"WITH product AS (
               UPDATE stock SET reserved = reserved + $3, version = version + 1,
                                next_expiry = least(next_expiry, clock_timestamp() + make_interval(secs => $4::bigint))
               WHERE product_id = $2 AND on_hand - reserved >= $3
                 AND (next_expiry IS NULL OR next_expiry > clock_timestamp())
               -- Not earlier than next_expiry, which was evaluated first.
               RETURNING product_id, on_hand, reserved, version,
                         clock_timestamp() + make_interval(secs => $4::bigint) AS expires_at
           ), held AS (
               INSERT INTO reservation (id, state, expires_at) SELECT $1, 'held', expires_at FROM product
           ), line AS (
               INSERT INTO reservation_line (reservation_id, product_id, quantity, expires_at)
               SELECT $1, product_id, $3, expires_at FROM product
           ), entry AS (
               INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved,
                                     reservation_id)
               SELECT product_id, version, 'hold', 0, $3, on_hand, reserved, $1 FROM product
           )
           SELECT expires_at AS "expires_at!" FROM product"#,
        id.0,
        item.product_id.as_str(),
        item.quantity,
        ttl.0,
    );
    held.fetch_optional(connection).await
}

/// Resolves a [`hold`] whose outcome is unknown. If it took effect, returns when it expires. Otherwise takes its id, so
/// that it can no longer take effect. Waits for a transaction that is inserting the id.
pub(crate) async fn void(
    connection: &mut PgConnection,
    id: ReservationId,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query!("INSERT INTO reservation (id, state) VALUES ($1, 'void') ON CONFLICT DO NOTHING", id.0)
        .execute(&mut *connection)
        .await?;
    // A separate statement: the previous one does not see a row committed while it waited.
    let expires_at = sqlx::query_scalar!("SELECT expires_at FROM reservation WHERE id = $1 AND state <> 'void'", id.0);
    expires_at.fetch_optional(connection).await.map(Option::flatten)
}

/// Reads the overdue lines of locked products in order of expiry, at most [`MAX_OVERDUE_LINES`].
pub(crate) async fn overdue_lines(
    connection: &mut PgConnection,
    products: &[&str],
    now: DateTime<Utc>,
) -> Result<Vec<OverdueLine>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT reservation_id, product_id, quantity, NOT EXISTS (
               SELECT FROM reservation_line AS before
               WHERE before.reservation_id = line.reservation_id AND before.product_id < line.product_id
           ) AS "is_first!"
           FROM reservation_line AS line WHERE product_id = ANY ($1) AND live AND expires_at <= $2
           ORDER BY expires_at, reservation_id, product_id LIMIT $3"#,
        products as &[&str],
        now,
        i64::try_from(MAX_OVERDUE_LINES).unwrap_or(i64::MAX),
    )
    .fetch_all(connection)
    .await?;
    let lines = rows.into_iter().map(|row| {
        Ok(OverdueLine {
            reservation_id: ReservationId(row.reservation_id),
            product_id: product_id(row.product_id)?,
            quantity: row.quantity,
            is_first: row.is_first,
        })
    });
    lines.collect()
}

/// Reads when each product's next line expires, not counting overdue lines.
pub(crate) async fn next_expiries(
    connection: &mut PgConnection,
    products: &[&str],
    now: DateTime<Utc>,
) -> Result<Vec<(ProductId, Option<DateTime<Utc>>)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT product_id AS "product_id!", (
               SELECT min(expires_at) FROM reservation_line AS line
               WHERE line.product_id = product.product_id AND live AND expires_at > $2
           ) AS next_expiry
           FROM unnest($1::text[]) AS product (product_id)"#,
        products as &[&str],
        now,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| Ok((product_id(row.product_id)?, row.next_expiry))).collect()
}

/// Finds the products of the `limit` lines that have been overdue the longest.
pub(crate) async fn overdue_products(connection: &mut PgConnection, limit: i64) -> Result<Vec<ProductId>, sqlx::Error> {
    let products = sqlx::query_scalar!(
        "SELECT DISTINCT product_id FROM (
             SELECT product_id FROM reservation_line WHERE live AND expires_at <= statement_timestamp()
             ORDER BY expires_at LIMIT $1
         ) AS overdue",
        limit,
    )
    .fetch_all(connection)
    .await?;
    products.into_iter().map(product_id).collect()
}

/// Converts a column that holds the state of a reservation.
fn state(name: &str) -> Result<ReservationState, sqlx::Error> {
    ReservationState::named(name).ok_or_else(|| sqlx::Error::Decode(format!("invalid state: {name}").into()))
}

/// Unwraps a column that sqlx believes to be nullable but that is never null.
fn not_null<T>(value: Option<T>) -> Result<T, sqlx::Error> {
    value.ok_or_else(|| sqlx::Error::Decode("unexpected null".into()))
}
