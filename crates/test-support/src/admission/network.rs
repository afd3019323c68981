//! Which services and clients may connect: calls, routes, network policies.

use serde_json::{Value, json};

use super::case::{Case, accepted, refused};

/// Callees and their environment variables.
pub fn calls() -> Vec<Case> {
    let calls = |names: &[&str]| json!({ "calls": names });
    let with_env =
        |callee: &str, variable: &str| json!({ "calls": [callee], "env": [{ "name": variable, "value": "x" }] });
    let by_hand = "env must not set NAME_GRPC_URL for a service NAME in calls";
    let many: Vec<_> = (0..51).map(|i| format!("service-{i}")).collect();
    vec![
        accepted(calls(&[])),
        accepted(calls(&["inventory", "order-history-2"])),
        refused(calls(&["orders"]), "spec.calls must not contain the object's own name"),
        refused(calls(&["inventory", "inventory"]), "spec.calls"),
        refused(calls(&["any"]), "calls must not contain \"any\""),
        refused(calls(&["inventory", "hedgerow"]), "calls must not contain \"hedgerow\""),
        refused(calls(&["Inventory"]), "spec.calls[0]"),
        refused(calls(&[""]), "spec.calls[0]"),
        refused(calls(&["a2345678901234567890123456789012345678901"]), "spec.calls[0]"),
        refused(json!({ "calls": many }), "spec.calls"),
        refused(json!({ "calls": "inventory" }), "spec.calls"),
        refused(with_env("inventory", "INVENTORY_GRPC_URL"), by_hand),
        refused(with_env("order-history", "ORDER_HISTORY_GRPC_URL"), by_hand),
        accepted(with_env("inventory", "PAYMENT_GRPC_URL")),
        accepted(with_env("inventory", "INVENTORY_HTTP_URL")),
    ]
}

/// Routes and their paths.
pub fn route() -> Vec<Case> {
    let paths = |paths: &[&str]| json!({ "route": { "paths": paths } });
    let form = "a path must be / or have the form /orders";
    let many: Vec<_> = (0..21).map(|i| format!("/orders{i}")).collect();
    vec![
        accepted(paths(&["/"])),
        accepted(paths(&["/orders", "/v1/order-history", "/shop.v1.Orders", "/~me/.well-known"])),
        accepted(json!({ "route": { "paths": ["/orders"], "grpc": true }, "ports": { "grpc": 50051 } })),
        refused(json!({ "route": { "paths": ["/orders"], "grpc": true } }), "route.grpc requires ports.grpc"),
        refused(json!({ "route": {} }), "paths"),
        refused(paths(&[]), "spec.route.paths"),
        refused(json!({ "route": { "paths": many } }), "spec.route.paths"),
        refused(paths(&["/orders", "/orders"]), "spec.route.paths"),
        refused(paths(&["orders"]), form),
        refused(paths(&["/orders/"]), form),
        refused(paths(&["/orders//1"]), form),
        refused(paths(&["//"]), form),
        refused(paths(&["/orders/../users"]), form),
        refused(paths(&["/."]), form),
        refused(paths(&["/orders/{id}"]), form),
        refused(paths(&["/orders?x=1"]), form),
    ]
}

/// Who may send which requests to a route.
pub fn auth() -> Vec<Case> {
    let auth = |auth: Value| json!({ "route": { "paths": ["/orders", "/v1/carts"], "auth": auth } });
    let rule = |rule: Value| auth(json!({ "rules": [rule] }));
    let below = "the paths of a rule in auth.rules must be below paths of the route";
    let field = "spec.route.auth";
    vec![
        accepted(auth(json!({}))),
        accepted(auth(json!({ "mode": "none", "forward": "headers", "rules": [] }))),
        accepted(auth(json!({ "mode": "required", "scopes": ["orders:read", "https://x.example/a"] }))),
        accepted(auth(json!({ "scopes": ["orders:read"], "rules": [{ "mode": "optional" }] }))),
        accepted(rule(json!({ "methods": ["GET", "M-SEARCH"], "paths": ["/orders/public", "/v1"], "mode": "none" }))),
        accepted(rule(json!({ "paths": ["/"], "mode": "required", "scopes": ["a"] }))),
        accepted(json!({ "route": { "paths": ["/"], "auth": { "rules": [{ "paths": ["/any"] }] } } })),
        refused(auth(json!("required")), field),
        refused(auth(json!({ "mode": "Required" })), "spec.route.auth.mode"),
        refused(auth(json!({ "forward": "jwt" })), "spec.route.auth.forward"),
        refused(auth(json!({ "scopes": ["a b"] })), "spec.route.auth.scopes[0]"),
        refused(auth(json!({ "scopes": ["a", "a"] })), "spec.route.auth.scopes"),
        refused(auth(json!({ "mode": "optional", "scopes": ["a"] })), "auth.scopes must not be set"),
        refused(auth(json!({ "mode": "none", "scopes": ["a"] })), "auth.scopes must not be set"),
        refused(auth(json!({ "rules": vec![json!({}); 51] })), "spec.route.auth.rules"),
        refused(rule(json!({ "methods": ["get"] })), "spec.route.auth.rules[0].methods[0]"),
        refused(rule(json!({ "paths": ["/orders/*"] })), "a path must be / or have the form /orders"),
        refused(rule(json!({ "paths": ["/oders/public"] })), below),
        refused(rule(json!({ "paths": ["/orders-old"] })), below),
        refused(rule(json!({ "mode": "none", "scopes": ["a"] })), "scopes of a rule must not be set"),
    ]
}

/// Unknown parts of `route.auth`. Only the API server keeps them, so that the gateway closes the route.
pub fn unknown_auth() -> Vec<Case> {
    let auth = |auth: Value| json!({ "route": { "paths": ["/orders"], "auth": auth } });
    vec![
        refused(auth(json!({ "scope": ["a"] })), "unknown field scope"),
        refused(auth(json!({ "rules": [{ "claims": {} }] })), "unknown field claims"),
    ]
}

/// Peers in `network.allowFrom`.
pub fn allow_from() -> Vec<Case> {
    let from = |peers: Value| json!({ "network": { "allowFrom": peers } });
    let peer = |peer: Value| from(json!([peer]));
    let first = "spec.network.allowFrom[0]";
    vec![
        accepted(from(json!([]))),
        accepted(from(json!(["users", { "app.kubernetes.io/name": "shop", "tier": "" }, "any"]))),
        refused(peer(json!("Users")), first),
        refused(peer(json!("")), first),
        refused(peer(json!({})), first),
        refused(peer(json!({ "tier": "-" })), first),
        refused(peer(json!({ "tier": 1 })), first),
        refused(peer(json!({ "tier": ["web"] })), first),
        refused(peer(json!(5)), first),
        refused(peer(json!(0.5)), first),
        refused(peer(json!(true)), first),
        refused(peer(json!([])), first),
        refused(peer(json!(["users"])), first),
        refused(from(json!("any")), "spec.network.allowFrom"),
    ]
}
