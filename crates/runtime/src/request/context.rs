//! The id and the trace of a request, and their propagation to the calls that its handler makes: all of them are found
//! under one id, and in one trace.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::task_local;
use uuid::{Uuid, fmt::Hyphenated};

/// The header with the id of a request, in requests and responses.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The header that names a trace (W3C Trace Context).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

task_local! {
    static CURRENT: RequestContext;
}

/// The headers of a request that are propagated to the calls its handler makes.
pub struct RequestContext {
    request_id: HeaderValue,
    /// `traceparent` and `tracestate` (W3C Trace Context).
    trace: Option<(HeaderValue, Option<HeaderValue>)>,
}

impl RequestContext {
    /// Takes the context from the headers of a request.
    #[must_use]
    pub fn new(request_id: &HeaderValue, headers: &HeaderMap) -> Self {
        let parent = headers.get(TRACEPARENT).cloned();
        let trace = parent.map(|parent| (parent, headers.get(TRACESTATE).cloned()));
        Self { request_id: request_id.clone(), trace }
    }

    /// Runs the handler of the request in this context.
    pub fn scope<F: Future>(self, handler: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, handler)
    }

    /// Adds the headers of the current request to a call. Outside of a request, adds nothing.
    pub fn propagate(headers: &mut HeaderMap) {
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

/// Returns the client's id of the request if it is safe to log and to pass on, and otherwise a new one.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers
        .get(REQUEST_ID)
        .filter(|id| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic));
    given.cloned().unwrap_or_else(|| {
        let mut id = [0; Hyphenated::LENGTH];
        Uuid::new_v4().hyphenated().encode_lower(&mut id);
        // Shared from the start, because each request clones it.
        HeaderValue::from_maybe_shared(Bytes::from_owner(id)).unwrap_or(HeaderValue::from_static("unknown"))
    })
}
