//! The engine: reads and changes of stock and reservations, in batches. It knows nothing of HTTP: values in, results out.

mod decide;
mod hold;
mod idempotency;
mod reader;
mod request;
mod sweeper;
mod transaction;
mod writer;

use std::sync::Arc;

use chassis::{
    Context, Database,
    batch::{BatchError, Batcher},
};
use tokio::runtime::Handle;

use crate::{
    error::Error,
    model::{
        Change, Ending, IdempotencyKey, NewReservation, ProductId, Refusal, Reservation, ReservationId,
        ReservationState, Stock,
    },
    store,
};
pub(crate) use decide::{Known, OverdueLine, Product, Writes};
pub(crate) use idempotency::{Claim, Digest, Record};
use reader::{Found, Reader, Wanted};
use request::{Command, Done, Request};
pub(crate) use transaction::Marker;
use writer::{LARGEST_BATCH, Writer};

/// Requests that may wait, for reads and for changes.
const QUEUE: usize = 4096;

/// What the handlers share.
#[derive(Clone)]
pub struct Inventory(Arc<Engine>);

struct Engine {
    database: Database,
    reads: Batcher<Reader>,
    changes: Batcher<Writer>,
}

impl Inventory {
    /// Starts the engine. Reads go to the thread that asks for them; changes, of which each has more to do, are made while
    /// it is busy.
    pub(crate) fn new(context: &Context) -> Self {
        let database = &context.database;
        let inventory = Self(Arc::new(Engine {
            database: database.clone(),
            // The rest of a batch joins its first, as far as so much can be read at once.
            reads: Batcher::spawn(&context.requests, Reader::new(database), QUEUE, 1),
            changes: Batcher::spawn(&Handle::current(), Writer::new(database), QUEUE, LARGEST_BATCH),
        }));
        // It uses the pool, whose connections belong to that thread.
        context.requests.spawn(sweeper::run(inventory.clone()));
        inventory
    }

    /// The database, for reads that are not worth a batch.
    pub(crate) fn database(&self) -> &Database {
        &self.0.database
    }

    /// The stock of a product; zero for an unknown one.
    pub(crate) async fn read(&self, product_id: ProductId) -> Result<Stock, Error> {
        match self.0.reads.ask(Wanted::One(product_id)).await?? {
            Found::One(stock) => Ok(stock),
            Found::Several(_) => Err(Error::Batch(BatchError::Lost)),
        }
    }

    /// The stock of products, in their order, as of one instant; zero for unknown ones.
    pub(crate) async fn read_all(&self, product_ids: Vec<ProductId>) -> Result<Vec<Stock>, Error> {
        if product_ids.is_empty() {
            return Ok(Vec::new());
        }
        match self.0.reads.ask(Wanted::Several(product_ids)).await?? {
            Found::Several(stocks) => Ok(stocks),
            Found::One(_) => Err(Error::Batch(BatchError::Lost)),
        }
    }

    /// Makes a change of a product's stock, under a key once only, and returns the stock.
    pub(crate) async fn change(&self, change: Change, key: Option<&IdempotencyKey>) -> Result<Stock, Error> {
        match self.ask(Command::Change(change), key).await? {
            Done::Stock(stock) => Ok(stock),
            Done::Reservation(_) | Done::Settled => Err(Error::Batch(BatchError::Lost)),
        }
    }

    /// Holds all items, or none; under a key once only.
    pub(crate) async fn reserve(
        &self,
        new: NewReservation,
        key: Option<&IdempotencyKey>,
    ) -> Result<Reservation, Error> {
        reservation(self.ask(Command::Reserve(ReservationId::new(), new), key).await?)
    }

    /// Ends a reservation. To do so again changes nothing.
    pub(crate) async fn end(&self, id: ReservationId, ending: Ending) -> Result<Reservation, Error> {
        reservation(self.ask(Command::End(id, ending), None).await?)
    }

    /// A reservation.
    pub(crate) async fn reservation(&self, id: ReservationId) -> Result<Reservation, Error> {
        let found = self.find(id).await?;
        let (reservation, is_up) = found.ok_or(Refusal::NoSuchReservation)?;
        let first = reservation.items.as_slice().first();
        let (true, ReservationState::Held, Some(first)) = (is_up, reservation.state, first) else {
            return Ok(reservation);
        };
        // It may be committed just now, by one who began in time: only after its lock is its end certain.
        self.ask(Command::Settle(first.product_id.clone()), None).await?;
        let (reservation, _) = self.find(id).await?.ok_or(Refusal::NoSuchReservation)?;
        Ok(reservation)
    }

    async fn find(&self, id: ReservationId) -> Result<Option<(Reservation, bool)>, Error> {
        let found = self.0.database.run(async |connection| store::reservation(connection, id).await).await;
        found.map_err(|failure| Error::Database(Arc::new(failure)))
    }

    async fn ask(&self, command: Command, key: Option<&IdempotencyKey>) -> Result<Done, Error> {
        let claim = key.and_then(|key| Claim::new(&command, key));
        self.0.changes.ask(Request { command, claim }).await?
    }
}

fn reservation(done: Done) -> Result<Reservation, Error> {
    match done {
        Done::Reservation(reservation) => Ok(reservation),
        Done::Stock(_) | Done::Settled => Err(Error::Batch(BatchError::Lost)),
    }
}
