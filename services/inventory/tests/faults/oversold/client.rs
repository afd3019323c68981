//! A client: a closed loop of random requests, each with a unique number.

use std::{ops::Range, sync::atomic::Ordering, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgConnection;
use test_support::process::Process;
use tokio::time;

use super::{
    notes::{Notes, Outcome},
    shop::{BULK, CRATE, PRODUCTS, Shop},
};
use crate::service::client;

/// How long to wait for a response: short enough to time out during a fault.
const TIMEOUT: Duration = Duration::from_secs(8);

/// The pause after a request without a response.
const PAUSE: Duration = Duration::from_millis(5);

pub struct Client {
    shop: Shop,
    http: reqwest::Client,
    random: StdRng,
    notes: Notes,
    /// Reservations of this client that are still held.
    held: Vec<String>,
    /// The numbers of the processes that this client uses.
    processes: Range<usize>,
    /// Whether some requests have an idempotency key.
    has_keys: bool,
}

/// A response with a known outcome.
enum Reply {
    /// The request took effect.
    Done(Value),
    /// The rules of stock refuse the request.
    Refused(Value),
    /// The request had no effect, for example because the database is unavailable.
    NotDone,
}

impl Client {
    pub fn new(shop: Shop, seed: u64, processes: Range<usize>) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { shop, http: client(), random, notes: Notes::default(), held: Vec::new(), processes, has_keys: true }
    }

    /// Makes requests of all kinds.
    pub async fn run(mut self) -> Notes {
        while !self.shop.ending.load(Ordering::Relaxed) {
            match self.random.random_range(0..10) {
                0..5 => self.hold().await,
                5..7 => self.end().await,
                7..9 => self.adjust().await,
                _ => self.set().await,
            }
        }
        self.notes
    }

    /// Reserves one item at a time, without a key. With few concurrent requests that takes a single statement.
    pub async fn run_with_one_item(mut self) -> Notes {
        self.has_keys = false;
        while !self.shop.ending.load(Ordering::Relaxed) {
            self.hold_with(0).await;
        }
        self.notes
    }

    /// Generates a unique number.
    fn number(&self) -> i64 {
        i64::try_from(self.shop.numbers.fetch_add(1, Ordering::Relaxed)).expect("small")
    }

    async fn hold(&mut self) {
        let more = self.random.random_range(0..3);
        self.hold_with(more).await;
    }

    /// Reserves the quantity of its number, alone or with this many other items.
    async fn hold_with(&mut self, more: usize) {
        let number = self.number();
        let (product, ttls) = if more == 0 { (CRATE, [2, 3600, 3600]) } else { (BULK, [1, 2, 3600]) };
        let mut items = vec![json!({"product_id": product, "quantity": number})];
        for _ in 0..more {
            let product = PRODUCTS[self.random.random_range(0..PRODUCTS.len())];
            items.push(json!({"product_id": product, "quantity": self.random.random_range(1..4)}));
        }
        let ttl = ttls[self.random.random_range(0..ttls.len())];
        let body = json!({"items": items, "ttl_seconds": ttl});
        let outcome = self.request(number, Method::POST, "/reservations", &body).await;
        if let Outcome::Acknowledged(id) = &outcome {
            self.held.push(id.clone());
        }
        self.notes.holds.insert(number, outcome);
    }

    async fn adjust(&mut self) {
        let number = self.number();
        let path = format!("/inventory/{}", PRODUCTS[self.random.random_range(0..PRODUCTS.len())]);
        let body = json!({"delta": self.random.random_range(-4..8), "reason": number.to_string()});
        let outcome = self.request(number, Method::PATCH, &path, &body).await;
        self.notes.adjusts.insert(number, outcome);
    }

    async fn set(&mut self) {
        let path = format!("/inventory/{}", PRODUCTS[self.random.random_range(0..PRODUCTS.len())]);
        let body = json!({"stock": self.random.random_range(0..30)});
        let _ = self.once(Method::POST, &path, Some(&body), None).await;
    }

    async fn end(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let id = self.held.swap_remove(self.random.random_range(0..self.held.len()));
        let verb = if self.random.random_bool(0.5) { "commit" } else { "release" };
        let response = self.once(Method::POST, &format!("/reservations/{id}/{verb}"), None, None).await;
        let state = match response {
            Some(Reply::Done(body) | Reply::Refused(body)) => body["state"].as_str().expect("a state").to_owned(),
            Some(Reply::NotDone) => return self.held.push(id),
            None => return,
        };
        self.notes.expired += usize::from(state == "expired");
        self.notes.ends.insert(id, state);
    }

    /// Makes a request. Every second one has a key, if keys are used, and is repeated until its outcome is known.
    async fn request(&mut self, number: i64, method: Method, path: &str, body: &Value) -> Outcome {
        let key = (self.has_keys && number % 2 == 0).then(|| format!("key-{number}"));
        loop {
            match self.once(method.clone(), path, Some(body), key.as_deref()).await {
                Some(Reply::Done(body)) => {
                    let id = body["id"].as_str().unwrap_or_default();
                    return Outcome::Acknowledged(id.to_owned());
                }
                Some(Reply::Refused(_)) => return Outcome::Refused,
                Some(Reply::NotDone) if key.is_none() => return Outcome::Refused,
                None if key.is_none() => return Outcome::Unknown,
                Some(Reply::NotDone) | None => self.notes.repeated += 1,
            }
        }
    }

    /// Sends a request to a random process. Returns `None` if its outcome is unknown.
    async fn once(&mut self, method: Method, path: &str, body: Option<&Value>, key: Option<&str>) -> Option<Reply> {
        let addresses = self.shop.addresses.borrow_and_update().clone();
        let url = format!("{}{path}", addresses[self.random.random_range(self.processes.clone())]);
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        // Sometimes the client disconnects during its request.
        let timeout = match self.random.random_range(0..8) {
            0 => Duration::from_micros(self.random.random_range(0..8000)),
            _ => TIMEOUT,
        };
        let response = time::timeout(timeout, async {
            let response = request.send().await.ok()?;
            Some((response.status(), response.json::<Value>().await.ok()?))
        });
        let Ok(Some((status, body))) = response.await else {
            // A dead process refuses connections at once. Wait for its replacement instead of spinning.
            let _ = time::timeout(PAUSE, self.shop.addresses.changed()).await;
            return None;
        };
        let reply = match status {
            StatusCode::OK | StatusCode::CREATED => Some(Reply::Done(body)),
            StatusCode::CONFLICT => Some(Reply::Refused(body)),
            StatusCode::SERVICE_UNAVAILABLE => {
                let kind = body["type"].as_str().unwrap_or_default();
                (!kind.ends_with("outcome-unknown")).then_some(Reply::NotDone)
            }
            other => panic!("{other}: {body}"),
        };
        let is_final = matches!(reply, Some(Reply::Done(_) | Reply::Refused(_)));
        self.shop.certain.fetch_add(usize::from(is_final), Ordering::Relaxed);
        reply
    }
}

/// Sets the initial stock.
pub async fn stock_up(process: &Process) {
    for (product, stock) in
        PRODUCTS.map(|product| (product, 20_i64)).into_iter().chain([(BULK, 1_i64 << 40), (CRATE, 1_i64 << 40)])
    {
        let request = client().post(process.url(&format!("/inventory/{product}"))).json(&json!({"stock": stock}));
        assert_eq!(request.send().await.expect("a response").status(), StatusCode::CREATED);
    }
}

/// Asserts that the process reports what is in the database.
pub async fn agrees(process: &Process, connection: &mut PgConnection, product: &str) {
    let response = client().get(process.url(&format!("/inventory/{product}"))).send().await.expect("a response");
    let body: Value = response.json().await.expect("JSON");
    let (on_hand, reserved): (i64, i64) = sqlx::query_as("SELECT on_hand, reserved FROM stock WHERE product_id = $1")
        .bind(product)
        .fetch_one(connection)
        .await
        .expect("the product");
    assert_eq!((&body["on_hand"], &body["reserved"]), (&json!(on_hand), &json!(reserved)), "{product}");
}
