//! Concurrent clients: no change is lost or counted twice, and the ledger agrees.

use std::{collections::HashMap, time::Instant};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::{
    app::{App, Response, join_all},
    process::{TIMEOUT, eventually},
};

use crate::{
    MOST, adjust, audit, counts,
    held_up::{LOCK_TIMEOUT, hold_up, in_flight, waits_for_a_lock},
    ledger, no_deadlock,
    preconditions::send_if,
    reservations::reserve,
    set, start, start_two, stock,
};

fn number(value: &Value, field: &str) -> i64 {
    value[field].as_i64().unwrap_or_else(|| panic!("{field} is not a whole number: {value}"))
}

/// Asserts that a ledger, oldest first, has no gap and adds up to the quantity on hand.
fn assert_consistent(ledger: &[Value], on_hand: i64) {
    let mut before = 0;
    for (version, movement) in (1..).zip(ledger) {
        assert_eq!(number(movement, "version"), version, "no gap");
        assert_eq!(number(movement, "on_hand"), before + number(movement, "on_hand_delta"), "{movement}");
        assert_eq!((number(movement, "reserved"), number(movement, "reserved_delta")), (0, 0));
        before = number(movement, "on_hand");
        assert!((0..=MOST).contains(&before));
    }
    assert_eq!(before, on_hand);
    assert_eq!(ledger.iter().map(|movement| number(movement, "on_hand_delta")).sum::<i64>(), on_hand);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn two_hundred_concurrent_increments_add_two_hundred(pool: PgPool) {
    let app = start(&pool).await;
    for round in 1..=3 {
        let responses = join_all((0..200).map(|_| adjust(&app, "p", 1))).await;
        let mut seen: Vec<_> = responses.iter().map(|response| number(&response.json(200), "stock")).collect();
        seen.sort_unstable();
        assert_eq!(
            seen,
            ((round - 1) * 200 + 1..=round * 200).collect::<Vec<_>>(),
            "each response has a different stock"
        );
        assert_eq!(stock(&app, "p").await, round * 200);
    }
    assert_consistent(&ledger(&app, "p").await, 600);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn exactly_as_many_decrements_succeed_as_there_is_stock(pool: PgPool) {
    let (app, other) = (start(&pool).await, start(&pool).await);
    set(&app, "p", 50).await.json(201);
    let takers = (0..120).map(|taker| adjust(if taker % 2 == 0 { &app } else { &other }, "p", -1));
    let responses = join_all(takers).await;
    let (taken, refused): (Vec<_>, Vec<_>) = responses.iter().partition(|response| response.status == 200);
    assert_eq!(taken.len(), 50);
    for response in refused {
        assert_eq!(response.problem(409)["type"], "https://hedgerow.dev/problems/insufficient-stock");
    }
    assert_consistent(&ledger(&app, "p").await, 0);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_refusal_does_not_affect_other_requests_in_its_batch(pool: PgPool) {
    let app = start(&pool).await;
    let body = |number: i64| match number % 4 {
        0 => json!({"delta": 1}),
        1 => json!({"delta": -MOST}),
        2 => json!({"delta": MOST, "reason": "too much"}),
        _ => json!({"delta": 1, "reason": "a\0"}),
    };
    set(&app, "p", 1).await.json(201);
    let requests = (0..200).map(|number| {
        let (app, body) = (&app, body(number));
        async move { app.patch("/inventory/p", &body).await }
    });
    for (number, response) in (0..).zip(join_all(requests).await) {
        match number % 4 {
            0 => _ = response.json(200),
            1 => _ = response.problem(409),
            2 => assert_eq!(response.errors(), ["#/delta"]),
            _ => assert_eq!(response.errors(), ["#/reason"]),
        }
    }
    assert_eq!(stock(&app, "p").await, 51);
    assert_eq!(counts(&pool).await, (1, 51));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn concurrent_first_changes_of_new_products_all_apply(pool: PgPool) {
    let [app, other] = start_two(&pool).await;
    // In opposite orders, so that the two instances contend for the products.
    let changes = (0..200).map(|change| {
        let (app, product) = if change % 2 == 0 { (&app, change / 2 % 20) } else { (&other, 19 - change / 2 % 20) };
        async move { adjust(app, &format!("p{product}"), 1).await }
    });
    for response in join_all(changes).await {
        response.json(200);
    }
    assert_eq!(counts(&pool).await, (20, 200));
    for product in 0..20 {
        let product = format!("p{product}");
        assert_consistent(&ledger(&app, &product).await, 10);
    }
    no_deadlock(&pool, [app, other]).await;
}

/// Reproducible pseudo-random numbers (Marsaglia's xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// An acknowledged change: its product and version, and its movement as the client expects it.
type Acknowledged = ((String, i64), (&'static str, Option<i64>, i64));

/// One client: makes changes sequentially and records the responses.
async fn client(app: &App, seed: u64, changes: usize) -> Vec<Acknowledged> {
    let mut numbers = Numbers(seed);
    let mut acknowledged = Vec::new();
    let mut latest: HashMap<String, i64> = HashMap::new();
    for _ in 0..changes {
        let product = format!("p{}", numbers.below(3));
        let amount = i64::try_from(numbers.below(40)).expect("small");
        let (kind, delta, status, response): (_, _, _, Response) = if numbers.below(4) == 0 {
            ("set", None, 201, set(app, &product, amount).await)
        } else {
            let delta = amount - 20;
            ("adjust", Some(delta), 200, adjust(app, &product, delta).await)
        };
        if response.status == 409 {
            assert!(delta.is_some_and(|delta| delta < 0), "only decrements are refused");
            response.problem(409);
            continue;
        }
        let body = response.json(status);
        assert_eq!((&body["product_id"], &body["stock"]), (&json!(product), &body["on_hand"]));
        let version: i64 = response.etag().trim_matches('"').parse().expect("a number");
        let before = latest.insert(product.clone(), version);
        assert!(before < Some(version), "versions increase");
        acknowledged.push(((product, version), (kind, delta, number(&body, "on_hand"))));
    }
    acknowledged
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn random_changes_through_two_instances_agree_with_the_ledger(pool: PgPool) {
    let (app, other) = (start(&pool).await, start(&pool).await);
    let clients = (1..=12).map(|seed| client(if seed % 2 == 0 { &app } else { &other }, seed * 7919, 40));
    let mut acknowledged: HashMap<_, _> = HashMap::new();
    for (key, line) in join_all(clients).await.concat() {
        assert!(acknowledged.insert(key.clone(), line).is_none(), "{key:?} was acknowledged twice");
    }
    for product in ["p0", "p1", "p2"] {
        let ledger = ledger(&app, product).await;
        assert_consistent(&ledger, stock(&app, product).await);
        assert_eq!(stock(&app, product).await, stock(&other, product).await);
        for movement in ledger {
            let key = (product.to_owned(), number(&movement, "version"));
            let (kind, delta, on_hand) = acknowledged.remove(&key).expect("each movement was acknowledged");
            assert_eq!(movement["kind"], kind);
            assert_eq!(number(&movement, "on_hand"), on_hand);
            assert!(delta.is_none_or(|delta| delta == number(&movement, "on_hand_delta")), "{movement}");
        }
    }
    assert!(acknowledged.is_empty(), "acknowledged changes that are not in the ledger: {acknowledged:?}");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_acknowledged_change_is_visible_on_all_instances(pool: PgPool) {
    let (app, other) = (start(&pool).await, start(&pool).await);
    let noise = async {
        loop {
            join_all((0..8).map(|_| adjust(&app, "noise", 1))).await;
        }
    };
    let check = async {
        for number in 1..=50 {
            set(&app, "p", number).await.json(201);
            assert_eq!(stock(&other, "p").await, number);
            assert_eq!(adjust(&other, "p", 1).await.json(200)["stock"], number + 1);
            assert_eq!(stock(&app, "p").await, number + 1);
        }
    };
    tokio::select! { () = check => {}, () = noise => unreachable!("the noise never ends") }
}

/// A batch names unknown products and waits for a locked one. Another instance creates the products meanwhile. Then
/// requests for them arrive.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn requests_that_join_a_batch_see_new_products(pool: PgPool) {
    let (app, other) = (start(&pool).await, start(&pool).await);
    set(&app, "locked", 50).await.json(201);
    let mut rounds = 0;
    eventually("the product is unlocked before the writer stops to wait for it", TIMEOUT, async || {
        rounds += 1;
        let new = ["reserved", "adjusted", "matched"].map(|product| format!("{product}{rounds}"));
        let [reserved, adjusted, matched] = new.each_ref().map(String::as_str);
        let lock = hold_up(&pool, "locked").await;
        let started = Instant::now();
        let items = [("locked", 1), (reserved, 1), (adjusted, 1), (matched, 1)];
        let late = async {
            waits_for_a_lock(&pool).await;
            let created = join_all(new.iter().map(|product| set(&other, product, 5))).await;
            let (path, etag) = (format!("/inventory/{matched}"), created[2].etag());
            let (items, body) = ([(reserved, 1)], json!({"delta": 1}));
            let unlock = async {
                in_flight(&app, 4).await;
                lock.rollback().await.expect("unlocked");
                started.elapsed() < LOCK_TIMEOUT
            };
            tokio::join!(
                reserve(&app, &items),
                adjust(&app, adjusted, -1),
                send_if(&app, Method::PATCH, &path, ("if-match", &etag), &body),
                unlock
            )
        };
        let (first, (held, taken, changed, in_time)) = tokio::join!(reserve(&app, &items), late);
        if in_time {
            let statuses = [first, held, taken, changed].map(|response| response.status);
            // The first one was sent before the products were created, so its refusal is right.
            assert_eq!(statuses, [409, 201, 200, 200]);
        }
        in_time.then_some(())
    })
    .await;
    audit(&pool).await;
}
