//! Errors as RFC 9457 `application/problem+json`.

use std::{any::Any, borrow::Cow, error::Error, sync::Arc};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};

/// Where the problem types of Hedgerow are named; `docs/api.md` lists them.
const TYPE_BASE: &str = "https://hedgerow.dev/problems/";

/// Seconds a client is asked to wait after a 503.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// An error answer, and the cause that only the log gets to see.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    kind: Option<&'static str>,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    extensions: Map<String, Value>,
    cause: Option<Cause>,
}

/// The reason for a 5xx, carried to the log on the response's extensions and never in the body.
#[derive(Clone, Debug)]
pub struct Cause(pub Arc<dyn Error + Send + Sync>);

/// One part of a request that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// Where in the body, as a JSON pointer in URI fragment form (RFC 6901, section 6), such as `#/email`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Which query or path parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}

/// An `application/problem+json` body (RFC 9457).
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProblemBody {
    /// A URI that names the kind of problem; `about:blank` where the status says it all.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "openapi", schema(format = "uri-reference"))]
    kind: Cow<'static, str>,
    /// The kind of problem in a few words.
    title: Cow<'static, str>,
    /// The HTTP status code.
    #[cfg_attr(feature = "openapi", schema(minimum = 400, maximum = 599))]
    status: u16,
    /// What happened this time.
    detail: Cow<'static, str>,
    /// For a request that breaks rules: each place and what is wrong with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    errors: Vec<FieldError>,
    /// What a kind of problem tells besides.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    extensions: Map<String, Value>,
}

impl Problem {
    /// A problem that its status names well enough (`type` is `about:blank`).
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, kind: None, detail: detail.into(), errors: Vec::new(), extensions: Map::new(), cause: None }
    }

    /// A problem of a kind of its own: `kind` in kebab case, such as `email-taken`.
    pub fn of_kind(status: StatusCode, kind: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: Some(kind), ..Self::new(status, detail) }
    }

    /// 422: the request is well formed and breaks these rules.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [FieldError { pointer: Some(place), detail, .. } | FieldError { parameter: Some(place), detail, .. }] => {
                format!("{place}: {detail}").into()
            }
            _ => Cow::Borrowed("the request breaks the rules listed under `errors`"),
        };
        Self { errors, ..Self::of_kind(StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", detail) }
    }

    /// 404.
    #[must_use]
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 500 with a fixed text; the cause goes to the log.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let detail = "the service failed to handle this request; its log has the cause under this x-request-id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail).caused_by(cause)
    }

    /// 500 for a panic, whose message goes to the log.
    #[must_use]
    pub fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        Self::internal(format!("panic: {text}"))
    }

    /// 503 with `Retry-After`: worth the same request again, in a moment.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// 503 for a request that may or may not have had its effect.
    #[must_use]
    pub fn outcome_unknown() -> Self {
        Self::outcome_unknown_as(StatusCode::SERVICE_UNAVAILABLE)
    }

    /// The same, where another status says why nobody knows: one of a gateway, 502 or 504.
    #[must_use]
    pub fn outcome_unknown_as(status: StatusCode) -> Self {
        Self::of_kind(status, "outcome-unknown", "the request may or may not have been done; read before you repeat it")
    }

    /// Adds a member that problems of this kind have (RFC 9457, section 3.2). A value that cannot be JSON is left out.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.extensions.insert(member.to_owned(), value);
        }
        self
    }

    /// Adds the cause that the log gets.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(Cause(Arc::from(cause.into())));
        self
    }

    /// The faults of an invalid request.
    #[must_use]
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// The kind of the problem in kebab case, where its status does not say it all.
    #[must_use]
    pub fn kind(&self) -> Option<&'static str> {
        self.kind
    }

    /// What problems of this kind have besides.
    #[must_use]
    pub fn extensions(&self) -> &Map<String, Value> {
        &self.extensions
    }

    /// What happened, for the client.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The cause, for the log.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl Problem {
    /// The answer, its body as bytes; for one who answers without axum.
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
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(cause);
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.into_http().map(axum::body::Body::from)
    }
}

impl FieldError {
    /// A fault at a JSON pointer, given without the leading `#`.
    pub fn at(pointer: &str, detail: impl Into<String>) -> Self {
        Self { pointer: Some(format!("#{pointer}")), parameter: None, detail: detail.into() }
    }

    /// A fault of a query or path parameter.
    pub fn parameter(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: Some(name.into()), detail: detail.into() }
    }
}
