//! `Idempotency-Key`: a repeated request takes effect once.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::{
    app::{App, Response, join_all},
    process::{TIMEOUT, eventually},
};

use crate::{audit, counters, no_deadlock, set, start, start_two};

async fn reserve(app: &App, key: &str, product: &str, quantity: i64) -> Response {
    let body = json!({"items": [{"product_id": product, "quantity": quantity}]});
    app.send(app.request(Method::POST, "/reservations").header("idempotency-key", key).json(&body)).await
}

async fn adjust(app: &App, key: &str, product: &str, delta: i64) -> Response {
    let request = app.request(Method::PATCH, &format!("/inventory/{product}")).header("idempotency-key", key);
    app.send(request.json(&json!({"delta": delta}))).await
}

async fn set_by(app: &App, method: Method, key: &str, product: &str, stock: i64) -> Response {
    let request = app.request(method, &format!("/inventory/{product}")).header("idempotency-key", key);
    app.send(request.json(&json!({"stock": stock}))).await
}

async fn end(app: &App, key: &str, path: &str) -> Response {
    app.send(app.request(Method::POST, path).header("idempotency-key", key)).await
}

#[track_caller]
fn assert_same(one: &Response, other: &Response) {
    assert_eq!((one.status, one.text()), (other.status, other.text()));
    for header in ["location", "etag", "content-type"] {
        assert_eq!(one.header(header), other.header(header));
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_repetition_gets_the_first_response_from_any_instance(pool: PgPool) {
    let (app, other) = (start(&pool).await, start(&pool).await);
    set(&app, "a", 5).await.json(201);
    let first = reserve(&app, "k", "a", 2).await;
    first.json(201);
    assert_same(&first, &reserve(&other, "k", "a", 2).await);
    let adjusted = adjust(&app, "k", "a", 1).await;
    adjusted.json(200);
    set(&app, "a", 50).await.json(201);
    assert_same(&adjusted, &adjust(&other, "k", "a", 1).await);
    assert_eq!(adjust(&app, "k", "b", 1).await.json(200)["stock"], 1, "a different path is a different operation");
    assert_eq!(counters(&app, "a").await, (48, 50, 2));
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn setting_stock_again_with_the_same_key_changes_nothing(pool: PgPool) {
    let (app, other) = (start(&pool).await, start(&pool).await);
    for (method, product, known) in [(Method::PUT, "p", 200), (Method::POST, "q", 201)] {
        let created = set_by(&app, method.clone(), "1", product, 5).await;
        created.json(201);
        let changed = set_by(&app, method.clone(), "2", product, 6).await;
        changed.json(known);
        adjust(&app, "k", product, 10).await.json(200);
        assert_same(&created, &set_by(&other, method.clone(), "1", product, 5).await);
        assert_same(&changed, &set_by(&app, method.clone(), "2", product, 6).await);
        assert_eq!(counters(&app, product).await, (16, 16, 0));

        let problem = set_by(&app, method.clone(), "1", product, 6).await.problem(422);
        assert_eq!(problem["type"], "https://hedgerow.dev/problems/idempotency-key-reused");
        assert_eq!(set_by(&app, method.clone(), "3", product, -1).await.errors(), ["#/stock"]);
        set_by(&app, method, "3", product, 7).await.json(known);
    }
    let crossed = set_by(&app, Method::POST, "1", "p", 8).await;
    assert_eq!(crossed.json(201)["stock"], 8, "PUT and POST are different operations");
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_stored_409_of_a_set_is_repeated(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let held = reserve(&app, "k", "p", 3).await.json(201);
    let refused = set_by(&app, Method::PUT, "k", "p", 2).await;
    assert_eq!(refused.problem(409)["type"], "https://hedgerow.dev/problems/insufficient-stock");
    app.post(&format!("/reservations/{}/release", held["id"].as_str().expect("an id")), &json!(null)).await.json(200);
    assert_same(&refused, &set_by(&app, Method::PUT, "k", "p", 2).await);
    assert_eq!(counters(&app, "p").await, (5, 5, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_set_that_a_tag_refuses_does_not_use_its_key(pool: PgPool) {
    let app = start(&pool).await;
    let tag = set(&app, "p", 5).await.etag();
    for method in [Method::PUT, Method::POST] {
        let send = |tag: &str| {
            let request = app.request(method.clone(), "/inventory/p").header("idempotency-key", "k");
            app.send(request.header("if-match", tag).json(&json!({"stock": 6})))
        };
        send("\"999\"").await.problem(412);
        let tag = if method == Method::PUT { tag.clone() } else { app.get("/inventory/p").await.etag() };
        let first = send(&tag).await;
        assert_eq!(first.json(if method == Method::PUT { 200 } else { 201 })["stock"], 6);
        assert_same(&first, &send(&tag).await);
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_commit_or_release_is_repeated_whatever_the_tags(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    for (action, other) in [("commit", "release"), ("release", "commit")] {
        let held = reserve(&app, action, "p", 1).await;
        let path = format!("/reservations/{}", held.json(201)["id"].as_str().expect("an id"));
        let conditional = || {
            let request = app.request(Method::POST, &format!("{path}/{action}")).header("idempotency-key", "k");
            app.send(request.header("if-match", held.etag()))
        };
        let first = conditional().await;
        first.json(200);
        assert_same(&first, &conditional().await);
        assert_same(&first, &end(&app, "l", &format!("{path}/{action}")).await);
        end(&app, "k", &format!("{path}/{other}")).await.problem(409);
    }
    assert_eq!(counters(&app, "p").await, (4, 4, 0));
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_stored_409_is_repeated_even_if_there_is_stock_now(pool: PgPool) {
    let app = start(&pool).await;
    let (reserved, adjusted) = (reserve(&app, "k", "a", 2).await, adjust(&app, "k", "a", -2).await);
    reserved.problem(409);
    adjusted.problem(409);
    set(&app, "a", 5).await.json(201);
    assert_same(&reserved, &reserve(&app, "k", "a", 2).await);
    assert_same(&adjusted, &adjust(&app, "k", "a", -2).await);
    assert_eq!(counters(&app, "a").await, (5, 5, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn reusing_a_key_for_a_different_request_is_422(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    reserve(&app, "k", "a", 2).await.json(201);
    let problem = reserve(&app, "k", "a", 1).await.problem(422);
    assert_eq!(problem["type"], "https://hedgerow.dev/problems/idempotency-key-reused");
    assert_eq!(counters(&app, "a").await, (3, 5, 2));
    adjust(&app, "k", "a", 1).await.json(200);
    adjust(&app, "k", "a", 2).await.problem(422);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_invalid_request_does_not_use_its_key(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", crate::MOST).await.json(201);
    for _ in 0..2 {
        assert_eq!(adjust(&app, "k", "a", 1).await.errors(), ["#/delta"]);
    }
    adjust(&app, "k", "a", -1).await.json(200);
    adjust(&app, "k", "a", 1).await.problem(422);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_503_does_not_use_its_key(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    let disk_full = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'disk full'; END $$;
         CREATE TRIGGER fail BEFORE INSERT ON movement EXECUTE FUNCTION fail()";
    sqlx::raw_sql(disk_full).execute(&pool).await.expect("a trigger");
    for _ in 0..2 {
        reserve(&app, "k", "a", 2).await.problem(503);
        adjust(&app, "k", "a", 1).await.problem(503);
    }
    sqlx::raw_sql("DROP TRIGGER fail ON movement").execute(&pool).await.expect("dropped");
    let (reserved, adjusted) = (reserve(&app, "k", "a", 2).await, adjust(&app, "k", "a", 1).await);
    reserved.json(201);
    adjusted.json(200);
    assert_same(&reserved, &reserve(&app, "k", "a", 2).await);
    assert_same(&adjusted, &adjust(&app, "k", "a", 1).await);
    assert_eq!(counters(&app, "a").await, (4, 6, 2));
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_key_is_1_to_255_visible_ascii_characters(pool: PgPool) {
    let app = start(&pool).await;
    for key in ["", "a b", "é", &"x".repeat(256)] {
        let response = app.send(
            app.request(Method::PATCH, "/inventory/a")
                .header("idempotency-key", key.as_bytes())
                .json(&json!({"delta": 1})),
        );
        assert_eq!(response.await.errors(), ["idempotency-key"], "{key}");
    }
    let twice =
        app.request(Method::PATCH, "/inventory/a").header("idempotency-key", "k").header("idempotency-key", "k");
    assert_eq!(app.send(twice.json(&json!({"delta": 1}))).await.errors(), ["idempotency-key"]);
    for (number, key) in (1..).zip(["k", "K", "\"k\"", &"x".repeat(255)]) {
        assert_eq!(adjust(&app, key, "a", 1).await.json(200)["stock"], number, "keys are used verbatim");
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn concurrent_duplicates_on_two_instances_take_effect_once(pool: PgPool) {
    let [app, other] = start_two(&pool).await;
    set(&app, "a", 1000).await.json(201);
    for round in 0..5 {
        // Many keys in each batch, in opposite orders: claiming them in order of arrival would deadlock.
        let duplicates = (0..120).map(|copy| {
            let number = if copy % 2 == 0 { copy / 2 % 10 } else { 9 - copy / 2 % 10 };
            let (app, key) = (if copy % 2 == 0 { &app } else { &other }, format!("{round}-{number}"));
            async move { (number, reserve(app, &key, "a", 1).await.json(201)) }
        });
        let responses: HashSet<(i32, String)> = join_all(duplicates)
            .await
            .into_iter()
            .map(|(number, body): (i32, Value)| (number, body.to_string()))
            .collect();
        assert_eq!(responses.len(), 10, "one response for each key");
    }
    assert_eq!(counters(&app, "a").await, (950, 1000, 50));
    audit(&pool).await;
    no_deadlock(&pool, [app, other]).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn concurrent_duplicates_of_a_set_take_effect_once(pool: PgPool) {
    let (app, other) = (start(&pool).await, start(&pool).await);
    let duplicates = (0..80).map(|copy| {
        let app = if copy % 2 == 0 { &app } else { &other };
        let method = if copy % 4 < 2 { Method::PUT } else { Method::POST };
        async move { (method.clone(), set_by(app, method, "k", "p", 5).await.etag()) }
    });
    let tags: HashSet<(Method, String)> = join_all(duplicates).await.into_iter().collect();
    assert_eq!(tags.len(), 2, "{tags:?}");
    assert_eq!(crate::counts(&pool).await, (1, 2), "one movement for PUT and one for POST");
    audit(&pool).await;
    no_deadlock(&pool, [app, other]).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_stored_response_expires_after_24_hours(pool: PgPool) {
    let app = start(&pool).await;
    adjust(&app, "k", "a", 1).await.json(200);
    let ttl = "SELECT extract(epoch FROM expires_at - clock_timestamp())::bigint FROM idempotency";
    let ttl: i64 = sqlx::query_scalar(ttl).fetch_one(&pool).await.expect("a time");
    assert!((86_300..=86_400).contains(&ttl), "{ttl}");

    // An expired row must be ignored even before it is pruned.
    let mut lock = pool.begin().await.expect("a transaction");
    sqlx::query("UPDATE idempotency SET expires_at = clock_timestamp()").execute(&mut *lock).await.expect("expired");
    let repeat = async {
        crate::held_up::waits_for_a_lock(&pool).await;
        lock.commit().await.expect("committed");
    };
    let (response, ()) = tokio::join!(adjust(&app, "k", "a", 1), repeat);
    assert_eq!(response.json(200)["stock"], 2);
    assert_eq!(adjust(&app, "k", "a", 1).await.json(200)["stock"], 2);

    sqlx::query("UPDATE idempotency SET expires_at = clock_timestamp()").execute(&pool).await.expect("expired");
    eventually("the row is pruned", TIMEOUT, async || {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM idempotency").fetch_one(&pool).await.expect("a count");
        (left == 0).then_some(())
    })
    .await;
}
