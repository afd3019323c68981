use std::{
    collections::VecDeque,
    io::Write as _,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use flate2::write::GzDecoder;
use http::{Response, response::Parts};
use http_body::{Body as _, Frame, SizeHint};
use proptest::prelude::*;

use super::*;

/// A body that gives what it is told to, piece by piece; `None` is a moment in which there is nothing.
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

#[expect(clippy::unnecessary_wraps, reason = "a piece is one or none")]
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
    Compression::new(&CompressionArgs { compression: true })
}

fn apply(request: &[(&str, &str)], status: u16, answer: &[(&str, &str)], body: Pieces) -> (Parts, Body<Pieces>) {
    let compression = compression();
    let mut parts = Response::new(()).into_parts().0;
    parts.status = StatusCode::from_u16(status).expect("a status");
    parts.headers = headers(answer);
    let body = compression.apply(false, &compression.see(&headers(request)), &mut parts, body);
    (parts, body)
}

/// What comes out before a body has nothing, or is at its end; and the trailers.
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
    decoder.finish().expect("a whole gzip stream")
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
fn a_long_text_is_compressed_for_those_who_take_it_and_says_so() {
    let answer = [JSON, ("content-length", "3300"), ("accept-ranges", "bytes"), ("etag", "\"3\""), ("vary", "origin")];
    let (parts, mut body) = apply(&[GZIP], 200, &answer, whole(long()));
    let expected =
        [JSON, ("etag", "\"3--gzip\""), ("vary", "origin"), ("vary", "accept-encoding"), ("content-encoding", "gzip")];
    assert_eq!(parts.headers, headers(&expected));
    assert_eq!(body.size_hint().exact(), None);
    let (frames, _) = read(&mut body);
    assert_eq!(decompress(&frames), long().as_bytes());
    assert!(frames.concat().len() < long().len() / 10);
    assert_eq!(frames.len(), 1, "one piece stays one");
    assert!(body.is_end_stream());

    let (parts, body) = apply(&[], 200, &answer, whole(long()));
    assert!(!is_gzip(&body));
    let expected = [JSON, answer[1], answer[2], answer[3], ("vary", "origin"), ("vary", "accept-encoding")];
    assert_eq!(parts.headers, headers(&expected));
}

#[test]
fn types_that_are_worth_it_are_compressed() {
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
fn what_must_stay_as_it_is_does() {
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
    for (status, request, answer) in cases {
        let (parts, body) = apply(request, *status, answer, whole(long()));
        assert!(!is_gzip(&body), "{status} {answer:?}");
        assert_eq!(parts.headers.get(header::CONTENT_TYPE), Some(&HeaderValue::from_static(JSON.1)));
    }
    for status in [200, 201, 404, 422, 500] {
        assert!(is_gzip(&apply(&[GZIP], status, &[JSON], whole(long())).1), "{status}");
    }
}

#[test]
fn what_is_short_is_sent_as_it_is_and_does_not_depend_on_the_client() {
    let (parts, body) = apply(&[GZIP], 200, &[JSON], whole("x".repeat(1023)));
    assert!(!is_gzip(&body) && !parts.headers.contains_key(header::VARY));
    assert!(is_gzip(&apply(&[GZIP], 200, &[JSON], whole("x".repeat(1024))).1));
    assert!(is_gzip(&apply(&[GZIP], 200, &[JSON], streamed([data("x")])).1), "of unknown length");
}

#[test]
fn a_client_that_refuses_plain_content_gets_none() {
    let only = ("accept-encoding", "gzip, identity;q=0");
    for (kind, body) in [("image/png", whole(long())), ("application/json", whole("{}".to_owned()))] {
        assert!(is_gzip(&apply(&[only], 200, &[("content-type", kind)], body).1), "{kind}");
    }
    assert!(!is_gzip(&apply(&[only], 200, &[("content-type", "application/grpc")], whole(long())).1));
    assert!(!is_gzip(&apply(&[only], 200, &[JSON], whole(String::new())).1), "there is no content");
}

#[test]
fn an_answer_to_head_varies_as_that_to_get_does() {
    let compression = compression();
    let asked = compression.see(&headers(&[GZIP]));
    for (length, varies) in [("5000", true), ("5", false)] {
        let mut parts = Response::new(()).into_parts().0;
        parts.headers = headers(&[JSON, ("content-length", length), ("etag", "\"3\"")]);
        let body = compression.apply(true, &asked, &mut parts, streamed([]));
        assert!(!is_gzip(&body));
        assert_eq!(parts.headers.contains_key(header::VARY), varies, "{length}");
        assert_eq!(parts.headers.get(header::CONTENT_LENGTH), Some(&length.parse().expect("a value")));
        assert_eq!(parts.headers.get(header::ETAG), Some(&HeaderValue::from_static("\"3\"")));
    }
}

#[test]
fn what_varies_already_is_not_said_to_twice() {
    for vary in ["Accept-Encoding", "origin, accept-encoding", "*"] {
        let (parts, body) = apply(&[GZIP], 200, &[JSON, ("vary", vary)], whole(long()));
        assert!(is_gzip(&body));
        assert_eq!(parts.headers.get_all(header::VARY).iter().collect::<Vec<_>>(), [vary]);
    }
}

#[test]
fn it_can_be_off() {
    let off = Compression::new(&CompressionArgs { compression: false });
    let mut parts = Response::new(()).into_parts().0;
    parts.headers = headers(&[JSON]);
    let body = off.apply(false, &off.see(&headers(&[GZIP])), &mut parts, whole(long()));
    assert!(!is_gzip(&body) && parts.headers.len() == 1);
}

#[test]
fn a_304_of_what_was_read_compressed_has_its_tag() {
    let request = [GZIP, ("if-none-match", "\"3--gzip\"")];
    let (parts, _) = apply(&request, 304, &[("etag", "\"3\"")], streamed([]));
    assert_eq!(parts.headers, headers(&[("etag", "\"3--gzip\""), ("vary", "accept-encoding")]));
}

#[test]
fn a_stream_is_not_held_back() {
    let (_, mut body) = apply(
        &[GZIP],
        200,
        &[JSON],
        streamed([data("{\"a\":1}\n"), None, None, data("{\"b\":2}\n"), data("{\"c\":3}\n"), None, None]),
    );
    let mut decoder = GzDecoder::new(Vec::new());
    for expected in ["{\"a\":1}\n", "{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n"] {
        let (frames, _) = read(&mut body);
        assert!(!body.is_end_stream());
        decoder.write_all(&frames.concat()).expect("gzip");
        decoder.flush().expect("gzip");
        assert_eq!(String::from_utf8_lossy(decoder.get_ref()), expected);
    }
    let (frames, _) = read(&mut body);
    decoder.write_all(&frames.concat()).expect("gzip");
    decoder.finish().expect("a whole stream");
}

#[test]
fn content_that_comes_to_next_to_nothing_does_not_hold_its_thread() {
    let read = std::cell::Cell::new(0);
    let zeros = std::iter::repeat_with(|| {
        read.set(read.get() + 1);
        Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[0; 16 * 1024])))
    });
    let compression = compression();
    let mut parts = Response::new(()).into_parts().0;
    parts.headers = headers(&[JSON]);
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(zeros));
    let mut body = compression.apply(false, &compression.see(&headers(&[GZIP])), &mut parts, body);
    for pieces in [4, 8, 12] {
        let frame = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(frame, Poll::Ready(Some(Ok(_)))) && read.get() <= pieces, "{} were read", read.get());
    }
}

