//! The transaction of a batch: claim keys, lock products, let requests join, decide, write, commit.
//!
//! A statement sees what was committed before it began, and the current version of the rows that it waited to lock.
//! Everything else that a lock protects is therefore read by a later statement.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use chassis::{
    LogLimit,
    batch::{Arrivals, OpenHandler},
    idempotency::{self, Claim, Digest, Stored},
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

use super::{
    decide::{LockedRows, decide},
    locked::SkipLocked,
    request::{MAX_WEIGHT, Request, join, reservation_id},
};
use crate::{
    model::{Changeset, CommitMarker, ProductId, ProductRow, ReservationId, StoredResponse},
    store,
};

/// How far a transaction got.
pub(super) enum Progress {
    /// The results are final: the transaction was committed, or there was nothing to write.
    Done,
    /// The transaction must be repeated with other new products.
    Repeat,
}

/// Whether COMMIT was sent, which decides what a lost connection means.
pub(super) enum Commit {
    NotSent,
    /// The marker shows whether it succeeded. Without one, products were only settled, which is safe to repeat.
    Sent(Option<CommitMarker>),
}

/// One attempt to run the transaction of a batch.
pub(super) struct Attempt<'a, 'q, H: OpenHandler> {
    /// The requests. Each has its result if the attempt succeeds.
    pub(super) batch: &'a mut Vec<Request>,
    /// The requests that may join the batch, as long as none of it is left to the next transaction: no request
    /// overtakes another.
    pub(super) arrivals: Option<&'a mut Arrivals<'q, H>>,
    /// Requests of the batch that are left to the next transaction, because this one would change too many products.
    pub(super) rest: &'a mut Vec<Request>,
    /// The products to insert: those that the batch changes and that do not exist yet, as far as that is known.
    pub(super) new: &'a mut BTreeSet<ProductId>,
    /// If set, the transaction leaves out requests for locked products.
    pub(super) skip_locked: Option<&'a mut SkipLocked>,
    pub(super) commit: Commit,
}

/// Runs the transaction. Nothing is changed until the attempt's `commit` is [`Commit::Sent`].
pub(super) async fn run<H: OpenHandler<Request = Request>>(
    connection: &mut PgConnection,
    attempt: &mut Attempt<'_, '_, H>,
) -> Result<Progress, sqlx::Error> {
    attempt.commit = Commit::NotSent;
    let (batch, arrivals, skip_locked) = (&mut *attempt.batch, &mut attempt.arrivals, &mut attempt.skip_locked);
    let mut transaction = connection.begin().await?;
    if let Some(skip_locked) = skip_locked {
        wait_for(&mut transaction, skip_locked).await?;
        store::limit_waits(&mut transaction).await?;
    }
    // No request holds a lock yet, so any request that arrived during the round trip may join.
    if attempt.rest.is_empty()
        && let Some(arrivals) = arrivals
    {
        let weight = batch.iter().map(Request::weight).sum();
        join(batch, weight, arrivals, |request| skip_locked.as_ref().is_none_or(|skip| !skip.leaves_out(request)));
    }
    batch.retain(|request| !request.is_abandoned());
    let claims: Vec<&Claim> = batch.iter().filter_map(Request::claim).collect();
    let stored = idempotency::claim(&mut transaction, &claims).await?;
    repeat_stored(batch, stored);
    let Affected { products_of, products, weight } = affected(&mut transaction, batch, attempt.rest).await?;
    if !attempt.new.is_empty() {
        // The insert may wait for another transaction that inserts the same product, so nothing is locked before it.
        store::insert_products(&mut transaction, &ids(attempt.new)).await?;
    }
    let sent_at = Instant::now();
    let (rows, started_at) = match skip_locked {
        _ if products.is_empty() => Default::default(),
        None => store::lock(&mut transaction, &ids(&products)).await?,
        Some(skip_locked) => {
            let ((mut rows, started_at), locked) = lock_free(&mut transaction, &products).await?;
            skip_locked.take(batch, locked, &products_of);
            // Others wait for these products, so no request joins for one.
            rows.retain(|product, _| !skip_locked.unavailable.contains(product));
            (rows, started_at)
        }
    };
    if attempt.rest.is_empty()
        && let Some(arrivals) = arrivals
    {
        join(batch, weight, arrivals, |request| needs_only(request, &rows));
    }
    let known: HashSet<ProductId> = rows.keys().cloned().collect();
    let mut locked = LockedRows { products: rows, ..LockedRows::default() };
    if let Some(started_at) = started_at {
        read_due_expiries(&mut transaction, &mut locked, latest_time(started_at, sent_at)).await?;
    }
    let reservations: Vec<Uuid> = products_of.into_keys().collect();
    if !reservations.is_empty() {
        locked.reservations = store::reservations(&mut transaction, &reservations).await?;
    }
    // Nothing has been changed yet, so this is the last chance to drop a request.
    batch.retain(|request| !request.is_abandoned());
    let changeset = decide(batch, locked);
    if changeset.is_empty() {
        transaction.rollback().await?;
        return Ok(Progress::Done);
    }
    let changed = changeset.products.iter().map(|(id, _)| id);
    let new = changed.filter(|id| attempt.new.contains(*id) || !known.contains(*id)).cloned();
    let new: BTreeSet<ProductId> = new.collect();
    if new != *attempt.new {
        transaction.rollback().await?;
        *attempt.new = new;
        return Ok(Progress::Repeat);
    }
    let marker = write(&mut transaction, &changeset).await?;
    attempt.commit = Commit::Sent(marker);
    transaction.commit().await?;
    Ok(Progress::Done)
}

