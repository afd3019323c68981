//! Where the requests of an HTTP/1 connection begin and end, looked at before hyper does, and more strictly.
//!
//! hyper takes a request with both `Content-Length` and `Transfer-Encoding`, the same `Content-Length` twice, and lines
//! that end in a bare LF. Each is within the standard (RFC 9112, sections 2.2, 6.1 and 6.3), and each is how a request
//! is smuggled past a proxy that reads it in another way. When hyper hands over a request, what was wrong with it is not
//! to be seen any more; so the bytes are watched.

use std::io::{self, ErrorKind};

use tokio::io::ReadBuf;

use crate::chunked::Chunked;

/// The longest request head, in bytes.
pub(super) const MAX_HEAD: usize = 32 * 1024;

/// What hyper gets instead of a head that is refused: no head in whatever place, so that it answers 400 and closes.
const REFUSAL: &[u8] = b"\0\r\n\r\n";

/// Where in a connection's bytes the next one is.
#[derive(Default)]
pub(super) struct Framing {
    state: State,
    /// The part of a head that has come, when it comes in pieces.
    head: Vec<u8>,
    /// Whether the last byte that came is the CR of an empty line before a head.
    is_empty_line: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many bytes are left of a body with a length.
    Body(u64),
    Chunks(Chunked),
    /// hyper refuses what is there.
    Over,
}

impl Framing {
    /// Looks at what was read into the buffer.
    ///
    /// # Errors
    /// Where a body is framed badly: nothing of this read counts.
    pub(super) fn check(&mut self, buffer: &mut ReadBuf<'_>, from: usize) -> io::Result<()> {
        let mut at = from;
        while at < buffer.filled().len() {
            let bytes = &buffer.filled()[at..];
            match self.state {
                State::Head => {
                    let Ok(length) = self.head(bytes) else {
                        self.state = State::Over;
                        buffer.set_filled(at);
                        // There is room for it where the head came in pieces; of one that begins here its first byte
                        // is enough.
                        buffer.put_slice(&REFUSAL[..REFUSAL.len().min(buffer.remaining())]);
                        return Ok(());
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
                        self.state = State::Over;
                        buffer.set_filled(from);
                        return Err(ErrorKind::InvalidData.into());
                    };
                    at += length;
                    self.state = next.map_or(State::Head, State::Chunks);
                }
                State::Over => return Ok(()),
            }
        }
        Ok(())
    }

    /// Takes what belongs to a head.
    fn head(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        if self.head.is_empty() && (bytes[0] == b'\r' || self.is_empty_line && bytes[0] == b'\n') {
            // Empty lines before a request are passed over (RFC 9112, section 2.2); hyper sees to their LF.
            let length = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.is_empty_line = bytes[length - 1] == b'\r';
            return Ok(length);
        }
        self.is_empty_line = false;
        let (seen, before) = (self.head.len(), self.head.last().copied().unwrap_or_default());
        if seen == 0 {
            if let Some(end) = end_of_head(bytes, 0) {
                self.state = after(&bytes[..end])?;
                return Ok(end);
            }
            self.head.extend_from_slice(bytes);
        } else {
            self.head.extend_from_slice(bytes);
            if let Some(end) = end_of_head(&self.head, seen.saturating_sub(3)) {
                self.state = after(&self.head[..end])?;
                self.head = Vec::new();
                return Ok(end - seen);
            }
        }
        if self.head.len() > MAX_HEAD {
            // hyper says so better: 431.
            self.state = State::Over;
        } else if has_bare_line_end(before, bytes) {
            return Err(Refused);
        }
        Ok(bytes.len())
    }
}

/// A request is not to be let through.
#[derive(Debug)]
struct Refused;

/// The length of a head, if its end is there; not before `from`.
fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes[at..].iter().position(|byte| *byte == b'\n')? + 1;
        match bytes[at..] {
            [b'\r', b'\n', ..] => return Some(at + 2),
            // What hyper would take for the end, too.
            [b'\n', ..] => return Some(at + 1),
            _ => {}
        }
    }
}

/// Whether there is an LF without a CR before it, or a CR without an LF after it, in bytes that follow this one.
fn has_bare_line_end(mut before: u8, bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| (*byte == b'\n') != (std::mem::replace(&mut before, *byte) == b'\r'))
}

/// What comes after this head.
fn after(head: &[u8]) -> Result<State, Refused> {
    if has_bare_line_end(0, head) {
        return Err(Refused);
    }
    let (mut length, mut chunked, mut hosts) = (None, false, 0);
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let is_1_1 = lines.next().is_some_and(|line| line.ends_with(b" HTTP/1.1"));
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Refused)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.first().is_none_or(u8::is_ascii_whitespace) || name.last().is_none_or(u8::is_ascii_whitespace) {
            return Err(Refused);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = digits(value).ok_or(Refused)?;
            if length.replace(value).is_some() {
                return Err(Refused);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !is_1_1 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refused);
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        }
    }
    if hosts > 1 || (is_1_1 && hosts == 0) {
        return Err(Refused);
    }
    match (length, chunked) {
        (Some(_), true) => Err(Refused),
        (None, true) => Ok(State::Chunks(Chunked::START)),
        (None | Some(0), false) => Ok(State::Head),
        (Some(length), false) => Ok(State::Body(length)),
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    let text = text.iter().all(u8::is_ascii_digit).then(|| str::from_utf8(text))?;
    text.ok()?.parse().ok()
}
