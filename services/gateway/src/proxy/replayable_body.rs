//! The body of a request on its way to an endpoint: streamed, limited in size, and its beginning buffered if the
//! request may be sent again.

mod kept;

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use identity::Reason;
use runtime::server::RequestBody;

use super::unread::Unread;
use crate::auth::Lease;
use kept::Kept;

/// How much of a body is buffered, in bytes. A longer body is not sent again.
pub(super) const MAX_BUFFERED: usize = 64 * 1024;

/// Chunks of fewer bytes than this are joined, up to so many bytes, if they arrive at the same time. Each would be
/// written by itself.
const SMALL_CHUNK: usize = 512;
const MAX_JOINED: usize = 4 * 1024;

/// Why a client's body ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestBodyError {
    #[error("the request body is too large")]
    TooLarge,
    #[error("the client did not send the complete body")]
    Incomplete,
    #[error("the client did not send the complete body in time")]
    Timeout,
    #[error("too much of what clients have sent is not read")]
    Unread,
    #[error("the token of the request is no longer accepted: {0}")]
    TokenEnded(Reason),
}

/// The body of a request, from which each attempt gets its own [`UpstreamBody`].
pub(super) struct ReplayableBody<B = RequestBody> {
    /// `None` if the body is empty.
    state: Option<Arc<Mutex<State<B>>>>,
    size: SizeHint,
}

struct State<B> {
    body: B,
    /// Whether everything is kept once it is read, so that the request may be sent again.
    keep: bool,
    /// What earlier attempts have read. Once buffering has stopped, only what the current one has yet to read.
    earlier: VecDeque<Bytes>,
    /// How many pieces of that the current attempt has got.
    next: usize,
    /// What the current attempt has read after that, if it is kept.
    kept: Kept,
    /// A chunk that was read, but neither buffered nor sent.
    unread: Option<Bytes>,
    /// Small chunks that no attempt has got yet.
    joined: BytesMut,
    read: u64,
    limit: u64,
    ended: bool,
    /// Whether an attempt waits for the client to send more.
    is_awaited: bool,
    unread_count: Option<Unread>,
    /// For how long more of it is accepted, if that is limited.
    lease: Option<Lease>,
    error: Option<RequestBodyError>,
}

