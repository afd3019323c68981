//! A strict check of HTTP/1 framing that runs before hyper parses the bytes.
//!
//! hyper accepts a request with both `Content-Length` and `Transfer-Encoding`, a repeated `Content-Length`, and lines
//! that end in a bare LF. The standard allows each of these (RFC 9112, sections 2.2, 6.1 and 6.3), and each lets a
//! request be smuggled past a proxy that reads it differently. The request that hyper hands over no longer shows the
//! fault, so the raw bytes are checked.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::io::ReadBuf;

use crate::chunked::Chunked;

/// The longest request head, in bytes.
pub(super) const MAX_HEAD: usize = 32 * 1024;

/// What hyper reads instead of a rejected head. It is invalid at any position of a head, so hyper responds with 400 and
/// closes the connection.
const REFUSAL: &[u8] = b"\0\r\n\r\n";

/// The position in the byte stream of a connection.
#[derive(Default)]
pub(super) struct Framing {
    state: State,
    /// The number of heads so far.
    heads: u64,
    progress: Progress,
    /// The part of a head that has arrived, if it arrives in pieces.
    head: Vec<u8>,
    /// Whether the last byte was the CR of an empty line before a head.
    is_empty_line: bool,
}

/// What the responses on a connection have to do with its framing.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<ProgressState>);

#[derive(Default)]
struct ProgressState {
    responses: AtomicU64,
    /// Whether bytes were read that may be of another protocol, so that they were not checked.
    has_unchecked: AtomicBool,
}

impl Progress {
    /// Counts a response. Returns whether the connection must be closed after it, unless it switches protocols:
    /// unchecked bytes must not be read as a request.
    pub(super) fn respond(&self) -> bool {
        self.0.responses.fetch_add(1, Ordering::Relaxed);
        self.0.has_unchecked.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// The number of bytes left of a body with a length.
    Body(u64),
    Chunks(Chunked),
    /// After a request for WebSocket, until its response.
    Upgrade,
    /// hyper rejects what it has read; the rest does not matter.
    Rejected,
    /// The same, within a chunked body.
    RejectedChunks,
}

impl Framing {
    pub(super) fn new(progress: Progress) -> Self {
        Self { progress, ..Self::default() }
    }

    /// Checks what was read into the buffer after `from`. What follows a fault is replaced, so that hyper rejects it.
    pub(super) fn check(&mut self, buffer: &mut ReadBuf<'_>, from: usize) {
        let mut at = from;
        while at < buffer.filled().len() {
            let bytes = &buffer.filled()[at..];
            match self.state {
                State::Head => {
                    let Ok(length) = self.head(bytes) else {
                        self.state = State::Rejected;
                        buffer.set_filled(at);
                        // The buffer has room for all of it if the head began in an earlier read. Otherwise its first
                        // byte is enough.
                        buffer.put_slice(&REFUSAL[..REFUSAL.len().min(buffer.remaining())]);
                        return;
                    };
                    at += length;
                }
                State::Body(left) => {
                    let length = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    at += length;
                    self.state = match left - length as u64 {
                        0 => State::Head,
                        left => State::Body(left),
                    };
                }
                State::Chunks(chunked) => {
                    let Ok((length, next)) = chunked.step(bytes) else {
                        self.state = State::RejectedChunks;
                        continue;
                    };
                    at += length;
                    self.state = next.map_or(State::Head, State::Chunks);
                }
                State::Upgrade if self.progress.0.responses.load(Ordering::Relaxed) < self.heads => {
                    self.progress.0.has_unchecked.store(true, Ordering::Relaxed);
                    return;
                }
                State::Upgrade => self.state = State::Head,
                State::Rejected => return,
                State::RejectedChunks => {
                    // Two CRs in a row are invalid at any position of a chunked body, except in its data.
                    buffer.filled_mut()[at..].fill(b'\r');
                    if buffer.remaining() > 0 {
                        buffer.put_slice(b"\r");
                    }
                    return;
                }
            }
        }
    }

    /// Consumes the bytes that belong to a head.
    fn head(&mut self, bytes: &[u8]) -> Result<usize, Rejection> {
        if self.head.is_empty() && (bytes[0] == b'\r' || self.is_empty_line && bytes[0] == b'\n') {
            // Empty lines before a request are ignored (RFC 9112, section 2.2). hyper checks their line ends.
            let length = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.is_empty_line = bytes[length - 1] == b'\r';
            return Ok(length);
        }
        self.is_empty_line = false;
        let (seen, before) = (self.head.len(), self.head.last().copied().unwrap_or_default());
        if seen == 0 {
            if let Some(end) = end_of_head(bytes, 0) {
                self.state = state_after(&bytes[..end])?;
                self.heads += 1;
                return Ok(end);
            }
            self.head.extend_from_slice(bytes);
        } else {
            self.head.extend_from_slice(bytes);
            if let Some(end) = end_of_head(&self.head, seen.saturating_sub(3)) {
                self.state = state_after(&self.head[..end])?;
                self.heads += 1;
                self.head = Vec::new();
                return Ok(end - seen);
            }
        }
        if self.head.len() > MAX_HEAD {
            // hyper responds with 431.
            self.state = State::Rejected;
        } else if has_bare_line_end(before, bytes) {
            return Err(Rejection);
        }
        Ok(bytes.len())
    }
}

/// The protocol that clients may switch to.
const WEBSOCKET: &[u8] = b"websocket";

/// The request is rejected.
#[derive(Debug)]
struct Rejection;

/// Returns the length of a head if its end has arrived. The search starts at `from`.
fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes[at..].iter().position(|byte| *byte == b'\n')? + 1;
        match bytes[at..] {
            [b'\r', b'\n', ..] => return Some(at + 2),
            // hyper accepts this as the end too.
            [b'\n', ..] => return Some(at + 1),
            _ => {}
        }
    }
}

/// Returns whether the bytes, which follow `before`, have an LF without a CR or a CR without an LF.
fn has_bare_line_end(mut before: u8, bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| (*byte == b'\n') != (std::mem::replace(&mut before, *byte) == b'\r'))
}

/// Returns what follows a complete head.
fn state_after(head: &[u8]) -> Result<State, Rejection> {
    if has_bare_line_end(0, head) {
        return Err(Rejection);
    }
    let (mut length, mut chunked, mut hosts, mut upgrade) = (None, false, 0, false);
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let is_1_1 = lines.next().is_some_and(|line| line.ends_with(b" HTTP/1.1"));
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Rejection)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.first().is_none_or(u8::is_ascii_whitespace) || name.last().is_none_or(u8::is_ascii_whitespace) {
            return Err(Rejection);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = digits(value).ok_or(Rejection)?;
            if length.replace(value).is_some() {
                return Err(Rejection);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !is_1_1 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Rejection);
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            upgrade |= value.to_ascii_lowercase().windows(WEBSOCKET.len()).any(|window| window == WEBSOCKET);
        }
    }
    if hosts > 1 || (is_1_1 && hosts == 0) {
        return Err(Rejection);
    }
    match (length, chunked) {
        (Some(_), true) => Err(Rejection),
        (None, true) => Ok(State::Chunks(Chunked::START)),
        (None | Some(0), false) if upgrade => Ok(State::Upgrade),
        (None | Some(0), false) => Ok(State::Head),
        (Some(length), false) => Ok(State::Body(length)),
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    let text = text.iter().all(u8::is_ascii_digit).then(|| str::from_utf8(text))?;
    text.ok()?.parse().ok()
}
