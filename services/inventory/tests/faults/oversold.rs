//! Stock is never oversold: many clients and several processes on one database, while processes and connections are
//! killed.
//!
//! Clients make random requests for few products and record whether each was acknowledged, refused or has an unknown
//! outcome. At the end the database must agree with these records and be consistent.

mod client;
mod notes;
mod shop;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection, PgConnection};
use test_support::{
    inventory::inconsistencies,
    process::{Process, TIMEOUT, eventually},
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    proxy::{Cut, Proxy},
    service::{Postgres, program, ready, serve},
};
use client::Client;
use notes::Notes;
use shop::{BULK, CRATE, PRODUCTS, Shop};

/// The last process is quiet: few clients use it, one item at a time.
const PROCESSES: usize = 4;
const CLIENTS: usize = 24;
/// Additional clients, of the quiet process.
const QUIET_CLIENTS: usize = 2;
/// Requests with a known outcome between two faults.
const PROGRESS: usize = 300;
/// How often each kind of fault is injected.
const ROUNDS: usize = 4;

struct Scene {
    postgres: Postgres,
    proxy: Proxy,
    processes: Vec<Process>,
    addresses: watch::Sender<Vec<String>>,
    shop: Shop,
}

impl Scene {
    async fn new() -> Self {
        let postgres = Postgres::migrated().await;
        let proxy = Proxy::start(postgres.server.socket_dir(), |number| match number % 40 {
            3 => Some(Cut::During),
            13 => Some(Cut::After),
            29 => Some(Cut::Before),
            _ => None,
        })
        .await;
        let program = program(&proxy.url("postgres"));
        let mut processes = Vec::new();
        for _ in 0..PROCESSES {
            processes.push(serve(&program).await);
        }
        let (addresses, receiver) = watch::channel(processes.iter().map(|process| process.url("")).collect());
        let shop = Shop {
            addresses: receiver,
            ending: Arc::default(),
            certain: Arc::default(),
            numbers: Arc::new(AtomicUsize::new(1)),
        };
        Self { postgres, proxy, processes, addresses, shop }
    }

    async fn progress(&self) {
        let enough = self.shop.certain.load(Ordering::Relaxed) + PROGRESS;
        let progressed = async || (self.shop.certain.load(Ordering::Relaxed) >= enough).then_some(());
        eventually("requests are answered", TIMEOUT, progressed).await;
    }

    /// Kills a process and starts another in its place.
    async fn replace(&mut self, number: usize) {
        self.processes[number].kill();
        self.processes[number] = program(&self.proxy.url("postgres")).serve().await;
        self.addresses.send_modify(|addresses| addresses[number] = self.processes[number].url(""));
    }

    async fn inject_faults(&mut self) {
        for round in 0..ROUNDS {
            self.progress().await;
            self.replace(round % PROCESSES).await;
            self.progress().await;
            self.postgres.server.kill();
            self.postgres.server.start_again().expect("the server recovers");
            self.progress().await;
            self.replace((round + 1) % PROCESSES).await;
            self.progress().await;
            self.postgres.server.stop();
            self.postgres.server.start_again().expect("the server restarts");
        }
        self.progress().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_oversold() {
    let mut scene = Scene::new().await;
    client::stock_up(&scene.processes[0]).await;
    let mut clients = JoinSet::new();
    for seed in 1..=CLIENTS {
        clients.spawn(Client::new(scene.shop.clone(), seed as u64, 0..PROCESSES - 1).run());
    }
    for seed in CLIENTS + 1..=CLIENTS + QUIET_CLIENTS {
        let client = Client::new(scene.shop.clone(), seed as u64, PROCESSES - 1..PROCESSES);
        clients.spawn(client.run_with_one_item());
    }
    scene.inject_faults().await;
    scene.shop.ending.store(true, Ordering::Relaxed);
    let mut notes = Notes::default();
    while let Some(client) = clients.join_next().await {
        notes.merge(client.expect("no client panics"));
    }
    for process in &scene.processes {
        ready(process).await;
    }

    let mut connection = PgConnection::connect(&scene.postgres.url).await.expect("a connection");
    quiet(&mut connection).await;
    assert_eq!(inconsistencies(&mut connection).await, Vec::<String>::new());
    notes.check(&mut connection).await;
    let (cuts, single) = (scene.proxy.cuts(), single_statement_holds(&mut connection).await);
    println!("{notes}, {cuts} cuts, {single} single-statement holds");
    assert!(cuts > 10, "{cuts} cuts");
    assert!(single > 50, "{single} single-statement holds");
    assert!(notes.covers_everything(), "{notes}");

    // The service reports what is in the database.
    for product in PRODUCTS.iter().chain([&BULK, &CRATE]) {
        client::agrees(&scene.processes[1], &mut connection, product).await;
    }
}

/// Waits until no transaction of a dead process is left and all holds with a short time to live are settled.
async fn quiet(connection: &mut PgConnection) {
    let busy = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%')
                     + (SELECT count(*) FROM expiry WHERE expires_at < clock_timestamp() + interval '1 minute')";
    eventually("all expired holds are settled", Duration::from_secs(30), async || {
        let busy: i64 = sqlx::query_scalar(busy).fetch_one(&mut *connection).await.expect("a count");
        (busy == 0).then_some(())
    })
    .await;
}

/// The number of single-statement holds: the transaction of a batch marks a movement with its id.
async fn single_statement_holds(connection: &mut PgConnection) -> i64 {
    let holds = "SELECT count(*) FROM (SELECT FROM movement GROUP BY xmin::text HAVING count(batch) = 0) AS one";
    sqlx::query_scalar(holds).fetch_one(connection).await.expect("a count")
}
