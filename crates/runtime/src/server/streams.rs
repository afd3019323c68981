//! Tracks what the streams of an HTTP/2 connection wait for, and resets those whose client does not read.
//!
//! hyper does not poll the body of a response while the client's window is full, so no timer in it would be looked at.
//! Each stream therefore has a task with a timer of its own. A stream that waits for the service, such as one with
//! events, may be silent for hours.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    body::{Body, Frame, SizeHint},
    rt::Executor,
};
use pin_project_lite::pin_project;
use tokio::{
    sync::Notify,
    task_local,
    time::{self, Instant},
};

use super::connection_limit::ActiveRequest;
use crate::timer::ReusableTimer;

/// How much of a response is given to hyper at once, in bytes, and how much of it hyper buffers before it waits for the
/// client to read.
pub(super) const PIECE: usize = 16 * 1024;

/// A response of up to this many bytes is given to hyper as a whole. Of a longer one the last byte comes separately:
/// hyper asks for it only when the client's window has room for everything. Otherwise hyper would end the stream's task
/// while it still buffers data that the client may never read.
const WHOLE: usize = 1024;

/// How many streams a client may reset before their response is complete, if they are more than half of its streams.
const MAX_RESETS: u64 = 256;

task_local! {
    /// The stream whose task runs.
    static CURRENT: Arc<Stream>;
}

/// The streams of one connection. hyper runs each of them in a task.
#[derive(Clone)]
pub(super) struct Streams {
    counts: Arc<Counts>,
    write_timeout: Duration,
}

#[derive(Default)]
struct Counts {
    /// Streams that wait for the service.
    waiting: AtomicUsize,
    /// Frames of response bodies that were sent, because the client's window had room for them.
    frames: AtomicU64,
    /// All streams so far.
    begun: AtomicU64,
    /// Those that ended before their response was complete.
    reset: AtomicU64,
    flooded: Notify,
}

/// One stream. At first it waits for the service.
pub(super) struct Stream {
    counts: Arc<Counts>,
    waits: AtomicBool,
    frames: AtomicU64,
    is_complete: AtomicBool,
    deadline: OnceLock<Instant>,
}

impl Streams {
    /// A stream whose client reads nothing for `write_timeout` is reset.
    pub(super) fn new(write_timeout: Duration) -> Self {
        Self { counts: Arc::default(), write_timeout }
    }

    /// Waits until, for the write timeout, no stream has waited for the service and the client has read nothing.
    pub(super) async fn stalled(&self) {
        loop {
            let before = self.counts.frames.load(Ordering::Relaxed);
            time::sleep(self.write_timeout).await;
            let waiting = self.counts.waiting.load(Ordering::Relaxed);
            if waiting == 0 && self.counts.frames.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Waits until the client has reset too many streams: each may cost the service behind a proxy a connection.
    pub(super) async fn flooded(&self) {
        self.counts.flooded.notified().await;
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        let stream = Stream::begin(self.counts.clone());
        let write_timeout = self.write_timeout;
        tokio::spawn(StreamTask { future, stream, write_timeout, frames: 0, due: None, timer: None });
    }
}

impl Stream {
    fn begin(counts: Arc<Counts>) -> Arc<Self> {
        counts.begun.fetch_add(1, Ordering::Relaxed);
        counts.waiting.fetch_add(1, Ordering::Relaxed);
        let [waits, is_complete] = [true, false].map(AtomicBool::new);
        Arc::new(Self { counts, waits, frames: AtomicU64::new(0), is_complete, deadline: OnceLock::new() })
    }

    /// The stream whose task runs, if it is that of a stream.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Sets when the client must have read the whole response.
    pub(super) fn set_deadline(&self, deadline: Instant) {
        // There is one response, so it is not set yet.
        let _ = self.deadline.set(deadline);
    }

    /// Sets whether the stream waits for the service, or else for the client.
    fn set_waits(&self, waits: bool) {
        match (self.waits.swap(waits, Ordering::Relaxed), waits) {
            (false, true) => _ = self.counts.waiting.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.counts.waiting.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Records that the rest does not depend on the client.
    fn complete(&self) {
        self.is_complete.store(true, Ordering::Relaxed);
    }

    fn count_frame(&self) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.counts.frames.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.set_waits(false);
        if *self.is_complete.get_mut() {
            return;
        }
        let reset = self.counts.reset.fetch_add(1, Ordering::Relaxed) + 1;
        if reset.is_multiple_of(MAX_RESETS) && reset * 2 > self.counts.begun.load(Ordering::Relaxed) {
            self.counts.flooded.notify_one();
        }
    }
}

pin_project! {
    /// The task of a stream. When it ends early, h2 resets the stream.
    struct StreamTask<F> {
        #[pin]
        future: F,
        stream: Arc<Stream>,
        write_timeout: Duration,
        // How many frames of the response the client had room for when `due` was set.
        frames: u64,
        // When the client must have made room for the next one, while the stream waits for it.
        due: Option<Instant>,
        timer: Option<ReusableTimer>,
    }
}

impl<F: Future<Output = ()>> Future for StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if CURRENT.sync_scope(this.stream.clone(), || this.future.poll(cx)).is_ready() {
            return Poll::Ready(());
        }
        if this.stream.waits.load(Ordering::Relaxed) {
            *this.due = None;
            return Poll::Pending;
        }
        let frames = this.stream.frames.load(Ordering::Relaxed);
        let due = match *this.due {
            Some(due) if *this.frames == frames => due,
            _ => Instant::now() + *this.write_timeout,
        };
        (*this.frames, *this.due) = (frames, Some(due));
        let at = this.stream.deadline.get().map_or(due, |deadline| due.min(*deadline));
        this.timer.get_or_insert_with(|| ReusableTimer::new(at)).poll(cx, at)
    }
}

pin_project! {
    /// The body of a response, with its stream and its request. HTTP/1.1 has no stream.
    pub(super) struct ResponseBody<B> {
        #[pin]
        body: B,
        stream: Option<Arc<Stream>>,
        // The part of the last frame that was not given to hyper yet.
        rest: Bytes,
        _request: ActiveRequest,
    }
}

impl<B: Body> ResponseBody<B> {
    pub(super) fn new(body: B, stream: Option<Arc<Stream>>, request: ActiveRequest) -> Self {
        if let Some(stream) = stream.as_ref().filter(|_| body.is_end_stream()) {
            stream.complete();
        }
        Self { body, stream, rest: Bytes::new(), _request: request }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let Some(stream) = this.stream else { return this.body.poll_frame(cx) };
        if this.rest.is_empty() {
            let frame = this.body.as_mut().poll_frame(cx);
            stream.set_waits(frame.is_pending());
            match ready!(frame) {
                Some(Ok(frame)) if frame.is_data() => *this.rest = frame.into_data().unwrap_or_default(),
                end => {
                    stream.complete();
                    return Poll::Ready(end);
                }
            }
        }
        stream.count_frame();
        let is_last = this.body.is_end_stream();
        let piece = next_piece(this.rest, is_last);
        if is_last && this.rest.is_empty() {
            stream.complete();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

/// Takes the next piece for hyper.
fn next_piece(rest: &mut Bytes, is_last: bool) -> Bytes {
    let length = match rest.len() {
        length if length > PIECE => PIECE,
        length if is_last && length > WHOLE => length - 1,
        length => length,
    };
    rest.split_to(length)
}
