//! One client: a closed loop of random requests, each of which bears a number of its own.

use std::{ops::Range, sync::atomic::Ordering, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgConnection;
use test_support::process::Process;
use tokio::time;

use super::{
    Shop,
    notes::{Notes, Told},
};
use crate::service::client;

/// Few, so that they are hot and run out.
pub const PRODUCTS: [&str; 3] = ["cup", "mug", "pot"];

/// There is plenty of it, and each hold takes as much as its number.
pub const BULK: &str = "bulk";

/// The same, of holds of one item. Few of them expire: a single statement leaves alone what has overdue lines.
pub const CRATE: &str = "crate";

/// How long an answer is waited for: not so long that an accident is over before anybody minds.
const IMPATIENCE: Duration = Duration::from_secs(8);

/// How long to wait before the next request where there was no answer.
const MOMENT: Duration = Duration::from_millis(5);

pub struct Client {
    shop: Shop,
    http: reqwest::Client,
    random: StdRng,
    notes: Notes,
    /// Reservations that it has and may end.
    held: Vec<String>,
    /// The processes that it goes to, by their numbers.
    processes: Range<usize>,
    /// Whether some of its requests have a key.
    has_keys: bool,
}

/// An answer that is certain.
enum Certain {
    /// Done, with this body.
    Done(Value),
    /// Refused by the rules.
    Refused(Value),
    /// Not done, for want of a database say.
    NotDone,
}

impl Client {
    pub fn new(shop: Shop, seed: u64, processes: Range<usize>) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { shop, http: client(), random, notes: Notes::default(), held: Vec::new(), processes, has_keys: true }
    }

    /// Does all that can be done.
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

    /// Holds one item at a time, without a key: where few ask at once that takes a single statement.
    pub async fn run_with_one_item(mut self) -> Notes {
        self.has_keys = false;
        while !self.shop.ending.load(Ordering::Relaxed) {
            self.hold_with(0).await;
        }
        self.notes
    }

    /// A number that no other request has.
    fn number(&self) -> i64 {
        i64::try_from(self.shop.numbers.fetch_add(1, Ordering::Relaxed)).expect("small")
    }

    async fn hold(&mut self) {
        let more = self.random.random_range(0..3);
        self.hold_with(more).await;
    }

    /// Holds as much as its number says, alone or with so many other items.
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
        let told = self.request(number, Method::POST, "/reservations", &body).await;
        if let Told::Acknowledged(id) = &told {
            self.held.push(id.clone());
        }
        self.notes.holds.insert(number, told);
    }

    async fn adjust(&mut self) {
        let number = self.number();
        let path = format!("/inventory/{}", PRODUCTS[self.random.random_range(0..PRODUCTS.len())]);
        let body = json!({"delta": self.random.random_range(-4..8), "reason": number.to_string()});
        let told = self.request(number, Method::PATCH, &path, &body).await;
        self.notes.adjusts.insert(number, told);
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
        let answer = self.once(Method::POST, &format!("/reservations/{id}/{verb}"), None, None).await;
        let state = match answer {
            Some(Certain::Done(body) | Certain::Refused(body)) => body["state"].as_str().expect("a state").to_owned(),
            Some(Certain::NotDone) => return self.held.push(id),
            None => return,
        };
        self.notes.expired += usize::from(state == "expired");
        self.notes.ends.insert(id, state);
    }

    /// Makes a request: every other one with a key, if any, and then again until its outcome is certain.
    async fn request(&mut self, number: i64, method: Method, path: &str, body: &Value) -> Told {
        let key = (self.has_keys && number % 2 == 0).then(|| format!("key-{number}"));
        loop {
            match self.once(method.clone(), path, Some(body), key.as_deref()).await {
                Some(Certain::Done(body)) => {
                    let id = body["id"].as_str().unwrap_or_default();
                    return Told::Acknowledged(id.to_owned());
                }
                Some(Certain::Refused(_)) => return Told::Refused,
                Some(Certain::NotDone) if key.is_none() => return Told::Refused,
                None if key.is_none() => return Told::Unknown,
                Some(Certain::NotDone) | None => self.notes.repeated += 1,
            }
        }
    }

    /// Makes a request of a process by chance; none where its outcome is not known.
    async fn once(&mut self, method: Method, path: &str, body: Option<&Value>, key: Option<&str>) -> Option<Certain> {
        let addresses = self.shop.addresses.borrow_and_update().clone();
        let url = format!("{}{path}", addresses[self.random.random_range(self.processes.clone())]);
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        // Now and then it goes away while its request is under way.
        let patience = match self.random.random_range(0..8) {
            0 => Duration::from_micros(self.random.random_range(0..8000)),
            _ => IMPATIENCE,
        };
        let answer = time::timeout(patience, async {
            let response = request.send().await.ok()?;
            Some((response.status(), response.json::<Value>().await.ok()?))
        });
        let Ok(Some((status, body))) = answer.await else {
            // A dead process refuses connections at once, and another one comes in its place: no reason to spin.
            let _ = time::timeout(MOMENT, self.shop.addresses.changed()).await;
            return None;
        };
        let certain = match status {
            StatusCode::OK | StatusCode::CREATED => Some(Certain::Done(body)),
            StatusCode::CONFLICT => Some(Certain::Refused(body)),
            StatusCode::SERVICE_UNAVAILABLE => {
                let kind = body["type"].as_str().unwrap_or_default();
                (!kind.ends_with("outcome-unknown")).then_some(Certain::NotDone)
            }
            other => panic!("{other}: {body}"),
        };
        let is_answered = matches!(certain, Some(Certain::Done(_) | Certain::Refused(_)));
        self.shop.certain.fetch_add(usize::from(is_answered), Ordering::Relaxed);
        certain
    }
}

/// Puts goods on the shelf.
pub async fn stock_up(process: &Process) {
    for (product, stock) in
        PRODUCTS.map(|product| (product, 20_i64)).into_iter().chain([(BULK, 1_i64 << 40), (CRATE, 1_i64 << 40)])
    {
        let request = client().post(process.url(&format!("/inventory/{product}"))).json(&json!({"stock": stock}));
        assert_eq!(request.send().await.expect("an answer").status(), StatusCode::CREATED);
    }
}

/// What the process says of a product is what is in the database.
pub async fn agrees(process: &Process, connection: &mut PgConnection, product: &str) {
    let response = client().get(process.url(&format!("/inventory/{product}"))).send().await.expect("an answer");
    let body: Value = response.json().await.expect("JSON");
    let (on_hand, reserved): (i64, i64) = sqlx::query_as("SELECT on_hand, reserved FROM stock WHERE product_id = $1")
        .bind(product)
        .fetch_one(connection)
        .await
        .expect("the product");
    assert_eq!((&body["on_hand"], &body["reserved"]), (&json!(on_hand), &json!(reserved)), "{product}");
}
