//! What is asked of the engine, and what it answers.

use crate::{
    error::Error,
    model::{Change, Ending, NewReservation, ProductId, Refusal, Reservation, ReservationId, Stock},
};

use super::idempotency::Claim;

/// A command, and the key under which its answer is kept.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) claim: Option<Claim>,
}

/// A reservation that is to be ended has up to 100 products, which are not known yet. Most have a few.
const WEIGHT_OF_END: usize = 10;

impl Request {
    /// How many products it touches, about.
    pub(super) fn weight(&self) -> usize {
        match &self.command {
            Command::Reserve(_, new) => new.items.as_slice().len(),
            Command::End(..) => WEIGHT_OF_END,
            Command::Change(_) | Command::Settle(_) => 1,
        }
    }
}

/// What to do.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// Change what is on hand.
    Change(Change),
    /// Hold what a reservation asks for, under this id.
    Reserve(ReservationId, NewReservation),
    /// End a reservation.
    End(ReservationId, Ending),
    /// Give back what expired holds of a product reserve.
    Settle(ProductId),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    /// The stock as it now is.
    Stock(Stock),
    /// The reservation as it now is.
    Reservation(Reservation),
    /// Expired holds reserve nothing more.
    Settled,
}

/// What the decision says.
pub(crate) type Decided = Result<Done, Refusal>;

/// What the engine answers.
pub(super) type Answer = Result<Done, Error>;
