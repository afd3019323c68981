//! The names and codes of calls, for metrics and traces.

use std::sync::Arc;

use http::HeaderMap;
use runtime::request::CALL_TARGET;
use tonic::{Code, Status};
use tracing::{Span, field};

/// The name of a method and of its service. Names that a client invents never get here: they would make labels without
/// bound.
#[derive(Debug, Clone)]
pub(super) struct Method {
    pub(super) service: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Method {
    pub(super) fn new(service: &str, name: &str) -> Self {
        Self { service: service.into(), name: name.into() }
    }

    /// Parses the path of a request: `/SERVICE/METHOD`.
    pub(super) fn from_path(path: &str) -> Self {
        let (service, name) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        Self::new(service, name)
    }

    /// Creates a span, named as OpenTelemetry's semantic conventions require. `kind` is `client` or `server`. Its level
    /// is debug, like that of HTTP spans.
    pub(super) fn span(&self, kind: &'static str) -> Span {
        let Self { service, name } = self;
        tracing::debug_span!(
            target: CALL_TARGET,
            "call",
            otel.name = format_args!("{service}/{name}"),
            otel.kind = kind,
            otel.status_code = field::Empty,
            rpc.system = "grpc",
            rpc.service = &**service,
            rpc.method = &**name,
            rpc.grpc.status_code = field::Empty,
            server.address = field::Empty,
            request_id = field::Empty,
        )
    }
}

/// Returns the code in the headers or trailers of a response, if there is one.
pub(super) fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// Returns whether the service is at fault, as with a 5xx in HTTP.
pub(super) fn is_failure(code: Code) -> bool {
    matches!(code, Code::Unknown | Code::Internal | Code::Unavailable | Code::DataLoss)
}

/// Returns the name of a code in the specification.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
