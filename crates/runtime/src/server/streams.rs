//! Tracks what the streams of an HTTP/2 connection wait for. If all of them wait for a client that reads nothing, the
//! connection is stuck. A stream that waits for the service, such as one with events, may be silent for hours.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time;

/// The streams of one connection.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Counts>);

#[derive(Default)]
struct Counts {
    /// Streams that wait for the service.
    waiting: AtomicUsize,
    /// Frames of response bodies that were sent, because the client's window had room for them.
    frames: AtomicU64,
}

/// One stream. At first it waits for the service.
pub(super) struct Stream {
    streams: Streams,
    waits: bool,
}

impl Streams {
    /// Adds a stream.
    pub(super) fn begin(&self) -> Stream {
        let mut stream = Stream { streams: self.clone(), waits: false };
        stream.set(true);
        stream
    }

    /// Waits until, for this long, no stream has waited for the service and the client has read nothing.
    pub(super) async fn stalled(&self, limit: Duration) {
        loop {
            let before = self.0.frames.load(Ordering::Relaxed);
            time::sleep(limit).await;
            let waiting = self.0.waiting.load(Ordering::Relaxed);
            if waiting == 0 && self.0.frames.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

impl Stream {
    fn set(&mut self, waits: bool) {
        match (self.waits, waits) {
            (false, true) => _ = self.streams.0.waiting.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.streams.0.waiting.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        self.waits = waits;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.set(false);
    }
}

pin_project! {
    /// The body of a response, with its stream. HTTP/1.1 has no stream.
    pub(super) struct ResponseBody<B> {
        #[pin]
        body: B,
        stream: Option<Stream>,
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(body: B, stream: Option<Stream>) -> Self {
        Self { body, stream }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        if let Some(stream) = this.stream {
            stream.set(frame.is_pending());
            if frame.is_ready() {
                stream.streams.0.frames.fetch_add(1, Ordering::Relaxed);
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
