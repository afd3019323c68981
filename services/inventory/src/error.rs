//! Errors of inventory and the problems they are reported as.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use chassis::{FieldError, Problem, batch::BatchError, database::DatabaseError};
use http::StatusCode;

use crate::model::Refusal;

/// Why a request failed. Cheap to clone, because all requests of a batch may fail with the same error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The rules of stock refuse the request.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The queue is full, or the batch was lost.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The writer lost a change, because of a bug. It may have taken effect.
    #[error("the writer lost the request")]
    Lost,
    /// The connection was lost after COMMIT was sent, or the work panicked.
    #[error("the outcome of the commit is unknown")]
    OutcomeUnknown(#[source] Arc<DatabaseError>),
    /// Nothing was changed.
    #[error(transparent)]
    Database(Arc<DatabaseError>),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refused(refusal),
            Error::Batch(error) => error.into(),
            Error::Lost => Self::outcome_unknown().caused_by(error),
            Error::OutcomeUnknown(cause) => Self::outcome_unknown().caused_by(cause),
            Error::Database(failure) => failure.into_problem(),
        }
    }
}

fn refused(refusal: Refusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        Refusal::InsufficientStock { .. } => Problem::with_kind(StatusCode::CONFLICT, "insufficient-stock", detail),
        Refusal::Shortage(items) => {
            Problem::with_kind(StatusCode::CONFLICT, "insufficient-stock", detail).with("items", items)
        }
        Refusal::TooLarge => Problem::invalid(vec![FieldError::at("/delta", detail)]),
        Refusal::PreconditionFailed => Problem::new(StatusCode::PRECONDITION_FAILED, detail),
        Refusal::NoSuchReservation => Problem::not_found(detail),
        Refusal::WrongState(state) => {
            Problem::with_kind(StatusCode::CONFLICT, "reservation-ended", detail).with("state", state)
        }
        Refusal::KeyReused(reused) => reused.into(),
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