/// Settles products on their own, except those that another transaction has locked: it never waits.
pub(super) async fn settle(connection: &mut PgConnection, products: &[ProductId]) -> Result<(), sqlx::Error> {
    let ids: Vec<&str> = products.iter().map(ProductId::as_str).collect();
    let mut transaction = connection.begin().await?;
    let sent_at = Instant::now();
    let (rows, started_at) = store::lock_free(&mut transaction, &ids).await?;
    if let Some(started_at) = started_at {
        let mut locked = LockedRows { products: rows, ..LockedRows::default() };
        read_due_expiries(&mut transaction, &mut locked, latest_time(started_at, sent_at)).await?;
        write(&mut transaction, &decide(&mut [], locked)).await?;
    }
    transaction.commit().await
}

fn ids(products: &BTreeSet<ProductId>) -> Vec<&str> {
    products.iter().map(ProductId::as_str).collect()
}

/// Locks products, in order, as soon as other transactions release them. One statement each, so that it is known which
/// one was not obtained.
async fn wait_for(connection: &mut PgConnection, skip_locked: &mut SkipLocked) -> Result<(), sqlx::Error> {
    for product in &skip_locked.wait_for {
        skip_locked.waits_for = Some(product.clone());
        store::lock(connection, &[product.as_str()]).await?;
    }
    skip_locked.waits_for = None;
    Ok(())
}

/// Locks those of the products that no other transaction has locked. Also returns the others that exist.
async fn lock_free(
    connection: &mut PgConnection,
    products: &BTreeSet<ProductId>,
) -> Result<(store::Locked, BTreeSet<ProductId>), sqlx::Error> {
    let (rows, started_at) = store::lock_free(connection, &ids(products)).await?;
    let others = products.iter().filter(|product| !rows.contains_key(*product)).map(ProductId::as_str);
    let others: Vec<&str> = others.collect();
    let locked = if others.is_empty() { Vec::new() } else { store::existing(connection, &others).await? };
    Ok(((rows, started_at), locked.into_iter().collect()))
}

/// The latest time that the server's clock may show now, given that it started a statement at `started_at` and the
/// statement was sent at `sent_at` or later.
fn latest_time(started_at: DateTime<Utc>, sent_at: Instant) -> DateTime<Utc> {
    let elapsed = TimeDelta::from_std(sent_at.elapsed()).unwrap_or(TimeDelta::MAX);
    // Truncated to the database's precision, so that clients and the database see the same time.
    started_at.checked_add_signed(elapsed).unwrap_or(DateTime::<Utc>::MAX_UTC).trunc_subsecs(6)
}

/// What a batch affects.
struct Affected {
    /// The products of the reservations that it commits or releases.
    products_of: HashMap<Uuid, Vec<ProductId>>,
    /// All products that it changes.
    products: BTreeSet<ProductId>,
    weight: usize,
}

