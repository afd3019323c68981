//! What can go wrong with stock, and the answer it makes.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use chassis::{FieldError, Problem, batch::Unanswered, database::Failure};
use http::StatusCode;

use crate::model::Refusal;

/// Why a request failed. It can be told to each request of a batch, and is therefore cheap to clone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The rules of stock forbid it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The queue is full, or the batch was lost.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// The connection broke after COMMIT was sent and before its answer came.
    #[error("the database went away while it committed")]
    OutcomeUnknown(#[source] Arc<Failure>),
    /// Nothing was changed.
    #[error(transparent)]
    Database(Arc<Failure>),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Refused(Refusal::InsufficientStock { .. }) => {
                Self::of_kind(StatusCode::CONFLICT, "insufficient-stock", detail)
            }
            Error::Refused(Refusal::TooLarge) => Self::invalid(vec![FieldError::at("/delta", detail)]),
            Error::Unanswered(unanswered) => unanswered.into(),
            Error::OutcomeUnknown(cause) => Self::outcome_unknown().caused_by(cause),
            Error::Database(failure) => failure.into(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
