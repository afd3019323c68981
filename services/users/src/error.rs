//! Errors of users and the problems they are reported as.

use std::{sync::Arc, time::Duration};

use axum::response::{IntoResponse, Response};
use chassis::{FieldError, Problem, batch::BatchError, database::DatabaseError, idempotency::KeyReused};
use http::{HeaderValue, StatusCode, header};
use identity::{Refusal, sign::SignError};

use crate::{model::InvalidId, password::Busy};

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
    #[error("this service issues no tokens; set AUTH_ISSUER_URL and AUTH_KEK_FILE")]
    NoIssuer,
    #[error("the keys of the issuer are not available yet; try again in a moment")]
    NoKeys,
    #[error("the email or the password is wrong")]
    InvalidCredentials,
    #[error("too many attempts; wait before you try again")]
    TooManyAttempts(Duration),
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error(transparent)]
    Sign(SignError),
    #[error("no random bytes available")]
    NoRandomness,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("there is no such session")]
    NoSession,
    #[error("there is no such client")]
    NoClient,
    #[error("the new password must differ from the email address")]
    PasswordIsEmail,
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
            Error::NotFound | Error::NoSession | Error::NoClient => Self::not_found(detail),
            Error::NoIssuer => Self::with_kind(StatusCode::NOT_FOUND, "no-issuer", detail),
            Error::NoKeys | Error::Busy(_) => Self::unavailable(detail),
            Error::InvalidCredentials => Self::with_kind(StatusCode::UNAUTHORIZED, "invalid-credentials", detail)
                .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            Error::TooManyAttempts(wait) => Self::with_kind(StatusCode::TOO_MANY_REQUESTS, "too-many-attempts", detail)
                .with_header(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1)),
            Error::Sign(error) => Self::internal(error),
            Error::NoRandomness => Self::internal(detail),
            Error::Refused(refusal) => refusal.into(),
            Error::PasswordIsEmail => Self::invalid(vec![FieldError::at("/new", detail)]),
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
