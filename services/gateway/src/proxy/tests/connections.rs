//! Bytes on a connection to an endpoint belong to the request that holds it, and to no other.

use test_support::raw::Raw;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
};

use super::{
    stub::{read_head, write_response},
    *,
};

/// Otherwise the next client would get what an attacker made the service append to a response.
#[tokio::test]
async fn bytes_after_a_response_are_not_a_response() {
    for comes_later in [false, true] {
        let (written, more) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let stub = Stub::raw({
            let (written, more) = (written.clone(), more.clone());
            move |mut stream, number| {
                let (written, more) = (written.clone(), more.clone());
                async move {
                    read_head(&mut stream).await;
                    if number > 0 {
                        return write_response(&mut stream, "its own").await;
                    }
                    let forged = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
                    let response = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst";
                    if comes_later {
                        stream.write_all(response.as_bytes()).await.expect("written");
                        more.notified().await;
                        stream.write_all(forged.as_bytes()).await.expect("written");
                    } else {
                        stream.write_all([response, forged].concat().as_bytes()).await.expect("written");
                    }
                    written.notify_one();
                    if read_head(&mut stream).await.is_some() {
                        write_response(&mut stream, "another's").await;
                    }
                }
            }
        })
        .await;
        let gateway = TestGateway::with(&[], &[&stub]);
        assert_eq!(gateway.get("/test").await.text(), "first");
        more.notify_one();
        written.notified().await;
        assert_eq!(gateway.get("/test").await.text(), "its own", "{comes_later}");
        assert_eq!(stub.connections(), 2);
    }
}

/// An endpoint that does not want the rest of a request may respond and close the connection before it has read it.
#[tokio::test]
async fn an_early_response_is_passed_on() {
    let stub = Stub::raw(async |mut stream, _| {
        read_head(&mut stream).await;
        let response = "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 8\r\n\r\ntoo much";
        stream.write_all(response.as_bytes()).await.expect("written");
        stream.shutdown().await.expect("shut down");
        // Unread data would make the kernel reset the connection, and lose the response.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    for _ in 0..2 {
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        raw.send("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 500000\r\n\r\nthe beginning").await.expect("sent");
        let response = raw.response().await.expect("a response");
        assert_eq!((response.status, &*response.body, response.closes()), (413, "too much", true), "{}", response.head);
    }
    assert_eq!(stub.connections(), 2);
}

#[tokio::test]
async fn request_and_response_may_exceed_every_buffer() {
    let stub =
        Stub::responding(async |request| Response::new(request.into_body().map_err(io::Error::other).boxed())).await;
    let gateway = TestGateway::with(&["--body-limit=100000000"], &[&stub]);
    let body: Bytes = (0..4_000_000_u32).map(|number| (number / 1000 % 251) as u8).collect();
    // One client connection stays on one thread of the gateway, and so uses one connection to the service. An HTTP/1.1
    // connection would be closed, because the response starts before the end of the request.
    let mut client = http_2(gateway.address).await;
    for _ in 0..2 {
        let request = Request::post("http://shop.example/test").body(Full::new(body.clone())).expect("a request");
        let response = client.send_request(request).await.expect("a response");
        assert!(TestResponse::read(response).await.expect("a complete response").body == body);
    }
    assert_eq!(stub.connections(), 1);
}

/// What a service sees of a connection.
#[derive(Debug, PartialEq)]
enum Seen {
    Request,
    Closed,
    Failed(io::ErrorKind),
}

/// Responds once on each connection, and reports what it sees.
async fn watching(response: &'static str) -> (Stub, mpsc::UnboundedReceiver<Seen>) {
    let (seen, receiver) = mpsc::unbounded_channel();
    let stub = Stub::raw(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            if read_head(&mut stream).await.is_none() {
                return;
            }
            stream.write_all(response.as_bytes()).await.expect("written");
            let _ = seen.send(Seen::Request);
            let end = stream.read_to_end(&mut Vec::new()).await;
            let _ = seen.send(end.map_or_else(|error| Seen::Failed(error.kind()), |_| Seen::Closed));
        }
    })
    .await;
    (stub, receiver)
}

/// Otherwise its port would be in `TIME_WAIT` for a minute, and a client could use up all ports of the gateway.
#[tokio::test]
async fn a_connection_that_cannot_be_used_again_is_reset() {
    const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let reset = Some(Seen::Failed(io::ErrorKind::ConnectionReset));
    for (start, response, is_aborted) in [
        ("HEAD /test HTTP/1.1\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", false),
        ("HEAD /test HTTP/1.1\r\n", EMPTY, false),
        ("GET /test HTTP/1.1\r\ncontent-length: 1\r\n", EMPTY, false),
        ("DELETE /test HTTP/1.1\r\ncontent-length: 1\r\n", EMPTY, false),
        ("GET /test HTTP/1.1\r\n", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", false),
        ("GET /test HTTP/1.1\r\n", "", true),
        ("GET /test HTTP/1.1\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe", true),
        ("POST /test HTTP/1.1\r\ncontent-length: 9\r\n", "", true),
    ] {
        let (stub, mut seen) = watching(response).await;
        let gateway = TestGateway::with(&[], &[&stub]);
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        let body = if start.contains("content-length") { "x" } else { "" };
        raw.send(format!("{start}host: a\r\n\r\n{body}")).await.expect("sent");
        assert_eq!(seen.recv().await, Some(Seen::Request));
        let kept = (!is_aborted).then_some(raw);
        let end = tokio::time::timeout(TIMEOUT, seen.recv()).await.expect("an end");
        assert_eq!(end, reset, "{start} {response}");
        drop(kept);
    }
}

/// Its service waits for a request, and may take a reset for an error.
#[tokio::test]
async fn an_idle_connection_is_closed_without_a_reset() {
    let (stub, mut seen) = watching("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    assert_eq!(gateway.get("/test").await.text(), "ok");
    gateway.apply(Vec::new()).await;
    assert_eq!((seen.recv().await, seen.recv().await), (Some(Seen::Request), Some(Seen::Closed)));
}
