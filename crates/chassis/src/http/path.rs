//! Path parameters, refused with a problem.

use axum::extract::{FromRequestParts, RawPathParams, path::ErrorKind, rejection::PathRejection};
use http::{StatusCode, request::Parts};
use runtime::{FieldError, Problem, percent};
use serde::de::DeserializeOwned;

/// Extracts the parameters of the path: 400 where the path's escapes are bad, 422 where one breaks a rule of its type.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        percent::check(parts.uri.path())
            .map_err(|fault| Problem::new(StatusCode::BAD_REQUEST, format!("the path {fault}")))?;
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(failure)) => Err(match failure.into_kind() {
                ErrorKind::DeserializeError { key, message, .. } => {
                    Problem::invalid(vec![FieldError::parameter(key, message)])
                }
                other => {
                    let name = only_parameter(parts, state).await.unwrap_or_else(|| "path".to_owned());
                    Problem::invalid(vec![FieldError::parameter(name, other.to_string())])
                }
            }),
            Err(rejection) => Err(Problem::internal(rejection)),
        }
    }
}

/// The name of the path's parameter where it has one: axum does not say it then.
async fn only_parameter<S: Send + Sync>(parts: &mut Parts, state: &S) -> Option<String> {
    let parameters = RawPathParams::from_request_parts(parts, state).await.ok()?;
    let mut names = parameters.iter().map(|(name, _)| name.to_owned());
    names.next().filter(|_| names.next().is_none())
}