#[test]
fn trailers_come_after_the_end() {
    let trailers = headers(&[("checked", "yes")]);
    let pieces = [data(long()), Some(Frame::trailers(trailers.clone()))];
    let (_, mut body) = apply(&[GZIP], 200, &[JSON], streamed(pieces));
    let (frames, found) = read(&mut body);
    assert_eq!(decompress(&frames), long().as_bytes());
    assert_eq!(found, Some(trailers));
    assert!(body.is_end_stream());
}

#[test]
fn a_broken_answer_is_not_ended_as_a_whole_one() {
    let body = http_body_util::StreamBody::new(futures_util::stream::iter([
        Ok(Frame::data(Bytes::from(long()))),
        Err(std::io::Error::other("gone")),
    ]));
    let compression = compression();
    let mut parts = Response::new(()).into_parts().0;
    parts.headers = headers(&[JSON]);
    let mut body = compression.apply(false, &compression.see(&headers(&[GZIP])), &mut parts, body);
    let mut made = Vec::new();
    loop {
        match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => made.push(frame.into_data().expect("data")),
            Poll::Ready(Some(Err(error))) => break assert_eq!(error.to_string(), "gone"),
            other => panic!("{other:?}"),
        }
    }
    let after = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(after, Poll::Ready(None)) && body.is_end_stream(), "nothing comes after an error");
    let mut decoder = GzDecoder::new(Vec::new());
    let read = decoder.write_all(&made.concat()).and_then(|()| decoder.try_finish());
    assert!(made.is_empty() || read.is_err());
}

#[test]
fn beyond_so_many_at_a_time_answers_are_sent_as_they_are() {
    let compression = compression();
    let asked = compression.see(&headers(&[GZIP]));
    let make = || {
        let mut parts = Response::new(()).into_parts().0;
        parts.headers = headers(&[JSON, ("etag", "\"3\"")]);
        (compression.apply(false, &asked, &mut parts, whole(long())), parts.headers)
    };
    let mut bodies: Vec<_> = (0..MAX_AT_A_TIME).map(|_| make().0).collect();
    assert!(bodies.iter().all(is_gzip));
    let (plain, sent) = make();
    assert!(!is_gzip(&plain));
    assert_eq!(sent, headers(&[JSON, ("etag", "\"3\""), ("vary", "accept-encoding")]));
    // One that was read to its end makes room, though its client still holds it; and so does one that is dropped.
    read(&mut bodies[0]);
    assert!(is_gzip(&make().0));
    bodies.truncate(1);
    assert!(is_gzip(&make().0));
}

proptest! {
    #[test]
    fn what_comes_out_is_what_went_in(
        pieces in proptest::collection::vec(
            proptest::option::weighted(0.8, prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..3000),
                (any::<u8>(), 0_usize..200_000).prop_map(|(byte, count)| vec![byte; count]),
            ]),
            0..12,
        ),
    ) {
        let expected = pieces.iter().flatten().flatten().copied().collect::<Vec<u8>>();
        let moments = pieces.len();
        let frames = pieces.into_iter().map(|piece| piece.and_then(data));
        let (_, mut body) = apply(&[GZIP], 200, &[JSON], streamed(frames));
        let mut made = Vec::new();
        for _ in 0..=moments {
            let (frames, _) = read(&mut body);
            prop_assert!(frames.iter().all(|frame| !frame.is_empty()), "an empty frame is for nothing");
            made.extend(frames);
        }
        prop_assert!(body.is_end_stream());
        prop_assert_eq!(decompress(&made), expected);
    }
}
