//! What can go wrong with a user, and the answer it makes.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use chassis::{Problem, batch::Unanswered};
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
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    #[error(transparent)]
    Database(Arc<sqlx::Error>),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::NotFound => Self::not_found(detail),
            Error::EmailTaken => Self::of_kind(StatusCode::CONFLICT, "email-taken", detail),
            Error::Changed => Self::new(StatusCode::PRECONDITION_FAILED, detail),
            Error::Unanswered(unanswered) => unanswered.into(),
            Error::Database(error) => error.into(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
