//! SIGTERM: every request that has arrived gets a response.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use serde_json::Value;
use sqlx::PgPool;
use test_support::{
    process::{Process, Signal, TIMEOUT, eventually},
    raw::{Raw, get},
};

use crate::service::{DEADLINE, client, program, readiness, serve, url};

/// Shorter than the default shutdown timeout: a longer stop waits for something unnecessary.
const PROMPT: Duration = Duration::from_secs(10);

/// A drain delay that outlasts a test.
pub const LONG: &str = "5m";

/// The head of a request whose body has 11 bytes.
const HEAD: &str =
    "PATCH /inventory/slow HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n";
const BODY: &str = r#"{"delta":1}"#;

/// Waits until the service has handled SIGTERM.
pub async fn not_ready(service: &Process) {
    eventually("not ready", TIMEOUT, async || (readiness(service).await.status() == 503).then_some(())).await;
}

/// Sends SIGTERM and asserts that the service exits soon.
async fn stops_promptly(service: Process) {
    let started = Instant::now();
    let end = service.stop().await;
    assert_eq!(end.code(), Some(0), "{}{}", end.stdout, end.stderr);
    assert!(started.elapsed() < PROMPT, "after {:?}: {}", started.elapsed(), end.stdout);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_draining_service_still_serves_but_is_not_ready(pool: PgPool) {
    let service = serve(&program(&url(&pool)).variable("DRAIN_DELAY", LONG)).await;
    let mut old = Raw::connect(service.http).await.expect("a connection");
    old.send(get("/inventory/p")).await.expect("sent");
    assert!(!old.response().await.expect("a response").closes());
    service.signal(Signal::SIGTERM);
    not_ready(&service).await;
    let mut new = Raw::connect(service.http).await.expect("the service still accepts connections");
    for connection in [&mut old, &mut new] {
        connection.send(get("/inventory/p")).await.expect("sent");
        let response = connection.response().await.expect("a response");
        assert!(response.status == 200 && response.closes(), "{}", response.head);
        connection.closed().await.expect("closed");
    }
    let reason: Value = readiness(&service).await.json().await.expect("a problem");
    assert_eq!(reason["detail"], "shutting down");
    assert_eq!(client().get(service.admin_url("/livez")).send().await.expect("a response").status(), 200);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_draining_service_exits_after_its_drain_delay(pool: PgPool) {
    let service = serve(&program(&url(&pool)).variable("DRAIN_DELAY", "1s")).await;
    let started = Instant::now();
    assert_eq!(service.stop().await.code(), Some(0));
    assert!((Duration::from_secs(1)..PROMPT).contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn idle_connections_do_not_delay_a_stop(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    let mut used = Raw::connect(service.http).await.expect("a connection");
    used.send(get("/inventory/p")).await.expect("sent");
    used.response().await.expect("a response");
    let mut unused = Raw::connect(service.http).await.expect("a connection");
    let mut undecided = Raw::connect(service.http).await.expect("a connection");
    undecided.send("PRI * HTTP/2.0\r\n").await.expect("sent");
    stops_promptly(service).await;
    for connection in [&mut used, &mut unused, &mut undecided] {
        // A connection with unread bytes is reset.
        let closed = connection.closed().await.map_err(|error| error.kind());
        assert!(matches!(closed, Ok(()) | Err(ErrorKind::ConnectionReset)), "{closed:?}");
        assert_eq!(connection.rest(), b"");
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_request_with_a_slow_body_is_completed(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    let mut slow = Raw::connect(service.http).await.expect("a connection");
    slow.send(HEAD).await.expect("sent");
    slow.send(&BODY[..4]).await.expect("sent");
    in_flight(&service, 1).await;
    service.signal(Signal::SIGTERM);
    not_ready(&service).await;
    refuses_connections(&service).await;
    slow.send(&BODY[4..]).await.expect("sent");
    let response = slow.response().await.expect("a response");
    assert!(response.status == 200 && response.closes(), "{}{}", response.head, response.body);
    slow.closed().await.expect("closed");
    assert_eq!(service.ended().await.code(), Some(0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_stop_takes_no_longer_than_the_shutdown_timeout(pool: PgPool) {
    let service = serve(&program(&url(&pool)).variable("SHUTDOWN_TIMEOUT", "500ms")).await;
    let mut stuck = Raw::connect(service.http).await.expect("a connection");
    stuck.send(HEAD).await.expect("sent");
    in_flight(&service, 1).await;
    let started = Instant::now();
    service.signal(Signal::SIGTERM);
    let end = service.ended().await;
    // A body may take 10 s.
    assert!((Duration::from_millis(500)..PROMPT).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(end.code(), Some(0));
    assert!(end.stdout.contains("stopped with requests still in flight"), "{}", end.stdout);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_second_signal_exits_at_once(pool: PgPool) {
    for (drain_delay, signal) in [("60s", Signal::SIGTERM), ("0s", Signal::SIGINT)] {
        let program = program(&url(&pool)).variable("DRAIN_DELAY", drain_delay).variable("SHUTDOWN_TIMEOUT", "60s");
        let service = serve(&program).await;
        let mut stuck = Raw::connect(service.http).await.expect("a connection");
        stuck.send(HEAD).await.expect("sent");
        in_flight(&service, 1).await;
        service.signal(signal);
        not_ready(&service).await;
        let started = Instant::now();
        service.signal(signal);
        let end = service.ended().await;
        assert_eq!(end.code(), Some(130), "{}", end.stdout);
        // A body may take 10 s.
        assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    }
}

/// The kernel accepts connections and buffers requests before the service sees them.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn requests_in_the_kernel_before_the_signal_are_answered(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    let mut connections = Vec::new();
    for _ in 0..50 {
        let mut idle = Raw::connect(service.http).await.expect("a connection");
        idle.send(get("/inventory/p")).await.expect("sent");
        idle.response().await.expect("a response");
        connections.push(idle);
    }
    service.signal(Signal::SIGSTOP);
    for _ in 0..150 {
        connections.push(Raw::connect(service.http).await.expect("a connection in the backlog"));
    }
    for connection in &mut connections {
        connection.send(get("/inventory/p")).await.expect("sent");
    }
    service.signal(Signal::SIGTERM);
    service.signal(Signal::SIGCONT);
    for connection in &mut connections {
        assert_eq!(connection.response().await.expect("a response").status, 200);
        connection.closed().await.expect("closed");
    }
    assert_eq!(service.ended().await.code(), Some(0));
}

async fn in_flight(service: &Process, count: u32) {
    let line = format!("http_requests_in_flight {count}");
    eventually("requests are in flight", TIMEOUT, async || {
        let metrics = client().get(service.admin_url("/metrics")).send().await.expect("a response");
        metrics.text().await.expect("text").lines().any(|found| found == line).then_some(())
    })
    .await;
}

async fn refuses_connections(service: &Process) {
    let refused = async || Raw::connect(service.http).await.is_err().then_some(());
    eventually("connections are refused", DEADLINE, refused).await;
}
