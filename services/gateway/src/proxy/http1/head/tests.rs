use bytes::Buf;

use super::*;

/// All that follows from an answer that comes in pieces of so many bytes: its head's status, its body, its trailers,
/// what is left over, and whether the connection goes on; or why it is none.
type Outcome = Result<(u16, String, Option<HeaderMap>, String, bool), String>;

fn answer(method: &Method, text: &str, size: usize) -> Outcome {
    let mut pieces = text.as_bytes().chunks(size);
    let mut read = BytesMut::new();
    let refused = |error: Error| error.to_string();
    let mut head = loop {
        if let Some((head, length)) = parse(&read, method).map_err(refused)? {
            read.advance(length);
            break head;
        }
        read.extend_from_slice(pieces.next().ok_or("no head")?);
    };
    let (mut body, mut trailers) = (Vec::new(), None);
    loop {
        while let Some(frame) = head.rest.take(&mut read).map_err(refused)? {
            match frame.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        if head.rest.is_nothing() {
            break;
        }
        let Some(piece) = pieces.next() else { break };
        read.extend_from_slice(piece);
    }
    if !head.rest.is_nothing() && !head.rest.ends_with_connection() {
        return Err("not all of it".to_owned());
    }
    let over: Vec<u8> = read.iter().copied().chain(pieces.flatten().copied()).collect();
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ok((head.parts.status.as_u16(), text(body), trailers, text(over), head.is_kept))
}

/// The same, however the bytes come.
#[track_caller]
fn outcome(method: &Method, text: &str) -> Outcome {
    let whole = answer(method, text, usize::MAX);
    for size in [1, 2, 3, 7] {
        assert_eq!(answer(method, text, size), whole, "{size} bytes at a time of {text}");
    }
    whole
}

#[test]
fn an_answer_ends_where_its_head_says() {
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
    for (text, body, over) in cases {
        let (_, found, trailers, left, _) = outcome(&Method::GET, text).expect("an answer");
        assert_eq!((&*found, trailers, &*left), (body, None, over), "{text}");
    }
    let (.., over, _) = outcome(&Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nx").expect("an answer");
    assert_eq!(over, "x");
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection() {
    for text in ["HTTP/1.1 200 OK\r\n\r\nhello", "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\nhello"] {
        let (_, body, _, over, is_kept) = outcome(&Method::GET, text).expect("an answer");
        assert_eq!((&*body, &*over, is_kept), ("hello", "", false), "{text}");
    }
}

#[test]
fn trailers_come_after_the_last_chunk() {
    let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nChecked: yes\r\nby: me\r\n\r\nx";
    let (_, body, trailers, over, _) = outcome(&Method::GET, text).expect("an answer");
    let trailers = trailers.expect("trailers");
    assert_eq!((&*body, &*over, trailers.len()), ("hi", "x", 2));
    assert_eq!((&trailers["checked"], &trailers["by"]), (&"yes".parse().expect("text"), &"me".parse().expect("text")));
}

#[test]
fn a_connection_goes_on_unless_an_answer_says_otherwise() {
    for (head, is_kept) in [
        ("HTTP/1.1 200 OK\r\n", true),
        ("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n", true),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n", false),
        ("HTTP/1.1 200 OK\r\nconnection: x-hop, Close\r\n", false),
        ("HTTP/1.0 200 OK\r\n", false),
        ("HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\n", true),
        ("HTTP/1.1 101 Switching Protocols\r\n", false),
    ] {
        let found = outcome(&Method::GET, &format!("{head}content-length: 0\r\n\r\n")).expect("an answer").4;
        assert_eq!(found, is_kept, "{head}");
    }
}

/// Where the end of an answer is a matter of opinion, what follows it may be taken for another client's answer.
#[test]
fn an_answer_with_two_ends_is_none() {
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
        assert!(outcome(&Method::GET, &text).is_err(), "{head}");
    }
    for text in
        ["HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "hello\r\n\r\n"]
    {
        assert!(outcome(&Method::GET, text).is_err(), "{text}");
    }
}

#[test]
fn a_chunk_that_is_malformed_ends_an_answer() {
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
        let error = outcome(&Method::GET, &text).expect_err(chunks);
        assert!(error.contains("malformed"), "{chunks}: {error}");
    }
}

#[test]
fn heads_and_trailers_have_a_longest_length() {
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
        let error = answer(&Method::GET, &text, 4096).expect_err("too long");
        assert!(["too long", "too many", "malformed"].iter().any(|reason| error.contains(reason)), "{error}");
    }
}
