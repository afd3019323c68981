//! SIGTERM: everything whose bytes arrived is answered.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use serde_json::Value;
use sqlx::PgPool;
use test_support::{
    process::{PATIENCE, Process, Signal, eventually},
    raw::{Raw, get},
};

use crate::service::{DEADLINE, client, program, readiness, serve, url};

/// Less than what the service has for it by default: a stop that takes as long waits for something it need not.
const PROMPT: Duration = Duration::from_secs(10);

/// A drain delay that is not over before a test is.
pub const LONG: &str = "5m";

/// The head of a change, whose body of 11 bytes is to follow.
const HEAD: &str =
    "PATCH /inventory/slow HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n";
const BODY: &str = r#"{"delta":1}"#;

/// Waits until the service has taken notice of SIGTERM.
pub async fn not_ready(service: &Process) {
    eventually("not ready", PATIENCE, async || (readiness(service).await.status() == 503).then_some(())).await;
}

/// Sends SIGTERM and waits for the end.
async fn stops_promptly(service: Process) {
    let begun = Instant::now();
    let end = service.stop().await;
    assert_eq!(end.code(), Some(0), "{}{}", end.stdout, end.stderr);
    assert!(begun.elapsed() < PROMPT, "after {:?}: {}", begun.elapsed(), end.stdout);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_draining_service_serves_on_and_is_not_ready(pool: PgPool) {
    let service = serve(&program(&url(&pool)).variable("DRAIN_DELAY", LONG)).await;
    let mut old = Raw::connect(service.http).await.expect("a connection");
    old.send(get("/inventory/p")).await.expect("sent");
    assert!(!old.answer().await.expect("an answer").closes());
    service.signal(Signal::SIGTERM);
    not_ready(&service).await;
    let mut new = Raw::connect(service.http).await.expect("it still accepts connections");
    for connection in [&mut old, &mut new] {
        connection.send(get("/inventory/p")).await.expect("sent");
        let answer = connection.answer().await.expect("an answer");
        assert!(answer.status == 200 && answer.closes(), "{}", answer.head);
        connection.closed().await.expect("closed");
    }
    let reason: Value = readiness(&service).await.json().await.expect("a problem");
    assert_eq!(reason["detail"], "shutting down");
    assert_eq!(client().get(service.admin_url("/livez")).send().await.expect("an answer").status(), 200);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_draining_service_ends_after_its_drain_delay(pool: PgPool) {
    let service = serve(&program(&url(&pool)).variable("DRAIN_DELAY", "1s")).await;
    let begun = Instant::now();
    assert_eq!(service.stop().await.code(), Some(0));
    assert!((Duration::from_secs(1)..PROMPT).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn idle_connections_do_not_hold_up_a_stop(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    let mut used = Raw::connect(service.http).await.expect("a connection");
    used.send(get("/inventory/p")).await.expect("sent");
    used.answer().await.expect("an answer");
    let mut unused = Raw::connect(service.http).await.expect("a connection");
    let mut undecided = Raw::connect(service.http).await.expect("a connection");
    undecided.send("PRI * HTTP/2.0\r\n").await.expect("sent");
    stops_promptly(service).await;
    for connection in [&mut used, &mut unused, &mut undecided] {
        // What the service did not read, it resets.
        let closed = connection.closed().await.map_err(|error| error.kind());
        assert!(matches!(closed, Ok(()) | Err(ErrorKind::ConnectionReset)), "{closed:?}");
        assert_eq!(connection.rest(), b"");
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_request_whose_body_arrives_slowly_is_finished(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    let mut slow = Raw::connect(service.http).await.expect("a connection");
    slow.send(HEAD).await.expect("sent");
    slow.send(&BODY[..4]).await.expect("sent");
    in_flight(&service, 1).await;
    service.signal(Signal::SIGTERM);
    not_ready(&service).await;
    refuses_connections(&service).await;
    slow.send(&BODY[4..]).await.expect("sent");
    let answer = slow.answer().await.expect("an answer");
    assert!(answer.status == 200 && answer.closes(), "{}{}", answer.head, answer.body);
    slow.closed().await.expect("closed");
    assert_eq!(service.ended().await.code(), Some(0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_stop_takes_no_longer_than_its_limit(pool: PgPool) {
    let service = serve(&program(&url(&pool)).variable("SHUTDOWN_TIMEOUT", "500ms")).await;
    let mut stuck = Raw::connect(service.http).await.expect("a connection");
    stuck.send(HEAD).await.expect("sent");
    in_flight(&service, 1).await;
    let begun = Instant::now();
    service.signal(Signal::SIGTERM);
    let end = service.ended().await;
    // The chassis gives a body 10 s.
    assert!((Duration::from_millis(500)..PROMPT).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(end.code(), Some(0));
    assert!(end.stdout.contains("stopped with requests still in flight"), "{}", end.stdout);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_second_signal_ends_it_at_once(pool: PgPool) {
    for (drain_delay, signal) in [("60s", Signal::SIGTERM), ("0s", Signal::SIGINT)] {
        let program = program(&url(&pool)).variable("DRAIN_DELAY", drain_delay).variable("SHUTDOWN_TIMEOUT", "60s");
        let service = serve(&program).await;
        let mut stuck = Raw::connect(service.http).await.expect("a connection");
        stuck.send(HEAD).await.expect("sent");
        in_flight(&service, 1).await;
        service.signal(signal);
        not_ready(&service).await;
        let begun = Instant::now();
        service.signal(signal);
        let end = service.ended().await;
        assert_eq!(end.code(), Some(130), "{}", end.stdout);
        // The chassis gives a body 10 s.
        assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    }
}

/// The kernel accepts connections, and takes what is sent on them, before the service looks at them.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn requests_that_the_kernel_took_before_the_signal_are_answered(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    let mut connections = Vec::new();
    for _ in 0..50 {
        let mut idle = Raw::connect(service.http).await.expect("a connection");
        idle.send(get("/inventory/p")).await.expect("sent");
        idle.answer().await.expect("an answer");
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
        assert_eq!(connection.answer().await.expect("an answer").status, 200);
        connection.closed().await.expect("closed");
    }
    assert_eq!(service.ended().await.code(), Some(0));
}

async fn in_flight(service: &Process, count: u32) {
    let wanted = format!("http_requests_in_flight {count}");
    eventually("requests are in flight", PATIENCE, async || {
        let metrics = client().get(service.admin_url("/metrics")).send().await.expect("an answer");
        metrics.text().await.expect("text").lines().any(|line| line == wanted).then_some(())
    })
    .await;
}

async fn refuses_connections(service: &Process) {
    let refused = async || Raw::connect(service.http).await.is_err().then_some(());
    eventually("no connection is accepted", DEADLINE, refused).await;
}
