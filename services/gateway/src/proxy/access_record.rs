//! Observes an exchange, and reports it when the response has ended: in the access log, metrics and a span.

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
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use http_body::{Body, Frame, SizeHint};
use identity::{Caller, Refusal};
use runtime::{Problem, TRACEPARENT, request};
use tracing::Span;

use super::{
    endpoint::Endpoint, in_flight::Counted, replayable_body::ReplayableBody, route_table::Route, state::Proxy,
};
use crate::{
    access_log::write_string,
    auth::{Denial, LeaseEnd, Origin},
    policy::Client,
    protocol::Protocol,
};

/// The status that is logged if the client goes away before the response starts, as in nginx.
const CLIENT_CLOSED: u16 = 499;

/// How much of a method is logged, in bytes. Longer ones are refused.
pub(super) const MAX_METHOD: usize = 32;

/// What is reported about an exchange when this is dropped, which is when the response has been sent or
/// abandoned.
pub(super) struct AccessRecord {
    proxy: Arc<Proxy>,
    worker: usize,
    started: Instant,
    method: Method,
    uri: Uri,
    version: Version,
    client: IpAddr,
    pub(super) request_id: HeaderValue,
    traceparent: Option<HeaderValue>,
    span: Span,
    pub(super) route: Option<Arc<Route>>,
    /// Who sent the request, as a verified token says.
    pub(super) caller: Option<Arc<Caller>>,
    /// Why the request was not let in.
    denial: Option<Box<Denial>>,
    /// The endpoint of the last attempt, or of the response.
    pub(super) endpoint: Option<Arc<Endpoint>>,
    pub(super) retries: u32,
    status: Option<StatusCode>,
    bytes: u64,
    complete: bool,
    in_flight: Option<Counted>,
    omits_content: bool,
}

impl AccessRecord {
    pub(super) fn begin(
        proxy: Arc<Proxy>,
        worker: usize,
        parts: &http::request::Parts,
        client: &Client,
        request_id: HeaderValue,
    ) -> Box<Self> {
        let in_flight = Some(proxy.in_flight.enter(client));
        Box::new(Self {
            proxy,
            worker,
            started: Instant::now(),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            client: client.address,
            request_id,
            traceparent: None,
            span: Span::none(),
            route: None,
            caller: None,
            denial: None,
            endpoint: None,
            retries: 0,
            status: None,
            bytes: 0,
            complete: false,
            in_flight,
            omits_content: false,
        })
    }

