//! What was acknowledged is in the database, whatever is killed.

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
use test_support::process::{PATIENCE, eventually};
use tokio::{
    sync::watch,
    task::{JoinSet, yield_now},
};

use crate::service::{Postgres, add_one, client, program, ready, serve, url};

const CLIENTS: usize = 12;
/// More than one, so that batches lock several rows; fewer than clients, so that the rows are hot.
const PRODUCTS: usize = 3;
const KILLS: usize = 4;
/// How many more requests must be acknowledged between two kills.
const PROGRESS: i64 = 60;

/// What clients know about their requests.
#[derive(Debug, Default)]
struct Tally {
    /// Answered with success: done.
    acknowledged: i64,
    /// Refused, or never sent: not done.
    refused: i64,
    /// No answer, or one that says so: done or not.
    unknown: i64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
    }
}

/// Clients in closed loops, each of which adds one to a product at a time.
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

    /// Waits until so many more were acknowledged that all clients are at it again.
    async fn progress(&self) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + PROGRESS;
        let progressed = async || (self.acknowledged.load(Ordering::Relaxed) >= enough).then_some(());
        eventually("requests are acknowledged", PATIENCE, progressed).await;
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
                // The process is dead; the next one has another address.
                let _ = tokio::time::timeout(PATIENCE, service.changed()).await;
            }
            Err(_) => tally.unknown += 1,
        }
        yield_now().await;
    }
    tally
}

/// Whether the service says itself that it does not know.
fn is_unknown(problem: &Value) -> bool {
    let kind = problem["type"].as_str().unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or_default();
    kind.ends_with("outcome-unknown") || detail.contains("may or may not")
}

/// Checks the database against what clients know, and against itself.
async fn verify(connection: &mut PgConnection, tally: &Tally) {
    let on_hand: i64 = sqlx::query_scalar("SELECT sum(on_hand)::bigint FROM stock")
        .fetch_one(&mut *connection)
        .await
        .expect("the counters");
    assert!(tally.acknowledged <= on_hand && on_hand <= tally.acknowledged + tally.unknown, "{on_hand}: {tally:?}");

    let wrong: Vec<String> = sqlx::query_scalar(
        "SELECT product_id FROM stock LEFT JOIN (
             SELECT product_id, count(*) AS count, max(version) AS newest, sum(on_hand_delta) AS on_hand_sum,
                    sum(reserved_delta) AS reserved_sum, bool_and(on_hand = running) AS runs
             FROM (SELECT *, sum(on_hand_delta) OVER (PARTITION BY product_id ORDER BY version) AS running
                   FROM movement) AS entry
             GROUP BY product_id
         ) AS ledger USING (product_id)
         WHERE (count, newest, on_hand_sum, reserved_sum, runs) IS DISTINCT FROM (version, version, on_hand, reserved, true)",
    )
    .fetch_all(connection)
    .await
    .expect("the ledger");
    assert!(wrong.is_empty(), "counters and ledger differ for {wrong:?}");
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
    assert!(tally.unknown > 0, "no kill hit a request: {tally:?}");
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
        postgres.server.start_again().expect("it recovers");
    }
    load.progress().await;
    let mut tally = load.end().await;
    ready(&service).await;
    settle(&service, &mut tally).await;
    let mut connection = PgConnection::connect(&postgres.url).await.expect("a connection");
    verify(&mut connection, &tally).await;
    assert!(tally.refused + tally.unknown > 0, "no kill hit a request: {tally:?}");
}

/// One more change of each product: it waits for the row, and so for all that a dead process left in flight.
async fn settle(service: &test_support::process::Process, tally: &mut Tally) {
    let client = client();
    for number in 0..PRODUCTS {
        let response = add_one(&client, service, &format!("p{number}")).await;
        assert_eq!(response.status(), StatusCode::OK);
        tally.acknowledged += 1;
    }
}
