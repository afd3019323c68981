//! Errors as RFC 9457 `application/problem+json`.

use std::{any::Any, borrow::Cow, error::Error, sync::Arc};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};

/// The base of the URIs of Hedgerow's problem types, which `docs/api.md` lists.
const TYPE_BASE: &str = "https://hedgerow.dev/problems/";

/// How long a client should wait after a 503 for a request that had no effect, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// The type of a problem that leaves open whether the request took effect.
const OUTCOME_UNKNOWN: &str = "outcome-unknown";

/// The header that says the same as that type, for the gateway, which does not read bodies.
const OUTCOME: HeaderName = HeaderName::from_static("x-outcome");
const UNKNOWN: HeaderValue = HeaderValue::from_static("unknown");

/// The maximum number of errors that a response lists. What finds errors may stop after one more.
pub const MAX_ERRORS: usize = 20;

/// The maximum length of a pointer or name in an error, in bytes.
const MAX_PLACE: usize = 512;

/// An error response, and a cause that is logged but never sent to the client.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    kind: Option<&'static str>,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    extensions: Map<String, Value>,
    /// Boxed, because few problems have any.
    headers: Option<Box<HeaderMap>>,
    cause: Option<Cause>,
}

/// The cause of a 5xx. It travels to the log in the response's extensions and is never part of the body.
#[derive(Clone, Debug)]
pub struct Cause(pub Arc<dyn Error + Send + Sync>);

/// One invalid part of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// The place in the body, as a JSON pointer in URI fragment form (RFC 6901, section 6), such as `#/email`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// The name of the query parameter, path parameter or header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}

/// An `application/problem+json` body (RFC 9457).
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProblemBody {
    /// A URI that identifies the problem type; `about:blank` if the status is enough.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "openapi", schema(format = "uri-reference"))]
    kind: Cow<'static, str>,
    /// A short summary of the problem type.
    title: Cow<'static, str>,
    /// The HTTP status code.
    #[cfg_attr(feature = "openapi", schema(minimum = 400, maximum = 599))]
    status: u16,
    /// What went wrong with this request.
    detail: Cow<'static, str>,
    /// For an invalid request: each invalid part and what is wrong with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    errors: Vec<FieldError>,
    /// Members specific to this problem type.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    extensions: Map<String, Value>,
}

impl Problem {
    /// Creates a problem that its status describes well enough (`type` is `about:blank`).
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            kind: None,
            detail: detail.into(),
            errors: Vec::new(),
            extensions: Map::new(),
            headers: None,
            cause: None,
        }
    }

    /// Creates a problem with its own type: `kind` is in kebab case, such as `email-taken`.
    pub fn with_kind(status: StatusCode, kind: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: Some(kind), ..Self::new(status, detail) }
    }

    /// 422: the request is well formed but invalid, for the given reasons. Only the first [`MAX_ERRORS`] are kept, and
    /// the detail says that there are more.
    #[must_use]
    pub fn invalid(mut errors: Vec<FieldError>) -> Self {
        let has_more = errors.len() > MAX_ERRORS;
        errors.truncate(MAX_ERRORS);
        let detail = match errors.as_slice() {
            _ if has_more => {
                format!("the request is invalid; `errors` lists the first {MAX_ERRORS} errors, and there are more")
                    .into()
            }
            [FieldError { pointer: Some(place), detail, .. } | FieldError { parameter: Some(place), detail, .. }] => {
                format!("{place}: {detail}").into()
            }
            _ => Cow::Borrowed("the request is invalid; see `errors`"),
        };
        Self { errors, ..Self::with_kind(StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", detail) }
    }

    /// 404.
    #[must_use]
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 500 with a fixed text. The cause is logged.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let detail = "internal error; the service's log has the cause under this x-request-id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail).caused_by(cause)
    }

    /// 500 for a panic. Its message is logged.
    #[must_use]
    pub fn from_panic(panic: &(dyn Any + Send)) -> Self {
        Self::internal(panic_text(panic))
    }

    /// 503 with `Retry-After`: the client may retry the same request shortly.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// 503 for a request that may or may not have taken effect, without `Retry-After`.
    #[must_use]
    pub fn outcome_unknown() -> Self {
        Self::outcome_unknown_as(StatusCode::SERVICE_UNAVAILABLE)
    }

    /// The same with another status, such as a gateway's 502 or 504.
    #[must_use]
    pub fn outcome_unknown_as(status: StatusCode) -> Self {
        Self::with_kind(
            status,
            OUTCOME_UNKNOWN,
            "the request may or may not have taken effect; check before you repeat it",
        )
    }

    /// Whether the headers of a response say that the request may or may not have taken effect.
    #[must_use]
    pub fn has_unknown_outcome(headers: &HeaderMap) -> bool {
        headers.get(OUTCOME).is_some_and(|value| value == UNKNOWN)
    }

    /// Adds an extension member (RFC 9457, section 3.2). A value that cannot be serialized is omitted.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.extensions.insert(member.to_owned(), value);
        }
        self
    }

    /// Adds a header to the response, such as `WWW-Authenticate` to a 401. It replaces one of the same name.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.get_or_insert_default().insert(name, value);
        self
    }

    /// Adds a cause for the log.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(Cause(Arc::from(cause.into())));
        self
    }

    /// Returns the invalid parts of the request.
    #[must_use]
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// Returns the problem type in kebab case, or `None` for `about:blank`.
    #[must_use]
    pub fn kind(&self) -> Option<&'static str> {
        self.kind
    }

    /// Returns the extension members.
    #[must_use]
    pub fn extensions(&self) -> &Map<String, Value> {
        &self.extensions
    }

    /// Returns the text for the client.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the cause, for the log.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }

    /// Returns the HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl Problem {
    /// Builds the response with its body as bytes, for callers that do not use axum.
    #[must_use]
    pub fn into_http(self) -> http::Response<Bytes> {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = ProblemBody {
            kind: self.kind.map_or(Cow::Borrowed("about:blank"), |kind| format!("{TYPE_BASE}{kind}").into()),
            title: self.kind.map_or(Cow::Borrowed(title), |kind| kind.replace('-', " ").into()),
            status: self.status.as_u16(),
            detail: self.detail,
            errors: self.errors,
            extensions: self.extensions,
        };
        let mut response = http::Response::new(serde_json::to_vec(&body).unwrap_or_default().into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.kind == Some(OUTCOME_UNKNOWN) {
            // No `Retry-After`: repeating the request could double its effect.
            headers.insert(OUTCOME, UNKNOWN);
        } else if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        headers.extend(self.headers.into_iter().flat_map(|headers| *headers));
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(cause);
        }
        response
    }
}

