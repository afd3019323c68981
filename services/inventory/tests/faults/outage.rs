//! The database goes away, and comes back.

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::{Client, Method, Response};
use serde_json::json;
use test_harness::process::{PATIENCE, Process, eventually};

use crate::service::{DEADLINE, Postgres, client, program, readiness, serve, unavailable};

/// How soon after the database takes connections the service works again.
const RECOVERY: Duration = Duration::from_secs(2);

/// One request for each way to the database: batched reads, batched changes, the pool.
const REQUESTS: [(Method, &str); 4] = [
    (Method::GET, "/inventory/p"),
    (Method::PATCH, "/inventory/p"),
    (Method::GET, "/inventory"),
    (Method::GET, "/inventory/p/movements"),
];

async fn ask(client: &Client, service: &Process, (method, path): (Method, &str)) -> Response {
    let request = client.request(method.clone(), service.url(path));
    let request = if method == Method::PATCH { request.json(&json!({"delta": 1})) } else { request };
    request.send().await.expect("an answer within the deadline")
}

async fn assert_all_work(client: &Client, service: &Process) {
    for request in REQUESTS {
        let response = ask(client, service, request.clone()).await;
        assert_eq!(response.status(), 200, "{request:?}: {}", response.text().await.unwrap_or_default());
    }
}

async fn outlives(end: fn(&mut embedded_postgres::Server)) {
    let mut postgres = Postgres::migrated().await;
    let service = serve(&program(&postgres.url)).await;
    let client = client();
    assert_all_work(&client, &service).await;

    end(&mut postgres.server);
    for request in REQUESTS {
        let begun = Instant::now();
        unavailable(ask(&client, &service, request.clone()).await).await;
        assert!(begun.elapsed() < DEADLINE);
        assert_eq!(client.get(service.admin_url("/livez")).send().await.expect("an answer").status(), 200);
    }
    eventually("not ready", PATIENCE, async || (readiness(&service).await.status() == 503).then_some(())).await;

    postgres.server.start_again().expect("it starts again");
    let begun = Instant::now();
    for request in REQUESTS {
        let left = RECOVERY.saturating_sub(begun.elapsed());
        let works = async || (ask(&client, &service, request.clone()).await.status() == 200).then_some(());
        eventually("recovered", left, works).await;
    }
    eventually("ready", RECOVERY, async || (readiness(&service).await.status() == 200).then_some(())).await;
    for _ in 0..20 {
        assert_all_work(&client, &service).await;
    }
}

#[tokio::test]
async fn a_stopped_database_is_503_until_it_is_back() {
    outlives(embedded_postgres::Server::stop).await;
}

#[tokio::test]
async fn a_crashed_database_is_503_until_it_is_back() {
    outlives(embedded_postgres::Server::kill).await;
}

/// All processes of a Postgres, so that none of them answers, and none closes a connection.
fn freeze(server: &embedded_postgres::Server, signal: Signal) {
    let postmaster = server.pid().expect("it runs").to_string();
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).expect("children");
    for pid in children.split_whitespace().chain([postmaster.as_str()]) {
        // A child may have ended meanwhile.
        let _ = kill(Pid::from_raw(pid.parse().expect("a process id")), signal);
    }
}

#[tokio::test]
async fn a_database_that_goes_silent_is_503_until_it_speaks_again() {
    let postgres = Postgres::migrated().await;
    let service = serve(&program(&postgres.url)).await;
    let client = client();
    assert_all_work(&client, &service).await;

    freeze(&postgres.server, Signal::SIGSTOP);
    // Twice: what a first request found out must not leave the second one waiting.
    for request in REQUESTS.iter().chain(&REQUESTS) {
        let begun = Instant::now();
        let status = ask(&client, &service, request.clone()).await.status();
        let taken = begun.elapsed();
        if status != 503 || taken >= DEADLINE {
            freeze(&postgres.server, Signal::SIGCONT);
            panic!("{request:?}: {status} after {taken:?}");
        }
    }
    let ready = readiness(&service).await.status();
    freeze(&postgres.server, Signal::SIGCONT);
    assert_eq!(ready, 503);
    let begun = Instant::now();
    for request in REQUESTS {
        let left = RECOVERY.saturating_sub(begun.elapsed());
        let works = async || (ask(&client, &service, request.clone()).await.status() == 200).then_some(());
        eventually("recovered", left, works).await;
    }
}

#[tokio::test]
async fn a_restart_between_two_requests_is_not_noticed() {
    let mut postgres = Postgres::migrated().await;
    let service = serve(&program(&postgres.url)).await;
    let client = client();
    assert_all_work(&client, &service).await;
    postgres.server.stop();
    postgres.server.start_again().expect("it starts again");
    assert_all_work(&client, &service).await;
}
