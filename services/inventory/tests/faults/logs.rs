//! Logs: one JSON object for each line, with the causes of 5xx responses.

use std::time::Instant;

use sqlx::{PgPool, raw_sql};

use crate::service::{client, program, serve, url};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_500_is_logged_with_its_cause_and_request_id(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    raw_sql("ALTER TABLE movement RENAME TO moved").execute(&pool).await.expect("a broken schema");
    let request = client().get(service.url("/inventory/p/movements")).header("x-request-id", "find-me");
    let response = request.send().await.expect("a response");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-request-id"]),
        (500, &"find-me".parse().expect("valid"))
    );
    assert!(!response.text().await.expect("text").contains("movement\""), "the response does not contain the cause");

    let end = service.stop().await;
    assert_eq!(end.stderr, "");
    let lines = end.log();
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    let line = lines.iter().find(|line| line["message"] == "request failed").expect("a line");
    assert_eq!((&line["level"], &line["status"]), (&"ERROR".into(), &500.into()));
    assert_eq!(line["request_id"], "find-me", "{line}");
    assert!(line["cause"].as_str().is_some_and(|cause| cause.contains("\"movement\" does not exist")), "{line}");
}

#[sqlx::test(migrations = false)]
async fn clients_cannot_forge_log_lines(pool: PgPool) {
    let service = serve_unready(&pool).await;
    let path = "/inventory/%0A%7B%22level%22%3A%22ERROR%22%7D";
    client().get(service.url(path)).send().await.expect("a response");
    client().get(service.url("/inventory/p")).header("x-request-id", "a\"b}{").send().await.expect("a response");
    // Every log line is parsed as JSON.
    assert!(service.stop().await.log().iter().any(|line| line["request_id"] == "a\"b}{"));
}

#[tokio::test]
async fn an_outage_is_logged_with_a_limit() {
    // Nothing listens on port 1.
    let service = program("postgres://nobody@127.0.0.1:1/none").serve().await;
    let started = Instant::now();
    for _ in 0..100 {
        let response = client().get(service.url("/inventory/p")).send().await.expect("a response");
        assert_eq!(response.status(), 503);
    }
    let seconds = started.elapsed().as_secs();
    let lines = service.stop().await.log();
    let failures: Vec<_> = lines.iter().filter(|line| line["message"] == "request failed").collect();
    assert!(failures.len() as u64 <= seconds + 2, "{} in {seconds} s", failures.len());
    assert!(failures[0]["cause"].as_str().is_some_and(|cause| cause.contains("Connection refused")), "{}", failures[0]);
    let omitted: Vec<_> = failures.iter().map(|line| line["omitted"].as_u64().expect("a number")).collect();
    assert_eq!(omitted[0], 0, "the first is logged at once");
    assert!(omitted.iter().sum::<u64>() + failures.len() as u64 <= 100);
}

async fn serve_unready(pool: &PgPool) -> test_support::process::Process {
    program(&url(pool)).variable("LOG_LEVEL", "debug").serve().await
}
