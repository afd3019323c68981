//! Who sets the number of pods.

use std::sync::Arc;

use futures_util::TryStreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use test_support::cluster::{SOON, eventually, image};
use tokio::sync::watch;

use crate::installation::Installation;

pub async fn the_number_of_pods_passes_to_the_autoscaler_and_back_and_is_never_one(on: Arc<Installation>) {
    let spec =
        |image: String, min, max| json!({ "image": image, "database": {}, "scaling": { "min": min, "max": max } });
    let (seen, fewest) = watch::channel(i32::MAX);
    let deployments = on.api::<Deployment>();
    let config = watcher::Config::default().fields("metadata.name=handed-over");
    let watched =
        tokio::spawn(watcher(deployments.clone(), config).applied_objects().try_for_each(move |deployment| {
            let replicas = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(0);
            seen.send_modify(|fewest| *fewest = replicas.min(*fewest));
            async { Ok(()) }
        }));
    on.apply("handed-over", spec(image("users"), 3, 3)).await;
    on.ready("handed-over").await;
    on.apply("handed-over", spec(image("users"), 2, 4)).await;
    on.ready("handed-over").await;
    let replicas = async || deployments.get("handed-over").await.expect("it").spec.expect("it").replicas;
    // As the autoscaler does.
    let scale = json!({ "spec": { "replicas": 4 } });
    deployments.patch_scale("handed-over", &PatchParams::default(), &Patch::Merge(scale)).await.expect("scaled");
    let mut rolled = spec(image("users"), 2, 4);
    rolled["env"] = json!([{ "name": "LOG_LEVEL", "value": "debug" }]);
    on.apply("handed-over", rolled).await;
    on.ready("handed-over").await;
    assert!(replicas().await >= Some(2), "a rollout leaves the number alone");
    on.apply("handed-over", spec(image("users"), 3, 3)).await;
    eventually("the number is the spec's again", SOON, async || replicas().await == Some(3)).await;
    on.ready("handed-over").await;
    watched.abort();
    assert!(*fewest.borrow() >= 2, "there were {} at some time", *fewest.borrow());
}
