//! WebSocket: after a response of 101, bytes are passed both ways unchanged.

use test_support::raw::{self, Raw};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{stub::read_head, *};

const UPGRADE: &str = "GET /test HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";

/// Responds with 101 and an early greeting, then echoes.
async fn echo() -> Stub {
    Stub::raw(async |mut stream, _| {
        let Some(head) = read_head(&mut stream).await else { return };
        assert!(head.contains("sec-websocket-key: k"), "{head}");
        assert!(head.to_lowercase().contains("upgrade: websocket"), "{head}");
        let response = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s\r\n\r\nearly";
        stream.write_all(response.as_bytes()).await.expect("written");
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.write_all(b"bye").await;
    })
    .await
}

/// Sends an upgrade request.
async fn ask(gateway: &TestGateway) -> (Raw, raw::Response) {
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send(UPGRADE).await.expect("sent");
    let response = raw.response().await.expect("a response");
    (raw, response)
}

/// The connection after the response of 101.
async fn upgraded(gateway: &TestGateway) -> TcpStream {
    let (raw, response) = ask(gateway).await;
    opened(raw, &response).await
}

async fn opened(raw: Raw, response: &raw::Response) -> TcpStream {
    assert_eq!(response.status, 101, "{}", response.head);
    for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", "s")] {
        assert_eq!(response.header(name), Some(value), "{}", response.head);
    }
    assert!(response.header("x-request-id").is_some());
    let seen = raw.rest().to_vec();
    let mut stream = raw.into_stream();
    let mut rest = vec![0; 5 - seen.len()];
    stream.read_exact(&mut rest).await.expect("the early greeting");
    assert_eq!([seen, rest].concat(), b"early");
    stream
}

