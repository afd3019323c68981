//! What a pod gets: image, ports, environment, resources, and how many pods there are.

use serde_json::{Value, json};

use super::case::{Case, accepted, refused};

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
