//! Path parameters.

use axum::extract::{FromRequestParts, RawPathParams, path::ErrorKind, rejection::PathRejection};
use http::{StatusCode, request::Parts};
use runtime::{FieldError, Problem, percent};
use serde::de::DeserializeOwned;

use super::message::reword;

/// Extracts the path parameters. A malformed percent-escape is a 400, an invalid parameter a 422.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        percent::check(parts.uri.path())
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the path {error}")))?;
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(failure)) => Err(match failure.into_kind() {
                ErrorKind::DeserializeError { key, message, .. } => {
                    Problem::invalid(vec![FieldError::parameter(key, reword(&message))])
                }
                other => {
                    let name = only_parameter(parts, state).await.unwrap_or_else(|| "path".to_owned());
                    Problem::invalid(vec![FieldError::parameter(name, reword(&other.to_string()))])
                }
            }),
            Err(rejection) => Err(Problem::internal(rejection)),
        }
    }
}

/// The name of the path's only parameter, which axum does not report.
async fn only_parameter<S: Send + Sync>(parts: &mut Parts, state: &S) -> Option<String> {
    let parameters = RawPathParams::from_request_parts(parts, state).await.ok()?;
    let mut names = parameters.iter().map(|(name, _)| name.to_owned());
    names.next().filter(|_| names.next().is_none())
}
