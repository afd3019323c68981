//! Who may do what with users and wishlists.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::app::Response;

use crate::issuer::{Issuer, start_issuer};

async fn send(issuer: &Issuer, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Response {
    let mut request = issuer.app.request(method.parse().expect("a method"), path);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    issuer.app.send(request).await
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn each_caller_may_do_what_the_table_says(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    issuer.user("bob@example.com").await;
    let (ada, _) = issuer.tokens("ada@example.com").await;
    let (bob, _) = issuer.tokens("bob@example.com").await;
    let admin = issuer.admin();
    let reader = issuer.foreign_token(&json!({"scope": "users:read"}));
    let writer = issuer.foreign_token(&json!({"scope": "users:write"}));
    // A subject of another issuer that is also the id of one of our users.
    let impostor = issuer.foreign_token(&json!({"sub": id, "sid": uuid::Uuid::now_v7()}));
    let callers = [None, Some(&ada), Some(&bob), Some(&admin), Some(&reader), Some(&writer), Some(&impostor)];

    let (user, wishlist) = (format!("/users/{id}"), format!("/users/{id}/wishlist"));
    let wish = format!("{wishlist}/p");
    let (patch, same) = (json!({"name": "Ada L."}), json!({"name": "Eve", "email": "ada@example.com"}));
    for (method, path, body, expected) in [
        ("GET", "/users", None, [401, 403, 403, 200, 200, 403, 403]),
        // 409: it was allowed, and the email is taken.
        ("POST", "/users", Some(&same), [401, 403, 403, 409, 403, 409, 403]),
        ("GET", &*user, None, [401, 200, 404, 200, 200, 404, 404]),
        ("PATCH", &*user, Some(&patch), [401, 200, 404, 200, 404, 200, 404]),
        ("GET", &*wishlist, None, [401, 200, 404, 200, 200, 404, 404]),
        ("PUT", &*wish, None, [401, 204, 404, 204, 404, 204, 404]),
        ("DELETE", &*wish, None, [401, 204, 404, 204, 404, 204, 404]),
    ] {
        for (caller, expected) in callers.iter().zip(expected) {
            let response = send(&issuer, method, path, caller.map(String::as_str), body).await;
            assert_eq!(response.status, expected, "{method} {path} {caller:?}: {}", response.text());
        }
    }
    for (caller, expected) in callers.iter().zip([401, 204, 404]).rev() {
        let response = send(&issuer, "DELETE", &user, caller.map(String::as_str), None).await;
        assert_eq!(response.status, expected, "{caller:?}");
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_caller_is_shown_as_the_token_says(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let (ada, _) = issuer.tokens("ada@example.com").await;
    let me = issuer.send(Method::GET, "/auth/me", &ada, None).await.json(200);
    assert_eq!((&me["sub"], &me["client_id"]), (&json!(id), &json!("hedgerow")));
    assert_eq!((&me["roles"], &me["scopes"]), (&json!(["user"]), &json!(["reservations:write"])));
    issuer.app.get("/auth/me").await.problem(401);
    // Nobody else has sessions or a password here.
    let admin = issuer.admin();
    issuer.send(Method::GET, "/auth/me", &admin, None).await.json(200);
    issuer.send(Method::GET, "/auth/sessions", &admin, None).await.problem(403);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn public_operations_do_not_look_at_tokens(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let paths =
        ["/.well-known/jwks.json", "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"];
    for path in paths {
        issuer.app.get(path).await.json(200);
        issuer.send(Method::GET, path, "garbage", None).await.json(200);
    }
    issuer.send(Method::GET, "/users", "garbage", None).await.problem(401);
}
