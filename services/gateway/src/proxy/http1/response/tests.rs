use bytes::Buf;
use proptest::{collection::vec, prelude::*};

use super::*;

/// A parsed response.
#[derive(Debug, PartialEq)]
struct Parsed {
    status: u16,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// The bytes after the response.
    rest: Vec<u8>,
    keep_alive: bool,
}

/// Parses a response that arrives in pieces of `size` bytes.
fn parse_pieces(method: &Method, bytes: &[u8], size: usize) -> Result<Parsed, String> {
    let mut pieces = bytes.chunks(size);
    let mut read = BytesMut::new();
    let mut head = loop {
        if let Some((head, length)) = parse(&read, method).map_err(|error| error.to_string())? {
            read.advance(length);
            break head;
        }
        read.extend_from_slice(pieces.next().ok_or("incomplete head")?);
    };
    let (mut body, mut trailers) = (Vec::new(), None);
    loop {
        while let Some(frame) = head.remaining.take_frame(&mut read).map_err(|error| error.to_string())? {
            match frame.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        if head.remaining.is_none() {
            break;
        }
        let Some(piece) = pieces.next() else { break };
        read.extend_from_slice(piece);
    }
    if !head.remaining.is_none() && !head.remaining.ends_with_connection() {
        return Err("incomplete body".to_owned());
    }
    let rest = read.iter().copied().chain(pieces.flatten().copied()).collect();
    Ok(Parsed { status: head.parts.status.as_u16(), body, trailers, rest, keep_alive: head.keep_alive })
}

impl Parsed {
    fn body(&self) -> &str {
        str::from_utf8(&self.body).expect("text")
    }

    fn rest(&self) -> &str {
        str::from_utf8(&self.rest).expect("text")
    }
}

/// Parses a response, and checks that the outcome does not depend on how the bytes are split.
#[track_caller]
fn parse_response(method: &Method, text: &str) -> Result<Parsed, String> {
    let whole = parse_pieces(method, text.as_bytes(), usize::MAX);
    for size in [1, 2, 3, 7] {
        assert_eq!(parse_pieces(method, text.as_bytes(), size), whole, "{text} in pieces of {size}");
    }
    whole
}

#[test]
fn the_head_determines_the_end_of_a_response() {
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "hello", ""),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP/1.1 200", "hello", "HTTP/1.1 200"),
        ("HTTP/1.1 200\r\nContent-Length:0\r\n\r\nx", "", "x"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n2;a=b\r\n, \r\n0\r\n\r\nx",
            "hello, ",
            "x",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\nx", "", "x"),
        ("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\nx", "", "x"),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\nx", "", "x"),
        ("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\nx", "", "x"),
    ];
    for (text, body, rest) in cases {
        let parsed = parse_response(&Method::GET, text).expect("a response");
        assert_eq!((parsed.body(), &parsed.trailers, parsed.rest()), (body, &None, rest), "{text}");
    }
    let parsed = parse_response(&Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nx").expect("a response");
    assert_eq!(parsed.rest(), "x");
}

#[test]
fn a_response_without_a_length_ends_with_its_connection() {
    for text in ["HTTP/1.1 200 OK\r\n\r\nhello", "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\nhello"] {
        let parsed = parse_response(&Method::GET, text).expect("a response");
        assert_eq!((parsed.body(), parsed.rest(), parsed.keep_alive), ("hello", "", false), "{text}");
    }
}

#[test]
fn trailers_follow_the_last_chunk() {
    let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nChecked: yes\r\nby: me\r\n\r\nx";
    let parsed = parse_response(&Method::GET, text).expect("a response");
    let trailers = parsed.trailers.as_ref().expect("trailers");
    assert_eq!((parsed.body(), parsed.rest(), trailers.len()), ("hi", "x", 2));
    assert_eq!((&trailers["checked"], &trailers["by"]), (&"yes".parse().expect("text"), &"me".parse().expect("text")));
}

#[test]
fn the_head_says_whether_the_connection_stays_open() {
    for (head, keep_alive) in [
        ("HTTP/1.1 200 OK\r\n", true),
        ("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n", true),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n", false),
        ("HTTP/1.1 200 OK\r\nconnection: x-hop, Close\r\n", false),
        ("HTTP/1.0 200 OK\r\n", false),
        ("HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\n", true),
        ("HTTP/1.1 101 Switching Protocols\r\n", false),
    ] {
        let parsed = parse_response(&Method::GET, &format!("{head}content-length: 0\r\n\r\n")).expect("a response");
        assert_eq!(parsed.keep_alive, keep_alive, "{head}");
    }
}

/// Otherwise what follows could be taken for the response to another client.
#[test]
fn ambiguous_framing_is_refused() {
    for head in [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5\r\ncontent-length: 5",
        "content-length: 5, 5",
        "content-length: +5",
        "content-length: -5",
        "content-length: 0x5",
        "content-length: ",
        "content-length: 18446744073709551616",
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: gzip",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding : chunked",
        "x: 1\r\n transfer-encoding: chunked",
    ] {
        let text = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        assert!(parse_response(&Method::GET, &text).is_err(), "{head}");
    }
    for text in
        ["HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "hello\r\n\r\n"]
    {
        assert!(parse_response(&Method::GET, text).is_err(), "{text}");
    }
}

#[test]
fn malformed_chunks_are_refused() {
    for chunks in [
        "x\r\n",
        "5\nhello\r\n",
        "2\r\nhello\r\n",
        "-1\r\n",
        " 5\r\n",
        "\r\n",
        "fffffffffffffffff\r\n",
        "0\r\n: x\r\n\r\n",
    ] {
        let text = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        let error = parse_response(&Method::GET, &text).expect_err(chunks);
        assert!(error.contains("malformed"), "{chunks}: {error}");
    }
}

#[test]
fn heads_and_trailers_are_limited() {
    let long = "x".repeat(MAX_HEAD);
    let many = "x: 1\r\n".repeat(MAX_HEADERS + 1);
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n";
    for text in [
        format!("HTTP/1.1 200 OK\r\nx: {long}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\nx: {long}"),
        format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
        format!("{chunked}x: {long}\r\n\r\n"),
        format!("{chunked}{many}\r\n"),
    ] {
        let error = parse_pieces(&Method::GET, text.as_bytes(), 4096).expect_err("too long");
        assert!(["too long", "too many", "malformed"].iter().any(|reason| error.contains(reason)), "{error}");
    }
}

/// Bytes that often look like a response, or like half of one.
fn response_like() -> impl Strategy<Value = Vec<u8>> {
    let fragments = proptest::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 304\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 ",
        "content-length: 5\r\n",
        "Content-Length: ",
        "transfer-encoding: chunked\r\n",
        "Transfer-Encoding: gzip",
        "connection: keep-alive\r\n",
        "connection: close",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "0\r\nchecked: yes\r\n\r\n",
        "1f;a=b\r\n",
        "ffffffffffffffff\r\n",
        ": ",
        " ",
        "x",
    ]);
    let fragment = prop_oneof![
        8 => fragments.prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..8),
    ];
    let start = prop_oneof![4 => Just("HTTP/1.1 200 OK\r\n"), 1 => Just("")];
    (start, vec(fragment, 0..12)).prop_map(|(start, fragments)| [start.as_bytes(), &fragments.concat()].concat())
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![4 => Just(Method::GET), 1 => Just(Method::HEAD)]
}

