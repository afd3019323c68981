//! Users and inventory as processes, on their own Postgres server.

mod services;

use std::path::Path;

use embedded_postgres::{Server, Settings};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, raw_sql};
use test_support::{
    collector::{Collector, attribute, hex, string},
    process::{Process, Program, Signal, TIMEOUT, eventually},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const METHOD: &str = "hedgerow.inventory.v1.Inventory/BatchGetStock";

/// A service's program with its own, migrated database. Uses the `inventory` that was built last.
async fn program(postgres: &Server, service: &str) -> Program {
    let mut admin = PgConnection::connect(&postgres.superuser_url("postgres")).await.expect("a connection");
    let create = match service {
        "users" => "CREATE DATABASE users",
        _ => "CREATE DATABASE inventory",
    };
    raw_sql(create).execute(&mut admin).await.expect("a database");
    let path = Path::new(env!("CARGO_BIN_EXE_users")).with_file_name(service);
    assert!(path.is_file(), "{} does not exist; run `cargo build`", path.display());
    let program = Program::new(path).variable("DATABASE_URL", postgres.superuser_url(service));
    let migrated = program.clone().argument("migrate").run().await;
    assert_eq!(migrated.code(), Some(0), "{}", migrated.stdout);
    program
}

async fn ready(service: &Process) {
    let client = Client::new();
    let ready =
        async || client.get(service.admin_url("/readyz")).send().await.ok().filter(|response| response.status() == 200);
    eventually("ready", TIMEOUT, ready).await;
}

/// Creates a user with a wishlist; returns the URL of the wishlist.
async fn user(users: &Process) -> String {
    let new = json!({"name": "Ada", "email": "ada@example.com", "wishlist": ["p"]});
    let created = Client::new().post(users.url("/users")).json(&new).send().await.expect("a response");
    let user: Value = created.json().await.expect("JSON");
    users.url(&format!("/users/{}/wishlist", user["id"].as_str().expect("an id")))
}

async fn get(wishlist: &str) -> Value {
    let request = Client::new().get(wishlist).header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let response = request.send().await.expect("a response");
    assert_eq!(response.status(), 200);
    response.json().await.expect("JSON")
}

async fn eventually_with_stock(wishlist: &str) -> Value {
    eventually("the wishlist has stock", TIMEOUT, async || {
        Some(get(wishlist).await).filter(|wishlist| wishlist["degraded"] == false)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_one_trace_across_both_services() {
    let postgres = Server::temporary(&Settings::for_tests()).expect("a Postgres server");
    let mut collector = Collector::start().await;
    let traced = |program: Program| program.variable("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
    let inventory = traced(program(&postgres, "inventory").await).serve().await;
    ready(&inventory).await;
    let set = Client::new().post(inventory.url("/inventory/p")).json(&json!({"stock": 42}));
    assert_eq!(set.send().await.expect("a response").status(), 201);
    let url = format!("http://{}", inventory.grpc.expect("a gRPC port"));
    let users = traced(program(&postgres, "users").await).variable("INVENTORY_GRPC_URL", url).serve().await;
    ready(&users).await;
    let wishlist = user(&users).await;
    assert_eq!(eventually_with_stock(&wishlist).await["items"][0]["stock"], 42);

    // A stop exports the remaining spans.
    assert_eq!(users.stop().await.code(), Some(0));
    assert_eq!(inventory.stop().await.code(), Some(0));
    let spans: Vec<_> = collector.spans().into_iter().filter(|(_, span)| span.trace_id == hex(TRACE)).collect();
    let find = |service: &str, kind: SpanKind, parent: Option<&Span>| {
        let found = spans.iter().rfind(|(of, span)| {
            of == service && span.kind() == kind && parent.is_none_or(|parent| span.parent_span_id == parent.span_id)
        });
        found.map_or_else(|| panic!("no {kind:?} span of {service} in {spans:?}"), |(_, span)| span)
    };
    let request = find("users", SpanKind::Server, None);
    assert_eq!(request.name, "GET /users/{id}/wishlist");
    let call = find("users", SpanKind::Client, Some(request));
    let server = find("inventory", SpanKind::Server, Some(call));
    for span in [call, server] {
        assert_eq!(span.name, METHOD);
        assert_eq!(attribute(&span.attributes, "rpc.system"), string("grpc"));
    }
    assert_eq!(attribute(&server.attributes, "request_id"), attribute(&request.attributes, "request_id"));
    assert!(spans.iter().all(|(_, span)| !span.name.contains("Health")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_works_while_inventory_starts_and_stops() {
    let postgres = Server::temporary(&Settings::for_tests()).expect("a Postgres server");
    let inventory = program(&postgres, "inventory").await;
    // Reserves a port for its successors, on an address that nothing else uses, so that the port stays free.
    let first = inventory.clone().variable("GRPC_ADDR", "127.0.0.2:0").serve().await;
    let address = first.grpc.expect("a gRPC port").to_string();
    assert_eq!(first.stop().await.code(), Some(0));
    let inventory = inventory.variable("GRPC_ADDR", &address);
    let users = program(&postgres, "users").await.variable("INVENTORY_GRPC_URL", format!("http://{address}"));
    let users = users.serve().await;
    ready(&users).await;
    let wishlist = user(&users).await;
    assert_eq!(get(&wishlist).await["degraded"], true);
    for end in [Signal::SIGTERM, Signal::SIGKILL] {
        let running = inventory.serve().await;
        eventually_with_stock(&wishlist).await;
        running.signal(end);
        running.ended().await;
        assert_eq!(get(&wishlist).await["degraded"], true);
    }
    // A process that is stopped by SIGSTOP.
    let frozen = inventory.serve().await;
    eventually_with_stock(&wishlist).await;
    frozen.signal(Signal::SIGSTOP);
    assert_eq!(get(&wishlist).await["degraded"], true);
    frozen.signal(Signal::SIGCONT);
    eventually_with_stock(&wishlist).await;
}
