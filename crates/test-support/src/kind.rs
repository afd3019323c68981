//! What the kind accepts and refuses, rule by rule. The tables are checked twice: against the `api` crate without a
//! cluster, and against a real API server. Both must agree.

#![expect(clippy::must_use_candidate, reason = "a table that nobody checks is useless anyway")]

use serde_json::{Value, json};

/// An object to create, or a change to a stored object.
pub struct Case {
    /// The object's name.
    pub name: &'static str,
    /// The spec before the change; `None` for a new object.
    pub old: Option<Value>,
    /// The spec to create or to change to.
    pub spec: Value,
    /// A part of the expected error; `None` if the object is accepted.
    pub refusal: Option<&'static str>,
}

impl Case {
    /// The object before the change, if any, and the object to create or to change it to.
    pub fn objects(&self) -> (Option<Value>, Value) {
        (self.old.as_ref().map(|spec| object(self.name, spec)), object(self.name, &self.spec))
    }
}

fn object(name: &str, spec: &Value) -> Value {
    let mut whole = json!({ "image": "registry.example/orders:1.0" });
    for (field, value) in spec.as_object().expect("a spec is an object") {
        whole[field] = value.clone();
    }
    json!({ "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice", "metadata": { "name": name }, "spec": whole })
}

fn accepted(spec: Value) -> Case {
    Case { name: "orders", old: None, spec, refusal: None }
}

fn refused(spec: Value, refusal: &'static str) -> Case {
    Case { refusal: Some(refusal), ..accepted(spec) }
}

fn change(old: Value, spec: Value) -> Case {
    Case { old: Some(old), ..accepted(spec) }
}

fn refused_change(old: Value, spec: Value, refusal: &'static str) -> Case {
    Case { refusal: Some(refusal), ..change(old, spec) }
}

fn named(name: &'static str, spec: Value) -> Case {
    Case { name, ..accepted(spec) }
}

fn refused_name(name: &'static str, spec: Value, refusal: &'static str) -> Case {
    Case { refusal: Some(refusal), ..named(name, spec) }
}

/// All tables.
pub fn all() -> Vec<Case> {
    let tables = [
        name,
        image,
        fields,
        ports,
        env,
        calls,
        resources,
        database,
        connections,
        permanence,
        scaling,
        route,
        allow_from,
    ];
    tables.into_iter().flat_map(|table| table()).collect()
}

/// Object names.
pub fn name() -> Vec<Case> {
    let rule = "metadata.name must have at most 40 characters";
    vec![
        named("a", json!({})),
        named("order-history-2", json!({})),
        named("a234567890123456789012345678901234567890", json!({})),
        refused_name("a2345678901234567890123456789012345678901", json!({}), rule),
        refused_name("orders.v2", json!({}), rule),
        refused_name("2nd-orders", json!({}), rule),
        refused_name("any", json!({}), "metadata.name must not be \"any\""),
        refused_name("orders-headless", json!({}), "metadata.name must not end with -headless"),
    ]
}

/// Image references.
pub fn image() -> Vec<Case> {
    let image = |image: &str| json!({ "image": image });
    let tag = "image must have a tag other than latest, or a digest";
    let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    vec![
        accepted(image("orders:1.0")),
        accepted(image("localhost/hedgerow/orders:0.1.0")),
        accepted(image("registry.example:5000/team/orders:v1_2.3-rc.1")),
        accepted(image("registry.example:5000/team/my__orders:latest-stable")),
        accepted(json!({ "image": format!("registry.example/orders@{digest}") })),
        accepted(json!({ "image": format!("registry.example/orders:latest@{digest}") })),
        refused(image("registry.example/orders"), tag),
        refused(image("registry.example:5000/orders"), tag),
        refused(image("registry.example/orders:latest"), tag),
        refused(image("registry.example/orders:"), tag),
        refused(image("registry.example/Orders:1.0"), "image must be an image reference"),
        refused(image("https://registry.example/orders:1.0"), "image must be an image reference"),
        refused(image("orders :1.0"), "image must be an image reference"),
        refused(image(""), "spec.image"),
    ]
}

