//! Parses response heads, and the bodies that follow from them (RFC 9112, section 6.3).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, response};
use http_body::{Frame, SizeHint};
use httparse::{ParserConfig, Status};
use runtime::chunked::{Chunked, Part};

use super::error::Error;

/// Limits of a head, of all interim heads, and of trailers: the size in bytes, and the number of headers.
pub(super) const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 200;

pub(super) struct ResponseHead {
    pub(super) parts: response::Parts,
    pub(super) remaining: Remaining,
    /// Whether the connection stays open after the response.
    pub(super) keep_alive: bool,
}

/// How much of a body is still to come.
pub(super) enum Remaining {
    None,
    Length(u64),
    /// The position in a chunked body, and the trailers read so far.
    Chunks(Chunked, BytesMut),
    /// Everything until the connection is closed.
    UntilClose,
}

/// Parses the head at the start of `read`, and returns it with its length if it is complete. A head with a status of
/// 1xx is followed by another one.
pub(super) fn parse(read: &[u8], method: &Method) -> Result<Option<(ResponseHead, usize)>, Error> {
    let mut space = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, read, &mut space);
    let length = match status.map_err(|error| Error::Protocol(reason(error)))? {
        Status::Complete(length) => length,
        Status::Partial if read.len() > MAX_HEAD => return Err(Error::Protocol("the head is too long")),
        Status::Partial => return Ok(None),
    };
    if length > MAX_HEAD {
        return Err(Error::Protocol("the head is too long"));
    }
    let is_1_1 = parsed.version == Some(1);
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default());
    let status = status.map_err(|_| Error::Protocol("invalid status code"))?;
    let headers = header_map(parsed.headers)?;

    let remaining = remaining(status, &headers, is_1_1, method)?;
    // The endpoint may send the content that it announces even though there must be none. It would be taken for the
    // next response.
    let announces_content = remaining.is_none()
        && match headers.get(header::CONTENT_LENGTH) {
            _ if headers.contains_key(header::TRANSFER_ENCODING) => true,
            Some(length) => length.as_bytes().iter().any(|b| *b != b'0'),
            // Its framing is that of any other response, so this one ends with the connection.
            None => status == StatusCode::RESET_CONTENT,
        };
    let keep_alive = !remaining.ends_with_connection()
        && !announces_content
        && status != StatusCode::SWITCHING_PROTOCOLS
        && if is_1_1 { !has_option(&headers, "close") } else { has_option(&headers, "keep-alive") };
    let mut parts = Response::new(()).into_parts().0;
    (parts.status, parts.headers) = (status, headers);
    Ok(Some((ResponseHead { parts, remaining, keep_alive }, length)))
}

fn header_map(parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, Error> {
    // Leaves room for the headers that the gateway adds.
    let mut headers = HeaderMap::with_capacity(parsed.len() + 6);
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        let (Ok(name), Ok(value)) = (name, value) else { return Err(Error::Protocol("malformed header")) };
        headers.append(name, value);
    }
    Ok(headers)
}

/// Determines the framing of the body. Ambiguous framing is an error: two readers could disagree about where this
/// response ends and the next one, which may be for another client, begins.
fn remaining(status: StatusCode, headers: &HeaderMap, is_1_1: bool, method: &Method) -> Result<Remaining, Error> {
    let lengths = headers.get_all(header::CONTENT_LENGTH);
    let mut length = None;
    for value in lengths {
        let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let value: u64 = digits.and_then(|text| text.parse().ok()).ok_or(Error::Protocol("invalid content-length"))?;
        if length.replace(value).is_some() {
            return Err(Error::Protocol("more than one content-length"));
        }
    }
    let has_no_body = status.is_informational()
        // The last one must have none either, and is not passed on with it (RFC 9110, section 15.3.6).
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::RESET_CONTENT)
        || *method == Method::HEAD;
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next(), length) {
        _ if has_no_body => Ok(Remaining::None),
        (Some(coding), None, None) if is_1_1 && coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Ok(Remaining::Chunks(Chunked::START, BytesMut::new()))
        }
        (Some(_), _, _) => Err(Error::Protocol("unsupported transfer-encoding, or one together with a content-length")),
        (None, _, Some(0)) => Ok(Remaining::None),
        (None, _, Some(length)) => Ok(Remaining::Length(length)),
        (None, _, None) => Ok(Remaining::UntilClose),
    }
}

fn has_option(headers: &HeaderMap, option: &str) -> bool {
    let mut options = headers.get_all(header::CONNECTION).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    options.any(|found| found.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}

/// httparse's errors, as far as they concern responses.
fn reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::TooManyHeaders => "too many headers",
        httparse::Error::Version => "unsupported HTTP version",
        httparse::Error::Status => "malformed status line",
        _ => "malformed header",
    }
}

impl Remaining {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The length, if it is known.
    pub(super) fn length(&self) -> Option<usize> {
        match self {
            Self::None => Some(0),
            Self::Length(length) => Some(usize::try_from(*length).unwrap_or(usize::MAX)),
            Self::Chunks(..) | Self::UntilClose => None,
        }
    }

    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self, Self::UntilClose)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Length(length) => SizeHint::with_exact(*length),
            Self::Chunks(..) | Self::UntilClose => SizeHint::default(),
        }
    }

    /// Takes the next frame of the body out of the bytes that were read.
    pub(super) fn take_frame(&mut self, read: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Error> {
        match self {
            _ if read.is_empty() => Ok(None),
            Self::None => Ok(None),
            Self::UntilClose => Ok(Some(Frame::data(read.split().freeze()))),
            Self::Length(left) => {
                let length = read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                if *left == 0 {
                    *self = Self::None;
                }
                Ok(Some(Frame::data(read.split_to(length).freeze())))
            }
            Self::Chunks(position, trailers) => {
                while !read.is_empty() {
                    let part = position.part();
                    let (length, next) = position.step(read).map_err(|_| Error::Protocol("malformed chunk"))?;
                    let bytes = read.split_to(length);
                    if part == Part::Trailers {
                        trailers.unsplit(bytes);
                        if trailers.len() > MAX_HEAD {
                            return Err(Error::Protocol("the trailers are too long"));
                        }
                    } else if part == Part::Data {
                        *position = next.unwrap_or(Chunked::START);
                        return Ok(Some(Frame::data(bytes.freeze())));
                    }
                    let Some(next) = next else {
                        let trailers = parse_trailers(trailers)?;
                        *self = Self::None;
                        return Ok(trailers.map(Frame::trailers));
                    };
                    *position = next;
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
        _ => Err(Error::Protocol("malformed trailers")),
    }
}

#[cfg(test)]
mod tests;
