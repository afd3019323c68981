//! The limit of connections: an idle one makes room for a new one.

use super::*;

/// Starts a server that does not close idle connections by itself.
async fn limited(max: u32) -> Server {
    let timeouts = Timeouts { request_head_timeout: TIMEOUT * 2, ..Timeouts::default() };
    server_of(super::super::Server { timeouts, ..Default::default() }.limit_connections(max, 100)).await
}

/// Connects until a request is served: a connection must have been idle for a moment before it makes room.
async fn served(server: &Server) -> Raw {
    eventually("a new connection is served", TIMEOUT, async || {
        let mut connection = Raw::connect(server.address).await.ok()?;
        connection.send(raw::get("/")).await.ok()?;
        connection.response().await.ok()?;
        Some(connection)
    })
    .await
}

#[tokio::test]
async fn the_longest_idle_connection_is_closed() {
    let server = limited(3).await;
    let mut busy = server.connect().await;
    busy.send(raw::get("/wait")).await.expect("sent");
    server.waiting.notified().await;
    let (mut first, mut second) = (served(&server).await, served(&server).await);
    let third = served(&server).await;
    first.closed().await.expect("closed");
    assert!(first.rest().is_empty());
    second.send(raw::get("/")).await.expect("sent");
    assert_eq!(second.response().await.expect("a response").body, "hello");
    server.go.notify_one();
    assert_eq!(busy.response().await.expect("a response").body, "waited");
    drop((busy, second, third));
    server.stop().await;
}

#[tokio::test]
async fn an_http_2_connection_without_streams_gets_goaway() {
    let server = limited(2).await;
    let (mut busy, _busy_connection) = server.http_2().await;
    let response = tokio::spawn(busy.send_request(request("/wait")));
    server.waiting.notified().await;
    let (mut idle, idle_connection) = server.http_2().await;
    assert_eq!(text(idle.send_request(request("/")).await.expect("a response")).await, "hello");
    let new = served(&server).await;
    let closed = time::timeout(TIMEOUT, idle_connection).await.expect("closed").expect("no panic");
    closed.expect("closed without an error");
    server.go.notify_one();
    assert_eq!(text(response.await.expect("no panic").expect("a response")).await, "waited");
    drop((busy, idle, new));
    server.stop().await;
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let server = limited(1).await;
    for part in ["", "PRI"] {
        let mut unused = server.connect().await;
        unused.send(part).await.expect("sent");
        drop(served(&server).await);
        unused.closed().await.expect("closed");
    }
    server.stop().await;
}
