//! A request on its way to an endpoint: its head, and its body as it comes.

use std::{
    io::{Cursor, ErrorKind, Write},
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, buf::Chain};
use http::{Method, header, request::Parts, uri::PathAndQuery};
use http_body::Body;
use tokio::{io::AsyncWrite, net::TcpStream};
use tokio_util::io::poll_write_buf;

use super::Error;
use crate::proxy::outgoing::{Fault, Outgoing};

/// What is being written: what is made here, a piece of the body, and what ends a chunk.
type Pieces = Chain<Chain<Cursor<Vec<u8>>, Bytes>, &'static [u8]>;

/// A request, or what is left of it.
pub(super) struct Upload {
    pieces: Pieces,
    body: Outgoing,
    rest: Rest,
    progress: Progress,
    is_last: bool,
    has_moved: bool,
}

/// What is still to come of the body, after the pieces.
enum Rest {
    Nothing,
    Length(u64),
    Chunks,
}

#[derive(PartialEq, Eq)]
enum Progress {
    /// The body was not asked for its beginning yet.
    New,
    /// Nothing was written.
    Ready,
    /// Something was.
    Begun,
}

impl Upload {
    pub(super) fn new(head: &Parts, body: Outgoing) -> Self {
        let length = body.size_hint().exact();
        let rest = match length {
            Some(0) => Rest::Nothing,
            Some(length) => Rest::Length(length),
            None => Rest::Chunks,
        };
        let is_last = length != Some(0) && !expects_body(&head.method);
        let head = Cursor::new(write_head(head, length, is_last));
        let pieces = head.chain(Bytes::new()).chain(&b""[..]);
        Self { pieces, body, rest, progress: Progress::New, is_last, has_moved: false }
    }

    /// Whether no request may follow it on its connection: it has a body, and a method of which its service may expect
    /// none. One that leaves the body unread takes it for the next request, and the answer to that would be the answer to
    /// whoever has the connection then.
    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    pub(super) fn has_begun(&self) -> bool {
        self.progress == Progress::Begun
    }

    /// Whether something was written since this was asked last.
    pub(super) fn has_moved(&mut self) -> bool {
        mem::take(&mut self.has_moved)
    }

    /// Whether the endpoint has taken all that has come, and more is to come.
    pub(super) fn waits_for_client(&self) -> bool {
        !self.pieces.has_remaining()
    }

    /// Waits for no more of the body, whoever sends it.
    pub(super) fn give_up(&self, fault: Fault) -> Fault {
        self.body.give_up(fault);
        fault
    }

    /// Gives back what was taken of the body and not sent.
    pub(super) fn give_back(mut self) {
        let piece = mem::take(self.pieces.first_mut().last_mut());
        if !piece.is_empty() {
            self.body.put_back(piece);
        }
    }

    /// Sends as much as there is and the endpoint takes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Poll<Result<(), Error>> {
        if self.progress == Progress::New {
            self.progress = Progress::Ready;
            // What has come of the body goes with the head.
            if let Poll::Ready(Err(fault)) = self.poll_piece(cx) {
                return Poll::Ready(Err(fault.into()));
            }
        }
        loop {
            while self.pieces.has_remaining() {
                // A single piece is not worth a list.
                let single = self.pieces.chunk();
                let written = if single.len() == self.pieces.remaining() {
                    let count = ready!(Pin::new(&mut *stream).poll_write(cx, single))?;
                    self.pieces.advance(count);
                    count
                } else {
                    ready!(poll_write_buf(Pin::new(&mut *stream), cx, &mut self.pieces))?
                };
                if written == 0 {
                    return Poll::Ready(Err(Error::Io(ErrorKind::WriteZero.into())));
                }
                (self.progress, self.has_moved) = (Progress::Begun, true);
            }
            if matches!(self.rest, Rest::Nothing) {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_piece(cx))?;
        }
    }

    /// Takes the next piece of the body; of the pieces nothing is left, but for the head, where that was not sent.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if matches!(self.rest, Rest::Nothing) {
            return Poll::Ready(Ok(()));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?;
        let data = frame.and_then(|frame| frame.into_data().ok());
        let mut made = mem::take(self.pieces.first_mut().first_mut()).into_inner();
        if self.has_begun() {
            made.clear();
        }
        let (piece, end) = match (&mut self.rest, data) {
            (Rest::Length(left), Some(data)) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Fault::Client)?;
                if *left == 0 {
                    self.rest = Rest::Nothing;
                }
                (data, &b""[..])
            }
            (Rest::Length(_), None) => return Poll::Ready(Err(Fault::Client)),
            // A chunk without content would be the last.
            (_, Some(data)) if data.is_empty() => (data, &b""[..]),
            (_, Some(data)) => {
                let _ = write!(made, "{:x}\r\n", data.len());
                (data, &b"\r\n"[..])
            }
            (_, None) => {
                made.extend_from_slice(b"0\r\n\r\n");
                self.rest = Rest::Nothing;
                (Bytes::new(), &b""[..])
            }
        };
        self.pieces = Cursor::new(made).chain(piece).chain(end);
        Poll::Ready(Ok(()))
    }
}

