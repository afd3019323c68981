//! Errors of users and the problems they are reported as.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use chassis::{Problem, batch::BatchError, database::DatabaseError, idempotency::KeyReused};
use http::StatusCode;

use crate::model::InvalidId;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("there is no user with this id")]
    NotFound,
    #[error("another user has this email")]
    EmailTaken,
    #[error("the user's `ETag` does not meet `If-Match` or `If-None-Match`; read it again")]
    PreconditionFailed,
    #[error("the wishlist is full: it has 200 products")]
    WishlistFull,
    #[error(transparent)]
    KeyReused(#[from] KeyReused),
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The connection was lost during a change, or the work panicked.
    #[error("the outcome of a change is unknown")]
    OutcomeUnknown(#[source] Arc<DatabaseError>),
    /// Nothing was changed.
    #[error(transparent)]
    Database(Arc<DatabaseError>),
}

impl Error {
    /// The error of a statement that changes data.
    pub(crate) fn from_write(failure: impl Into<Arc<DatabaseError>>) -> Self {
        let failure = failure.into();
        if failure.may_have_effect() { Self::OutcomeUnknown(failure) } else { Self::Database(failure) }
    }
}

impl From<DatabaseError> for Error {
    /// The error of a statement that only reads.
    fn from(failure: DatabaseError) -> Self {
        Self::Database(Arc::new(failure))
    }
}

impl From<InvalidId> for Error {
    /// A malformed id is a 404.
    fn from(InvalidId: InvalidId) -> Self {
        Self::NotFound
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::NotFound => Self::not_found(detail),
            Error::EmailTaken => Self::with_kind(StatusCode::CONFLICT, "email-taken", detail),
            Error::WishlistFull => Self::with_kind(StatusCode::CONFLICT, "wishlist-full", detail),
            Error::PreconditionFailed => Self::new(StatusCode::PRECONDITION_FAILED, detail),
            Error::KeyReused(reused) => reused.into(),
            // The batch only contains changes, and some of it may be done.
            Error::Batch(BatchError::Lost) => Self::outcome_unknown().caused_by(BatchError::Lost),
            Error::Batch(error) => error.into(),
            Error::OutcomeUnknown(cause) => Self::outcome_unknown().caused_by(cause),
            Error::Database(failure) => failure.into_problem(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
