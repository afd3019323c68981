//! What outlives what.

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

/// Writes a user and stock, and returns the user.
pub async fn write(on: &Release) -> Value {
    let client = reqwest::Client::new();
    let (_users, users) = Running::forward(&on.name, "users").await;
    let email = format!("{}@data.invalid", uuid::Uuid::new_v4());
    let request = client.post(format!("{users}/users")).json(&json!({ "name": "Grace", "email": email }));
    let user = request.send().await.expect("an answer").json().await.expect("a user");
    let (_inventory, inventory) = Running::forward(&on.name, "inventory").await;
    let request = client.post(format!("{inventory}/inventory/lasting")).json(&json!({ "stock": 7 }));
    assert_eq!(request.send().await.expect("an answer").status(), 201);
    user
}

/// Sees that what was written is there.
pub async fn check(on: &Release, user: &Value) {
    let id = user["id"].as_str().expect("an id");
    assert_eq!(get(on, "users", &format!("users/{id}")).await, *user);
    assert_eq!(get(on, "inventory", "inventory/lasting").await["stock"], 7);
}

/// What a service says, as soon as it says anything: the pod that is forwarded to may be about to go, or just back.
async fn get(on: &Release, service: &str, path: &str) -> Value {
    let ask = async || {
        let (_forward, url) = Running::forward(&on.name, service).await;
        reqwest::get(format!("{url}/{path}")).await?.error_for_status()?.json::<Value>().await
    };
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(begun.elapsed() < SOON, "{service} does not answer: {error}"),
        }
    }
}

pub async fn data_outlive_every_pod(on: Arc<Release>) {
    let user = write(&on).await;
    let pods: Api<Pod> = on.api();
    for name in ["users", "inventory"] {
        let before: BTreeSet<_> = names(&on.pods(name).await).into_iter().collect();
        for pod in &before {
            pods.delete(pod, &DeleteParams::default().grace_period(0)).await.expect("it is killed");
        }
        eventually("other pods", SOON, async || {
            let now: BTreeSet<_> = names(&on.pods(name).await).into_iter().collect();
            now.len() >= 2 && now.is_disjoint(&before)
        })
        .await;
        on.ready(name).await;
    }
    check(&on, &user).await;
    restart_postgres(&on).await;
    check(&on, &user).await;
    println!("the data outlive every pod of the services, and Postgres'");
}

/// Deletes the bundled Postgres' pod, and waits until services answer again.
async fn restart_postgres(on: &Release) {
    let pods: Api<Pod> = on.api();
    let before = pods.get("hedgerow-postgres-0").await.expect("Postgres").uid().expect("a uid");
    pods.delete("hedgerow-postgres-0", &DeleteParams::default()).await.expect("it is deleted");
    eventually("another pod runs", SOON, async || {
        let pod = pods.get_opt("hedgerow-postgres-0").await.expect("pods");
        pod.is_some_and(|pod| pod.uid().as_ref() != Some(&before) && is_ready(&pod))
    })
    .await;
    for (service, path) in [("users", "/users?limit=1"), ("inventory", "/inventory/lasting")] {
        eventually("it answers", SOON, async || on.request(service, path).await.is_ok()).await;
    }
}

/// The Secret of the admin is deleted: the operator makes another one, and Postgres takes it up when it starts.
pub async fn a_lost_password_of_the_admin_is_made_anew(on: Arc<Release>) {
    let user = write(&on).await;
    let secrets: Api<Secret> = on.api();
    let password = async || secrets.get_opt("hedgerow-postgres").await.expect("Secrets").map(|secret| secret.data);
    let before = password().await;
    secrets.delete("hedgerow-postgres", &DeleteParams::default()).await.expect("it is deleted");
    // The operator has no look at it until it starts or an object asks for it.
    on.kubectl(&["rollout", "restart", "deployment/hedgerow-operator"]).await.expect("it restarts");
    eventually("another Secret", SOON, async || password().await.is_some_and(|data| Some(data) != before)).await;
    restart_postgres(&on).await;
    // A change that needs the admin.
    let limited = r#"services.users.database={"connectionLimit":121}"#;
    on.upgrade(&[limited]).await.expect("an upgrade");
    let limit = on.sql("postgres", "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'users'").await;
    assert_eq!(limit, Ok("121".to_owned()), "the operator opens the server with it");
    check(&on, &user).await;
    on.upgrade(&[]).await.expect("an upgrade");
}

/// As docs/operations.md says: a dump, the volume lost, and the operator takes up what is restored.
pub async fn a_dump_brings_lost_data_back(on: Arc<Release>) {
    let user = write(&on).await;
    let folder = tempfile::tempdir().expect("a folder");
    let shell = async |command: String| run("sh", &["-c", &command]).await.unwrap_or_else(|error| panic!("{error}"));
    let (exec, folder) = (format!("kubectl exec -i -n {} hedgerow-postgres-0 --", on.name), folder.path().display());
    for name in ["users", "inventory"] {
        shell(format!("{exec} pg_dump -U postgres -Fc {name} >{folder}/{name}.dump")).await;
    }
    on.kubectl(&["scale", "statefulset/hedgerow-postgres", "--replicas=0"]).await.expect("it is stopped");
    on.kubectl(&["delete", "pvc", "data-hedgerow-postgres-0"]).await.expect("the volume is gone");
    for name in ["users", "inventory"] {
        on.wait(name, "it is away", |object| is(object, "Ready", "False", "PodsNotReady")).await;
    }
    on.kubectl(&["scale", "statefulset/hedgerow-postgres", "--replicas=1"]).await.expect("it starts");
    on.kubectl(&["rollout", "restart", "deployment/hedgerow-operator"]).await.expect("it looks at once");
    for name in ["users", "inventory"] {
        on.ready(name).await;
    }
    let (_users, users) = Running::forward(&on.name, "users").await;
    let empty = reqwest::get(format!("{users}/users")).await.expect("an answer").text().await;
    assert_eq!(empty.expect("it"), "[]", "the data were lost");
    for name in ["users", "inventory"] {
        let restore = "pg_restore -U postgres --clean --if-exists --no-owner --single-transaction";
        shell(format!("{exec} {restore} --role={name} -d {name} <{folder}/{name}.dump")).await;
    }
    check(&on, &user).await;
    write(&on).await;
    println!("lost, restored, and taken up");
}
