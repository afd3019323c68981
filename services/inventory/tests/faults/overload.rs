//! Overload: excess requests are refused in time, and the service recovers.

use std::time::Instant;

use bytes::Bytes;
use contracts::inventory::v1::{Item, ReserveRequest, inventory_client::InventoryClient};
use http::response::Parts;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Client;
use sqlx::{Connection, PgConnection, PgPool, raw_sql};
use test_support::process::{Process, Signal, TIMEOUT, eventually};
use tokio::{net::TcpStream, task::JoinSet};
use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    grpc::connect,
    service::{Postgres, add_one, client, linger, program, readiness, serve, unavailable, url},
};

/// The limit for requests in flight, and more than that.
const LIMIT: usize = 2048;
const REQUESTS: usize = LIMIT + 200;
/// How many requests wait for locked products.
const LOCKED: usize = 1024;
/// Requests on one HTTP/2 connection: fewer than its limit.
const STREAMS: usize = 225;

/// Sends at least this many requests at once.
async fn flood(service: &Process, count: usize) -> JoinSet<Response<Incoming>> {
    let mut requests = JoinSet::new();
    for _ in 0..count.div_ceil(STREAMS) {
        let stream = TcpStream::connect(service.http).await.expect("a connection");
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("an HTTP/2 connection");
        tokio::spawn(connection);
        for _ in 0..STREAMS {
            let mut sender = sender.clone();
            requests.spawn(async move {
                let request = Request::patch("http://test/inventory/p").header("content-type", "application/json");
                let request = request.body(Full::<Bytes>::from(r#"{"delta":1}"#)).expect("a valid request");
                sender.send_request(request).await.expect("a response")
            });
        }
    }
    requests
}

/// The head of a response, and its body as text.
async fn parts(response: Response<Incoming>) -> (Parts, String) {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (head, String::from_utf8_lossy(&body).into_owned())
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn excess_requests_are_refused_at_once_and_others_answered(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    assert_eq!(add_one(&client(), &service, "p").await.status(), 200);
    let mut lock = pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE stock").execute(&mut *lock).await.expect("locked");

    let started = Instant::now();
    let mut requests = flood(&service, REQUESTS).await;
    // While the table is locked, all responses are refusals.
    let mut refused = 0;
    while refused < REQUESTS - LIMIT {
        let response = requests.join_next().await.expect("more requests than are admitted").expect("no panic");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert!(response.headers().contains_key("retry-after"));
        let (_, body) = parts(response).await;
        assert!(body.contains("too many requests are in flight"), "{body}");
        refused += 1;
    }
    assert_eq!(readiness(&service).await.status(), 200, "load does not make the service unready");
    lock.rollback().await.expect("unlocked");

    let mut done = 1;
    while let Some(response) = requests.join_next().await {
        match response.expect("no panic").status() {
            StatusCode::OK => done += 1,
            status => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
        }
    }
    assert_eq!(add_one(&client(), &service, "p").await.status(), 200);
    let on_hand: i64 = sqlx::query_scalar("SELECT on_hand FROM stock").fetch_one(&pool).await.expect("the stock");
    assert_eq!(on_hand, done + 1);

    let log = service.stop().await.log();
    let logged = log.iter().filter(|line| line["message"] == "request refused").count() as u64;
    assert!(
        (1..=started.elapsed().as_secs() + 1).contains(&logged),
        "one log line a second, not one for each request: {logged}"
    );
}

/// Nearly as many requests as are admitted are for one product, which is locked.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn requests_for_a_locked_product_leave_room_for_others(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    assert_eq!(add_one(&client(), &service, "p").await.status(), 200);
    let mut lock = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM stock FOR UPDATE").execute(&mut *lock).await.expect("locked");
    let mut requests = flood(&service, LIMIT - STREAMS).await;
    for _ in 0..requests.len() - LOCKED {
        let response = requests.join_next().await.expect("more requests than may wait").expect("no panic");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key("retry-after"));
        let (_, body) = parts(response).await;
        assert!(body.contains("the data is locked by another transaction"), "{body}");
    }
    assert_eq!(add_one(&client(), &service, "other").await.status(), 200);
    lock.rollback().await.expect("unlocked");

    let mut done = 1_i64;
    while let Some(response) = requests.join_next().await {
        match response.expect("no panic").status() {
            StatusCode::OK => done += 1,
            status => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
        }
    }
    let on_hand = sqlx::query_scalar("SELECT on_hand FROM stock WHERE product_id = 'p'").fetch_one(&pool).await;
    assert_eq!(on_hand.ok(), Some(done));
    assert!(done > 1, "the others waited");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_long_lock_makes_changes_503_while_reads_succeed(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    let client = client();
    assert_eq!(add_one(&client, &service, "p").await.status(), 200);
    let mut lock = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM stock FOR UPDATE").execute(&mut *lock).await.expect("locked");
    let change = async { unavailable(add_one(&client, &service, "p").await).await };
    let read = async {
        let response = client.get(service.url("/inventory/p")).send().await.expect("a response");
        assert_eq!(response.status(), 200);
    };
    tokio::join!(change, read);
    lock.rollback().await.expect("unlocked");
    assert_eq!(add_one(&client, &service, "p").await.status(), 200);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_row_lock_is_released_when_its_holder_disappears(pool: PgPool) {
    let program = program(&url(&pool));
    let (vanishing, service) = tokio::join!(serve(&program), serve(&program));
    let client = client();
    assert_eq!(add_one(&client, &service, "p").await.status(), 200);
    // It locks the row and then waits for the ledger.
    let mut lock = pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE movement").execute(&mut *lock).await.expect("locked");
    let abandoned = add_one(&client, &vanishing, "p");
    let waiter = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'movement'::regclass AND NOT granted";
        eventually("it is waiting for the ledger", TIMEOUT, async || {
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *lock).await.expect("a count");
            (waiting == 1).then_some(())
        })
        .await;
        vanishing.signal(Signal::SIGSTOP);
        lock.rollback().await.expect("unlocked");
        add_one(&client, &service, "p").await.status()
    };
    tokio::select! {
        response = abandoned => panic!("a stopped process responded: {response:?}"),
        status = waiter => assert_eq!(status, 200),
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_exhausted_pool_means_503(pool: PgPool) {
    let service = serve(&program(&url(&pool)).variable("DATABASE_POOL_SIZE", "3")).await;
    let client = client();
    let mut lock = pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE movement").execute(&mut *lock).await.expect("locked");
    let list = async || client.get(service.url("/inventory/p/movements")).send().await.expect("a response");
    let (first, second, third, fourth, fifth) = tokio::join!(list(), list(), list(), list(), list());
    for response in [first, second, third, fourth, fifth] {
        unavailable(response).await;
    }
    assert_eq!(readiness(&service).await.status(), 200, "load does not make the service unready");
    lock.rollback().await.expect("unlocked");
    let works = async || (list().await.status() == 200).then_some(());
    eventually("connections are free again", TIMEOUT, works).await;
}

/// Requests of disconnected clients stay in the queue until their turn, so it holds more than are in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_503_over_http_and_unavailable_over_grpc() {
    let postgres = Postgres::migrated().await;
    let service = serve(&program(&postgres.url)).await;
    let client = client();
    assert_eq!(add_one(&client, &service, "p").await.status(), 200);
    let mut lock = PgConnection::connect(&postgres.url).await.expect("a connection");
    linger(&mut lock).await;
    // A database that hangs during COMMIT blocks the queue for the longest time.
    let first = add_one(&client, &service, "p");
    let full = async {
        eventually("the first change is committing", TIMEOUT, async || {
            let waiting = sqlx::query_scalar("SELECT count(*) FROM pg_locks WHERE NOT granted");
            let waiting: i64 = waiting.fetch_one(&mut lock).await.expect("a count");
            (waiting == 1).then_some(())
        })
        .await;
        let frozen = postgres.server.freeze();
        let (head, body) = eventually("the queue is full", TIMEOUT, async || {
            let mut requests = flood(&service, LIMIT - STREAMS).await;
            let refused = tokio::select! {
                refused = requests.join_next() => Some(refused.expect("many requests").expect("no panic")),
                () = in_flight(&client, &service, |count| count > LIMIT - STREAMS) => None,
            };
            let refused = match refused {
                Some(refused) => Some(parts(refused).await),
                None => None,
            };
            drop(requests);
            in_flight(&client, &service, |count| count <= 1).await;
            refused
        })
        .await;
        assert_eq!(head.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(head.headers.contains_key("retry-after"));
        assert!(body.contains("too many requests are waiting"), "{body}");
        let mut calls = InventoryClient::new(connect(&service).await);
        let items = vec![Item { product_id: "p".to_owned(), quantity: 1 }];
        let status = calls.reserve(ReserveRequest { items, ..ReserveRequest::default() }).await.expect_err("refused");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("requests are waiting"), "{status:?}");
        assert!(status.get_error_details().retry_info().is_some());
        drop(frozen);
        raw_sql("ROLLBACK").execute(&mut lock).await.expect("unlocked");
    };
    let (_, ()) = tokio::join!(first, full);
    let works = async || (add_one(&client, &service, "p").await.status() == 200).then_some(());
    eventually("changes succeed again", TIMEOUT, works).await;
    let on_hand: i64 = sqlx::query_scalar("SELECT on_hand FROM stock").fetch_one(&mut lock).await.expect("the stock");
    assert!((2..=3).contains(&on_hand), "requests of disconnected clients have no effect: {on_hand}");
}

/// Waits until enough requests are in flight, or few enough.
async fn in_flight(client: &Client, service: &Process, enough: impl Fn(usize) -> bool) {
    eventually("the number of requests in flight", TIMEOUT, async || {
        let metrics = client.get(service.admin_url("/metrics")).send().await.expect("a response").text().await;
        let metrics = metrics.expect("a text");
        let line = metrics.lines().find_map(|line| line.strip_prefix("http_requests_in_flight "));
        enough(line.expect("the metric exists").parse().expect("a number")).then_some(())
    })
    .await;
}
