//! A single inventory.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use test_support::{
    app::{App, join_all},
    port::Port,
    process::{TIMEOUT, eventually},
};
use tokio::net::TcpListener;

use crate::{
    Users,
    fake::{Behavior, Fake},
};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_stock_of_all_products_is_fetched_in_one_call(pool: PgPool) {
    let inventory = Fake::start().await;
    let users = Users::with_products(&pool, &[inventory.address], 200).await;
    eventually("all stock after one call", TIMEOUT, async || {
        let before = inventory.calls();
        let wishlist = users.wishlist().await;
        let items = wishlist["items"].as_array().expect("items");
        assert_eq!(items.len(), 200);
        let all = wishlist["degraded"] == false && items.iter().all(|item| item["stock"] == 7);
        (all && inventory.calls() == before + 1).then_some(())
    })
    .await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_call_has_a_deadline_the_request_id_and_the_trace(pool: PgPool) {
    let inventory = Fake::start().await;
    let users = Users::start(&pool, &[inventory.address]).await;
    users.eventually_has_stock().await;
    eventually("the call has most of its time left", TIMEOUT, async || {
        let request = users.app.request(Method::GET, &users.wishlist);
        let request = request.header("x-request-id", "one-of-mine").header("traceparent", TRACEPARENT);
        users.app.send(request.header("tracestate", "a=b")).await.json(200);
        let timeout = inventory.header("grpc-timeout");
        let micros: u64 = timeout.strip_suffix('u').and_then(|number| number.parse().ok()).expect("microseconds");
        assert!(micros <= 300_000, "{timeout}");
        (inventory.header("x-request-id") == "one-of-mine" && micros >= 100_000).then_some(())
    })
    .await;
    assert_eq!(inventory.header("traceparent"), TRACEPARENT);
    assert_eq!(inventory.header("tracestate"), "a=b");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_response_does_not_wait_for_a_slow_inventory(pool: PgPool) {
    let inventory = Fake::start().await;
    let users = Users::start(&pool, &[inventory.address]).await;
    users.eventually_has_stock().await;
    inventory.behave(Behavior::Slow);
    let series = "{code=\"DEADLINE_EXCEEDED\",method=\"BatchGetStock\",service=\"hedgerow.inventory.v1.Inventory\"} ";
    eventually("three calls have exceeded their deadline", TIMEOUT, async || {
        users.is_degraded_in_time().await;
        let text = users.metrics().await;
        let [calls, durations] = ["requests_total", "request_duration_seconds_count"].map(|name| {
            let start = format!("grpc_client_{name}{series}");
            text.lines().find_map(|line| line.strip_prefix(&start)?.parse::<usize>().ok())
        });
        assert_eq!(calls, durations, "{text}");
        calls.filter(|calls| *calls >= 3)
    })
    .await;
    inventory.behave(Behavior::Working);
    users.eventually_has_stock().await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_unavailable_inventory_is_not_an_error_and_is_found_later(pool: PgPool) {
    let port = Port::free();
    let users = Users::start(&pool, &[port.address]).await;
    for _ in 0..3 {
        users.is_degraded_in_time().await;
    }
    let _inventory = Fake::start_at(port).await;
    users.eventually_has_stock().await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_restarted_inventory_is_found_again(pool: PgPool) {
    let mut inventory = Fake::start().await;
    let port = inventory.port.clone();
    let users = Users::start(&pool, &[port.address]).await;
    for _ in 0..3 {
        users.eventually_has_stock().await;
        drop(inventory);
        users.is_degraded_in_time().await;
        inventory = Fake::start_at(port.clone()).await;
    }
    users.eventually_has_stock().await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_address_that_never_responds_is_not_used(pool: PgPool) {
    // The kernel accepts connections.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let users = Users::start(&pool, &[listener.local_addr().expect("an address")]).await;
    for _ in 0..6 {
        users.is_degraded_in_time().await;
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_inventory_that_hung_is_used_again(pool: PgPool) {
    let inventory = Fake::start().await;
    let users = Users::start(&pool, &[inventory.address]).await;
    users.eventually_has_stock().await;
    inventory.behave(Behavior::Frozen);
    for _ in 0..6 {
        users.is_degraded_in_time().await;
    }
    inventory.behave(Behavior::Working);
    users.eventually_has_stock().await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn concurrent_calls_share_a_connection(pool: PgPool) {
    let inventory = Fake::start().await;
    let users = Users::start(&pool, &[inventory.address]).await;
    users.eventually_has_stock().await;
    let shown = join_all((0..64).map(|_| users.wishlist())).await;
    assert!(shown.iter().all(|wishlist| wishlist["items"].is_array()));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn without_a_url_inventory_is_unavailable(pool: PgPool) {
    let app = App::start(&users::SERVICE, &pool.connect_options()).await;
    let new = json!({"name": "Ada", "email": "ada@example.com", "wishlist": ["a"]});
    assert_eq!(app.post("/users", &new).await.json(201)["wishlist"]["degraded"], true);
}
