//! The engine: reads and changes stock and reservations in batches. It knows nothing about HTTP or gRPC.

mod decide;
mod locked;
mod pruner;
mod reader;
mod request;
mod settler;
mod sweeper;
mod transaction;
mod writer;

use std::sync::Arc;

use chassis::{
    Context, Database, Preconditions,
    batch::Batcher,
    idempotency::{Claim, IdempotencyKey},
};
use tokio::runtime::Handle;

use crate::{
    error::Error,
    model::{
        Action, Actor, Change, Delta, NewReservation, ProductId, Quantity, Reason, Refusal, Reservation, ReservationId,
        ReservationState, Retention, Stock, Transition, claim_adjustment, claim_reservation, claim_transition,
    },
    store::{self, Expiry},
};
use reader::{Reader, StockQuery};
use request::{MAX_BATCH, Request};
use writer::{Writer, send};

/// The maximum number of requests that wait in each queue.
const QUEUE: usize = 4096;

/// The state that the handlers share.
#[derive(Clone)]
pub struct Inventory(Arc<Engine>);

struct Engine {
    database: Database,
    reads: Batcher<Reader>,
    changes: Batcher<Writer>,
}

impl Inventory {
    /// Starts the engine. Reads run on the thread that serves requests. Changes take more work, so they run on another
    /// thread.
    pub(crate) fn new(context: &Context<Retention>) -> Self {
        let database = context.database.clone();
        // A read batch starts with one request; the others join it, up to the reader's own limits.
        let reads = Batcher::spawn(&context.requests, Reader::new(&database), QUEUE, 1);
        let changes = Batcher::spawn(&Handle::current(), Writer::new(&database), QUEUE, MAX_BATCH);
        // The sweeper uses the pool, whose connections belong to the thread that serves requests.
        context.requests.spawn(sweeper::run(database.clone(), context.settings));
        Self(Arc::new(Engine { database, reads, changes }))
    }

    /// The database, for reads that do not need batching.
    pub(crate) fn database(&self) -> &Database {
        &self.0.database
    }

    /// Returns the stock of a product; zero if it is unknown.
    pub(crate) async fn stock(&self, product_id: ProductId) -> Result<Stock, Error> {
        let snapshot = self.0.reads.submit(StockQuery::One(product_id.clone())).await??;
        Ok(snapshot.stock(product_id))
    }

    /// Returns the stock of products, in the given order and as of one instant; zero for unknown ones.
    pub(crate) async fn stocks(&self, product_ids: Vec<ProductId>) -> Result<Vec<Stock>, Error> {
        if product_ids.is_empty() {
            return Ok(Vec::new());
        }
        let snapshot = self.0.reads.submit(StockQuery::Many(product_ids.clone())).await??;
        Ok(product_ids.into_iter().map(|product_id| snapshot.stock(product_id)).collect())
    }

    /// Sets the quantity on hand; with a claim at most once.
    pub(crate) async fn set(
        &self,
        product_id: ProductId,
        quantity: Quantity,
        preconditions: Preconditions,
        claim: Option<Claim>,
    ) -> Result<Stock, Error> {
        let change = Change { product_id, action: Action::Set(quantity) };
        send(&self.0.changes, |reply| Request::Change { change, preconditions, claim, reply }).await
    }

    /// Adjusts the quantity on hand; with a key at most once.
    pub(crate) async fn adjust(
        &self,
        product_id: ProductId,
        delta: Delta,
        reason: Option<Reason>,
        preconditions: Preconditions,
        key: Option<&IdempotencyKey>,
    ) -> Result<Stock, Error> {
        let claim = key.map(|key| claim_adjustment(&product_id, delta, reason.as_ref(), key));
        let change = Change { product_id, action: Action::Adjust(delta, reason) };
        send(&self.0.changes, |reply| Request::Change { change, preconditions, claim, reply }).await
    }

    /// Reserves all items or none; with a key at most once. The reservation belongs to the actor.
    pub(crate) async fn reserve(
        &self,
        actor: Actor,
        new: NewReservation,
        key: Option<&IdempotencyKey>,
    ) -> Result<Reservation, Error> {
        let claim = key.map(|key| claim_reservation(&new, key));
        send(&self.0.changes, |reply| Request::Reserve { id: ReservationId::generate(), actor, new, claim, reply })
            .await
    }

    /// Commits or releases a reservation. Repeating a transition has no effect; with a key it gets the first response.
    pub(crate) async fn transition(
        &self,
        actor: Actor,
        id: ReservationId,
        transition: Transition,
        preconditions: Preconditions,
        key: Option<&IdempotencyKey>,
    ) -> Result<Reservation, Error> {
        let claim = key.map(|key| claim_transition(id, transition, key));
        send(&self.0.changes, |reply| Request::Transition { id, actor, transition, preconditions, claim, reply }).await
    }

    /// Returns a reservation.
    pub(crate) async fn reservation(&self, actor: &Actor, id: ReservationId) -> Result<Reservation, Error> {
        let (mut reservation, mut expiry) = self.find(actor, id).await?;
        if reservation.state == ReservationState::Held
            && expiry == Expiry::Due
            && let Some(first) = reservation.items.as_slice().first()
        {
            // A commit that began in time may still be in progress. The state is final once its lock is released.
            let product_id = first.product_id.clone();
            send(&self.0.changes, |reply| Request::Settle { product_id, reply }).await?;
            (reservation, expiry) = self.find(actor, id).await?;
        }
        if reservation.state == ReservationState::Held && expiry == Expiry::Settled {
            reservation.state = ReservationState::Expired;
        }
        Ok(reservation)
    }

    /// Reads a reservation as it is stored, and how far its expiry is.
    async fn find(&self, actor: &Actor, id: ReservationId) -> Result<(Reservation, Expiry), Error> {
        let found = self.0.database.run(async |connection| store::reservation(connection, id).await).await;
        let found = found.map_err(|failure| Error::Database(Arc::new(failure)))?;
        let found = found.filter(|(reservation, _)| actor.may_access(reservation));
        Ok(found.ok_or(Refusal::NoSuchReservation)?)
    }
}