#[tokio::test]
async fn bytes_pass_both_ways_until_both_ends_close() {
    let stub = echo().await;
    let gateway = TestGateway::with(&["--total-timeout=200ms", "--header-timeout=100ms"], &[&stub]);
    let mut tries = 0;
    let (raw, response) = eventually("a response within the short timeout", TIMEOUT, async || {
        tries += 1;
        Some(ask(&gateway).await).filter(|(_, response)| response.status != 504)
    })
    .await;
    let mut stream = opened(raw, &response).await;
    // Not HTTP, and longer than any timeout of a request.
    for piece in ["\0\r\n\r\n", "GET / HTTP/1.1\n\n", "\u{1f980}"] {
        tokio::time::sleep(MOMENT).await;
        stream.write_all(piece.as_bytes()).await.expect("sent");
        let mut echo = vec![0; piece.len()];
        stream.read_exact(&mut echo).await.expect("an echo");
        assert_eq!(echo, piece.as_bytes());
    }
    // A tunnel does not count as a request in flight.
    gateway.metric_becomes("http_requests_in_flight", 0).await;
    assert_eq!(gateway.metric(r#"gateway_upstream_requests_in_flight{service="test"}"#), 1);
    stream.shutdown().await.expect("half closed");
    let mut rest = Vec::new();
    timeout(TIMEOUT, stream.read_to_end(&mut rest)).await.expect("in time").expect("the rest");
    assert_eq!(rest, b"bye");
    let lines = gateway.log(tries).await;
    let is_it = |line: &Value| (&line["status"], &line["bytes"]) == (&101.into(), &(5 + 5 + 16 + 4 + 3).into());
    assert!(lines.iter().any(is_it), "{lines:?}");
    gateway.metric_becomes(r#"gateway_upstream_requests_in_flight{service="test"}"#, 0).await;
}

#[tokio::test]
async fn a_tunnel_carries_megabytes() {
    let stub = echo().await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let (mut from, mut to) = upgraded(&gateway).await.into_split();
    let sent: Vec<u8> = (0..10_000_000_u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[2]).collect();
    let sending = tokio::spawn({
        let sent = sent.clone();
        async move {
            to.write_all(&sent).await.expect("sent");
            to
        }
    });
    let mut got = vec![0; sent.len()];
    timeout(TIMEOUT, from.read_exact(&mut got)).await.expect("in time").expect("an echo");
    assert!(got == sent);
    sending.await.expect("no panic");
}

#[tokio::test]
async fn a_service_may_decline_an_upgrade() {
    let stub = Stub::text("no").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    for _ in 0..2 {
        raw.send(UPGRADE).await.expect("sent");
        assert_eq!(raw.response().await.expect("a response").body, "no");
    }
}

/// With `h2c` a client would get an HTTP connection to the service that bypasses the gateway's policy.
#[tokio::test]
async fn upgrades_to_other_protocols_are_stripped() {
    let stub = Stub::responding(async |request| {
        assert!(!request.headers().contains_key("upgrade") && !request.headers().contains_key("http2-settings"));
        Response::new(stub::full_body("plain"))
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    let head = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    raw.send(format!("GET /test HTTP/1.1\r\nhost: a\r\n{head}\r\n")).await.expect("sent");
    assert_eq!(raw.response().await.expect("a response").body, "plain");
}

/// The gateway stops even though neither end closes.
#[tokio::test]
async fn shutdown_does_not_wait_for_open_tunnels() {
    let stub = echo().await;
    let gateway = TestGateway::with(&["--shutdown-timeout=60s"], &[&stub]);
    let mut stream = upgraded(&gateway).await;
    let stopped = tokio::spawn(gateway.running.stop());
    stream.write_all(b"still").await.expect("sent");
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.expect("a grace period");
    let left = timeout(TIMEOUT, stopped).await.expect("a timely stop").expect("no panic");
    assert!(left > TIMEOUT, "{left:?}");
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
}

/// What a client sends before the response of 101 is not HTTP, so it must not be checked as if it were.
#[tokio::test]
async fn early_bytes_of_the_client_are_passed_unchanged() {
    let stub = echo().await;
    let gateway = TestGateway::with(&[], &[&stub]);
    for early in ["\0\r\n\r\n", "a\nb", "GET / HTTP/1.1\n\n", "\r\n"] {
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        raw.send(format!("{UPGRADE}{early}")).await.expect("sent");
        let response = raw.response().await.expect("a response");
        let mut stream = opened(raw, &response).await;
        let mut echo = vec![0; early.len()];
        timeout(TIMEOUT, stream.read_exact(&mut echo)).await.expect("in time").expect("an echo");
        assert_eq!(String::from_utf8_lossy(&echo), early);
    }
}

/// They were not checked, so they must not be read as the next request.
#[tokio::test]
async fn early_bytes_of_a_declined_upgrade_close_the_connection() {
    let stub = Stub::text("no").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send(format!("{UPGRADE}GET /test/smuggled HTTP/1.1\nhost: a\n\n")).await.expect("sent");
    let response = raw.response().await.expect("a response");
    assert!(response.body == "no" && response.closes(), "{}", response.head);
    raw.closed().await.expect("closed");
    assert_eq!((raw.rest().len(), stub.requests()), (0, 1));
}

#[tokio::test]
async fn a_tunnel_counts_as_a_connection() {
    let stub = echo().await;
    let gateway = TestGateway::with(&["--max-connections=1"], &[&stub]);
    let tunnel = upgraded(&gateway).await;
    let refused = async {
        let mut raw = Raw::connect(gateway.address).await?;
        raw.send(raw::get("/none")).await?;
        raw.response().await
    };
    assert!(refused.await.is_err());
    drop(tunnel);
    eventually("the connection is free", TIMEOUT, async || {
        let mut raw = Raw::connect(gateway.address).await.ok()?;
        raw.send(raw::get("/none")).await.ok()?;
        raw.response().await.ok()
    })
    .await;
}

/// Even if it has been silent for longer than any other connection.
#[tokio::test]
async fn a_tunnel_makes_no_room_for_another_connection() {
    let stub = echo().await;
    let gateway = TestGateway::with(&["--max-connections=2"], &[&stub]);
    let mut tunnel = upgraded(&gateway).await;
    let get = async || {
        let mut raw = Raw::connect(gateway.address).await.ok()?;
        raw.send(raw::get("/none")).await.ok()?;
        raw.response().await.ok()?;
        Some(raw)
    };
    let mut idle = get().await.expect("a response");
    let _new = eventually("the idle connection makes room", TIMEOUT, get).await;
    idle.closed().await.expect("closed");
    tunnel.write_all(b"still").await.expect("sent");
    let mut echo = [0; 5];
    timeout(TIMEOUT, tunnel.read_exact(&mut echo)).await.expect("in time").expect("an echo");
    assert_eq!(&echo, b"still");
}

/// Sends an upgrade request for a client behind a proxy.
async fn ask_for(gateway: &TestGateway, client: &str) -> (Raw, raw::Response) {
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    let request = UPGRADE.replace("\r\n\r\n", &format!("\r\nx-forwarded-for: {client}\r\n\r\n"));
    raw.send(request).await.expect("sent");
    let response = raw.response().await.expect("a response");
    (raw, response)
}

/// Other requests need connections too.
#[tokio::test]
async fn all_clients_together_may_have_only_a_share_of_the_tunnels() {
    let stub = echo().await;
    let gateway = TestGateway::with(&["--trusted-hops=1", "--max-connections=8"], &[&stub]);
    let mut tunnels = Vec::new();
    for client in 1..=6 {
        let (raw, response) = ask_for(&gateway, &format!("192.0.2.{client}")).await;
        tunnels.push(opened(raw, &response).await);
    }
    let (_, refused) = ask_for(&gateway, "192.0.2.7").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.head);
    assert_eq!(refused.header("content-type"), Some("application/problem+json"), "{}", refused.head);
    assert_eq!(stub.connections(), 6, "the service does not hear of it");
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send(raw::get("/none")).await.expect("sent");
    assert_eq!(raw.response().await.expect("a response").status, 404);
    // One that ends makes room for another.
    drop(tunnels.pop());
    let free = async || (ask_for(&gateway, "192.0.2.7").await.1.status == 101).then_some(());
    eventually("a tunnel is free", TIMEOUT, free).await;
}

/// Behind proxies nothing else limits them.
#[tokio::test]
async fn a_client_may_have_only_a_share_of_the_tunnels() {
    let stub = echo().await;
    let flags = ["--trusted-hops=1", "--max-connections=40", "--max-connections-per-client=8"];
    let gateway = TestGateway::with(&flags, &[&stub]);
    let ask = async |client: &str| ask_for(&gateway, client).await;
    let mut tunnels = Vec::new();
    for _ in 0..8 {
        let (raw, response) = ask("192.0.2.1").await;
        tunnels.push(opened(raw, &response).await);
    }
    let (_, refused) = ask("192.0.2.1").await;
    assert_eq!(refused.status, 429, "{}", refused.head);
    assert_eq!(stub.connections(), 8, "the service does not hear of it");
    let (raw, response) = ask("192.0.2.2").await;
    drop(opened(raw, &response).await);
    gateway.metric_becomes("http_requests_in_flight", 0).await;
    // One that ends makes room for another.
    drop(tunnels.pop());
    eventually("a tunnel is free", TIMEOUT, async || (ask("192.0.2.1").await.1.status == 101).then_some(())).await;
}
