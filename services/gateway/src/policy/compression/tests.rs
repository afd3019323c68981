mod stream;

use std::{
    collections::VecDeque,
    io::Write as _,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::*;
use flate2::write::GzDecoder;
use http::{Response, response::Parts};
use http_body::{Body as _, Frame, SizeHint};

/// A body of given frames. At a `None` it is pending once.
struct Pieces {
    pieces: VecDeque<Option<Frame<Bytes>>>,
    length: Option<u64>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.pieces.pop_front() {
            None => Poll::Ready(None),
            Some(None) => Poll::Pending,
            Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map(SizeHint::with_exact).unwrap_or_default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "frames of `Pieces` are optional")]
fn data(bytes: impl Into<Bytes>) -> Option<Frame<Bytes>> {
    Some(Frame::data(bytes.into()))
}

fn whole(text: String) -> Pieces {
    Pieces { length: Some(text.len() as u64), pieces: [data(text)].into() }
}

fn streamed(pieces: impl IntoIterator<Item = Option<Frame<Bytes>>>) -> Pieces {
    Pieces { pieces: pieces.into_iter().collect(), length: None }
}

type Lines<'a> = &'a [(&'a str, &'a str)];

fn headers(lines: Lines) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.parse().expect("a value"));
    }
    headers
}

fn compression() -> Compression {
    Compression::new(&CompressionArgs { compression: true, compress_credentialed: false })
}

fn apply(request: &[(&str, &str)], status: u16, response: &[(&str, &str)], body: Pieces) -> (Parts, Body<Pieces>) {
    let compression = compression();
    let mut parts = Response::new(()).into_parts().0;
    parts.status = StatusCode::from_u16(status).expect("a status");
    parts.headers = headers(response);
    let body = compression.apply(false, &compression.accepted(&headers(request)), &mut parts, body);
    (parts, body)
}

