//! Clients, and their credentials.

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::issuer::{Issuer, assert_oauth_error, claims, start_issuer, with_form};

async fn create(issuer: &Issuer, scopes: &[&str]) -> (String, String) {
    let body = json!({"name": "warehouse", "scopes": scopes});
    let response = issuer.send(Method::POST, "/auth/clients", &issuer.admin(), Some(&body)).await;
    let client = response.json(201);
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let text = |name: &str| client[name].as_str().expect("a text").to_owned();
    (text("client_id"), text("client_secret"))
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_client_gets_tokens_with_basic_and_with_post(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let (id, secret) = create(&issuer, &["orders:write", "inventory:write"]).await;
    let form = [("grant_type", "client_credentials"), ("client_id", &*id), ("client_secret", &*secret)];
    let post = issuer.token_form(&form).await;
    let request = issuer.app.request(Method::POST, "/oauth2/token").basic_auth(&id, Some(&secret));
    let basic = issuer.app.send(with_form(request, &form[..1])).await;
    for response in [post, basic] {
        let body = response.json(200);
        assert_eq!(body["scope"], "inventory:write orders:write");
        assert_eq!(body.get("refresh_token"), None);
        let claims = claims(body["access_token"].as_str().expect("a token"));
        assert_eq!((&claims["sub"], &claims["client_id"]), (&json!(id), &json!(id)));
        for absent in ["sid", "roles", "auth_time"] {
            assert_eq!(claims.get(absent), None, "{absent}");
        }
    }
    let narrowed = [form[0], form[1], form[2], ("scope", "orders:write")];
    assert_eq!(issuer.token_form(&narrowed).await.json(200)["scope"], "orders:write");
    let widened = [form[0], form[1], form[2], ("scope", "users:write")];
    assert_oauth_error(&issuer.token_form(&widened).await, 400, "invalid_scope");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn wrong_credentials_are_refused(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let (id, secret) = create(&issuer, &[]).await;
    let other = create(&issuer, &[]).await.1;
    for (id, secret) in [(&*id, &*other), (&id, "x"), ("x", &secret), ("00000000-0000-0000-0000-000000000000", &secret)]
    {
        let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        let response = issuer.token_form(&form).await;
        assert_oauth_error(&response, 401, "invalid_client");
        assert_eq!(response.header("www-authenticate"), Some(r#"Basic realm="oauth2""#));
    }
    for header in ["Basic !", "Bearer x", &format!("Basic {}", BASE64_STANDARD.encode("x"))] {
        let request = issuer.app.request(Method::POST, "/oauth2/token").header("authorization", header);
        let response = issuer.app.send(with_form(request, &[("grant_type", "client_credentials")])).await;
        assert_oauth_error(&response, 401, "invalid_client");
    }
    // In both ways at once.
    let request = issuer.app.request(Method::POST, "/oauth2/token").basic_auth(&id, Some(&secret));
    let form = [("grant_type", "client_credentials"), ("client_secret", &*secret)];
    assert_oauth_error(&issuer.app.send(with_form(request, &form)).await, 400, "invalid_request");
    // Twice.
    let request = issuer.app.request(Method::POST, "/oauth2/token").basic_auth(&id, Some(&secret));
    let twice = with_form(request.basic_auth(&id, Some(&secret)), &form[..1]);
    assert_oauth_error(&issuer.app.send(twice).await, 400, "invalid_request");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn clients_are_listed_without_secrets_and_deleted(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let (id, secret) = create(&issuer, &["inventory:write"]).await;
    let (second, _) = create(&issuer, &[]).await;
    let list = issuer.send(Method::GET, "/auth/clients", &issuer.admin(), None).await;
    assert!(!list.text().contains("secret") && !list.text().contains(&secret), "{}", list.text());
    let ids: Vec<Value> = list.rows().iter().map(|client| client["client_id"].clone()).collect();
    assert_eq!(ids, [json!(id), json!(second)]);

    let path = format!("/auth/clients/{id}");
    assert_eq!(issuer.send(Method::DELETE, &path, &issuer.admin(), None).await.status, 204);
    issuer.send(Method::DELETE, &path, &issuer.admin(), None).await.problem(404);
    let form = [("grant_type", "client_credentials"), ("client_id", &*id), ("client_secret", &*secret)];
    assert_oauth_error(&issuer.token_form(&form).await, 401, "invalid_client");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn only_administrators_manage_clients(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (ada, _) = issuer.tokens("ada@example.com").await;
    let body = json!({"name": "x", "scopes": []});
    issuer.send(Method::POST, "/auth/clients", &ada, Some(&body)).await.problem(403);
    issuer.send(Method::GET, "/auth/clients", &ada, None).await.problem(403);
    issuer.app.get("/auth/clients").await.problem(401);
    for (body, expected) in [
        (json!({"name": "x"}), "#/scopes"),
        (json!({"name": "x", "scopes": ["a b"]}), "#/scopes/0"),
        (json!({"name": "x", "scopes": vec!["a"; 51]}), "#/scopes"),
        (json!({"name": "", "scopes": []}), "#/name"),
    ] {
        let response = issuer.send(Method::POST, "/auth/clients", &issuer.admin(), Some(&body)).await;
        assert_eq!(response.errors(), [expected], "{body}");
    }
}
