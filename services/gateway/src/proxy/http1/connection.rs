//! A connection to an endpoint, which has at most one request at a time.

use std::{
    future::poll_fn,
    io,
    mem::{self, MaybeUninit},
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode, request, response};
use http_body::{Frame, SizeHint};
use nix::sys::socket::{MsgFlags, recv};
use runtime::ReusableTimer;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_util::io::poll_read_buf;

use super::{
    error::{Deadlines, Error, SendError},
    request::RequestWriter,
    response::{self as parser, Remaining, ResponseHead},
};
use crate::proxy::{
    connect::connect,
    replayable_body::{RequestBodyError, UpstreamBody},
};

/// How much is read at once, in bytes: at first, and at most, while the endpoint keeps the socket full. A client that
/// reads slowly costs the gateway up to four times as much.
const MIN_READ: usize = 8 * 1024;
const MAX_READ: usize = 16 * 1024;

/// A request of up to this many bytes has left the kernel when its response arrives.
const SENT_AT_ONCE: usize = 16 * 1024;

/// With less room than this in the buffer, another one is allocated. Small pieces of a response share a buffer, so that
/// each does not keep one of its own from being freed.
const MIN_ROOM: usize = 2 * 1024;

pub(in crate::proxy) struct Connection {
    stream: TcpStream,
    /// Bytes that were read and not yet consumed.
    read: BytesMut,
    /// How much to read next time.
    next_read: usize,
    /// The request, until all of it is sent.
    request: Option<Box<RequestWriter>>,
    /// The length of the interim responses so far.
    interim: usize,
    /// How much of the response body is still to come.
    remaining: Remaining,
    /// Whether another request may follow.
    keep_alive: bool,
    /// Whether the connection is reset when it is dropped, instead of closed in the usual way.
    resets: bool,
    /// Whether the kernel may still hold a part of the request, although all of it was written.
    may_be_unsent: bool,
    timer: ReusableTimer,
}

impl Connection {
    pub(in crate::proxy) async fn open(address: SocketAddr, timeout: Duration) -> io::Result<Box<Self>> {
        Ok(Box::new(Self {
            stream: connect(address, timeout).await?,
            read: BytesMut::new(),
            next_read: MIN_READ,
            request: None,
            interim: 0,
            remaining: Remaining::None,
            keep_alive: true,
            resets: true,
            may_be_unsent: false,
            timer: ReusableTimer::new(Instant::now() + timeout),
        }))
    }

    /// Whether an idle connection can still be used, that is, whether nothing can be read from it: the end of the
    /// stream and unsolicited bytes both make it unusable. With `ask_kernel` a system call also finds out what the
    /// runtime has not been notified of yet.
    pub(in crate::proxy) fn is_open(&self, ask_kernel: bool) -> bool {
        let is_silent = |read: io::Result<usize>| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        is_silent(self.stream.try_read(&mut [0])) && (!ask_kernel || is_silent(self.peek()))
    }

    /// Asks the kernel what can be read. 0 is the end of the stream.
    fn peek(&self) -> io::Result<usize> {
        Ok(recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?)
    }

    /// Sends a request and waits for the head of its response. The rest of the request is sent while the response is
    /// read.
    ///
    /// The head deadline is extended whenever more of the request is sent, so that a slow client is not cut off.
    pub(in crate::proxy) async fn send(
        &mut self,
        head: &request::Parts,
        body: UpstreamBody,
        deadlines: Deadlines,
    ) -> Result<response::Parts, SendError> {
        let request = RequestWriter::new(head, body);
        (self.resets, self.may_be_unsent) = (true, false);
        self.keep_alive &= !request.closes_connection();
        (self.request, self.interim) = (Some(Box::new(request)), 0);
        // Most requests are sent at once, and need not read the clock again.
        let (mut deadline, mut was_sending) = (deadlines.head, false);
        poll_fn(|cx| {
            let response = self.poll_response(cx, head);
            if response.is_ready() {
                return response;
            }
            let has_progressed = self.request.as_mut().is_none_or(|request| request.take_progress());
            if mem::replace(&mut was_sending, self.request.is_some()) && has_progressed {
                deadline = deadlines.total.min(Instant::now() + deadlines.header);
            }
            ready!(self.timer.poll(cx, deadline));
            Poll::Ready(Err(SendError::Sent(self.time_out())))
        })
        .await
    }

    /// The error to report when time is up. If the request body is overdue, the client is the cause.
    fn time_out(&self) -> Error {
        let waiting = self.request.as_ref().filter(|request| request.waits_for_client());
        waiting.map_or(Error::Timeout, |request| {
            request.fail(RequestBodyError::Timeout);
            RequestBodyError::Timeout.into()
        })
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        request: &request::Parts,
    ) -> Poll<Result<response::Parts, SendError>> {
        if let Err(error) = self.poll_request(cx) {
            return Poll::Ready(Err(match self.request.take() {
                // If the body is at fault, another connection does not help.
                Some(request) if !request.has_started() && !matches!(error, Error::Request(_)) => {
                    request.unread();
                    SendError::Unsent(error)
                }
                _ => SendError::Sent(error),
            }));
        }
        loop {
            if let Some(head) = ready!(self.poll_head(cx, &request.method)).map_err(SendError::Sent)? {
                self.remaining = head.remaining;
                self.keep_alive &= head.keep_alive;
                return Poll::Ready(Ok(head.parts));
            }
        }
    }

