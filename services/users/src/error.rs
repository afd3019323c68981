//! What can go wrong with a user, and the answer it makes.

use axum::response::{IntoResponse, Response};
use chassis::Problem;
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
    Database(#[from] sqlx::Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::NotFound => Self::not_found(detail),
            Error::EmailTaken => Self::of_kind(StatusCode::CONFLICT, "email-taken", detail),
            Error::Changed => Self::new(StatusCode::PRECONDITION_FAILED, detail),
            Error::Database(error) => error.into(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
