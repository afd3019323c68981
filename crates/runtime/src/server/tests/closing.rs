//! How connections end: idle ones, refusals, a stop.

use super::*;

#[test]
fn our_clients_let_go_of_a_connection_before_our_servers_do() {
    assert!(HEADER_READ_TIMEOUT >= Duration::from_secs(30));
    assert!(HEADER_READ_TIMEOUT > CLIENT_IDLE_TIMEOUT);
    assert_eq!(Limits::default().header_read_timeout, HEADER_READ_TIMEOUT);
}

#[tokio::test]
async fn an_idle_connection_is_closed_at_the_limit_and_not_before() {
    let server = server_with(LIMITS).await;
    let mut connection = server.connect().await;
    // Each request starts the time anew: together three take longer than the limit.
    let (mut in_time, mut since) = (0, Instant::now());
    while in_time < 3 {
        let pause = time::timeout(LIMITS.header_read_timeout / 2, connection.closed()).await;
        let begun = Instant::now();
        let is_sent = pause.is_err() && connection.send(raw::get("/")).await.is_ok();
        let answer = if is_sent { connection.answer().await.ok() } else { None };
        if let Some(answer) = answer {
            assert!(!answer.closes());
            (in_time, since) = (in_time + 1, begun);
        } else {
            // Where the machine paused, it was in time.
            assert!(since.elapsed() >= LIMITS.header_read_timeout, "closed too early: {:?}", since.elapsed());
            (connection, in_time, since) = (server.connect().await, 0, Instant::now());
        }
    }
    let begun = Instant::now();
    connection.send(raw::get("/")).await.expect("sent");
    connection.answer().await.expect("an answer");
    connection.closed().await.expect("closed");
    assert!(begun.elapsed() >= LIMITS.header_read_timeout, "after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_refusal_arrives_although_the_client_goes_on_sending() {
    const LENGTH: usize = 4 * 1024 * 1024;
    let server = server().await;
    let mut connection = server.connect().await;
    connection
        .send(format!("POST /refuse HTTP/1.1\r\nhost: test\r\ncontent-length: {LENGTH}\r\n\r\n"))
        .await
        .expect("sent");
    connection.send(vec![b'x'; LENGTH]).await.expect("it may send all of it");
    let answer = connection.answer().await.expect("an answer");
    assert!(answer.status == 413 && answer.closes(), "{}", answer.head);
    connection.closed().await.expect("closed, and not reset");
}

#[tokio::test]
async fn a_refusal_arrives_although_the_client_sends_slowly() {
    let server = server().await;
    // Until the machine has not paused for as long as the client may.
    eventually("it sends without a long pause", PATIENCE, async || {
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
            assert_eq!(connection.answer().await?.status, 413);
            connection.closed().await
        };
        match closed.await {
            Ok(()) => Some(()),
            Err(_) if longest >= io::LINGER_PAUSE => None,
            Err(error) => panic!("closed, and not reset: {error}"),
        }
    })
    .await;
}

/// Else it could send its next request on a connection that is about to be closed.
#[tokio::test]
async fn a_client_whose_body_is_not_read_is_told_that_the_connection_closes() {
    let server = server().await;
    let body = "content-length: 5\r\n\r\nhello";
    let chunks = "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let unfinished = "content-length: 6\r\n\r\nhello";
    for (line, status) in [("GET /", 200), ("POST /refuse", 413), ("PUT /", 405), ("POST /nothing", 404)] {
        for body in [body, chunks, unfinished] {
            let mut connection = server.connect().await;
            connection.send(format!("{line} HTTP/1.1\r\nhost: test\r\n{body}")).await.expect("sent");
            let answer = connection.answer().await.expect("an answer");
            assert!(answer.status == status && answer.closes(), "{line}: {}", answer.head);
            connection.closed().await.expect("closed, and not reset");
        }
    }
    let mut connection = server.connect().await;
    for body in [body, chunks, "content-length: 0\r\n\r\n"] {
        connection.send(format!("POST /length HTTP/1.1\r\nhost: test\r\n{body}")).await.expect("sent");
        assert!(!connection.answer().await.expect("an answer").closes(), "it was read: {body}");
    }
}

#[tokio::test]
async fn a_stop_waits_for_requests_in_flight_and_for_nothing_else() {
    let server = server().await;
    let mut busy = server.connect().await;
    busy.send(raw::get("/wait")).await.expect("sent");
    server.waiting.notified().await;
    let mut idle = server.connect().await;
    idle.send(raw::get("/")).await.expect("sent");
    assert!(!idle.answer().await.expect("an answer").closes());
    let mut unused = server.connect().await;
    server.phases.send_replace(Phase::Stopping);
    idle.closed().await.expect("closed");
    unused.closed().await.expect("closed");
    assert!(!server.task.is_finished());
    server.go.notify_one();
    let answer = busy.answer().await.expect("an answer");
    assert!(answer.body == "waited" && answer.closes(), "{}", answer.head);
    server.task.await.expect("it stops");
}

/// It was on its way when the server began to stop.
#[tokio::test]
async fn a_request_on_an_idle_connection_is_answered_a_moment_after_the_stop() {
    // Until the machine has not paused for as long as that.
    eventually("requests are sent in that moment", PATIENCE, async || {
        let server = server().await;
        let mut used = server.connect().await;
        used.send(raw::get("/")).await.expect("sent");
        assert!(!used.answer().await.expect("an answer").closes());
        let mut unused = server.connect().await;
        let stopped = Instant::now();
        server.phases.send_replace(Phase::Stopping);
        for connection in [&mut used, &mut unused] {
            let is_open = time::timeout(LAST_CALL / 10, connection.closed()).await.is_err();
            let is_sent = is_open && connection.send(raw::get("/")).await.is_ok();
            let Some(answer) = (if is_sent { connection.answer().await.ok() } else { None }) else {
                assert!(stopped.elapsed() >= LAST_CALL, "closed after {:?}", stopped.elapsed());
                return None;
            };
            assert!(answer.closes());
        }
        server.task.await.expect("it stops");
        Some(())
    })
    .await;
}

#[tokio::test]
async fn connections_that_only_the_kernel_has_accepted_are_served_before_the_stop() {
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
        assert_eq!(connection.answer().await.expect("an answer").body, "hello");
    }
    task.await.expect("it stops");
}
