//! A request's body on its way to an endpoint: streamed, counted against the limit, and, where the request may be sent
//! once more, its beginning kept.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use runtime::server::RequestBody;

/// The most of a body that is kept, in bytes: a longer one is not sent again.
pub(super) const KEPT: usize = 64 * 1024;

/// Why a body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the request's body is longer than is taken")]
    TooLarge,
    #[error("the client did not send the whole body")]
    Client,
    #[error("the client did not send the whole body in time")]
    Slow,
}

/// The body of a request that is to be sent, however often.
#[derive(Clone)]
pub(super) struct Source {
    /// `None`: an empty body.
    state: Option<Arc<Mutex<State>>>,
    size: SizeHint,
}

struct State {
    body: RequestBody,
    /// What has been read, while that is kept.
    kept: Option<Vec<Bytes>>,
    /// What was read, not kept, and not sent after all.
    put_back: Option<Bytes>,
    read: u64,
    limit: u64,
    ended: bool,
    fault: Option<Fault>,
}

impl Source {
    /// A body that may have at most `limit` bytes.
    pub(super) fn new(body: RequestBody, limit: u64, keep: bool) -> Self {
        let size = body.size_hint();
        if body.is_end_stream() {
            return Self { state: None, size };
        }
        let kept = keep.then(Vec::new);
        let state = State { body, kept, put_back: None, read: 0, limit, ended: false, fault: None };
        Self { state: Some(Arc::new(Mutex::new(state))), size }
    }

    /// The body, to be sent once.
    pub(super) fn outgoing(&self) -> Outgoing {
        Outgoing { source: self.clone(), next: 0 }
    }

    /// Whether all that was read is still there.
    pub(super) fn may_be_sent_again(&self) -> bool {
        self.state.is_none() || self.lock().is_some_and(|state| state.kept.is_some() && state.fault.is_none())
    }

    /// Lets go of what was kept: an answer is there.
    pub(super) fn forget(&self) {
        if let Some(mut state) = self.lock() {
            state.kept = None;
        }
    }

    /// What was wrong with the body, where that is why sending it has failed.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.lock()?.fault
    }

    fn lock(&self) -> Option<MutexGuard<'_, State>> {
        Some(self.state.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some(fault) = self.fault {
            return Poll::Ready(Some(Err(fault)));
        }
        if let Some(piece) = self.put_back.take() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let data = loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => break data,
                // Trailers end here, as a recipient may have it (RFC 9110, section 6.5.1): services that take them for
                // headers would believe what no rule of the gateway was applied to.
                Some(Ok(Err(_))) => {}
                Some(Err(_)) => return self.fail(Fault::Client),
                None => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
            }
        };
        self.read = self.read.saturating_add(data.len() as u64);
        if self.read > self.limit {
            return self.fail(Fault::TooLarge);
        }
        if self.read > KEPT as u64 {
            self.kept = None;
        }
        if let Some(kept) = &mut self.kept {
            kept.push(data.clone());
        }
        self.ended = self.body.is_end_stream();
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.fault = Some(fault);
        Poll::Ready(Some(Err(fault)))
    }
}

/// A body on its way to one endpoint. While it is, it is the only one of its source.
pub(super) struct Outgoing {
    source: Source,
    /// The number of the kept piece that is next; once none is kept, of no meaning.
    next: usize,
}

impl Outgoing {
    /// Takes back what it gave last, as that was not sent.
    pub(super) fn put_back(&self, piece: Bytes) {
        if let Some(mut state) = self.source.lock().filter(|state| state.kept.is_none()) {
            state.put_back = Some(piece);
        }
    }

    /// Says that there is to be no more of it.
    pub(super) fn give_up(&self, fault: Fault) {
        if let Some(mut state) = self.source.lock() {
            state.fault = Some(fault);
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        let Some(mut state) = this.source.lock() else { return Poll::Ready(None) };
        if let Some(piece) = state.kept.as_ref().and_then(|kept| kept.get(this.next)) {
            let piece = piece.clone();
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if state.ended && state.put_back.is_none() {
            return Poll::Ready(None);
        }
        let frame = ready!(state.poll_read(cx));
        this.next += 1;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.lock().is_none_or(|state| {
            state.ended && state.put_back.is_none() && state.kept.as_ref().is_none_or(|kept| kept.len() <= self.next)
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size
    }
}
