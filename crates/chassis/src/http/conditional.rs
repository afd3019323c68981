//! `ETag`, and the preconditions `If-Match` and `If-None-Match` (RFC 9110, sections 8.8.3 and 13), over a row's
//! version, which is usually an integer.
//!
//! Responses to `GET` are checked by the layer around all routes. A change is checked by its handler, with the
//! [`Preconditions`] as an extractor, in the same transaction as the change.

mod tags;

use std::fmt::Display;

use axum::{
    body::{Body, HttpBody},
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use runtime::Problem;
use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
    },
};

use tags::{PATTERN, Tag, Tags};

/// A JSON response with the version of its row as the `ETag`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagged<T, V = i64> {
    /// The version of the row; 0 if it does not exist yet.
    pub version: V,
    /// The body.
    pub body: T,
}

impl<T: Serialize, V: Display> IntoResponse for Tagged<T, V> {
    fn into_response(self) -> Response {
        let mut response = axum::Json(self.body).into_response();
        if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", self.version)) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

/// The preconditions of a request. Version 0 is that of a row that does not exist yet: `*` does not match it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// The precondition that does not hold.
enum Failed {
    IfMatch,
    IfNoneMatch,
}

impl Preconditions {
    /// Parses the headers of a request.
    ///
    /// # Errors
    /// Returns a 400 if a header is neither `*` nor a list of entity tags.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        let tags = |name: HeaderName| {
            let lines: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
            if lines.is_empty() {
                return Ok(None);
            }
            // Several lines are one list (RFC 9110, section 5.3).
            Tags::parse(&lines.join(&b','))
                .map(Some)
                .ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, malformed(&name)))
        };
        Ok(Self { if_match: tags(header::IF_MATCH)?, if_none_match: tags(header::IF_NONE_MATCH)? })
    }

    /// Returns whether a row with this version may be changed.
    #[must_use]
    pub fn allow(&self, version: impl Display) -> bool {
        self.check(&Tag { is_weak: false, opaque: version.to_string().into() }).is_ok()
    }

    /// Returns the versions that rows may have to be changed, for `= ANY ($n)`; `None` for any version.
    #[must_use]
    pub fn allowed_versions(&self) -> Option<Vec<i64>> {
        match self {
            Self { if_none_match: Some(Tags::Any), .. } => Some(Vec::new()),
            Self { if_match: Some(Tags::OneOf(tags)), .. } => {
                Some(tags.iter().filter(|tag| !tag.is_weak).filter_map(Tag::version).collect())
            }
            _ => None,
        }
    }

    /// Returns the versions that rows must not have to be changed, for `<> ALL ($n)`.
    #[must_use]
    pub fn refused_versions(&self) -> Vec<i64> {
        match &self.if_none_match {
            Some(Tags::OneOf(tags)) => tags.iter().filter_map(Tag::version).collect(),
            _ => Vec::new(),
        }
    }

    /// Replaces a response to `GET` whose `ETag` does not meet the preconditions. A response without an `ETag` stays as
    /// it is.
    pub(crate) fn apply(&self, mut response: Response) -> Response {
        let tag = response.headers().get(header::ETAG).filter(|_| response.status().is_success());
        match tag.and_then(|tag| Tag::parse(tag.as_bytes())).map_or(Ok(()), |tag| self.check(&tag)) {
            Ok(()) => response,
            Err(Failed::IfMatch) => {
                let detail = "`If-Match` names another version; the response without it has the current `ETag`";
                Problem::new(StatusCode::PRECONDITION_FAILED, detail).into_response()
            }
            Err(Failed::IfNoneMatch) => {
                let length = response.body().size_hint().exact();
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                *response.body_mut() = Body::empty();
                response.headers_mut().remove(header::CONTENT_TYPE);
                // The length must be that of the 200 (RFC 9110, section 8.6). axum would set it to 0.
                if let Some(length) = length {
                    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
                }
                response
            }
        }
    }

    /// Evaluates the preconditions in the order of RFC 9110, section 13.2.2.
    fn check(&self, current: &Tag) -> Result<(), Failed> {
        // If-Match compares strongly: a weak tag never matches. If-None-Match compares weakly.
        let strong = |tag: &Tag| !tag.is_weak && tag == current;
        let weak = |tag: &Tag| tag.opaque == current.opaque;
        if self.if_match.as_ref().is_some_and(|tags| !tags.include(current, strong)) {
            Err(Failed::IfMatch)
        } else if self.if_none_match.as_ref().is_some_and(|tags| tags.include(current, weak)) {
            Err(Failed::IfNoneMatch)
        } else {
            Ok(())
        }
    }
}

fn malformed(name: &HeaderName) -> String {
    format!("`{name}` must be `*` or a list of entity tags, such as `\"3\"`")
}

impl<S: Send + Sync> FromRequestParts<S> for Preconditions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::from_headers(&parts.headers)
    }
}

impl IntoParams for Preconditions {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        parameters(&Method::PUT)
    }
}

