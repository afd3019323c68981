//! Which requests are passed on as gRPC calls.

use http::request::Parts;
use runtime::grpc;

/// How a request is passed on to its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Over HTTP/1.1.
    Http,
    /// Over HTTP/2, exempt from the header timeout, the total timeout and the body limit.
    Grpc,
}

impl Protocol {
    pub(crate) fn of(request: &Parts) -> Self {
        if grpc::is_call(request.version, &request.headers) { Self::Grpc } else { Self::Http }
    }

    pub(crate) fn is_grpc(self) -> bool {
        self == Self::Grpc
    }
}
