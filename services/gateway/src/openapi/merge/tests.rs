mod any;
mod rename;
mod security;

use std::collections::{BTreeSet, HashSet};

use serde_json::{Value, json};

use super::{
    super::budget::{MAX_BUILT, memory_of},
    *,
};

fn service(name: &str, paths: &[&str]) -> Service {
    Service {
        name: name.to_owned(),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        http: Vec::new(),
        grpc: None,
        idempotency_keys: Vec::new(),
        access: std::sync::Arc::default(),
    }
}

/// An operation whose response refers to a schema.
fn operation(schema: &str) -> Value {
    let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
    json!({"responses": {"200": {"description": "", "content": {"application/json": {"schema": schema}}}}})
}

fn document(paths: &Value, schemas: &Value) -> Value {
    let info = json!({"title": "a", "version": "1", "description": "About it."});
    json!({"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}})
}

#[expect(clippy::needless_pass_by_value, reason = "a function for `map`")]
fn text(document: Value) -> Bytes {
    document.to_string().into()
}

/// Merges, and parses the result.
fn merge(services: &[Service], documents: impl IntoIterator<Item = Result<Bytes, DocumentError>>) -> Value {
    let merged = super::merge(services, documents, AuthMode::None);
    assert!(merged.len() <= MAX_BUILT, "{}", merged.len());
    serde_json::from_str(&merged).expect("JSON")
}

/// Merges, and checks what holds for every merged document.
fn merged(services: &[Service], documents: Vec<Result<Value, DocumentError>>) -> Value {
    let document = merge(services, documents.into_iter().map(|document| document.map(text)));
    assert_references_resolve(&document, &document);
    let operations = document["paths"].as_object().expect("paths").values();
    let operations: Vec<_> = operations.flat_map(|item| item.as_object().expect("a path").values()).collect();
    let ids: Vec<_> = operations.iter().filter_map(|operation| operation["operationId"].as_str()).collect();
    assert_eq!(ids.len(), ids.iter().collect::<HashSet<_>>().len(), "{ids:?}");
    let used: BTreeSet<_> = operations
        .iter()
        .flat_map(|operation| operation["tags"].as_array().expect("tags"))
        .map(|tag| tag.as_str())
        .collect();
    let tags: Vec<_> = document["tags"].as_array().expect("tags").iter().map(|tag| tag["name"].as_str()).collect();
    assert_eq!(used.into_iter().collect::<Vec<_>>(), tags);
    let components = document["components"].as_object().expect("components").values();
    for name in components.flat_map(|section| section.as_object().expect("a section").keys()) {
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)), "{name}");
    }
    document
}

