//! `/metrics` in the format of Prometheus.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use sqlx::PgPool;
use test_support::process::{TIMEOUT, eventually};

use crate::service::{add_one, client, program, serve, url};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn metrics_are_well_formed_and_count_requests_by_route(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    let client = client();
    assert_eq!(add_one(&client, &service, "a-product").await.status(), 200);
    for path in ["/inventory/a-product", "/inventory/another", "/nothing/here", "/inventory?limit=x"] {
        client.get(service.url(path)).send().await.expect("a response");
    }
    // A request counts as in flight until the kernel has its response, so its client may be a little ahead.
    let text = eventually("no request is in flight", TIMEOUT, async || {
        let response = client.get(service.admin_url("/metrics")).send().await.expect("a response");
        assert!(response.headers()["content-type"].to_str().expect("text").starts_with("text/plain; version=0.0.4"));
        let text = response.text().await.expect("text");
        text.lines().any(|line| line == "http_requests_in_flight 0").then_some(text)
    })
    .await;
    for line in [
        r#"http_requests_total{method="GET",route="/inventory/{product_id}",status="200"} 2"#,
        r#"http_requests_total{method="PATCH",route="/inventory/{product_id}",status="200"} 1"#,
        r#"http_requests_total{method="GET",route="unmatched",status="404"} 1"#,
        r#"http_requests_total{method="GET",route="/inventory",status="422"} 1"#,
        r#"http_request_duration_seconds_count{method="PATCH",route="/inventory/{product_id}",status="200"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    for name in [
        "db_pool_connections{state=\"idle\"}",
        "db_pool_connections{state=\"in_use\"}",
        "db_pool_wait_seconds_count",
        "build_info{revision=",
        "process_resident_memory_bytes",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in {text}");
    }
    assert!(!text.contains("a-product"), "no label contains an id");
    // Only the admin port serves metrics.
    assert_eq!(client.get(service.url("/metrics")).send().await.expect("a response").status(), 404);
}

/// Runs promtool. `make test` runs this test if promtool is installed or can be installed.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
#[ignore = "needs promtool: make check-metrics"]
async fn promtool_accepts_the_metrics(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    let client = client();
    assert_eq!(add_one(&client, &service, "p").await.status(), 200);
    let text = client.get(service.admin_url("/metrics")).send().await.expect("a response").text().await.expect("text");

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed: deploy/install.sh promtool");
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("promtool exits");
    let output_text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output_text.is_empty(), "{output_text}");
}
