//! Connections to endpoints by HTTP/1.1.
//!
//! A connection has no task of its own: whoever waits for its answer, or reads its body, drives it, and so a request
//! wakes one task. It has buffers only while it has a request, so that one that is idle takes next to no memory.

mod answer;
mod head;
mod upload;

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
use http_body::Frame;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use runtime::ReusableTimer;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
    time::{self, Instant},
};
use tokio_util::io::poll_read_buf;

use super::outgoing::{Fault, Outgoing};
use crate::metrics::UpstreamError;
pub(super) use answer::Answer;
use head::{Head, Rest};
use upload::Upload;

/// A machine that is gone says nothing. One that was silent for so long, in seconds, is asked whether it is there, so
/// often at such intervals. There is no `TCP_USER_TIMEOUT` here: it takes for gone who is there and does not read for a
/// while, and counts instead of the number of questions. What is not asked is who has not acknowledged what was sent: for
/// that a request by HTTP/1.1 has its time limits, HTTP/2 has pings, and a tunnel a limit of its own.
const SILENT: u32 = 5;
const ASK_EVERY: u32 = 2;
const ASK_TIMES: u32 = 3;

/// How much is read at once, in bytes: at first, and at most, where there is always more.
const FIRST_READ: usize = 8 * 1024;
const LONGEST_READ: usize = 128 * 1024;

/// A connection; at any time at most one request is on it.
pub(super) struct Connection {
    stream: TcpStream,
    /// What was read and belongs to nobody yet.
    read: BytesMut,
    /// How much is read next.
    next_read: usize,
    /// The request, while not all of it is sent.
    upload: Option<Box<Upload>>,
    /// What is still to come of the answer.
    rest: Rest,
    /// Whether another request may follow.
    is_kept: bool,
    alarm: ReusableTimer,
}

/// Why there is no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the connection was closed before the end of the answer")]
    Closed,
    #[error("it answered what is no HTTP: {0}")]
    Protocol(&'static str),
    #[error("it did not come in time")]
    Timeout,
    #[error("the client did not take all of it in time")]
    Unread,
    #[error("the request could not be read")]
    Request(#[from] Fault),
}

impl Error {
    /// What it is called in the metrics.
    pub(super) fn kind(&self) -> UpstreamError {
        match self {
            Self::Protocol(_) => UpstreamError::Protocol,
            Self::Timeout | Self::Unread => UpstreamError::Timeout,
            Self::Io(_) | Self::Closed | Self::Request(_) => UpstreamError::Reset,
        }
    }

    /// Whether the endpoint has no part in it.
    pub(super) fn is_of_client(&self) -> bool {
        matches!(self, Self::Unread | Self::Request(_))
    }
}

/// How long an answer is waited for.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// When it has to begin, if all of the request is sent at once.
    pub(super) until: Instant,
    /// How long it may take to begin once the request is sent, or to take more of that.
    pub(super) header: Duration,
    /// When all has to be over.
    pub(super) total: Instant,
}

/// Why a request has no answer.
pub(super) enum Failure {
    /// Nothing of it was sent; its body is as it was.
    NotSent(Error),
    /// It was sent, or some of it.
    Sent(Error),
}

/// Connects, within a time.
pub(super) async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = time::timeout(limit, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &SILENT)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &ASK_EVERY)?;
    setsockopt(&stream, sockopt::TcpKeepCount, &ASK_TIMES)?;
    Ok(stream)
}

impl Connection {
    pub(super) async fn open(address: SocketAddr, limit: Duration) -> io::Result<Box<Self>> {
        Ok(Box::new(Self {
            stream: connect(address, limit).await?,
            read: BytesMut::new(),
            next_read: FIRST_READ,
            upload: None,
            rest: Rest::Nothing,
            is_kept: true,
            alarm: ReusableTimer::new(Instant::now() + limit),
        }))
    }

    /// Whether a connection that was idle is still of use: one has nothing to read but its end. `closely`: also what the
    /// kernel has and nobody was told of yet is looked at, which costs a system call.
    pub(super) fn is_alive(&self, closely: bool) -> bool {
        let is_silent = |read: io::Result<usize>| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        let peek = || recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        let has_ended = !is_silent(self.stream.try_read(&mut [0]));
        !has_ended && (!closely || is_silent(peek().map_err(io::Error::from)))
    }

