//! Tokens that are accepted, what becomes of their claims, and how refusals look.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PSS_SHA256, RsaKeyPair},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prometheus::Registry;
use runtime::Problem;
use serde_json::{Value, json};

use super::support::*;
use crate::{AuthArgs, Identity, Kind, Mode, Reason, Refusal, Scopes, Verifier, memory, sign::key_set};

#[tokio::test]
async fn a_caller_is_what_the_claims_say() {
    let caller = accepted(&verifier_with(&json!({})), &token(&claims())).await;
    assert_eq!((caller.issuer(), caller.subject(), caller.client()), (ISSUER, "ada", Some("web")));
    assert_eq!(caller.session().expect("a session").to_string(), "01890f5e-7e44-7c5c-8a43-5d9a4e0f6f5e");
    assert_eq!((caller.kind(), caller.is_admin()), (Kind::User, false));
    // The scopes of the role are added.
    assert_eq!(caller.scopes().to_string(), "reservations:write stock:read");
    assert!(caller.has_scope("stock:read") && !caller.has_scope("stock:") && !caller.has_scope("inventory:write"));
}

#[tokio::test]
async fn clocks_may_differ_by_30_seconds() {
    for changes in [json!({ "exp": now() - 20 }), json!({ "nbf": now() + 20 }), json!({ "iat": now() + 20 })] {
        assert!(verify(&token(&claims_with(&changes))).await.is_ok(), "{changes}");
    }
    // RFC 7519 allows fractions.
    for exp in [json!(32_503_680_000.5), json!(1e18)] {
        assert!(verify(&token(&claims_with(&json!({ "exp": exp })))).await.is_ok(), "{exp}");
    }
}

#[tokio::test]
async fn types_and_audiences_have_several_forms() {
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"] {
        assert!(verify(&key().sign(&claims(), typ).expect("a token")).await.is_ok(), "{typ}");
    }
    assert!(verify(&token(&claims_with(&json!({ "aud": ["x", "hedgerow"] })))).await.is_ok());
    let verifier = verifier_with(&json!({ "audience": ["a", "b"] }));
    assert_eq!(accepted(&verifier, &token(&claims_with(&json!({ "aud": "b" })))).await.subject(), "ada");
    let refused = verifier.identify(&headers(&token(&claims()))).await;
    assert_eq!(refused, invalid(Reason::WrongAudience));
}

#[tokio::test]
async fn the_scheme_is_case_insensitive_and_others_are_ignored() {
    let verifier = verifier_with(&json!({}));
    let identify = async |value: String| {
        let value = HeaderValue::from_str(&value).expect("a header value");
        verifier.identify(&HeaderMap::from_iter([(header::AUTHORIZATION, value)])).await
    };
    let token = token(&claims());
    for scheme in ["Bearer", "bearer", "BEARER", "Bearer  "] {
        assert!(matches!(identify(format!("{scheme} {token}")).await, Ok(Identity::Caller(_))), "{scheme}");
    }
    for other in ["Basic YTpi".to_owned(), format!("Bearerx {token}"), format!("DPoP {token}"), token.clone()] {
        assert_eq!(identify(other).await, Ok(Identity::Anonymous));
    }
    assert_eq!(verifier.identify(&HeaderMap::new()).await, Ok(Identity::Anonymous));
    assert_eq!(identify("Bearer".to_owned()).await, invalid(Reason::Malformed));
}

/// Signs a token with a key of another kind and verifies it.
async fn accepts(jwk: Value, algorithm: &str, sign: impl Fn(&[u8]) -> Vec<u8>) {
    let verifier = verifier(&json!([{ "issuer": ISSUER, "jwks_url": key_file(&key_set([jwk])) }]));
    let header = json!({ "alg": algorithm, "kid": "k", "typ": "at+jwt" }).to_string();
    let message = format!("{}.{}", encode(header), encode(claims().to_string()));
    let token = format!("{message}.{}", encode(sign(message.as_bytes())));
    assert_eq!(accepted(&verifier, &token).await.subject(), "ada");
}

