//! Services that call: which of them may, and for whom they do.

use contracts::inventory::v1::BatchGetStockRequest;
use identity::Mode;
use serde_json::json;
use sqlx::PgPool;
use test_support::app::{App, Response};
use tonic::{Code, Request, metadata::AsciiMetadataValue};

use super::issuer::{Issuer, NOBODY, Token, basket, call, send, send_with, service_account, stock_up};
use crate::{audit, grpc};

const ON_BEHALF_OF: &str = "hedgerow-on-behalf-of";

/// The code of a call that anybody may make who may call at all.
async fn read(app: &App, token: &Token) -> Code {
    let request = call(token, BatchGetStockRequest { product_ids: vec!["p".to_owned()] });
    grpc::client(app).await.batch_get_stock(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Reserves over gRPC for users. Returns the path of the reservation.
async fn reserve_for(app: &App, token: &Token, users: &[&str]) -> Result<String, Code> {
    let mut request: Request<_> = call(token, grpc::reserve(&[("p", 1)], ""));
    for user in users {
        request.metadata_mut().append(ON_BEHALF_OF, AsciiMetadataValue::try_from(*user).expect("ASCII"));
    }
    let made = grpc::client(app).await.reserve(request).await.map_err(|status| status.code())?;
    Ok(format!("/reservations/{}", made.into_inner().id))
}

/// Reserves over HTTP for a user.
async fn reserve_for_over_http(app: &App, token: &Token, user: &str) -> Response {
    send_with(app, token, "POST", "/reservations", Some(&basket(&["p"])), &[(ON_BEHALF_OF, user)]).await
}

/// How many requests were refused for a reason.
async fn refusals(app: &App, reason: &str) -> u64 {
    let metrics = app.admin("/metrics").await.text();
    let start = format!("auth_refusals_total{{reason=\"{reason}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |count| count.parse().expect("a count"))
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn only_services_in_the_list_may_call(pool: PgPool) {
    let issuer = Issuer::new();
    let list = format!("{}, {}", service_account("orders"), service_account("users"));
    for mode in [Mode::Open, Mode::Required] {
        let app = issuer.start_for(&pool, mode, &list).await;
        send(&app, &issuer.admin(), "PUT", "/inventory/p", Some(&json!({"stock": 1000}))).await;
        let others =
            [issuer.user("ada"), issuer.admin(), issuer.token("robot", &json!({"client_id": "robot"})), NOBODY];
        let services = ["orders", "users", "hedgerow-admin"].map(|name| issuer.service(name));
        for admitted in services.iter().chain(&others) {
            assert_eq!(send(&app, admitted, "GET", "/inventory/p", None).await.status, 200, "{mode:?}");
            assert_eq!(read(&app, admitted).await, Code::Ok, "{mode:?}");
        }
        assert_eq!(refusals(&app, "not-admitted").await, 0);
        for (number, name) in (1..).zip(["billing", "order", "orders,x", ""]) {
            let stranger = issuer.service(name);
            let refused = send(&app, &stranger, "GET", "/inventory/p", None).await;
            let problem = refused.problem(403);
            let detail = problem["detail"].as_str().expect("a text");
            assert!(detail.contains(&service_account(name)), "{detail}");
            assert_eq!(refused.header("www-authenticate"), None);
            assert_eq!(read(&app, &stranger).await, Code::PermissionDenied, "{mode:?}");
            assert_eq!(refusals(&app, "not-admitted").await, 2 * number);
        }
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_empty_list_admits_no_service_and_any_admits_all(pool: PgPool) {
    let issuer = Issuer::new();
    for (list, code) in [("any", Code::Ok), ("", Code::PermissionDenied)] {
        let app = issuer.start_for(&pool, Mode::Required, list).await;
        assert_eq!(read(&app, &issuer.service("orders")).await, code, "{list:?}");
        assert_eq!(read(&app, &issuer.user("ada")).await, Code::Ok);
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn what_a_service_does_for_a_user_belongs_to_the_user(pool: PgPool) {
    let issuer = Issuer::new();
    let app = issuer.start_for(&pool, Mode::Required, &service_account("orders")).await;
    stock_up(&app, &issuer, "p").await;
    let (orders, ada, bob) = (issuer.service("orders"), issuer.user("ada"), issuer.user("bob"));
    let over_grpc = reserve_for(&app, &orders, &[&ada]).await.expect("held");
    let over_http = reserve_for_over_http(&app, &orders, &ada).await;
    over_http.json(201);
    let over_http = over_http.header("location").expect("a path").to_owned();
    for path in [over_grpc, over_http] {
        for (caller, status) in [(&bob, 404), (&orders, 404), (&ada, 200)] {
            assert_eq!(send(&app, caller, "GET", &path, None).await.status, status, "{path}");
        }
        let commit = format!("{path}/commit");
        send_with(&app, &orders, "POST", &commit, None, &[(ON_BEHALF_OF, &bob)]).await.problem(404);
        send_with(&app, &orders, "POST", &commit, None, &[(ON_BEHALF_OF, &ada)]).await.json(200);
    }
    // The service has no scope of its own, and a user brings only what it has.
    assert_eq!(reserve_for(&app, &orders, &[]).await, Err(Code::PermissionDenied));
    let eve = issuer.token("eve", &json!({}));
    assert_eq!(reserve_for(&app, &orders, &[&eve]).await, Err(Code::PermissionDenied));
    reserve_for_over_http(&app, &orders, &eve).await.problem(403);
    assert_eq!(refusals(&app, "insufficient-scope").await, 3);
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn only_a_service_in_the_list_may_call_for_a_user(pool: PgPool) {
    let issuer = Issuer::new();
    let app = issuer.start_for(&pool, Mode::Required, &service_account("orders")).await;
    stock_up(&app, &issuer, "p").await;
    let (billing, ada, bob) = (issuer.service("billing"), issuer.user("ada"), issuer.user("bob"));
    assert_eq!(reserve_for(&app, &billing, &[&ada]).await, Err(Code::PermissionDenied));
    reserve_for_over_http(&app, &billing, &ada).await.problem(403);
    // A user cannot be another one, and nobody cannot be anybody.
    let path = reserve_for(&app, &bob, &[&ada]).await.expect("held");
    assert_eq!(send(&app, &ada, "GET", &path, None).await.status, 404);
    assert_eq!(send(&app, &bob, "GET", &path, None).await.status, 200);
    assert_eq!(reserve_for(&app, &NOBODY, &[&ada]).await, Err(Code::Unauthenticated));
    // What is ignored is not verified either.
    assert!(reserve_for(&app, &bob, &["Bearer garbage"]).await.is_ok());
    // Nor can a service be another one that may not call.
    let orders = issuer.service("orders");
    send_with(&app, &orders, "GET", "/inventory/p", None, &[(ON_BEHALF_OF, &billing)]).await.problem(403);
    send_with(&app, &orders, "GET", "/inventory/p", None, &[(ON_BEHALF_OF, &orders)]).await.json(200);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_token_of_a_user_is_verified_like_any_other(pool: PgPool) {
    let issuer = Issuer::new();
    for mode in [Mode::Open, Mode::Required] {
        let app = issuer.start_for(&pool, mode, &service_account("orders")).await;
        send(&app, &issuer.admin(), "PUT", "/inventory/p", Some(&json!({"stock": 1000}))).await;
        let (orders, ada) = (issuer.service("orders"), issuer.user("ada"));
        let expired = issuer.token("ada", &json!({"roles": ["user"], "exp": 1}));
        let elsewhere = issuer.token("ada", &json!({"roles": ["user"], "aud": "elsewhere"}));
        let forged = format!("{}AAAA", &ada[..ada.len() - 4]);
        let bare = ada.strip_prefix("Bearer ").expect("a scheme");
        for bad in [&expired, &elsewhere, &forged, bare, "Bearer garbage", "Bearer", "Basic YTpi", ""] {
            assert_eq!(reserve_for(&app, &orders, &[bad]).await, Err(Code::Unauthenticated), "{bad}");
            let refused = reserve_for_over_http(&app, &orders, bad).await;
            let problem = refused.problem(401);
            assert_eq!(problem["type"], "https://hedgerow.dev/problems/invalid-token");
            // Operations that need no scope refuse it too.
            let read = send_with(&app, &orders, "GET", "/inventory/p", None, &[(ON_BEHALF_OF, bad)]).await;
            assert_eq!(read.status, 401, "{bad}");
        }
        assert_eq!(reserve_for(&app, &orders, &[&ada, &ada]).await, Err(Code::Unauthenticated));
        assert!(reserve_for(&app, &orders, &[&ada]).await.is_ok());
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn refusals_are_counted_wherever_they_are_decided(pool: PgPool) {
    let issuer = Issuer::new();
    let app = issuer.start(&pool, Mode::Required).await;
    let (eve, expired) = (issuer.token("eve", &json!({})), issuer.token("root", &json!({"exp": 1})));
    for (token, reason) in [(&eve, "insufficient-scope"), (&NOBODY, "no-token"), (&expired, "invalid-token")] {
        assert_eq!(refusals(&app, reason).await, 0);
        send(&app, token, "POST", "/reservations", Some(&basket(&["p"]))).await;
        assert_eq!(refusals(&app, reason).await, 1, "{reason}");
        assert!(reserve_for(&app, token, &[]).await.is_err());
        assert_eq!(refusals(&app, reason).await, 2, "{reason}");
    }
    // Neither is a refusal.
    send(&app, &issuer.user("ada"), "GET", "/reservations/x", None).await.problem(404);
    send(&app, &issuer.user("ada"), "POST", "/reservations", Some(&json!({}))).await;
    let metrics = app.admin("/metrics").await.text();
    assert_eq!(metrics.lines().filter(|line| line.starts_with("auth_refusals_total{")).count(), 3);
}
