//! The gRPC API: the rules of the HTTP API, health checks and reflection.

use std::time::Duration;

use bytes::Bytes;
use chassis::grpc::MESSAGE_LIMIT;
use contracts::inventory::v1::{
    BatchGetStockRequest, CommitRequest, Item, ReleaseRequest, ReserveRequest, Stock,
    inventory_client::InventoryClient, reservation::State,
};
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http2, header::HeaderMap, http::response::Parts};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::json;
use sqlx::{PgPool, raw_sql};
use test_support::{
    app::App,
    process::{TIMEOUT, eventually},
};
use tokio::net::TcpStream;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt;

use crate::{audit, set, start, stock};

/// The full name of the service.
pub const SERVICE: &str = "hedgerow.inventory.v1.Inventory";

async fn channel(app: &App) -> Channel {
    let url = format!("http://{}", app.grpc.expect("a gRPC port"));
    Channel::from_shared(url).expect("a URL").connect().await.expect("it listens")
}

/// A client of the gRPC API.
pub async fn client(app: &App) -> InventoryClient<Channel> {
    InventoryClient::new(channel(app).await)
}

fn products(ids: &[&str]) -> BatchGetStockRequest {
    BatchGetStockRequest { product_ids: ids.iter().map(|&id| id.to_owned()).collect() }
}

/// A request to reserve these items.
pub fn reserve(items: &[(&str, i64)], key: &str) -> ReserveRequest {
    let items = items.iter().map(|&(id, quantity)| Item { product_id: id.to_owned(), quantity }).collect();
    ReserveRequest { items, ttl_seconds: None, idempotency_key: key.to_owned() }
}

fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("a reason").domain, "hedgerow.dev");
    let violations = &details.bad_request().expect("fields").field_violations;
    violations.iter().map(|violation| violation.field.clone()).collect()
}

fn reason(status: &Status) -> String {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    status.get_error_details().error_info().expect("a reason").reason.clone()
}

/// The headers and trailers of the response to a call for the product "p".
async fn raw(app: &App, path: &str, timeout: &str) -> (HeaderMap, HeaderMap) {
    raw_call(app, path, timeout, &BatchGetStockRequest { product_ids: vec!["p".to_owned()] }).await
}

/// The headers and trailers of the response to a call with a timeout, which only the server enforces.
pub async fn raw_call(app: &App, path: &str, timeout: &str, message: &impl Message) -> (HeaderMap, HeaderMap) {
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", timeout)];
    let (head, trailers) = send(app, path, &headers, message).await;
    (head.headers, trailers)
}

/// A message as it is sent: a flag, its length in four bytes, and the message.
pub fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}

