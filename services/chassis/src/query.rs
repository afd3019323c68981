//! Query strings, refused with the name of the parameter that is wrong.

use axum::extract::FromRequestParts;
use http::{StatusCode, request::Parts};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::problem::{FieldError, Problem};

/// Extracts the query string. Parameters that `T` does not name are ignored.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        if percent_decode_str(query).decode_utf8().is_err() {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "the query string is not UTF-8"));
        }
        let deserializer = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        serde_path_to_error::deserialize(deserializer).map(Self).map_err(|error| {
            let parameter = error.path().to_string();
            Problem::invalid(vec![FieldError::parameter(parameter, error.into_inner().to_string())])
        })
    }
}
