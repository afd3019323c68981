//! One request to the gateway is one request to a service, framed anew. What can be read in two ways is refused; which
//! requests these are, the server's own tests say.

use test_support::raw::Raw;
use tokio::io::AsyncReadExt;

use super::{
    stub::{read_head, write_answer},
    *,
};

/// Notes all bytes that come to it, and answers each read.
async fn noting() -> (Stub, Arc<Mutex<Vec<u8>>>) {
    let noted = Arc::<Mutex<Vec<u8>>>::default();
    let to = noted.clone();
    let stub = Stub::raw(move |mut stream, _| {
        let to = to.clone();
        async move {
            let mut bytes = Vec::new();
            while stream.read_buf(&mut bytes).await.is_ok_and(|length| length > 0) {
                to.lock().expect("a lock").append(&mut bytes);
                let ends = { to.lock().expect("a lock").ends_with(b"\r\n\r\n") };
                if ends || to.lock().expect("a lock").ends_with(b"hello") {
                    write_answer(&mut stream, "ok").await;
                }
            }
        }
    })
    .await;
    (stub, noted)
}

#[tokio::test]
async fn what_is_refused_reaches_no_service() {
    let (stub, noted) = noting().await;
    let site = Site::with(&[], &[&stub]);
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
        let mut raw = Raw::connect(site.address).await.expect("a connection");
        raw.send(request).await.expect("sent");
        assert_eq!(raw.answer().await.expect("an answer").status, 400, "{request:?}");
        raw.closed().await.expect("closed");
        assert!(raw.rest().is_empty(), "{request:?}");
    }
    assert!(noted.lock().expect("a lock").is_empty());
    assert_eq!(stub.connections(), 0);
}

#[tokio::test]
async fn a_body_that_is_chunked_badly_is_a_400_and_ends_the_request_to_the_service() {
    let (stub, noted) = noting().await;
    let site = Site::with(&[], &[&stub]);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    let body = "5\r\nhi\r\n0\r\n\r\nGET /test/smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    raw.send(format!("POST /test HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}"))
        .await
        .expect("sent");
    let closed = raw.closed().await;
    assert!(closed.is_ok(), "{closed:?}");
    let answer = String::from_utf8_lossy(raw.rest()).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let noted = String::from_utf8_lossy(&noted.lock().expect("a lock")).into_owned();
    assert!(!noted.contains("smuggled"), "{noted}");
}

#[tokio::test]
async fn what_is_sent_on_is_framed_by_what_was_read() {
    for (framing, body, head) in [
        ("content-length: 5", "hello", "content-length: 5\r\n"),
        ("Transfer-Encoding: Chunked", "2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", "transfer-encoding: chunked\r\n"),
    ] {
        let (stub, noted) = noting().await;
        let site = Site::with(&[], &[&stub]);
        for method in ["POST", "GET", "DELETE"] {
            noted.lock().expect("a lock").clear();
            let mut raw = Raw::connect(site.address).await.expect("a connection");
            let request = format!(
                "{method} /test HTTP/1.1\r\nhost: a\r\n{framing}\r\nconnection: x-own\r\nx-own: 1\r\n\r\n{body}"
            );
            raw.send(request).await.expect("sent");
            assert_eq!(raw.answer().await.expect("an answer").body, "ok", "{method} {framing}");
            let noted = String::from_utf8_lossy(&noted.lock().expect("a lock")).into_owned();
            let (heads, bodies) = noted.split_once("\r\n\r\n").expect("a head");
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

/// Of these methods a service may expect no body: what it leaves unread it takes for the next request, and its answer to
/// that would be another client's.
#[tokio::test]
async fn no_request_follows_one_whose_body_its_service_may_leave_unread() {
    for method in ["GET", "DELETE", "OPTIONS", "BREW"] {
        for (framing, body) in
            [("content-length: 5", "hello"), ("transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")]
        {
            let stub = Stub::raw(async |mut stream, number| {
                while let Some(head) = read_head(&mut stream).await {
                    let is_last = head.contains("connection: close\r\n");
                    write_answer(&mut stream, &format!("connection {number}, the last: {is_last}")).await;
                }
            })
            .await;
            let site = Site::with(&[], &[&stub]);
            let mut raw = Raw::connect(site.address).await.expect("a connection");
            raw.send(format!("{method} /test HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n{body}")).await.expect("sent");
            let answer = raw.answer().await.expect("an answer");
            assert_eq!(answer.body, "connection 0, the last: true", "{method} {framing}");
            raw.send("GET /test HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
            let answer = raw.answer().await.expect("an answer");
            assert_eq!(answer.body, "connection 1, the last: false", "{method} {framing}");
        }
    }
}
