//! `e2e load`.

use std::{fs, path::Path, sync::atomic::Ordering, time::Duration};

use clap::Parser;
use e2e::{
    cli::Cli,
    client::Kind,
    load::{self, Line, Load, Summary},
};
use http::StatusCode;
use test_support::{
    port::Port,
    process::{TIMEOUT, eventually},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::server::{Reply, Server, TOKENS};

const RATE: u64 = 200;
const POST: &str = r#"{"name": "Ada", "email": "{uuid}@example.com"}"#;

/// One second of load, alternating GET and POST.
fn args(address: &str) -> Load {
    let (get, post) = (format!("http://{address}/users?limit=1"), format!("http://{address}/users"));
    let words = ["e2e", "load", "--get", &get, "--post", &post, "--body", POST, "--duration", "1s"];
    match Cli::try_parse_from(words) {
        Ok(Cli::Load(load)) => load,
        other => panic!("{other:?}"),
    }
}

async fn send(args: &Load) -> (Summary, Vec<Line>) {
    let mut lines = Vec::new();
    let requests = args.requests().expect("valid requests");
    let summary = load::run(args, requests, CancellationToken::new(), |line| lines.push(line.clone())).await;
    (summary, lines)
}

/// Sends a load to a server that replies as given, and returns the summary.
async fn load_on(
    reply: impl Fn(u64) -> Reply + Send + Sync + 'static,
    adapt: impl FnOnce(&mut Load),
) -> (Summary, Server) {
    let server = Server::start(reply).await;
    let mut args = args(&server.address.to_string());
    adapt(&mut args);
    (send(&args).await.0, server)
}

/// Keeps the arguments.
fn unchanged(_: &mut Load) {}

/// Asserts that there are `count` failures of this kind and no others.
#[track_caller]
fn assert_failed(summary: &Summary, kind: Kind, count: u64) {
    assert_eq!((summary.failed, summary.failures[&kind]), (count, count), "{summary:?}");
}

#[tokio::test]
async fn a_healthy_server_receives_the_requested_load() {
    // Repeat until the machine does not pause near the end, which would send the last requests late.
    eventually("the load has the requested rate", TIMEOUT, async || {
        let (summary, server) = load_on(|_| Reply::Normal, unchanged).await;
        assert_eq!((summary.requests, summary.failed, summary.connections), (RATE, 0, 32), "{summary:?}");
        assert_eq!(server.requests.load(Ordering::Relaxed), RATE);
        assert_eq!(server.connections.load(Ordering::Relaxed), 32);
        assert!(summary.rate <= 210.0, "{summary:?}");
        (summary.rate >= 150.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_dropped_request_is_one_failure_and_is_not_sent_again() {
    let server = Server::start(|n| if n == 77 { Reply::Drop } else { Reply::Normal }).await;
    let (summary, lines) = send(&args(&server.address.to_string())).await;
    assert_failed(&summary, Kind::Reset, 1);
    assert_eq!((summary.requests, summary.connections), (RATE, 33));
    assert_eq!(server.requests.load(Ordering::Relaxed), RATE);
    let shown = lines.iter().filter(|line| matches!(line, Line::Failure { .. })).count();
    assert_eq!(shown, 1);
    assert!(matches!(lines.last(), Some(Line::Summary(_))));
}

#[tokio::test]
async fn a_connection_closed_by_the_server_is_not_a_failure() {
    let (summary, server) =
        load_on(|n| if n % 10 == 9 { Reply::NormalThenClose } else { Reply::Normal }, unchanged).await;
    assert_eq!((summary.requests, summary.failed), (RATE, 0), "{summary:?}");
    assert_eq!(summary.connections, server.connections.load(Ordering::Relaxed));
    assert!(summary.connections > 32, "{summary:?}");
}

#[tokio::test]
async fn each_post_has_a_unique_key_if_requested() {
    for keyed in [true, false] {
        let (summary, server) = load_on(|_| Reply::Normal, |load| load.idempotency_keys = keyed).await;
        let keys = server.keys();
        assert_eq!((summary.failed, keys.len() as u64), (0, if keyed { RATE / 2 } else { 0 }), "{summary:?}");
    }
}

/// With two connections, a client that schedules the next request after each response would send few requests during
/// the stall, and barely notice it.
#[tokio::test]
async fn a_stall_counts_for_every_request_that_it_delays() {
    let stall = Duration::from_millis(500);
    // Repeat until the machine adds no pause of its own.
    eventually("the latencies show the stall", TIMEOUT, async || {
        let started = Instant::now();
        let stalled = move |_| {
            let now = started.elapsed();
            if now < stall { Reply::Normal } else { Reply::Delayed((2 * stall).saturating_sub(now)) }
        };
        let (summary, _) = load_on(stalled, |load| {
            load.connections = 2;
            load.duration = 4 * stall;
        })
        .await;
        assert_eq!((summary.requests, summary.failed), (2 * RATE, 0), "{summary:?}");
        // A quarter of the requests were due in those 500 ms.
        ((400.0..600.0).contains(&summary.p99_ms) && summary.p50_ms < 100.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_unexpected_status_is_a_failure() {
    let failing = |n| if n == 5 { Reply::Status(StatusCode::SERVICE_UNAVAILABLE) } else { Reply::Normal };
    assert_failed(&load_on(failing, unchanged).await.0, Kind::Status, 1);
}

#[tokio::test]
async fn a_body_without_the_sent_fields_is_a_failure() {
    // A GET sends no fields, so it accepts any JSON.
    let (summary, _) = load_on(|_| Reply::WrongBody, unchanged).await;
    assert_failed(&summary, Kind::Body, RATE / 2);
}

#[tokio::test]
async fn a_response_after_the_timeout_is_a_failure() {
    let delayed = |n| if n == 5 { Reply::Delayed(Duration::from_mins(1)) } else { Reply::Normal };
    // The timeout is longer than any pause of the machine, so that the other requests succeed.
    assert_failed(&load_on(delayed, |load| load.timeout = Duration::from_secs(10)).await.0, Kind::Timeout, 1);
}

#[tokio::test]
async fn each_request_without_a_connection_is_a_failure() {
    let closed = Port::free();
    assert_failed(&send(&args(&closed.address.to_string())).await.0, Kind::Connect, RATE);
}

#[tokio::test]
async fn a_stopped_load_returns_a_summary() {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let server = Server::start(move |n| {
        if n == 50 {
            stopping.cancel();
        }
        Reply::Normal
    })
    .await;
    let mut args = args(&server.address.to_string());
    args.duration = Duration::from_hours(1);
    let summary = load::run(&args, args.requests().expect("valid requests"), stop, |_| {}).await;
    assert_eq!((summary.requests, summary.failed), (server.requests.load(Ordering::Relaxed), 0));
}

#[test]
fn each_post_needs_a_body() {
    let mut args = args("test");
    args.post.push("http://test/inventory/p".parse().expect("a URL"));
    assert_eq!(
        args.requests().expect_err("a body is missing"),
        "found 1 --body for 2 --post: each --post needs exactly one --body"
    );
    args.body.push("[]".to_owned());
    assert!(args.requests().expect_err("not an object").starts_with("--body is not a JSON object"));
}

#[test]
fn the_token_comes_from_a_file_and_is_not_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut args = args("127.0.0.1:1");
    args.token_file = Some(folder.path().join("token"));
    assert!(args.requests().expect_err("there is no file").starts_with("cannot read"));
    fs::write(folder.path().join("token"), "a.b.c\n").expect("the file is written");
    let shown = format!("{:?}", args.requests().expect("requests"));
    assert!(shown.contains("Sensitive") && !shown.contains("a.b.c"), "{shown}");
}

/// A load whose tokens come from the server that it is sent to.
fn as_client(server: &Server, folder: &Path) -> Load {
    let mut args = args(&server.address.to_string());
    fs::write(folder.join("client"), "id:secret\n").expect("the file is written");
    args.client_file = Some(folder.join("client"));
    args.token_url = Some(server.url(TOKENS).parse().expect("a URL"));
    args.token_interval = Duration::from_millis(100);
    args
}

#[tokio::test]
async fn a_client_replaces_its_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(|_| Reply::Normal).await;
    let (summary, _) = send(&as_client(&server, folder.path())).await;
    assert_eq!(summary.failed, 0, "{summary:?}");
    assert_eq!(summary.requests, server.requests.load(Ordering::Relaxed), "requests for tokens count as well");
    let seen = server.authorizations();
    assert!(seen.contains("Basic aWQ6c2VjcmV0") && seen.contains("Bearer token-0"), "{seen:?}");
    assert!(seen.len() > 3 && !seen.contains("Bearer "), "{seen:?}");
}

#[tokio::test]
async fn a_token_that_is_refused_is_a_failure() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(|n| if n == 0 { Reply::Normal } else { Reply::Status(StatusCode::UNAUTHORIZED) }).await;
    let mut args = as_client(&server, folder.path());
    args.get.clear();
    args.post.clear();
    args.body.clear();
    // No requests but those for tokens.
    args.get.push(server.url("/").parse().expect("a URL"));
    args.rate = 4;
    let (summary, lines) = send(&args).await;
    assert!(summary.failed > 1 && summary.failures[&Kind::Status] == summary.failed, "{summary:?}");
    let shown = lines.iter().any(|line| matches!(line, Line::Failure { request, .. } if request.ends_with(TOKENS)));
    assert!(shown, "{lines:?}");
}

#[test]
fn a_client_needs_a_secret_which_is_not_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut args = args("127.0.0.1:1");
    args.token_url = Some("http://127.0.0.1:1/token".parse().expect("a URL"));
    args.client_file = Some(folder.path().join("client"));
    fs::write(folder.path().join("client"), "id").expect("the file is written");
    assert!(args.requests().expect_err("there is no secret").ends_with("not ID:SECRET"));
    fs::write(folder.path().join("client"), "id:secret").expect("the file is written");
    let shown = format!("{:?}", args.requests().expect("requests"));
    assert!(shown.contains("Sensitive") && !shown.contains("aWQ6c2VjcmV0"), "{shown}");
}
