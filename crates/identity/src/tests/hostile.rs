//! Tokens that must be refused.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{RSA_PSS_SHA256, RsaKeyPair},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::support::*;
use crate::{
    Identity,
    Reason::{self, *},
    Refusal, Verifier,
    sign::{ACCESS_TOKEN, key_set},
    token::MAX_TOKEN,
};

#[track_caller]
fn assert_refused(result: &Result<Identity, Refusal>, reason: Reason, what: &str) {
    assert_eq!(result, &invalid(reason), "{what}");
}

#[tokio::test]
async fn a_token_without_signature_is_refused() {
    for name in ["none", "None", "NONE", ""] {
        let header = header_with(&json!({ "alg": name }));
        let unsigned = format!("{}.{}.", encode(&header), encode(claims().to_string()));
        assert_refused(&verify(&unsigned).await, WrongAlgorithm, name);
        assert_refused(&verify(&token_of_text(&header, &claims().to_string())).await, WrongAlgorithm, name);
    }
    let signed = token(&claims());
    let (message, _) = signed.rsplit_once('.').expect("three parts");
    assert_refused(&verify(&format!("{message}.")).await, WrongSignature, "an empty signature");
}

#[tokio::test]
async fn the_public_key_is_no_secret() {
    let jwk = key().jwk();
    let modulus = jwk["n"].as_str().expect("a modulus").to_owned();
    for secret in [modulus.clone(), jwk.to_string(), key_set([jwk]).to_string()] {
        let message = format!("{}.{}", encode(header_with(&json!({ "alg": "HS256" }))), encode(claims().to_string()));
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message.as_bytes());
        assert_refused(&verify(&format!("{message}.{}", encode(mac))).await, WrongAlgorithm, "HS256");
    }
}

#[tokio::test]
async fn the_key_decides_about_the_algorithm() {
    // A right PS256 signature with a key that is for RS256.
    let pair = RsaKeyPair::from_pkcs8(&key().to_pkcs8().expect("a document")).expect("a pair");
    let message = format!("{}.{}", encode(header_with(&json!({ "alg": "PS256" }))), encode(claims().to_string()));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PSS_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).expect("a signature");
    assert_refused(&verify(&format!("{message}.{}", encode(signature))).await, WrongAlgorithm, "PS256");
    for name in ["ES256", "EdDSA", "RS384", "RS512", "rs256"] {
        let token = token_of_text(&header_with(&json!({ "alg": name })), &claims().to_string());
        assert_refused(&verify(&token).await, WrongAlgorithm, name);
    }
}

#[tokio::test]
async fn keys_in_the_header_are_not_used() {
    let claims = serde_json::to_vec(&claims()).expect("claims");
    for (member, value) in [("jwk", other_key().jwk()), ("jku", json!("http://127.0.0.1:1/keys"))] {
        let header = header_with(&json!({ member: value }));
        let token = other_key().sign_parts(&header, &claims).expect("a token");
        assert_refused(&verify(&token).await, WrongSignature, member);
    }
    let token = other_key().sign_parts(r#"{"alg":"RS256","kid":"../../x","typ":"at+jwt"}"#, &claims).expect("a token");
    assert_refused(&verify(&token).await, UnknownKey, "a kid that looks like a path");
}

#[tokio::test]
async fn any_changed_bit_is_noticed() {
    let signed = token(&claims());
    let verifier = verifier_with(&json!({}));
    for index in (0..signed.len()).step_by(7) {
        let mut changed = signed.clone().into_bytes();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("ASCII");
        assert!(verifier.identify(&headers(&changed)).await.is_err(), "byte {index}");
    }
}

#[tokio::test]
async fn critical_extensions_are_refused() {
    for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!(null)] {
        let header = header_with(&json!({ "crit": crit, "b64": false }));
        assert_refused(&verify(&token_of_text(&header, &claims().to_string())).await, CriticalExtension, "crit");
    }
}

