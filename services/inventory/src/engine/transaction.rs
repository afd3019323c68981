//! The transaction of a batch: claim keys, lock products, let requests join, decide, write, commit.
//!
//! A statement sees what was committed before it began, and the current version of the rows that it waited to lock.
//! Everything else that a lock protects is therefore read by a later statement.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Instant,
};

use chassis::batch::{Arrivals, OpenHandler};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

use super::{
    decide::{LockedRows, decide},
    request::{MAX_WEIGHT, Request, join},
};
use crate::{
    model::{Changeset, Claim, CommitMarker, Digest, IdempotencyRecord, ProductId, ProductRow, ReservationId},
    store,
};

/// How far a transaction got.
pub(super) enum Progress {
    /// The results are final: the transaction was committed, or there was nothing to write.
    Done,
    /// A prerequisite was committed; the transaction must be repeated.
    Repeat,
}

/// Whether COMMIT was sent, which decides what a lost connection means.
pub(super) enum Commit {
    NotSent,
    /// The marker shows whether it succeeded. Without a marker only responses are written, which is safe to repeat.
    Sent(Option<CommitMarker>),
}

/// One attempt to run the transaction of a batch.
pub(super) struct Attempt<'a, 'q, H: OpenHandler> {
    /// The requests. Each has its result if the attempt succeeds.
    pub(super) batch: &'a mut Vec<Request>,
    /// The requests that may join the batch.
    pub(super) arrivals: Option<&'a mut Arrivals<'q, H>>,
    /// Requests of the batch that are left to the next transaction, because this one would change too many products.
    pub(super) rest: &'a mut Vec<Request>,
    /// With this list, the transaction does not wait for products that are locked: their requests are moved here.
    pub(super) locked: Option<&'a mut Vec<Request>>,
    pub(super) commit: Commit,
}

/// Runs the transaction. Nothing is changed until the attempt's `commit` is [`Commit::Sent`].
pub(super) async fn run<H: OpenHandler<Request = Request>>(
    connection: &mut PgConnection,
    attempt: &mut Attempt<'_, '_, H>,
) -> Result<Progress, sqlx::Error> {
    attempt.commit = Commit::NotSent;
    let (batch, arrivals) = (&mut *attempt.batch, &mut attempt.arrivals);
    let mut transaction = connection.begin().await?;
    // Nothing is locked yet, so any request that arrived during the round trip may join.
    if let Some(arrivals) = arrivals {
        join(batch, arrivals, |_| true);
    }
    batch.retain(|request| !request.is_abandoned());
    let records = claim_keys(&mut transaction, batch).await?;
    let (reservations, products) =
        affected(&mut transaction, batch, attempt.rest, attempt.locked.as_deref_mut(), &records).await?;
    let ids: Vec<&str> = products.iter().map(ProductId::as_str).collect();
    let sent_at = Instant::now();
    let (rows, started_at) =
        if ids.is_empty() { Default::default() } else { store::lock(&mut transaction, &ids).await? };
    if let Some(arrivals) = arrivals {
        join(batch, arrivals, |request| needs_only(request, &products));
    }
    let now = started_at.map_or(DateTime::UNIX_EPOCH, |started_at| latest_time(started_at, sent_at));
    let known: HashSet<ProductId> = rows.keys().cloned().collect();
    let mut locked = LockedRows { now, products: rows, records, ..LockedRows::default() };
    let settling = batch.iter().filter_map(|request| match request {
        Request::Settle { product_id, .. } => Some(product_id.clone()),
        _ => None,
    });
    read_overdue_lines(&mut transaction, &mut locked, &settling.collect()).await?;
    if !reservations.is_empty() {
        locked.reservations = store::reservations(&mut transaction, &reservations).await?;
    }

    // Nothing has been changed yet, so this is the last chance to drop a request.
    batch.retain(|request| !request.is_abandoned());
    // If too many lines are overdue, they are settled first, in transactions of limited size.
    let has_backlog = locked.overdue.len() >= store::MAX_OVERDUE_LINES;
    let requests: &mut [Request] = if has_backlog { &mut [] } else { batch };
    let changeset = decide(requests, locked);
    if changeset.is_empty() {
        transaction.rollback().await?;
        return Ok(Progress::Done);
    }
    let new = changeset.products.iter().map(|(id, _)| id).filter(|id| !known.contains(*id)).map(ProductId::as_str);
    let new: BTreeSet<&str> = new.collect();
    if !new.is_empty() {
        // Products are inserted outside the transaction: the insert may wait for another transaction that inserts the
        // same product, and must not hold locks meanwhile. A row without a movement is not listed.
        transaction.rollback().await?;
        store::insert_products(connection, &new.into_iter().collect::<Vec<_>>()).await?;
        return Ok(Progress::Repeat);
    }
    let marker = write(&mut transaction, &changeset).await?;
    if has_backlog {
        transaction.commit().await?;
        return Ok(Progress::Repeat);
    }
    attempt.commit = Commit::Sent(marker);
    transaction.commit().await?;
    Ok(Progress::Done)
}

