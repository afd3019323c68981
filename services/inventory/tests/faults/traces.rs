//! Traces, as received by an OpenTelemetry collector.

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    trace::v1::{span::SpanKind, status::StatusCode as SpanStatus},
};
use sqlx::PgPool;
use test_support::collector::{Collector, attribute, hex, string};
use tokio::net::TcpListener;

use crate::service::{add_one, client, program, serve, url};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// How long a stop may take if no collector responds: less than the SDK's 5 s for the last export.
const STOP: Duration = Duration::from_secs(4);

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_request_is_a_child_span_of_its_caller(pool: PgPool) {
    let mut collector = Collector::start().await;
    let service = serve(&program(&url(&pool)).variable("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())).await;
    let request = client().get(service.url("/inventory/p")).header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
    assert_eq!(request.send().await.expect("a response").status(), 200);
    assert_eq!(client().get(service.url("/nothing")).send().await.expect("a response").status(), 404);
    // The stop exports the remaining spans.
    assert_eq!(service.stop().await.code(), Some(0));

    let (services, all): (Vec<_>, Vec<_>) = collector.spans().into_iter().unzip();
    assert!(services.iter().all(|service| service == "inventory"));
    let names: Vec<&str> = all.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(
        names,
        ["GET /inventory/{product_id}", "GET unmatched"],
        "one span for each request, and none of the exporter"
    );

    let span = &all[0];
    assert_eq!(span.kind(), SpanKind::Server);
    assert_eq!(span.trace_id, hex(TRACE));
    assert_eq!(span.parent_span_id, hex(PARENT));
    assert_eq!(attribute(&span.attributes, "http.route"), string("/inventory/{product_id}"));
    assert_eq!(attribute(&span.attributes, "http.request.method"), string("GET"));
    assert_eq!(attribute(&span.attributes, "http.response.status_code"), Value::IntValue(200));
    assert_ne!(span.status.clone().unwrap_or_default().code(), SpanStatus::Error);
    assert_eq!(all[1].parent_span_id, b"");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_unavailable_collector_does_not_affect_the_service(pool: PgPool) {
    // Accepts connections and never responds.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = silent.local_addr().map(|address| (silent, address)).expect("an address");
    for endpoint in ["http://127.0.0.1:1".to_owned(), format!("http://{}", silent.1)] {
        let program = program(&url(&pool)).variable("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
        let service = serve(&program.variable("OTEL_BSP_SCHEDULE_DELAY", "50")).await;
        for _ in 0..20 {
            assert_eq!(add_one(&client(), &service, "p").await.status(), 200);
        }
        let started = Instant::now();
        let end = service.stop().await;
        assert_eq!(end.code(), Some(0));
        assert!(started.elapsed() < STOP, "{endpoint}: {:?}", started.elapsed());
        // Every log line is parsed as JSON, including the exporter's.
        assert!(!end.log().is_empty());
    }
}
