//! The table of operations and callers, which `docs/api.md` has, too.

use std::collections::BTreeSet;

use contracts::inventory::v1::{BatchGetStockRequest, CommitRequest, ReleaseRequest};
use identity::Mode;
use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::app::App;
use tonic::Code;

use super::issuer::{Issuer, NOBODY, Token, basket, call, reserve, send, stock_up};
use crate::{audit, grpc};

/// The documentation.
const API: &str = include_str!("../../../../../docs/api.md");

/// An operation over HTTP, the same one over gRPC, and the status for each caller.
type Row = (&'static str, &'static str, &'static str, [u16; CALLERS.len()]);

/// The columns. A reservation belongs to the user of the second one. A machine has the scope that the operation needs,
/// and the last caller has a token with none.
const CALLERS: [&str; 6] =
    ["no token", "the owner", "another user", "an admin", "a machine with the scope", "no role or scope"];

/// The column of what a request without a token may do in mode `open`.
const ADMIN: usize = 3;

const TABLE: [Row; 10] = [
    ("GET", "/inventory", "", [200, 200, 200, 200, 200, 200]),
    ("GET", "/inventory/{product_id}", "BatchGetStock", [200, 200, 200, 200, 200, 200]),
    ("GET", "/inventory/{product_id}/movements", "", [200, 200, 200, 200, 200, 200]),
    ("PUT", "/inventory/{product_id}", "", [401, 403, 403, 200, 200, 403]),
    ("POST", "/inventory/{product_id}", "", [401, 403, 403, 201, 201, 403]),
    ("PATCH", "/inventory/{product_id}", "", [401, 403, 403, 200, 200, 403]),
    ("POST", "/reservations", "Reserve", [401, 201, 201, 201, 201, 403]),
    ("GET", "/reservations/{id}", "", [401, 200, 404, 200, 404, 404]),
    ("POST", "/reservations/{id}/commit", "Commit", [401, 200, 404, 200, 404, 403]),
    ("POST", "/reservations/{id}/release", "Release", [401, 200, 404, 200, 404, 403]),
];

#[test]
fn the_documentation_has_the_same_table() {
    let section = API.split("\n## ").find(|section| section.starts_with("Who may do what\n")).expect("the section");
    let mut lines = vec![format!("| operation | {} |", CALLERS.join(" | "))];
    for (method, path, grpc, statuses) in TABLE {
        let grpc = if grpc.is_empty() { String::new() } else { format!(", `{grpc}`") };
        let statuses = statuses.map(|status| status.to_string()).join(" | ");
        lines.push(format!("| `{method} {path}`{grpc} | {statuses} |"));
    }
    for line in lines {
        assert!(section.lines().any(|other| other == line), "no line {line}");
    }
    let inventory = section.split("\n### ").find(|part| part.starts_with("Inventory\n")).expect("the table");
    let rows = inventory.lines().filter(|line| line.starts_with("| `"));
    assert_eq!(rows.count(), TABLE.len(), "rows that are not tested");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_table_has_every_operation(pool: PgPool) {
    let document: Value = crate::start(&pool).await.get("/openapi.json").await.json(200);
    let paths = document["paths"].as_object().expect("paths").iter();
    let documented: BTreeSet<_> = paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("operations").keys();
            methods.map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let tested = TABLE.map(|(method, path, ..)| (method.to_owned(), path.to_owned()));
    assert_eq!(documented, BTreeSet::from(tested));

    let files = FileDescriptorSet::decode(inventory::SERVICE.grpc.as_ref().expect("an API").descriptors);
    let files = files.expect("descriptors").file.into_iter();
    let services = files.filter(|file| file.package().starts_with("hedgerow.inventory.")).flat_map(|file| file.service);
    let served: BTreeSet<_> =
        services.flat_map(|service| service.method).map(|method| method.name().to_owned()).collect();
    let tested = TABLE.iter().map(|(_, _, grpc, _)| (*grpc).to_owned()).filter(|grpc| !grpc.is_empty());
    assert_eq!(served, tested.collect());
}

/// The callers, in the order of the columns.
fn callers(issuer: &Issuer, path: &str) -> [Token; CALLERS.len()] {
    let scope = if path.starts_with("/inventory") { "inventory:write" } else { "reservations:write" };
    [
        NOBODY,
        issuer.user("ada"),
        issuer.user("bob"),
        issuer.admin(),
        issuer.token("robot", &json!({"scope": scope, "client_id": "robot"})),
        issuer.token("eve", &json!({})),
    ]
}

fn body(method: &str, path: &str) -> Option<Value> {
    match (method, path) {
        ("PATCH", _) => Some(json!({"delta": 1})),
        ("PUT" | "POST", "/inventory/{product_id}") => Some(json!({"stock": 2000})),
        ("POST", "/reservations") => Some(basket(&["p"])),
        _ => None,
    }
}

/// The path of an operation on the product or on a new reservation of the owner.
async fn target(app: &App, owner: &Token, path: &str) -> String {
    match path.strip_prefix("/reservations/{id}") {
        Some(end) => reserve(app, owner, &["p"]).await + end,
        None => path.replace("{product_id}", "p"),
    }
}

/// Calls the method of an operation, on a new reservation of the owner.
async fn call_grpc(app: &App, owner: &Token, caller: &Token, method: &str) -> Code {
    let path = reserve(app, owner, &["p"]).await;
    let reservation_id = path.rsplit('/').next().expect("an id").to_owned();
    let mut client = grpc::client(app).await;
    let result = match method {
        "BatchGetStock" => {
            let products = BatchGetStockRequest { product_ids: vec!["p".to_owned()] };
            client.batch_get_stock(call(caller, products)).await.map(|_| ())
        }
        "Reserve" => client.reserve(call(caller, grpc::reserve(&[("p", 1)], ""))).await.map(|_| ()),
        "Commit" => client.commit(call(caller, CommitRequest { reservation_id })).await.map(|_| ()),
        "Release" => client.release(call(caller, ReleaseRequest { reservation_id })).await.map(|_| ()),
        other => panic!("{other}"),
    };
    result.map_or_else(|status| status.code(), |()| Code::Ok)
}

fn code(status: u16) -> Code {
    match status {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        _ => Code::Ok,
    }
}

async fn walk(pool: &PgPool, mode: Mode) {
    let issuer = Issuer::new();
    let app = issuer.start(pool, mode).await;
    stock_up(&app, &issuer, "p").await;
    let expired = issuer.token("root", &json!({"roles": ["admin"], "exp": 1}));
    for (method, path, grpc, statuses) in TABLE {
        let callers = callers(&issuer, path);
        let owner = &callers[1];
        for (column, caller) in callers.iter().enumerate() {
            let allowed = if mode == Mode::Open && *caller == NOBODY { ADMIN } else { column };
            let (expected, case) =
                (statuses[allowed], format!("{method} {path}, {grpc}: {} ({mode:?})", CALLERS[column]));
            let target = target(&app, owner, path).await;
            let response = send(&app, caller, method, &target, body(method, path).as_ref()).await;
            assert_eq!(response.status, expected, "{case}: {}", response.text());
            if method == "GET" {
                assert_eq!(send(&app, caller, "HEAD", &target, None).await.status, expected, "HEAD, {case}");
            }
            if !grpc.is_empty() {
                assert_eq!(call_grpc(&app, owner, caller, grpc).await, code(expected), "{case}");
            }
        }
        let target = target(&app, owner, path).await;
        assert_eq!(send(&app, &expired, method, &target, body(method, path).as_ref()).await.status, 401);
        if !grpc.is_empty() {
            assert_eq!(call_grpc(&app, owner, &expired, grpc).await, Code::Unauthenticated);
        }
    }
    audit(pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_table_holds_where_tokens_are_required(pool: PgPool) {
    walk(&pool, Mode::Required).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_table_holds_where_tokens_are_optional(pool: PgPool) {
    walk(&pool, Mode::Open).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_caller_is_refused_before_the_request_is_looked_at(pool: PgPool) {
    let issuer = Issuer::new();
    let app = issuer.start(&pool, Mode::Required).await;
    for (method, path, scope) in [
        ("PUT", "/inventory/a%2Fb", "inventory:write"),
        ("PATCH", "/inventory/p", "inventory:write"),
        ("POST", "/reservations", "reservations:write"),
        ("POST", "/reservations/x/commit", "reservations:write"),
    ] {
        let send = async |token: &Token| send(&app, token, method, path, Some(&json!({"unknown": 1}))).await;
        let refused = send(&NOBODY).await;
        refused.problem(401);
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        let refused = send(&issuer.token("eve", &json!({"scope": "users:write"}))).await;
        let problem = refused.problem(403);
        assert_eq!(problem["type"], "https://hedgerow.dev/problems/insufficient-scope");
        assert_eq!(problem["scope"], scope);
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_document_says_which_operations_need_what(pool: PgPool) {
    let document: Value = crate::start(&pool).await.get("/openapi.json").await.json(200);
    for (method, path, _, statuses) in TABLE {
        let operation = &document["paths"][path][method.to_lowercase()];
        let needs = match (method, path) {
            _ if statuses[0] == 200 => Value::Null,
            ("GET", _) => json!([{"bearer": []}]),
            (_, "/inventory/{product_id}") => json!([{"bearer": ["inventory:write"]}]),
            _ => json!([{"bearer": ["reservations:write"]}]),
        };
        assert_eq!(operation["security"], needs, "{method} {path}");
    }
}
