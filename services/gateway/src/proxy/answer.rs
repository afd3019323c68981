//! The body of an answer: the gateway's own, or one that comes from an endpoint while it is passed on.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{endpoint::Lease, http1, http2, upstream::Upstream};

/// The body of an answer.
pub(crate) enum Answer {
    /// The gateway's own.
    Own(Full<Bytes>),
    Http1(Http1),
    Grpc(Grpc),
}

/// From a connection by HTTP/1.1.
pub(crate) struct Http1 {
    body: http1::Answer,
    upstream: Arc<Upstream>,
}

/// From a connection by HTTP/2.
pub(crate) struct Grpc {
    body: Incoming,
    upstream: Arc<Upstream>,
    _lease: Lease,
}

/// Why an answer ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the service did not send all of its answer")]
    Http1(#[from] http1::Error),
    #[error("the service did not send all of its answer")]
    Grpc(#[from] hyper::Error),
}

impl Answer {
    pub(super) fn http1(body: http1::Answer, upstream: Arc<Upstream>) -> Self {
        Self::Http1(Http1 { body, upstream })
    }

    pub(super) fn grpc(body: Incoming, lease: Lease, upstream: Arc<Upstream>) -> Self {
        Self::Grpc(Grpc { body, upstream, _lease: lease })
    }

    /// Limits the time for what is still to come.
    pub(super) fn set_limit(&mut self, until: Instant) {
        if let Self::Http1(answer) = self {
            answer.body.set_limit(until);
        }
    }

    /// Sends no more of the request, which goes to another endpoint.
    pub(super) fn give_up_upload(&mut self) {
        if let Self::Http1(answer) = self {
            answer.body.give_up_upload();
        }
    }
}

/// Leaves the body out of an answer of the gateway's own to HEAD, and says how long it is (RFC 9110, section 9.3.2). By
/// HTTP/2 hyper would send it.
pub(super) fn to_head(mut response: Response<Answer>) -> Response<Answer> {
    if let Answer::Own(body) = response.body()
        && let Some(length @ 1..) = body.size_hint().exact()
    {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
        *response.body_mut() = Answer::default();
    }
    response
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
            Self::Http1(answer) => {
                let frame = ready!(Pin::new(&mut answer.body).poll_frame(cx));
                if let Some(Err(error)) = &frame
                    && !error.is_of_client()
                {
                    answer.upstream.metrics.failed(error.kind());
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Cut::Http1)))
            }
            Self::Grpc(answer) => {
                let frame = ready!(Pin::new(&mut answer.body).poll_frame(cx));
                if let Some(Err(error)) = &frame {
                    answer.upstream.metrics.failed(http2::kind(error));
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Cut::Grpc)))
            }
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
