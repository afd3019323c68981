//! The published issuers, and the key of the issuer.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, header::AUTHORIZATION};
use identity::{
    AuthArgs, Identity, Kind, Mode, Verifier,
    sign::{SigningKey, key_set},
};
use serde_json::json;

use super::*;
use crate::{
    controller::trust,
    manifests::{Authentication, Issuer},
};

const TRUST: &str = "/api/v1/namespaces/default/configmaps/hedgerow-trust";
const KEK: &str = "/api/v1/namespaces/default/secrets/hedgerow-issuer";
const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/openid/v1/jwks";

fn authentication() -> Authentication {
    let issuer = Issuer { service: "orders".to_owned(), url: "https://shop.example".to_owned(), port: 8080 };
    Authentication { mode: Mode::Required, issuer: Some(issuer) }
}

fn fixture(further: &Value) -> Fixture {
    let mut settings = settings();
    settings.inputs.authentication = Some(authentication());
    settings.issuers = identity::parse_issuers(&further.to_string(), "hedgerow").expect("issuers");
    let fixture = Fixture::with(plain(), settings);
    fixture.server.put(DISCOVERY, json!({ "issuer": "https://kubernetes.default.svc" }));
    set_keys(&fixture, "first");
    fixture
}

fn set_keys(fixture: &Fixture, kid: &str) {
    fixture.server.put(KEYS, json!({ "keys": [{ "kty": "RSA", "kid": kid }] }));
}

async fn publish(fixture: &Fixture) -> Result<(), super::super::error::Error> {
    trust::publish(&fixture.context, &authentication()).await
}

fn file(fixture: &Fixture, name: &str) -> String {
    fixture.server.get(TRUST).expect("a ConfigMap")["data"][name].as_str().expect("a file").to_owned()
}

#[tokio::test]
async fn services_trust_the_issuer_the_cluster_and_those_configured() {
    let further =
        json!([{ "issuer": "https://login.example", "roles": { "claim": "groups", "map": { "ops": "admin" } } }]);
    let mut fixture = fixture(&further);
    fixture.apply(json!({ "image": "localhost/orders:1", "ports": { "http": 8081 } }), 2);
    fixture.reconcile().await;
    publish(&fixture).await.expect("it is published");
    let issuers = identity::parse_issuers(&file(&fixture, "issuers.json"), "inventory").expect("issuers");
    let [own, cluster, further] = &issuers[..] else { panic!("{issuers:?}") };
    assert_eq!((own.issuer.as_str(), &own.audience.0[..]), ("https://shop.example", &["hedgerow".to_owned()][..]));
    assert_eq!(own.jwks_url.as_deref(), Some("http://orders:8081/.well-known/jwks.json"));
    assert_eq!((cluster.issuer.as_str(), cluster.kind), ("https://kubernetes.default.svc", Kind::Service));
    assert_eq!(cluster.audience.0, ["hedgerow", "inventory"]);
    let roles = cluster.roles.as_ref().and_then(|roles| roles.map.as_ref()).expect("roles");
    assert_eq!(roles["system:serviceaccount:default:hedgerow-admin"].0, ["admin"]);
    assert_eq!(roles.len(), 1);
    assert_eq!(
        (further.issuer.as_str(), &further.audience.0[..]),
        ("https://login.example", &["hedgerow".to_owned()][..])
    );
    let keys = file(&fixture, "jwks.json");
    assert!(keys.contains("first") && cluster.jwks_url.as_deref().is_some_and(|url| url.ends_with("/jwks.json")));
}

/// Signs a token as the cluster does for a service account.
fn token(key: &SigningKey, account: &str, audience: &str) -> HeaderMap {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + 600;
    let claims = json!({
        "iss": "https://kubernetes.default.svc", "sub": format!("system:serviceaccount:default:{account}"),
        "aud": [audience], "exp": expires,
    });
    let token = key.sign(&claims, "JWT").expect("a token");
    [(AUTHORIZATION, format!("Bearer {token}").parse().expect("a header"))].into_iter().collect()
}

#[tokio::test]
async fn a_service_accepts_tokens_of_the_cluster_for_itself_and_of_admins() {
    let (fixture, key) = (fixture(&json!([])), SigningKey::generate().expect("a key"));
    fixture.server.put(KEYS, key_set([key.jwk()]));
    publish(&fixture).await.expect("it is published");
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["issuers.json", "jwks.json"] {
        let path = folder.path().to_str().expect("a path");
        let text = file(&fixture, name).replace(crate::manifests::TRUST_FOLDER, path);
        std::fs::write(folder.path().join(name), text).expect("the file is written");
    }
    let issuers = folder.path().join("issuers.json").display().to_string();
    let args = AuthArgs { auth: None, auth_issuers: Some(issuers), auth_audience: "inventory".to_owned() };
    let verifier = Verifier::new(&args, &prometheus::Registry::new()).expect("a verifier");
    let caller = async |account: &str, audience: &str| match verifier.identify(&token(&key, account, audience)).await {
        Ok(Identity::Caller(caller)) => Some((caller.subject().to_owned(), caller.is_admin())),
        _ => None,
    };
    let account = |name: &str| format!("system:serviceaccount:default:{name}");
    assert_eq!(caller("users", "inventory").await, Some((account("users"), false)));
    assert_eq!(caller("users", "payment").await, None, "it is for another service");
    assert_eq!(caller("hedgerow-admin", "hedgerow").await, Some((account("hedgerow-admin"), true)));
}

