//! A COMMIT whose answer is lost: what became of it is found out.

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use test_support::{inventory::inconsistencies, process::Process};

use crate::{
    proxy::{Cut, Proxy},
    service::{Postgres, client, program, serve, unavailable},
};

/// A service whose way to the database loses every second commit: the second, the fourth and so on.
struct Setting {
    postgres: Postgres,
    proxy: Proxy,
    service: Process,
    client: Client,
}

impl Setting {
    async fn new(cut: Cut) -> Self {
        let postgres = Postgres::migrated().await;
        let proxy = Proxy::start(&postgres.server, move |number| (number % 2 == 1).then_some(cut)).await;
        let service = serve(&program(&proxy.url("postgres"))).await;
        Self { postgres, proxy, service, client: client() }
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> Response {
        self.client.request(method, self.service.url(path)).json(&body).send().await.expect("an answer")
    }

    async fn check(&self) {
        let mut connection = PgConnection::connect(&self.postgres.url).await.expect("a connection");
        assert_eq!(inconsistencies(&mut connection).await, Vec::<String>::new());
    }

    async fn kinds(&self) -> Vec<String> {
        let mut connection = PgConnection::connect(&self.postgres.url).await.expect("a connection");
        let kinds = "SELECT kind FROM movement ORDER BY version";
        sqlx::query_scalar(kinds).fetch_all(&mut connection).await.expect("the ledger")
    }
}

async fn is_found_out(cut: Cut) {
    let setting = Setting::new(cut).await;
    // Cut are the COMMITs with odd numbers; one that never arrived comes again.
    assert_eq!(setting.send(Method::POST, "/inventory/p", json!({"stock": 10})).await.status(), 201);
    let held =
        setting.send(Method::POST, "/reservations", json!({"items": [{"product_id": "p", "quantity": 3}]})).await;
    assert_eq!(held.status(), 201);
    let held: Value = held.json().await.expect("JSON");
    let path = format!("/reservations/{}", held["id"].as_str().expect("an id"));
    let read: Value =
        setting.client.get(setting.service.url(&path)).send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(read, held);
    for number in 0..3 {
        let response = setting.send(Method::PATCH, "/inventory/p", json!({"delta": 1})).await;
        let stock: Value = response.json().await.expect("JSON");
        assert_eq!(stock["on_hand"], 11 + number);
    }
    assert_eq!(setting.send(Method::POST, &format!("{path}/commit"), json!(null)).await.status(), 200);
    assert_eq!(setting.kinds().await, ["set", "hold", "adjust", "adjust", "adjust", "commit"], "each once");
    assert!(setting.proxy.cuts() >= 3, "{}", setting.proxy.cuts());
    setting.check().await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_and_not_repeated() {
    is_found_out(Cut::After).await;
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_found_missing_and_made_again() {
    is_found_out(Cut::Before).await;
}

async fn a_hold_alone(cut: Cut) {
    let setting = Setting::new(cut).await;
    assert_eq!(setting.send(Method::POST, "/inventory/p", json!({"stock": 10})).await.status(), 201);
    let body = json!({"items": [{"product_id": "p", "quantity": 3}]});
    for round in 1..=3 {
        let cuts = setting.proxy.cuts();
        let held: Value = setting.send(Method::POST, "/reservations", body.clone()).await.json().await.expect("JSON");
        assert_eq!(held["state"], "held");
        let path = format!("/reservations/{}", held["id"].as_str().expect("an id"));
        let read = setting.client.get(setting.service.url(&path)).send().await.expect("an answer");
        assert_eq!(read.json::<Value>().await.expect("JSON"), held);
        assert_eq!(setting.kinds().await.len(), 1 + round, "each once");
        assert!(round > 1 || setting.proxy.cuts() > cuts);
        setting.check().await;
    }
    // Whether the third was cut or not: it is known that there are not enough.
    assert_eq!(setting.send(Method::POST, "/reservations", body).await.status(), 409);
    setting.check().await;
}

#[tokio::test]
async fn a_hold_in_one_statement_whose_answer_is_lost_is_found_and_not_repeated() {
    a_hold_alone(Cut::After).await;
}

#[tokio::test]
async fn a_hold_in_one_statement_that_never_arrived_can_never_be_and_is_made_anew() {
    a_hold_alone(Cut::Before).await;
}

#[tokio::test]
async fn where_that_cannot_be_found_out_the_answer_says_so() {
    for (cut, expected) in [(Cut::After, 2), (Cut::Before, 1)] {
        let setting = Setting::new(cut).await;
        assert_eq!(setting.send(Method::PATCH, "/inventory/p", json!({"delta": 1})).await.status(), 200);
        setting.proxy.close_after_the_next_cut();
        let problem = unavailable(setting.send(Method::PATCH, "/inventory/p", json!({"delta": 1})).await).await;
        assert_eq!(problem["type"], "https://hedgerow.dev/problems/outcome-unknown");
        assert_eq!(setting.kinds().await.len(), expected);
    }
}

#[tokio::test]
async fn where_that_cannot_be_found_out_of_a_hold_in_one_statement_the_answer_says_so() {
    for (cut, expected) in [(Cut::After, 2), (Cut::Before, 1)] {
        let setting = Setting::new(cut).await;
        assert_eq!(setting.send(Method::POST, "/inventory/p", json!({"stock": 10})).await.status(), 201);
        setting.proxy.close_after_the_next_cut();
        let body = json!({"items": [{"product_id": "p", "quantity": 3}]});
        let problem = unavailable(setting.send(Method::POST, "/reservations", body).await).await;
        assert_eq!(problem["type"], "https://hedgerow.dev/problems/outcome-unknown");
        assert_eq!(setting.kinds().await.len(), expected);
        setting.check().await;
    }
}

/// A kept answer is written with what it tells: a repetition finds it though the first never got it.
#[tokio::test]
async fn a_refusal_that_is_kept_survives_a_lost_commit() {
    let setting = Setting::new(Cut::After).await;
    assert_eq!(setting.send(Method::POST, "/inventory/p", json!({"stock": 1})).await.status(), 201);
    let body = json!({"items": [{"product_id": "p", "quantity": 3}]});
    for _ in 0..2 {
        let request = setting.client.post(setting.service.url("/reservations")).header("idempotency-key", "k");
        assert_eq!(request.json(&body).send().await.expect("an answer").status(), 409);
        assert_eq!(setting.send(Method::POST, "/inventory/p", json!({"stock": 5})).await.status(), 201);
    }
    setting.check().await;
}
