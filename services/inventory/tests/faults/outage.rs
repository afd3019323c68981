//! Outages of the database.

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::{Client, Method, Response};
use serde_json::json;
use sqlx::{Connection, PgConnection, raw_sql};
use test_support::{
    app::join_all,
    process::{Process, TIMEOUT, eventually},
};

use crate::service::{DEADLINE, Postgres, client, program, readiness, serve, unavailable};

/// How soon the service recovers once the database accepts connections.
const RECOVERY: Duration = Duration::from_secs(2);

/// One request for each path to the database: batched reads, batched changes, and the pool.
const REQUESTS: [(Method, &str); 4] = [
    (Method::GET, "/inventory/p"),
    (Method::PATCH, "/inventory/p"),
    (Method::GET, "/inventory"),
    (Method::GET, "/inventory/p/movements"),
];

async fn send(client: &Client, service: &Process, (method, path): (Method, &str)) -> Response {
    let request = client.request(method.clone(), service.url(path));
    let request = if method == Method::PATCH { request.json(&json!({"delta": 1})) } else { request };
    request.send().await.expect("a response within the deadline")
}

async fn assert_all_work(client: &Client, service: &Process) {
    for request in REQUESTS {
        let response = send(client, service, request.clone()).await;
        assert_eq!(response.status(), 200, "{request:?}: {}", response.text().await.unwrap_or_default());
    }
}

/// Waits until each path to the database works again, and asserts that it keeps working.
async fn recovers(client: &Client, service: &Process) {
    let started = Instant::now();
    for request in REQUESTS {
        let left = RECOVERY.saturating_sub(started.elapsed());
        let works = async || (send(client, service, request.clone()).await.status() == 200).then_some(());
        eventually("recovered", left, works).await;
    }
    eventually("ready", RECOVERY, async || (readiness(service).await.status() == 200).then_some(())).await;
    for _ in 0..20 {
        assert_all_work(client, service).await;
    }
}

async fn survives(end: fn(&mut embedded_postgres::Server)) {
    let mut postgres = Postgres::migrated().await;
    let service = serve(&program(&postgres.url)).await;
    let client = client();
    assert_all_work(&client, &service).await;

    end(&mut postgres.server);
    for request in REQUESTS {
        let started = Instant::now();
        unavailable(send(&client, &service, request.clone()).await).await;
        assert!(started.elapsed() < DEADLINE);
        assert_eq!(client.get(service.admin_url("/livez")).send().await.expect("a response").status(), 200);
    }
    eventually("not ready", TIMEOUT, async || (readiness(&service).await.status() == 503).then_some(())).await;

    postgres.server.start_again().expect("the server restarts");
    recovers(&client, &service).await;
}

#[tokio::test]
async fn a_stopped_database_means_503_until_it_is_back() {
    survives(embedded_postgres::Server::stop).await;
}

#[tokio::test]
async fn a_crashed_database_means_503_until_it_is_back() {
    survives(embedded_postgres::Server::kill).await;
}

#[tokio::test]
async fn a_database_restart_between_requests_causes_no_error() {
    let mut postgres = Postgres::migrated().await;
    let service = serve(&program(&postgres.url)).await;
    let client = client();
    assert_all_work(&client, &service).await;
    postgres.server.stop();
    postgres.server.start_again().expect("the server restarts");
    assert_all_work(&client, &service).await;
}

/// How soon a response is sent while the database hangs: a running statement, a check of the connection, the wait for a
/// new one, and the same wait of the previous batch. Shorter than the limit for a request.
const HUNG: Duration = Duration::from_secs(12);

/// Asserts that requests are 503 in time while the database hangs, including those that wait for others.
async fn assert_none_works(client: &Client, service: &Process) {
    let started = Instant::now();
    let requests = REQUESTS.iter().cycle().take(5 * REQUESTS.len());
    for response in join_all(requests.map(|request| send(client, service, request.clone()))).await {
        unavailable(response).await;
    }
    assert!(started.elapsed() < HUNG, "{:?}", started.elapsed());
    eventually("not ready", TIMEOUT, async || (readiness(service).await.status() == 503).then_some(())).await;
    assert_eq!(client.get(service.admin_url("/livez")).send().await.expect("a response").status(), 200);
}

#[tokio::test]
async fn a_hung_database_means_503_in_time_until_it_continues() {
    let postgres = Postgres::migrated().await;
    let service = serve(&program(&postgres.url)).await;
    let client = client();
    for _ in 0..2 {
        assert_all_work(&client, &service).await;
        let frozen = postgres.server.freeze();
        assert_none_works(&client, &service).await;
        drop(frozen);
        recovers(&client, &service).await;
    }
}

#[tokio::test]
async fn a_database_that_hangs_in_a_transaction_means_503_in_time() {
    let postgres = Postgres::migrated().await;
    let service = serve(&program(&postgres.url)).await;
    let client = client();
    assert_all_work(&client, &service).await;
    let mut lock = PgConnection::connect(&postgres.url).await.expect("a connection");
    raw_sql("BEGIN; LOCK TABLE movement").execute(&mut lock).await.expect("locked");
    let blocked = async {
        let requests = [REQUESTS[1].clone(), REQUESTS[3].clone()].map(|request| send(&client, &service, request));
        for response in join_all(requests).await {
            unavailable(response).await;
        }
    };
    let hang = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        eventually("both requests are waiting for the lock", TIMEOUT, async || {
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut lock).await.expect("a count");
            (waiting == 2).then_some(())
        })
        .await;
        let frozen = postgres.server.freeze();
        assert_none_works(&client, &service).await;
        drop(frozen);
    };
    tokio::join!(blocked, hang);
    raw_sql("ROLLBACK").execute(&mut lock).await.expect("unlocked");
    recovers(&client, &service).await;
}

#[tokio::test]
async fn hung_connections_are_replaced() {
    let postgres = Postgres::migrated().await;
    let service = serve(&program(&postgres.url)).await;
    let client = client();
    assert_all_work(&client, &service).await;
    let mut connection = PgConnection::connect(&postgres.url).await.expect("a connection");
    let backends = "SELECT pid FROM pg_stat_activity WHERE application_name = 'inventory'";
    let backends: Vec<i32> = sqlx::query_scalar(backends).fetch_all(&mut connection).await.expect("processes");
    assert!(backends.len() > 3, "{backends:?}");
    let signal = |signal| backends.iter().all(|pid| kill(Pid::from_raw(*pid), signal).is_ok());
    assert!(signal(Signal::SIGSTOP), "the backends stop responding");
    for request in REQUESTS {
        let works = async || (send(&client, &service, request.clone()).await.status() == 200).then_some(());
        eventually("a new connection", HUNG, works).await;
    }
    assert_all_work(&client, &service).await;
    assert!(signal(Signal::SIGCONT), "the backends continue, so that the server can stop");
}
