//! A request body that records whether it was read to its end.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Whether a body was read to its end. `None` for an empty body, which always was.
#[derive(Clone)]
pub(super) struct Ended(Option<Arc<AtomicBool>>);

impl Ended {
    pub(super) fn get(&self) -> bool {
        self.0.as_ref().is_none_or(|ended| ended.load(Ordering::Relaxed))
    }
}

/// A request body that records whether it was read to its end.
pub struct RequestBody {
    body: Incoming,
    ended: Ended,
}

impl RequestBody {
    pub(super) fn new(body: Incoming) -> (Self, Ended) {
        let ended = Ended((!body.is_end_stream()).then(Arc::default));
        (Self { body, ended: ended.clone() }, ended)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if (frame.is_none() || self.body.is_end_stream())
            && let Some(ended) = &self.ended.0
        {
            ended.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