/// Describes a panic, for the log.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    format!("panic: {text}")
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.into_http().map(axum::body::Body::from)
    }
}

impl FieldError {
    /// Creates an error for a part of the body, at a JSON pointer without the leading `#`. A long pointer is shortened
    /// to the nearest parent whose pointer is short enough.
    pub fn at(mut pointer: &str, detail: impl Into<String>) -> Self {
        while pointer.len() > MAX_PLACE {
            pointer = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
        Self { pointer: Some(format!("#{pointer}")), parameter: None, detail: detail.into() }
    }

    /// Creates an error for a query parameter, path parameter or header. A long name is cut off.
    pub fn parameter(name: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut name = name.into();
        if name.len() > MAX_PLACE {
            name.truncate(name.floor_char_boundary(MAX_PLACE));
            name.push('…');
        }
        Self { pointer: None, parameter: Some(name), detail: detail.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_20_errors_are_listed() {
        let invalid = |count| Problem::invalid(vec![FieldError::at("/x", "is wrong"); count]);
        assert_eq!(invalid(1).detail(), "#/x: is wrong");
        assert_eq!((invalid(20).errors().len(), invalid(20).detail()), (20, "the request is invalid; see `errors`"));
        assert_eq!(invalid(21).errors().len(), 20);
        assert!(invalid(21).detail().ends_with("lists the first 20 errors, and there are more"));
    }

    #[test]
    fn long_places_are_shortened() {
        let long = "é".repeat(300);
        assert_eq!(FieldError::at(&format!("/items/3/{long}"), "").pointer.expect("one"), "#/items/3");
        assert_eq!(FieldError::at(&format!("/{long}"), "").pointer.expect("one"), "#");
        assert_eq!(FieldError::at("/items/3", "").pointer.expect("one"), "#/items/3");
        assert_eq!(FieldError::parameter(long, "").parameter.expect("one"), format!("{}…", "é".repeat(256)));
    }

    #[test]
    fn headers_are_those_of_the_response() {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "no token");
        let challenge = |value: &'static str| (header::WWW_AUTHENTICATE, HeaderValue::from_static(value));
        let problem = [challenge("Basic"), challenge("Bearer")]
            .into_iter()
            .fold(problem, |problem, (name, value)| problem.with_header(name, value));
        let response = problem.into_http();
        let values: Vec<_> = response.headers().get_all(header::WWW_AUTHENTICATE).iter().collect();
        assert_eq!(values, ["Bearer"]);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn an_unknown_outcome_is_also_in_a_header() {
        for (problem, expected) in [
            (Problem::outcome_unknown(), true),
            (Problem::outcome_unknown_as(StatusCode::BAD_GATEWAY), true),
            (Problem::unavailable("busy"), false),
        ] {
            let response = problem.into_http();
            assert_eq!(Problem::has_unknown_outcome(response.headers()), expected);
            // Repeating such a request could double its effect.
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), !expected);
        }
    }
}
