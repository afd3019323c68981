//! Problems as gRPC statuses: one set of rules, in two protocols.
//!
//! A response without a message is its headers alone (trailers-only), so a process that only refuses calls needs no
//! gRPC framework.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use prost::{Message, Name};
use serde_json::Value;

use crate::problem::{Cause, FieldError, Problem};

/// The domain of the reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "hedgerow.dev";

/// How long a caller is asked to wait after UNAVAILABLE, in seconds.
const RETRY_DELAY: i64 = 1;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// The characters that are escaped in `grpc-message`.
const ESCAPED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'`').add(b'?').add(b'{').add(b'}');

/// The codes that problems map to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// A problem as a gRPC status.
#[derive(Debug)]
pub struct GrpcStatus {
    /// The numeric code.
    pub code: i32,
    /// The detail of the problem.
    pub message: String,
    /// An encoded `google.rpc.Status` with the details; empty if there are none.
    pub details: Vec<u8>,
    /// The cause, for the log.
    pub cause: Option<Cause>,
}

impl From<Problem> for GrpcStatus {
    fn from(problem: Problem) -> Self {
        let code = code(&problem);
        let mut details = Vec::new();
        if code == Code::Unavailable {
            let retry_delay = Some(prost_types::Duration { seconds: RETRY_DELAY, nanos: 0 });
            details.push(any(&RetryInfo { retry_delay }));
        }
        if let Some(kind) = problem.kind() {
            let (reason, domain) = (reason(kind), DOMAIN.to_owned());
            details.push(any(&ErrorInfo { reason, domain, metadata: metadata(&problem) }));
        }
        if !problem.errors().is_empty() {
            let field_violations = problem.errors().iter().map(violation).collect();
            details.push(any(&BadRequest { field_violations }));
        }
        let (code, message) = (code as i32, problem.detail().to_owned());
        let details = Status { code, message: message.clone(), details }.encode_to_vec();
        Self { code, message, details, cause: problem.cause().cloned() }
    }
}

impl GrpcStatus {
    /// Builds the response: headers alone, without a message.
    #[must_use]
    pub fn into_http<B: Default>(self) -> Response<B> {
        let mut response = Response::new(B::default());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, self.code.into());
        let message = utf8_percent_encode(&self.message, ESCAPED).to_string();
        for (name, value) in
            [(GRPC_MESSAGE, message), (GRPC_STATUS_DETAILS, BASE64_STANDARD_NO_PAD.encode(&self.details))]
        {
            if let Ok(value) = HeaderValue::try_from(value)
                && !value.is_empty()
            {
                headers.insert(name, value);
            }
        }
        response
    }
}

impl Problem {
    /// Builds the response to a gRPC call: a status and no message.
    #[must_use]
    pub fn into_grpc<B: Default>(self) -> Response<B> {
        GrpcStatus::from(self).into_http()
    }
}

/// Returns the code that `google.rpc.Code` maps to the problem's HTTP status. A status that it does not list, such as
/// 405, 408 or 415, is UNKNOWN, as in gRPC's `http-grpc-status-mapping.md`.
fn code(problem: &Problem) -> Code {
    match problem.status() {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Code::InvalidArgument,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Code::FailedPrecondition,
        // Not UNAVAILABLE: clients retry any call after that, whatever it does.
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY if problem.kind().is_some() => Code::Unknown,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => Code::Unavailable,
        StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
        StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        StatusCode::INTERNAL_SERVER_ERROR => Code::Internal,
        _ => Code::Unknown,
    }
}

/// Returns the extension members of the problem: strings as they are, anything else as JSON.
fn metadata(problem: &Problem) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    problem.extensions().iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// Turns `insufficient-stock` into `INSUFFICIENT_STOCK`, the form that `google.rpc.ErrorInfo` requires.
fn reason(kind: &str) -> String {
    kind.replace('-', "_").to_uppercase()
}

fn violation(error: &FieldError) -> FieldViolation {
    FieldViolation { field: field(error), description: error.detail.clone() }
}

/// Turns a pointer into a path of fields, the form that `google.rpc.BadRequest` requires: `#/items/0/quantity` is
/// `items[0].quantity`.
fn field(error: &FieldError) -> String {
    let place = error.pointer.as_deref().or(error.parameter.as_deref()).unwrap_or_default();
    let steps = place.trim_start_matches(['#', '/']).split('/').map(|step| {
        let is_index = !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
        if is_index { format!("[{step}]") } else { format!(".{step}") }
    });
    steps.collect::<String>().trim_start_matches('.').to_owned()
}

fn any<M: Name>(message: &M) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// `google.rpc.BadRequest`.
#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

/// `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, PartialEq, Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
}

macro_rules! names {
    ($($message:ident),*) => {
        $(impl Name for $message {
            const NAME: &'static str = stringify!($message);
            const PACKAGE: &'static str = "google.rpc";
        })*
    };
}

names!(RetryInfo, ErrorInfo, BadRequest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_code() {
        for (status, code) in [
            (400, Code::InvalidArgument),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::NotFound),
            (405, Code::Unknown),
            (408, Code::Unknown),
            (409, Code::FailedPrecondition),
            (412, Code::FailedPrecondition),
            (413, Code::ResourceExhausted),
            (415, Code::Unknown),
            (422, Code::InvalidArgument),
            (429, Code::ResourceExhausted),
            (500, Code::Internal),
            (501, Code::Unimplemented),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::DeadlineExceeded),
        ] {
            let problem = Problem::new(StatusCode::from_u16(status).expect("a status"), "a problem");
            assert_eq!(GrpcStatus::from(problem).code, code as i32, "{status}");
        }
    }
}
