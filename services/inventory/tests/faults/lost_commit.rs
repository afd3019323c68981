//! A COMMIT whose response is lost: the service determines its outcome.

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::{inventory::inconsistencies, process::Process};

use crate::{
    proxy::{Cut, Proxy},
    service::{client, program, serve, unavailable},
};

/// A service that loses its database connection at every second commit, starting with the second.
struct Scenario {
    pool: PgPool,
    proxy: Proxy,
    service: Process,
    client: Client,
}

impl Scenario {
    async fn new(pool: PgPool, cut: Cut) -> Self {
        let options = pool.connect_options();
        let socket_dir = options.get_socket().expect("the server of the tests has a Unix socket");
        let proxy = Proxy::start(socket_dir, move |number| (number % 2 == 1).then_some(cut)).await;
        let service = serve(&program(&proxy.url(options.get_database().expect("a database")))).await;
        Self { pool, proxy, service, client: client() }
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> Response {
        self.client.request(method, self.service.url(path)).json(&body).send().await.expect("a response")
    }

    async fn check(&self) {
        let mut connection = self.pool.acquire().await.expect("a connection");
        assert_eq!(inconsistencies(&mut connection).await, Vec::<String>::new());
    }

    async fn kinds(&self) -> Vec<String> {
        let kinds = "SELECT kind FROM movement ORDER BY version";
        sqlx::query_scalar(kinds).fetch_all(&self.pool).await.expect("the ledger")
    }
}

async fn outcome_is_determined(pool: PgPool, cut: Cut) {
    let scenario = Scenario::new(pool, cut).await;
    // Every second commit is cut; one that never arrived is sent again.
    assert_eq!(scenario.send(Method::POST, "/inventory/p", json!({"stock": 10})).await.status(), 201);
    let held =
        scenario.send(Method::POST, "/reservations", json!({"items": [{"product_id": "p", "quantity": 3}]})).await;
    assert_eq!(held.status(), 201);
    let held: Value = held.json().await.expect("JSON");
    let path = format!("/reservations/{}", held["id"].as_str().expect("an id"));
    let read: Value =
        scenario.client.get(scenario.service.url(&path)).send().await.expect("a response").json().await.expect("JSON");
    assert_eq!(read, held);
    for number in 0..3 {
        let response = scenario.send(Method::PATCH, "/inventory/p", json!({"delta": 1})).await;
        let stock: Value = response.json().await.expect("JSON");
        assert_eq!(stock["on_hand"], 11 + number);
    }
    assert_eq!(scenario.send(Method::POST, &format!("{path}/commit"), json!(null)).await.status(), 200);
    assert_eq!(
        scenario.kinds().await,
        ["set", "hold", "adjust", "adjust", "adjust", "commit"],
        "each change was applied once"
    );
    assert!(scenario.proxy.cuts() >= 3, "{}", scenario.proxy.cuts());
    scenario.check().await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_commit_whose_response_is_lost_is_not_repeated(pool: PgPool) {
    outcome_is_determined(pool, Cut::After).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_commit_that_never_arrived_is_repeated(pool: PgPool) {
    outcome_is_determined(pool, Cut::Before).await;
}

async fn single_statement_hold(pool: PgPool, cut: Cut) {
    let scenario = Scenario::new(pool, cut).await;
    assert_eq!(scenario.send(Method::POST, "/inventory/p", json!({"stock": 10})).await.status(), 201);
    let body = json!({"items": [{"product_id": "p", "quantity": 3}]});
    for round in 1..=3 {
        let cuts = scenario.proxy.cuts();
        let held: Value = scenario.send(Method::POST, "/reservations", body.clone()).await.json().await.expect("JSON");
        assert_eq!(held["state"], "held");
        let path = format!("/reservations/{}", held["id"].as_str().expect("an id"));
        let read = scenario.client.get(scenario.service.url(&path)).send().await.expect("a response");
        assert_eq!(read.json::<Value>().await.expect("JSON"), held);
        assert_eq!(scenario.kinds().await.len(), 1 + round, "each change was applied once");
        assert!(round > 1 || scenario.proxy.cuts() > cuts);
        scenario.check().await;
    }
    // Whether or not the third was cut, there is not enough left.
    assert_eq!(scenario.send(Method::POST, "/reservations", body).await.status(), 409);
    scenario.check().await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_hold_whose_response_is_lost_is_not_repeated(pool: PgPool) {
    single_statement_hold(pool, Cut::After).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_hold_that_never_arrived_is_voided_and_retried(pool: PgPool) {
    single_statement_hold(pool, Cut::Before).await;
}

/// The proxy goes away with the commit, so the service cannot find out. `kinds` is how many movements there are then.
async fn outcome_is_unknown(pool: PgPool, cut: Cut, kinds: usize) {
    let scenario = Scenario::new(pool, cut).await;
    assert_eq!(scenario.send(Method::PATCH, "/inventory/p", json!({"delta": 1})).await.status(), 200);
    scenario.proxy.close_after_the_next_cut();
    let problem = unavailable(scenario.send(Method::PATCH, "/inventory/p", json!({"delta": 1})).await).await;
    assert_eq!(problem["type"], "https://hedgerow.dev/problems/outcome-unknown");
    assert_eq!(scenario.kinds().await.len(), kinds);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_unknown_outcome_of_a_completed_commit_is_reported(pool: PgPool) {
    outcome_is_unknown(pool, Cut::After, 2).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_unknown_outcome_of_a_lost_commit_is_reported(pool: PgPool) {
    outcome_is_unknown(pool, Cut::Before, 1).await;
}

async fn outcome_of_a_hold_is_unknown(pool: PgPool, cut: Cut, kinds: usize) {
    let scenario = Scenario::new(pool, cut).await;
    assert_eq!(scenario.send(Method::POST, "/inventory/p", json!({"stock": 10})).await.status(), 201);
    scenario.proxy.close_after_the_next_cut();
    let body = json!({"items": [{"product_id": "p", "quantity": 3}]});
    let problem = unavailable(scenario.send(Method::POST, "/reservations", body).await).await;
    assert_eq!(problem["type"], "https://hedgerow.dev/problems/outcome-unknown");
    assert_eq!(scenario.kinds().await.len(), kinds);
    scenario.check().await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_unknown_outcome_of_a_completed_hold_is_reported(pool: PgPool) {
    outcome_of_a_hold_is_unknown(pool, Cut::After, 2).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_unknown_outcome_of_a_lost_hold_is_reported(pool: PgPool) {
    outcome_of_a_hold_is_unknown(pool, Cut::Before, 1).await;
}

/// A response is stored in the transaction it describes, so a repetition finds it even if the first response was lost.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_stored_refusal_survives_a_lost_commit(pool: PgPool) {
    let scenario = Scenario::new(pool, Cut::After).await;
    assert_eq!(scenario.send(Method::POST, "/inventory/p", json!({"stock": 1})).await.status(), 201);
    let body = json!({"items": [{"product_id": "p", "quantity": 3}]});
    for _ in 0..2 {
        let request = scenario.client.post(scenario.service.url("/reservations")).header("idempotency-key", "k");
        assert_eq!(request.json(&body).send().await.expect("a response").status(), 409);
        assert_eq!(scenario.send(Method::POST, "/inventory/p", json!({"stock": 5})).await.status(), 201);
    }
    scenario.check().await;
}

/// The refusal is all that the transaction writes. It may be stored, so the response must not say that nothing happened.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_unknown_outcome_of_a_stored_refusal_is_reported(pool: PgPool) {
    let scenario = Scenario::new(pool, Cut::After).await;
    assert_eq!(scenario.send(Method::POST, "/inventory/p", json!({"stock": 1})).await.status(), 201);
    scenario.proxy.close_after_the_next_cut();
    let body = json!({"items": [{"product_id": "p", "quantity": 3}]});
    let request = scenario.client.post(scenario.service.url("/reservations")).header("idempotency-key", "k");
    let problem = unavailable(request.json(&body).send().await.expect("a response")).await;
    assert_eq!(problem["type"], "https://hedgerow.dev/problems/outcome-unknown");
    let stored = "SELECT count(*) FROM idempotency WHERE answer IS NOT NULL";
    let stored: i64 = sqlx::query_scalar(stored).fetch_one(&scenario.pool).await.expect("a count");
    assert_eq!(stored, 1);
}

async fn keyed_set(pool: PgPool, cut: Cut) {
    let scenario = Scenario::new(pool, cut).await;
    for method in [Method::PUT, Method::POST] {
        let mut tags = Vec::new();
        for _ in 0..3 {
            let request = scenario.client.request(method.clone(), scenario.service.url("/inventory/p"));
            let request = request.header("idempotency-key", "k").json(&json!({"stock": 5}));
            let response = request.send().await.expect("a response");
            assert!(response.status().is_success(), "{}", response.status());
            tags.push(response.headers()["etag"].clone());
        }
        assert!(tags.iter().all(|tag| *tag == tags[0]), "{tags:?}");
    }
    assert_eq!(scenario.kinds().await, ["set", "set"], "each change was applied once");
    assert!(scenario.proxy.cuts() > 0);
    scenario.check().await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_keyed_set_whose_commit_is_lost_is_applied_once(pool: PgPool) {
    keyed_set(pool, Cut::Before).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_keyed_set_whose_response_is_lost_is_applied_once(pool: PgPool) {
    keyed_set(pool, Cut::After).await;
}
