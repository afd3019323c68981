//! HTTP/1: slow heads, bodies and responses.

use super::*;

#[tokio::test]
async fn an_incomplete_head_closes_the_connection() {
    let server = server_with(TIMEOUTS).await;
    for part in ["", "P", "G", "GET / HTTP/1.1\r\nhost: test\r\n", "PRI", "PRI * HTTP/2.0\r\n\r\n", &PREFACE[..23]] {
        let started = Instant::now();
        let mut connection = server.connect().await;
        connection.send(part).await.expect("sent");
        let closed = connection.closed().await.map_err(|error| error.kind());
        // Unread bytes cause a reset.
        assert!(matches!(closed, Ok(()) | Err(ErrorKind::ConnectionReset)), "{part:?}: {closed:?}");
        assert!(started.elapsed() >= TIMEOUTS.request_head_timeout, "{part:?}: after {:?}", started.elapsed());
        assert!(!connection.rest().starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_trickling_head_does_not_extend_the_timeout() {
    let server = server_with(TIMEOUTS).await;
    let mut connection = server.connect().await;
    connection.send("GET / HTTP/1.1\r\nx: ").await.expect("sent");
    let pace = TIMEOUTS.request_head_timeout / 8;
    let started = Instant::now();
    while time::timeout(pace, connection.closed()).await.is_err() && connection.send("x").await.is_ok() {
        assert!(started.elapsed() < TIMEOUTS.request_head_timeout * 20, "the connection is still open");
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_disconnected() {
    let server = server_with(TIMEOUTS).await;
    let mut client = server.connect().await;
    let requests = raw::get("/large").repeat(1000);
    let disconnected = async { while client.send(&requests).await.is_ok() {} };
    time::timeout(TIMEOUT, disconnected).await.expect("reset");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_the_whole_response() {
    // Longer than a pause of the machine, which looks as if the client read nothing.
    let write_timeout = Duration::from_millis(2500);
    let server = server_with(Timeouts { write_timeout, ..Timeouts::default() }).await;
    let mut slow = server.connect().await;
    slow.send(raw::get("/large").repeat(32)).await.expect("sent");
    let started = Instant::now();
    for _ in 0..32 {
        time::sleep(write_timeout / 25).await;
        assert_eq!(slow.response().await.expect("a response").body.len(), LARGE);
    }
    assert!(started.elapsed() > write_timeout);
}

/// Nobody waits for the response. A half-close counts as a close, as with most servers: they cannot be told apart.
#[tokio::test]
async fn a_request_is_cancelled_when_its_client_disconnects() {
    let server = server().await;
    for half in [false, true] {
        let mut connection = server.connect().await;
        connection.send(raw::get("/wait")).await.expect("sent");
        server.waiting.notified().await;
        if half {
            connection.finish_sending().await.expect("half closed");
        }
        let kept = half.then_some(connection);
        time::timeout(TIMEOUT, server.abandoned.notified()).await.expect("the request is cancelled");
        drop(kept);
    }
    server.stop().await;
}

#[tokio::test]
async fn pipelined_requests_get_responses_in_order() {
    let server = server().await;
    let mut connection = server.connect().await;
    let post =
        |body: &str| format!("POST /length HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    connection.send([post("a"), raw::get("/"), post("ccc")].concat()).await.expect("sent");
    for body in ["1", "hello", "3"] {
        assert_eq!(connection.response().await.expect("a response").body, body);
    }
}

#[tokio::test]
async fn http_1_0_is_served() {
    let server = server().await;
    let mut connection = server.connect().await;
    connection.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await.expect("sent");
    let response = connection.response().await.expect("a response");
    assert_eq!((response.body.as_str(), response.header("connection")), ("hello", Some("keep-alive")));
    connection.send("GET / HTTP/1.0\r\n\r\n").await.expect("sent");
    assert_eq!(connection.response().await.expect("a response").body, "hello");
    connection.closed().await.expect("closed");
}
