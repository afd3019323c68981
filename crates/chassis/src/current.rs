//! What is known of the request that a task is answering, for the calls it makes meanwhile: a request and its calls are
//! found under one id, and in one trace.

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::task_local;

use crate::observe::REQUEST_ID;

/// The header that names a trace (W3C Trace Context).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

task_local! {
    static CURRENT: Current;
}

/// The headers of a request that its calls pass on.
pub(crate) struct Current {
    request_id: HeaderValue,
    /// `traceparent` and `tracestate` (W3C Trace Context).
    trace: Option<(HeaderValue, Option<HeaderValue>)>,
}

impl Current {
    pub(crate) fn of(request_id: &HeaderValue, headers: &HeaderMap) -> Self {
        let parent = headers.get(TRACEPARENT).cloned();
        let trace = parent.map(|parent| (parent, headers.get(TRACESTATE).cloned()));
        Self { request_id: request_id.clone(), trace }
    }

    /// Runs what answers the request.
    pub(crate) fn scope<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    /// Adds the headers to a call, where the task is answering a request.
    pub(crate) fn pass_on(headers: &mut HeaderMap) {
        let _ = CURRENT.try_with(|current| {
            headers.insert(REQUEST_ID, current.request_id.clone());
            if let Some((parent, state)) = &current.trace {
                headers.insert(TRACEPARENT, parent.clone());
                if let Some(state) = state {
                    headers.insert(TRACESTATE, state.clone());
                }
            }
        });
    }
}
