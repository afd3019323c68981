//! The body of a response: the gateway's own, or an endpoint's as it is passed on.

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

use super::{
    endpoint::InFlightGuard,
    http1::{self, Connection},
    http2,
    upstream::Upstream,
};

pub(crate) enum ResponseBody {
    /// The gateway's own.
    Own(Full<Bytes>),
    /// From an HTTP/1.1 connection.
    Http1(Http1Body),
    /// From an HTTP/2 connection.
    Grpc(GrpcBody),
}

/// A body that drives its connection, and returns it to the endpoint's pool when it is complete.
pub(crate) struct Http1Body {
    /// The complete body, if it arrived together with the head.
    buffered: Option<Bytes>,
    connection: Option<Leased>,
    /// When the body must be complete.
    deadline: Option<Instant>,
    upstream: Arc<Upstream>,
}

/// A connection that belongs to one response.
struct Leased {
    connection: Box<Connection>,
    guard: InFlightGuard,
    worker: usize,
}

pub(crate) struct GrpcBody {
    body: Incoming,
    upstream: Arc<Upstream>,
    stream: http2::Stream,
    _guard: InFlightGuard,
}

/// Why a response body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResponseBodyError {
    #[error("the service did not send its complete response")]
    Http1(#[from] http1::Error),
    #[error("the service did not send its complete response")]
    Grpc(#[from] hyper::Error),
}

impl ResponseBody {
    pub(super) fn http1(
        mut connection: Box<Connection>,
        guard: InFlightGuard,
        worker: usize,
        upstream: Arc<Upstream>,
    ) -> Self {
        let complete = connection.take_buffered_body();
        let leased = Leased { connection, guard, worker };
        let (buffered, connection) = match complete {
            Some(body) => {
                leased.release();
                (Some(body).filter(|body| !body.is_empty()), None)
            }
            None => (None, Some(leased)),
        };
        Self::Http1(Http1Body { buffered, connection, deadline: None, upstream })
    }

    pub(super) fn grpc(body: Incoming, stream: http2::Stream, guard: InFlightGuard, upstream: Arc<Upstream>) -> Self {
        let mut body = GrpcBody { body, upstream, stream, _guard: guard };
        if body.body.is_end_stream() {
            body.stream.complete();
        }
        Self::Grpc(body)
    }

    /// Limits the time for the rest of the body.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        if let Self::Http1(body) = self {
            body.deadline = Some(deadline);
        }
    }

    /// Whether there is more of it, for an unlimited time.
    pub(super) fn is_unlimited(&self) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Http1(body) => body.deadline.is_none() && !body.is_end_stream(),
            Self::Grpc(body) => !body.body.is_end_stream(),
        }
    }

    /// Stops sending the request: another endpoint gets the rest.
    pub(super) fn abort_upload(&mut self) {
        if let Self::Http1(Http1Body { connection: Some(leased), .. }) = self {
            leased.connection.abort_upload();
        }
    }

    /// Replaces the body of the gateway's own response to HEAD by its length (RFC 9110, section 9.3.2). Over HTTP/2
    /// hyper would send it.
    pub(super) fn strip(mut response: Response<Self>) -> Response<Self> {
        if let Self::Own(body) = response.body()
            && let Some(length @ 1..) = body.size_hint().exact()
        {
            response.headers_mut().entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
            *response.body_mut() = Self::default();
        }
        response
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        Self::Own(Full::new(bytes))
    }
}

impl Default for ResponseBody {
    fn default() -> Self {
        Bytes::new().into()
    }
}

impl Leased {
    /// Returns the connection to the pool, unless it cannot be used again.
    fn release(self) {
        if let Some(connection) = self.connection.into_idle() {
            self.guard.endpoint().put_idle(self.worker, connection);
        }
    }
}

impl Http1Body {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, http1::Error>>> {
        if let Some(body) = self.buffered.take() {
            return Poll::Ready(Some(Ok(Frame::data(body))));
        }
        let Some(leased) = &mut self.connection else { return Poll::Ready(None) };
        let frame = ready!(leased.connection.poll_body(cx, self.deadline));
        match &frame {
            Some(Err(error)) => {
                if !error.is_of_client() {
                    self.upstream.metrics.count_error(error.kind());
                }
                self.connection = None;
            }
            Some(Ok(_)) if !leased.connection.is_body_complete() => {}
            Some(Ok(_)) | None => {
                if let Some(leased) = self.connection.take() {
                    leased.release();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.buffered.is_none() && self.connection.as_ref().is_none_or(|leased| leased.connection.is_body_complete())
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.buffered, &self.connection) {
            (Some(body), _) => SizeHint::with_exact(body.len() as u64),
            (None, Some(leased)) => leased.connection.body_size_hint(),
            (None, None) => SizeHint::with_exact(0),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Http1(body) => body.poll_frame(cx).map_err(ResponseBodyError::Http1),
            Self::Grpc(body) => {
                let frame = ready!(Pin::new(&mut body.body).poll_frame(cx));
                match &frame {
                    Some(Err(error)) => {
                        body.upstream.metrics.count_error(http2::kind(error));
                        body.stream.fail();
                    }
                    Some(Ok(frame)) if frame.is_data() && !body.body.is_end_stream() => {}
                    // The end, with trailers or without.
                    Some(Ok(_)) | None => body.stream.complete(),
                }
                Poll::Ready(frame.map(|frame| frame.map_err(ResponseBodyError::Grpc)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Http1(body) => body.is_end_stream(),
            Self::Grpc(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Http1(body) => body.size_hint(),
            Self::Grpc(body) => body.body.size_hint(),
        }
    }
}
