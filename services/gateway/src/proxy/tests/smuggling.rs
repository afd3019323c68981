//! One request to the gateway is one request to a service, with its own framing. Ambiguous requests are refused; the
//! HTTP server's tests cover which ones.

use test_support::raw::Raw;
use tokio::io::AsyncReadExt;

use super::{
    stub::{read_head, write_response},
    *,
};

/// Records all bytes, and responds to each request.
async fn recording() -> (Stub, Arc<Mutex<Vec<u8>>>) {
    let recorded = Arc::<Mutex<Vec<u8>>>::default();
    let log = recorded.clone();
    let stub = Stub::raw(move |mut stream, _| {
        let log = log.clone();
        async move {
            let mut bytes = Vec::new();
            while stream.read_buf(&mut bytes).await.is_ok_and(|length| length > 0) {
                log.lock().expect("a lock").append(&mut bytes);
                let ends = { log.lock().expect("a lock").ends_with(b"\r\n\r\n") };
                if ends || log.lock().expect("a lock").ends_with(b"hello") {
                    write_response(&mut stream, "ok").await;
                }
            }
        }
    })
    .await;
    (stub, recorded)
}

#[tokio::test]
async fn refused_requests_reach_no_service() {
    let (stub, recorded) = recording().await;
    let gateway = TestGateway::with(&[], &[&stub]);
    for request in [
        "POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /test/smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /test HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 40\r\n\r\n0\r\n\r\n",
        "POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "POST /test HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST /test HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "GET /test HTTP/1.1\r\nhost: a\r\nx: y\rz\r\n\r\n",
        "GET /test HTTP/1.1\r\nhost: a\nx: y\r\n\r\n",
        "GET /test HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET /test HTTP/1.1\r\n\r\n",
    ] {
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        raw.send(request).await.expect("sent");
        assert_eq!(raw.response().await.expect("a response").status, 400, "{request:?}");
        raw.closed().await.expect("closed");
        assert!(raw.rest().is_empty(), "{request:?}");
    }
    assert!(recorded.lock().expect("a lock").is_empty());
    assert_eq!(stub.connections(), 0);
}

#[tokio::test]
async fn malformed_chunks_abort_the_request_to_the_service() {
    let (stub, recorded) = recording().await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    let body = "5\r\nhi\r\n0\r\n\r\nGET /test/smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    raw.send(format!("POST /test HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}"))
        .await
        .expect("sent");
    let closed = raw.closed().await;
    assert!(closed.is_ok(), "{closed:?}");
    let response = String::from_utf8_lossy(raw.rest()).into_owned();
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 400 "), "{response}");
    let recorded = String::from_utf8_lossy(&recorded.lock().expect("a lock")).into_owned();
    assert!(!recorded.contains("smuggled"), "{recorded}");
}

#[tokio::test]
async fn bodies_are_framed_anew() {
    for (framing, body, head) in [
        ("content-length: 5", "hello", "content-length: 5\r\n"),
        ("Transfer-Encoding: Chunked", "2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", "transfer-encoding: chunked\r\n"),
    ] {
        let (stub, recorded) = recording().await;
        let gateway = TestGateway::with(&[], &[&stub]);
        for method in ["POST", "GET", "DELETE"] {
            recorded.lock().expect("a lock").clear();
            let mut raw = Raw::connect(gateway.address).await.expect("a connection");
            let request = format!(
                "{method} /test HTTP/1.1\r\nhost: a\r\n{framing}\r\nconnection: x-own\r\nx-own: 1\r\n\r\n{body}"
            );
            raw.send(request).await.expect("sent");
            assert_eq!(raw.response().await.expect("a response").body, "ok", "{method} {framing}");
            let recorded = String::from_utf8_lossy(&recorded.lock().expect("a lock")).into_owned();
            let (heads, bodies) = recorded.split_once("\r\n\r\n").expect("a head");
            let heads = format!("{heads}\r\n");
            assert!(heads.contains(head) && !heads.contains("x-own"), "{heads}");
            assert_eq!(
                heads.matches("content-length").count() + heads.matches("transfer-encoding").count(),
                1,
                "{heads}"
            );
            if framing.starts_with("content") {
                assert_eq!(bodies, "hello");
            } else {
                assert!(bodies.ends_with("0\r\n\r\n") && !bodies.contains("x=y"), "{bodies}");
            }
        }
    }
}

/// A service may not expect a body with these methods. If it leaves the body unread, it takes it for the next request,
/// and its response to that would go to another client.
#[tokio::test]
async fn no_request_follows_a_body_that_may_be_left_unread() {
    for method in ["GET", "DELETE", "OPTIONS", "BREW"] {
        for (framing, body) in
            [("content-length: 5", "hello"), ("transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")]
        {
            let stub = Stub::raw(async |mut stream, number| {
                while let Some(head) = read_head(&mut stream).await {
                    let closes = head.contains("connection: close\r\n");
                    write_response(&mut stream, &format!("connection {number}, close: {closes}")).await;
                }
            })
            .await;
            let gateway = TestGateway::with(&[], &[&stub]);
            let mut raw = Raw::connect(gateway.address).await.expect("a connection");
            raw.send(format!("{method} /test HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n{body}")).await.expect("sent");
            let response = raw.response().await.expect("a response");
            assert_eq!(response.body, "connection 0, close: true", "{method} {framing}");
            raw.send("GET /test HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
            let response = raw.response().await.expect("a response");
            assert_eq!(response.body, "connection 1, close: false", "{method} {framing}");
        }
    }
}
