//! Load.

use std::{sync::atomic::Ordering, time::Duration};

use clap::Parser;
use e2e::{
    cli::{Cli, Load},
    client::Kind,
    load::{self, Line, Summary},
};
use http::StatusCode;
use test_support::{
    port::Port,
    process::{PATIENCE, eventually},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::server::{Fate, Server};

const RATE: u64 = 200;
const POST: &str = r#"{"name": "Ada", "email": "{uuid}@example.com"}"#;

/// A second of load, GET and POST in turn.
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
    let templates = args.templates().expect("sound templates");
    let summary = load::run(args, templates, CancellationToken::new(), |line| lines.push(line.clone())).await;
    (summary, lines)
}

/// The summary of a load on a server that treats its requests so.
async fn load_on(
    fate: impl Fn(u64) -> Fate + Send + Sync + 'static,
    adapt: impl FnOnce(&mut Load),
) -> (Summary, Server) {
    let server = Server::start(fate).await;
    let mut args = args(&server.address.to_string());
    adapt(&mut args);
    (send(&args).await.0, server)
}

/// As the command line says.
fn as_it_is(_: &mut Load) {}

/// So many failures of this kind and none else.
#[track_caller]
fn assert_failed(summary: &Summary, kind: Kind, count: u64) {
    assert_eq!((summary.failed, summary.failures[&kind]), (count, count), "{summary:?}");
}

#[tokio::test]
async fn a_good_server_is_sent_what_was_asked_for() {
    // Until the machine has not paused for long at the end: what was due then is sent late.
    eventually("at the rate that was asked for", PATIENCE, async || {
        let (summary, server) = load_on(|_| Fate::Answered, as_it_is).await;
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
    let server = Server::start(|n| if n == 77 { Fate::Dropped } else { Fate::Answered }).await;
    let (summary, lines) = send(&args(&server.address.to_string())).await;
    assert_failed(&summary, Kind::Reset, 1);
    assert_eq!((summary.requests, summary.connections), (RATE, 33));
    assert_eq!(server.requests.load(Ordering::Relaxed), RATE);
    let shown = lines.iter().filter(|line| matches!(line, Line::Failure { .. })).count();
    assert_eq!(shown, 1);
    assert!(matches!(lines.last(), Some(Line::Summary(_))));
}

#[tokio::test]
async fn a_connection_that_the_server_closes_is_no_failure() {
    let (summary, server) = load_on(|n| if n % 10 == 9 { Fate::Last } else { Fate::Answered }, as_it_is).await;
    assert_eq!((summary.requests, summary.failed), (RATE, 0), "{summary:?}");
    assert_eq!(summary.connections, server.connections.load(Ordering::Relaxed));
    assert!(summary.connections > 32, "{summary:?}");
}

#[tokio::test]
async fn each_post_has_a_key_of_its_own_where_that_is_asked_for() {
    for keyed in [true, false] {
        let (summary, server) = load_on(|_| Fate::Answered, |load| load.idempotency_keys = keyed).await;
        let keys = server.keys();
        assert_eq!((summary.failed, keys.len() as u64), (0, if keyed { RATE / 2 } else { 0 }), "{summary:?}");
    }
}

/// With as few connections as this, a client that waits for its answer before it thinks of the next request would send
/// few during the stall, and so see little of it.
#[tokio::test]
async fn a_stall_is_charged_with_all_that_it_delays() {
    let stall = Duration::from_millis(500);
    // Until no stall of the machine is added to it.
    eventually("a stall is seen as long as it is", PATIENCE, async || {
        let begun = Instant::now();
        let stalled = move |_| {
            let now = begun.elapsed();
            if now < stall { Fate::Answered } else { Fate::Late((2 * stall).saturating_sub(now)) }
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
async fn another_status_is_a_failure() {
    let refused = |n| if n == 5 { Fate::Refused(StatusCode::SERVICE_UNAVAILABLE) } else { Fate::Answered };
    assert_failed(&load_on(refused, as_it_is).await.0, Kind::Status, 1);
}

#[tokio::test]
async fn an_answer_without_what_was_sent_is_a_failure() {
    // A GET has sent nothing, so any JSON will do.
    let (summary, _) = load_on(|_| Fate::Wrong, as_it_is).await;
    assert_failed(&summary, Kind::Answer, RATE / 2);
}

#[tokio::test]
async fn no_answer_in_time_is_a_failure() {
    let late = |n| if n == 5 { Fate::Late(Duration::from_mins(1)) } else { Fate::Answered };
    // For longer than the machine may pause, which the others must not take for a late answer.
    assert_failed(&load_on(late, |load| load.timeout = Duration::from_secs(10)).await.0, Kind::Timeout, 1);
}

#[tokio::test]
async fn no_connection_is_a_failure_of_each_request() {
    let nobody = Port::free();
    assert_failed(&send(&args(&nobody.address.to_string())).await.0, Kind::Connect, RATE);
}

#[tokio::test]
async fn a_load_that_is_told_to_stop_sums_up() {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let server = Server::start(move |n| {
        if n == 50 {
            stopping.cancel();
        }
        Fate::Answered
    })
    .await;
    let mut args = args(&server.address.to_string());
    args.duration = Duration::from_hours(1);
    let summary = load::run(&args, args.templates().expect("sound templates"), stop, |_| {}).await;
    assert_eq!((summary.requests, summary.failed), (server.requests.load(Ordering::Relaxed), 0));
}

#[test]
fn each_post_has_a_body() {
    let mut args = args("test");
    args.post.push("http://test/inventory/p".parse().expect("a URL"));
    assert_eq!(args.templates().expect_err("a body is missing"), "1 --body for 2 --post");
    args.body.push("[]".to_owned());
    assert!(args.templates().expect_err("no object").starts_with("--body is no JSON object"));
}
