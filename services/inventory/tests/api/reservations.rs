//! `/reservations`: reserve, commit and release.

use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::app::{App, Response, join_all};
use uuid::Uuid;

use crate::{adjust, audit, counters, ledger, no_deadlock, set, start, start_two};

/// Reserves these items.
pub async fn reserve(app: &App, items: &[(&str, i64)]) -> Response {
    let items: Vec<Value> =
        items.iter().map(|(product, quantity)| json!({"product_id": product, "quantity": quantity})).collect();
    app.post("/reservations", &json!({"items": items})).await
}

/// The path of a new reservation.
#[track_caller]
pub fn location(response: &Response) -> String {
    response.json(201);
    response.header("location").expect("a location").to_owned()
}

/// Commits or releases a reservation.
pub async fn end(app: &App, path: &str, verb: &str) -> Response {
    app.send(app.request(reqwest::Method::POST, &format!("{path}/{verb}"))).await
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_reservation_holds_its_items_and_can_be_read(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    set(&app, "b", 5).await.json(201);
    let response = reserve(&app, &[("b", 1), ("a", 2), ("b", 3)]).await;
    let body = response.json(201);
    let items = json!([{"product_id": "a", "quantity": 2}, {"product_id": "b", "quantity": 4}]);
    assert_eq!((&body["state"], &body["items"]), (&json!("held"), &items), "merged and sorted");
    let id: Uuid = body["id"].as_str().expect("an id").parse().expect("a UUID");
    assert_eq!(id.get_version_num(), 7);
    assert_eq!(location(&response), format!("/reservations/{id}"));
    let expires_at: chrono::DateTime<chrono::Utc> =
        body["expires_at"].as_str().expect("a time").parse().expect("RFC 3339");
    let seconds = (expires_at - chrono::Utc::now()).num_seconds();
    assert!((880..=905).contains(&seconds), "15 minutes by default: {seconds}");

    let found = app.get(&location(&response)).await;
    assert_eq!((found.json(200), found.etag()), (body, response.etag()));
    assert_eq!(counters(&app, "a").await, (3, 5, 2));
    assert_eq!(counters(&app, "b").await, (1, 5, 4));
    let movement = ledger(&app, "b").await.pop().expect("a movement");
    let expected = json!({
        "product_id": "b", "version": 2, "kind": "hold", "on_hand_delta": 0, "reserved_delta": 4, "on_hand": 5,
        "reserved": 4, "reason": null, "reservation_id": id, "holds": null, "expired_until": null, "at": movement["at"],
    });
    assert_eq!(movement, expected);
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn all_items_are_reserved_or_none(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    set(&app, "b", 1).await.json(201);
    let problem = reserve(&app, &[("a", 5), ("b", 2), ("unknown", 1)]).await.problem(409);
    assert_eq!(problem["type"], "https://hedgerow.dev/problems/insufficient-stock");
    let items = json!([
        {"product_id": "b", "quantity": 2, "stock": 1}, {"product_id": "unknown", "quantity": 1, "stock": 0},
    ]);
    assert_eq!(problem["items"], items);
    assert_eq!((counters(&app, "a").await, counters(&app, "b").await), ((5, 5, 0), (1, 1, 0)));
    let most = 9_007_199_254_740_991;
    reserve(&app, &[("a", most), ("a", most)]).await.problem(409);
    let known: Vec<String> =
        sqlx::query_scalar("SELECT product_id FROM stock ORDER BY 1").fetch_all(&pool).await.expect("rows");
    assert_eq!(known, ["a", "b"], "a refusal creates no product");
    reserve(&app, &[("a", 5), ("b", 1)]).await.json(201);
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_commit_reduces_the_quantity_on_hand_once(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    let held = reserve(&app, &[("a", 2)]).await;
    let path = location(&held);
    let committed = end(&app, &path, "commit").await;
    let body = committed.json(200);
    assert_eq!(body["state"], "committed");
    assert_ne!(committed.etag(), held.etag());
    let again = end(&app, &path, "commit").await;
    assert_eq!((again.json(200), again.etag()), (body.clone(), committed.etag()));
    let problem = end(&app, &path, "release").await.problem(409);
    assert_eq!(
        (&problem["type"], &problem["state"]),
        (&json!("https://hedgerow.dev/problems/reservation-ended"), &json!("committed"))
    );
    assert_eq!(app.get(&path).await.json(200), body);
    assert_eq!(counters(&app, "a").await, (3, 3, 0));
    assert_eq!(kinds(&app, "a").await, ["set", "hold", "commit"]);
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn release_returns_the_items_to_stock_once(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    set(&app, "b", 5).await.json(201);
    let path = location(&reserve(&app, &[("a", 2), ("b", 5)]).await);
    for _ in 0..2 {
        assert_eq!(end(&app, &path, "release").await.json(200)["state"], "released");
    }
    end(&app, &path, "commit").await.problem(409);
    assert_eq!((counters(&app, "a").await, counters(&app, "b").await), ((5, 5, 0), (5, 5, 0)));
    assert_eq!(kinds(&app, "b").await, ["set", "hold", "release"]);
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn stock_cannot_be_set_or_adjusted_below_reserved(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    reserve(&app, &[("a", 3)]).await.json(201);
    for response in [set(&app, "a", 2).await, adjust(&app, "a", -3).await] {
        assert_eq!(response.problem(409)["type"], "https://hedgerow.dev/problems/insufficient-stock");
    }
    assert_eq!(set(&app, "a", 3).await.json(201), json!({"product_id": "a", "stock": 0, "on_hand": 3, "reserved": 3}));
    reserve(&app, &[("a", 1)]).await.problem(409);
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_unknown_or_malformed_id_is_404(pool: PgPool) {
    let app = start(&pool).await;
    let void = Uuid::now_v7();
    sqlx::query("INSERT INTO reservation (id, state) VALUES ($1, 'void')")
        .bind(void)
        .execute(&pool)
        .await
        .expect("inserted");
    for id in ["1", &Uuid::now_v7().to_string(), &Uuid::now_v7().simple().to_string(), &void.to_string()] {
        let path = format!("/reservations/{id}");
        app.get(&path).await.problem(404);
        end(&app, &path, "commit").await.problem(404);
        end(&app, &path, "release").await.problem(404);
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn concurrent_buyers_on_two_instances_never_oversell(pool: PgPool) {
    let [app, other] = start_two(&pool).await;
    set(&app, "hot", 40).await.json(201);
    set(&app, "warm", 1000).await.json(201);
    let buyers = (0..150).map(|buyer| {
        let app = if buyer % 2 == 0 { &app } else { &other };
        // In opposite orders: locking in the order of the request would deadlock.
        let items = if buyer % 3 == 0 { [("hot", 1), ("warm", 1)] } else { [("warm", 1), ("hot", 1)] };
        async move { reserve(app, &items).await }
    });
    let responses = join_all(buyers).await;
    let held: Vec<&Response> = responses.iter().filter(|response| response.status == 201).collect();
    assert_eq!(held.len(), 40);
    assert!(
        responses
            .iter()
            .all(|response| response.status == 201 || response.problem(409)["items"][0]["product_id"] == "hot")
    );
    assert_eq!(counters(&other, "warm").await, (960, 1000, 40));

    let ends = held.iter().enumerate().map(|(number, response)| {
        let (app, path) = (if number % 2 == 0 { &app } else { &other }, location(response));
        async move {
            let verbs = if number % 4 < 2 { ["commit", "release"] } else { ["release", "commit"] };
            let (first, second) = tokio::join!(end(app, &path, verbs[0]), end(app, &path, verbs[1]));
            assert_eq!(
                [first.status, second.status].iter().filter(|status| **status == 200).count(),
                1,
                "exactly one succeeds"
            );
        }
    });
    join_all(ends).await;
    audit(&pool).await;
    let held: i64 = sqlx::query_scalar("SELECT count(*) FROM reservation WHERE state = 'held'")
        .fetch_one(&pool)
        .await
        .expect("a count");
    assert_eq!(held, 0);
    no_deadlock(&pool, [app, other]).await;
}

async fn kinds(app: &App, product: &str) -> Vec<String> {
    let ledger = ledger(app, product).await;
    ledger.iter().map(|movement| movement["kind"].as_str().expect("a kind").to_owned()).collect()
}