#[tokio::test]
async fn four_algorithms_are_accepted() {
    let random = SystemRandom::new();
    let pair = RsaKeyPair::from_pkcs8(&key().to_pkcs8().expect("a document")).expect("a pair");
    let mut jwk = key().jwk();
    (jwk["alg"], jwk["kid"]) = (json!("PS256"), json!("k"));
    accepts(jwk, "PS256", |message| {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PSS_SHA256, &random, message, &mut signature).expect("a signature");
        signature
    })
    .await;
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a pair");
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "k", "x": encode(x), "y": encode(y) });
    accepts(jwk, "ES256", |message| pair.sign(&random, message).expect("a signature").as_ref().to_vec()).await;
    let pair = Ed25519KeyPair::generate().expect("a pair");
    for name in ["EdDSA", "Ed25519"] {
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "alg": name, "x": encode(pair.public_key()) });
        accepts(jwk, name, |message| pair.sign(message).as_ref().to_vec()).await;
    }
}

#[tokio::test]
async fn claims_of_other_issuers_are_mapped() {
    let verifier = verifier_with(&json!({
        "typ": ["JWT", ""], "accept_id_tokens": true,
        "scopes": { "claim": "scp", "map": { "Stock.Write": "inventory:write", "All": ["a", "b"] } },
        "roles": { "claim": "/realm_access/roles", "map": { "shop-admins": "admin" } },
    }));
    let accepted = async |changes: Value| {
        let token = key().sign(&claims_with(&changes), "JWT").expect("a token");
        accepted(&verifier, &token).await
    };
    let caller = accepted(json!({ "scp": ["All", "Stock.Write", "other", 7], "at_hash": "x" })).await;
    // Neither `scope` nor `roles` count, nor what the map does not list.
    assert_eq!(caller.scopes().to_string(), "a b inventory:write");
    assert_eq!(caller.roles().count(), 0);
    let caller = accepted(json!({ "realm_access": { "roles": ["x", "shop-admins", "admin"] } })).await;
    assert!(caller.is_admin() && caller.has_scope("users:write") && caller.has_scope("orders:write"));
    assert_eq!(caller.roles().collect::<Vec<_>>(), ["admin"]);
}

#[tokio::test]
async fn a_service_account_may_be_an_admin() {
    let verifier = verifier_with(&json!({
        "kind": "service", "audience": ["hedgerow", "inventory"],
        "roles": { "claim": "sub", "map": { "system:serviceaccount:shop:hedgerow-admin": "admin" } },
    }));
    let untyped = json!({ "alg": "RS256", "kid": key().kid() }).to_string();
    let token = |name: &str| {
        let subject = format!("system:serviceaccount:shop:{name}");
        // What the token says of its own scopes and roles does not count.
        let claims = claims_with(&json!({ "sub": subject, "aud": ["inventory"], "roles": ["admin"] }));
        token_of_text(&untyped, &claims.to_string())
    };
    let caller = accepted(&verifier, &token("orders")).await;
    assert_eq!(caller.service_account(), Some(("shop", "orders")));
    assert!(!caller.is_admin() && caller.scopes().is_empty());
    assert!(accepted(&verifier, &token("hedgerow-admin")).await.is_admin());
}

#[tokio::test]
async fn a_remembered_token_is_the_same_caller_until_it_expires() {
    let verifier = verifier_with(&json!({}));
    let token = token(&claims());
    let first = accepted(&verifier, &token).await;
    let Some(Ok(Identity::Caller(again))) = verifier.try_identify(&headers(&token)) else { panic!("not accepted") };
    assert_eq!(*again, first);
    // On another verifier, even of the same thread, nothing is remembered.
    let other = verifier_with(&json!({ "audience": "other" }));
    assert_eq!(other.identify(&headers(&token)).await, invalid(Reason::WrongAudience));
    // Its last seconds are those of the clocks that may differ.
    let late = key().sign(&claims_with(&json!({ "exp": now() - 29 })), "at+jwt").expect("a token");
    assert_eq!(accepted(&verifier, &late).await.subject(), "ada");
    eventually("expired", async || verifier.identify(&headers(&late)).await == invalid(Reason::Expired)).await;
}

#[tokio::test]
async fn at_most_4096_tokens_are_remembered() {
    let verifier = verifier_with(&json!({}));
    let token = token(&claims());
    let caller = accepted(&verifier, &token).await;
    memory::fill_for_test(10_000, &std::sync::Arc::new(caller));
    assert!(memory::len_for_test() <= 4_096, "{}", memory::len_for_test());
}

