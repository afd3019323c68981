//! Issuers that are away, slow, or publish nonsense; keys that change.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::Uri,
    response::{IntoResponse, Redirect, Response},
};
use futures_util::future::join_all;
use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::support::*;
use crate::{
    Identity, Reason, Refusal, Verifier,
    issuer::Pace,
    sign::{ACCESS_TOKEN, SigningKey, key_set},
};

/// What the issuer responds with.
#[derive(Clone)]
enum Behavior {
    Body(Vec<u8>),
    Status(StatusCode),
    Redirect(String),
    /// By the path of the request.
    Paths(Vec<(&'static str, Value)>),
    Hang,
}

/// An issuer on loopback.
struct TestIssuer {
    url: String,
    behavior: Arc<Mutex<Behavior>>,
    requests: Arc<AtomicUsize>,
}

impl TestIssuer {
    async fn start(behavior: Behavior) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let behavior = Arc::new(Mutex::new(behavior));
        let requests = Arc::new(AtomicUsize::new(0));
        let app = Router::new().fallback(respond).with_state((behavior.clone(), requests.clone()));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, behavior, requests }
    }

    fn set(&self, behavior: Behavior) {
        *self.behavior.lock().expect("a lock") = behavior;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// A verifier of this issuer.
    fn verifier(&self, pace: Pace) -> Verifier {
        verifier_at(&json!([{ "issuer": ISSUER, "jwks_url": format!("{}/keys", self.url) }]).to_string(), pace)
    }
}

async fn respond(State((behavior, requests)): State<(Arc<Mutex<Behavior>>, Arc<AtomicUsize>)>, uri: Uri) -> Response {
    requests.fetch_add(1, Ordering::SeqCst);
    let behavior = behavior.lock().expect("a lock").clone();
    match behavior {
        Behavior::Body(body) => body.into_response(),
        Behavior::Status(status) => status.into_response(),
        Behavior::Redirect(url) => Redirect::temporary(&url).into_response(),
        Behavior::Paths(paths) => match paths.iter().find(|(path, _)| *path == uri.path()) {
            Some((_, body)) => body.to_string().into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
        Behavior::Hang => std::future::pending().await,
    }
}

fn keys(keys: &[&SigningKey]) -> Behavior {
    Behavior::Body(key_set(keys.iter().map(|key| key.jwk())).to_string().into_bytes())
}

fn new_token() -> String {
    other_key().sign(&claims(), ACCESS_TOKEN).expect("a token")
}

async fn is_accepted(verifier: &Verifier, token: &str) -> bool {
    matches!(verifier.identify(&headers(token)).await, Ok(Identity::Caller(_)))
}

/// What an issuer may publish instead of keys.
fn faults(elsewhere: &str) -> Vec<(&'static str, Behavior)> {
    let many: Vec<Value> = (0..101).map(|_| key().jwk()).collect();
    let huge = format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(1 << 20));
    vec![
        ("away", Behavior::Status(StatusCode::BAD_GATEWAY)),
        ("another status", Behavior::Status(StatusCode::NO_CONTENT)),
        ("slow", Behavior::Hang),
        ("no JSON", Behavior::Body(b"<html>".to_vec())),
        ("other JSON", Behavior::Body(b"[]".to_vec())),
        ("no keys", Behavior::Body(br#"{"keys":[]}"#.to_vec())),
        ("huge", Behavior::Body(huge.into_bytes())),
        ("too many", Behavior::Body(key_set(many).to_string().into_bytes())),
        ("a redirect", Behavior::Redirect(format!("{elsewhere}/keys"))),
    ]
}

#[tokio::test]
async fn keys_that_were_never_read_are_503() {
    let elsewhere = TestIssuer::start(keys(&[key()])).await;
    for (fault, behavior) in faults(&elsewhere.url) {
        let issuer = TestIssuer::start(behavior).await;
        let verifier = issuer.verifier(PACE);
        let result = verifier.identify(&headers(&token(&claims()))).await;
        assert_eq!(result, Err(Refusal::KeysUnavailable), "{fault}");
        // Without a token there is nothing to verify.
        assert_eq!(verifier.identify(&http::HeaderMap::new()).await, Ok(Identity::Anonymous));
        issuer.set(keys(&[key()]));
        eventually("accepted", async || is_accepted(&verifier, &token(&claims())).await).await;
    }
    assert_eq!(elsewhere.requests(), 0, "redirects are not followed");
}

#[tokio::test]
async fn the_last_good_keys_stay_while_the_issuer_fails() {
    let issuer = TestIssuer::start(keys(&[key()])).await;
    let verifier = issuer.verifier(Pace { every: Duration::from_millis(5), ..PACE });
    assert!(is_accepted(&verifier, &token(&claims())).await);
    for (fault, behavior) in faults("http://127.0.0.1:1") {
        issuer.set(behavior);
        let before = issuer.requests();
        eventually("two more reads", async || issuer.requests() >= before + 2).await;
        assert!(is_accepted(&verifier, &token(&claims())).await, "{fault}");
        let other = token(&claims_with(&json!({ "jti": fault })));
        assert!(is_accepted(&verifier, &other).await, "a new token while {fault}");
    }
}

#[tokio::test]
async fn a_slow_issuer_delays_only_unknown_keys() {
    let issuer = TestIssuer::start(keys(&[key()])).await;
    let verifier = issuer.verifier(Pace { timeout: Duration::from_mins(1), wait: Duration::from_millis(50), ..PACE });
    assert!(is_accepted(&verifier, &token(&claims())).await);
    issuer.set(Behavior::Hang);
    assert!(verifier.try_identify(&headers(&new_token())).is_none(), "the keys are read again");
    // The read is under way now.
    let known = verifier.try_identify(&headers(&token(&claims_with(&json!({ "jti": "2" })))));
    assert!(matches!(known, Some(Ok(Identity::Caller(_)))));
    assert_eq!(verifier.identify(&headers(&new_token())).await, invalid(Reason::UnknownKey));
}

#[tokio::test]
async fn a_new_key_is_found_with_one_request_for_all() {
    let issuer = TestIssuer::start(keys(&[key()])).await;
    let verifier = issuer.verifier(PACE);
    assert!(is_accepted(&verifier, &token(&claims())).await);
    issuer.set(keys(&[key(), other_key()]));
    let tokens: Vec<_> = (0..50).map(|_| new_token()).collect();
    let results = join_all(tokens.iter().map(|token| is_accepted(&verifier, token))).await;
    assert!(results.iter().all(|accepted| *accepted));
    assert_eq!(issuer.requests(), 2);
}

#[tokio::test]
async fn a_key_that_is_gone_takes_its_tokens_along() {
    let issuer = TestIssuer::start(keys(&[key()])).await;
    let verifier = issuer.verifier(Pace { every: Duration::from_millis(5), ..PACE });
    assert!(is_accepted(&verifier, &token(&claims())).await);
    issuer.set(keys(&[other_key()]));
    eventually("refused", async || !is_accepted(&verifier, &token(&claims())).await).await;
    assert!(is_accepted(&verifier, &new_token()).await);
}

#[tokio::test]
async fn a_flood_of_unknown_keys_costs_one_request() {
    let issuer = TestIssuer::start(keys(&[key()])).await;
    let verifier = issuer.verifier(PACE);
    assert!(is_accepted(&verifier, &token(&claims())).await);
    let claims = claims().to_string();
    let tokens: Vec<_> = (0..200)
        .map(|number| format!(r#"{{"alg":"RS256","kid":"{number}","typ":"at+jwt"}}"#))
        .map(|header| other_key().sign_parts(&header, claims.as_bytes()).expect("a token"))
        .collect();
    for _ in 0..2 {
        let headers: Vec<_> = tokens.iter().map(|token| headers(token)).collect();
        let results = join_all(headers.iter().map(|headers| verifier.identify(headers))).await;
        assert!(results.iter().all(|result| *result == invalid(Reason::UnknownKey)));
    }
    assert_eq!(issuer.requests(), 2, "one at the start and one for all of these");
    // Nor does the time between two of them delay a refusal.
    assert_eq!(verifier.try_identify(&headers(&tokens[0])), Some(invalid(Reason::UnknownKey)));
    assert!(is_accepted(&verifier, &token(&self::claims())).await);
}

#[tokio::test]
async fn an_unknown_key_is_looked_for_again_after_a_while() {
    let issuer = TestIssuer::start(keys(&[key()])).await;
    let verifier = issuer.verifier(Pace { demand: Duration::from_millis(20), ..PACE });
    assert!(!is_accepted(&verifier, &new_token()).await);
    issuer.set(keys(&[other_key()]));
    eventually("accepted", async || is_accepted(&verifier, &new_token()).await).await;
}

#[tokio::test]
async fn a_token_that_is_bad_anyway_costs_no_request() {
    let issuer = TestIssuer::start(keys(&[key()])).await;
    let verifier = issuer.verifier(PACE);
    assert!(is_accepted(&verifier, &token(&claims())).await);
    for changes in [json!({ "exp": 1 }), json!({ "aud": "x" }), json!({ "nonce": "x" })] {
        let token = other_key().sign(&claims_with(&changes), ACCESS_TOKEN).expect("a token");
        assert!(matches!(verifier.try_identify(&headers(&token)), Some(Err(Refusal::InvalidToken(_)))), "{changes}");
    }
    assert_eq!(issuer.requests(), 1);
}

#[tokio::test]
async fn keys_are_discovered_below_the_issuer() {
    let issuer = TestIssuer::start(Behavior::Hang).await;
    let name = format!("{}/realm", issuer.url);
    let metadata = |issuer: &str, keys: &str| json!({ "issuer": issuer, "jwks_uri": keys });
    let at = format!("{}/jwks", issuer.url);
    let jwks = key_set([key().jwk()]);
    let token = token(&claims_with(&json!({ "iss": name })));
    for (case, path, document, accepted) in [
        ("OpenID", "/realm/.well-known/openid-configuration", metadata(&name, &at), true),
        ("OAuth", "/.well-known/oauth-authorization-server/realm", metadata(&name, &at), true),
        ("another issuer", "/realm/.well-known/openid-configuration", metadata(&issuer.url, &at), false),
        ("a file", "/realm/.well-known/openid-configuration", metadata(&name, &key_file(&jwks)), false),
    ] {
        issuer.set(Behavior::Paths(vec![(path, document), ("/jwks", jwks.clone())]));
        let verifier = verifier(&json!([{ "issuer": name }]));
        assert_eq!(is_accepted(&verifier, &token).await, accepted, "{case}");
    }
}

#[tokio::test]
async fn a_file_is_read_again_when_it_is_swapped() {
    // As Kubernetes does it: the file is a link into a folder that a link leads to.
    let directory = TempDir::new().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    for (name, key) in [("1", key()), ("2", other_key())] {
        fs::create_dir(path(name)).expect("a folder");
        fs::write(path(name).join("keys.json"), key_set([key.jwk()]).to_string()).expect("a file");
    }
    symlink("1", path("data")).expect("a link");
    symlink("data/keys.json", path("keys.json")).expect("a link");
    let url = format!("file://{}", path("keys.json").display());
    let verifier = verifier(&json!([{ "issuer": ISSUER, "jwks_url": url }]));
    assert!(is_accepted(&verifier, &token(&claims())).await);
    symlink("2", path("next")).expect("a link");
    fs::rename(path("next"), path("data")).expect("a swap");
    eventually("accepted", async || is_accepted(&verifier, &new_token()).await).await;
    assert!(!is_accepted(&verifier, &token(&claims())).await);
    // A file that is gone or half written changes nothing.
    fs::remove_file(path("keys.json")).expect("removed");
    fs::write(path("keys.json"), "{").expect("a file");
    for _ in 0..10 {
        tokio::time::sleep(PACE.every_local).await;
        assert!(is_accepted(&verifier, &new_token()).await);
    }
}