/// The latest time that the server's clock may show now, given that it started a statement at `started_at` and the
/// statement was sent at `sent_at` or later.
fn latest_time(started_at: DateTime<Utc>, sent_at: Instant) -> DateTime<Utc> {
    let elapsed = TimeDelta::from_std(sent_at.elapsed()).unwrap_or(TimeDelta::MAX);
    // Truncated to the database's precision, so that clients and the database see the same time.
    started_at.checked_add_signed(elapsed).unwrap_or(DateTime::<Utc>::MAX_UTC).trunc_subsecs(6)
}

/// Claims the keys of the batch, in order, and reads the responses stored under them.
async fn claim_keys(
    connection: &mut PgConnection,
    batch: &[Request],
) -> Result<HashMap<Digest, IdempotencyRecord>, sqlx::Error> {
    let claims: BTreeMap<Digest, &Claim> =
        batch.iter().rev().filter_map(Request::claim).map(|claim| (claim.id, claim)).collect();
    if claims.is_empty() {
        return Ok(HashMap::new());
    }
    let claims: Vec<&Claim> = claims.into_values().collect();
    let claimed: HashSet<Vec<u8>> = store::claim(connection, &claims).await?.into_iter().collect();
    let others = claims.iter().map(|claim| claim.id.as_slice()).filter(|id| !claimed.contains(*id));
    let others: Vec<&[u8]> = others.collect();
    if others.is_empty() { Ok(HashMap::new()) } else { store::stored_responses(connection, &others).await }
}

