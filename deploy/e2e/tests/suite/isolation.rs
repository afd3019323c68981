//! Who can reach what, and that nothing needs more than `restricted` gives.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, Secret};
use kube::{ResourceExt, api::ListParams};

use crate::{release::Release, tool::probe};

/// Each service's own Secret opens its database, and neither another one's nor the server's.
pub async fn credentials_open_their_own_database_only(on: Arc<Release>) {
    for (service, database) in [("users", "users"), ("inventory", "inventory")] {
        let secret = on.api::<Secret>().get(&format!("{service}-database")).await.expect("its Secret");
        let data = secret.data.expect("its data");
        let password = String::from_utf8(data["password"].0.clone()).expect("text");
        for target in ["users", "inventory", "postgres", "template1"] {
            let url = format!("postgres://{service}:{password}@127.0.0.1:5432/{target}");
            let command = ["psql", &url, "-qtAc", "SELECT current_user"];
            match on.exec("hedgerow-postgres-0", &command).await {
                Ok(user) => assert!(target == database && user == service, "{service} opened {target} as {user}"),
                Err(error) => {
                    assert_ne!(target, database, "{service} opens its own: {error}");
                    assert!(error.contains("permission denied for database"), "{service} on {target}: {error}");
                }
            }
        }
    }
}

/// By network policies, on a network that enforces them.
pub async fn only_who_is_admitted_connects(on: Arc<Release>) {
    let (inventory, postgres) = ("http://inventory:8080/inventory/e2e", "tcp://hedgerow-postgres:5432");
    let (answered, seen) = probe(&on, &["get", inventory], true).await;
    println!("admitted: {seen}");
    assert!(answered && seen.contains("200"), "an admitted pod reaches inventory: {seen}");
    let (answered, seen) = probe(&on, &["get", "http://gateway:8080/inventory/e2e"], false).await;
    println!("a stranger, through the gateway: {seen}");
    assert!(answered && seen.contains("200"), "everyone reaches the gateway, and it inventory: {seen}");
    for (who, admitted, target) in
        [("a stranger", false, inventory), ("a stranger", false, postgres), ("a client", true, postgres)]
    {
        let arguments = ["get", "--timeout", "3s", "--expect-blocked", target];
        let (blocked, seen) = probe(&on, &arguments, admitted).await;
        println!("{who}: {seen}");
        assert!(blocked, "{who} does not reach {target}: {seen}");
    }
}

/// The namespace enforces `restricted`; what it refuses is told in events of who wanted it.
pub async fn nothing_was_refused(on: Arc<Release>) {
    let events = on.api::<Event>().list(&ListParams::default()).await.expect("events");
    assert!(!events.items.is_empty(), "there are events");
    let refused = events.iter().filter(|event| {
        let message = event.message.as_deref().unwrap_or_default();
        message.contains("PodSecurity") || message.contains("is forbidden")
    });
    let refused: Vec<_> = refused.map(|event| (event.name_any(), &event.message)).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}