    /// Sends a request and waits for the head of its answer; the rest of the request goes while the answer is read. The
    /// time begins anew whenever more of the request was sent: who sends it may be slow, and goes on.
    pub(super) async fn send(
        &mut self,
        head: &request::Parts,
        body: Outgoing,
        limits: Limits,
    ) -> Result<response::Parts, Failure> {
        let upload = Upload::new(head, body);
        self.is_kept &= !upload.is_last();
        self.upload = Some(Box::new(upload));
        // A request that is sent at once, as most are, needs no second look at the clock.
        let (mut until, mut was_sending) = (limits.until, false);
        poll_fn(|cx| {
            let answer = self.poll_answer(cx, head);
            if answer.is_ready() {
                return answer;
            }
            let has_moved = self.upload.as_mut().is_none_or(|upload| upload.has_moved());
            if mem::replace(&mut was_sending, self.upload.is_some()) && has_moved {
                until = limits.total.min(Instant::now() + limits.header);
            }
            ready!(self.alarm.poll(cx, until));
            Poll::Ready(Err(Failure::Sent(self.overdue())))
        })
        .await
    }

    /// Whose fault it is that the time is over.
    fn overdue(&self) -> Error {
        let waiting = self.upload.as_ref().filter(|upload| upload.waits_for_client());
        waiting.map_or(Error::Timeout, |upload| upload.give_up(Fault::Slow).into())
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        request: &request::Parts,
    ) -> Poll<Result<response::Parts, Failure>> {
        if let Err(error) = self.poll_upload(cx) {
            return Poll::Ready(Err(match self.upload.take() {
                // Where the body itself is at fault, another connection is no help.
                Some(upload) if !upload.has_begun() && !matches!(error, Error::Request(_)) => {
                    upload.give_back();
                    Failure::NotSent(error)
                }
                _ => Failure::Sent(error),
            }));
        }
        loop {
            if let Some(head) = ready!(self.poll_head(cx, &request.method)).map_err(Failure::Sent)? {
                self.rest = head.rest;
                self.is_kept &= head.is_kept;
                return Poll::Ready(Ok(head.parts));
            }
        }
    }

    /// Reads, and returns the head of the answer once it is there.
    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Option<Head>, Error>> {
        // Most answers come whole, and are short: what is needed of them is copied, and no buffer is made.
        let mut space = [MaybeUninit::uninit(); FIRST_READ];
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
        while let Some((head, end)) = head::parse(&read[length..], method)? {
            length += end;
            // Others follow it (RFC 9110, section 15.2).
            if !is_interim(head.parts.status) {
                found = Some(head);
                break;
            }
        }
        if self.read.is_empty() {
            self.read = BytesMut::from(&read[length..]);
        } else {
            self.read.advance(length);
        }
        Poll::Ready(Ok(found))
    }

    /// Sends what there is to send.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        match upload.poll(cx, &mut self.stream) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.upload = None;
                Ok(())
            }
            // An endpoint that wants no more of it may have answered before it closed.
            Poll::Ready(Err(Error::Io(_))) if upload.has_begun() => {
                (self.upload, self.is_kept) = (None, false);
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        self.read.reserve(self.next_read);
        let count = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read))?;
        if count >= self.next_read {
            self.next_read = (self.next_read * 2).min(LONGEST_READ);
        }
        Poll::Ready(Ok(count))
    }

    /// Reads a part of the answer's body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.poll_upload(cx)?;
        loop {
            if let Some(frame) = self.rest.take(&mut self.read)? {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.rest.is_nothing() {
                return Poll::Ready(None);
            }
            if ready!(self.poll_read(cx))? == 0 {
                let ended = self.rest.ends_with_connection().then_some(()).ok_or(Error::Closed);
                return Poll::Ready(ended.err().map(Err));
            }
        }
    }

    /// After an answer: the connection, without its buffers, if another request may follow. One that has more to read
    /// than the answer is nothing to rely on, and one that is still sending has no use for the rest.
    fn into_idle(mut self: Box<Self>) -> Option<Box<Self>> {
        let is_idle = self.is_kept && self.upload.is_none() && self.rest.is_nothing() && self.read.is_empty();
        (self.read, self.next_read) = (BytesMut::new(), FIRST_READ);
        is_idle.then_some(self)
    }

    /// After an answer of 101: the connection itself, and what was read of it beyond the answer.
    pub(super) fn into_stream(self) -> (TcpStream, Bytes) {
        (self.stream, self.read.freeze())
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