/// The reservations and products that the batch changes. Requests with a stored response change nothing. Requests
/// beyond the maximum weight are moved to `rest`. With `locked`, locks the products that are available, and moves the
/// requests that need others there.
async fn affected(
    connection: &mut PgConnection,
    batch: &mut Vec<Request>,
    rest: &mut Vec<Request>,
    locked: Option<&mut Vec<Request>>,
    records: &HashMap<Digest, IdempotencyRecord>,
) -> Result<(Vec<Uuid>, BTreeSet<ProductId>), sqlx::Error> {
    let reservations = |batch: &[Request]| -> BTreeSet<Uuid> { batch.iter().filter_map(reservation_id).collect() };
    let mut products_of: HashMap<Uuid, Vec<ProductId>> = HashMap::new();
    let ids: Vec<Uuid> = reservations(batch).into_iter().collect();
    if !ids.is_empty() {
        for (ReservationId(id), product_id) in store::products(connection, &ids).await? {
            products_of.entry(id).or_default().push(product_id);
        }
    }
    let mut weight = 0;
    let fits = batch.iter().take_while(|request| {
        let products = reservation_id(request).and_then(|id| products_of.get(&id));
        weight += products.map_or_else(|| request.weight(), Vec::len);
        weight <= MAX_WEIGHT
    });
    // A single request is never too heavy.
    let count = fits.count().max(1).min(batch.len());
    rest.splice(0..0, batch.drain(count..));

    let is_stored = |request: &&Request| request.claim().is_some_and(|claim| records.contains_key(&claim.id));
    if let Some(locked) = locked {
        let needed = |request: &Request| -> Vec<ProductId> {
            let lines = reservation_id(request).and_then(|id| products_of.get(&id)).into_iter().flatten();
            request.product_ids().chain(lines).cloned().collect()
        };
        let products: BTreeSet<ProductId> =
            batch.iter().filter(|request| !is_stored(request)).flat_map(needed).collect();
        let ids: Vec<&str> = products.iter().map(ProductId::as_str).collect();
        let unavailable = store::lock_available(connection, &ids).await?;
        let is_locked = |request: &mut Request| {
            !is_stored(&&*request) && needed(request).iter().any(|product| unavailable.contains(product.as_str()))
        };
        locked.extend(batch.extract_if(.., is_locked));
    }
    let named = batch.iter().filter(|request| !is_stored(request)).flat_map(Request::product_ids);
    let mut products: BTreeSet<ProductId> = named.cloned().collect();
    let reservations = reservations(batch);
    products.extend(reservations.iter().filter_map(|id| products_of.remove(id)).flatten());
    Ok((reservations.into_iter().collect(), products))
}

/// The reservation that the request commits or releases.
fn reservation_id(request: &Request) -> Option<Uuid> {
    match request {
        Request::Transition { id: ReservationId(id), .. } => Some(*id),
        _ => None,
    }
}

/// Whether a request needs only the locks on these products. A request with a key also locks the key, and a transition
/// locks products that are not known yet.
fn needs_only(request: &Request, products: &BTreeSet<ProductId>) -> bool {
    let is_transition = matches!(request, Request::Transition { .. });
    request.claim().is_none() && !is_transition && request.product_ids().all(|product| products.contains(product))
}

/// Reads the overdue lines of products that may have some or are to be settled, and when their next lines expire.
async fn read_overdue_lines(
    connection: &mut PgConnection,
    locked: &mut LockedRows,
    settling: &HashSet<ProductId>,
) -> Result<(), sqlx::Error> {
    let now = locked.now;
    let is_due = |product: &ProductRow| product.next_expiry.is_some_and(|next| next <= now);
    let due: Vec<ProductId> = locked
        .products
        .iter()
        .filter(|(id, product)| is_due(product) || settling.contains(*id))
        .map(|(id, _)| id.clone())
        .collect();
    if due.is_empty() {
        return Ok(());
    }
    let due: Vec<&str> = due.iter().map(ProductId::as_str).collect();
    locked.overdue = store::overdue_lines(connection, &due, now).await?;
    if locked.overdue.len() >= store::MAX_OVERDUE_LINES {
        // More lines may be overdue, so the next expiry is not known yet.
        return Ok(());
    }
    for (product_id, next_expiry) in store::next_expiries(connection, &due, now).await? {
        if let Some(product) = locked.products.get_mut(&product_id)
            && product.next_expiry != next_expiry
        {
            product.next_expiry = next_expiry;
            product.changed = true;
        }
    }
    Ok(())
}

/// Writes a changeset. Returns the marker that shows whether it was committed.
async fn write(connection: &mut PgConnection, changeset: &Changeset) -> Result<Option<CommitMarker>, sqlx::Error> {
    let batch = Uuid::now_v7();
    if !changeset.products.is_empty() {
        store::write_movements(connection, changeset, batch).await?;
    }
    if !changeset.closed_lines.is_empty() {
        store::close_reservations(connection, changeset).await?;
    }
    if !changeset.records.is_empty() {
        store::store_responses(connection, &changeset.records).await?;
    }
    let first = changeset.movements.first();
    Ok(first.map(|movement| CommitMarker {
        product_id: movement.product_id.clone(),
        version: movement.after.version,
        batch,
    }))
}
