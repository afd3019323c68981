//! Responses that the client does not read, and responses with many errors.

use bytes::Bytes;
use contracts::inventory::v1::BatchGetStockRequest;
use http_body_util::{Empty, Full};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use sqlx::PgPool;
use test_support::app::join_all;
use tokio::{net::TcpStream, task::JoinHandle};
use tonic::Code;

use crate::{
    adjust,
    grpc::{self, client, framed},
    held_up::{calls_in_flight, in_flight},
    set, start, stock,
};

/// A file of the docs page, of more than 1 MB.
const LARGE: &str = "/docs/swagger-ui-bundle.js";

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn unread_responses_are_in_flight_and_their_bytes_are_limited(pool: PgPool) {
    let app = start(&pool).await;
    let length = app.get(LARGE).await.body.len();
    assert!(length > 1024 * 1024);
    // The limit is 32 MiB for reads.
    let fit = 32 * 1024 * 1024 / length;
    let stream = TokioIo::new(TcpStream::connect(app.http).await.expect("it listens"));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.initial_stream_window_size(0).handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let responses = join_all((0..fit + 8).map(|_| {
        let mut sender = sender.clone();
        let request = Request::get(format!("http://test{LARGE}")).body(Empty::<Bytes>::new()).expect("a request");
        async move { sender.send_request(request).await.expect("a response") }
    }));
    let responses = responses.await;
    let accepted = responses.iter().filter(|response| response.status() == 200).count();
    assert!((1..=fit).contains(&accepted), "{accepted} of {fit}");
    assert!(responses.iter().all(|response| response.status() == 200 || response.status() == 503));
    in_flight(&app, fit + 8).await;

    app.get(LARGE).await.problem(503);
    set(&app, "p", 5).await.json(201);
    adjust(&app, "p", 1).await.json(200);
    assert_eq!(stock(&app, "p").await, 6, "short responses are sent");

    drop((responses, sender));
    connection.abort();
    in_flight(&app, 0).await;
    assert_eq!(app.get(LARGE).await.body.len(), length);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_bytes_of_unread_grpc_responses_are_limited(pool: PgPool) {
    const CONNECTIONS: usize = 6;
    const STREAMS: usize = 200;
    let app = start(&pool).await;
    let product_ids = (0..200).map(|number| format!("{number:0>128}")).collect();
    let request = BatchGetStockRequest { product_ids };
    // The response has as many ids. The limit is 32 MiB for reads, and a response counts for more than its message.
    let fit = 32 * 1024 * 1024 / (framed(&request).len() + 8 * 1024);
    let address = app.grpc.expect("a gRPC port");
    let mut connections = Vec::new();
    let mut responses = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TokioIo::new(TcpStream::connect(address).await.expect("it listens"));
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.initial_stream_window_size(0).handshake(stream).await.expect("HTTP/2");
        connections.push(tokio::spawn(connection));
        let calls = (0..STREAMS).map(|_| {
            let mut sender = sender.clone();
            let call = Request::post(format!("http://{address}/{}/BatchGetStock", grpc::SERVICE));
            let call = call.header("content-type", "application/grpc").header("te", "trailers");
            let call = call.body(Full::new(framed(&request))).expect("a request");
            async move { sender.send_request(call).await.expect("a response") }
        });
        responses.extend(join_all(calls).await);
    }
    // A refusal has its code in the headers, as there is no message.
    let codes = responses.iter().filter_map(|response| response.headers().get("grpc-status"));
    let refused: Vec<_> = codes.collect();
    assert!(refused.iter().all(|code| *code == "14"), "UNAVAILABLE");
    let accepted = responses.len() - refused.len();
    assert!((1..=fit).contains(&accepted), "{accepted} of {fit}");
    calls_in_flight(&app, accepted).await;

    let mut client = client(&app).await;
    assert_eq!(client.batch_get_stock(request.clone()).await.expect_err("refused").code(), Code::Unavailable);
    app.get(LARGE).await.problem(503);
    set(&app, "p", 5).await.json(201);
    client.reserve(grpc::reserve(&[("p", 1)], "")).await.expect("short responses are sent");

    drop(responses);
    connections.iter().for_each(JoinHandle::abort);
    calls_in_flight(&app, 0).await;
    client.batch_get_stock(request).await.expect("accepted");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_body_with_many_errors_has_a_short_response(pool: PgPool) {
    let app = start(&pool).await;
    let items = |count| json!({"items": vec![json!({}); count]});
    let response = app.post("/reservations", &items(21_000)).await;
    assert_eq!(response.errors(), ["#/items"], "the length comes first");
    let response = app.post("/reservations", &items(100)).await;
    assert_eq!(response.errors().len(), 20);
    assert!(response.problem(422)["detail"].as_str().is_some_and(|detail| detail.contains("there are more")));
    let unknown: serde_json::Map<_, _> = (0..5000).map(|number| (number.to_string(), json!(0))).collect();
    assert_eq!(app.post("/reservations", &unknown.into()).await.errors().len(), 20);
    let long = json!({"€".repeat(15_000): 0, "€/".repeat(3000): 0});
    assert!(app.post("/reservations", &long).await.body.len() < 4096);
    let query = (0..5000).map(|number| number.to_string()).collect::<Vec<_>>().join("&");
    let response = app.get(&format!("/inventory?{query}")).await;
    assert_eq!(response.errors().len(), 20);
    assert!(response.body.len() < 4096, "{}", response.body.len());
}
