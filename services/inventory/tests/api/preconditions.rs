//! `If-Match` and `If-None-Match` on stock and reservations (RFC 9110, section 13).

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::app::{App, Response, join_all};

use crate::{adjust, audit, ledger, set, start, stock};

/// Sends a request with one precondition.
pub async fn send_if(app: &App, method: Method, path: &str, condition: (&str, &str), body: &Value) -> Response {
    app.send(app.request(method, path).header(condition.0, condition.1).json(body)).await
}

async fn get_if(app: &App, path: &str, condition: (&str, &str)) -> Response {
    app.send(app.request(Method::GET, path).header(condition.0, condition.1)).await
}

/// The ways to change the stock of a product.
fn changes() -> [(Method, Value); 3] {
    [(Method::PUT, json!({"stock": 9})), (Method::POST, json!({"stock": 9})), (Method::PATCH, json!({"delta": 1}))]
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn only_the_current_etag_allows_a_change_of_stock(pool: PgPool) {
    let app = start(&pool).await;
    for (method, body) in changes() {
        let stale = set(&app, "p", 5).await.etag();
        let current = adjust(&app, "p", 1).await.etag();
        let before = ledger(&app, "p").await;
        for condition in [("if-match", stale.as_str()), ("if-none-match", &current), ("if-none-match", "*")] {
            let problem = send_if(&app, method.clone(), "/inventory/p", condition, &body).await.problem(412);
            assert_eq!(problem["type"], "about:blank");
        }
        assert_eq!(ledger(&app, "p").await, before, "{method}");
        for condition in [("if-match", "*"), ("if-none-match", stale.as_str())] {
            assert!(send_if(&app, method.clone(), "/inventory/p", condition, &body).await.status < 300, "{method}");
        }
        let current = app.get("/inventory/p").await.etag();
        let both = app.request(method.clone(), "/inventory/p").header("if-match", &current);
        assert!(app.send(both.header("if-none-match", &stale).json(&body)).await.status < 300, "{method}");
    }
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_star_matches_only_known_products(pool: PgPool) {
    let app = start(&pool).await;
    let body = json!({"stock": 1});
    send_if(&app, Method::PUT, "/inventory/p", ("if-match", "*"), &body).await.problem(412);
    let unknown = app.get("/inventory/p").await.etag();
    assert_eq!(get_if(&app, "/inventory/p", ("if-none-match", "*")).await.status, 200);
    send_if(&app, Method::PUT, "/inventory/p", ("if-none-match", "*"), &body).await.json(201);
    send_if(&app, Method::PUT, "/inventory/p", ("if-none-match", "*"), &body).await.problem(412);
    send_if(&app, Method::PUT, "/inventory/p", ("if-match", &unknown), &body).await.problem(412);
    send_if(&app, Method::PUT, "/inventory/q", ("if-match", &unknown), &body).await.json(201);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn exactly_one_of_concurrent_changes_with_one_etag_wins(pool: PgPool) {
    let (app, other) = (start(&pool).await, start(&pool).await);
    set(&app, "p", 0).await.json(201);
    for round in 0..5 {
        let etag = app.get("/inventory/p").await.etag();
        let responses = join_all((0..24).map(|rival| {
            let (app, etag) = (if rival % 2 == 0 { &app } else { &other }, &etag);
            let (method, body) = changes()[rival % 3].clone();
            async move { send_if(app, method, "/inventory/p", ("if-match", etag), &body).await }
        }));
        let (won, lost): (Vec<_>, Vec<_>) = responses.await.into_iter().partition(|response| response.status < 300);
        assert_eq!(won.len(), 1, "round {round}");
        for response in lost {
            response.problem(412);
        }
    }
    assert_eq!(ledger(&app, "p").await.len(), 6);
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_get_with_the_current_etag_is_304(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let body = json!({"items": [{"product_id": "p", "quantity": 1}]});
    let location = app.post("/reservations", &body).await.header("location").expect("a location").to_owned();
    for path in ["/inventory/p", &location] {
        let current = app.get(path).await;
        let weak = format!("\"x\", W/{}", current.etag());
        for method in [Method::GET, Method::HEAD] {
            let request = app.request(method, path).header("if-none-match", &weak);
            let unchanged = app.send(request).await;
            assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
            assert_eq!(unchanged.etag(), current.etag());
            assert_eq!(unchanged.header("content-type"), None);
            let length = unchanged.header("content-length");
            assert!(length.is_none() || length == current.header("content-length"), "{length:?}");
            assert!(unchanged.header("x-request-id").is_some());
        }
        assert_eq!(get_if(&app, path, ("if-none-match", "\"x\"")).await.json(200), current.json(200));
        assert_eq!(get_if(&app, path, ("if-match", &current.etag())).await.json(200), current.json(200));
        get_if(&app, path, ("if-match", "\"x\"")).await.problem(412);
    }
    assert_eq!(get_if(&app, "/inventory", ("if-none-match", "*")).await.rows().len(), 1, "lists have no ETag");
    let text = app.admin("/metrics").await.text();
    assert!(text.contains(r#"{method="GET",route="/inventory/{product_id}",status="304"} 1"#), "{text}");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_transition_can_depend_on_the_state(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let body = json!({"items": [{"product_id": "p", "quantity": 1}]});
    let held = app.post("/reservations", &body).await;
    let path = format!("/reservations/{}/commit", held.json(201)["id"].as_str().expect("an id"));
    let condition = ("if-none-match", held.etag());
    send_if(&app, Method::POST, &path, (condition.0, &condition.1), &json!({})).await.problem(412);
    let committed = send_if(&app, Method::POST, &path, ("if-match", &held.etag()), &json!({})).await;
    assert_eq!(committed.json(200)["state"], "committed");
    send_if(&app, Method::POST, &path, ("if-match", &held.etag()), &json!({})).await.problem(412);
    assert_eq!(stock(&app, "p").await, 4);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_repeated_key_gets_its_response_whatever_the_etag(pool: PgPool) {
    let app = start(&pool).await;
    let etag = set(&app, "p", 5).await.etag();
    let adjust = async |etag: &str| {
        let request = app.request(Method::PATCH, "/inventory/p").header("idempotency-key", "k");
        app.send(request.header("if-match", etag).json(&json!({"delta": 1}))).await
    };
    adjust("\"x\"").await.problem(412);
    let adjusted = adjust(&etag).await;
    assert_eq!(adjusted.json(200)["stock"], 6, "a 412 leaves the key free");
    assert_eq!(adjust(&etag).await.json(200), adjusted.json(200));
    assert_eq!(stock(&app, "p").await, 6);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_malformed_precondition_is_400_and_changes_nothing(pool: PgPool) {
    let app = start(&pool).await;
    let etag = set(&app, "p", 5).await.etag();
    for name in ["if-match", "if-none-match"] {
        for value in ["\"x\", *", "x", &format!("{etag}, *")] {
            get_if(&app, "/inventory/p", (name, value)).await.problem(400);
            for (method, body) in changes() {
                send_if(&app, method, "/inventory/p", (name, value), &body).await.problem(400);
            }
        }
    }
    assert_eq!(stock(&app, "p").await, 5);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_document_describes_preconditions_where_there_is_an_etag(pool: PgPool) {
    let document = start(&pool).await.get("/openapi.json").await.json(200);
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let responses = operation["responses"].as_object().expect("responses");
            let has_etag = responses
                .iter()
                .any(|(status, response)| status.as_str() < "300" && !response["headers"]["etag"].is_null());
            let is_conditional = has_etag && path != "/reservations";
            let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
            for name in ["if-match", "if-none-match"] {
                let documented = parameters.iter().any(|parameter| parameter["name"] == name);
                assert_eq!(documented, is_conditional, "{name} of {method} {path}");
            }
            assert_eq!(responses.contains_key("412"), is_conditional, "{method} {path}");
            assert_eq!(responses.contains_key("304"), is_conditional && method == "get", "{method} {path}");
        }
    }
}
