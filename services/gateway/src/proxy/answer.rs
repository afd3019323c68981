//! The body of an answer: the gateway's own, or one that comes from an endpoint while it is passed on.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{endpoint::Lease, http1, upstream::Upstream};
use crate::metrics::UpstreamError;

/// The body of an answer.
pub(crate) enum Answer {
    /// The gateway's own.
    Own(Full<Bytes>),
    Http1(Http1),
    Grpc(Grpc),
}

/// From a connection by HTTP/1.1, within a time.
pub(crate) struct Http1 {
    body: http1::Answer,
    upstream: Arc<Upstream>,
    deadline: Option<Deadline>,
}

/// From a connection by HTTP/2.
pub(crate) struct Grpc {
    body: Incoming,
    _lease: Lease,
}

/// When something has to be done.
pub(super) struct Deadline {
    pub(super) at: Instant,
    timer: Pin<Box<Sleep>>,
}

/// Why an answer ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the service did not send all of its answer")]
    Http1(#[source] http1::Error),
    #[error("the service did not send all of its answer")]
    Grpc(#[source] hyper::Error),
    #[error("the answer took too long")]
    Timeout,
}

impl Deadline {
    pub(super) fn new(at: Instant) -> Self {
        Self { at, timer: Box::pin(tokio::time::sleep_until(at)) }
    }

    /// Waits for a time that may be sooner.
    pub(super) async fn or_after(&mut self, time: Duration) {
        self.timer.as_mut().reset(self.at.min(Instant::now() + time));
        self.timer.as_mut().await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.deadline() != self.at {
            self.timer.as_mut().reset(self.at);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl Answer {
    pub(super) fn http1(body: http1::Answer, upstream: Arc<Upstream>) -> Self {
        Self::Http1(Http1 { body, upstream, deadline: None })
    }

    pub(super) fn grpc(body: Incoming, lease: Lease) -> Self {
        Self::Grpc(Grpc { body, _lease: lease })
    }

    /// Limits the time for what is still to come.
    pub(super) fn set_deadline(&mut self, deadline: Option<Deadline>) {
        if let Self::Http1(answer) = self {
            answer.deadline = deadline;
        }
    }
}

impl From<Bytes> for Answer {
    fn from(bytes: Bytes) -> Self {
        Self::Own(Full::new(bytes))
    }
}

impl Default for Answer {
    fn default() -> Self {
        Bytes::new().into()
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Http1(body) => body.poll_frame(cx),
            Self::Grpc(answer) => Pin::new(&mut answer.body).poll_frame(cx).map_err(Cut::Grpc),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Http1(answer) => answer.body.is_end_stream(),
            Self::Grpc(answer) => answer.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Http1(answer) => answer.body.size_hint(),
            Self::Grpc(answer) => answer.body.size_hint(),
        }
    }
}

impl Http1 {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending()
            && let Some(deadline) = &mut self.deadline
        {
            ready!(deadline.poll(cx));
            self.upstream.metrics.failed(UpstreamError::Timeout);
            return Poll::Ready(Some(Err(Cut::Timeout)));
        }
        if let Poll::Ready(Some(Err(error))) = &frame {
            self.upstream.metrics.failed(error.kind());
        }
        frame.map_err(Cut::Http1)
    }
}