    pub(super) fn worker(&self) -> usize {
        self.worker
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Makes the request part of a trace, and puts the trace into its headers.
    pub(super) fn trace(&mut self, headers: &mut HeaderMap) {
        let (method, route) =
            (request::method_label(&self.method), self.route.as_ref().map_or("", |route| &route.path));
        self.span = request::relay_span(self.uri.path(), headers, method, route, &self.request_id);
        self.traceparent = headers.get(TRACEPARENT).cloned();
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    pub(super) fn set_status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Counts bytes sent to the client.
    pub(super) fn add_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Marks the response as sent completely.
    pub(super) fn set_complete(&mut self) {
        self.complete = true;
    }

    /// Refuses a request that may become a tunnel if there are too many of them.
    pub(super) fn check_tunnel(&mut self) -> Result<(), Problem> {
        self.in_flight.as_mut().map_or(Ok(()), |counted| self.proxy.in_flight.check_tunnel(counted))
    }

    /// Counts what is unread of the request's body, and refuses it if too much is unread already.
    pub(super) fn count_unread(&self, body: &ReplayableBody) -> Result<(), Problem> {
        let Some(counted) = &self.in_flight else { return Ok(()) };
        let fits = body.count_unread(|length| self.proxy.in_flight.unread(counted, length));
        if fits { Ok(()) } else { Err(too_much_unread()) }
    }

    /// Stops counting the request as in flight: a tunnel may last for hours.
    pub(super) fn become_tunnel(&mut self) {
        if let Some(counted) = &mut self.in_flight {
            self.proxy.in_flight.become_tunnel(counted);
        }
    }

    /// Refuses the request if too many are in flight.
    pub(super) fn check_load(&mut self) -> Result<(), Problem> {
        let checked = self.in_flight.as_mut().map_or(Ok(()), |counted| self.proxy.in_flight.check(counted));
        checked.map_err(|refusal| {
            self.omits_content = !refusal.has_content;
            *refusal.problem
        })
    }

    /// Records that the request is refused because of who sent it, or that what it began is ended. Returns the response.
    pub(super) fn deny(&mut self, denial: Denial) -> Problem {
        if let Some(caller) = denial.caller() {
            self.caller = Some(caller.clone());
        }
        let (service, route) = self.route.as_ref().map_or(("", ""), |route| (&*route.upstream.name, &*route.path));
        let origin = Origin {
            caller: self.caller.as_deref(),
            address: self.client,
            service,
            route,
            request_id: self.request_id.to_str().unwrap_or_default(),
        };
        self.proxy.authenticator.record(&denial, &origin);
        let problem = denial.problem();
        self.denial = Some(Box::new(denial));
        problem
    }

    /// Whether the response has no content, because the client does not read its refusals.
    pub(super) fn omits_content(&self) -> bool {
        self.omits_content
    }

    /// The last phase of an exchange: reports it.
    fn log(&mut self) {
        if let Some(counted) = self.in_flight.take() {
            self.proxy.in_flight.leave(&counted);
        }
        let duration = self.started.elapsed();
        let status = self.status.or(StatusCode::from_u16(CLIENT_CLOSED).ok()).unwrap_or_default();
        let metrics = self.route.as_ref().map_or(&self.proxy.unmatched, |route| &route.metrics);
        metrics.observe(&self.method, status, duration);
        if !self.span.is_disabled() {
            request::record_status(&self.span, status);
        }
        if let Some(log) = &self.proxy.access_log {
            log.line(self.worker, |line, time| self.write(line, time, duration));
        }
    }

    fn write(&self, line: &mut Vec<u8>, time: &[u8], duration: Duration) {
        let text = |line: &mut Vec<u8>, name: &str, value: &[u8]| {
            line.extend_from_slice(name.as_bytes());
            write_string(line, value);
        };
        let method = self.method.as_str().as_bytes();
        let method = method.get(..MAX_METHOD).unwrap_or(method);
        text(line, "{\"timestamp\":", time);
        text(line, ",\"level\":\"INFO\",\"message\":\"access\",\"method\":", method);
        text(line, ",\"path\":", request::shown_path(self.uri.path()).as_bytes());
        let status = self.status.map_or(CLIENT_CLOSED, |status| status.as_u16());
        let (seconds, micros) = (duration.as_secs(), duration.subsec_micros());
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
        if let Some(caller) = &self.caller {
            text(line, ",\"subject\":", caller.subject().as_bytes());
        }
        if let Some(denial) = &self.denial {
            text(line, ",\"denial\":", denial.to_string().as_bytes());
        }
        if let Some(endpoint) = &self.endpoint {
            text(line, ",\"upstream\":", endpoint.label.as_bytes());
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

/// The response to a request that there is no room for.
pub(super) fn too_much_unread() -> Problem {
    Problem::unavailable("too much of what clients have sent is not read by services; try again in a moment")
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        self.log();
    }
}

/// The body of a response, with its record. The server drops the body when the client has read it, or has made room
/// for all of it, so until then the request counts as in flight.
pub(crate) struct RecordedBody<B> {
    body: B,
    record: Option<Box<AccessRecord>>,
    /// When the body must end, if it is sent because of a token.
    lease: Option<LeaseEnd>,
    protocol: Protocol,
    /// Whether the body was ended.
    is_over: bool,
}

impl<B> RecordedBody<B> {
    pub(super) fn new(body: B, record: Box<AccessRecord>, lease: Option<LeaseEnd>, protocol: Protocol) -> Self
    where
        B: Body,
    {
        let mut recorded = Self { body, record: Some(record), lease, protocol, is_over: false };
        if recorded.body.is_end_stream() {
            recorded.end();
        }
        recorded
    }

    /// A body whose record something else has taken over, such as a tunnel.
    pub(super) fn unrecorded(body: B) -> Self {
        Self { body, record: None, lease: None, protocol: Protocol::Http, is_over: false }
    }

    /// Ends the body because the token is no longer accepted. A gRPC call gets a status, anything else is cut off.
    fn end_early<E: From<Refusal>>(&mut self, refusal: Refusal) -> Result<Frame<Bytes>, E> {
        (self.is_over, self.lease) = (true, None);
        let problem = self.record.as_mut().map(|record| record.deny(refusal.clone().into()));
        if !self.protocol.is_grpc() {
            return Err(refusal.into());
        }
        let problem = problem.unwrap_or_else(|| refusal.into());
        let mut trailers = problem.into_grpc::<()>().into_parts().0.headers;
        trailers.remove(header::CONTENT_TYPE);
        Ok(Frame::trailers(trailers))
    }

    fn end(&mut self) {
        if let Some(record) = &mut self.record {
            record.set_complete();
        }
    }
}

impl<B> Body for RecordedBody<B>
where
    B: Body<Data = Bytes, Error = Box<dyn Error + Send + Sync>> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        if let Some(lease) = &mut this.lease
            && let Poll::Ready(refusal) = lease.as_mut().poll(cx)
        {
            return Poll::Ready(Some(this.end_early(refusal)));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(record), Some(data)) = (&mut this.record, frame.data_ref()) {
                    record.add_bytes(data.len() as u64);
                }
                if this.body.is_end_stream() {
                    this.end();
                }
            }
            Some(Err(error)) => tracing::debug!(%error, "response ended early"),
            None => this.end(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