/// The head and the trailers of the response to a request over HTTP/2.
async fn send(app: &App, path: &str, headers: &[(&str, &str)], message: &impl Message) -> (Parts, HeaderMap) {
    let address = app.grpc.expect("a gRPC port");
    let stream = TokioIo::new(TcpStream::connect(address).await.expect("it listens"));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::post(format!("http://{address}{path}"));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let request = request.body(Full::new(framed(message))).expect("a request");
    let response = sender.send_request(request).await;
    let (head, body) = response.expect("a response").into_parts();
    let trailers = body.collect().await.expect("a whole response").trailers().cloned();
    (head, trailers.unwrap_or_default())
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn stock_is_returned_in_the_order_of_the_request(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "b", 2).await.json(201);
    set(&app, "a", 1).await.json(201);
    let mut client = client(&app).await;
    let response = client.batch_get_stock(products(&["b", "nothing", "a", "b"])).await.expect("a response");
    assert!(response.metadata().contains_key("x-request-id"));
    let stock = |id: &str, n, version| Stock { product_id: id.to_owned(), stock: n, on_hand: n, reserved: 0, version };
    let expected = [stock("b", 2, 1), stock("nothing", 0, 0), stock("a", 1, 1), stock("b", 2, 1)];
    assert_eq!(response.into_inner().stocks, expected);
    let none = client.batch_get_stock(products(&[])).await.expect("a response").into_inner();
    assert_eq!(none.stocks, []);
    let most: Vec<String> = (0..200).map(|number| format!("p{number}")).collect();
    let all = client.batch_get_stock(BatchGetStockRequest { product_ids: most }).await.expect("a response");
    assert_eq!(all.into_inner().stocks.len(), 200);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_invalid_call_lists_every_field_with_an_error(pool: PgPool) {
    let app = start(&pool).await;
    let mut client = client(&app).await;
    let status = client.batch_get_stock(products(&["a", "", "b/c"])).await.expect_err("refused");
    assert_eq!(fields(&status), ["product_ids[1]", "product_ids[2]"]);
    let many = BatchGetStockRequest { product_ids: vec!["a".to_owned(); 201] };
    assert_eq!(fields(&client.batch_get_stock(many).await.expect_err("refused")), ["product_ids"]);

    let bad = ReserveRequest { ttl_seconds: Some(86_401), ..reserve(&[("a", 1), ("/", 0)], "a b") };
    let status = client.reserve(bad).await.expect_err("refused");
    assert_eq!(fields(&status), ["items[1].product_id", "items[1].quantity", "ttl_seconds", "idempotency_key"]);
    assert_eq!(fields(&client.reserve(reserve(&[], "")).await.expect_err("refused")), ["items"]);
    let too_large = client.batch_get_stock(products(&[&"a".repeat(MESSAGE_LIMIT)])).await.expect_err("refused");
    assert_eq!(too_large.code(), Code::OutOfRange);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn grpc_and_http_share_reservations_and_keys(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 10).await.json(201);
    let mut client = client(&app).await;
    let held = client.reserve(reserve(&[("p", 3), ("p", 1)], "k")).await.expect("held").into_inner();
    assert_eq!(held.state(), State::Held);
    assert_eq!(held.items, [Item { product_id: "p".to_owned(), quantity: 4 }]);
    let again = client.reserve(reserve(&[("p", 3), ("p", 1)], "k")).await.expect("the same").into_inner();
    assert_eq!(again, held);
    let body = json!({"items": [{"product_id": "p", "quantity": 4}]});
    let over_http = app.request(reqwest::Method::POST, "/reservations").header("idempotency-key", "k").json(&body);
    assert_eq!(app.send(over_http).await.json(201)["id"], held.id);
    let reused = client.reserve(reserve(&[("p", 5)], "k")).await.expect_err("refused");
    assert_eq!(reused.get_error_details().error_info().expect("a reason").reason, "IDEMPOTENCY_KEY_REUSED");

    let read = app.get(&format!("/reservations/{}", held.id)).await.json(200);
    let expires_at = held.expires_at.expect("a time");
    let shown: chrono::DateTime<chrono::Utc> = read["expires_at"].as_str().expect("a text").parse().expect("a time");
    assert_eq!(
        (expires_at.seconds, i64::from(expires_at.nanos)),
        (shown.timestamp(), i64::from(shown.timestamp_subsec_nanos()))
    );
    for _ in 0..2 {
        let committed = client.commit(CommitRequest { reservation_id: held.id.clone() }).await.expect("committed");
        assert_eq!(committed.into_inner().state(), State::Committed);
    }
    assert_eq!(stock(&app, "p").await, 6);
    let status = client.release(ReleaseRequest { reservation_id: held.id }).await.expect_err("refused");
    assert_eq!(reason(&status), "RESERVATION_ENDED");
    assert_eq!(status.get_error_details().error_info().expect("a reason").metadata["state"], "committed");

    let other = client.reserve(reserve(&[("p", 6)], "")).await.expect("held").into_inner();
    let status = client.reserve(reserve(&[("p", 1), ("q", 1)], "")).await.expect_err("refused");
    assert_eq!(reason(&status), "INSUFFICIENT_STOCK");
    let items = status.get_error_details().error_info().expect("a reason").metadata["items"].clone();
    let items: serde_json::Value = serde_json::from_str(&items).expect("JSON");
    assert_eq!((&items[0]["product_id"], &items[1]["product_id"]), (&json!("p"), &json!("q")));
    let released = client.release(ReleaseRequest { reservation_id: other.id }).await.expect("released").into_inner();
    assert_eq!(released.state(), State::Released);
    for id in ["0190d9a4-1f5e-7c3a-8a5e-0123456789ab", "x"] {
        let status = client.commit(CommitRequest { reservation_id: id.to_owned() }).await.expect_err("refused");
        assert_eq!(status.code(), Code::NotFound);
    }
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn health_reports_readiness(pool: PgPool) {
    let app = start(&pool).await;
    let mut health = HealthClient::new(channel(&app).await);
    for service in ["", SERVICE] {
        let request = || HealthCheckRequest { service: service.to_owned() };
        eventually("serving", TIMEOUT, async || {
            let response = health.check(request()).await.expect("a response").into_inner();
            (response.status() == ServingStatus::Serving).then_some(())
        })
        .await;
    }
    let unknown = health.check(HealthCheckRequest { service: "nothing".to_owned() }).await.expect_err("refused");
    assert_eq!(unknown.code(), Code::NotFound);

    let nowhere = App::start(&inventory::SERVICE, &(*pool.connect_options()).clone().database("nowhere")).await;
    let mut health = HealthClient::new(channel(&nowhere).await);
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    eventually("not serving", TIMEOUT, async || {
        let response = health.check(request.clone()).await.ok()?.into_inner();
        (response.status() == ServingStatus::NotServing).then_some(())
    })
    .await;
    let status = client(&nowhere).await.batch_get_stock(products(&["p"])).await.expect_err("no database");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_error_details().retry_info().is_some());
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn reflection_lists_and_describes_the_services(pool: PgPool) {
    let app = start(&pool).await;
    let mut reflection = ServerReflectionClient::new(channel(&app).await);
    let mut ask = async |request: MessageRequest| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let stream = futures_util::stream::iter([request]);
        let mut responses = reflection.server_reflection_info(stream).await.expect("a response").into_inner();
        responses.message().await.expect("no error").expect("one response").message_response.expect("a message")
    };
    let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await else {
        panic!("not a list of services");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in [SERVICE, "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    for symbol in [SERVICE, "google.rpc.ErrorInfo", "google.protobuf.Timestamp"] {
        let response = ask(MessageRequest::FileContainingSymbol(symbol.to_owned())).await;
        assert!(matches!(response, MessageResponse::FileDescriptorResponse(_)), "{symbol}");
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_callers_deadline_is_enforced(pool: PgPool) {
    let app = start(&pool).await;
    let path = format!("/{SERVICE}/BatchGetStock");
    let (_, trailers) = raw(&app, &path, "10S").await;
    assert_eq!(trailers["grpc-status"], "0");
    let mut lock = pool.acquire().await.expect("a connection");
    raw_sql("BEGIN; LOCK TABLE stock").execute(&mut *lock).await.expect("locked");
    let started = std::time::Instant::now();
    let (headers, _) = raw(&app, &path, "100m").await;
    assert_eq!(headers["grpc-status"], "4", "DEADLINE_EXCEEDED");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let (headers, _) = raw(&app, &path, "soon").await;
    assert_eq!(headers["grpc-status"], "3", "INVALID_ARGUMENT");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn calls_are_counted_by_method_and_code_not_by_unknown_names(pool: PgPool) {
    let app = start(&pool).await;
    let mut client = client(&app).await;
    client.batch_get_stock(products(&["a"])).await.expect("a response");
    client.batch_get_stock(products(&[""])).await.expect_err("refused");
    for path in ["/secret.Service/Method", &format!("/{SERVICE}/Secret"), "/secret"] {
        assert_eq!(raw(&app, path, "1S").await.0["grpc-status"], "12", "UNIMPLEMENTED: {path}");
    }
    let text = eventually("no call is in flight", TIMEOUT, async || {
        let text = app.admin("/metrics").await.text();
        text.contains("\ngrpc_server_requests_in_flight 0\n").then_some(text)
    })
    .await;
    let named = |code: &str| format!("{{code=\"{code}\",method=\"BatchGetStock\",service=\"{SERVICE}\"}} 1\n");
    let unknown = "{code=\"UNIMPLEMENTED\",method=\"unmatched\",service=\"unmatched\"} 3\n".to_owned();
    for series in [named("OK"), named("INVALID_ARGUMENT"), unknown] {
        for name in ["grpc_server_requests_total", "grpc_server_request_duration_seconds_count"] {
            assert!(text.contains(&format!("\n{name}{series}")), "{name}{series} in {text}");
        }
    }
    assert!(!text.contains("ecret"), "{text}");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn each_port_serves_only_its_own_protocol(pool: PgPool) {
    let app = start(&pool).await;
    let plain = reqwest::get(format!("http://{}/inventory", app.grpc.expect("a gRPC port"))).await;
    assert_eq!(plain.expect("a response").status(), 415);
    app.get(&format!("/{SERVICE}/BatchGetStock")).await.problem(404);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_call_is_recognized_by_its_whole_media_type(pool: PgPool) {
    let app = start(&pool).await;
    let path = format!("/{SERVICE}/BatchGetStock");
    let message = BatchGetStockRequest { product_ids: vec!["p".to_owned()] };
    for media_type in ["application/grpc", "Application/gRPC", "APPLICATION/GRPC+Proto", "application/grpc; a=b"] {
        let (head, trailers) = send(&app, &path, &[("content-type", media_type), ("te", "trailers")], &message).await;
        assert_eq!(head.status, 200, "{media_type}");
        assert_eq!(trailers["grpc-status"], "0", "{media_type}");
    }
    for media_type in ["application/grpc-web", "application/grpc-web+proto", "application/grpcx", "application/json"] {
        let (head, _) = send(&app, &path, &[("content-type", media_type)], &message).await;
        assert_eq!(head.status, 415, "{media_type}");
    }
}