/// Fields and their types.
pub fn fields() -> Vec<Case> {
    vec![
        accepted(json!({ "route": null, "database": { "name": null }, "ports": { "grpc": null } })),
        accepted(json!({ "automountToken": true, "service": { "type": "LoadBalancer" } })),
        refused(json!({ "service": { "type": "ExternalName" } }), "spec.service.type"),
        refused(json!({ "automountToken": "yes" }), "spec.automountToken"),
        refused(json!({ "replicas": 3 }), "replicas"),
        refused(json!({ "database": { "poolsize": 3 } }), "poolsize"),
    ]
}

/// Ports.
pub fn ports() -> Vec<Case> {
    let differ = "ports must differ";
    vec![
        accepted(json!({ "ports": {} })),
        accepted(json!({ "ports": { "http": 80, "grpc": 50051, "admin": 65535 } })),
        refused(json!({ "ports": { "http": 0 } }), "spec.ports.http"),
        refused(json!({ "ports": { "grpc": 65536 } }), "spec.ports.grpc"),
        refused(json!({ "ports": { "http": 9090 } }), differ),
        refused(json!({ "ports": { "grpc": 8080 } }), differ),
        refused(json!({ "ports": { "grpc": 9000, "admin": 9000 } }), differ),
    ]
}

/// Environment variables.
pub fn env() -> Vec<Case> {
    let env = |names: &[&str]| -> Value {
        let all: Vec<_> = names.iter().map(|name| json!({ "name": name, "value": "x" })).collect();
        json!({ "env": all })
    };
    let with_database = |name: &str| json!({ "env": [{ "name": name, "value": "x" }], "database": {} });
    let secret = json!({ "secretKeyRef": { "name": "payment", "key": "token" } });
    vec![
        accepted(env(&["LOG_LEVEL", "DRAIN_DELAY", "SHUTDOWN_TIMEOUT", "spring.profiles.active"])),
        accepted(json!({ "env": [{ "name": "TOKEN", "valueFrom": secret }] })),
        // Without spec.database, a service may bring the URL of a database from elsewhere.
        accepted(env(&["DATABASE_URL"])),
        refused(with_database("DATABASE_URL"), "env must not set DATABASE_URL or DATABASE_POOL_SIZE"),
        refused(with_database("DATABASE_POOL_SIZE"), "env must not set DATABASE_URL or DATABASE_POOL_SIZE"),
        refused(env(&["HTTP_ADDR"]), "env must not set HTTP_ADDR"),
        refused(env(&["LOG_LEVEL", "ADMIN_ADDR"]), "env must not set HTTP_ADDR"),
        refused(env(&["LOG_LEVEL", "LOG_LEVEL"]), "env must not contain a variable twice"),
        refused(env(&["A=B"]), "spec.env[0].name"),
        refused(json!({ "env": [{ "name": "TOKEN", "valeu": "x" }] }), "valeu"),
    ]
}

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

/// Resource requests and limits.
pub fn resources() -> Vec<Case> {
    let limits = |amount: Value| json!({ "resources": { "limits": { "cpu": amount } } });
    vec![
        accepted(json!({ "resources": {} })),
        accepted(json!({ "resources": { "requests": { "cpu": "100m", "memory": "1.5Gi" } } })),
        accepted(limits(json!(2))),
        accepted(limits(json!("1e3"))),
        refused(limits(json!("2 cores")), "spec.resources.limits.cpu"),
        refused(limits(json!("-1")), "spec.resources.limits.cpu"),
        refused(json!({ "resources": { "claims": [] } }), "claims"),
    ]
}

