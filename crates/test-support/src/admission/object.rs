//! The object itself: its name, its fields and their types.

use serde_json::json;

use super::case::{Case, accepted, named, refused, refused_name};

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
        refused_name("hedgerow", json!({}), "metadata.name must not be hedgerow,"),
        refused_name("hedgerow-admin", json!({}), "metadata.name must not be hedgerow,"),
        refused_name("hedgerow-crd", json!({}), "metadata.name must not be hedgerow,"),
        refused_name("hedgerow-operator", json!({}), "metadata.name must not be hedgerow,"),
        named("hedgerow-orders", json!({})),
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
