//! Responses that are not sent yet, over HTTP and gRPC. A client that reads slowly, or not at all, makes the process
//! keep its responses, so their number of bytes is limited.

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
    response::Response,
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use runtime::{Problem, metrics::InFlight};

/// The limit for all unsent responses. Beyond it, requests are refused.
const LIMIT: usize = 64 * 1024 * 1024;

/// The part that responses to reads may fill, so that clients that read no lists do not prevent changes.
const LIMIT_FOR_READS: usize = LIMIT / 2;

/// Responses up to this length are sent even if reads have filled their part.
const SHORT: usize = 4096;

/// What a response takes besides its body, such as the state of its stream and the buffer it was encoded in.
const OVERHEAD: usize = 8 * 1024;

/// The number of bytes that unsent responses hold.
#[derive(Clone, Default)]
pub(crate) struct Unsent(Arc<AtomicUsize>);

/// The share of one response, until its last byte is sent or it is dropped.
struct Share {
    held: Arc<AtomicUsize>,
    bytes: usize,
    _in_flight: InFlight,
}

impl Unsent {
    /// Returns whether no request should be accepted.
    pub(crate) fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= LIMIT
    }

    /// The response if too much is unsent.
    pub(crate) fn refusal() -> Problem {
        Problem::unavailable("clients have not read too many responses; try again in a moment")
    }

    /// Counts a response until it is sent. If too much is unsent, `refuse` builds the response in place of a long one
    /// to a read; a change has taken effect, so its response is not replaced.
    pub(crate) fn hold(
        &self,
        response: Response,
        is_read: bool,
        in_flight: InFlight,
        refuse: fn(Problem) -> Response,
    ) -> Response {
        let length = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
        let held = self.0.load(Ordering::Relaxed);
        if is_read && length > SHORT && held.saturating_add(length) > LIMIT_FOR_READS {
            return self.hold(refuse(Self::refusal()), false, in_flight, refuse);
        }
        let bytes = length.saturating_add(OVERHEAD);
        self.0.fetch_add(bytes, Ordering::Relaxed);
        let share = Share { held: self.0.clone(), bytes, _in_flight: in_flight };
        response.map(|body| Body::new(Held { body, share: Some(share) }))
    }
}

impl Share {
    /// Counts a frame of a stream. The connection holds one at a time, so the longest one since the client last waited
    /// counts.
    fn count_frame(&mut self, length: usize) {
        let more = length.saturating_add(OVERHEAD).saturating_sub(self.bytes);
        self.held.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
    }

    /// Counts nothing: the client has read all frames that there are.
    fn clear(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
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
        if frame.is_pending()
            && let Some(share) = &mut this.share
        {
            share.clear();
        }
        frame.map_ok(|frame| {
            if let (Some(data), Some(share)) = (frame.data_ref(), &mut this.share) {
                share.count_frame(data.len());
            }
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