/// Finds out what a batch affects. Requests beyond the maximum weight are moved to `rest`.
async fn affected(
    connection: &mut PgConnection,
    batch: &mut Vec<Request>,
    rest: &mut Vec<Request>,
) -> Result<Affected, sqlx::Error> {
    let reservations = |batch: &[Request]| -> BTreeSet<Uuid> { batch.iter().filter_map(reservation_id).collect() };
    let mut products_of: HashMap<Uuid, Vec<ProductId>> = HashMap::new();
    let ids: Vec<Uuid> = reservations(batch).into_iter().collect();
    if !ids.is_empty() {
        for (ReservationId(id), product_id) in store::products(connection, &ids).await? {
            products_of.entry(id).or_default().push(product_id);
        }
    }
    let (mut count, mut weight) = (0, 0);
    for request in &*batch {
        let products = reservation_id(request).and_then(|id| products_of.get(&id));
        let own = products.map_or_else(|| request.weight(), Vec::len);
        // A single request is never too heavy.
        if count > 0 && weight + own > MAX_WEIGHT {
            break;
        }
        (count, weight) = (count + 1, weight + own);
    }
    rest.splice(0..0, batch.drain(count..));

    let mut products: BTreeSet<ProductId> = batch.iter().flat_map(Request::product_ids).cloned().collect();
    let reservations = reservations(batch);
    products_of.retain(|id, _| reservations.contains(id));
    products.extend(products_of.values().flatten().cloned());
    Ok(Affected { products_of, products, weight })
}

/// Sends the responses that are stored under keys of the batch. They hold whatever becomes of the transaction, so their
/// requests neither wait for it nor fail with it.
fn repeat_stored(batch: &mut Vec<Request>, responses: HashMap<Digest, Stored<StoredResponse>>) {
    let is_stored = |request: &mut Request| request.claim().is_some_and(|claim| responses.contains_key(&claim.id));
    let mut repetitions: Vec<Request> = batch.extract_if(.., is_stored).collect();
    decide(&mut repetitions, LockedRows { responses, ..LockedRows::default() });
    for repetition in repetitions {
        repetition.finish();
    }
}

/// Whether a request needs only the locks on these products. A request with a key also locks the key, and a transition
/// locks products that are not known yet. A product without a row may have been created since the statement began.
fn needs_only(request: &Request, rows: &HashMap<ProductId, ProductRow>) -> bool {
    let is_transition = matches!(request, Request::Transition { .. });
    request.claim().is_none() && !is_transition && request.product_ids().all(|product| rows.contains_key(product))
}

/// Sets the time of the decision, and reads what expired until then.
async fn read_due_expiries(
    connection: &mut PgConnection,
    locked: &mut LockedRows,
    latest_time: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let now = latest_time;
    locked.now = now;
    report_settled_ahead(locked);
    let is_due = |product: &ProductRow| product.next_expiry.is_some_and(|next| next <= now);
    let due = locked.products.iter().filter(|(_, product)| is_due(product));
    let due: Vec<_> = due.map(|(id, product)| (id.as_str(), product.settled_until)).collect();
    if !due.is_empty() {
        locked.due = store::due_expiries(connection, &due, now).await?;
    }
    Ok(())
}

/// How far a product may be settled ahead of the database's clock before it is reported. The clocks of two servers
/// differ by less.
const TOLERANCE: TimeDelta = TimeDelta::seconds(10);

/// Warns if a product was settled far ahead of the time, as when the database's clock was ahead and has been set back.
/// That only concerns its own holds: those made before have expired early, and new ones expire no sooner than that.
fn report_settled_ahead(locked: &LockedRows) {
    static LIMIT: LogLimit = LogLimit::new(Duration::from_mins(1));
    let furthest = locked.products.iter().max_by_key(|(_, product)| product.settled_until);
    if let Some((product_id, product)) = furthest
        && product.settled_until - locked.now > TOLERANCE
        && let Some(omitted) = LIMIT.due()
    {
        let seconds_ahead = (product.settled_until - locked.now).num_seconds();
        let product_id = product_id.as_str();
        tracing::warn!(product_id, seconds_ahead, omitted, "holds were settled ahead of the database's clock");
    }
}

/// Writes a changeset. Returns the marker that shows whether it was committed.
async fn write(connection: &mut PgConnection, changeset: &Changeset) -> Result<Option<CommitMarker>, sqlx::Error> {
    let batch = Uuid::now_v7();
    if !changeset.products.is_empty() {
        store::write_movements(connection, changeset, batch).await?;
    }
    if !changeset.ended.is_empty() {
        store::end_reservations(connection, changeset).await?;
    }
    if !changeset.responses.is_empty() {
        idempotency::store(connection, &changeset.responses).await?;
    }
    let movement = changeset.movements.first().map(|movement| CommitMarker::Movement {
        product_id: movement.product_id.clone(),
        version: movement.after.version.number,
        batch,
    });
    let responses = &changeset.responses;
    Ok(movement.or_else(|| (!responses.is_empty()).then(|| CommitMarker::Responses(responses.clone()))))
}