#[tokio::test]
async fn times_are_checked() {
    for (changes, reason) in [
        (json!({ "exp": null }), InvalidClaims),
        (json!({ "exp": (now() + 600).to_string() }), InvalidClaims),
        (json!({ "exp": [now() + 600] }), InvalidClaims),
        (json!({ "exp": true }), InvalidClaims),
        (json!({ "exp": -1 }), InvalidClaims),
        (json!({ "exp": now() - 31 }), Expired),
        (json!({ "exp": 0 }), Expired),
        (json!({ "nbf": now() + 60 }), NotYetValid),
        (json!({ "nbf": "0" }), InvalidClaims),
        (json!({ "iat": now() + 60 }), NotYetValid),
        (json!({ "iat": {} }), InvalidClaims),
    ] {
        assert_refused(&verify(&token(&claims_with(&changes))).await, reason, &changes.to_string());
    }
    let mut text = claims().to_string();
    text = text.replacen(r#""exp":"#, r#""exp":1e999,"x":"#, 1);
    assert_refused(&verify(&token_of_text(&header_with(&json!({})), &text)).await, Malformed, "an infinite exp");
}

#[tokio::test]
async fn the_issuer_and_the_audience_are_exact() {
    for (changes, reason) in [
        (json!({ "iss": null }), InvalidClaims),
        (json!({ "iss": [ISSUER] }), InvalidClaims),
        (json!({ "iss": format!("{ISSUER}/") }), UnknownIssuer),
        (json!({ "iss": ISSUER.to_uppercase() }), UnknownIssuer),
        (json!({ "iss": "" }), UnknownIssuer),
        (json!({ "aud": null }), WrongAudience),
        (json!({ "aud": "Hedgerow" }), WrongAudience),
        (json!({ "aud": "hedgerow2" }), WrongAudience),
        (json!({ "aud": [] }), WrongAudience),
        (json!({ "aud": ["a", "b"] }), WrongAudience),
        (json!({ "aud": ["hedgerow", 1] }), InvalidClaims),
        (json!({ "aud": { "hedgerow": 1 } }), InvalidClaims),
        (json!({ "sub": null }), InvalidClaims),
        (json!({ "sub": "" }), InvalidClaims),
        (json!({ "sub": "a\nb" }), InvalidClaims),
        (json!({ "sub": "a".repeat(256) }), InvalidClaims),
        (json!({ "sub": 1 }), InvalidClaims),
    ] {
        assert_refused(&verify(&token(&claims_with(&changes))).await, reason, &changes.to_string());
    }
}

#[tokio::test]
async fn an_id_token_is_no_access_token() {
    let typed = |typ: &str| key().sign(&claims(), typ).expect("a token");
    for typ in ["JWT", "", "id+jwt", "logout+jwt", "application/jwt"] {
        assert_refused(&verify(&typed(typ)).await, WrongType, typ);
    }
    let untyped = json!({ "alg": "RS256", "kid": key().kid() }).to_string();
    assert_refused(&verify(&token_of_text(&untyped, &claims().to_string())).await, WrongType, "no type");
    // Of an issuer that types both alike, the claims tell them apart.
    let verifier = verifier_with(&json!({ "typ": ["JWT"] }));
    for name in ["nonce", "at_hash", "c_hash", "s_hash", "events"] {
        let token = key().sign(&claims_with(&json!({ name: "x" })), "JWT").expect("a token");
        assert_refused(&verifier.identify(&headers(&token)).await, WrongType, name);
    }
    assert_eq!(accepted(&verifier, &typed("JWT")).await.subject(), "ada");
}

#[tokio::test]
async fn parts_are_strict() {
    let signed = token(&claims());
    let [header, payload, signature] = signed.split('.').collect::<Vec<_>>().try_into().expect("three parts");
    for bad in [
        String::new(),
        "x".to_owned(),
        "..".to_owned(),
        format!("{header}.{payload}"),
        format!("{signed}."),
        format!("{signed}.{signature}"),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}.{signature}=="),
        format!("{header}.{payload}.{} {}", &signature[..9], &signature[9..]),
        format!("{header}.{payload}.+/{}", &signature[2..]),
        format!("{header}.{payload}.é"),
        format!("{signed}, Bearer {signed}"),
        format!("{}.{payload}.{signature}", encode("[]")),
        format!("{}.{payload}.{signature}", encode("\"RS256\"")),
        format!("{}.{payload}.{signature}", encode("{\"alg\":\"RS256\"} x")),
        format!("{}.{payload}.{signature}", encode(b"{\"alg\":\"\xff\"}")),
        format!("{header}.{}.{signature}", encode("{".repeat(2000))),
        format!("{header}.{}.{signature}", encode(format!("{{\"x\":{}", "[".repeat(2000)))),
    ] {
        assert_refused(&verify(&bad).await, Malformed, &bad);
    }
    // The last character of the signature has stray bits: there is only one way to write it.
    let last = signature.chars().last().expect("a character");
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet.chars().nth(alphabet.find(last).expect("in the alphabet") + 1).expect("the next");
    let stray = format!("{header}.{payload}.{}{next}", &signature[..signature.len() - 1]);
    assert_refused(&verify(&stray).await, Malformed, "stray bits");
}