/// The documentation of the headers.
pub(super) fn parameters(method: &Method) -> Vec<Parameter> {
    let schema = ObjectBuilder::new().schema_type(Type::String).pattern(Some(PATTERN)).build();
    let unless = if method.is_safe() { "Return 304 if" } else { "Do not proceed if" };
    let headers = [
        (
            header::IF_MATCH,
            "Only proceed if the current `ETag` is one of these. `*` matches whatever exists.".to_owned(),
        ),
        (header::IF_NONE_MATCH, format!("{unless} the current `ETag` is one of these. `*` matches whatever exists.")),
    ];
    let parameter = |(name, description): (HeaderName, String)| {
        ParameterBuilder::new()
            .name(name.as_str())
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(schema.clone()))
            .build()
    };
    headers.map(parameter).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Preconditions with these lines of `If-Match` and of `If-None-Match`.
    fn preconditions(if_match: &[&'static str], if_none_match: &[&'static str]) -> Result<Preconditions, Problem> {
        let lines = if_match.iter().map(|line| (header::IF_MATCH, *line));
        let lines = lines.chain(if_none_match.iter().map(|line| (header::IF_NONE_MATCH, *line)));
        let mut headers = HeaderMap::new();
        for (name, line) in lines {
            headers.append(name, HeaderValue::from_bytes(line.as_bytes()).expect("a valid value"));
        }
        Preconditions::from_headers(&headers)
    }

    /// Which of the versions 0 to 4 may be changed. SQL must come to the same result for rows, which have versions
    /// from 1.
    fn allowed(if_match: &[&'static str], if_none_match: &[&'static str]) -> Vec<i64> {
        let preconditions = preconditions(if_match, if_none_match).expect("well formed");
        let allowed: Vec<i64> = (0..5).filter(|version| preconditions.allow(*version)).collect();
        let (among, refused) = (preconditions.allowed_versions(), preconditions.refused_versions());
        let in_sql =
            |version: &i64| among.as_ref().is_none_or(|among| among.contains(version)) && !refused.contains(version);
        let rows: Vec<i64> = (1..5).filter(in_sql).collect();
        assert_eq!(rows, allowed.iter().copied().filter(|version| *version > 0).collect::<Vec<_>>());
        allowed
    }

    #[test]
    fn if_match_allows_the_versions_that_it_names() {
        assert_eq!(allowed(&[], &[]), [0, 1, 2, 3, 4]);
        assert_eq!(allowed(&["*"], &[]), [1, 2, 3, 4]);
        assert_eq!(allowed(&[" * "], &[]), [1, 2, 3, 4]);
        assert_eq!(allowed(&["\"3\""], &[]), [3]);
        assert_eq!(allowed(&["\"3\" ,, \"x,\"", "\"0\",\t\"4\","], &[]), [0, 3, 4]);
        assert!(allowed(&["W/\"3\""], &[]).is_empty(), "strong comparison");
        for nothing in ["", ",", "\"\"", "\"01\", \"+1\", \"-1\"", "\"99999999999999999999\"", "\"é\""] {
            assert!(allowed(&[nothing], &[]).is_empty(), "{nothing}");
        }
    }

    #[test]
    fn if_none_match_refuses_the_versions_that_it_names() {
        assert_eq!(allowed(&[], &["*"]), [0]);
        assert_eq!(allowed(&[], &["\"3\"", "W/\"1\""]), [0, 2, 4], "weak comparison");
        assert_eq!(allowed(&[], &[""]), [0, 1, 2, 3, 4]);
        assert_eq!(allowed(&["\"1\", \"2\""], &["\"2\", \"3\""]), [1]);
        assert!(allowed(&["*"], &["*"]).is_empty());
    }

    #[test]
    fn anything_but_a_star_or_a_list_of_tags_is_400() {
        let malformed = [
            "\"x\", *",
            "*, \"x\"",
            "**",
            "*,",
            "3",
            "\"",
            "\"3",
            "w/\"3\"",
            "W/3",
            "\"3\" \"4\"",
            "\"3 4\"",
            "\"3\";",
        ];
        for value in malformed {
            for (if_match, if_none_match) in [([value].as_slice(), [].as_slice()), (&[], &[value])] {
                let problem = preconditions(if_match, if_none_match).expect_err(value);
                assert_eq!(problem.status(), StatusCode::BAD_REQUEST, "{value}");
            }
        }
        assert!(preconditions(&["*", "*"], &[]).is_err());
    }

    fn get(tag: &'static str, if_match: &[&'static str], if_none_match: &[&'static str]) -> Response {
        let response = ([(header::ETAG, tag)], "body").into_response();
        preconditions(if_match, if_none_match).expect("well formed").apply(response)
    }

    #[test]
    fn a_get_is_412_or_304_in_this_order() {
        let status = |if_match: &[_], if_none_match: &[_]| get("\"3\"", if_match, if_none_match).status().as_u16();
        assert_eq!(status(&[], &[]), 200);
        assert_eq!(status(&["\"3\""], &["\"2\""]), 200);
        assert_eq!(status(&["\"2\""], &["\"3\""]), 412);
        assert_eq!(status(&["\"3\""], &["\"3\""]), 304);
        assert_eq!(status(&[], &["W/\"3\""]), 304);
        assert_eq!(status(&[], &["*"]), 304);
        assert_eq!(get("W/\"3\"", &["W/\"3\""], &[]).status(), 412);
        assert_eq!(get("W/\"3\"", &[], &["\"3\""]).status(), 304);
        let without_a_tag = preconditions(&["\"2\""], &["*"]).expect("well formed").apply("body".into_response());
        assert_eq!(without_a_tag.status(), 200);
    }

    #[test]
    fn a_304_keeps_its_tag_and_has_no_content() {
        let response = get("\"3\"", &[], &["\"3\""]);
        assert_eq!(response.headers().get(header::ETAG).expect("a tag"), "\"3\"");
        assert_eq!(response.headers().get(header::CONTENT_LENGTH).expect("a length"), "4", "that of the 200");
        assert_eq!(response.headers().len(), 2);
    }
}
