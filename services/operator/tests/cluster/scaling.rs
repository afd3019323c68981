//! Who sets the replica count.

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

pub async fn handing_replicas_to_the_autoscaler_never_scales_to_one(on: Arc<Installation>) {
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
    // The autoscaler writes the count like this.
    let scale = json!({ "spec": { "replicas": 4 } });
    deployments.patch_scale("handed-over", &PatchParams::default(), &Patch::Merge(scale)).await.expect("scaled");
    let mut rolled = spec(image("users"), 2, 4);
    rolled["env"] = json!([{ "name": "LOG_LEVEL", "value": "debug" }]);
    on.apply("handed-over", rolled).await;
    on.ready("handed-over").await;
    assert!(replicas().await >= Some(2), "a rollout does not change the count");
    on.apply("handed-over", spec(image("users"), 3, 3)).await;
    eventually("the spec sets the count again", SOON, async || replicas().await == Some(3)).await;
    on.ready("handed-over").await;
    watched.abort();
    assert!(*fewest.borrow() >= 2, "the count dropped to {}", *fewest.borrow());
}