#[tokio::test]
async fn a_member_that_appears_twice_is_refused() {
    let header = format!(r#"{{"alg":"none",{}"#, &header_with(&json!({}))[1..]);
    assert_refused(&verify(&token_of_text(&header, &claims().to_string())).await, Malformed, "alg");
    for twice in [r#""exp":1"#, r#""iss":"x""#, r#""aud":"x""#, r#""sub":"x""#, r#""scope":"x""#, r#""roles":"admin""#]
    {
        let claims = format!("{{{twice},{}", &claims().to_string()[1..]);
        assert_refused(&verify(&token_of_text(&header_with(&json!({})), &claims)).await, InvalidClaims, twice);
    }
}

#[tokio::test]
async fn a_large_token_is_refused_before_it_is_decoded() {
    for size in [MAX_TOKEN + 1, 1 << 20] {
        assert_refused(&verify(&"A".repeat(size)).await, TooLarge, "large");
    }
    assert_refused(&verify(&"A".repeat(MAX_TOKEN)).await, Malformed, "as large as allowed");
    let filled = token(&claims_with(&json!({ "x": "y".repeat(5_000) })));
    assert!(verify(&filled).await.is_ok(), "{} bytes", filled.len());
}

#[tokio::test]
async fn two_authorization_headers_are_400() {
    let verifier = verifier_with(&json!({}));
    let mut two = headers(&token(&claims()));
    two.append(header::AUTHORIZATION, HeaderValue::from_static("Basic YTpi"));
    let refusal = verifier.identify(&two).await.expect_err("a refusal");
    assert_eq!((&refusal, refusal.status()), (&Refusal::SeveralTokens, StatusCode::BAD_REQUEST));
}

#[tokio::test]
async fn a_token_without_key_id_needs_a_single_key() {
    let header = r#"{"alg":"RS256","typ":"at+jwt"}"#;
    let token = token_of_text(header, &claims().to_string());
    assert!(verify(&token).await.is_ok());
    let keys = key_file(&key_set([key().jwk(), other_key().jwk()]));
    let verifier = verifier(&json!([{ "issuer": ISSUER, "jwks_url": keys }]));
    assert_refused(&verifier.identify(&headers(&token)).await, UnknownKey, "two keys");
}

#[tokio::test]
async fn one_issuer_does_not_sign_for_another() {
    let keys = |key: &crate::sign::SigningKey| key_file(&key_set([key.jwk()]));
    let verifier: Verifier = verifier(&json!([
        { "issuer": ISSUER, "jwks_url": keys(key()) },
        { "issuer": "https://other.example", "jwks_url": keys(other_key()) },
    ]));
    let forged = other_key().sign(&claims(), ACCESS_TOKEN).expect("a token");
    assert_refused(&verifier.identify(&headers(&forged)).await, UnknownKey, "another issuer's key");
    let header = header_with(&json!({}));
    let forged = other_key().sign_parts(&header, claims().to_string().as_bytes()).expect("a token");
    assert_refused(&verifier.identify(&headers(&forged)).await, WrongSignature, "with the issuer's key id");
}
