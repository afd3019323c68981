//! Writes the changeset of a batch.

use chassis::idempotency::{self, Claim, Stored};
use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::insert_products;
use crate::model::{Cause, Changeset, CommitMarker, ProductId, Reason, ReservationState, StoredResponse};

/// Writes the movements of locked products, the counters they lead to, new reservations, and the sums of expiries. The
/// first movement carries the batch's id.
pub(crate) async fn write_movements(
    connection: &mut PgConnection,
    changeset: &Changeset,
    batch: Uuid,
) -> Result<(), sqlx::Error> {
    let products = &changeset.products;
    let ids: Vec<&str> = products.iter().map(|(id, _)| id.as_str()).collect();
    let on_hand: Vec<i64> = products.iter().map(|(_, product)| product.counters.on_hand).collect();
    let reserved: Vec<i64> = products.iter().map(|(_, product)| product.counters.reserved).collect();
    let versions: Vec<i64> = products.iter().map(|(_, product)| product.counters.version.number).collect();
    let expired: Vec<i64> = products.iter().map(|(_, product)| product.counters.version.expired).collect();
    let next_expiries: Vec<Option<DateTime<Utc>>> = products.iter().map(|(_, product)| product.next_expiry).collect();
    let settled_until: Vec<DateTime<Utc>> = products.iter().map(|(_, product)| product.settled_until).collect();

    let holds = Holds::new(changeset);

    let expiries = &changeset.expiries;
    let expiry_products: Vec<&str> = expiries.keys().map(|(product_id, _)| product_id.as_str()).collect();
    let expiry_times: Vec<DateTime<Utc>> = expiries.keys().map(|(_, expires_at)| *expires_at).collect();
    let expiry_quantities: Vec<i64> = expiries.values().map(|change| change.quantity).collect();
    let expiry_holds: Vec<i64> = expiries.values().map(|change| change.holds).collect();

    let movements = &changeset.movements;
    let movement_products: Vec<&str> = movements.iter().map(|movement| movement.product_id.as_str()).collect();
    let movement_versions: Vec<i64> = movements.iter().map(|movement| movement.after.version.number).collect();
    let kinds: Vec<&str> = movements.iter().map(|movement| movement.kind).collect();
    let on_hand_deltas: Vec<i64> = movements.iter().map(|movement| movement.on_hand_delta).collect();
    let reserved_deltas: Vec<i64> = movements.iter().map(|movement| movement.reserved_delta).collect();
    let on_hand_after: Vec<i64> = movements.iter().map(|movement| movement.after.on_hand).collect();
    let reserved_after: Vec<i64> = movements.iter().map(|movement| movement.after.reserved).collect();
    let mut reasons: Vec<Option<&str>> = vec![None; movements.len()];
    let mut reservations: Vec<Option<Uuid>> = vec![None; movements.len()];
    let mut expired_holds: Vec<Option<i64>> = vec![None; movements.len()];
    let mut expired_until: Vec<Option<DateTime<Utc>>> = vec![None; movements.len()];
    for (row, movement) in movements.iter().enumerate() {
        match &movement.cause {
            Cause::Change(reason) => reasons[row] = reason.as_ref().map(Reason::as_str),
            Cause::Reservation(id) => reservations[row] = Some(id.0),
            Cause::Expiry { holds, until } => (expired_holds[row], expired_until[row]) = (Some(*holds), Some(*until)),
        }
    }
    let batches: Vec<Option<Uuid>> = (0..movements.len()).map(|row| (row == 0).then_some(batch)).collect();
    sqlx::query!(
        "WITH product AS (
             -- The rows exist. Unlike a join, this can be planned in one way only.
             INSERT INTO stock (product_id, on_hand, reserved, version, expired, next_expiry, settled_until)
             SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[],
                                  $7::timestamptz[])
             ON CONFLICT (product_id) DO UPDATE
                 SET on_hand = excluded.on_hand, reserved = excluded.reserved, version = excluded.version,
                     expired = excluded.expired, next_expiry = excluded.next_expiry,
                     settled_until = excluded.settled_until
         ), held AS (
             -- The items of all reservations are two arrays, of which each reservation takes a slice.
             INSERT INTO reservation (id, state, expires_at, product_ids, quantities, subject)
             SELECT id, 'held', expires_at, ($13::text[])[first:last], ($14::bigint[])[first:last], subject
             FROM unnest($8::uuid[], $9::text[], $10::timestamptz[], $11::integer[], $12::integer[])
                      AS hold (id, subject, expires_at, first, last)
         ), expiring AS (
             INSERT INTO expiry (product_id, expires_at, quantity, holds)
             SELECT * FROM unnest($15::text[], $16::timestamptz[], $17::bigint[], $18::bigint[])
             ON CONFLICT (product_id, expires_at) DO UPDATE
                 SET quantity = expiry.quantity + excluded.quantity, holds = expiry.holds + excluded.holds
         )
         INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved,
                               reason, reservation_id, holds, expired_until, batch)
         SELECT * FROM unnest(
             $19::text[], $20::bigint[], $21::text[], $22::bigint[], $23::bigint[], $24::bigint[], $25::bigint[],
             $26::text[], $27::uuid[], $28::bigint[], $29::timestamptz[], $30::uuid[]
         )",
        &ids as &[&str],
        &on_hand,
        &reserved,
        &versions,
        &expired,
        &next_expiries as &[Option<DateTime<Utc>>],
        &settled_until,
        &holds.ids,
        &holds.subjects as &[&str],
        &holds.expires_at,
        &holds.firsts,
        &holds.lasts,
        &holds.product_ids as &[&str],
        &holds.quantities,
        &expiry_products as &[&str],
        &expiry_times,
        &expiry_quantities,
        &expiry_holds,
        &movement_products as &[&str],
        &movement_versions,
        &kinds as &[&str],
        &on_hand_deltas,
        &reserved_deltas,
        &on_hand_after,
        &reserved_after,
        &reasons as &[Option<&str>],
        &reservations as &[Option<Uuid>],
        &expired_holds as &[Option<i64>],
        &expired_until as &[Option<DateTime<Utc>>],
        &batches as &[Option<Uuid>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// New reservations by column. The items of each are a slice of all items, counted from 1.
#[derive(Default)]
struct Holds<'a> {
    ids: Vec<Uuid>,
    subjects: Vec<&'a str>,
    expires_at: Vec<DateTime<Utc>>,
    firsts: Vec<i32>,
    lasts: Vec<i32>,
    product_ids: Vec<&'a str>,
    quantities: Vec<i64>,
}

