//! Records a call when it ends. Its code is in the trailers, after the messages.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tonic::Code;
use tracing::Span;

use super::{
    call::{self, Method},
    metrics::Calls,
};

/// A call in progress. If it is dropped before its code is known, it counts as cancelled: the caller disconnected.
pub(super) struct Record {
    pub(super) calls: Calls,
    pub(super) method: Method,
    pub(super) span: Span,
    started: Instant,
    code: Code,
}

impl Record {
    pub(super) fn begin(calls: &Calls, method: Method, span: Span) -> Self {
        Self { calls: calls.clone(), method, span, started: Instant::now(), code: Code::Cancelled }
    }

    pub(super) fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.calls.ended(&self.method, self.code, self.started.elapsed());
        self.span.record("rpc.grpc.status_code", i64::from(i32::from(self.code)));
        if call::is_failure(self.code) {
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

/// A response body that ends the record.
pub(super) struct Recorded {
    body: Body,
    record: Option<Record>,
}

impl Recorded {
    pub(super) fn new(body: Body, record: Record) -> Self {
        Self { body, record: Some(record) }
    }
}

impl hyper::body::Body for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let code = match &frame {
            Some(Ok(frame)) => frame.trailers_ref().map(|trailers| call::code(trailers).unwrap_or(Code::Unknown)),
            // Without trailers, callers reject the response.
            Some(Err(_)) | None => Some(Code::Unknown),
        };
        if let Some(code) = code
            && let Some(record) = self.record.take()
        {
            record.end(code);
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