/// Databases, their names and servers.
pub fn database() -> Vec<Case> {
    let database = |name: &str| json!({ "database": { "name": name } });
    let form = "database.name must start with a lower-case letter or _";
    let reserved = "database.name must not be a name that PostgreSQL reserves";
    let unnamed = "spec.database.name must be set";
    vec![
        accepted(json!({ "database": {} })),
        accepted(database("orders_v2")),
        accepted(database("order-history")),
        accepted(database(&"a".repeat(63))),
        refused(database(&"a".repeat(64)), "spec.database.name"),
        refused(database(""), "spec.database.name"),
        refused(database("Orders"), form),
        refused(database("2orders"), form),
        refused(database("orders\"; --"), form),
        refused(database("postgres"), reserved),
        refused(database("template1"), reserved),
        refused(database("pg_orders"), reserved),
        named("postgres", json!({})),
        named("postgres", database("orders")),
        refused_name("postgres", json!({ "database": {} }), unnamed),
        refused_name("template0", json!({ "database": {} }), unnamed),
        accepted(json!({ "database": { "server": "other.example-2", "deletionPolicy": "Delete" } })),
        refused(json!({ "database": { "server": "Other" } }), "database.server must be the name of a Secret"),
        refused(json!({ "database": { "poolSize": 2 } }), "spec.database.poolSize"),
        refused(json!({ "database": { "deletionPolicy": "Keep" } }), "spec.database.deletionPolicy"),
    ]
}

/// Connection limits.
pub fn connections() -> Vec<Case> {
    let sized = |max: i32, pool: i32, limit: i32| {
        json!({
            "scaling": { "min": 1, "max": max },
            "database": { "poolSize": pool, "connectionLimit": limit },
        })
    };
    let rule = "database.connectionLimit must be at least";
    vec![
        accepted(sized(10, 8, 119)),
        refused(sized(10, 8, 118), rule),
        accepted(sized(1, 3, 18)),
        refused(sized(1, 3, 17), rule),
        refused(json!({ "scaling": { "max": 11 }, "database": {} }), rule),
        accepted(json!({ "scaling": { "max": 1000 } })),
    ]
}

/// Immutable fields of databases.
pub fn permanence() -> Vec<Case> {
    let name = |name: &str| json!({ "database": { "name": name } });
    let server = |server: &str| json!({ "database": { "server": server } });
    let unnamed = || json!({ "database": {} });
    let renaming = "database.name is immutable";
    let relocation = "database.server is immutable";
    vec![
        change(json!({}), unnamed()),
        change(name("orders"), name("orders")),
        change(unnamed(), json!({ "database": { "poolSize": 4, "connectionLimit": 90, "deletionPolicy": "Delete" } })),
        refused_change(unnamed(), json!({}), "database cannot be removed"),
        refused_change(unnamed(), json!({ "database": null }), "database cannot be removed"),
        refused_change(name("orders"), name("baskets"), renaming),
        refused_change(name("orders"), unnamed(), renaming),
        refused_change(unnamed(), name("baskets"), renaming),
        refused_change(server("one"), server("two"), relocation),
        refused_change(server("one"), unnamed(), relocation),
        refused_change(unnamed(), server("two"), relocation),
    ]
}

/// Numbers of pods.
pub fn scaling() -> Vec<Case> {
    let between = "scaling.min (default 2) must not be greater than scaling.max";
    vec![
        accepted(json!({ "scaling": {} })),
        accepted(json!({ "scaling": { "min": 3, "max": 3 } })),
        accepted(json!({ "scaling": { "cpu": 200, "scaleDownSeconds": 0 } })),
        refused(json!({ "scaling": { "min": 0 } }), "spec.scaling.min"),
        refused(json!({ "scaling": { "min": 5, "max": 4 } }), between),
        refused(json!({ "scaling": { "max": 1 } }), between),
        refused(json!({ "scaling": { "min": 11 } }), between),
        refused(json!({ "scaling": { "scaleDownSeconds": 3601 } }), "spec.scaling.scaleDownSeconds"),
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
