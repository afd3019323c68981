//! `/docs` and `/openapi.json`: the APIs of all services in one document.

use bytes::Bytes;
use http::{Response, request::Parts};
use http_body_util::Full;

use crate::services::Services;

/// The documents of all services.
pub(crate) struct Documents {
    #[expect(dead_code, reason = "soon")]
    services: Services,
}

impl Documents {
    pub(crate) fn new(services: Services) -> Self {
        Self { services }
    }

    /// Whether a path is one of the gateway's own, unless a service claims it: then [`Self::answer`] is to be asked
    /// before any service.
    pub(crate) fn may_answer(path: &str) -> bool {
        path == "/" || path == "/openapi.json" || path == "/docs" || path.starts_with("/docs/")
    }

    /// The answer to a request for one of the documents; `None` where its path is a service's.
    #[expect(clippy::unused_async, reason = "soon")]
    pub(crate) async fn answer(&self, _request: &Parts) -> Option<Response<Full<Bytes>>> {
        None
    }
}
