//! The list of issuers: what is valid, and a file that changes.

use std::fs;

use prometheus::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::*;
use crate::{AuthArgs, Identity, IssuerConfig, Mode, Reason, Verifier, config::parse, sign::key_set};

#[test]
fn a_list_that_is_not_understood_is_refused() {
    let url = "https://keys.example/";
    for (bad, why) in [
        (json!({}), "sequence"),
        (json!([{}]), "issuer"),
        (json!([{ "issuer": "" }]), "empty"),
        (json!([{ "issuer": "https://x ", "jwks_url": url }]), "space or a control character"),
        (json!([{ "issuer": "https://x\u{a0}y", "jwks_url": url }]), "space or a control character"),
        (json!([{ "issuer": "https://x\n", "jwks_url": url }]), "space or a control character"),
        (json!([{ "issuer": "x\u{7f}", "jwks_url": url }]), "space or a control character"),
        (json!([{ "issuer": "x" }]), "jwks_url is needed"),
        (json!([{ "issuer": "x", "jwks_url": "ftp://x" }]), "jwks_url must be"),
        (json!([{ "issuer": "x", "jwks_url": "file://x" }]), "jwks_url must be"),
        (json!([{ "issuer": "x", "jwks_url": url, "algoritms": ["RS256"] }]), "unknown field"),
        (json!([{ "issuer": "x", "jwks_url": url, "algorithms": ["HS256"] }]), "unknown variant"),
        (json!([{ "issuer": "x", "jwks_url": url, "algorithms": ["none"] }]), "unknown variant"),
        (json!([{ "issuer": "x", "jwks_url": url, "algorithms": [] }]), "algorithms must not be empty"),
        (json!([{ "issuer": "x", "jwks_url": url, "audience": "" }]), "audience must not be empty"),
        (json!([{ "issuer": "x", "jwks_url": url, "kind": "admin" }]), "unknown variant"),
        (json!([{ "issuer": "x", "jwks_url": url, "roles": {} }]), "claim"),
        (json!([{ "issuer": "x", "jwks_url": url }, { "issuer": "x", "jwks_url": url }]), "listed twice"),
    ] {
        let error = format!("{:#}", parse(&bad.to_string(), "hedgerow").expect_err("an error"));
        assert!(error.contains(why), "{bad}: {error}");
    }
}

#[test]
fn an_issuer_that_is_written_is_read_as_the_same() {
    let text = json!([{
        "issuer": "x", "jwks_url": "file:///x", "audience": "a", "kind": "service", "typ": [""],
        "roles": { "claim": "sub", "map": { "a": "admin", "b": ["user"] } },
    }]);
    let issuers: Vec<IssuerConfig> = parse(&text.to_string(), "hedgerow").expect("issuers");
    let written = serde_json::to_string(&issuers).expect("JSON");
    assert_eq!(parse(&written, "hedgerow").expect("issuers"), issuers);
}

#[test]
fn only_a_services_token_may_always_name_the_process() {
    let issuer = |name: &str, kind: &str| json!({ "issuer": name, "jwks_url": "file:///x", "audience": "hedgerow", "kind": kind });
    let text = json!([issuer("people", "user"), issuer("cluster", "service")]).to_string();
    let audiences = |process: &str| parse(&text, process).expect("issuers").into_iter().map(|issuer| issuer.audience.0);
    assert_eq!(audiences("inventory").collect::<Vec<_>>(), [vec!["hedgerow"], vec!["hedgerow", "inventory"]]);
    assert_eq!(audiences("hedgerow").collect::<Vec<_>>(), [["hedgerow"], ["hedgerow"]]);
}

async fn is_accepted(verifier: &Verifier, issuer: &str) -> bool {
    let token = token(&claims_with(&json!({ "iss": issuer })));
    matches!(verifier.identify(&headers(&token)).await, Ok(Identity::Caller(_)))
}

#[tokio::test]
async fn a_file_of_issuers_is_read_again_when_it_changes() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("issuers.json");
    let keys = key_file(&key_set([key().jwk()]));
    let list = |issuers: &[&str]| -> Value {
        issuers.iter().map(|issuer| json!({ "issuer": issuer, "jwks_url": keys })).collect()
    };
    let write = |text: &str| fs::write(&path, text).expect("a written file");
    write("[]");
    let args = AuthArgs { auth_issuers: Some(format!("@{}", path.display())), ..AuthArgs::default() };
    let verifier = Verifier::with_pace(&args, &Registry::new(), PACE).expect("a verifier");
    // Whoever names a file means to verify tokens.
    assert_eq!(verifier.mode(), Mode::Required);

    write(&list(&["a", "b"]).to_string());
    eventually("a is accepted", async || is_accepted(&verifier, "a").await).await;
    assert!(is_accepted(&verifier, "b").await);
    assert_eq!(verifier.mode(), Mode::Required);

    write(&list(&["b", "c"]).to_string());
    eventually("c is accepted", async || is_accepted(&verifier, "c").await).await;
    let removed = token(&claims_with(&json!({ "iss": "a" })));
    assert_eq!(verifier.identify(&headers(&removed)).await, invalid(Reason::UnknownIssuer));

    write("[{");
    for _ in 0..10 {
        tokio::time::sleep(PACE.every_local).await;
        assert!(is_accepted(&verifier, "c").await);
    }

    // An empty list does not open the process.
    write("[]");
    eventually("c is refused", async || !is_accepted(&verifier, "c").await).await;
    assert_eq!(verifier.mode(), Mode::Required);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_ends_the_start() {
    let start = |file: &str| {
        let args = AuthArgs { auth_issuers: Some(file.to_owned()), ..AuthArgs::default() };
        Verifier::new(&args, &Registry::new()).err().map(|error| format!("{error:#}")).unwrap_or_default()
    };
    assert!(start("/nowhere/issuers.json").starts_with("cannot read issuers from /nowhere/issuers.json: "));
    assert!(start("/dev/zero").contains("it is not a file"));
    assert!(start("[{]").starts_with("AUTH_ISSUERS is invalid: "));
}