/// Whether a request of this method has a body as a rule.
fn expects_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// A request's head, in origin form (RFC 9112, section 3.2.1); how long its body is says the body itself.
fn write_head(parts: &Parts, length: Option<u64>, is_last: bool) -> Vec<u8> {
    let mut head = Vec::with_capacity(1024);
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    head.extend_from_slice(parts.method.as_str().as_bytes());
    head.extend_from_slice(if target.starts_with(['/', '*']) { b" " } else { b" /" });
    head.extend_from_slice(target.as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    let mut says_length = false;
    for (name, value) in &parts.headers {
        match *name {
            header::CONTENT_LENGTH => says_length = true,
            header::TRANSFER_ENCODING => {}
            _ => {
                head.extend_from_slice(name.as_str().as_bytes());
                head.extend_from_slice(b": ");
                head.extend_from_slice(value.as_bytes());
                head.extend_from_slice(b"\r\n");
            }
        }
    }
    match length {
        None => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // Of these methods a body is expected, so none is said (RFC 9110, section 8.6).
        Some(0) if !says_length && !expects_body(&parts.method) => {}
        Some(length) => {
            let _ = write!(head, "content-length: {length}\r\n");
        }
    }
    if is_last {
        head.extend_from_slice(b"connection: close\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn head(method: Method, target: &str, headers: &[(&'static str, &'static str)], length: Option<u64>) -> String {
        let mut parts = Request::new(()).into_parts().0;
        (parts.method, parts.uri) = (method, target.parse().expect("a target"));
        for (name, value) in headers {
            parts.headers.append(*name, HeaderValue::from_static(value));
        }
        let is_last = length != Some(0) && !expects_body(&parts.method);
        String::from_utf8(write_head(&parts, length, is_last)).expect("text")
    }

    #[test]
    fn the_target_is_in_origin_form() {
        for (target, line) in [
            ("/users?a=b", "GET /users?a=b HTTP/1.1\r\n\r\n"),
            ("http://shop.example/users?a=b", "GET /users?a=b HTTP/1.1\r\n\r\n"),
            ("http://shop.example", "GET / HTTP/1.1\r\n\r\n"),
            ("http://shop.example?a=b", "GET /?a=b HTTP/1.1\r\n\r\n"),
            ("*", "GET * HTTP/1.1\r\n\r\n"),
        ] {
            assert_eq!(head(Method::GET, target, &[], Some(0)), line, "{target}");
        }
    }

    #[test]
    fn the_length_is_that_of_the_body() {
        let headers = [("transfer-encoding", "chunked"), ("content-length", "7"), ("a", "1"), ("a", "2")];
        let framed = |method, length| head(method, "/", &headers[..], length);
        let unframed = |method, length| head(method, "/", &headers[2..], length);
        let (get, post) = ("GET / HTTP/1.1\r\na: 1\r\na: 2\r\n", "POST / HTTP/1.1\r\na: 1\r\na: 2\r\n");
        assert_eq!(framed(Method::POST, Some(5)), format!("{post}content-length: 5\r\n\r\n"));
        assert_eq!(framed(Method::POST, None), format!("{post}transfer-encoding: chunked\r\n\r\n"));
        assert_eq!(framed(Method::GET, Some(0)), format!("{get}content-length: 0\r\n\r\n"));
        assert_eq!(unframed(Method::GET, Some(0)), format!("{get}\r\n"));
        assert_eq!(unframed(Method::POST, Some(0)), format!("{post}content-length: 0\r\n\r\n"));
    }
}
