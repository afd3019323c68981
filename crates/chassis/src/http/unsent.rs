//! Responses that are not sent yet. A client that reads slowly, or not at all, makes the process keep its responses, so
//! their number of bytes is limited.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    body::{Body, HttpBody},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use runtime::{Problem, metrics::InFlight};

/// The limit for all unsent responses. Beyond it, requests are refused.
const LIMIT: usize = 64 * 1024 * 1024;

/// The part that responses to `GET` may fill, so that clients that read no lists do not prevent changes.
const LIMIT_FOR_READS: usize = LIMIT / 2;

/// Responses up to this length are sent even if reads have filled their part.
const SHORT: usize = 4096;

/// What a response takes besides its body.
const OVERHEAD: usize = 1024;

/// The number of bytes that unsent responses hold.
#[derive(Clone, Default)]
pub(super) struct Unsent(Arc<AtomicUsize>);

/// The share of one response, until its last byte is sent or it is dropped.
struct Share {
    held: Arc<AtomicUsize>,
    bytes: usize,
    _in_flight: InFlight,
}

impl Unsent {
    /// Returns whether no request should be accepted.
    pub(super) fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= LIMIT
    }

    /// The response if too much is unsent.
    pub(super) fn refusal() -> Problem {
        Problem::unavailable("clients have not read too many responses; try again in a moment")
    }

    /// Counts a response until it is sent. A long response to a read is refused if too much is unsent; a change has
    /// taken effect, so its response is not.
    pub(super) fn hold(&self, response: Response, is_read: bool, in_flight: InFlight) -> Response {
        let length = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
        let held = self.0.load(Ordering::Relaxed);
        if is_read && length > SHORT && held.saturating_add(length) > LIMIT_FOR_READS {
            return self.hold(Self::refusal().into_response(), false, in_flight);
        }
        let bytes = length.saturating_add(OVERHEAD);
        self.0.fetch_add(bytes, Ordering::Relaxed);
        let share = Share { held: self.0.clone(), bytes, _in_flight: in_flight };
        response.map(|body| Body::new(Held { body, share: Some(share) }))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The body of an unsent response.
struct Held {
    body: Body,
    share: Option<Share>,
}

/// The last data of a body. The connection drops it once it is written.
struct Last {
    data: Bytes,
    _share: Option<Share>,
}

impl AsRef<[u8]> for Last {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        frame.map_ok(|frame| {
            if this.body.is_end_stream() {
                frame.map_data(|data| Bytes::from_owner(Last { data, _share: this.share.take() }))
            } else {
                frame
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
