//! Requests with ambiguous framing, sent to a strict server.

use super::*;

const LF: &str = "GET / HTTP/1.1\nhost: test\r\n\r\n";

/// Starts a strict server with two worker threads.
async fn strict() -> Server {
    let workers = Workers::start(2).expect("threads");
    server_of(super::super::Server::default().strict().on(workers)).await
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /length HTTP/1.1\r\nhost: test\r\n{headers}\r\n{body}")
}

/// The requests that must be rejected.
fn refused() -> Vec<String> {
    vec![
        post("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        post("transfer-encoding: chunked\r\ncontent-length: 5\r\n", "0\r\n\r\n"),
        post("content-length: 5\r\ncontent-length: 6\r\n", "hello!"),
        post("content-length: 5\r\ncontent-length: 5\r\n", "hello"),
        post("content-length: 5, 5\r\n", "hello"),
        post("content-length: +5\r\n", "hello"),
        post("content-length: -5\r\n", "hello"),
        post("content-length: 0x5\r\n", "hello"),
        post("content-length:\r\n", "hello"),
        post("content-length: 99999999999999999999\r\n", "hello"),
        post("content-length : 5\r\n", "hello"),
        post("content-length\t: 5\r\n", "hello"),
        post(" content-length: 5\r\n", "hello"),
        post("x: a\r\n b\r\ncontent-length: 5\r\n", "hello"),
        post("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        post("transfer-encoding: chunked, chunked\r\n", "0\r\n\r\n"),
        post("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        post("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", "0\r\n\r\n"),
        post("transfer-encoding: xchunked\r\n", "0\r\n\r\n"),
        post("transfer-encoding: \x0bchunked\r\n", "0\r\n\r\n"),
        post("transfer-encoding:\r\n chunked\r\n", "0\r\n\r\n"),
        post("transfer-encoding : chunked\r\n", "0\r\n\r\n"),
        post("x: a\ncontent-length: 5\r\n", "hello"),
        post("x: a\rb\r\n", ""),
        post("x: a\r\r\n", ""),
        post("x: a\0b\r\n", ""),
        post("x\r\n", ""),
        post(": x\r\n", ""),
        LF.to_owned(),
        "\nGET / HTTP/1.1\r\nhost: test\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: test\r\n\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: test\n\n".to_owned(),
        "GET /\r/ HTTP/1.1\r\nhost: test\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n".to_owned(),
        "POST /length HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET /  HTTP/1.1\r\nhost: test\r\n\r\n".to_owned(),
        "GET / HTTP/2.0\r\nhost: test\r\n\r\n".to_owned(),
        "GET /\r\nhost: test\r\n\r\n".to_owned(),
    ]
}

#[tokio::test]
async fn an_ambiguous_request_is_rejected_and_the_connection_closed() {
    let server = strict().await;
    for request in refused() {
        // Alone, after another request, and byte by byte.
        for (before, piece) in [("", request.len()), (&*raw::get("/"), request.len()), ("", 1)] {
            let mut connection = server.connect().await;
            connection.send(before).await.expect("sent");
            if !before.is_empty() {
                assert_eq!(connection.response().await.expect("a response").body, "hello");
            }
            for piece in request.as_bytes().chunks(piece) {
                // The server may reject the request before all of it is sent.
                let _ = connection.send(piece).await;
            }
            let _ = connection.send(raw::get("/")).await;
            let response = connection.response().await.expect("a response");
            assert_eq!(response.status, 400, "{request:?}: {}", response.head);
            connection.closed().await.expect("closed");
            assert!(connection.rest().is_empty(), "{request:?}: a later request got a response");
        }
    }
}

#[tokio::test]
async fn requests_before_a_rejected_one_get_responses() {
    let server = strict().await;
    let mut connection = server.connect().await;
    connection.send([&raw::get("/"), &post("content-length: 3\r\n", "abc"), LF].concat()).await.expect("sent");
    assert_eq!(connection.response().await.expect("a response").body, "hello");
    assert_eq!(connection.response().await.expect("a response").body, "3");
    assert_eq!(connection.response().await.expect("a response").status, 400);
    connection.closed().await.expect("closed");
}

#[tokio::test]
async fn a_malformed_chunk_gets_400_and_closes_the_connection() {
    let server = strict().await;
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\r\nx: y\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
    ] {
        let head = post("transfer-encoding: chunked\r\n", "");
        // In one packet with the head, after it, and byte by byte. A client may wait for the response after the fault.
        let whole = format!("{head}{body}");
        let pieces = [vec![&*whole], vec![&head, body], body.split_inclusive(|_| true).collect()];
        for (index, pieces) in pieces.into_iter().enumerate() {
            let mut connection = server.connect().await;
            if index == 2 {
                connection.send(&head).await.expect("sent");
            }
            for piece in pieces {
                let _ = connection.send(piece).await;
            }
            let _ = connection.send(raw::get("/")).await;
            let response = connection.response().await.expect("a response");
            assert!(response.status == 400 && response.closes(), "{body:?}: {}", response.head);
            connection.closed().await.expect("closed");
            assert!(connection.rest().is_empty(), "{body:?}: a later request got a response");
        }
    }
}

/// A server that is not strict leaves the check to hyper, which accepts some of the bodies above.
#[tokio::test]
async fn every_server_refuses_a_malformed_chunk_with_400() {
    let (strict, lenient) = (strict().await, server().await);
    let head = post("transfer-encoding: chunked\r\n", "");
    for body in ["g\r\n", "-5\r\nhello\r\n", "5\r\nhelloX\r\n", "5\nhello\n", "5\r\nhello\r0\r\n"] {
        for server in [&strict, &lenient] {
            for pieces in [&[&*format!("{head}{body}")][..], &[&head, body]] {
                let mut connection = server.connect().await;
                for piece in pieces {
                    let _ = connection.send(piece).await;
                }
                let response = connection.response().await.expect("a response");
                assert!(response.status == 400 && response.closes(), "{body:?}: {}", response.head);
                connection.closed().await.expect("closed");
            }
        }
    }
}

/// They are not HTTP, so hyper gets them as they are. If the connection stays HTTP, they must not be read.
#[tokio::test]
async fn bytes_after_an_upgrade_request_are_not_read_as_a_request() {
    let server = strict().await;
    let upgrade = "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\n";
    for (early, closes) in [("", false), (LF, true), (&*raw::get("/"), true), ("\0", true)] {
        let mut connection = server.connect().await;
        connection.send(format!("{upgrade}{early}")).await.expect("sent");
        let response = connection.response().await.expect("a response");
        assert_eq!((&*response.body, response.closes()), ("hello", closes), "{early:?}");
        if closes {
            connection.closed().await.expect("closed");
            assert!(connection.rest().is_empty(), "{early:?}");
        } else {
            // The next request is checked again.
            connection.send(raw::get("/")).await.expect("sent");
            assert_eq!(connection.response().await.expect("a response").body, "hello");
            connection.send(LF).await.expect("sent");
            assert_eq!(connection.response().await.expect("a response").status, 400);
        }
    }
}

#[tokio::test]
async fn well_framed_requests_are_served_however_they_are_split() {
    let server = strict().await;
    let requests = [
        raw::get("/"),
        post("content-length: 5\r\n", "hello"),
        post("Content-LENGTH:5\r\n", "\r\n\n\r!"),
        post("Transfer-Encoding: CHUNKED\r\n", "5;a=b\r\nhello\r\n0A\r\n0123456789\r\n000\r\nx: y\r\n\r\n"),
        post("transfer-encoding:chunked\t\r\n", "0\r\n\r\n"),
        format!("\r\n{}", raw::get("/")),
        post("content-length: 0\r\n", ""),
    ];
    let all = requests.concat();
    for piece in [all.len(), 1, 7] {
        let mut connection = server.connect().await;
        for piece in all.as_bytes().chunks(piece) {
            connection.send(piece).await.expect("sent");
        }
        for body in ["hello", "5", "5", "15", "0", "hello", "0"] {
            let response = connection.response().await.expect("a response");
            assert_eq!((response.status, &*response.body), (200, body), "{}", response.head);
        }
    }
}

/// The response is hyper's 431, not the 400 for ambiguous framing.
#[tokio::test]
async fn a_head_that_is_too_long_is_431() {
    let server = strict().await;
    for piece in [4096, MAX_HEAD * 2] {
        let mut connection = server.connect().await;
        let head = format!("GET / HTTP/1.1\r\nhost: test\r\nx: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        for piece in head.as_bytes().chunks(piece) {
            let _ = connection.send(piece).await;
        }
        assert_eq!(connection.response().await.expect("a response").status, 431);
    }
}
