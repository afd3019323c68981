//! Rules that the API of every service keeps, each checked in one way.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::{
    app::App,
    process::{PATIENCE, eventually},
};

/// The operations in the service's `/openapi.json`, as `get /users/{id} getUser`; each has its responses.
///
/// # Panics
/// Where the document is not so.
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

/// Every `$ref` in `/openapi.json` leads somewhere.
///
/// # Panics
/// Where one does not.
pub async fn references_lead_somewhere(app: &App) {
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

/// `/docs/` loads with all of its assets and none from elsewhere; `/` and `/docs` lead there.
///
/// # Panics
/// Where it is not so.
pub async fn docs_page_loads(app: &App) {
    for path in ["/", "/docs"] {
        let answer = app.get(path).await;
        assert!((300..400).contains(&answer.status), "{path}: {}", answer.status);
        assert_eq!(answer.header("location"), Some("/docs/"), "{path}");
    }
    let page = app.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").is_some_and(|media_type| media_type.starts_with("text/html")));
    let page = page.text();
    let assets: Vec<_> = page.split(['"', '\'']).filter(|text| text.starts_with("./")).collect();
    assert!(assets.len() >= 3, "scripts and styles: {assets:?}");
    for asset in assets {
        let answer = app.get(&format!("/docs/{}", &asset[2..])).await;
        assert_eq!(answer.status, 200, "{asset}");
        assert!(!answer.body.is_empty(), "{asset}");
    }
    assert!(!page.contains("//unpkg") && !page.contains("https://cdn"), "nothing comes from elsewhere");
    assert!(app.get("/docs/swagger-initializer.js").await.text().contains("/openapi.json"));
}

/// Each of these methods is 405 at this path, with `Allow` listing those it takes.
///
/// # Panics
/// Where it is not so.
pub async fn refuses_methods(app: &App, path: &str, methods: &[&str], allowed: &str) {
    for method in methods {
        let answer = app.send(app.request(method.parse().expect("a method"), path)).await;
        assert_eq!(answer.status, 405, "{method} {path}");
        answer.problem(405);
        let mut allow: Vec<_> = answer.header("allow").unwrap_or_default().split(',').map(str::trim).collect();
        allow.sort_unstable();
        assert_eq!(allow.join(","), allowed, "{method} {path}");
    }
}

/// `HEAD` answers as `GET` does, without the body.
///
/// # Panics
/// Where it does not.
pub async fn head_is_get_without_the_body(app: &App, path: &str) {
    let (get, head) = (app.get(path).await, app.send(app.request(Method::HEAD, path)).await);
    assert_eq!((head.status, head.text().as_str()), (get.status, ""), "{path}");
    for header in ["content-type", "content-length", "etag", "link"] {
        assert_eq!(head.header(header), get.header(header), "{header} of {path}");
    }
}

/// It lives, and is ready once it has reached the database. The admin port and the other serve nothing of each other.
///
/// # Panics
/// Where it is not so.
pub async fn probes_say_that_it_lives_and_is_ready(app: &App, path: &str) {
    assert_eq!(app.admin("/livez").await.status, 200);
    eventually("ready", PATIENCE, async || (app.admin("/readyz").await.status == 200).then_some(())).await;
    assert_eq!(app.admin(path).await.status, 404);
    for path in ["/livez", "/readyz", "/metrics"] {
        app.get(path).await.problem(404);
    }
}
