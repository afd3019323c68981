//! Isolation of databases and networks, and the Pod Security Standard `restricted`.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Event, Secret},
};
use kube::{ResourceExt, api::ListParams};

use crate::{release::Release, tool::probe};

/// The Secret of each service opens its own database and no other.
pub async fn credentials_open_only_their_own_database(on: Arc<Release>) {
    for (service, database) in [("users", "users"), ("inventory", "inventory")] {
        let secret = on.api::<Secret>().get(&format!("{service}-database")).await.expect("its Secret");
        let data = secret.data.expect("its data");
        let password = String::from_utf8(data["password"].0.clone()).expect("text");
        for target in ["users", "inventory", "postgres", "template1"] {
            match log_in(&on, &format!("{service}:{password}"), target).await {
                Ok(user) => assert!(target == database && user == service, "{service} opened {target} as {user}"),
                Err(error) => {
                    assert_ne!(target, database, "{service} cannot open its own database: {error}");
                    assert!(error.contains("permission denied for database"), "{service} on {target}: {error}");
                }
            }
        }
        let error = log_in(&on, &format!("{service}:wrong"), database).await.expect_err("the password is wrong");
        assert!(error.contains("password authentication failed"), "{service}: {error}");
    }
}

/// `kubectl port-forward` connects to this address too.
pub async fn even_the_superuser_needs_a_password_over_tcp(on: Arc<Release>) {
    let error = log_in(&on, "postgres", "postgres").await.expect_err("there is no password");
    assert!(error.contains("no password supplied"), "{error}");
    let secret = on.api::<Secret>().get("hedgerow-postgres").await.expect("the Secret").data.expect("its data");
    let password = String::from_utf8(secret["password"].0.clone()).expect("text");
    let user = log_in(&on, &format!("postgres:{password}"), "postgres").await;
    assert_eq!(user, Ok("postgres".to_owned()));
}

/// Logs in over TCP, from the pod of Postgres itself.
async fn log_in(on: &Release, credentials: &str, database: &str) -> Result<String, String> {
    let url = format!("postgres://{credentials}@127.0.0.1:5432/{database}");
    on.exec("hedgerow-postgres-0", &["psql", &url, "-wqtAc", "SELECT current_user"]).await
}

/// Needs a network plugin that enforces network policies.
pub async fn only_admitted_pods_can_connect(on: Arc<Release>) {
    let (inventory, postgres) = ("http://inventory:8080/inventory/e2e", "tcp://hedgerow-postgres:5432");
    let (succeeded, output) = probe(&on, &["get", inventory], true).await;
    println!("admitted pod: {output}");
    assert!(succeeded && output.contains("200"), "an admitted pod cannot reach inventory: {output}");
    let (succeeded, output) = probe(&on, &["get", "http://gateway:8080/inventory/e2e"], false).await;
    println!("other pod, through the gateway: {output}");
    assert!(succeeded && output.contains("200"), "another pod cannot reach inventory through the gateway: {output}");
    for (who, admitted, target) in
        [("other pod", false, inventory), ("other pod", false, postgres), ("admitted pod", true, postgres)]
    {
        let arguments = ["get", "--timeout", "3s", "--expect-blocked", target];
        let (blocked, output) = probe(&on, &arguments, admitted).await;
        println!("{who}: {output}");
        assert!(blocked, "{who} is not blocked from {target}: {output}");
    }
}

/// The namespace enforces `restricted`. Pods that violate it, or are refused otherwise, appear in the events of their
/// owners.
pub async fn no_pod_was_rejected(on: Arc<Release>) {
    let events = on.api::<Event>().list(&ListParams::default()).await.expect("events");
    assert!(!events.items.is_empty(), "there are no events");
    let replica_sets = on.api::<ReplicaSet>().list(&ListParams::default()).await.expect("ReplicaSets");
    let uids: BTreeSet<_> = replica_sets.iter().filter_map(ResourceExt::uid).collect();
    let rejected = events.iter().filter(|event| {
        let message = event.message.as_deref().unwrap_or_default();
        // The pods of a deleted ReplicaSet may be recreated for a moment, when its ServiceAccount is already gone.
        let is_deleted = event.involved_object.kind.as_deref() == Some("ReplicaSet")
            && event.involved_object.uid.as_ref().is_some_and(|uid| !uids.contains(uid));
        let lacks_account = message.contains("error looking up service account") && message.ends_with("not found");
        message.contains("PodSecurity") || message.contains("is forbidden") && !(is_deleted && lacks_account)
    });
    let rejected: Vec<_> = rejected.map(|event| (event.name_any(), &event.message)).collect();
    assert!(rejected.is_empty(), "{rejected:#?}");
}