/// Encodes a body in chunks, each of which may have an extension.
fn encode_chunks(chunks: &[(Vec<u8>, bool)], trailers: &[(String, String)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (chunk, has_extension) in chunks {
        let extension = if *has_extension { ";name=\"value\"" } else { "" };
        text.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        text.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    text
}

proptest! {
    /// The boundaries of packets carry no meaning. A parser that finds one in them can be desynchronized.
    #[test]
    fn the_outcome_does_not_depend_on_packet_boundaries(
        bytes in response_like(),
        method in method(),
        size in 1..20_usize,
    ) {
        let whole = parse_pieces(&method, &bytes, usize::MAX);
        prop_assert_eq!(parse_pieces(&method, &bytes, size), whole);
    }

    #[test]
    fn no_byte_belongs_to_two_responses(bytes in response_like(), method in method()) {
        if let Ok(parsed) = parse_pieces(&method, &bytes, usize::MAX) {
            prop_assert!(bytes.ends_with(&parsed.rest));
            let response = &bytes[..bytes.len() - parsed.rest.len()];
            let again = parse_pieces(&method, response, usize::MAX).expect("the same response");
            prop_assert_eq!(again, Parsed { rest: Vec::new(), ..parsed });
        }
    }

    #[test]
    fn a_body_with_a_length_is_read_completely(
        body in vec(any::<u8>(), 0..200),
        rest in response_like(),
        size in 1..50_usize,
    ) {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let parsed = parse_pieces(&Method::GET, &[head.as_bytes(), &body, &rest].concat(), size).expect("a response");
        prop_assert_eq!((parsed.body, parsed.trailers, parsed.rest, parsed.keep_alive), (body, None, rest, true));
    }

    #[test]
    fn a_chunked_body_is_decoded(
        chunks in vec((vec(any::<u8>(), 1..40), any::<bool>()), 0..6),
        trailers in proptest::collection::btree_map("x-[a-z]{1,8}", "[!-~]{0,8}", 0..4),
        rest in response_like(),
        size in 1..50_usize,
    ) {
        let trailers: Vec<_> = trailers.into_iter().collect();
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let bytes = [head.as_bytes(), &encode_chunks(&chunks, &trailers), &rest].concat();
        let parsed = parse_pieces(&Method::GET, &bytes, size).expect("a response");
        let body: Vec<u8> = chunks.into_iter().flat_map(|(chunk, _)| chunk).collect();
        prop_assert_eq!((parsed.body, parsed.rest), (body, rest));
        let found = parsed.trailers.unwrap_or_default();
        let found: Vec<_> =
            found.iter().map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned())).collect();
        prop_assert_eq!(found.len(), trailers.len());
        prop_assert!(trailers.iter().all(|trailer| found.contains(trailer)));
    }
}
