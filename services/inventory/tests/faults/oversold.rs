//! Never oversold: many clients, several processes on one database, whatever is killed, cut or restarted.
//!
//! Clients do all that can be done with few products, at random, and note of each request whether it was acknowledged,
//! refused or left open. At the end the database must agree with them, and with itself, exactly.

mod client;
mod notes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection, PgConnection};
use test_support::{
    inventory::inconsistencies,
    process::{PATIENCE, Process, eventually},
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    proxy::{Cut, Proxy},
    service::{Postgres, program, ready, serve},
};
use client::{BULK, CRATE, Client, PRODUCTS};
use notes::Notes;

/// The last of them is quiet: few ask of it, one item at a time.
const PROCESSES: usize = 4;
const CLIENTS: usize = 24;
/// How many more clients there are of the quiet process.
const QUIET_CLIENTS: usize = 2;
/// How many more requests must have a certain answer between two accidents.
const PROGRESS: usize = 300;
/// How often each kind of accident happens.
const ROUNDS: usize = 4;

/// What the clients share.
#[derive(Clone)]
struct Shop {
    /// Where the processes serve.
    addresses: watch::Receiver<Vec<String>>,
    ending: Arc<AtomicBool>,
    /// How many requests had a certain answer.
    certain: Arc<AtomicUsize>,
    /// Numbers that name requests.
    numbers: Arc<AtomicUsize>,
}

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
        let proxy = Proxy::start(&postgres.server, |number| match number % 40 {
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
        eventually("requests are answered", PATIENCE, progressed).await;
    }

    /// Kills a process, and starts another in its place.
    async fn replace(&mut self, number: usize) {
        self.processes[number].kill();
        self.processes[number] = program(&self.proxy.url("postgres")).serve().await;
        self.addresses.send_modify(|addresses| addresses[number] = self.processes[number].url(""));
    }

    async fn accidents(&mut self) {
        for round in 0..ROUNDS {
            self.progress().await;
            self.replace(round % PROCESSES).await;
            self.progress().await;
            self.postgres.server.kill();
            self.postgres.server.start_again().expect("it recovers");
            self.progress().await;
            self.replace((round + 1) % PROCESSES).await;
            self.progress().await;
            self.postgres.server.stop();
            self.postgres.server.start_again().expect("it starts again");
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
    scene.accidents().await;
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
    let (cuts, alone) = (scene.proxy.cuts(), alone(&mut connection).await);
    println!("{notes}, {cuts} cuts, {alone} in one statement");
    assert!(cuts > 10, "{cuts} cuts");
    assert!(alone > 50, "{alone} holds in one statement");
    assert!(notes.has_seen_everything(), "{notes}");

    // What the service says is what is there.
    for product in PRODUCTS.iter().chain([&BULK, &CRATE]) {
        client::agrees(&scene.processes[1], &mut connection, product).await;
    }
}

/// Waits until no transaction of a dead process is left, and every hold that can is expired and settled.
async fn quiet(connection: &mut PgConnection) {
    let busy = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%')
                     + (SELECT count(*) FROM reservation_line WHERE live AND expires_at < clock_timestamp() + interval '1 minute')";
    eventually("all is settled", Duration::from_secs(20), async || {
        let busy: i64 = sqlx::query_scalar(busy).fetch_one(&mut *connection).await.expect("a count");
        (busy == 0).then_some(())
    })
    .await;
}

/// How many holds were made by one statement: a batch's transaction names itself in a movement that it writes.
async fn alone(connection: &mut PgConnection) -> i64 {
    let alone = "SELECT count(*) FROM (SELECT FROM movement GROUP BY xmin::text HAVING count(batch) = 0) AS one";
    sqlx::query_scalar(alone).fetch_one(connection).await.expect("a count")
}
