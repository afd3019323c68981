//! Pagination by key: requests have `limit` and `after`; responses are a JSON array with a `Link` (RFC 8288) to the
//! next page.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Uri, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use runtime::Problem;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use utoipa::{PartialSchema, ToSchema};

/// The number of rows of a page: 1 to 200, by default 50.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Cow<'_, str>")]
pub struct Limit(u8);

impl Limit {
    const MAX: u8 = 200;

    /// Returns the number of rows to query: one more than the page has, to find out whether another page follows.
    #[must_use]
    pub fn with_lookahead(self) -> i64 {
        i64::from(self.0) + 1
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<Cow<'_, str>> for Limit {
    type Error = &'static str;

    fn try_from(text: Cow<'_, str>) -> Result<Self, Self::Error> {
        match text.parse() {
            Ok(limit @ 1..=Self::MAX) if !text.starts_with('+') => Ok(Self(limit)),
            _ => Err("must be an integer from 1 to 200"),
        }
    }
}

impl ToSchema for Limit {}

impl PartialSchema for Limit {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        let schema = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(Self::MAX));
        schema.default(Some(50.into())).build().into()
    }
}

/// One page of a list.
#[derive(Debug)]
pub struct Page<T> {
    rows: Vec<T>,
    next: Option<HeaderValue>,
}

impl<T> Page<T> {
    /// Creates a page from up to `limit` + 1 rows. `key` returns the key of a row, for the link to the next page.
    ///
    /// # Errors
    /// Returns an error if the link is not a valid header value, which is a bug: the key is percent-encoded.
    pub fn new(mut rows: Vec<T>, limit: Limit, uri: &Uri, key: impl Fn(&T) -> String) -> Result<Self, Problem> {
        let limit = usize::from(limit.0);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().filter(|_| more);
        let next = last.map(|row| next_link(uri, &key(row))).transpose().map_err(Problem::internal)?;
        Ok(Self { rows, next })
    }
}

/// Characters that are not allowed in a URI, though hyper accepts some of them in a path. Non-ASCII characters are
/// always encoded.
const UNSAFE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`').add(b'{').add(b'}');

/// Builds a relative link to the page after `key`. It keeps the other parameters of the request.
fn next_link(uri: &Uri, key: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let given = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(given.filter(|(name, _)| name != "after"));
    query.append_pair("after", key);
    let path = utf8_percent_encode(uri.path(), UNSAFE);
    format!("<{path}?{}>; rel=\"next\"", query.finish()).try_into()
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        let mut response = axum::Json(self.rows).into_response();
        if let Some(next) = self.next {
            response.headers_mut().insert(header::LINK, next);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(text: &str) -> Result<Limit, &'static str> {
        Limit::try_from(Cow::from(text))
    }

    #[test]
    fn limit_is_from_1_to_200() {
        assert_eq!(limit("1"), Ok(Limit(1)));
        assert_eq!(limit("200"), Ok(Limit(200)));
        for bad in ["0", "201", "-1", "+5", "1.5", "", "x", "99999999999999999999"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_link_keeps_other_parameters_and_escapes_the_key() {
        let uri = Uri::from_static("/inventory?after=a&limit=2&x=%26");
        let page = Page::new(vec!["b", "c&>", "d"], Limit(2), &uri, ToString::to_string).expect("a header");
        assert_eq!(page.rows, ["b", "c&>"]);
        assert_eq!(page.next.expect("more follows"), "</inventory?limit=2&x=%26&after=c%26%3E>; rel=\"next\"");
    }

    #[test]
    fn the_last_page_has_no_link() {
        let uri = Uri::from_static("/inventory");
        let page = Page::new(vec!["a", "b"], Limit(2), &uri, ToString::to_string).expect("no header");
        assert!(page.next.is_none());
    }
}