fn assert_references_resolve(document: &Value, value: &Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(pointer)) = members.get("$ref") {
                let target = pointer.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
                assert!(target.is_some(), "{pointer}");
            }
            members.values().for_each(|member| assert_references_resolve(document, member));
        }
        Value::Array(items) => items.iter().for_each(|item| assert_references_resolve(document, item)),
        _ => {}
    }
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().map(|members| members.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[test]
fn each_service_contributes_the_paths_routed_to_it() {
    let services = [service("admin", &["/users/admin"]), service("users", &["/users", "/friends"])];
    let paths = |paths: &[&str]| {
        let paths = paths.iter().map(|path| ((*path).to_owned(), json!({"get": {"responses": {}}})));
        Ok(document(&Value::Object(paths.collect()), &json!({})))
    };
    let own = ["/users", "/users/{id}", "/users/admin/rights", "/usersaurus", "/friends", "/livez", "/openapi.json"];
    let document = merged(&services, vec![paths(&["/users/admin", "/users/{id}"]), paths(&own)]);
    assert_eq!(keys(&document["paths"]), ["/friends", "/users", "/users/admin", "/users/{id}"]);
    assert_eq!(document["paths"]["/users/admin"]["get"]["tags"], json!(["admin"]));
    assert_eq!(document["servers"], json!([{"url": "/"}]));
    assert_eq!(document["openapi"], "3.1.0");
}

#[test]
fn a_catch_all_contributes_the_remaining_paths() {
    let services = [service("users", &["/users"]), service("web", &["/"])];
    let both = || Ok(document(&json!({"/users": {"get": {}}, "/": {"get": {}}, "/about": {"get": {}}}), &json!({})));
    let document = merged(&services, vec![both(), both()]);
    let tag = |path: &str| document["paths"][path]["get"]["tags"][0].as_str();
    assert_eq!((tag("/users"), tag("/"), tag("/about")), (Some("users"), Some("web"), Some("web")));
}

#[test]
fn the_base_path_of_a_server_url_counts_but_not_its_host() {
    let services = [service("users", &["/api/users"])];
    let item = || json!({"servers": [{"url": "http://x"}], "get": {"servers": [{"url": "http://y"}], "responses": {}}});
    for server in ["/api", "/api/", "http://localhost:8081/api"] {
        let mut given = document(&json!({"/users": item()}), &json!({}));
        given["servers"] = json!([{"url": server}]);
        let document = merged(&services, vec![Ok(given)]);
        assert_eq!(document["paths"]["/api/users"], json!({"get": {"responses": {}, "tags": ["users"]}}), "{server}");
    }
}

#[test]
fn document_wide_security_moves_to_each_operation() {
    let services = [service("a", &["/a"]), service("b", &["/b"])];
    let given = |path: &str, scheme: &Value| {
        let paths = json!({path: {"get": {}, "post": {"security": []}}});
        let mut document = document(&paths, &json!({}));
        document["security"] = json!([{"login": []}]);
        document["components"]["securitySchemes"] = json!({"login": scheme});
        Ok(document)
    };
    let basic = json!({"type": "http", "scheme": "basic"});
    let bearer = json!({"type": "http", "scheme": "bearer"});
    let document = merged(&services, vec![given("/a", &basic), given("/b", &bearer)]);
    assert_eq!(document["paths"]["/b"]["get"]["security"], json!([{"b.login": []}]));
    assert_eq!(document["paths"]["/b"]["post"]["security"], json!([]));
    assert_eq!(document["components"]["securitySchemes"], json!({"a.login": basic, "b.login": bearer}));
    assert_eq!(document["security"], Value::Null);
}

#[test]
fn operations_are_tagged_with_their_service() {
    let services = [service("users", &["/users"])];
    let paths = json!({"/users": {"get": {"tags": ["Users"]}, "put": {"tags": ["wishlist"]}, "post": {}}});
    let mut given = document(&paths, &json!({}));
    given["tags"] = json!([{"name": "wishlist", "description": "What they wish for."}]);
    let document = merged(&services, vec![Ok(given)]);
    let expected = json!([
        {"name": "users", "description": "About it."},
        {"name": "users: wishlist", "description": "What they wish for."},
    ]);
    assert_eq!(document["tags"], expected);
}

#[test]
fn services_without_a_usable_document_are_listed_with_a_reason() {
    let names = ["absent", "dangling", "deep", "external", "good", "odd", "relative", "scheme", "strange", "swagger"];
    let services = names.map(|name| service(name, &[&format!("/{name}")]));
    let reference = |pointer: &str| json!({"get": {"responses": {"200": {"$ref": pointer}}}});
    let documents = vec![
        Err(DocumentError::NotFetched),
        Ok(document(&json!({"/dangling": {"get": operation("Lost")}}), &json!({}))),
        Ok(document(&json!({"/deep": {"get": operation("A/properties/lost")}}), &json!({"A": {"properties": {}}}))),
        Ok(document(&json!({"/external": reference("https://example.org/a.json#/x")}), &json!({}))),
        Ok(document(&json!({"/good": {"get": operation("A")}}), &json!({"A": {}}))),
        Ok(document(&json!({"/elsewhere": {"get": {}}}), &json!({}))),
        Ok(document(&json!({"/relative": reference("other.json")}), &json!({}))),
        Ok(document(&json!({"/scheme": {"get": {"security": [{"lost": []}]}}}), &json!({}))),
        Ok(json!({"openapi": "3.1.0", "paths": {"/strange": "no object"}})),
        Ok(json!({"swagger": "2.0", "paths": {}})),
    ];
    let document = merge(&services, documents.into_iter().map(|document| document.map(text)));
    assert_eq!(keys(&document["paths"]), ["/good"]);
    let unavailable = document["x-hedgerow-unavailable"].as_array().expect("a list");
    let unavailable: Vec<_> = unavailable
        .iter()
        .map(|service| {
            (service["service"].as_str().expect("text"), service["reason"].as_str().expect("text").to_owned())
        })
        .collect();
    let expected = [
        ("absent", DocumentError::NotFetched),
        ("dangling", DocumentError::Dangling),
        ("deep", DocumentError::Dangling),
        ("external", DocumentError::Dangling),
        ("odd", DocumentError::NothingRouted),
        ("relative", DocumentError::Dangling),
        ("scheme", DocumentError::Dangling),
        ("strange", DocumentError::NotOpenApi),
        ("swagger", DocumentError::NotOpenApi),
    ];
    assert_eq!(unavailable, expected.map(|(service, error)| (service, error.to_string())));
    let description = document["info"]["description"].as_str().expect("text");
    assert!(description.contains("**absent**: document could not be fetched"), "{description}");
}

#[test]
fn a_small_document_that_would_become_large_is_left_out() {
    let services = [service("bomb", &["/bomb"]), service("good", &["/good"])];
    let paths = |count: usize, item: &Value| {
        let paths = (0..count).map(|number| (format!("/bomb/{number}"), item.clone()));
        document(&Value::Object(paths.collect()), &json!({}))
    };
    let mut long_base = paths(5000, &json!({"get": {}}));
    long_base["servers"] = json!([{"url": format!("/bomb{}", "/x".repeat(25_000))}]);
    let mut long_security = paths(5000, &json!({"get": {}, "put": {}}));
    long_security["security"] = vec![json!({}); 50_000].into();
    let small_objects = document(&json!({"/bomb": {"get": {}, "x-bomb": vec![json!({"": 0}); 400_000]}}), &json!({}));
    for (bomb, reason) in [
        (long_base, DocumentError::TooLargeMerged),
        (long_security, DocumentError::TooLargeMerged),
        (small_objects, DocumentError::TooMuchMemory),
    ] {
        let bomb = text(bomb);
        assert!(bomb.len() < 4 * 1024 * 1024);
        let good = text(document(&json!({"/good": {"get": {}}}), &json!({})));
        let document = merge(&services, [Ok(bomb), Ok(good)]);
        assert_eq!(keys(&document["paths"]), ["/good"]);
        let reason = reason.to_string();
        assert_eq!(document["x-hedgerow-unavailable"], json!([{"service": "bomb", "reason": reason}]));
    }
}

/// Values take about twenty times as much memory as their text, so this is parsed although what is built must be
/// smaller.
#[test]
fn a_document_of_two_mebibytes_is_merged() {
    let description = "What this operation does, in a sentence of the usual length, such as this one.";
    let mut operation = operation("A");
    operation["description"] = description.into();
    let item = |number: usize| (format!("/a/{number}"), json!({"get": operation, "put": operation}));
    let given = document(&Value::Object((0..5000).map(item).collect()), &json!({"A": {}}));
    let length = text(given.clone()).len();
    assert!((2 * 1024 * 1024..3 * 1024 * 1024).contains(&length), "{length}");
    assert!(memory_of(&text(given.clone())) > 2 * MAX_BUILT);
    assert_eq!(keys(&merged(&[service("a", &["/a"])], vec![Ok(given)])["paths"]).len(), 5000);
}

/// A large document of the usual kind is not mistaken for one.
#[test]
fn a_document_of_a_thousand_operations_is_merged() {
    let schema = json!({"type": "object", "properties": {"id": {"type": "string", "format": "uuid"}}});
    let names: Vec<String> = (0..500).map(|number| format!("Item{number}")).collect();
    let schemas = names.iter().map(|name| (name.clone(), schema.clone())).collect();
    let item = |name: &String| (format!("/a/{name}"), json!({"get": operation(name), "put": operation(name)}));
    let mut given = document(&Value::Object(names.iter().map(item).collect()), &Value::Object(schemas));
    given["components"]["securitySchemes"] = json!({"login": {"type": "http", "scheme": "basic"}});
    given["security"] = json!([{"login": []}]);
    assert_eq!(keys(&merged(&[service("a", &["/a"])], vec![Ok(given)])["paths"]).len(), 500);
}

#[test]
fn without_services_the_document_is_empty() {
    let document = merged(&[], Vec::new());
    assert_eq!(document["paths"], json!({}));
    assert_eq!(document["x-hedgerow-unavailable"], json!([]));
}

#[test]
fn a_3_0_document_is_upgraded() {
    let mut given =
        document(&json!({"/a": {"get": operation("A")}}), &json!({"A": {"type": "string", "nullable": true}}));
    given["openapi"] = "3.0.3".into();
    let document = merged(&[service("a", &["/a"])], vec![Ok(given)]);
    assert_eq!(document["components"]["schemas"]["A"], json!({"type": ["string", "null"]}));
}