impl<'a> Holds<'a> {
    fn new(changeset: &'a Changeset) -> Self {
        let mut holds = Self::default();
        let mut last = 0;
        for reservation in &changeset.holds {
            holds.ids.push(reservation.id.0);
            holds.subjects.push(&reservation.subject);
            holds.expires_at.push(reservation.expires_at);
            holds.firsts.push(last + 1);
            for item in reservation.items.as_slice() {
                holds.product_ids.push(item.product_id.as_str());
                holds.quantities.push(item.quantity);
                last += 1;
            }
            holds.lasts.push(last);
        }
        holds
    }
}

/// Sets the states of reservations that were committed or released.
pub(crate) async fn end_reservations(connection: &mut PgConnection, changeset: &Changeset) -> Result<(), sqlx::Error> {
    for state in [ReservationState::Committed, ReservationState::Released] {
        let ended = changeset.ended.iter().filter(|(_, ended)| *ended == state);
        let ids: Vec<Uuid> = ended.map(|(id, _)| id.0).collect();
        if !ids.is_empty() {
            sqlx::query!("UPDATE reservation SET state = $2 WHERE id = ANY ($1)", &ids, state.name())
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

/// Checks whether a transaction was committed. First waits for it to end by locking a row that it has locked; one is
/// enough because a transaction releases all its locks together.
pub(crate) async fn was_committed(connection: &mut PgConnection, marker: &CommitMarker) -> Result<bool, sqlx::Error> {
    match marker {
        CommitMarker::Movement { product_id, version, batch } => {
            has_movement(connection, product_id, *version, *batch).await
        }
        CommitMarker::Responses(responses) => has_responses(connection, responses).await,
    }
}

async fn has_responses(
    connection: &mut PgConnection,
    responses: &[Stored<StoredResponse>],
) -> Result<bool, sqlx::Error> {
    let claims: Vec<&Claim> = responses.iter().map(|stored| &stored.claim).collect();
    let mut transaction = connection.begin().await?;
    let stored = idempotency::claim::<StoredResponse>(&mut transaction, &claims).await?;
    transaction.rollback().await?;
    Ok(responses.iter().all(|response| stored.get(&response.claim.id) == Some(response)))
}

async fn has_movement(
    connection: &mut PgConnection,
    product_id: &ProductId,
    version: i64,
    batch: Uuid,
) -> Result<bool, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // The row of a new product cannot be seen, and locked, before its transaction ends. Inserting it waits for that.
    insert_products(&mut transaction, &[product_id.as_str()]).await?;
    sqlx::query!("SELECT FROM stock WHERE product_id = $1 FOR UPDATE", product_id.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
    // A separate statement: the previous one does not see rows committed while it waited.
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM movement WHERE product_id = $1 AND version = $2 AND batch = $3) AS "found!""#,
        product_id.as_str(),
        version,
        batch,
    );
    let found = found.fetch_one(&mut *transaction).await?;
    transaction.rollback().await?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;
    use test_support::process::{TIMEOUT, eventually};

    use super::*;

    /// The connection of a writer is lost while its COMMIT is in progress.
    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn the_outcome_of_a_new_product_waits_for_its_insert(pool: PgPool) {
        for is_committed in [true, false] {
            let product_id = ProductId::try_from(format!("new-{is_committed}")).expect("a valid id");
            let batch = Uuid::from_u128(7);
            let mut writer = pool.begin().await.expect("a transaction");
            insert_products(&mut writer, &[product_id.as_str()]).await.expect("inserted");
            let movement = "INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand,
                                                  reserved, batch) VALUES ($1, 1, 'set', 5, 0, 5, 0, $2)";
            sqlx::query(movement).bind(product_id.as_str()).bind(batch).execute(&mut *writer).await.expect("inserted");

            let mut connection = pool.acquire().await.expect("a connection");
            let marker = CommitMarker::Movement { product_id, version: 1, batch };
            let outcome = tokio::spawn(async move { was_committed(&mut connection, &marker).await });
            let waiting = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND wait_event_type = 'Lock'";
            eventually("the outcome is waited for", TIMEOUT, async || {
                let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&pool).await.ok()?;
                (waiting == 1).then_some(())
            })
            .await;
            if is_committed { writer.commit().await } else { writer.rollback().await }.expect("ended");
            assert_eq!(outcome.await.expect("no panic").expect("a response"), is_committed);
        }
    }
}
