//! Uninstalling and reinstalling.

use std::{collections::BTreeMap, sync::Arc};

use api::Microservice;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use test_support::cluster::{SOON, eventually};
use tokio::time::Instant;

use crate::{
    data,
    release::{Release, SERVICES},
};

pub async fn a_reinstall_finds_its_data_despite_killed_operators(on: Arc<Release>) {
    let user = data::write(&on).await;
    let before = secrets(&on).await;
    let begun = Instant::now();
    on.uninstall().await;
    println!("helm uninstall --wait: {:.1} s", begun.elapsed().as_secs_f64());
    let (objects, pods): (Api<Microservice>, Api<Pod>) = (on.api(), on.api());
    assert!(objects.list(&ListParams::default()).await.expect("objects").items.is_empty(), "the objects are deleted");
    let children = ListParams::default().labels("app.kubernetes.io/part-of=hedgerow");
    eventually("the pods are deleted", SOON, async || {
        pods.list(&children).await.is_ok_and(|pods| pods.items.is_empty())
    })
    .await;
    assert_eq!(secrets(&on).await, before, "the Secrets are kept");

    let (installed, killed) = tokio::join!(on.install(&[]), kill_operators(&on));
    installed.expect("the install completes");
    println!("killed during the install: {killed:?}");
    assert_eq!(killed.len(), 2, "both operators were killed");
    assert_eq!(secrets(&on).await, before, "the passwords are kept");
    data::check(&on, &user).await;
}

/// The passwords in the Secrets of the namespace.
async fn secrets(on: &Release) -> BTreeMap<String, Option<Vec<u8>>> {
    let secrets = on.api::<Secret>().list(&ListParams::default()).await.expect("Secrets");
    let ours = secrets.iter().filter(|secret| secret.type_.as_deref() == Some("Opaque"));
    ours.map(|secret| {
        let password = secret.data.as_ref().and_then(|data| data.get("password"));
        (secret.name_any(), password.map(|password| password.0.clone()))
    })
    .collect()
}

/// Kills both operators as soon as one of them has reconciled an object.
async fn kill_operators(on: &Release) -> Vec<String> {
    let (objects, pods): (Api<Microservice>, Api<Pod>) = (on.api(), on.api());
    eventually("an operator has reconciled an object", SOON, async || {
        let reconciled =
            |object: &Microservice| object.status.as_ref().is_some_and(|status| status.observed_generation > 0);
        objects.list(&ListParams::default()).await.is_ok_and(|objects| objects.iter().any(reconciled))
    })
    .await;
    let killed = on.operators().await;
    for pod in &killed {
        pods.delete(pod, &DeleteParams::default().grace_period(0)).await.expect("the pod is deleted");
    }
    let ready = |object: &Microservice| test_support::cluster::is(object, "Ready", "True", "Ready");
    let done =
        objects.list(&ListParams::default()).await.expect("objects").iter().filter(|object| ready(object)).count();
    assert!(done < SERVICES.len(), "the install was still in progress");
    killed
}