#[test]
fn refusals_follow_rfc_6750() {
    let shown = |refusal: Refusal| {
        let response = Problem::from(refusal).into_http();
        let challenge = response.headers().get(header::WWW_AUTHENTICATE);
        let challenge = challenge.map(|value| value.to_str().expect("text").to_owned());
        let body: Value = serde_json::from_slice(response.body()).expect("a body");
        (response.status().as_u16(), challenge.unwrap_or_default(), body)
    };
    let (status, challenge, body) = shown(Refusal::NoToken);
    assert_eq!((status, challenge.as_str(), &body["type"]), (401, "Bearer", &json!("about:blank")));
    let (status, challenge, body) = shown(Refusal::InvalidToken(Reason::Expired));
    assert_eq!((status, challenge.as_str()), (401, r#"Bearer error="invalid_token""#));
    assert_eq!(
        (&body["type"], &body["reason"]),
        (&json!("https://hedgerow.dev/problems/invalid-token"), &json!("expired"))
    );
    let (status, challenge, body) = shown(Refusal::insufficient_scope("b a"));
    assert_eq!((status, challenge.as_str()), (403, r#"Bearer error="insufficient_scope", scope="a b""#));
    assert_eq!(
        (&body["type"], &body["scope"]),
        (&json!("https://hedgerow.dev/problems/insufficient-scope"), &json!("a b"))
    );
    assert_eq!(shown(Refusal::SeveralTokens).0, 400);
    assert_eq!((shown(Refusal::KeysUnavailable).0, shown(Refusal::KeysUnavailable).1), (503, String::new()));
    assert_eq!(Refusal::Forbidden.status(), StatusCode::FORBIDDEN);
    // A scope cannot break out of the header.
    assert!(Refusal::InsufficientScope(Scopes::parse("a\"\r\nx: y")).challenge().is_some());
}

#[tokio::test]
async fn outcomes_are_counted_by_issuer() {
    let registry = Registry::new();
    let keys = key_file(&key_set([key().jwk()]));
    let issuers = json!([{ "issuer": ISSUER, "jwks_url": keys }]).to_string();
    let args = AuthArgs { auth_issuers: Some(issuers), ..AuthArgs::default() };
    let verifier = Verifier::with_pace(&args, &registry, PACE).expect("a verifier");
    let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("metrics");
    assert!(text().contains(&format!("auth_jwks_age_seconds{{issuer=\"{ISSUER}\"}} ")), "{}", text());
    for token in [token(&claims()), token(&claims_with(&json!({ "iss": "https://x" }))), "x".to_owned()] {
        for _ in 0..2 {
            let _ = verifier.identify(&headers(&token)).await;
        }
    }
    let _ = verifier.identify(&headers(&token(&claims_with(&json!({ "aud": "x" }))))).await;
    for (issuer, outcome, count) in [
        (ISSUER, "accepted", 1),
        (ISSUER, "remembered", 1),
        (ISSUER, "wrong-audience", 1),
        ("unknown", "unknown-issuer", 2),
        ("unknown", "malformed", 2),
    ] {
        let line = format!("auth_tokens_verified_total{{issuer=\"{issuer}\",outcome=\"{outcome}\"}} {count}\n");
        assert!(text().contains(&line), "{line} in {}", text());
    }
    // A name that a token invents is no label.
    assert!(!text().contains("https://x"));
}

#[tokio::test]
async fn the_mode_follows_the_issuers_unless_it_is_set() {
    let mode = |auth, issuers: Option<&str>| {
        let args = AuthArgs { auth, auth_issuers: issuers.map(str::to_owned), ..AuthArgs::default() };
        Verifier::new(&args, &Registry::new()).map(|verifier| verifier.mode()).map_err(|error| format!("{error:#}"))
    };
    let issuers = json!([{ "issuer": ISSUER, "jwks_url": key_file(&key_set([key().jwk()])) }]).to_string();
    assert_eq!(mode(None, None), Ok(Mode::Open));
    assert_eq!(mode(None, Some("")), Ok(Mode::Open));
    assert_eq!(mode(None, Some(&issuers)), Ok(Mode::Required));
    assert_eq!(mode(Some(Mode::Open), Some(&issuers)), Ok(Mode::Open));
    // Every request would be refused.
    assert!(mode(Some(Mode::Required), None).expect_err("an error").contains("AUTH_ISSUERS names no issuer"));
    // A bad token is refused even where none is needed.
    let open = Verifier::new(&AuthArgs::default(), &Registry::new()).expect("a verifier");
    assert_eq!(open.identify(&headers(&token(&claims()))).await, invalid(Reason::UnknownIssuer));
}
