//! Signing keys: how they are sealed, published and rotated.

use std::collections::HashSet;

use serde_json::Value;
use sqlx::PgPool;
use test_support::process::{TIMEOUT, eventually};
use users::Lifetimes;

use crate::issuer::{Issuer, PASSWORD, URL, settings, short_lives, start_issuer, tokens};

/// The ids of the published keys.
fn ids(keys: &Value) -> HashSet<String> {
    let keys = keys["keys"].as_array().expect("keys").iter();
    keys.map(|key| key["kid"].as_str().expect("an id").to_owned()).collect()
}

/// The key that signed a token.
fn signer(token: &str) -> String {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let header = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().expect("a JWT")).expect("base64url");
    let header: Value = serde_json::from_slice(&header).expect("JSON");
    assert_eq!((&header["alg"], &header["typ"]), (&"RS256".into(), &"at+jwt".into()));
    header["kid"].as_str().expect("an id").to_owned()
}

async fn count(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM signing_key").fetch_one(pool).await.expect("a count")
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_metadata_names_the_endpoints_and_keys(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    for path in ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"] {
        let metadata = issuer.app.get(path).await.json(200);
        assert_eq!(metadata["issuer"], URL);
        assert_eq!(metadata["jwks_uri"], format!("{URL}/.well-known/jwks.json"));
        assert_eq!(metadata["token_endpoint"], format!("{URL}/oauth2/token"));
    }
    let keys = issuer.keys().await;
    let key = keys["keys"][0].as_object().expect("a key");
    let mut names: Vec<_> = key.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["alg", "e", "kid", "kty", "n", "use"], "nothing of the private key");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn replicas_that_start_together_share_one_key(pool: PgPool) {
    let start = || Issuer::start(&pool, settings(7, Lifetimes::default()));
    let (a, b, c) = tokio::join!(start(), start(), start());
    let (keys_a, keys_b, keys_c) = (a.keys().await, b.keys().await, c.keys().await);
    assert_eq!((&keys_a, ids(&keys_a).len()), (&keys_b, 1));
    assert_eq!(keys_a, keys_c);
    // A refresh token of one is good at another.
    a.user("ada@example.com").await;
    let (_, refresh) = tokens(&b.log_in("ada@example.com", PASSWORD).await);
    tokens(&c.refresh(&refresh).await);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_wrong_key_encryption_key_makes_no_new_key(pool: PgPool) {
    let before = start_issuer(&pool).await.keys().await;
    // With which it would be time for a new key, too.
    for lifetimes in [Lifetimes::default(), Lifetimes { rotation: std::time::Duration::ZERO, ..Lifetimes::default() }] {
        let wrong = Issuer::start(&pool, settings(8, lifetimes)).await;
        let ready = async || (wrong.app.admin("/readyz").await.status == 200).then_some(());
        eventually("the database is reached", TIMEOUT, ready).await;
        wrong.log_in("ada@example.com", PASSWORD).await.problem(503);
        wrong.app.get("/.well-known/jwks.json").await.problem(503);
        assert_eq!(count(&pool).await, 1);
    }
    assert_eq!(start_issuer(&pool).await.keys().await, before, "the right one opens them still");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn private_keys_are_sealed(pool: PgPool) {
    start_issuer(&pool).await;
    let sealed: Vec<u8> = sqlx::query_scalar("SELECT sealed FROM signing_key").fetch_one(&pool).await.expect("a key");
    // A PKCS #8 document has the id of RSA.
    let rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    assert!(!sealed.windows(rsa.len()).any(|window| window == rsa));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_key_is_published_before_it_signs_and_goes_after(pool: PgPool) {
    let a = Issuer::start(&pool, settings(7, short_lives())).await;
    let b = Issuer::start(&pool, settings(7, short_lives())).await;
    let first = ids(&a.keys().await);
    a.user("ada@example.com").await;
    let mut signers = HashSet::new();
    let mut known = first.clone();
    eventually("three keys have signed", TIMEOUT, async || {
        for issuer in [&a, &b] {
            // What a verifier knew before the token was issued.
            known.extend(ids(&issuer.keys().await));
            let (access, _) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
            let signer = signer(&access);
            assert!(known.contains(&signer), "a token of an unpublished key");
            signers.insert(signer);
        }
        (signers.len() >= 3).then_some(())
    })
    .await;
    // Once the last token of a key has expired, it goes.
    let gone = "UPDATE signing_key SET gone_at = now() WHERE gone_at < 'infinity' AND active_from < now()";
    sqlx::query(gone).execute(&pool).await.expect("changed");
    eventually("the first key is gone", TIMEOUT, async || ids(&a.keys().await).is_disjoint(&first).then_some(())).await;
}