impl<B> Default for ReplayableBody<B> {
    fn default() -> Self {
        Self { state: None, size: SizeHint::with_exact(0) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> ReplayableBody<B> {
    /// Limits the body to `limit` bytes, and buffers it if `buffer` is set.
    pub(super) fn new(body: B, limit: u64, buffer: bool) -> Self {
        let size = body.size_hint();
        if body.is_end_stream() {
            return Self { state: None, size };
        }
        let state = State {
            body,
            keep: buffer,
            earlier: VecDeque::new(),
            next: 0,
            kept: Kept::default(),
            unread: None,
            joined: BytesMut::new(),
            read: 0,
            limit,
            ended: false,
            is_awaited: false,
            unread_count: None,
            lease: None,
            error: None,
        };
        Self { state: Some(Arc::new(Mutex::new(state))), size }
    }

    /// Counts what its client has sent and no endpoint has read. Returns whether that is not too much already.
    pub(super) fn count_unread(&self, unread: impl FnOnce(Option<u64>) -> Unread) -> bool {
        self.lock().is_none_or(|mut state| state.unread_count.insert(unread(self.size.upper())).count())
    }

    /// Ends the body early as soon as its client sends more after the end of a lease.
    pub(super) fn limit_by(&self, lease: Lease) {
        if let Some(mut state) = self.lock() {
            state.lease = Some(lease);
        }
    }

    /// The body for one attempt. Only the latest attempt may read from its body.
    pub(super) fn attempt(&self) -> UpstreamBody<B> {
        if let Some(mut state) = self.lock() {
            state.rewind();
        }
        UpstreamBody { source: Self { state: self.state.clone(), size: self.size } }
    }

    /// Whether everything read so far is still buffered.
    pub(super) fn is_replayable(&self) -> bool {
        self.state.is_none() || self.lock().is_some_and(|state| state.keep && state.error.is_none())
    }

    /// Frees the buffer when no further attempt follows, except for what the current one still has to send.
    pub(super) fn release(&self) {
        if let Some(mut state) = self.lock() {
            state.release();
        }
    }

    /// Whether anything of the body has been read, or there is none.
    pub(super) fn has_begun(&self) -> bool {
        self.lock().is_none_or(|state| state.read > 0 || state.ended)
    }

    /// Whether an attempt waits for the client to send more of the body.
    pub(super) fn is_awaited(&self) -> bool {
        self.lock().is_some_and(|state| state.is_awaited)
    }

    /// Ends the body early, for all attempts.
    pub(super) fn fail(&self, error: RequestBodyError) {
        if let Some(mut state) = self.lock() {
            state.error = Some(error);
        }
    }

    /// Why the client's body ended early, if it did.
    pub(super) fn error(&self) -> Option<RequestBodyError> {
        self.lock()?.error
    }

    fn lock(&self) -> Option<MutexGuard<'_, State<B>>> {
        Some(self.state.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: Body<Data = Bytes> + Unpin> State<B> {
    /// Starts over, for another attempt.
    fn rewind(&mut self) {
        let kept = self.kept.take();
        if !kept.is_empty() {
            self.earlier.push_back(kept);
        }
        self.next = 0;
    }

    fn release(&mut self) {
        self.keep = false;
        self.earlier.drain(..self.next);
        self.next = 0;
        self.kept = Kept::default();
        if let Some(count) = &mut self.unread_count {
            count.release();
        }
    }

    /// Takes the next piece that is buffered for the current attempt.
    fn next_buffered(&mut self) -> Option<Bytes> {
        if !self.keep {
            return self.earlier.pop_front();
        }
        let piece = self.earlier.get(self.next)?.clone();
        self.next += 1;
        Some(piece)
    }

    /// Whether the current attempt has got everything.
    fn is_end(&self) -> bool {
        self.ended && self.unread.is_none() && self.joined.is_empty() && self.next == self.earlier.len()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if let Some(error) = self.error {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(chunk) = self.unread.take() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        while !self.ended {
            if let Some(count) = &mut self.unread_count {
                count.clear();
            }
            let frame = Pin::new(&mut self.body).poll_frame(cx);
            let was_awaited = mem::replace(&mut self.is_awaited, frame.is_pending());
            if frame.is_pending() && !self.joined.is_empty() {
                if was_awaited {
                    self.is_awaited = false;
                    break;
                }
                // Over HTTP/1.1 hyper reads the next chunk only once it is asked for it, so it may follow at once.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let data = match ready!(frame).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => data,
                // Trailers are dropped, as RFC 9110, section 6.5.1 allows: a service that merges them into the headers
                // would trust fields that the gateway has not filtered.
                Some(Ok(Err(_))) => continue,
                Some(Err(_)) => return self.fail(RequestBodyError::Incomplete),
                None => {
                    self.ended = true;
                    break;
                }
            };
            if let Some(lease) = &self.lease
                && let Err(reason) = lease.check()
            {
                return self.fail(RequestBodyError::TokenEnded(reason));
            }
            // The first one is sent together with the head.
            let is_first = self.read == 0;
            self.read = self.read.saturating_add(data.len() as u64);
            if self.read > self.limit {
                return self.fail(RequestBodyError::TooLarge);
            }
            self.ended = self.body.is_end_stream();
            if self.joined.is_empty() && (is_first || self.ended || data.len() >= SMALL_CHUNK) {
                return self.pass_on(data);
            }
            self.joined.extend_from_slice(&data);
            if self.joined.len() >= MAX_JOINED {
                break;
            }
        }
        if self.joined.is_empty() {
            return Poll::Ready(None);
        }
        let joined = mem::take(&mut self.joined).freeze();
        self.pass_on(joined)
    }

    /// Gives the current attempt what was read, and keeps it for another one if there is room.
    fn pass_on(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if self.keep {
            let mut has_room = |read| self.unread_count.as_mut().is_none_or(|count| count.keep(read));
            match usize::try_from(self.read) {
                Ok(read) if read <= MAX_BUFFERED && has_room(read) => self.kept.push(&data),
                _ => self.release(),
            }
        }
        if !self.ended && self.unread_count.as_mut().is_some_and(|count| !count.count()) {
            return self.fail(RequestBodyError::Unread);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn fail(&mut self, error: RequestBodyError) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        self.error = Some(error);
        Poll::Ready(Some(Err(error)))
    }
}

/// The body of one attempt.
pub(super) struct UpstreamBody<B = RequestBody> {
    source: ReplayableBody<B>,
}

impl<B: Body<Data = Bytes> + Unpin> UpstreamBody<B> {
    /// Takes back the last chunk, which was not sent.
    pub(super) fn unread(&self, chunk: Bytes) {
        if let Some(mut state) = self.source.lock().filter(|state| !state.keep) {
            state.unread = Some(chunk);
        }
    }

    /// Ends the body early, for this attempt and all others.
    pub(super) fn fail(&self, error: RequestBodyError) {
        self.source.fail(error);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for UpstreamBody<B> {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let Some(mut state) = self.source.lock() else { return Poll::Ready(None) };
        if let Some(chunk) = state.next_buffered() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if state.is_end() {
            return Poll::Ready(None);
        }
        state.poll_read(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.source.lock().is_none_or(|state| state.is_end())
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size
    }
}

#[cfg(test)]
mod tests;
