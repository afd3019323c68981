//! Writes a request: its head, and its body as it arrives from the client.

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

use super::error::Error;
use crate::proxy::replayable_body::{RequestBodyError, UpstreamBody};

/// What is being written: the head or a chunk size, a piece of the body, and the end of a chunk.
type Pending = Chain<Chain<Cursor<Vec<u8>>, Bytes>, &'static [u8]>;

/// The part of a request that has not been written yet.
pub(super) struct RequestWriter {
    pending: Pending,
    body: UpstreamBody,
    remaining: Remaining,
    stage: Stage,
    closes_connection: bool,
    has_progressed: bool,
    written: usize,
}

/// How much of the body follows what is pending.
enum Remaining {
    None,
    Length(u64),
    Chunks,
}

#[derive(PartialEq, Eq)]
enum Stage {
    /// The body has not been polled yet.
    New,
    /// Nothing has been written.
    Ready,
    /// Something has been written.
    Started,
}

impl RequestWriter {
    pub(super) fn new(head: &Parts, body: UpstreamBody) -> Self {
        let length = body.size_hint().exact();
        let remaining = match length {
            Some(0) => Remaining::None,
            Some(length) => Remaining::Length(length),
            None => Remaining::Chunks,
        };
        let closes_connection = head.method == Method::HEAD || length != Some(0) && !expects_body(&head.method);
        let head = Cursor::new(write_head(head, length, closes_connection));
        let pending = head.chain(Bytes::new()).chain(&b""[..]);
        Self { pending, body, remaining, stage: Stage::New, closes_connection, has_progressed: false, written: 0 }
    }

    /// Whether no other request may use the connection, because the response to that could be a forged one:
    ///
    /// - The method usually has no body, but this request has one. A service that leaves the body unread takes it for
    ///   the next request.
    /// - The method is HEAD. A service that sends the content after all would have it taken for the next response.
    ///
    /// The service is told, so that it is not surprised by a reset.
    pub(super) fn closes_connection(&self) -> bool {
        self.closes_connection
    }

    pub(super) fn has_started(&self) -> bool {
        self.stage == Stage::Started
    }

    /// How much was written, in bytes.
    pub(super) fn written(&self) -> usize {
        self.written
    }

    /// Whether anything has been written since the last call.
    pub(super) fn take_progress(&mut self) -> bool {
        mem::take(&mut self.has_progressed)
    }

    /// Whether the endpoint has everything that the client has sent, and the client has more to send.
    pub(super) fn waits_for_client(&self) -> bool {
        !self.pending.has_remaining()
    }

    /// Ends the body early.
    pub(super) fn fail(&self, error: RequestBodyError) {
        self.body.fail(error);
    }

    /// Returns the piece of the body that was taken and not sent.
    pub(super) fn unread(mut self) {
        let piece = mem::take(self.pending.first_mut().last_mut());
        if !piece.is_empty() {
            self.body.unread(piece);
        }
    }

    /// Writes as much as is available and the endpoint accepts.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Poll<Result<(), Error>> {
        if self.stage == Stage::New {
            self.stage = Stage::Ready;
            // What has arrived of the body goes out together with the head.
            if let Poll::Ready(Err(error)) = self.poll_piece(cx) {
                return Poll::Ready(Err(error.into()));
            }
        }
        loop {
            while self.pending.has_remaining() {
                // A single buffer needs no vectored write.
                let single = self.pending.chunk();
                let written = if single.len() == self.pending.remaining() {
                    let count = ready!(Pin::new(&mut *stream).poll_write(cx, single))?;
                    self.pending.advance(count);
                    count
                } else {
                    ready!(poll_write_buf(Pin::new(&mut *stream), cx, &mut self.pending))?
                };
                if written == 0 {
                    return Poll::Ready(Err(Error::Io(ErrorKind::WriteZero.into())));
                }
                (self.stage, self.has_progressed) = (Stage::Started, true);
                self.written += written;
            }
            if matches!(self.remaining, Remaining::None) {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_piece(cx))?;
        }
    }

    /// Takes the next piece of the body. Nothing is pending at this point, except for the head at first.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestBodyError>> {
        if matches!(self.remaining, Remaining::None) {
            return Poll::Ready(Ok(()));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?;
        let data = frame.and_then(|frame| frame.into_data().ok());
        let mut prefix = mem::take(self.pending.first_mut().first_mut()).into_inner();
        if self.has_started() {
            prefix.clear();
        }
        let (piece, end) = match (&mut self.remaining, data) {
            (Remaining::Length(left), Some(data)) => {
                *left = left.checked_sub(data.len() as u64).ok_or(RequestBodyError::Incomplete)?;
                if *left == 0 {
                    self.remaining = Remaining::None;
                }
                (data, &b""[..])
            }
            (Remaining::Length(_), None) => return Poll::Ready(Err(RequestBodyError::Incomplete)),
            // An empty chunk would end the body.
            (_, Some(data)) if data.is_empty() => (data, &b""[..]),
            (_, Some(data)) => {
                let _ = write!(prefix, "{:x}\r\n", data.len());
                (data, &b"\r\n"[..])
            }
            (_, None) => {
                prefix.extend_from_slice(b"0\r\n\r\n");
                self.remaining = Remaining::None;
                (Bytes::new(), &b""[..])
            }
        };
        self.pending = Cursor::new(prefix).chain(piece).chain(end);
        Poll::Ready(Ok(()))
    }
}

