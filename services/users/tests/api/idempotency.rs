//! `Idempotency-Key`: a repeated request takes effect once.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{PgPool, raw_sql};
use test_support::{
    app::{App, Response, join_all},
    process::{TIMEOUT, eventually},
};

use crate::{count, create, path, start};

async fn post(app: &App, key: &str, body: &Value) -> Response {
    app.send(app.request(Method::POST, "/users").header("idempotency-key", key).json(body)).await
}

async fn patch(app: &App, key: &str, path: &str, body: &Value) -> Response {
    app.send(app.request(Method::PATCH, path).header("idempotency-key", key).json(body)).await
}

fn ada() -> Value {
    json!({"name": "Ada", "email": "ada@example.com"})
}

#[track_caller]
fn assert_same(one: &Response, other: &Response) {
    assert_eq!((one.status, one.text()), (other.status, other.text()));
    for header in ["location", "etag", "content-type"] {
        assert_eq!(one.header(header), other.header(header));
    }
}

#[track_caller]
fn assert_reused(response: &Response) {
    assert_eq!(response.problem(422)["type"], "https://hedgerow.dev/problems/idempotency-key-reused");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_repetition_gets_the_first_response_from_any_instance(pool: PgPool) {
    let (app, other) = (start(&pool).await, start(&pool).await);
    for (key, body) in [
        ("1", ada()),
        ("2", json!({"name": "Bob", "email": "bob@example.com", "wishlist": ["b", "a"]})),
        ("3", json!({"name": "Eve", "email": "eve@example.com", "wishlist": []})),
    ] {
        let first = post(&app, key, &body).await;
        let user = first.json(201);
        assert_same(&first, &post(&other, key, &body).await);

        let patched = patch(&app, key, &path(&user), &json!({"name": "A"})).await;
        assert_eq!(patched.json(200)["name"], "A");
        app.patch(&path(&user), &json!({"name": "B"})).await.json(200);
        assert_same(&patched, &patch(&other, key, &path(&user), &json!({"name": "A"})).await);
        assert_eq!(app.get(&path(&user)).await.json(200)["name"], "B", "a repetition changes nothing");

        assert_eq!(app.delete(&path(&user)).await.status, 204);
        assert_same(&first, &post(&app, key, &body).await);
        assert_same(&patched, &patch(&app, key, &path(&user), &json!({"name": "A"})).await);
    }
    assert_eq!(count(&pool).await, 0);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn reusing_a_key_for_a_different_request_is_422(pool: PgPool) {
    let app = start(&pool).await;
    let user = post(&app, "k", &ada()).await.json(201);
    for other in [
        json!({"name": "Eve", "email": "ada@example.com"}),
        json!({"name": "Ada", "email": "eve@example.com"}),
        json!({"name": "Ada", "email": "ada@example.com", "wishlist": []}),
        json!({"name": "Ada", "email": "ada@example.com", "wishlist": ["a"]}),
    ] {
        assert_reused(&post(&app, "k", &other).await);
    }
    assert_eq!(count(&pool).await, 1);

    patch(&app, "k", &path(&user), &json!({"name": "A"})).await.json(200);
    for other in [json!({}), json!({"name": "B"}), json!({"name": "A", "email": "a@example.com"})] {
        assert_reused(&patch(&app, "k", &path(&user), &other).await);
    }
    let bob = create(&app, "Bob", "bob@example.com").await;
    let named = patch(&app, "k", &path(&bob), &json!({"name": "B"})).await;
    assert_eq!(named.json(200)["name"], "B", "a different path is a different operation");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_refused_request_does_not_use_its_key(pool: PgPool) {
    let app = start(&pool).await;
    let eve = create(&app, "Eve", "ada@example.com").await;
    for _ in 0..2 {
        assert_eq!(post(&app, "k", &ada()).await.problem(409)["type"], "https://hedgerow.dev/problems/email-taken");
    }
    post(&app, "k", &json!({"name": "Ada"})).await.problem(422);
    app.patch(&path(&eve), &json!({"email": "eve@example.com"})).await.json(200);
    let ada = post(&app, "k", &ada()).await.json(201);

    let move_to = json!({"email": "eve@example.com"});
    patch(&app, "k", &path(&ada), &move_to).await.problem(409);
    let request = app.request(Method::PATCH, &path(&ada)).header("idempotency-key", "k").header("if-match", "\"9\"");
    app.send(request.json(&move_to)).await.problem(412);
    assert_eq!(app.delete(&path(&eve)).await.status, 204);
    assert_eq!(patch(&app, "k", &path(&ada), &move_to).await.json(200)["email"], "eve@example.com");
    patch(&app, "k", &path(&eve), &move_to).await.problem(404);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_repetition_is_not_checked_against_tags(pool: PgPool) {
    let app = start(&pool).await;
    let user = path(&create(&app, "Ada", "ada@example.com").await);
    let tag = app.get(&user).await.etag();
    let conditional = || {
        let request = app.request(Method::PATCH, &user).header("idempotency-key", "k").header("if-match", &tag);
        app.send(request.json(&json!({"name": "A"})))
    };
    let first = conditional().await;
    assert_eq!(first.json(200)["name"], "A");
    assert_same(&first, &conditional().await);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_malformed_key_is_422(pool: PgPool) {
    let app = start(&pool).await;
    let user = format!("/users/{}", uuid::Uuid::nil());
    for key in ["", "a b", &"x".repeat(256)] {
        assert_eq!(post(&app, key, &ada()).await.errors(), ["idempotency-key"], "{key}");
        assert_eq!(patch(&app, key, &user, &json!({})).await.errors(), ["idempotency-key"], "{key}");
    }
    assert_eq!(count(&pool).await, 0);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn concurrent_duplicates_on_two_instances_take_effect_once(pool: PgPool) {
    let (app, other) = (start(&pool).await, start(&pool).await);
    for round in 0..5 {
        // Many keys in each batch, in opposite orders: claiming them in order of arrival would deadlock.
        let duplicates = (0..120).map(|copy| {
            let number = if copy % 2 == 0 { copy / 2 % 10 } else { 9 - copy / 2 % 10 };
            let (app, key) = (if copy % 2 == 0 { &app } else { &other }, format!("{round}-{number}"));
            let body = json!({"name": "Ada", "email": format!("{key}@example.com")});
            async move { (number, post(app, &key, &body).await.json(201).to_string()) }
        });
        let responses: HashSet<(i32, String)> = join_all(duplicates).await.into_iter().collect();
        assert_eq!(responses.len(), 10, "one response for each key");
    }
    assert_eq!(count(&pool).await, 50);

    let user = path(&create(&app, "Ada", "ada@example.com").await);
    let duplicates = (0..40).map(|copy| {
        let app = if copy % 2 == 0 { &app } else { &other };
        let user = &user;
        async move { patch(app, "k", user, &json!({"name": "A"})).await.etag() }
    });
    let tags: HashSet<String> = join_all(duplicates).await.into_iter().collect();
    assert_eq!(tags, HashSet::from([app.get(&user).await.etag()]));
}

/// Sends requests while the writer is busy, so that they share the next batch.
async fn in_one_batch<const N: usize>(
    app: &App,
    pool: &PgPool,
    requests: [(Option<&'static str>, Value); N],
) -> Vec<Response> {
    let in_flight = async |count: usize| {
        eventually("the requests are in flight", TIMEOUT, async || {
            let line = format!("\nhttp_requests_in_flight {count}\n");
            app.admin("/metrics").await.text().contains(&line).then_some(())
        })
        .await;
    };
    let mut lock = pool.begin().await.expect("a transaction");
    raw_sql("LOCK TABLE users IN SHARE MODE").execute(&mut *lock).await.expect("locked");
    let gate = json!({"name": "Gate", "email": "gate@example.com"});
    let batch = async {
        in_flight(1).await;
        let send = |(key, body): (Option<&'static str>, Value)| async move {
            match key {
                Some(key) => post(app, key, &body).await,
                None => app.post("/users", &body).await,
            }
        };
        join_all(requests.into_iter().map(send)).await
    };
    let open = async {
        in_flight(1 + N).await;
        lock.rollback().await.expect("unlocked");
    };
    let (first, responses, ()) = tokio::join!(app.post("/users", &gate), batch, open);
    first.json(201);
    responses
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn duplicates_in_one_batch_get_one_response(pool: PgPool) {
    let app = start(&pool).await;
    let bob = json!({"name": "Bob", "email": "bob@example.com"});
    let requests = [(Some("k"), ada()), (None, bob), (Some("k"), ada()), (Some("k"), ada())];
    let responses = in_one_batch(&app, &pool, requests).await;
    responses[0].json(201);
    assert_same(&responses[0], &responses[2]);
    assert_same(&responses[0], &responses[3]);
    assert_eq!(responses[1].json(201)["name"], "Bob");
    assert_eq!(count(&pool).await, 3);
    assert_same(&responses[0], &post(&app, "k", &ada()).await);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn refused_duplicates_in_one_batch_are_all_refused(pool: PgPool) {
    let app = start(&pool).await;
    create(&app, "Eve", "ada@example.com").await;
    let responses = in_one_batch(&app, &pool, [(Some("k"), ada()), (Some("k"), ada())]).await;
    for response in responses {
        assert_eq!(response.problem(409)["type"], "https://hedgerow.dev/problems/email-taken");
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn of_different_requests_with_one_key_in_a_batch_one_succeeds(pool: PgPool) {
    let app = start(&pool).await;
    let bob = json!({"name": "Bob", "email": "bob@example.com"});
    let mut responses = in_one_batch(&app, &pool, [(Some("k"), ada()), (Some("k"), bob)]).await;
    responses.sort_by_key(|response| response.status);
    responses[0].json(201);
    assert_reused(&responses[1]);
    assert_eq!(count(&pool).await, 2);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_repetition_settles_an_unknown_outcome(pool: PgPool) {
    // Transactions that change users wait at their end.
    let wait = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER wait AFTER INSERT OR UPDATE ON users DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION wait()";
    raw_sql(wait).execute(&pool).await.expect("a trigger");
    let app = start(&pool).await;
    let user = path(&create(&app, "Eve", "eve@example.com").await);
    let (new, name) = (ada(), json!({"name": "A"}));
    let mut lock = pool.acquire().await.expect("a connection");
    raw_sql("SELECT pg_advisory_lock(1)").execute(&mut *lock).await.expect("locked");
    let end = async {
        // The writer does not wait all the time.
        let mut ended = HashSet::new();
        eventually("both changes are ended at their end", TIMEOUT, async || {
            let end = "SELECT pid, pg_terminate_backend(pid) FROM pg_locks
                       WHERE locktype = 'advisory' AND NOT granted
                           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            let pids: Vec<(i32, bool)> = sqlx::query_as(end).fetch_all(&mut *lock).await.expect("ended");
            ended.extend(pids.into_iter().map(|(pid, _)| pid));
            (ended.len() == 2).then_some(())
        })
        .await;
    };
    let (created, patched, ()) = tokio::join!(post(&app, "k", &new), patch(&app, "k", &user, &name), end);
    for unknown in [created, patched] {
        assert_eq!(unknown.problem(503)["type"], "https://hedgerow.dev/problems/outcome-unknown");
    }
    raw_sql("SELECT pg_advisory_unlock(1)").execute(&mut *lock).await.expect("unlocked");
    let (created, patched) = (post(&app, "k", &ada()).await, patch(&app, "k", &user, &name).await);
    created.json(201);
    assert_eq!(patched.json(200)["name"], "A");
    assert_same(&created, &post(&app, "k", &ada()).await);
    assert_same(&patched, &patch(&app, "k", &user, &name).await);
    assert_eq!(count(&pool).await, 2);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn expired_responses_are_deleted_in_the_background(pool: PgPool) {
    let app = start(&pool).await;
    post(&app, "k", &ada()).await.json(201);
    let ttl = "SELECT extract(epoch FROM expires_at - clock_timestamp())::bigint FROM idempotency";
    let ttl: i64 = sqlx::query_scalar(ttl).fetch_one(&pool).await.expect("a time");
    assert!((86_300..=86_400).contains(&ttl), "{ttl}");
    post(&app, "l", &json!({"name": "Bob", "email": "bob@example.com"})).await.json(201);
    let expire = "UPDATE idempotency SET expires_at = clock_timestamp() WHERE answer->'body'->>'name' = 'Ada'";
    assert_eq!(sqlx::query(expire).execute(&pool).await.expect("expired").rows_affected(), 1);
    // A replica prunes when it starts.
    let _other = start(&pool).await;
    eventually("the row is deleted", TIMEOUT, async || {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM idempotency").fetch_one(&pool).await.expect("a count");
        (left == 1).then_some(())
    })
    .await;
}
