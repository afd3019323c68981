//! The body of a request on its way to an endpoint: streamed, limited in size, and its beginning buffered if the
//! request may be sent again.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use runtime::server::RequestBody;

use super::unread::Unread;

/// How much of a body is buffered, in bytes. A longer body is not sent again.
pub(super) const MAX_BUFFERED: usize = 64 * 1024;

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
    /// The buffered chunks. Once buffering has stopped, only those that the current attempt has yet to read.
    buffered: VecDeque<Bytes>,
    /// How many of the buffered chunks the current attempt has got.
    next: usize,
    /// A chunk that was read, but neither buffered nor sent.
    unread: Option<Bytes>,
    read: u64,
    limit: u64,
    ended: bool,
    /// Whether an attempt waits for the client to send more.
    is_awaited: bool,
    unread_count: Option<Unread>,
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
            buffered: VecDeque::new(),
            next: 0,
            unread: None,
            read: 0,
            limit,
            ended: false,
            is_awaited: false,
            unread_count: None,
            error: None,
        };
        Self { state: Some(Arc::new(Mutex::new(state))), size }
    }

    /// Counts what its client has sent and no endpoint has read. Returns whether that is not too much already.
    pub(super) fn count_unread(&self, unread: impl FnOnce(Option<u64>) -> Unread) -> bool {
        self.lock().is_none_or(|mut state| state.unread_count.insert(unread(self.size.upper())).count())
    }

    /// The body for one attempt. Only the latest attempt may read from its body.
    pub(super) fn attempt(&self) -> UpstreamBody<B> {
        if let Some(mut state) = self.lock() {
            state.next = 0;
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
    fn release(&mut self) {
        self.keep = false;
        self.buffered.drain(..self.next);
        self.next = 0;
    }

    /// Takes the next chunk that is buffered for the current attempt.
    fn next_buffered(&mut self) -> Option<Bytes> {
        if !self.keep {
            return self.buffered.pop_front();
        }
        let chunk = self.buffered.get(self.next)?.clone();
        self.next += 1;
        Some(chunk)
    }

    /// Whether the current attempt has got everything.
    fn is_end(&self) -> bool {
        self.ended && self.unread.is_none() && self.next == self.buffered.len()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if let Some(error) = self.error {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(chunk) = self.unread.take() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        let data = loop {
            if let Some(count) = &mut self.unread_count {
                count.clear();
            }
            let frame = Pin::new(&mut self.body).poll_frame(cx);
            self.is_awaited = frame.is_pending();
            match ready!(frame).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => break data,
                // Trailers are dropped, as RFC 9110, section 6.5.1 allows: a service that merges them into the headers
                // would trust fields that the gateway has not filtered.
                Some(Ok(Err(_))) => {}
                Some(Err(_)) => return self.fail(RequestBodyError::Incomplete),
                None => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
            }
        };
        self.read = self.read.saturating_add(data.len() as u64);
        if self.read > self.limit {
            return self.fail(RequestBodyError::TooLarge);
        }
        if self.read > MAX_BUFFERED as u64 {
            self.release();
        }
        if self.keep {
            self.buffered.push_back(data.clone());
            self.next += 1;
        }
        self.ended = self.body.is_end_stream();
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
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn replayable(chunks: &'static [&str]) -> ReplayableBody<impl Body<Data = Bytes> + Unpin> {
        let frames = chunks.iter().map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::from_static(chunk.as_bytes()))));
        ReplayableBody::new(StreamBody::new(stream::iter(frames)), 1000, true)
    }

    async fn next(body: &mut (impl Body<Data = Bytes, Error = RequestBodyError> + Unpin)) -> Bytes {
        body.frame().await.expect("a frame").expect("no error").into_data().expect("data")
    }

    async fn rest(body: impl Body<Data = Bytes, Error = RequestBodyError>) -> Bytes {
        body.collect().await.expect("a complete body").to_bytes()
    }

    /// An endpoint may respond while it still reads the request.
    #[tokio::test]
    async fn a_replayed_body_is_complete_despite_an_early_response() {
        // How much of the body the first attempt has read, and the second one when the response arrives.
        for (first, second) in [(4, 0), (4, 1), (4, 3), (4, 4), (2, 1), (2, 2), (2, 3), (0, 1)] {
            let body = replayable(&["a", "b", "c", "d"]);
            let mut attempt = body.attempt();
            for _ in 0..first {
                next(&mut attempt).await;
            }
            let mut attempt = body.attempt();
            let mut sent = Vec::new();
            for _ in 0..second {
                sent.extend(next(&mut attempt).await);
            }
            body.release();
            assert!(!body.is_replayable());
            sent.extend(rest(attempt).await);
            assert_eq!(sent, b"abcd", "{first} {second}");
        }
    }
}