#[tokio::test]
async fn an_issuer_that_is_configured_replaces_our_own_entry() {
    let further = json!([{ "issuer": "https://kubernetes.default.svc", "kind": "service" }]);
    let fixture = fixture(&further);
    publish(&fixture).await.expect("it is published");
    let issuers = identity::parse_issuers(&file(&fixture, "issuers.json"), "hedgerow").expect("none is listed twice");
    assert_eq!(issuers.len(), 2);
}

#[tokio::test]
async fn changed_keys_are_published_and_unchanged_ones_are_not_written() {
    let fixture = fixture(&json!([]));
    publish(&fixture).await.expect("it is published");
    drop(fixture.server.take_writes());
    publish(&fixture).await.expect("nothing to do");
    assert_eq!(fixture.server.take_writes(), []);
    set_keys(&fixture, "second");
    publish(&fixture).await.expect("it is published");
    assert!(file(&fixture, "jwks.json").contains("second"));
    // Someone takes a file away.
    let mut edited = fixture.server.get(TRUST).expect("a ConfigMap");
    edited["data"] = json!({ "issuers.json": "[]" });
    fixture.server.put(TRUST, edited);
    publish(&fixture).await.expect("it is published");
    assert!(file(&fixture, "jwks.json").contains("second") && file(&fixture, "issuers.json").contains("shop.example"));
}

#[tokio::test]
async fn the_key_of_the_issuer_is_created_once() {
    let fixture = fixture(&json!([]));
    let (one, two) = tokio::join!(fixture.context.secrets.ensure_kek(), fixture.context.secrets.ensure_kek());
    one.and(two).expect("a Secret, although neither found one");
    let secret = fixture.server.get(KEK).expect("a Secret");
    let key: k8s_openapi::ByteString = serde_json::from_value(secret["data"]["kek"].clone()).expect("bytes");
    assert_eq!(key.0.len(), 32);
    assert_eq!(secret["metadata"]["ownerReferences"], Value::Null, "it outlives the operator, like the keys");
    publish(&fixture).await.expect("it is published");
    assert_eq!(fixture.server.get(KEK), Some(secret), "it is not overwritten");
}

#[tokio::test]
async fn pods_wait_until_they_can_know_whom_to_trust() {
    let mut fixture = fixture(&json!([]));
    fixture.server.delete(KEYS);
    let error = publish(&fixture).await.expect_err("no keys");
    assert!(error.to_string().contains("cannot read the keys of the cluster"), "{error}");
    let status = fixture.reconcile().await;
    let ready = condition(&status, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("TrustMissing")), "{status:#}");
    assert!(fixture.server.get(DEPLOYMENT).is_none() && fixture.server.get(SERVICE).is_some());

    set_keys(&fixture, "first");
    publish(&fixture).await.expect("it is published");
    fixture.reconcile().await;
    assert!(fixture.server.get(DEPLOYMENT).is_some());
    // What is published stays valid while the keys cannot be read.
    fixture.server.put(KEYS, json!({ "keys": [] }));
    assert!(publish(&fixture).await.is_err());
    fixture.apply(json!({ "image": "localhost/orders:2", "scaling": { "min": 3, "max": 3 } }), 2);
    fixture.reconcile().await;
    let image = fixture.server.get(DEPLOYMENT).expect("a Deployment");
    assert_eq!(image["spec"]["template"]["spec"]["containers"][0]["image"], "localhost/orders:2");
}

#[tokio::test]
async fn no_service_gets_the_key_of_the_issuer_by_its_variables() {
    let secret = json!({ "secretKeyRef": { "name": "hedgerow-issuer", "key": "kek" } });
    let mut fixture =
        Fixture::new(json!({ "image": "localhost/orders:1", "env": [{ "name": "KEK", "valueFrom": secret }] }));
    let status = fixture.reconcile().await;
    let stalled = condition(&status, "Stalled");
    assert_eq!((&stalled["status"], &stalled["reason"]), (&json!("True"), &json!("SecretRefused")), "{status:#}");
    assert!(fixture.server.get(DEPLOYMENT).is_none());
}
