//! Checks of the rules that every service's API follows.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::{
    app::App,
    process::{TIMEOUT, eventually},
};

/// Returns the operations in the service's `/openapi.json`, in the form `get /users/{id} getUser`, and checks that each
/// has responses.
///
/// # Panics
/// Panics if the document is malformed.
pub async fn operations(app: &App, service: &str) -> BTreeSet<String> {
    let document = app.get("/openapi.json").await.json(200);
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    assert_eq!(document["info"]["title"], service);
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let id = operation["operationId"].as_str().unwrap_or("none");
            operations.insert(format!("{method} {path} {id}"));
            assert!(operation["responses"].as_object().is_some_and(|responses| !responses.is_empty()));
        }
    }
    operations
}

/// Checks that every `$ref` in `/openapi.json` resolves.
///
/// # Panics
/// Panics if one does not.
pub async fn references_resolve(app: &App) {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = app.get("/openapi.json").await.json(200);
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}

/// Checks that every `POST` and `PATCH` in `/openapi.json` takes an `Idempotency-Key`, as a service promises that lists
/// all its paths in `route.idempotencyKeys`.
///
/// # Panics
/// Panics if one does not.
pub async fn every_post_and_patch_takes_a_key(app: &App) {
    let document = app.get("/openapi.json").await.json(200);
    let mut count = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in ["post", "patch"] {
            let Some(operation) = item.get(method) else { continue };
            let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
            assert!(parameters.iter().any(|parameter| parameter["name"] == "idempotency-key"), "{method} {path}");
            count += 1;
        }
    }
    assert!(count > 0);
}

/// Checks that `/docs/` loads with all its assets and none from other hosts, and that `/` and `/docs` redirect to it.
///
/// # Panics
/// Panics if this is not the case.
pub async fn docs_page_loads(app: &App) {
    for path in ["/", "/docs"] {
        let response = app.get(path).await;
        assert!((300..400).contains(&response.status), "{path}: {}", response.status);
        assert_eq!(response.header("location"), Some("/docs/"), "{path}");
    }
    let page = app.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").is_some_and(|media_type| media_type.starts_with("text/html")));
    let page = page.text();
    let assets: Vec<_> = page.split(['"', '\'']).filter(|text| text.starts_with("./")).collect();
    assert!(assets.len() >= 3, "scripts and styles: {assets:?}");
    for asset in assets {
        let response = app.get(&format!("/docs/{}", &asset[2..])).await;
        assert_eq!(response.status, 200, "{asset}");
        assert!(!response.body.is_empty(), "{asset}");
    }
    assert!(!page.contains("//unpkg") && !page.contains("https://cdn"), "all assets are local");
    assert!(app.get("/docs/swagger-initializer.js").await.text().contains("/openapi.json"));
}

/// Checks that each of these methods is 405 at this path, and that `Allow` lists the allowed ones.
///
/// # Panics
/// Panics if this is not the case.
pub async fn refuses_methods(app: &App, path: &str, methods: &[&str], allowed: &str) {
    for method in methods {
        let response = app.send(app.request(method.parse().expect("a method"), path)).await;
        assert_eq!(response.status, 405, "{method} {path}");
        response.problem(405);
        let mut allow: Vec<_> = response.header("allow").unwrap_or_default().split(',').map(str::trim).collect();
        allow.sort_unstable();
        assert_eq!(allow.join(","), allowed, "{method} {path}");
    }
}

/// Checks that `HEAD` returns the same response as `GET`, without the body.
///
/// # Panics
/// Panics if it does not.
pub async fn head_is_get_without_the_body(app: &App, path: &str) {
    let (get, head) = (app.get(path).await, app.send(app.request(Method::HEAD, path)).await);
    assert_eq!((head.status, head.text().as_str()), (get.status, ""), "{path}");
    for header in ["content-type", "content-length", "etag", "link"] {
        assert_eq!(head.header(header), get.header(header), "{header} of {path}");
    }
}

/// Checks that the service is live, and ready once it has reached the database, and that neither port serves the paths
/// of the other.
///
/// # Panics
/// Panics if this is not the case.
pub async fn probes_say_that_it_lives_and_is_ready(app: &App, path: &str) {
    assert_eq!(app.admin("/livez").await.status, 200);
    eventually("ready", TIMEOUT, async || (app.admin("/readyz").await.status == 200).then_some(())).await;
    assert_eq!(app.admin(path).await.status, 404);
    for path in ["/livez", "/readyz", "/metrics"] {
        app.get(path).await.problem(404);
    }
}
