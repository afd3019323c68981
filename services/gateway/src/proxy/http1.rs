//! Connections to endpoints by HTTP/1.1.
//!
//! A connection has no task of its own: whoever waits for its answer, or reads its body, drives it. So a request wakes
//! one task and not three, and a connection that is idle costs nothing until it is looked at again.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsRawFd, RawFd},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt::TcpUserTimeout};
use tokio::{net::TcpStream, time};

use super::{endpoint::Lease, outgoing::Outgoing};
use crate::metrics::UpstreamError;

/// How long what was sent may go unacknowledged, in milliseconds: a machine that is gone says nothing.
const UNACKNOWLEDGED: u32 = 5_000;

/// The longest head of an answer, in bytes, and the most headers in it.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 200;

/// A connection; at any time at most one request is on it.
pub(super) struct Connection {
    sender: SendRequest<Outgoing>,
    http: http1::Connection<TokioIo<TcpStream>, Outgoing>,
    socket: RawFd,
    ended: bool,
}

/// Why there is no answer.
pub(super) enum Failure {
    /// Nothing was sent: here is the request again.
    NotSent(Box<Request<Outgoing>>),
    /// The request, or some of it, was sent.
    Sent(hyper::Error),
}

/// Connects, within a time.
pub(super) async fn connect(address: std::net::SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = time::timeout(limit, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    setsockopt(&stream, TcpUserTimeout, &UNACKNOWLEDGED)?;
    Ok(stream)
}

/// What an error of hyper's is called in the metrics.
pub(super) fn kind(error: &hyper::Error) -> UpstreamError {
    if error.is_parse() { UpstreamError::Protocol } else { UpstreamError::Reset }
}

impl Connection {
    pub(super) async fn open(address: std::net::SocketAddr, limit: Duration) -> io::Result<Box<Self>> {
        let stream = connect(address, limit).await?;
        let socket = stream.as_raw_fd();
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_HEAD).max_headers(MAX_HEADERS);
        let (sender, http) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Box::new(Self { sender, http, socket, ended: false }))
    }

    /// Whether a connection that was idle is still of use. `closely`: also what the kernel has and nobody was told of
    /// yet is looked at, which costs a system call.
    pub(super) async fn is_alive(&mut self, closely: bool) -> bool {
        let polled = poll_fn(|cx| Poll::Ready(self.poll(cx))).await;
        polled.is_pending() && self.sender.is_ready() && !(closely && self.has_something_to_read())
    }

    /// An idle connection has nothing to read but its end.
    fn has_something_to_read(&self) -> bool {
        // While `http` has its socket, this number is that socket's.
        let read = recv(self.socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        read != Err(nix::errno::Errno::EAGAIN)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ended {
            // An error comes to the request too.
            let _ = ready!(self.http.poll_without_shutdown(cx));
            self.ended = true;
        }
        Poll::Ready(())
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, Failure> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let answer = poll_fn(|cx| {
            // In this order: the answer is there once the connection was driven.
            let _ = self.poll(cx);
            answer.as_mut().poll(cx)
        });
        answer.await.map_err(|mut error| match error.take_message() {
            Some(request) => Failure::NotSent(Box::new(request)),
            None => Failure::Sent(error.into_error()),
        })
    }

    /// After an answer of 101: the connection itself, and what was read of it beyond the answer.
    pub(super) async fn into_stream(mut self: Box<Self>) -> (TcpStream, Bytes) {
        poll_fn(|cx| self.poll(cx)).await;
        let parts = self.http.into_parts();
        (parts.io.into_inner(), parts.read_buf)
    }
}

/// The body of an answer, which drives its connection, and gives it back at the end.
pub(super) struct Answer {
    body: Incoming,
    connection: Option<Box<Connection>>,
    lease: Option<Lease>,
    worker: usize,
}

impl Answer {
    pub(super) fn new(body: Incoming, connection: Box<Connection>, lease: Lease, worker: usize) -> Self {
        Self { body, connection: Some(connection), lease: Some(lease), worker }
    }

    /// To be called when there is an answer, before it is passed on: one without a body has no end to be noticed.
    pub(super) async fn begin(&mut self) {
        if self.body.is_end_stream() {
            poll_fn(|cx| {
                self.finish(cx);
                Poll::Ready(())
            })
            .await;
        }
    }

    /// The body is there in full.
    fn finish(&mut self, cx: &mut Context<'_>) {
        let (Some(mut connection), Some(lease)) = (self.connection.take(), self.lease.take()) else { return };
        // Once more, for it to notice the end itself. One that is not ready has not sent all of its request, or closes.
        if connection.poll(cx).is_pending() && connection.sender.is_ready() {
            lease.endpoint().put(self.worker, connection);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let mut frame = Pin::new(&mut this.body).poll_frame(cx);
        if frame.is_pending()
            && let Some(connection) = &mut this.connection
        {
            // It reads only what is asked for, which was done just now.
            let _ = connection.poll(cx);
            frame = Pin::new(&mut this.body).poll_frame(cx);
        }
        match ready!(frame) {
            Some(Ok(frame)) => {
                if this.body.is_end_stream() {
                    this.finish(cx);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                (this.connection, this.lease) = (None, None);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.finish(cx);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
