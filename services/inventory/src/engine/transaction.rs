//! One transaction of a batch: claim its keys, lock its products, let others join, decide, write, commit.
//!
//! What depends on a lock is read in a later statement than the one that waits for it: Postgres shows a statement what
//! was committed before it began, and of what came while it waited only the very row that it waited for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Instant,
};

use chassis::batch::Arrivals;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

use super::{
    decide::{Locked, Product, Writes, decide},
    idempotency::{Claim, Digest, Record},
    request::{Command, Decided, Request},
    writer::{LARGEST_BATCH, LARGEST_WEIGHT, Writer},
};
use crate::{
    model::{ProductId, ReservationId},
    store,
};

/// How far a batch got.
pub(super) enum Step {
    /// There was nothing to write.
    Answered(Vec<Decided>),
    /// It is committed; the answers are with [`Committing`].
    Committed,
    /// What had to come first is done: once more.
    Again,
}

/// What is at stake while COMMIT is under way.
pub(super) struct Committing {
    pub(super) answers: Vec<Decided>,
    /// Where to see whether it was made; none where nothing but answers is written, which may as well be done again.
    pub(super) marker: Option<Marker>,
}

/// A movement that nobody but one transaction can have written.
#[derive(Debug, Clone)]
pub(crate) struct Marker {
    pub(crate) product_id: ProductId,
    pub(crate) version: i64,
    pub(crate) batch: Uuid,
}

/// Runs the transaction. Before COMMIT nothing is changed, whatever happens; from then on `committing` says what it was.
pub(super) async fn run(
    connection: &mut PgConnection,
    batch: &mut Vec<Request>,
    mut arrivals: Option<&mut Arrivals<'_, Writer>>,
    committing: &mut Option<Committing>,
) -> Result<Step, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // Nothing is locked yet: whatever came during that round trip may join.
    if let Some(arrivals) = arrivals.as_deref_mut() {
        join(batch, arrivals, |_| true);
    }
    let records = claim(&mut transaction, batch).await?;
    let (ending, products) = products(&mut transaction, batch, &records).await?;
    let ids: Vec<&str> = products.iter().map(ProductId::as_str).collect();
    let sent = Instant::now();
    let (rows, began) = if ids.is_empty() { Default::default() } else { store::lock(&mut transaction, &ids).await? };
    if let Some(arrivals) = arrivals {
        join(batch, arrivals, |request| needs_only(request, &products));
    }
    let now = began.map_or(DateTime::UNIX_EPOCH, |began| at_most(began, sent));
    let known: HashSet<ProductId> = rows.keys().cloned().collect();
    let mut locked = Locked { now, products: rows, records, ..Locked::default() };
    let settling = batch.iter().filter_map(|request| match &request.command {
        Command::Settle(product_id) => Some(product_id.clone()),
        _ => None,
    });
    look_for_overdue(&mut transaction, &mut locked, &settling.collect()).await?;
    if !ending.is_empty() {
        locked.reservations = store::reservations(&mut transaction, &ending).await?;
    }

    // So many expire at once that they are settled first, in transactions of a bearable length.
    let is_backlog = locked.overdue.len() >= store::MOST_OVERDUE;
    let (answers, writes) = decide(if is_backlog { &[] } else { batch }, locked);
    if writes.is_empty() {
        transaction.rollback().await?;
        return Ok(Step::Answered(answers));
    }
    let new: BTreeSet<&str> =
        writes.products.iter().map(|(id, _)| id).filter(|id| !known.contains(*id)).map(ProductId::as_str).collect();
    if !new.is_empty() {
        // They are added outside of the transaction: adding may have to wait for another one that adds the same
        // product, and that wait must not hold locks. Until its first movement nobody sees the row.
        transaction.rollback().await?;
        store::add(connection, &new.into_iter().collect::<Vec<_>>()).await?;
        return Ok(Step::Again);
    }
    let marker = write(&mut transaction, &writes).await?;
    if is_backlog {
        transaction.commit().await?;
        return Ok(Step::Again);
    }
    *committing = Some(Committing { answers, marker });
    transaction.commit().await?;
    Ok(Step::Committed)
}

/// The time by the server's clock: not before it is reached. The server began a statement at `began`, which was sent at
/// `sent` or later.
fn at_most(began: DateTime<Utc>, sent: Instant) -> DateTime<Utc> {
    let since = TimeDelta::from_std(sent.elapsed()).unwrap_or(TimeDelta::MAX);
    // As exact as the database is: what it keeps is what was answered.
    began.checked_add_signed(since).unwrap_or(DateTime::<Utc>::MAX_UTC).trunc_subsecs(6)
}

