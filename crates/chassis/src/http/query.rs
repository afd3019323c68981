//! Query strings, refused with the name of the parameter that is wrong.

use axum::extract::FromRequestParts;
use http::{StatusCode, request::Parts};
use runtime::{FieldError, Problem, percent};
use serde::de::DeserializeOwned;
use std::collections::HashSet;

/// Extracts the query string. Parameters that `T` does not name are ignored.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        percent::check(query)
            .map_err(|fault| Problem::new(StatusCode::BAD_REQUEST, format!("the query string {fault}")))?;
        let deserializer = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        serde_path_to_error::deserialize(deserializer).map(Self).map_err(|error| {
            // serde knows of a repeated field only when it is too late for its path.
            let parameter = repeated(query).unwrap_or_else(|| error.path().to_string());
            Problem::invalid(vec![FieldError::parameter(parameter, error.into_inner().to_string())])
        })
    }
}

/// The first parameter that comes a second time.
fn repeated(query: &str) -> Option<String> {
    let mut seen = HashSet::new();
    let mut names = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name.into_owned());
    names.find(|name| !seen.insert(name.clone()))
}