/// Reads frames until the body is pending or ends. Returns the data frames and the trailers.
fn read<B>(body: &mut Body<B>) -> (Vec<Bytes>, Option<HeaderMap>)
where
    B: http_body::Body<Data = Bytes, Error = std::io::Error> + Unpin,
{
    let (mut frames, mut trailers) = (Vec::new(), None);
    while let Poll::Ready(Some(frame)) = Pin::new(&mut *body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        match frame.expect("no error").into_data() {
            Ok(data) => frames.push(data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    (frames, trailers)
}

fn decompress(frames: &[Bytes]) -> Vec<u8> {
    let mut decoder = GzDecoder::new(Vec::new());
    decoder.write_all(&frames.concat()).expect("gzip");
    decoder.finish().expect("a complete gzip stream")
}

fn long() -> String {
    "{\"product_id\":\"apple\",\"stock\":5},".repeat(100)
}

const GZIP: (&str, &str) = ("accept-encoding", "gzip");
const JSON: (&str, &str) = ("content-type", "application/json");

fn is_gzip<B>(body: &Body<B>) -> bool {
    matches!(body, Body::Gzip { .. })
}

#[test]
fn long_text_is_compressed_if_the_client_accepts_gzip() {
    let response =
        [JSON, ("content-length", "3300"), ("accept-ranges", "bytes"), ("etag", "\"3\""), ("vary", "origin")];
    let (parts, mut body) = apply(&[GZIP], 200, &response, whole(long()));
    let expected =
        [JSON, ("etag", "\"3--gzip\""), ("vary", "origin"), ("vary", "accept-encoding"), ("content-encoding", "gzip")];
    assert_eq!(parts.headers, headers(&expected));
    assert_eq!(body.size_hint().exact(), None);
    let (frames, _) = read(&mut body);
    assert_eq!(decompress(&frames), long().as_bytes());
    assert!(frames.concat().len() < long().len() / 10);
    assert_eq!(frames.len(), 1, "one frame stays one frame");
    assert!(body.is_end_stream());

    let (parts, body) = apply(&[], 200, &response, whole(long()));
    assert!(!is_gzip(&body));
    let expected = [JSON, response[1], response[2], response[3], ("vary", "origin"), ("vary", "accept-encoding")];
    assert_eq!(parts.headers, headers(&expected));
}

#[test]
fn only_compressible_types_are_compressed() {
    let cases = [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        ("application/problem+json", true),
        ("application/javascript", true),
        ("text/html; charset=utf-8", true),
        ("text/plain", true),
        ("image/svg+xml", true),
        ("application/x-ndjson", true),
        ("text/event-stream", false),
        ("image/png", false),
        ("video/mp4", false),
        ("application/octet-stream", false),
        ("application/zip", false),
        ("application/grpc", false),
        ("application/grpc+json", false),
        ("application/grpc-web-text", false),
        ("", false),
    ];
    for (kind, expected) in cases {
        let (parts, body) = apply(&[GZIP], 200, &[("content-type", kind)], whole(long()));
        assert_eq!(is_gzip(&body), expected, "{kind}");
        assert_eq!(parts.headers.contains_key(header::VARY), expected, "{kind}");
    }
    assert!(!is_gzip(&apply(&[GZIP], 200, &[], whole(long())).1));
}

#[test]
fn responses_that_must_not_be_transformed_are_kept() {
    let cases: &[(u16, Lines, Lines)] = &[
        (204, &[GZIP], &[JSON]),
        (206, &[GZIP], &[JSON]),
        (200, &[GZIP], &[JSON, ("content-range", "bytes 0-1/2")]),
        (200, &[GZIP], &[JSON, ("content-encoding", "br")]),
        (200, &[GZIP], &[JSON, ("cache-control", "public, no-transform")]),
        (200, &[GZIP], &[JSON, ("content-digest", "sha-256=:x:")]),
        (200, &[GZIP, ("cache-control", "no-transform")], &[JSON]),
        (200, &[("accept-encoding", "identity, gzip;q=0.5")], &[JSON]),
        (304, &[GZIP], &[JSON]),
    ];
    for (status, request, response) in cases {
        let (parts, body) = apply(request, *status, response, whole(long()));
        assert!(!is_gzip(&body), "{status} {response:?}");
        assert_eq!(parts.headers.get(header::CONTENT_TYPE), Some(&HeaderValue::from_static(JSON.1)));
    }
    for status in [200, 201, 404, 422, 500] {
        assert!(is_gzip(&apply(&[GZIP], status, &[JSON], whole(long())).1), "{status}");
    }
}

#[test]
fn short_content_is_not_compressed_and_does_not_vary() {
    let (parts, body) = apply(&[GZIP], 200, &[JSON], whole("x".repeat(1023)));
    assert!(!is_gzip(&body) && !parts.headers.contains_key(header::VARY));
    assert!(is_gzip(&apply(&[GZIP], 200, &[JSON], whole("x".repeat(1024))).1));
    assert!(is_gzip(&apply(&[GZIP], 200, &[JSON], streamed([data("x")])).1), "of unknown length");
}

#[test]
fn a_client_that_refuses_identity_gets_gzip() {
    let only = ("accept-encoding", "gzip, identity;q=0");
    for (kind, body) in [("image/png", whole(long())), ("application/json", whole("{}".to_owned()))] {
        assert!(is_gzip(&apply(&[only], 200, &[("content-type", kind)], body).1), "{kind}");
    }
    assert!(!is_gzip(&apply(&[only], 200, &[("content-type", "application/grpc")], whole(long())).1));
    assert!(!is_gzip(&apply(&[only], 200, &[JSON], whole(String::new())).1), "there is no content");
}

#[test]
fn a_response_to_head_varies_like_one_to_get() {
    let compression = compression();
    let accepted = compression.accepted(&headers(&[GZIP]));
    for (length, varies) in [("5000", true), ("5", false)] {
        let mut parts = Response::new(()).into_parts().0;
        parts.headers = headers(&[JSON, ("content-length", length), ("etag", "\"3\"")]);
        let body = compression.apply(true, &accepted, &mut parts, streamed([]));
        assert!(!is_gzip(&body));
        assert_eq!(parts.headers.contains_key(header::VARY), varies, "{length}");
        assert_eq!(parts.headers.get(header::CONTENT_LENGTH), Some(&length.parse().expect("a value")));
        assert_eq!(parts.headers.get(header::ETAG), Some(&HeaderValue::from_static("\"3\"")));
    }
}

#[test]
fn an_existing_vary_header_is_not_duplicated() {
    for vary in ["Accept-Encoding", "origin, accept-encoding", "*"] {
        let (parts, body) = apply(&[GZIP], 200, &[JSON, ("vary", vary)], whole(long()));
        assert!(is_gzip(&body));
        assert_eq!(parts.headers.get_all(header::VARY).iter().collect::<Vec<_>>(), [vary]);
    }
}

#[test]
fn compression_can_be_disabled() {
    let disabled = Compression::new(&CompressionArgs { compression: false, compress_credentialed: false });
    let mut parts = Response::new(()).into_parts().0;
    parts.headers = headers(&[JSON]);
    let body = disabled.apply(false, &disabled.accepted(&headers(&[GZIP])), &mut parts, whole(long()));
    assert!(!is_gzip(&body) && parts.headers.len() == 1);
}

#[test]
fn a_304_for_a_compressed_response_has_its_tag() {
    let request = [GZIP, ("if-none-match", "\"3--gzip\"")];
    let (parts, _) = apply(&request, 304, &[("etag", "\"3\"")], streamed([]));
    assert_eq!(parts.headers, headers(&[("etag", "\"3--gzip\""), ("vary", "accept-encoding")]));
}

#[test]
fn the_number_of_concurrent_compressions_is_limited() {
    let compression = compression();
    let accepted = compression.accepted(&headers(&[GZIP]));
    let respond = || {
        let mut parts = Response::new(()).into_parts().0;
        parts.headers = headers(&[JSON, ("etag", "\"3\"")]);
        (compression.apply(false, &accepted, &mut parts, whole(long())), parts.headers)
    };
    let mut bodies: Vec<_> = (0..MAX_CONCURRENT).map(|_| respond().0).collect();
    assert!(bodies.iter().all(is_gzip));
    let (plain, headers_sent) = respond();
    assert!(!is_gzip(&plain));
    assert_eq!(headers_sent, headers(&[JSON, ("etag", "\"3\""), ("vary", "accept-encoding")]));
    // A body frees its permit when it is read to the end, or dropped.
    read(&mut bodies[0]);
    assert!(is_gzip(&respond().0));
    bodies.truncate(1);
    assert!(is_gzip(&respond().0));
}

/// Otherwise the compressed length reveals secrets (BREACH).
#[test]
fn responses_that_depend_on_credentials_are_not_compressed() {
    let asked = Compression::new(&CompressionArgs { compression: true, compress_credentialed: true });
    for (request, response) in [
        (&[("authorization", "Bearer x")][..], &[][..]),
        (&[("cookie", "session=1")], &[]),
        (&[], &[("set-cookie", "session=1")]),
        (&[], &[("vary", "Accept, Cookie")]),
        (&[], &[("vary", "authorization")]),
        (&[], &[("cache-control", "private, max-age=60")]),
    ] {
        let (request, response) = ([request, &[GZIP]].concat(), [response, &[JSON]].concat());
        let (parts, body) = apply(&request, 200, &response, whole(long()));
        assert!(!is_gzip(&body), "{request:?} {response:?}");
        assert!(has_token(&parts.headers, &header::VARY, "accept-encoding"), "{request:?} {response:?}");
        let mut parts = Response::new(()).into_parts().0;
        parts.headers = headers(&response);
        let body = asked.apply(false, &asked.accepted(&headers(&request)), &mut parts, whole(long()));
        assert!(is_gzip(&body), "{request:?} {response:?}");
    }
}
