//! A response whose first message is encoded before its client has room for it. tonic encodes a message when it is
//! asked for it, so until then nothing would say how much an unread response holds.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};

/// The body of such a response.
pub(super) struct Encoded {
    /// The first frame, if there was one.
    first: Option<Result<Frame<Bytes>, axum::Error>>,
    body: Body,
}

impl Encoded {
    /// Encodes the first message. A stream may not have one yet.
    pub(super) fn new(mut body: Body) -> Self {
        let first = if body.is_end_stream() { None } else { body.frame().now_or_never().flatten() };
        Self { first, body }
    }
}

impl HttpBody for Encoded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    /// At least the first message.
    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        if let Some(Ok(frame)) = &self.first {
            hint.set_lower(frame.data_ref().map_or(0, Bytes::len) as u64);
        }
        hint
    }
}
