//! What can go wrong with a user, and the answer it makes.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use chassis::{Problem, batch::BatchError, database::Failure};
use http::StatusCode;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("there is no user with this id")]
    NotFound,
    #[error("another user has this email")]
    EmailTaken,
    #[error("the user has changed since: its `ETag` is none of those in `If-Match`")]
    Changed,
    #[error("the wishlist has 200 products, the most there can be")]
    WishlistFull,
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The connection was lost while a change was under way.
    #[error("the database went away")]
    OutcomeUnknown(#[source] Arc<Failure>),
    /// Nothing was changed.
    #[error(transparent)]
    Database(Arc<Failure>),
}

impl Error {
    /// Of statements that change something.
    pub(crate) fn of_write(failure: impl Into<Arc<Failure>>) -> Self {
        let failure = failure.into();
        if failure.is_lost() { Self::OutcomeUnknown(failure) } else { Self::Database(failure) }
    }
}

impl From<Failure> for Error {
    /// Of statements that only read.
    fn from(failure: Failure) -> Self {
        Self::Database(Arc::new(failure))
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::NotFound => Self::not_found(detail),
            Error::EmailTaken => Self::of_kind(StatusCode::CONFLICT, "email-taken", detail),
            Error::WishlistFull => Self::of_kind(StatusCode::CONFLICT, "wishlist-full", detail),
            Error::Changed => Self::new(StatusCode::PRECONDITION_FAILED, detail),
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
