//! What is noted of a request, and told when its answer has ended: a line of the access log, its metrics, its span.

use std::{
    error::Error,
    io::Write,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use runtime::{TRACEPARENT, request};
use tracing::Span;

use super::{Proxy, endpoint::Endpoint, table::Route};
use crate::access_log::write_string;

/// The status of a request whose client went away before there was an answer, as nginx has it.
const CLIENT_CLOSED: u16 = 499;

/// A request, from its head to the end of its answer, whatever that is.
pub(super) struct Record {
    proxy: Arc<Proxy>,
    worker: usize,
    begun: Instant,
    method: Method,
    uri: Uri,
    version: Version,
    client: IpAddr,
    pub(super) request_id: HeaderValue,
    traceparent: Option<HeaderValue>,
    span: Span,
    pub(super) route: Option<Arc<Route>>,
    pub(super) upstream: Option<Arc<Endpoint>>,
    pub(super) retries: u32,
    status: Option<StatusCode>,
    bytes: u64,
    complete: bool,
    in_flight: bool,
}

impl Record {
    pub(super) fn begin(
        proxy: Arc<Proxy>,
        worker: usize,
        parts: &http::request::Parts,
        client: IpAddr,
        request_id: HeaderValue,
    ) -> Box<Self> {
        proxy.metrics.in_flight.inc();
        Box::new(Self {
            proxy,
            worker,
            begun: Instant::now(),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            client,
            request_id,
            traceparent: None,
            span: Span::none(),
            route: None,
            upstream: None,
            retries: 0,
            status: None,
            bytes: 0,
            complete: false,
            in_flight: true,
        })
    }

    pub(super) fn worker(&self) -> usize {
        self.worker
    }

    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// Makes the request part of a trace, by its headers.
    pub(super) fn trace(&mut self, headers: &mut HeaderMap) {
        let (method, route) =
            (request::method_label(&self.method), self.route.as_ref().map_or("", |route| &route.path));
        self.span = request::relay_span(self.uri.path(), headers, method, route, &self.request_id);
        self.traceparent = headers.get(TRACEPARENT).cloned();
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Notes bytes that went to the client.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// All of the answer was sent.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// Counts it no longer among the requests in flight: it may go on for hours.
    pub(super) fn leave_flight(&mut self) {
        if std::mem::take(&mut self.in_flight) {
            self.proxy.metrics.in_flight.dec();
        }
    }

    fn write(&self, line: &mut Vec<u8>, time: &[u8], taken: Duration) {
        let text = |line: &mut Vec<u8>, name: &str, value: &[u8]| {
            line.extend_from_slice(name.as_bytes());
            write_string(line, value);
        };
        text(line, "{\"timestamp\":", time);
        text(line, ",\"level\":\"INFO\",\"message\":\"access\",\"method\":", self.method.as_str().as_bytes());
        text(line, ",\"path\":", self.uri.path().as_bytes());
        let status = self.status.map_or(CLIENT_CLOSED, |status| status.as_u16());
        let (seconds, micros) = (taken.as_secs(), taken.subsec_micros());
        let _ = write!(line, ",\"status\":{status},\"duration\":{seconds}.{micros:06}");
        let _ = write!(line, ",\"bytes\":{},\"client\":\"{}\"", self.bytes, self.client);
        let version = match self.version {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        };
        let _ = write!(line, ",\"protocol\":\"HTTP/{version}\"");
        if let Some(route) = &self.route {
            text(line, ",\"service\":", route.upstream.name.as_bytes());
            text(line, ",\"route\":", route.path.as_bytes());
        }
        if let Some(upstream) = &self.upstream {
            text(line, ",\"upstream\":", upstream.label.as_bytes());
            let _ = write!(line, ",\"retries\":{}", self.retries);
        }
        text(line, ",\"request_id\":", self.request_id.as_bytes());
        if let Some(trace) = self.traceparent.as_ref().and_then(|value| value.as_bytes().get(3..35)) {
            text(line, ",\"trace_id\":", trace);
        }
        if !self.complete {
            line.extend_from_slice(b",\"complete\":false");
        }
        line.push(b'}');
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.leave_flight();
        let taken = self.begun.elapsed();
        let status = self.status.or(StatusCode::from_u16(CLIENT_CLOSED).ok()).unwrap_or_default();
        let route = self.route.as_ref().map_or(&self.proxy.unmatched, |route| &route.metrics);
        route.answered(&self.method, status, taken);
        if !self.span.is_disabled() {
            request::record_status(&self.span, status);
        }
        if let Some(log) = &self.proxy.access_log {
            log.line(self.worker, |line, time| self.write(line, time, taken));
        }
    }
}

/// The body of an answer, whose end is that of its record.
pub(crate) struct Recorded<B> {
    body: B,
    record: Option<Box<Record>>,
}

impl<B> Recorded<B> {
    pub(super) fn new(body: B, record: Option<Box<Record>>) -> Self
    where
        B: Body,
    {
        let mut recorded = Self { body, record };
        if recorded.body.is_end_stream() {
            recorded.end();
        }
        recorded
    }

    fn end(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.complete();
        }
    }
}

impl<B> Body for Recorded<B>
where
    B: Body<Data = Bytes, Error = Box<dyn Error + Send + Sync>> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(record), Some(data)) = (&mut this.record, frame.data_ref()) {
                    record.sent(data.len() as u64);
                }
                if this.body.is_end_stream() {
                    this.end();
                }
            }
            Some(Err(error)) => tracing::debug!(%error, "an answer has ended before its end"),
            None => this.end(),
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
