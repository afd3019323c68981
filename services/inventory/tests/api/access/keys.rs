//! An `Idempotency-Key` belongs to the caller.

use contracts::inventory::v1::CommitRequest;
use identity::Mode;
use serde_json::json;
use sqlx::PgPool;
use test_support::app::{App, Response};

use super::issuer::{ISSUERS, Issuer, NOBODY, Token, basket, call, reserve, send_with, stock_up};
use crate::{audit, counters, grpc};

const KEY: [(&str, &str); 1] = [("idempotency-key", "k")];

async fn reserve_once(app: &App, token: &Token) -> Response {
    send_with(app, token, "POST", "/reservations", Some(&basket(&["p"])), &KEY).await
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_same_key_of_several_callers_is_several_keys(pool: PgPool) {
    let issuer = Issuer::new();
    let app = issuer.start(&pool, Mode::Open).await;
    stock_up(&app, &issuer, "p").await;
    let elsewhere = issuer.token("ada", &json!({"iss": ISSUERS[1], "roles": ["user"]}));
    let callers = [NOBODY, issuer.user("ada"), issuer.user("bob"), elsewhere, issuer.admin()];
    let mut ids = Vec::new();
    for caller in &callers {
        let first = reserve_once(&app, caller).await;
        let again = reserve_once(&app, caller).await;
        assert_eq!(first.json(201), again.json(201));
        let over_grpc = call(caller, grpc::reserve(&[("p", 1)], "k"));
        let over_grpc = grpc::client(&app).await.reserve(over_grpc).await.expect("held").into_inner();
        assert_eq!(first.json(201)["id"], over_grpc.id);
        assert!(!ids.contains(&over_grpc.id), "{caller:?}");
        ids.push(over_grpc.id);
    }
    assert_eq!(counters(&app, "p").await, (995, 1000, 5));
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn nobody_gets_the_stored_response_of_another(pool: PgPool) {
    let issuer = Issuer::new();
    let app = issuer.start(&pool, Mode::Required).await;
    stock_up(&app, &issuer, "p").await;
    let (ada, bob) = (issuer.user("ada"), issuer.user("bob"));
    let path = reserve(&app, &ada, &["p"]).await;
    let commit = format!("{path}/commit");
    let send = async |token| send_with(&app, token, "POST", &commit, None, &KEY).await;
    // Before and after a response is stored.
    send(&bob).await.problem(404);
    let committed = send(&ada).await.json(200);
    send(&bob).await.problem(404);
    assert_eq!(send(&ada).await.json(200), committed);
    let reservation_id = path.rsplit('/').next().expect("an id").to_owned();
    let over_grpc = grpc::client(&app).await.commit(call(&bob, CommitRequest { reservation_id })).await;
    assert_eq!(over_grpc.expect_err("refused").code(), tonic::Code::NotFound);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_stored_response_needs_the_scope_again(pool: PgPool) {
    let issuer = Issuer::new();
    let app = issuer.start(&pool, Mode::Required).await;
    stock_up(&app, &issuer, "p").await;
    reserve_once(&app, &issuer.user("ada")).await.json(201);
    reserve_once(&app, &issuer.token("ada", &json!({"scope": "users:read"}))).await.problem(403);
    reserve_once(&app, &NOBODY).await.problem(401);
}
