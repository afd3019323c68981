//! Request ids, metrics and probes.

use serde_json::json;
use sqlx::PgPool;
use test_support::{
    process::{TIMEOUT, eventually},
    rules,
};
use uuid::Uuid;

use crate::{create, path, start};

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_valid_request_id_is_echoed_and_others_are_replaced(pool: PgPool) {
    let app = start(&pool).await;
    let with_id = async |path: &str, id: &[u8]| {
        let request = app.request(reqwest::Method::GET, path).header("x-request-id", id);
        app.send(request).await.header("x-request-id").expect("an id").to_owned()
    };
    let longest = "x".repeat(128);
    for path in ["/users", "/users/x", "/users?limit=x", "/nothing", "/openapi.json"] {
        for id in ["1", "0190d9a4-1f5e-7c3a-8a5e-0123456789ab", "a/b=c;d\"e", &longest] {
            assert_eq!(with_id(path, id.as_bytes()).await, id, "{path}");
        }
        for id in [&b""[..], b"a b", b"a\tb", "é".as_bytes(), b"\xff", "x".repeat(129).as_bytes()] {
            let new = with_id(path, id).await;
            assert!(new.parse::<Uuid>().is_ok(), "{path}: {new}");
        }
    }
    assert_ne!(app.get("/users").await.header("x-request-id"), app.get("/users").await.header("x-request-id"));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn requests_are_counted_by_route_not_by_id(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    app.get(&path(&ada)).await.json(200);
    app.patch(&path(&ada), &json!({"name": "Ada L."})).await.json(200);
    app.get("/users?limit=7").await.json(200);
    app.get("/users/not-an-id").await.problem(404);
    app.get("/secret/path").await.problem(404);
    app.send(app.request("BREW".parse().expect("a method"), "/users")).await.problem(405);
    // A request counts as in flight until the kernel has its response, so its client may be a little ahead.
    let text = eventually("no request is in flight", TIMEOUT, async || {
        let response = app.admin("/metrics").await;
        assert_eq!(response.status, 200);
        assert!(response.header("content-type").is_some_and(|media_type| media_type.starts_with("text/plain")));
        let text = response.text();
        text.contains("\nhttp_requests_in_flight 0\n").then_some(text)
    })
    .await;
    for series in [
        r#"{method="POST",route="/users",status="201"}"#,
        r#"{method="GET",route="/users",status="200"}"#,
        r#"{method="GET",route="/users/{id}",status="200"}"#,
        r#"{method="GET",route="/users/{id}",status="404"}"#,
        r#"{method="PATCH",route="/users/{id}",status="200"}"#,
        r#"{method="GET",route="unmatched",status="404"}"#,
        r#"{method="OTHER",route="/users",status="405"}"#,
    ] {
        assert!(text.contains(&format!("\nhttp_requests_total{series} 1\n")), "{series} in {text}");
        assert!(text.contains(&format!("\nhttp_request_duration_seconds_count{series} 1\n")), "{series} in {text}");
    }
    for value in [ada["id"].as_str().expect("an id"), "not-an-id", "secret", "BREW", "limit"] {
        assert!(!text.contains(value), "{value} in {text}");
    }
    for name in ["build_info{", "db_pool_connections{state=\"idle\"}", "db_pool_wait_seconds"] {
        assert!(text.contains(name), "{name} in {text}");
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_probes_report_live_and_ready(pool: PgPool) {
    let app = start(&pool).await;
    rules::probes_say_that_it_lives_and_is_ready(&app, "/users").await;
}
