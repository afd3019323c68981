//! Which Secrets `env` may name.

use std::sync::Arc;

use kube::runtime::watcher;
use serde_json::{Value, json};

use super::{
    super::{context::Context, secret_references},
    DEPLOYMENT, Fixture, condition,
};
use api::Microservice;

fn secret(name: &str, annotations: &Value, key: &str) -> (String, Value) {
    let data = json!({ key: "eA==" });
    let path = format!("/api/v1/namespaces/default/secrets/{name}");
    (path, json!({ "metadata": { "name": name, "annotations": annotations }, "data": data }))
}

/// An object with a variable from a Secret.
fn object(secret: &str, database: &Value) -> Value {
    let source = json!({ "secretKeyRef": { "name": secret, "key": "url" } });
    json!({ "image": "localhost/orders:1", "env": [{ "name": "TOKEN", "valueFrom": source }], "database": database })
}

#[tokio::test]
async fn env_that_names_the_admin_secret_starts_no_pod() {
    let mut fixture = Fixture::new(object("hedgerow-postgres", &Value::Null));
    let status = fixture.reconcile().await;
    let stalled = condition(&status, "Stalled");
    assert_eq!((&stalled["status"], &stalled["reason"]), (&json!("True"), &json!("SecretRefused")), "{status:#}");
    let text = "the variable TOKEN comes from the Secret hedgerow-postgres, which has the admin credentials of a \
                database server: remove it from env";
    assert_eq!(stalled["message"], text);
    assert!(fixture.server.get(DEPLOYMENT).is_none());

    fixture.apply(super::plain(), 2);
    fixture.reconcile().await;
    assert!(fixture.server.get(DEPLOYMENT).is_some());
}

#[tokio::test]
async fn env_names_no_admin_and_no_other_services_secret() {
    let mut fixture = Fixture::new(super::plain());
    let spec = json!({ "image": "localhost/users:1", "database": { "server": "another-postgres" } });
    let mut users = Microservice::new("users", serde_json::from_value(spec).expect("a spec"));
    users.metadata.namespace = Some("default".to_owned());
    fixture.store.apply_watcher_event(&watcher::Event::Apply(users.clone()));
    let mark = |name: &str| json!({ "hedgerow.dev/mark": format!("hedgerow.dev/microservice a/b/default/{name}") });
    for (path, content) in [
        secret("another-postgres", &Value::Null, "uri"),
        secret("users-database", &mark("users"), "url"),
        secret("retained-database", &mark("retained"), "url"),
        secret("orders-database", &mark("orders"), "url"),
        secret("legacy-database", &Value::Null, "url"),
        secret("payment", &Value::Null, "token"),
    ] {
        fixture.server.put(&path, content);
    }
    // No object uses this server.
    let (path, mut spare) = secret("spare-postgres", &Value::Null, "password");
    spare["metadata"]["labels"] = json!({ "hedgerow.dev/server": "true" });
    fixture.server.put(&path, spare);
    let context = &fixture.context;
    let admins = ["hedgerow-postgres", "another-postgres", "spare-postgres"];
    for refused in admins.into_iter().chain(["users-database", "retained-database", "missing-database"]) {
        assert!(!permits(context, &users, refused, &json!({})).await, "{refused}");
    }
    for permitted in ["orders-database", "legacy-database", "payment", "missing"] {
        assert!(permits(context, &users, permitted, &json!({})).await, "{permitted}");
    }
    assert!(!permits(context, &users, "orders-database", &Value::Null).await, "it may be of a predecessor");

    // An object cannot take a Secret from others by calling it its server.
    users.spec.database.as_mut().expect("a database").server = Some("payment".to_owned());
    assert!(permits(context, &users, "payment", &Value::Null).await);
}

async fn permits(context: &Context, sibling: &Microservice, secret: &str, database: &Value) -> bool {
    let spec = serde_json::from_value(object(secret, database)).expect("a spec");
    let siblings = [Arc::new(sibling.clone())];
    secret_references::check(context, &Microservice::new("orders", spec), &siblings).await.is_ok()
}
