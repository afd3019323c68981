//! `ETag` and `If-Match` (RFC 9110, sections 8.8.3 and 13.1.1) over a row's integer version.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header, request::Parts};
use serde::Serialize;

/// A JSON response with the version of its row as the `ETag`.
pub struct Tagged<T> {
    /// The version of the row.
    pub version: i64,
    /// The body.
    pub body: T,
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = axum::Json(self.body).into_response();
        if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", self.version)) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

/// The condition in `If-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// Any version: the header is missing or `*`.
    Any,
    /// One of these versions. Tags of another form match nothing.
    OneOf(Vec<i64>),
}

impl IfMatch {
    /// Returns the versions, for `= ANY($n)`; `None` for any version.
    #[must_use]
    pub fn versions(&self) -> Option<&[i64]> {
        match self {
            Self::Any => None,
            Self::OneOf(versions) => Some(versions),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let mut lines = parts.headers.get_all(header::IF_MATCH).iter().peekable();
        if lines.peek().is_none() {
            return Ok(Self::Any);
        }
        let tags = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim);
        let mut versions = Vec::new();
        for tag in tags {
            if tag == "*" {
                return Ok(Self::Any);
            }
            // A weak tag never matches in a strong comparison; tags of another form were not made here.
            let digits = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let version = digits.and_then(|digits| digits.parse::<i64>().ok());
            // Tags are compared as text: "01" is not "1".
            versions.extend(version.filter(|version| digits == Some(version.to_string().as_str())));
        }
        Ok(Self::OneOf(versions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn if_match(lines: &[&str]) -> IfMatch {
        let mut request = http::Request::builder();
        for line in lines {
            request = request.header(header::IF_MATCH, *line);
        }
        let (mut parts, ()) = request.body(()).expect("a request").into_parts();
        IfMatch::from_request_parts(&mut parts, &()).await.expect("infallible")
    }

    #[tokio::test]
    async fn parses_lists_stars_and_foreign_tags() {
        assert_eq!(if_match(&[]).await, IfMatch::Any);
        assert_eq!(if_match(&["*"]).await, IfMatch::Any);
        assert_eq!(if_match(&["\"3\", \"x\"", "\"4\""]).await, IfMatch::OneOf(vec![3, 4]));
        assert_eq!(if_match(&["W/\"3\""]).await, IfMatch::OneOf(vec![]));
        assert_eq!(if_match(&["junk", "\"01\", \"+1\""]).await, IfMatch::OneOf(vec![]));
    }
}
