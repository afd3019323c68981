//! HTTP/1: heads, bodies and answers that take their time.

use super::*;

#[tokio::test]
async fn a_head_that_is_not_completed_closes_the_connection() {
    let server = server_with(LIMITS).await;
    for part in ["", "P", "G", "GET / HTTP/1.1\r\nhost: test\r\n", "PRI", "PRI * HTTP/2.0\r\n\r\n", &PREFACE[..23]] {
        let begun = Instant::now();
        let mut connection = server.connect().await;
        connection.send(part).await.expect("sent");
        let closed = connection.closed().await.map_err(|error| error.kind());
        // What the server did not read, it resets.
        assert!(matches!(closed, Ok(()) | Err(ErrorKind::ConnectionReset)), "{part:?}: {closed:?}");
        assert!(begun.elapsed() >= LIMITS.header_read_timeout, "{part:?}: after {:?}", begun.elapsed());
        assert!(!connection.rest().starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_head_that_trickles_in_gets_no_more_time() {
    let server = server_with(LIMITS).await;
    let mut connection = server.connect().await;
    connection.send("GET / HTTP/1.1\r\nx: ").await.expect("sent");
    let pace = LIMITS.header_read_timeout / 8;
    let begun = Instant::now();
    while time::timeout(pace, connection.closed()).await.is_err() && connection.send("x").await.is_ok() {
        assert!(begun.elapsed() < LIMITS.header_read_timeout * 20, "it is still open");
    }
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_given_up() {
    let server = server_with(LIMITS).await;
    let mut deaf = server.connect().await;
    let requests = raw::get("/large").repeat(1000);
    let given_up = async { while deaf.send(&requests).await.is_ok() {} };
    time::timeout(PATIENCE, given_up).await.expect("reset");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_its_answer_slowly_gets_all_of_it() {
    // More than the machine may pause, which is as if the client took nothing.
    let write_timeout = Duration::from_millis(2500);
    let server = server_with(Limits { write_timeout, ..Limits::default() }).await;
    let mut slow = server.connect().await;
    slow.send(raw::get("/large").repeat(32)).await.expect("sent");
    let begun = Instant::now();
    for _ in 0..32 {
        time::sleep(write_timeout / 25).await;
        assert_eq!(slow.answer().await.expect("an answer").body.len(), LARGE);
    }
    assert!(begun.elapsed() > write_timeout);
}

/// Nobody waits for its answer: it is not worth the work. Half a close counts as a whole one, as with most servers: what
/// arrives looks the same.
#[tokio::test]
async fn the_request_of_a_client_that_has_gone_is_given_up() {
    let server = server().await;
    for half in [false, true] {
        let mut connection = server.connect().await;
        connection.send(raw::get("/wait")).await.expect("sent");
        server.waiting.notified().await;
        if half {
            connection.finish_sending().await.expect("half closed");
        }
        let kept = half.then_some(connection);
        time::timeout(PATIENCE, server.given_up.notified()).await.expect("it is given up");
        drop(kept);
    }
    server.stop().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = server().await;
    let mut connection = server.connect().await;
    let post =
        |body: &str| format!("POST /length HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    connection.send([post("a"), raw::get("/"), post("ccc")].concat()).await.expect("sent");
    for body in ["1", "hello", "3"] {
        assert_eq!(connection.answer().await.expect("an answer").body, body);
    }
}

#[tokio::test]
async fn http_1_0_is_answered() {
    let server = server().await;
    let mut connection = server.connect().await;
    connection.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await.expect("sent");
    let answer = connection.answer().await.expect("an answer");
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("hello", Some("keep-alive")));
    connection.send("GET / HTTP/1.0\r\n\r\n").await.expect("sent");
    assert_eq!(connection.answer().await.expect("an answer").body, "hello");
    connection.closed().await.expect("closed");
}
