//! Requests to change stock, each with the channel for its reply.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use chassis::{
    Preconditions,
    batch::{self, Arrivals, OpenHandler},
    idempotency::Claim,
};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    error::Error,
    model::{Actor, Change, NewReservation, ProductId, Reservation, ReservationId, Stock, Transition},
};

/// The maximum number of requests in a batch.
pub(super) const MAX_BATCH: usize = 512;

/// The maximum weight of a transaction, so that it ends well before the statement timeout.
pub(super) const MAX_WEIGHT: usize = 2000;

/// The weight of a transition in the queue. A reservation has up to 100 products, which are not known yet; most have
/// only a few. The transaction reads them, and leaves requests to the next one if they are too many.
const TRANSITION_WEIGHT: usize = 10;

/// A request to change stock.
pub(super) enum Request {
    /// Change the quantity on hand.
    Change { change: Change, preconditions: Preconditions, claim: Option<Claim>, reply: Reply<Stock> },
    /// Create a reservation with this id.
    Reserve { id: ReservationId, actor: Actor, new: NewReservation, claim: Option<Claim>, reply: Reply<Reservation> },
    /// Commit or release a reservation.
    Transition {
        id: ReservationId,
        actor: Actor,
        transition: Transition,
        preconditions: Preconditions,
        claim: Option<Claim>,
        reply: Reply<Reservation>,
    },
    /// Settle the expired holds of a product.
    Settle { product_id: ProductId, reply: Reply<()> },
}

impl Request {
    /// The claim to an idempotency key.
    pub(super) fn claim(&self) -> Option<&Claim> {
        match self {
            Self::Change { claim, .. } | Self::Reserve { claim, .. } | Self::Transition { claim, .. } => claim.as_ref(),
            Self::Settle { .. } => None,
        }
    }

    /// The products that the request names. A transition names its reservation only.
    pub(super) fn product_ids(&self) -> impl Iterator<Item = &ProductId> {
        let (one, items) = match self {
            Self::Change { change, .. } => (Some(&change.product_id), [].as_slice()),
            Self::Settle { product_id, .. } => (Some(product_id), [].as_slice()),
            Self::Reserve { new, .. } => (None, new.items.as_slice()),
            Self::Transition { .. } => (None, [].as_slice()),
        };
        one.into_iter().chain(items.iter().map(|item| &item.product_id))
    }

    /// Sets the result to an error.
    pub(super) fn fail(&mut self, error: Error) {
        match self {
            Self::Change { reply, .. } => reply.set(Err(error)),
            Self::Reserve { reply, .. } | Self::Transition { reply, .. } => reply.set(Err(error)),
            Self::Settle { reply, .. } => reply.set(Err(error)),
        }
    }

    /// Sends the result.
    pub(super) fn finish(self) -> Replied {
        match self {
            Self::Change { reply, .. } => reply.send(),
            Self::Reserve { reply, .. } | Self::Transition { reply, .. } => reply.send(),
            Self::Settle { reply, .. } => reply.send(),
        }
        Replied
    }

    /// Whether nobody waits for the result: the client has gone, or has been told that the outcome is unknown.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Change { reply, .. } => reply.is_abandoned(),
            Self::Reserve { reply, .. } | Self::Transition { reply, .. } => reply.is_abandoned(),
            Self::Settle { reply, .. } => reply.is_abandoned(),
        }
    }

    /// How long ago the request was made.
    pub(super) fn age(&self) -> Duration {
        let created = match self {
            Self::Change { reply, .. } => reply.created,
            Self::Reserve { reply, .. } | Self::Transition { reply, .. } => reply.created,
            Self::Settle { reply, .. } => reply.created,
        };
        created.elapsed()
    }

    /// The locked products that the request was set aside for. None, if it was not, or if it waits for a row of another
    /// table or for a new product.
    pub(super) fn waits_for(&self) -> &BTreeSet<ProductId> {
        match self {
            Self::Change { reply, .. } => &reply.waits_for,
            Self::Reserve { reply, .. } | Self::Transition { reply, .. } => &reply.waits_for,
            Self::Settle { reply, .. } => &reply.waits_for,
        }
    }

    pub(super) fn set_waits_for(&mut self, products: BTreeSet<ProductId>) {
        match self {
            Self::Change { reply, .. } => reply.waits_for = products,
            Self::Reserve { reply, .. } | Self::Transition { reply, .. } => reply.waits_for = products,
            Self::Settle { reply, .. } => reply.waits_for = products,
        }
    }

    /// The approximate number of products that the request changes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Reserve { new, .. } => new.items.as_slice().len(),
            Self::Transition { .. } => TRANSITION_WEIGHT,
            Self::Change { .. } | Self::Settle { .. } => 1,
        }
    }
}

/// The reservation that the request commits or releases.
pub(super) fn reservation_id(request: &Request) -> Option<Uuid> {
    match request {
        Request::Transition { id: ReservationId(id), .. } => Some(*id),
        _ => None,
    }
}

/// What the batch handler returns for a request: its reply is sent on the request's own channel.
pub(super) struct Replied;

/// The result of a request, and the channel it is sent on once the transaction is committed. A transaction that is
/// repeated replaces the result.
pub(super) struct Reply<T> {
    sender: oneshot::Sender<Result<T, Error>>,
    result: Option<Result<T, Error>>,
    created: Instant,
    waits_for: BTreeSet<ProductId>,
}

impl<T> Reply<T> {
    pub(super) fn channel() -> (Self, oneshot::Receiver<Result<T, Error>>) {
        let (sender, receiver) = oneshot::channel();
        (Self { sender, result: None, created: Instant::now(), waits_for: BTreeSet::new() }, receiver)
    }

    pub(super) fn set<E: Into<Error>>(&mut self, result: Result<T, E>) {
        self.result = Some(result.map_err(Into::into));
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends the result. Without one the channel is closed, which the receiver reports as a lost request.
    fn send(self) {
        if let Some(result) = self.result {
            // The receiver is gone if the client has disconnected.
            let _ = self.sender.send(result);
        }
    }

    #[cfg(test)]
    pub(super) fn into_result(self) -> Option<Result<T, Error>> {
        self.result
    }
}

/// Splits a batch into transactions of at most [`MAX_WEIGHT`], in order.
pub(super) fn split(batch: Vec<Request>) -> Vec<Vec<Request>> {
    batch::split(batch, MAX_WEIGHT, Request::weight)
}

/// Lets waiting requests join the batch, in order, until one may not join or the batch, which has this weight, is full.
pub(super) fn join<H: OpenHandler<Request = Request>>(
    batch: &mut Vec<Request>,
    mut weight: usize,
    arrivals: &mut Arrivals<'_, H>,
    may_join: impl Fn(&Request) -> bool,
) {
    while batch.len() < MAX_BATCH && weight < MAX_WEIGHT {
        let Some(request) = arrivals.next_if(&may_join) else { break };
        weight += request.weight();
        batch.push(request);
    }
}