    /// Reads once, and returns the head of the final response when it is complete.
    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Option<ResponseHead>, Error>> {
        // Most responses are short and arrive at once. Parsing them on the stack saves a buffer.
        let mut space = [MaybeUninit::uninit(); MIN_READ];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let mut read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Err(Error::Closed));
        }
        if !self.read.is_empty() {
            self.read.extend_from_slice(read);
            read = &self.read;
        }
        let (mut found, mut length) = (None, 0);
        while let Some((head, end)) = parser::parse(&read[length..], method)? {
            length += end;
            // A final response follows interim ones (RFC 9110, section 15.2).
            if !is_interim(head.parts.status) {
                found = Some(head);
                break;
            }
            self.interim += end;
            if self.interim > parser::MAX_HEAD {
                return Poll::Ready(Err(Error::Protocol("too many interim responses")));
            }
        }
        if self.read.is_empty() {
            self.read = BytesMut::from(&read[length..]);
        } else {
            self.read.advance(length);
        }
        Poll::Ready(Ok(found))
    }

    /// Sends as much of the request as possible.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let Some(request) = &mut self.request else { return Ok(()) };
        match request.poll(cx, &mut self.stream) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.may_be_unsent = request.written() > SENT_AT_ONCE;
                self.request = None;
                Ok(())
            }
            // An endpoint that does not want the rest may have responded before it closed the connection.
            Poll::Ready(Err(Error::Io(_))) if request.has_started() => {
                (self.request, self.keep_alive) = (None, false);
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        if self.read.capacity() - self.read.len() < MIN_ROOM {
            self.read.reserve(self.next_read);
        }
        let count = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read))?;
        if count >= self.next_read {
            self.next_read = (self.next_read * 2).min(MAX_READ);
        }
        Poll::Ready(Ok(count))
    }

    /// Takes the response body if the request is sent and all of the body was read together with the head.
    pub(in crate::proxy) fn take_buffered_body(&mut self) -> Option<Bytes> {
        let length = self.remaining.length()?;
        if self.request.is_some() || self.read.len() < length {
            return None;
        }
        self.remaining = Remaining::None;
        Some(match &mut self.read {
            _ if length == 0 => Bytes::new(),
            // Usually nothing follows, so the buffer need not be shared.
            read if read.len() == length => mem::take(read).freeze(),
            read => read.split_to(length).freeze(),
        })
    }

    /// Reads a frame of the response body, while the rest of the request is sent.
    pub(in crate::proxy) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = self.poll_frame(cx);
        let Some(deadline) = deadline else { return frame };
        match &frame {
            Poll::Pending if self.timer.poll(cx, deadline).is_ready() => Poll::Ready(Some(Err(self.time_out()))),
            // With a slow client there is always more to read, and the timer is never polled.
            Poll::Ready(Some(Ok(_))) if !self.is_body_complete() && Instant::now() >= deadline => {
                Poll::Ready(Some(Err(Error::SlowReader)))
            }
            _ => frame,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.poll_request(cx)?;
        loop {
            if let Some(frame) = self.remaining.take_frame(&mut self.read)? {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.is_body_complete() {
                return Poll::Ready(None);
            }
            if ready!(self.poll_read(cx))? == 0 {
                let ended = self.remaining.ends_with_connection().then_some(()).ok_or(Error::Closed);
                return Poll::Ready(ended.err().map(Err));
            }
        }
    }

    pub(in crate::proxy) fn is_body_complete(&self) -> bool {
        self.remaining.is_none()
    }

    pub(in crate::proxy) fn body_size_hint(&self) -> SizeHint {
        self.remaining.size_hint()
    }

    /// Stops sending the request, after which the connection cannot be used for another one.
    pub(in crate::proxy) fn abort_upload(&mut self) {
        if self.request.take().is_some() {
            self.keep_alive = false;
        }
    }

    /// After a response: the connection without its buffers, if another request may follow. It must not if there is
    /// more to read than the response, or if the request was not sent completely.
    pub(in crate::proxy) fn into_idle(mut self: Box<Self>) -> Option<Box<Self>> {
        let is_idle = self.keep_alive && self.request.is_none() && self.is_body_complete() && self.read.is_empty();
        (self.read, self.next_read) = (BytesMut::new(), MIN_READ);
        is_idle.then_some(self)
    }

    /// Makes the connection close in the usual way while it is idle. Its service is waiting for a request, and may take
    /// a reset for an error.
    pub(in crate::proxy) fn set_idle(&mut self) {
        self.resets = false;
    }

    /// After a response of 101: the stream, which is closed in the usual way, and what was read beyond the response.
    pub(in crate::proxy) fn upgrade(&mut self) -> (&mut TcpStream, Bytes) {
        self.resets = false;
        (&mut self.stream, mem::take(&mut self.read).freeze())
    }
}

/// A connection that is dropped while it is in use is reset: after a response that no other may follow, or when the
/// client or the endpoint fails. If it were closed in the usual way, its local port would be in `TIME_WAIT` for a
/// minute, and a client could use up all ports, with HEAD for instance, or with requests that it aborts. Nothing is
/// lost by a reset, since the response is complete or nobody waits for it. Only of a large request the kernel may still
/// hold a part, which a reset would discard, although the service has accepted it with an early response. If the
/// endpoint has closed the connection, there is no `TIME_WAIT` on this side.
impl Drop for Connection {
    fn drop(&mut self) {
        let may_lose = self.may_be_unsent && self.is_body_complete();
        if self.resets && !may_lose && !matches!(self.peek(), Ok(0)) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
