//! Data survives the loss of pods, passwords and volumes.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, ResourceExt, api::DeleteParams};
use serde_json::{Value, json};
use test_support::cluster::{SOON, eventually, is};
use tokio::time::Instant;

use crate::{
    command::{Running, run},
    release::Release,
    tool::{is_ready, names},
};

/// Creates a user and stock, and returns the user.
pub async fn write(on: &Release) -> Value {
    let client = reqwest::Client::new();
    let (_users, users) = Running::forward(&on.name, "users").await;
    let email = format!("{}@data.invalid", uuid::Uuid::new_v4());
    let request = client.post(format!("{users}/users")).json(&json!({ "name": "Grace", "email": email }));
    let user = request.send().await.expect("a response").json().await.expect("a user");
    let (_inventory, inventory) = Running::forward(&on.name, "inventory").await;
    let request = client.post(format!("{inventory}/inventory/lasting")).json(&json!({ "stock": 7 }));
    assert_eq!(request.send().await.expect("a response").status(), 201);
    user
}

/// Checks that what [`write`] created is there.
pub async fn check(on: &Release, user: &Value) {
    let id = user["id"].as_str().expect("an id");
    assert_eq!(get(on, "users", &format!("users/{id}")).await, *user);
    assert_eq!(get(on, "inventory", "inventory/lasting").await["stock"], 7);
}

/// The JSON at a path of a service. Retries, because the chosen pod may be terminating or just starting.
async fn get(on: &Release, service: &str, path: &str) -> Value {
    let attempt = async || {
        let (_forward, url) = Running::forward(&on.name, service).await;
        reqwest::get(format!("{url}/{path}")).await?.error_for_status()?.json::<Value>().await
    };
    let begun = Instant::now();
    loop {
        match attempt().await {
            Ok(body) => return body,
            Err(error) => assert!(begun.elapsed() < SOON, "{service} does not respond: {error}"),
        }
    }
}

pub async fn data_survives_the_loss_of_every_pod(on: Arc<Release>) {
    let user = write(&on).await;
    let pods: Api<Pod> = on.api();
    for name in ["users", "inventory"] {
        let before: BTreeSet<_> = names(&on.pods(name).await).into_iter().collect();
        for pod in &before {
            pods.delete(pod, &DeleteParams::default().grace_period(0)).await.expect("the pod is deleted");
        }
        eventually("new pods", SOON, async || {
            let now: BTreeSet<_> = names(&on.pods(name).await).into_iter().collect();
            now.len() >= 2 && now.is_disjoint(&before)
        })
        .await;
        on.ready(name).await;
    }
    check(&on, &user).await;
    restart_postgres(&on).await;
    check(&on, &user).await;
    println!("the data survived the loss of every pod of the services and of Postgres");
}

/// Deletes the pod of the bundled Postgres, and waits until the services respond again.
async fn restart_postgres(on: &Release) {
    let pods: Api<Pod> = on.api();
    let before = pods.get("hedgerow-postgres-0").await.expect("the pod").uid().expect("a uid");
    pods.delete("hedgerow-postgres-0", &DeleteParams::default()).await.expect("the pod is deleted");
    eventually("the new pod is ready", SOON, async || {
        let pod = pods.get_opt("hedgerow-postgres-0").await.expect("pods");
        pod.is_some_and(|pod| pod.uid().as_ref() != Some(&before) && is_ready(&pod))
    })
    .await;
    for (service, path) in [("users", "/users?limit=1"), ("inventory", "/inventory/lasting")] {
        eventually("the service responds", SOON, async || on.request(service, path).await.is_ok()).await;
    }
}

/// If the Secret of the admin is deleted, the operator creates a new one, and Postgres adopts its password at start.
pub async fn a_lost_admin_password_is_replaced(on: Arc<Release>) {
    let user = write(&on).await;
    let secrets: Api<Secret> = on.api();
    let password = async || secrets.get_opt("hedgerow-postgres").await.expect("Secrets").map(|secret| secret.data);
    let before = password().await;
    secrets.delete("hedgerow-postgres", &DeleteParams::default()).await.expect("the Secret is deleted");
    // The operator only reads it when it starts or when an object needs it.
    on.kubectl(&["rollout", "restart", "deployment/hedgerow-operator"]).await.expect("the operator restarts");
    eventually("a new Secret", SOON, async || password().await.is_some_and(|data| Some(data) != before)).await;
    restart_postgres(&on).await;
    // This change needs the admin.
    let limited = r#"services.users.database={"connectionLimit":121}"#;
    on.upgrade(&[limited]).await.expect("an upgrade");
    let limit = on.sql("postgres", "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'users'").await;
    assert_eq!(limit, Ok("121".to_owned()), "the operator can log in with the new password");
    check(&on, &user).await;
    on.upgrade(&[]).await.expect("an upgrade");
}

/// Follows docs/operations.md: dump, lose the volume, restore. The operator makes nothing on the empty server until the
/// objects accept it, and continues with the restored databases.
pub async fn a_dump_restores_lost_data(on: Arc<Release>) {
    let user = write(&on).await;
    let folder = tempfile::tempdir().expect("a folder");
    let shell = async |command: String| run("sh", &["-c", &command]).await.unwrap_or_else(|error| panic!("{error}"));
    let (exec, folder) = (format!("kubectl exec -i -n {} hedgerow-postgres-0 --", on.name), folder.path().display());
    for name in ["users", "inventory"] {
        shell(format!("{exec} pg_dump -U postgres -Fc {name} >{folder}/{name}.dump")).await;
    }
    on.kubectl(&["scale", "statefulset/hedgerow-postgres", "--replicas=0"]).await.expect("Postgres is stopped");
    on.kubectl(&["delete", "pvc", "data-hedgerow-postgres-0"]).await.expect("the volume is deleted");
    for name in ["users", "inventory"] {
        on.wait(name, "unavailable", |object| !is(object, "Ready", "True", "Ready")).await;
    }
    on.kubectl(&["scale", "statefulset/hedgerow-postgres", "--replicas=1"]).await.expect("Postgres starts");
    on.kubectl(&["rollout", "restart", "deployment/hedgerow-operator"]).await.expect("the operator reconciles at once");
    for name in ["users", "inventory"] {
        on.wait(name, "the server changed", |object| is(object, "Stalled", "True", "ServerChanged")).await;
    }
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname IN ('users', 'inventory')";
    assert_eq!(on.sql("postgres", roles).await, Ok("0".to_owned()), "nothing is made on the empty server");
    let identifier = on.sql("postgres", "SELECT system_identifier FROM pg_control_system()").await.expect("it");
    for name in ["users", "inventory"] {
        let accept = format!("hedgerow.dev/accept-server={identifier}");
        on.kubectl(&["annotate", "msvc", name, &accept]).await.expect("the object is annotated");
        on.ready(name).await;
    }
    let (_users, users) = Running::forward(&on.name, "users").await;
    let empty = reqwest::get(format!("{users}/users")).await.expect("a response").text().await;
    assert_eq!(empty.expect("a body"), "[]", "the data is lost");
    for name in ["users", "inventory"] {
        let restore = "pg_restore -U postgres --clean --if-exists --no-owner --single-transaction";
        shell(format!("{exec} {restore} --role={name} -d {name} <{folder}/{name}.dump")).await;
    }
    check(&on, &user).await;
    write(&on).await;
    println!("the data was lost and restored");
}
