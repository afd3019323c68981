//! Reservations.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::stock::product_id;
use crate::model::{Item, Items, ProductId, Reservation, ReservationId, ReservationState, TimeToLive};

/// Reads the products of these reservations. A reservation's products never change.
pub(crate) async fn products(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<(ReservationId, ProductId)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id, unnest(product_ids) AS "product_id!" FROM reservation WHERE id = ANY ($1) AND state <> 'void'"#,
        ids,
    );
    let rows = rows.fetch_all(connection).await?;
    rows.into_iter().map(|row| Ok((ReservationId(row.id), product_id(row.product_id)?))).collect()
}

/// Reads these reservations as they are stored: expired ones are held. If their products are locked, no other
/// transaction can change them.
pub(crate) async fn reservations(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<HashMap<ReservationId, Reservation>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, subject, state, expires_at AS "expires_at!", product_ids AS "product_ids!",
                  quantities AS "quantities!"
           FROM reservation WHERE id = ANY ($1) AND state <> 'void'"#,
        ids,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| Ok((ReservationId(row.id), row.reservation()?))).collect()
}

/// How far a reservation's expiry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    Ahead,
    /// The time has come, but a commit that began in time may be in progress.
    Due,
    /// One of its products is settled up to then, so no commit can be in progress, and none can begin.
    Settled,
}

/// Reads a reservation as it is stored, and how far its expiry is.
pub(crate) async fn reservation(
    connection: &mut PgConnection,
    id: ReservationId,
) -> Result<Option<(Reservation, Expiry)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT id, subject, state, expires_at AS "expires_at!", product_ids AS "product_ids!",
                  quantities AS "quantities!", expires_at <= statement_timestamp() AS "is_due!",
                  coalesce(expires_at <= (
                      SELECT max(settled_until) FROM stock WHERE product_id = ANY (product_ids)
                  ), false) AS "is_settled!"
           FROM reservation WHERE id = $1 AND state <> 'void'"#,
        id.0,
    );
    let Some(row) = row.fetch_optional(connection).await? else { return Ok(None) };
    let expiry = match (row.is_settled, row.is_due) {
        (true, _) => Expiry::Settled,
        (false, true) => Expiry::Due,
        (false, false) => Expiry::Ahead,
    };
    let row = Row {
        id: row.id,
        subject: row.subject,
        state: row.state,
        expires_at: row.expires_at,
        product_ids: row.product_ids,
        quantities: row.quantities,
    };
    Ok(Some((row.reservation()?, expiry)))
}

/// The columns of a reservation.
struct Row {
    id: Uuid,
    subject: String,
    state: String,
    expires_at: DateTime<Utc>,
    product_ids: Vec<String>,
    quantities: Vec<i64>,
}

impl Row {
    fn reservation(self) -> Result<Reservation, sqlx::Error> {
        let state = ReservationState::named(&self.state)
            .ok_or_else(|| sqlx::Error::Decode(format!("invalid state: {}", self.state).into()))?;
        let items = self.product_ids.into_iter().zip(self.quantities);
        let items = items.map(|(id, quantity)| Ok(Item { product_id: product_id(id)?, quantity }));
        let items = Items::stored(items.collect::<Result<_, sqlx::Error>>()?);
        let (id, subject) = (ReservationId(self.id), self.subject.into());
        Ok(Reservation { id, subject, state, items, expires_at: self.expires_at })
    }
}

/// Reserves an item if enough is available and no hold of the product has expired; returns when the hold expires. If
/// the statement waits for the row lock, Postgres checks both conditions again on the current row.
pub(crate) async fn hold(
    connection: &mut PgConnection,
    id: ReservationId,
    subject: &str,
    item: &Item,
    ttl: TimeToLive,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let held = sqlx::query_scalar!(
        // A hold expires at a full second, and after everything that is settled.
        r#"WITH product AS (
               UPDATE stock SET reserved = reserved + $3, version = version + 1,
                                next_expiry = least(next_expiry, date_trunc('second', greatest(
                                    clock_timestamp() + make_interval(secs => $4::bigint + 0.999999::double precision),
                                    settled_until + make_interval(secs => 1))))
               WHERE product_id = $2 AND on_hand - reserved >= $3
                 AND (next_expiry IS NULL OR next_expiry > clock_timestamp())
               -- Not earlier than next_expiry, which was evaluated first.
               RETURNING product_id, on_hand, reserved, version, date_trunc('second', greatest(
                             clock_timestamp() + make_interval(secs => $4::bigint + 0.999999::double precision),
                             settled_until + make_interval(secs => 1))) AS expires_at
           ), held AS (
               INSERT INTO reservation (id, state, expires_at, product_ids, quantities, subject)
               SELECT $1, 'held', expires_at, ARRAY[product_id], ARRAY[$3], $5 FROM product
           ), expiring AS (
               INSERT INTO expiry (product_id, expires_at, quantity, holds) SELECT product_id, expires_at, $3, 1 FROM product
               ON CONFLICT (product_id, expires_at) DO UPDATE
                   SET quantity = expiry.quantity + excluded.quantity, holds = expiry.holds + excluded.holds
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
        subject,
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

/// Deletes up to `limit` reservations that were made longer than `retention` ago, the oldest first, if their ids are
/// `from` or higher. Returns how many, and the highest id. No request locks them any more. It skips a reservation that
/// is still held, should there be one.
pub(crate) async fn prune_reservations(
    connection: &mut PgConnection,
    from: Uuid,
    retention: Duration,
    limit: i64,
) -> Result<(i64, Option<Uuid>), sqlx::Error> {
    // Ids start with the time, so old ones are found by the primary key. The server's clock decides.
    let before = SystemTime::now().checked_sub(retention).and_then(|before| before.duration_since(UNIX_EPOCH).ok());
    let before = before.and_then(|before| u64::try_from(before.as_millis()).ok()).unwrap_or_default();
    let pruned = sqlx::query!(
        r#"WITH pruned AS (
               DELETE FROM reservation WHERE id = ANY (ARRAY(
                   SELECT id FROM reservation
                   WHERE id >= $1 AND id < $2 AND created_at <= statement_timestamp() - make_interval(secs => $3)
                     AND (state <> 'held' OR expires_at <= statement_timestamp())
                   ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED
               ))
               RETURNING id
           )
           SELECT count(*) AS "count!", max(id::text COLLATE "C")::uuid AS last FROM pruned"#,
        from,
        uuid::Builder::from_unix_timestamp_millis(before, &[0; 10]).into_uuid(),
        retention.as_secs_f64(),
        limit,
    )
    .fetch_one(connection)
    .await?;
    Ok((pruned.count, pruned.last))
}
