//! What the tests share: keys, tokens, and a verifier whose issuer is a file.

use std::{
    fs,
    sync::{LazyLock, OnceLock},
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use prometheus::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time;

use crate::{
    AuthArgs, Caller, Identity, Reason, Refusal, Verifier,
    issuer::Pace,
    sign::{ACCESS_TOKEN, SigningKey, key_set},
};

pub(super) const ISSUER: &str = "https://issuer.example";

/// Short times where tests wait for them to pass, long ones where they must not pass.
pub(super) const PACE: Pace = Pace {
    every: Duration::from_mins(5),
    every_local: Duration::from_millis(5),
    retry: Duration::from_millis(5),
    retry_limit: Duration::from_millis(20),
    demand: Duration::from_mins(5),
    timeout: Duration::from_millis(500),
    wait: Duration::from_secs(5),
};

static KEYS: LazyLock<[SigningKey; 2]> =
    LazyLock::new(|| [(); 2].map(|()| SigningKey::generate().expect("a generated key")));

/// The key of the issuer.
pub(super) fn key() -> &'static SigningKey {
    &KEYS[0]
}

/// A key that is not the issuer's, or not yet.
pub(super) fn other_key() -> &'static SigningKey {
    &KEYS[1]
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_secs()
}

/// The claims of a token that is accepted.
pub(super) fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "ada", "aud": "hedgerow", "client_id": "web", "exp": now() + 600, "iat": now(),
        "jti": "1", "sid": "01890f5e-7e44-7c5c-8a43-5d9a4e0f6f5e", "scope": "stock:read", "roles": ["user"],
    })
}

/// The claims with some replaced; those that are `null` are removed.
pub(super) fn claims_with(changes: &Value) -> Value {
    let mut claims = claims();
    let members = claims.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => members.remove(name),
            value => members.insert(name.clone(), value.clone()),
        };
    }
    claims
}

pub(super) fn token(claims: &Value) -> String {
    key().sign(claims, ACCESS_TOKEN).expect("a token")
}

/// A token with any header and claims, signed with the issuer's key.
pub(super) fn token_of_text(header: &str, claims: &str) -> String {
    key().sign_parts(header, claims.as_bytes()).expect("a token")
}

pub(super) fn header_with(changes: &Value) -> String {
    let mut header = json!({ "alg": "RS256", "kid": key().kid(), "typ": "at+jwt" });
    let members = header.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        members.insert(name.clone(), value.clone());
    }
    header.to_string()
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn headers(token: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header value");
    HeaderMap::from_iter([(header::AUTHORIZATION, value)])
}

pub(super) fn invalid(reason: Reason) -> Result<Identity, Refusal> {
    Err(Refusal::InvalidToken(reason))
}

/// A verifier with these issuers.
pub(super) fn verifier(issuers: &Value) -> Verifier {
    verifier_at(&issuers.to_string(), PACE)
}

pub(super) fn verifier_at(issuers: &str, pace: Pace) -> Verifier {
    let args = AuthArgs { auth_issuers: Some(issuers.to_owned()), ..AuthArgs::default() };
    Verifier::with_pace(&args, &Registry::new(), pace).expect("a verifier")
}

/// Keys in a file, which outlives the test.
pub(super) fn key_file(keys: &Value) -> String {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| TempDir::new().expect("a directory"));
    let path = directory.path().join(format!("{}.json", uuid::Uuid::new_v4()));
    fs::write(&path, keys.to_string()).expect("a written file");
    format!("file://{}", path.display())
}

/// A verifier whose only issuer has [`key`], configured with these members too.
pub(super) fn verifier_with(config: &Value) -> Verifier {
    let mut issuer = json!({ "issuer": ISSUER, "jwks_url": key_file(&key_set([key().jwk()])) });
    issuer.as_object_mut().expect("an object").extend(config.as_object().expect("an object").clone());
    verifier(&json!([issuer]))
}

/// Verifies a token with an issuer of users that has [`key`].
pub(super) async fn verify(token: &str) -> Result<Identity, Refusal> {
    verifier_with(&json!({})).identify(&headers(token)).await
}

pub(super) async fn accepted(verifier: &Verifier, token: &str) -> Caller {
    match verifier.identify(&headers(token)).await {
        Ok(Identity::Caller(caller)) => (*caller).clone(),
        result => panic!("not accepted: {result:?}"),
    }
}

/// Waits until a condition holds.
pub(super) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(time::Instant::now() < deadline, "never: {what}");
        time::sleep(Duration::from_millis(2)).await;
    }
}
