//! How connections close: when idle, after a refusal, and on a stop.

use super::*;

#[test]
fn clients_close_idle_connections_before_servers_do() {
    assert!(REQUEST_HEAD_TIMEOUT >= Duration::from_secs(30));
    assert!(REQUEST_HEAD_TIMEOUT > CLIENT_IDLE_TIMEOUT);
    assert_eq!(Timeouts::default().request_head_timeout, REQUEST_HEAD_TIMEOUT);
}

#[tokio::test]
async fn an_idle_connection_closes_at_the_limit_and_not_before() {
    let server = server_with(TIMEOUTS).await;
    let mut connection = server.connect().await;
    // Each request restarts the timeout. Three of them take longer than the limit.
    let (mut in_time, mut since) = (0, Instant::now());
    while in_time < 3 {
        let pause = time::timeout(TIMEOUTS.request_head_timeout / 2, connection.closed()).await;
        let started = Instant::now();
        let is_sent = pause.is_err() && connection.send(raw::get("/")).await.is_ok();
        let response = if is_sent { connection.response().await.ok() } else { None };
        if let Some(response) = response {
            assert!(!response.closes());
            (in_time, since) = (in_time + 1, started);
        } else {
            // The machine may have paused: then the close was in time.
            assert!(since.elapsed() >= TIMEOUTS.request_head_timeout, "closed too early: {:?}", since.elapsed());
            (connection, in_time, since) = (server.connect().await, 0, Instant::now());
        }
    }
    let started = Instant::now();
    connection.send(raw::get("/")).await.expect("sent");
    connection.response().await.expect("a response");
    connection.closed().await.expect("closed");
    assert!(started.elapsed() >= TIMEOUTS.request_head_timeout, "after {:?}", started.elapsed());
}

#[tokio::test]
async fn a_refusal_arrives_while_the_client_keeps_sending() {
    const LENGTH: usize = 4 * 1024 * 1024;
    let server = server().await;
    let mut connection = server.connect().await;
    connection
        .send(format!("POST /refuse HTTP/1.1\r\nhost: test\r\ncontent-length: {LENGTH}\r\n\r\n"))
        .await
        .expect("sent");
    connection.send(vec![b'x'; LENGTH]).await.expect("the whole body is sent");
    let response = connection.response().await.expect("a response");
    assert!(response.status == 413 && response.closes(), "{}", response.head);
    connection.closed().await.expect("closed without a reset");
}

#[tokio::test]
async fn a_refusal_arrives_while_the_client_sends_slowly() {
    let server = server().await;
    // Repeated until the machine does not pause for longer than the client may.
    eventually("a run without a long pause", TIMEOUT, async || {
        let mut connection = server.connect().await;
        connection.send("POST /refuse HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\n").await.expect("sent");
        let mut longest = Duration::ZERO;
        let closed = async {
            let mut pace = time::interval(io::LINGER_PAUSE / 5);
            let mut last = Instant::now();
            for _ in 0..8 {
                pace.tick().await;
                let now = Instant::now();
                let sent = connection.send("x").await;
                longest = longest.max(last.elapsed());
                last = now;
                sent?;
            }
            assert_eq!(connection.response().await?.status, 413);
            connection.closed().await
        };
        match closed.await {
            Ok(()) => Some(()),
            Err(_) if longest >= io::LINGER_PAUSE => None,
            Err(error) => panic!("closed without a reset: {error}"),
        }
    })
    .await;
}

/// Otherwise it could send its next request on a connection that is about to close.
#[tokio::test]
async fn an_unread_body_is_answered_with_connection_close() {
    let server = server().await;
    let body = "content-length: 5\r\n\r\nhello";
    let chunks = "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let unfinished = "content-length: 6\r\n\r\nhello";
    for (line, status) in [("GET /", 200), ("POST /refuse", 413), ("PUT /", 405), ("POST /nothing", 404)] {
        for body in [body, chunks, unfinished] {
            let mut connection = server.connect().await;
            connection.send(format!("{line} HTTP/1.1\r\nhost: test\r\n{body}")).await.expect("sent");
            let response = connection.response().await.expect("a response");
            assert!(response.status == status && response.closes(), "{line}: {}", response.head);
            connection.closed().await.expect("closed without a reset");
        }
    }
    let mut connection = server.connect().await;
    for body in [body, chunks, "content-length: 0\r\n\r\n"] {
        connection.send(format!("POST /length HTTP/1.1\r\nhost: test\r\n{body}")).await.expect("sent");
        assert!(!connection.response().await.expect("a response").closes(), "the body was read: {body}");
    }
}

#[tokio::test]
async fn a_stop_waits_only_for_requests_in_flight() {
    let server = server().await;
    let mut busy = server.connect().await;
    busy.send(raw::get("/wait")).await.expect("sent");
    server.waiting.notified().await;
    let mut idle = server.connect().await;
    idle.send(raw::get("/")).await.expect("sent");
    assert!(!idle.response().await.expect("a response").closes());
    let mut unused = server.connect().await;
    server.phases.send_replace(Phase::Stopping);
    idle.closed().await.expect("closed");
    unused.closed().await.expect("closed");
    assert!(!server.task.is_finished());
    server.go.notify_one();
    let response = busy.response().await.expect("a response");
    assert!(response.body == "waited" && response.closes(), "{}", response.head);
    server.task.await.expect("the server stops");
}

/// It was sent before the client could know of the stop.
#[tokio::test]
async fn a_request_that_crosses_the_stop_gets_a_response() {
    // Repeated until the machine does not pause for longer than the grace period.
    eventually("requests are sent within the grace period", TIMEOUT, async || {
        let server = server().await;
        let mut used = server.connect().await;
        used.send(raw::get("/")).await.expect("sent");
        assert!(!used.response().await.expect("a response").closes());
        let mut unused = server.connect().await;
        let stopped = Instant::now();
        server.phases.send_replace(Phase::Stopping);
        for connection in [&mut used, &mut unused] {
            let is_open = time::timeout(STOP_GRACE / 10, connection.closed()).await.is_err();
            let is_sent = is_open && connection.send(raw::get("/")).await.is_ok();
            let Some(response) = (if is_sent { connection.response().await.ok() } else { None }) else {
                assert!(stopped.elapsed() >= STOP_GRACE, "closed after {:?}", stopped.elapsed());
                return None;
            };
            assert!(response.closes());
        }
        server.task.await.expect("the server stops");
        Some(())
    })
    .await;
}

#[tokio::test]
async fn connections_in_the_kernel_backlog_are_served_on_a_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let mut connections = Vec::new();
    for _ in 0..100 {
        let mut connection = Raw::connect(address).await.expect("a connection");
        connection.send(raw::get("/")).await.expect("sent");
        connections.push(connection);
    }
    let (phases, lifecycle) = Lifecycle::new();
    phases.send_replace(Phase::Stopping);
    let task = tokio::spawn(super::super::Server::default().serve(
        listener,
        Router::new().route("/", get(async || "hello")),
        lifecycle,
    ));
    for mut connection in connections {
        assert_eq!(connection.response().await.expect("a response").body, "hello");
    }
    task.await.expect("the server stops");
}