/// Claims the keys of the batch, in order, and reads the answers that are kept.
async fn claim(connection: &mut PgConnection, batch: &[Request]) -> Result<HashMap<Digest, Record>, sqlx::Error> {
    let claims: BTreeMap<Digest, &Claim> =
        batch.iter().rev().filter_map(|request| request.claim.as_ref()).map(|claim| (claim.id, claim)).collect();
    if claims.is_empty() {
        return Ok(HashMap::new());
    }
    let claims: Vec<&Claim> = claims.into_values().collect();
    let claimed: HashSet<Vec<u8>> = store::claim(connection, &claims).await?.into_iter().collect();
    let others = claims.iter().map(|claim| claim.id.as_slice()).filter(|id| !claimed.contains(*id));
    let others: Vec<&[u8]> = others.collect();
    if others.is_empty() { Ok(HashMap::new()) } else { store::kept(connection, &others).await }
}

/// The reservations that the batch ends, and all the products that it touches: requests whose answer is kept do nothing.
async fn products(
    connection: &mut PgConnection,
    batch: &[Request],
    records: &HashMap<Digest, Record>,
) -> Result<(Vec<Uuid>, BTreeSet<ProductId>), sqlx::Error> {
    let mut ending = BTreeSet::new();
    let mut products = BTreeSet::new();
    let is_kept = |request: &Request| request.claim.as_ref().is_some_and(|claim| records.contains_key(&claim.id));
    for request in batch.iter().filter(|request| !is_kept(request)) {
        match &request.command {
            Command::End(ReservationId(id), _) => _ = ending.insert(*id),
            command => products.extend(named(command).cloned()),
        }
    }
    let ending: Vec<Uuid> = ending.into_iter().collect();
    if !ending.is_empty() {
        products.extend(store::products(connection, &ending).await?.into_iter().map(|(_, product)| product));
    }
    Ok((ending, products))
}

/// The products that a command names itself.
fn named(command: &Command) -> impl Iterator<Item = &ProductId> {
    let (one, many) = match command {
        Command::Change(change) => (Some(&change.product_id), [].as_slice()),
        Command::Settle(product) => (Some(product), [].as_slice()),
        Command::Reserve(_, new) => (None, new.items.as_slice()),
        Command::End(..) => (None, [].as_slice()),
    };
    one.into_iter().chain(many.iter().map(|item| &item.product_id))
}

/// Whether a request needs no other lock than those of these products. A key is one, and so is a reservation, of whose
/// products nothing is known yet.
fn needs_only(request: &Request, products: &BTreeSet<ProductId>) -> bool {
    let ends = matches!(request.command, Command::End(..));
    request.claim.is_none() && !ends && named(&request.command).all(|product| products.contains(product))
}

/// Lets those that wait join the batch, in order, until one may not or the batch is large.
fn join(batch: &mut Vec<Request>, arrivals: &mut Arrivals<'_, Writer>, joins: impl Fn(&Request) -> bool) {
    let mut weight: usize = batch.iter().map(Request::weight).sum();
    while batch.len() < LARGEST_BATCH && weight < LARGEST_WEIGHT {
        let Some(request) = arrivals.next_if(&joins) else { break };
        weight += request.weight();
        batch.push(request);
    }
}

/// Reads the overdue lines of the products that can have any, or are said to, and when their next ones expire.
async fn look_for_overdue(
    connection: &mut PgConnection,
    locked: &mut Locked,
    settling: &HashSet<ProductId>,
) -> Result<(), sqlx::Error> {
    let now = locked.now;
    let due = |product: &Product| product.next_expiry.is_some_and(|next| next <= now);
    let due: Vec<ProductId> = locked
        .products
        .iter()
        .filter(|(id, product)| due(product) || settling.contains(*id))
        .map(|(id, _)| id.clone())
        .collect();
    if due.is_empty() {
        return Ok(());
    }
    let due: Vec<&str> = due.iter().map(ProductId::as_str).collect();
    locked.overdue = store::overdue_lines(connection, &due, now).await?;
    if locked.overdue.len() >= store::MOST_OVERDUE {
        // There may be more, before the next.
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

/// Writes what was decided; returns where to see later that it was.
async fn write(connection: &mut PgConnection, writes: &Writes) -> Result<Option<Marker>, sqlx::Error> {
    let batch = Uuid::now_v7();
    if !writes.products.is_empty() {
        store::record(connection, writes, batch).await?;
    }
    if !writes.closed.is_empty() {
        store::close(connection, writes).await?;
    }
    if !writes.records.is_empty() {
        store::keep(connection, &writes.records).await?;
    }
    let first = writes.entries.first();
    Ok(first.map(|entry| Marker { product_id: entry.product_id.clone(), version: entry.after.version, batch }))
}
