//! What routes require is in the document.

use super::*;
use crate::auth::Access;

const BEARER: &str = "bearer";

/// The security requirements of operations with and without their own, merged with what their route requires.
fn requirements(auth: &Value, default_mode: AuthMode, scheme: &Value) -> (Value, Value) {
    let access = std::sync::Arc::new(Access::new(Some(auth)));
    let services = [Service { access, ..service("a", &["/a"]) }];
    let paths = json!({
        "/a": {
            "get": {},
            "put": {"security": []},
            "post": {"security": [{"login": ["own"]}, {}]},
        },
        "/a/public": {"get": {}},
    });
    let mut document = document(&paths, &json!({}));
    document["components"]["securitySchemes"] = json!({"login": scheme});
    let merged = super::super::merge(&services, [Ok(text(document))], default_mode);
    let merged: Value = serde_json::from_str(&merged).expect("JSON");
    assert_eq!(merged["x-hedgerow-unavailable"], json!([]));
    assert_references_resolve(&merged, &merged);
    let of = |path: &str, method: &str| merged["paths"][path][method]["security"].clone();
    let all = json!([of("/a", "get"), of("/a", "put"), of("/a", "post"), of("/a/public", "get")]);
    (all, merged["components"]["securitySchemes"].clone())
}

#[test]
fn each_operation_says_what_its_route_requires() {
    let api_key = json!({"type": "apiKey", "in": "header", "name": "x-key"});
    let oauth = json!({"type": "oauth2", "flows": {}});
    let auth = json!({ "rules": [
        { "paths": ["/a/public"], "mode": "none" },
        { "methods": ["PUT"], "mode": "optional" },
        { "methods": ["POST"], "scopes": ["w"] },
    ]});
    for (scheme, default_mode, expected) in [
        (
            &api_key,
            AuthMode::Required,
            json!([[{BEARER: []}], [], [{"login": ["own"], BEARER: ["w"]}, {BEARER: ["w"]}], null]),
        ),
        (&oauth, AuthMode::Required, json!([[{BEARER: []}], [], [{"login": ["own", "w"]}, {BEARER: ["w"]}], null])),
        (&api_key, AuthMode::Optional, json!([[{}, {BEARER: []}], [], [{"login": ["own"]}, {}], null])),
        (&api_key, AuthMode::None, json!([null, [], [{"login": ["own"]}, {}], null])),
    ] {
        assert_eq!(requirements(&auth, default_mode, scheme).0, expected, "{scheme} {default_mode:?}");
    }
}

#[test]
fn the_scheme_of_tokens_is_added_once_and_only_if_needed() {
    let api_key = json!({"type": "apiKey", "in": "header", "name": "x-key"});
    let (_, schemes) = requirements(&json!({ "mode": "required" }), AuthMode::None, &api_key);
    assert_eq!((&schemes["login"], &schemes[BEARER]["scheme"]), (&api_key, &json!("bearer")));
    let (_, schemes) = requirements(&json!({}), AuthMode::None, &api_key);
    assert_eq!(schemes, json!({"login": api_key}));
    let (_, schemes) = requirements(&json!({ "unknown": 1 }), AuthMode::None, &api_key);
    assert_eq!(schemes[BEARER]["scheme"], "bearer", "a closed route does not look open");
}

#[test]
fn a_scheme_of_that_name_for_something_else_is_kept() {
    let access = std::sync::Arc::new(Access::new(Some(&json!({ "mode": "required" }))));
    let services = [Service { access, ..service("a", &["/a"]) }];
    let mut given = document(&json!({"/a": {"get": {"security": [{BEARER: []}]}, "put": {}}}), &json!({}));
    let cookie = json!({"type": "apiKey", "in": "cookie", "name": "c"});
    given["components"]["securitySchemes"] = json!({BEARER: cookie});
    let document = merged(&services, vec![Ok(given)]);
    assert_eq!(document["paths"]["/a"]["get"]["security"], json!([{BEARER: [], "gateway-bearer": []}]));
    assert_eq!(document["paths"]["/a"]["put"]["security"], json!([{"gateway-bearer": []}]));
    assert_eq!(document["components"]["securitySchemes"][BEARER], cookie);
}
