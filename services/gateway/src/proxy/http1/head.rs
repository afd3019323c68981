//! The head of an answer, and what it says of the rest (RFC 9112, section 6.3).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, response};
use http_body::{Frame, SizeHint};
use httparse::{ParserConfig, Status};
use runtime::chunked::{Chunked, Part};

use super::Error;

/// The longest head of an answer, in bytes, also that of trailers, and the most headers in it.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 200;

/// The beginning of an answer.
pub(super) struct Head {
    pub(super) parts: response::Parts,
    pub(super) rest: Rest,
    /// Whether the connection goes on after it.
    pub(super) is_kept: bool,
}

/// What is still to come of a body.
pub(super) enum Rest {
    Nothing,
    Length(u64),
    /// With what has come of its trailers.
    Chunks(Chunked, BytesMut),
    /// It ends with the connection.
    Connection,
}

/// Finds the head at the beginning of what was read, and its length, if all of it is there; one of 1xx is an answer that
/// others follow.
pub(super) fn parse(read: &[u8], method: &Method) -> Result<Option<(Head, usize)>, Error> {
    let mut space = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, read, &mut space);
    let length = match status.map_err(|error| Error::Protocol(reason(error)))? {
        Status::Complete(length) => length,
        Status::Partial if read.len() > MAX_HEAD => return Err(Error::Protocol("its head is too long")),
        Status::Partial => return Ok(None),
    };
    if length > MAX_HEAD {
        return Err(Error::Protocol("its head is too long"));
    }
    let is_1_1 = parsed.version == Some(1);
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default());
    let status = status.map_err(|_| Error::Protocol("its status is none"))?;
    let headers = header_map(parsed.headers)?;

    let rest = rest(status, &headers, is_1_1, method)?;
    let is_kept = !matches!(rest, Rest::Connection)
        && status != StatusCode::SWITCHING_PROTOCOLS
        && if is_1_1 { !has_option(&headers, "close") } else { has_option(&headers, "keep-alive") };
    let mut parts = Response::new(()).into_parts().0;
    (parts.status, parts.headers) = (status, headers);
    Ok(Some((Head { parts, rest, is_kept }, length)))
}

fn header_map(parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, Error> {
    // Room for those that the gateway adds.
    let mut headers = HeaderMap::with_capacity(parsed.len() + 6);
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        let (Ok(name), Ok(value)) = (name, value) else { return Err(Error::Protocol("a header is malformed")) };
        headers.append(name, value);
    }
    Ok(headers)
}

/// What follows a head. Where two readers could be of two opinions, it is no HTTP: the end of this answer is where the
/// next one begins, which may be another client's.
fn rest(status: StatusCode, headers: &HeaderMap, is_1_1: bool, method: &Method) -> Result<Rest, Error> {
    let lengths = headers.get_all(header::CONTENT_LENGTH);
    let mut length = None;
    for value in lengths {
        let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let value: u64 = digits.and_then(|text| text.parse().ok()).ok_or(Error::Protocol("its length is no number"))?;
        if length.replace(value).is_some() {
            return Err(Error::Protocol("it has two lengths"));
        }
    }
    let has_none = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || *method == Method::HEAD;
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next(), length) {
        _ if has_none => Ok(Rest::Nothing),
        (Some(coding), None, None) if is_1_1 && coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Ok(Rest::Chunks(Chunked::START, BytesMut::new()))
        }
        (Some(_), _, _) => Err(Error::Protocol("its transfer coding is not chunked alone")),
        (None, _, Some(0)) => Ok(Rest::Nothing),
        (None, _, Some(length)) => Ok(Rest::Length(length)),
        (None, _, None) => Ok(Rest::Connection),
    }
}

fn has_option(headers: &HeaderMap, option: &str) -> bool {
    let mut options = headers.get_all(header::CONNECTION).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    options.any(|found| found.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}

/// What httparse has to say, without what is only known of requests.
fn reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::TooManyHeaders => "it has too many headers",
        httparse::Error::Version => "its version is none that is known",
        httparse::Error::Status => "its status is malformed",
        _ => "a header is malformed",
    }
}

impl Rest {
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self, Self::Connection)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Length(length) => SizeHint::with_exact(*length),
            Self::Chunks(..) | Self::Connection => SizeHint::default(),
        }
    }

    /// Takes what belongs to the body from what was read.
    pub(super) fn take(&mut self, read: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Error> {
        match self {
            _ if read.is_empty() => Ok(None),
            Self::Nothing => Ok(None),
            Self::Connection => Ok(Some(Frame::data(read.split().freeze()))),
            Self::Length(left) => {
                let length = read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                if *left == 0 {
                    *self = Self::Nothing;
                }
                Ok(Some(Frame::data(read.split_to(length).freeze())))
            }
            Self::Chunks(at, trailers) => {
                while !read.is_empty() {
                    let part = at.part();
                    let (length, next) = at.step(read).map_err(|_| Error::Protocol("a chunk is malformed"))?;
                    let piece = read.split_to(length);
                    if part == Part::Trailers {
                        trailers.unsplit(piece);
                        if trailers.len() > MAX_HEAD {
                            return Err(Error::Protocol("its trailers are too long"));
                        }
                    } else if part == Part::Data {
                        *at = next.unwrap_or(Chunked::START);
                        return Ok(Some(Frame::data(piece.freeze())));
                    }
                    let Some(next) = next else {
                        let trailers = parse_trailers(trailers)?;
                        *self = Self::Nothing;
                        return Ok(trailers.map(Frame::trailers));
                    };
                    *at = next;
                }
                Ok(None)
            }
        }
    }
}

fn parse_trailers(text: &[u8]) -> Result<Option<HeaderMap>, Error> {
    let mut space = [httparse::EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(text, &mut space) {
        Ok(Status::Complete((_, []))) => Ok(None),
        Ok(Status::Complete((_, parsed))) => header_map(parsed).map(Some),
        _ => Err(Error::Protocol("its trailers are malformed")),
    }
}

#[cfg(test)]
mod tests;
