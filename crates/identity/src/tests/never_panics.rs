//! Whatever a client sends, `identify` returns.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue, header};
use proptest::prelude::*;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use super::support::*;
use crate::{Identity, Verifier};

static VERIFIER: LazyLock<(Runtime, Verifier)> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let verifier = runtime.block_on(async {
        let verifier = verifier_with(&json!({ "roles": { "claim": "/realm_access/roles" } }));
        accepted(&verifier, &token(&claims())).await;
        verifier
    });
    (runtime, verifier)
});

/// Whether these values of `Authorization` make a caller.
fn identifies(values: &[Vec<u8>]) -> bool {
    let mut headers = HeaderMap::new();
    for value in values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok()) {
        headers.append(header::AUTHORIZATION, value);
    }
    let (runtime, verifier) = &*VERIFIER;
    matches!(runtime.block_on(verifier.identify(&headers)), Ok(Identity::Caller(_)))
}

proptest! {
    #[test]
    fn any_header_gets_a_result(values in prop::collection::vec(any::<Vec<u8>>(), 0..3), bearer: bool) {
        let prefix: &[u8] = if bearer { b"Bearer " } else { b"" };
        let values: Vec<_> = values.into_iter().map(|value| [prefix, &value].concat()).collect();
        prop_assert!(!identifies(&values));
    }

    #[test]
    fn any_header_and_claims_that_are_not_signed_are_refused(header: String, claims: String, signature: Vec<u8>) {
        let token = format!("Bearer {}.{}.{}", encode(header), encode(claims), encode(signature));
        prop_assert!(!identifies(&[token.into_bytes()]));
    }

    #[test]
    fn signed_nonsense_gets_a_result(name in "iss|sub|aud|exp|nbf|iat|sid|client_id|realm_access|scope", value in json_value()) {
        let claims = claims_with(&json!({ name: value }));
        identifies(&[format!("Bearer {}", token(&claims)).into_bytes()]);
    }

    #[test]
    fn a_changed_token_is_refused(position: prop::sample::Index, byte in 0x20_u8..0x7f) {
        let valid = token(&claims()).into_bytes();
        let mut changed = valid.clone();
        let position = position.index(valid.len());
        changed[position] = byte;
        prop_assume!(changed != valid);
        prop_assert!(!identifies(&[[b"Bearer ".as_slice(), &changed].concat()]));
    }
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        any::<u64>().prop_map(|value| json!(value)),
        any::<f64>().prop_map(|value| json!(value)),
        ".{0,20}".prop_map(|value| json!(value)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| json!(list)),
            prop::collection::hash_map("roles|a|.{0,3}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}
