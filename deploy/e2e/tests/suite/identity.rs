//! A release in mode `required`, in a namespace of its own, which the cases of this module share. All the while, a load
//! sends requests with tokens of a machine, and the keys are rotated.

mod dex;
mod shop;

use std::{env, fmt::Write as _, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use kube::{
    ResourceExt,
    api::{ListParams, LogParams},
};
use reqwest::Method;
use serde_json::{Value, json};
use test_support::cluster::{SOON, eventually};

pub use self::shop::Shop;
use self::shop::{RATE, key_of};
use crate::{
    command::{Running, root, run},
    release::Release,
    rollouts::none_failed,
};

const PASSWORD: &str = "a tall heron waits";

/// How soon the gateway refuses the tokens of a session that has ended: it asks every 5 s.
const REVOKED_WITHIN: Duration = Duration::from_secs(15);

/// Whether a program is installed that not every developer needs. In CI nothing is skipped.
fn has_tool(program: &str) -> bool {
    let found =
        env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    assert!(found || env::var_os("CI").is_none(), "{program} is not installed: run .ci/tools.sh {program}");
    if !found {
        println!("skipped: {program} is not installed; `.ci/tools.sh {program}` installs it");
    }
    found
}

/// The lines of the notes lead from nothing to a user who logs in.
pub async fn the_notes_lead_to_the_first_login(_: Arc<Release>) {
    let shop = Shop::get().await;
    let notes = &shop.release.notes;
    let me = r#"curl -sS http://127.0.0.1:8080/auth/me -H "authorization: Bearer $TOKEN""#;
    assert!(notes.contains(me), "{notes}");
    let who = shop.send(Method::GET, "/auth/me", &shop.admin, Value::Null).await.expect(200);
    assert_eq!(who.body["roles"], json!(["admin"]), "{}", who.body);

    let none = shop.send(Method::GET, "/users", "", Value::Null).await.expect(401);
    assert_eq!(none.challenge(), "Bearer");
    let bad = shop.send(Method::GET, "/users", "a.b.c", Value::Null).await.expect(401);
    assert!(bad.challenge().contains(r#"error="invalid_token""#), "{}", bad.challenge());

    let id = shop.user("ada@first.invalid", PASSWORD).await;
    let (token, _) = shop.log_in("ada@first.invalid", PASSWORD).await;
    let wrong = json!({ "email": "ada@first.invalid", "password": "a tall heron wades" });
    shop.send(Method::POST, "/auth/login", "", wrong).await.expect(401);
    let other = shop.user("eve@first.invalid", PASSWORD).await;
    shop.send(Method::GET, &format!("/users/{id}"), &token, Value::Null).await.expect(200);
    shop.send(Method::GET, &format!("/users/{other}"), &token, Value::Null).await.expect(404);
    let refused = shop.send(Method::GET, "/users", &token, Value::Null).await.expect(403);
    assert!(refused.challenge().contains(r#"error="insufficient_scope""#), "{}", refused.challenge());
    shop.send(Method::PUT, "/inventory/e2e", &token, json!({ "stock": 1000 })).await.expect(403);
    let path = format!("/users/{id}/roles");
    shop.send(Method::PUT, &path, &token, json!({ "roles": ["admin"] })).await.expect(403);

    // A role takes effect at the next login.
    shop.send(Method::PUT, &path, &shop.admin, json!({ "roles": ["admin"] })).await.expect(204);
    let (token, _) = shop.log_in("ada@first.invalid", PASSWORD).await;
    shop.send(Method::GET, "/users", &token, Value::Null).await.expect(200);
}

/// A refresh token is for one use, apart from a repetition at once. A session ends when an old one is used, or at a
/// logout; the gateway then refuses its tokens.
pub async fn sessions_are_refreshed_and_end(_: Arc<Release>) {
    let shop = Shop::get().await;
    let email = "grace@sessions.invalid";
    shop.user(email, PASSWORD).await;
    let read = async |token: &str| shop.send(Method::GET, "/inventory/e2e", token, Value::Null).await;
    let is_refused = async |token: &str| {
        eventually("the gateway refuses the token", REVOKED_WITHIN, async || read(token).await.status == 401).await;
        let answer = read(token).await.expect(401);
        assert_eq!(answer.body["reason"], "revoked", "{}", answer.body);
    };

    let (_, first) = shop.log_in(email, PASSWORD).await;
    let (_, second) = shop.tokens(&shop.refresh(&first).await.expect(200));
    let (_, repeated) = shop.tokens(&shop.refresh(&first).await.expect(200));
    assert_eq!(second, repeated, "a repetition has the same result");
    let (access, third) = shop.tokens(&shop.refresh(&second).await.expect(200));
    read(&access).await.expect(200);
    let reused = shop.refresh(&first).await.expect(400);
    assert_eq!(reused.body["error"], "invalid_grant", "{}", reused.body);
    shop.refresh(&third).await.expect(400);
    is_refused(&access).await;

    let (access, refresh) = shop.log_in(email, PASSWORD).await;
    read(&access).await.expect(200);
    shop.form(&format!("{}/oauth2/revoke", shop.url), None, &[("token", &refresh)]).await.expect(200);
    shop.refresh(&refresh).await.expect(400);
    is_refused(&access).await;
}

pub async fn a_machine_does_what_its_scope_allows(_: Arc<Release>) {
    let shop = Shop::get().await;
    let (id, secret) = shop.machine(&["inventory:write"]).await;
    let token = shop.machine_token(&id, &secret).await;
    shop.send(Method::POST, "/inventory/machine", &token, json!({ "stock": 7 })).await.expect(201);
    shop.send(Method::GET, "/users", &token, Value::Null).await.expect(403);
    shop.send(Method::POST, "/auth/clients", &token, json!({ "name": "more", "scopes": [] })).await.expect(403);
    let url = format!("{}/oauth2/token", shop.url);
    let grant = [("grant_type", "client_credentials")];
    let wrong = shop.form(&url, Some((&id, "hcs_wrong")), &grant).await.expect(401);
    assert_eq!(wrong.body["error"], "invalid_client", "{}", wrong.body);
    shop.send(Method::DELETE, &format!("/auth/clients/{id}"), &shop.admin, Value::Null).await.expect(204);
    shop.form(&url, Some((&id, &secret)), &grant).await.expect(401);
}

/// A wishlist has the stock because `users` proves to inventory who it is. No other service may call inventory, whatever
/// the network lets through.
pub async fn a_service_accepts_only_its_callers(_: Arc<Release>) {
    let shop = Shop::get().await;
    let id = shop.user("edsger@services.invalid", PASSWORD).await;
    let (token, _) = shop.log_in("edsger@services.invalid", PASSWORD).await;
    shop.send(Method::PUT, &format!("/users/{id}/wishlist/e2e"), &token, Value::Null).await.expect(204);
    let path = format!("/users/{id}/wishlist");
    eventually("the stock is known", SOON, async || {
        let wishlist = shop.send(Method::GET, &path, &token, Value::Null).await.expect(200);
        wishlist.body["degraded"] == false && wishlist.body["items"][0]["stock"].is_u64()
    })
    .await;

    let account = json!({ "metadata": { "name": "stranger" } });
    shop.release.create::<ServiceAccount>(account).await;
    // This passes the network policy, which has a case of its own.
    let (_forward, inventory) = Running::forward(&shop.release.name, "inventory").await;
    let read = async |token: &str| shop.send_to(&inventory, Method::GET, "/inventory/e2e", token, Value::Null).await;
    read(&shop.service_token("users", "inventory").await).await.expect(200);
    let refused = read(&shop.service_token("stranger", "inventory").await).await.expect(403);
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains(":stranger")), "{}", refused.body);
    let other = read(&shop.service_token("users", "orders").await).await.expect(401);
    assert_eq!(other.body["reason"], "wrong-audience", "{}", other.body);
}

/// The groups of its users are roles here. Its users are not those of `users`.
pub async fn tokens_of_dex_are_accepted(_: Arc<Release>) {
    let shop = Shop::get().await;
    let Some(dex) = &shop.dex else { return };
    let (_forward, inventory) = Running::forward(&shop.release.name, "inventory").await;
    let chief = dex.log_in(&shop, dex::CHIEF, dex::ACCEPTED).await;
    let users = async |token: &str| shop.send(Method::GET, "/users", token, Value::Null).await;
    // It may have started after the release.
    eventually("its keys are known", SOON, async || users(&chief).await.status != 503).await;
    users(&chief).await.expect(200);
    let who = shop.send(Method::GET, "/auth/me", &chief, Value::Null).await.expect(200);
    assert_eq!(who.body["roles"], json!(["admin"]), "{}", who.body);

    let stock = async |url: &str, token: &str| {
        shop.send_to(url, Method::POST, "/inventory/dex", token, json!({ "stock": 5 })).await
    };
    let basket = json!({ "items": [{ "product_id": "dex", "quantity": 1 }] });
    let reserve =
        async |url: &str, token: &str| shop.send_to(url, Method::POST, "/reservations", token, basket.clone()).await;
    let clerk = dex.log_in(&shop, dex::CLERK, dex::ACCEPTED).await;
    let guest = dex.log_in(&shop, dex::GUEST, dex::ACCEPTED).await;
    let elsewhere = dex.log_in(&shop, dex::CHIEF, dex::OTHER).await;
    for url in [&shop.url, &inventory] {
        stock(url, &chief).await.expect(201);
        stock(url, &clerk).await.expect(403);
        reserve(url, &clerk).await.expect(201);
        reserve(url, &guest).await.expect(403);
        let refused = reserve(url, &elsewhere).await.expect(401);
        assert_eq!(refused.body["reason"], "wrong-audience", "{}", refused.body);
    }
    users(&clerk).await.expect(403);
    users(&guest).await.expect(403);
    shop.send(Method::GET, "/auth/sessions", &clerk, Value::Null).await.expect(403);
}

/// `PyJWT`, which knows nothing of us, finds our keys and verifies the token of a login.
pub async fn pyjwt_verifies_our_tokens(_: Arc<Release>) {
    if !has_tool("pyjwt") {
        return;
    }
    let shop = Shop::get().await;
    let email = "guido@pyjwt.invalid";
    let id = shop.user(email, PASSWORD).await;
    let (token, _) = shop.log_in(email, PASSWORD).await;
    let metadata = shop.send(Method::GET, "/.well-known/openid-configuration", "", Value::Null).await.expect(200);
    let issuer = metadata.text("issuer");
    let folder = tempfile::tempdir().expect("a folder");
    let verify = async |token: &str, audience: &str| {
        let file = folder.path().join("token");
        std::fs::write(&file, token).expect("the file is written");
        let script = root().join("deploy/e2e/tests/suite/identity/verify.py");
        let command =
            format!("exec pyjwt '{}' '{}' '{issuer}' '{audience}' <'{}'", script.display(), shop.url, file.display());
        run("sh", &["-c", &command]).await
    };
    let claims: Value = serde_json::from_str(&verify(&token, "hedgerow").await.expect("claims")).expect("JSON");
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!(id), &json!("hedgerow")), "{claims}");
    let error = verify(&token, "elsewhere").await.expect_err("the audience is wrong");
    assert!(error.contains("InvalidAudienceError"), "{error}");
    let (start, signature) = token.rsplit_once('.').expect("a signature");
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let changed = format!("{start}.{first}{}", &signature[1..]);
    let error = verify(&changed, "hedgerow").await.expect_err("the signature is wrong");
    assert!(error.contains("InvalidSignatureError"), "{error}");
}

/// The load began before the other cases.
pub async fn rotated_keys_fail_no_request(_: Arc<Release>) {
    let shop = Shop::get().await;
    let load = shop.load().expect("the load");
    let (id, secret) = shop.machine(&[]).await;
    let mut keys = vec![shop.first_key.clone()];
    let deadline = tokio::time::Instant::now() + SOON;
    while keys.len() < 3 {
        assert!(tokio::time::Instant::now() < deadline, "keys are not rotated: {keys:?}");
        let key = key_of(&shop.machine_token(&id, &secret).await);
        if !keys.contains(&key) {
            keys.push(key);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // The requests that follow have tokens of the last key.
    tokio::time::sleep(Duration::from_secs(5)).await;
    none_failed("rotations", &load.stop().await, RATE);
}

/// Searches the logs of all pods and dumps of all databases for what the cases used.
pub async fn no_secret_is_in_a_log_or_a_database(_: Arc<Release>) {
    let shop = Shop::get().await;
    let mut wanted = Vec::new();
    for (secret, what) in shop.secrets() {
        wanted.push((what.to_owned(), secret.into_bytes()));
    }
    let kek = shop.release.api::<Secret>().get("hedgerow-issuer").await.expect("the Secret").data.expect("its data");
    wanted.push(("key-encryption key".to_owned(), kek["kek"].0.clone()));
    for name in ["hedgerow-postgres", "users-database", "inventory-database"] {
        let data = shop.release.api::<Secret>().get(name).await.expect("the Secret").data.expect("its data");
        wanted.push((format!("password in {name}"), data["password"].0.clone()));
    }
    for kind in ["password", "access token", "refresh token", "client secret", "token of a service"] {
        assert!(wanted.iter().any(|(what, _)| what == kind), "no case used a {kind}");
    }

    let mut places = Vec::new();
    for pod in shop.release.api::<Pod>().list(&ListParams::default()).await.expect("pods") {
        let name = pod.name_any();
        let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter().map(|one| one.name.clone()));
        for container in containers.filter(|_| name != "dex") {
            let parameters = LogParams { container: Some(container), ..LogParams::default() };
            let log = shop.release.api::<Pod>().logs(&name, &parameters).await.unwrap_or_default();
            places.push((format!("the log of {name}"), log));
        }
    }
    let logs: usize = places.iter().map(|(_, log)| log.len()).sum();
    for database in ["users", "inventory", "postgres"] {
        let dump = shop.release.exec("hedgerow-postgres-0", &["pg_dump", "-U", "postgres", database]).await;
        places.push((format!("the database {database}"), dump.expect("a dump")));
    }
    // What they do have, so that the search is not of nothing.
    let has = |place: &str, text: &str| places.iter().any(|(name, all)| name.starts_with(place) && all.contains(text));
    assert!(has("the log of users", "client_credentials"), "no audit log");
    assert!(has("the database users", "$argon2id$") && has("the database users", "ada@first.invalid"), "no dump");

    let mut found = Vec::new();
    for (what, secret) in &wanted {
        let text = String::from_utf8_lossy(secret).into_owned();
        let hex = secret.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        for form in [text, hex, BASE64_STANDARD.encode(secret)] {
            let form = form.trim();
            for (place, content) in &places {
                if content.contains(form) {
                    found.push(format!("{what} in {place}"));
                }
            }
        }
    }
    println!("{} secrets, {} places, {logs} bytes of logs", wanted.len(), places.len());
    found.dedup();
    assert!(found.is_empty(), "{found:#?}");
}
