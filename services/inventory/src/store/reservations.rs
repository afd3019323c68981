//! Reservations, and their lines.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Instant, present, product_id, state};
use crate::{
    engine::{Known, OverdueLine},
    model::{Item, Items, ProductId, Reservation, ReservationId, TimeToLive},
};

/// How many lines are settled in one transaction: it must end well before its statements' time is up, however many
/// holds expire at once.
pub(crate) const MOST_OVERDUE: usize = 2000;

/// Reads which products these reservations are of; that never changes.
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

/// Reads these reservations; of those whose products are all locked nobody changes anything meanwhile.
pub(crate) async fn reservations(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<HashMap<ReservationId, Known>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT id, state, reservation.expires_at, product_id, quantity, live
         FROM reservation JOIN reservation_line ON reservation_id = id
         WHERE id = ANY ($1) AND state <> 'void'",
        ids,
    )
    .fetch_all(connection)
    .await?;
    let mut found: HashMap<ReservationId, (Known, Vec<Item>)> = HashMap::new();
    for row in rows {
        let id = ReservationId(row.id);
        let (known, items) = match found.entry(id) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let (state, expires_at) = (state(&row.state)?, present(row.expires_at)?);
                let reservation = Reservation { id, state, items: Items::of_lines(Vec::new()), expires_at };
                entry.insert((Known { reservation, is_whole: true }, Vec::new()))
            }
        };
        known.is_whole &= row.live;
        items.push(Item { product_id: product_id(row.product_id)?, quantity: row.quantity });
    }
    let complete = |(id, (mut known, items)): (_, (Known, _))| {
        known.reservation.items = Items::of_lines(items);
        (id, known)
    };
    Ok(found.into_iter().map(complete).collect())
}

/// Reads a reservation, and whether its time is up.
pub(crate) async fn reservation(
    connection: &mut PgConnection,
    id: ReservationId,
) -> Result<Option<(Reservation, bool)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT state, reservation.expires_at, reservation.expires_at <= statement_timestamp() AS "is_up!",
                  product_id, quantity
           FROM reservation JOIN reservation_line ON reservation_id = id
           WHERE id = $1 AND state <> 'void'"#,
        id.0,
    )
    .fetch_all(connection)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let (state, expires_at, is_up) = (state(&first.state)?, present(first.expires_at)?, first.is_up);
    let items =
        rows.into_iter().map(|row| Ok(Item { product_id: product_id(row.product_id)?, quantity: row.quantity }));
    let items = Items::of_lines(items.collect::<Result<_, sqlx::Error>>()?);
    Ok(Some((Reservation { id, state, items, expires_at }, is_up)))
}

/// Holds an item, where there is enough of it and no line of its product is overdue; returns until when. Both are judged
/// again, by the row as it then is, if the statement had to wait for its lock.
pub(crate) async fn hold(
    connection: &mut PgConnection,
    id: ReservationId,
    item: &Item,
    ttl: TimeToLive,
) -> Result<Option<Instant>, sqlx::Error> {
    let held = sqlx::query_scalar!(
        r#"WITH product AS (
               UPDATE stock SET reserved = reserved + $3, version = version + 1,
                                next_expiry = least(next_expiry, clock_timestamp() + make_interval(secs => $4::bigint))
               WHERE product_id = $2 AND on_hand - reserved >= $3
                 AND (next_expiry IS NULL OR next_expiry > clock_timestamp())
               -- Not before the bound, as that was set before.
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

/// Sees to it that a reservation whose [`hold`] was lost either is there, and returns until when, or can never be: its
/// id is taken. Waits for a transaction that is about to take it.
pub(crate) async fn void(connection: &mut PgConnection, id: ReservationId) -> Result<Option<Instant>, sqlx::Error> {
    sqlx::query!("INSERT INTO reservation (id, state) VALUES ($1, 'void') ON CONFLICT DO NOTHING", id.0)
        .execute(&mut *connection)
        .await?;
    // In a statement of its own: the one before may see nothing of what was committed while it waited.
    let there = sqlx::query_scalar!("SELECT expires_at FROM reservation WHERE id = $1 AND state <> 'void'", id.0);
    there.fetch_optional(connection).await.map(Option::flatten)
}

/// Reads the overdue lines of locked products, in order of their expiry; at most [`MOST_OVERDUE`].
pub(crate) async fn overdue_lines(
    connection: &mut PgConnection,
    products: &[&str],
    now: Instant,
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
        i64::try_from(MOST_OVERDUE).unwrap_or(i64::MAX),
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

/// Reads when the next line of each of these products expires, of those that are not overdue.
pub(crate) async fn next_expiries(
    connection: &mut PgConnection,
    products: &[&str],
    now: Instant,
) -> Result<Vec<(ProductId, Option<Instant>)>, sqlx::Error> {
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

/// Finds products that have overdue lines, those of the first `lines`.
pub(crate) async fn overdue_products(connection: &mut PgConnection, lines: i64) -> Result<Vec<ProductId>, sqlx::Error> {
    let products = sqlx::query_scalar!(
        "SELECT DISTINCT product_id FROM (
             SELECT product_id FROM reservation_line WHERE live AND expires_at <= statement_timestamp()
             ORDER BY expires_at LIMIT $1
         ) AS overdue",
        lines,
    )
    .fetch_all(connection)
    .await?;
    products.into_iter().map(product_id).collect()
}
