//! Acknowledged changes survive kills of the service and of the database.

use std::{
    ops::AddAssign,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool};
use test_support::{
    inventory::inconsistencies,
    process::{TIMEOUT, eventually},
};
use tokio::{
    sync::watch,
    task::{JoinSet, yield_now},
};

use crate::service::{Postgres, add_one, client, program, ready, serve, url};

const CLIENTS: usize = 12;
/// Several, so that batches lock several rows; fewer than clients, so that the rows are contended.
const PRODUCTS: usize = 3;
const KILLS: usize = 4;
/// Acknowledged requests between two kills.
const PROGRESS: i64 = 60;

/// The outcomes of requests that clients know.
#[derive(Debug, Default)]
struct Tally {
    /// Requests that took effect.
    acknowledged: i64,
    /// Requests that had no effect: refused or never sent.
    refused: i64,
    /// Requests without a response, or with one that says that the outcome is unknown.
    unknown: i64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
    }
}

/// Clients in closed loops that add one to a product.
struct Load {
    clients: JoinSet<Tally>,
    ending: Arc<AtomicBool>,
    acknowledged: Arc<AtomicI64>,
}

impl Load {
    fn start(service: &watch::Receiver<String>) -> Self {
        let mut load = Self { clients: JoinSet::new(), ending: Arc::default(), acknowledged: Arc::default() };
        for number in 0..CLIENTS {
            let path = format!("/inventory/p{}", number % PRODUCTS);
            load.clients.spawn(add(service.clone(), path, load.ending.clone(), load.acknowledged.clone()));
        }
        load
    }

    /// Waits until more requests are acknowledged.
    async fn progress(&self) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + PROGRESS;
        let progressed = async || (self.acknowledged.load(Ordering::Relaxed) >= enough).then_some(());
        eventually("requests are acknowledged", TIMEOUT, progressed).await;
    }

    async fn end(mut self) -> Tally {
        self.ending.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        while let Some(tally) = self.clients.join_next().await {
            sum += tally.expect("no client panics");
        }
        sum
    }
}

async fn add(
    mut service: watch::Receiver<String>,
    path: String,
    ending: Arc<AtomicBool>,
    acknowledged: Arc<AtomicI64>,
) -> Tally {
    let client = client();
    let mut tally = Tally::default();
    while !ending.load(Ordering::Relaxed) {
        let url = format!("{}{path}", *service.borrow_and_update());
        match client.patch(url).json(&json!({"delta": 1})).send().await {
            Ok(response) if response.status() == StatusCode::OK => {
                tally.acknowledged += 1;
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
                match response.json::<Value>().await {
                    Ok(problem) if !is_unknown(&problem) => tally.refused += 1,
                    _ => tally.unknown += 1,
                }
            }
            Ok(response) => panic!("{}: {:?}", response.status(), response.text().await),
            Err(error) if error.is_connect() => {
                tally.refused += 1;
                // The process is dead. Its replacement has another address.
                let _ = tokio::time::timeout(TIMEOUT, service.changed()).await;
            }
            Err(_) => tally.unknown += 1,
        }
        yield_now().await;
    }
    tally
}

/// Whether the service reports an unknown outcome.
fn is_unknown(problem: &Value) -> bool {
    let kind = problem["type"].as_str().unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or_default();
    kind.ends_with("outcome-unknown") || detail.contains("may or may not")
}

/// Asserts that the database agrees with the clients and is consistent.
async fn verify(connection: &mut PgConnection, tally: &Tally) {
    let on_hand: i64 = sqlx::query_scalar("SELECT sum(on_hand)::bigint FROM stock")
        .fetch_one(&mut *connection)
        .await
        .expect("the counters");
    assert!(tally.acknowledged <= on_hand && on_hand <= tally.acknowledged + tally.unknown, "{on_hand}: {tally:?}");
    assert_eq!(inconsistencies(connection).await, Vec::<String>::new());
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn acknowledged_changes_survive_kills_of_the_service(pool: PgPool) {
    let program = program(&url(&pool));
    let mut service = serve(&program).await;
    let (address, addresses) = watch::channel(service.url(""));
    let load = Load::start(&addresses);
    for _ in 0..KILLS {
        load.progress().await;
        service.kill();
        service = program.serve().await;
        address.send_replace(service.url(""));
    }
    load.progress().await;
    let mut tally = load.end().await;
    settle(&service, &mut tally).await;
    verify(&mut pool.acquire().await.expect("a connection"), &tally).await;
    assert!(tally.unknown > 0, "no kill affected a request: {tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_changes_survive_kills_of_the_database() {
    let mut postgres = Postgres::migrated().await;
    let service = serve(&program(&postgres.url)).await;
    let (_address, addresses) = watch::channel(service.url(""));
    let load = Load::start(&addresses);
    for _ in 0..KILLS {
        load.progress().await;
        postgres.server.kill();
        postgres.server.start_again().expect("the server recovers");
    }
    load.progress().await;
    let mut tally = load.end().await;
    ready(&service).await;
    settle(&service, &mut tally).await;
    let mut connection = PgConnection::connect(&postgres.url).await.expect("a connection");
    verify(&mut connection, &tally).await;
    assert!(tally.refused + tally.unknown > 0, "no kill affected a request: {tally:?}");
}

/// Changes each product once more. This waits for the row locks, and so for transactions of dead processes.
async fn settle(service: &test_support::process::Process, tally: &mut Tally) {
    let client = client();
    for number in 0..PRODUCTS {
        let response = add_one(&client, service, &format!("p{number}")).await;
        assert_eq!(response.status(), StatusCode::OK);
        tally.acknowledged += 1;
    }
}
