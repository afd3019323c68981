//! The database: its name, its connections, and what cannot change.

use serde_json::json;

use super::case::{Case, accepted, change, named, refused, refused_change, refused_name};

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