/// Whether requests with this method usually have a body.
fn expects_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Writes a request head with the target in origin form (RFC 9112, section 3.2.1). The framing follows from the body,
/// not from the client's headers.
fn write_head(parts: &Parts, length: Option<u64>, close: bool) -> Vec<u8> {
    let mut head = Vec::with_capacity(1024);
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    head.extend_from_slice(parts.method.as_str().as_bytes());
    head.extend_from_slice(if target.starts_with(['/', '*']) { b" " } else { b" /" });
    head.extend_from_slice(target.as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    let mut has_length = false;
    for (name, value) in &parts.headers {
        match *name {
            header::CONTENT_LENGTH => has_length = true,
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
        // Methods that usually have no body need no content-length for an empty one (RFC 9110, section 8.6).
        Some(0) if !has_length && !expects_body(&parts.method) => {}
        Some(length) => {
            let _ = write!(head, "content-length: {length}\r\n");
        }
    }
    if close {
        head.extend_from_slice(b"connection: close\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Request};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn head(method: Method, target: &str, headers: &[(&'static str, &'static str)], length: Option<u64>) -> String {
        let mut parts = Request::new(()).into_parts().0;
        (parts.method, parts.uri) = (method, target.parse().expect("a target"));
        for (name, value) in headers {
            parts.headers.append(*name, HeaderValue::from_static(value));
        }
        let close = length != Some(0) && !expects_body(&parts.method);
        String::from_utf8(write_head(&parts, length, close)).expect("text")
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
    fn the_framing_follows_from_the_body() {
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

    fn header_name() -> impl Strategy<Value = String> {
        "[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,20}|Content-Length|Transfer-Encoding"
    }

    proptest! {
        /// Whatever a client sends, the service reads the same headers and one kind of framing.
        #[test]
        fn a_written_head_is_read_back_unchanged(
            method in "[A-Z]{1,10}",
            target in "/[!-\"$-~]{0,40}",
            headers in vec((header_name(), vec(any::<u8>(), 0..20)), 0..20),
            length in proptest::option::of(any::<u64>()),
            close in any::<bool>(),
        ) {
            let mut parts = Request::new(()).into_parts().0;
            parts.method = method.parse().expect("a method");
            let Ok(uri) = target.parse() else { return Ok(()) };
            parts.uri = uri;
            for (name, value) in &headers {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    parts.headers.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value);
                }
            }
            let bytes = write_head(&parts, length, close);
            let mut space = [httparse::EMPTY_HEADER; 32];
            let mut request = httparse::Request::new(&mut space);
            prop_assert_eq!(request.parse(&bytes), Ok(httparse::Status::Complete(bytes.len())));
            prop_assert_eq!((request.method, request.path), (Some(&*method), Some(&*target)));
            let is_framing = |name: &str| ["content-length", "transfer-encoding"].contains(&name);
            let (framing, others): (Vec<&httparse::Header<'_>>, Vec<_>) =
                request.headers.iter().partition(|header| is_framing(header.name));
            prop_assert!(framing.len() <= 1);
            let expected = length.map_or("chunked".to_owned(), |length| length.to_string());
            prop_assert!(framing.iter().all(|header| header.value == expected.as_bytes()));
            prop_assert!(!framing.is_empty() || (length == Some(0) && !expects_body(&parts.method)));
            let given = parts.headers.iter().filter(|(name, _)| !is_framing(name.as_str()));
            let mut given: Vec<_> = given.map(|(name, value)| (name.as_str(), value.as_bytes().trim_ascii())).collect();
            if close {
                given.push(("connection", b"close"));
            }
            let found: Vec<_> = others.iter().map(|header| (header.name, header.value.trim_ascii())).collect();
            prop_assert_eq!(found, given);
        }
    }
}
