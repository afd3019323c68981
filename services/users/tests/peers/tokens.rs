//! The tokens with which users calls inventory.

use std::{fs, path::Path, time::SystemTime};

use chassis::AuthArgs;
use identity::{
    Mode,
    sign::{ACCESS_TOKEN, SigningKey, key_set},
};
use reqwest::{Method, RequestBuilder, header};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use test_support::{
    app::{App, database_url},
    process::{TIMEOUT, eventually},
};
use users::IssuerArgs;

use crate::fake::Fake;

const ISSUER: &str = "https://issuer.example";
const CLUSTER: &str = "https://cluster.example";

/// Users in mode `open`, with issuers of users and services, and its tokens in a folder.
struct Caller {
    app: App,
    key: SigningKey,
    folder: TempDir,
    wishlist: String,
}

impl Caller {
    async fn start(pool: &PgPool, inventory: &Fake, own: Option<&str>) -> Self {
        let (key, folder) = (SigningKey::generate().expect("a key"), TempDir::new().expect("a folder"));
        let keys = folder.path().join("keys.json");
        fs::write(&keys, key_set([key.jwk()]).to_string()).expect("written");
        let keys = format!("file://{}", keys.display());
        let issuers = json!([
            {"issuer": ISSUER, "jwks_url": keys, "audience": "hedgerow"},
            {"issuer": CLUSTER, "jwks_url": keys, "audience": "hedgerow", "kind": "service",
             "roles": {"claim": "sub", "map": {"root": "admin"}}, "scopes": {"claim": "scope"}},
        ]);
        let auth = AuthArgs {
            auth: Some(Mode::Open),
            auth_issuers: Some(issuers.to_string()),
            auth_audience: "users".to_owned(),
        };
        if let Some(own) = own {
            publish(folder.path(), own);
        }
        let peers = vec![("inventory", format!("http://{}", inventory.address).parse().expect("a URL"))];
        let tokens = folder.path().to_owned();
        let database = database_url(&pool.connect_options());
        let app = App::start_with_args(&users::SERVICE, database, IssuerArgs::default(), |args| {
            (args.auth, args.auth_token_dir, args.peers) = (auth, Some(tokens), peers);
        })
        .await;
        let new = json!({"name": "Ada", "email": "ada@example.com", "wishlist": ["p"]});
        let user = app.post("/users", &new).await.json(201);
        let wishlist = format!("/users/{}/wishlist", user["id"].as_str().expect("an id"));
        Self { app, key, folder, wishlist }
    }

    /// The value of `Authorization` with a token of an issuer.
    fn token(&self, issuer: &str, claims: &Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let mut all = json!({"iss": issuer, "aud": "hedgerow", "sub": "ada", "exp": now + 600});
        all.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
        let typ = if issuer == ISSUER { ACCESS_TOKEN } else { "JWT" };
        format!("Bearer {}", self.key.sign(&all, typ).expect("a token"))
    }

    /// Gets the wishlist, once inventory is there.
    async fn get(&self, token: Option<&str>) {
        let request = || -> RequestBuilder {
            let request = self.app.request(Method::GET, &self.wishlist);
            token.into_iter().fold(request, |request, token| request.header(header::AUTHORIZATION, token))
        };
        eventually("the wishlist has stock", TIMEOUT, async || {
            let wishlist = self.app.send(request()).await.json(200);
            (wishlist["degraded"] == false).then_some(())
        })
        .await;
    }
}

fn publish(folder: &Path, token: &str) {
    fs::write(folder.join("new"), token).expect("written");
    fs::rename(folder.join("new"), folder.join("inventory")).expect("renamed");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_call_has_the_tokens_of_the_service_and_of_the_user(pool: PgPool) {
    let inventory = Fake::start().await;
    let users = Caller::start(&pool, &inventory, Some("own")).await;
    users.get(None).await;
    assert_eq!(inventory.header("authorization"), "Bearer own");
    assert_eq!(inventory.find("hedgerow-on-behalf-of"), None);

    let reader = users.token(ISSUER, &json!({"scope": "users:read"}));
    let admin = users.token(CLUSTER, &json!({"sub": "root"}));
    for user in [reader, admin] {
        users.get(Some(&user)).await;
        assert_eq!(inventory.header("authorization"), "Bearer own");
        assert_eq!(inventory.header("hedgerow-on-behalf-of"), user);
    }
    // The token of a service is for users alone.
    let service = users.token(CLUSTER, &json!({"sub": "orders", "aud": "users", "scope": "users:read"}));
    users.get(Some(&service)).await;
    assert_eq!(inventory.find("hedgerow-on-behalf-of"), None);

    publish(users.folder.path(), "renewed");
    eventually("the next token is used", TIMEOUT, async || {
        users.get(None).await;
        (inventory.header("authorization") == "Bearer renewed").then_some(())
    })
    .await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_header_of_the_client_s_is_not_passed_on(pool: PgPool) {
    let inventory = Fake::start().await;
    let users = Caller::start(&pool, &inventory, Some("own")).await;
    users.get(None).await;
    let before = inventory.calls();
    let ada = users.token(ISSUER, &json!({"scope": "users:read"}));
    let request = users.app.request(Method::GET, &users.wishlist).header("hedgerow-on-behalf-of", &ada);
    users.app.send(request).await.json(200);
    assert!(inventory.calls() > before);
    assert_eq!(inventory.find("hedgerow-on-behalf-of"), None);
    // A token that is not valid is not passed on either, whatever the route says.
    let before = inventory.calls();
    let expired = users.token(ISSUER, &json!({"scope": "users:read", "exp": 1}));
    let request = users.app.request(Method::GET, &users.wishlist).header(header::AUTHORIZATION, expired);
    users.app.send(request).await.problem(401);
    assert_eq!(inventory.calls(), before);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn without_a_token_of_its_own_a_service_sends_none(pool: PgPool) {
    let inventory = Fake::start().await;
    let users = Caller::start(&pool, &inventory, None).await;
    users.get(Some(&users.token(ISSUER, &json!({"scope": "users:read"})))).await;
    assert_eq!((inventory.find("authorization"), inventory.find("hedgerow-on-behalf-of")), (None, None));
}
