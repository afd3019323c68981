//! The Deployment: its manifest, its replica count and its progress.

use k8s_openapi::{
    api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{Api, ResourceExt, api::ListParams};

use super::{
    children::{self, Child},
    conditions::ConditionResult,
    context::Context,
    error::{Error, within},
    rollout,
};
use crate::manifests;
use api::Microservice;

/// Reads the current Deployment.
pub(crate) async fn read(context: &Context, name: &str) -> Result<Option<Deployment>, Error> {
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    within("read the Deployment", api.get_opt(name)).await
}

/// Applies the Deployment unless it is `gated` by an earlier step, and sets the replica count in any case. Returns the
/// resulting Deployment.
pub(crate) async fn write(
    object: &Microservice,
    context: &Context,
    owner: &str,
    children: &manifests::Children,
    found: Option<Deployment>,
    gated: bool,
) -> Result<Option<Deployment>, Error> {
    let (name, scaling) = (children.deployment.name_any(), &object.spec.scaling);
    let child = Child::typed(&children.deployment)?;
    let mut written = false;
    if let Some(found) = &found {
        let replicas = found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let desired = if scaling.is_automatic() { replicas } else { scaling.min };
        // Must precede the apply: it omits the count, and a field that its only manager omits is reset to one replica.
        if replicas != desired || children::owns_replicas(found) {
            context.children.scale(&name, desired).await?;
            written = true;
        }
        if !gated {
            written |= context.children.apply(owner, &child).await?;
        }
    } else if !gated {
        context.children.apply(owner, &child.with_replicas(scaling.min)).await?;
        context.children.scale(&name, scaling.min).await?;
        written = true;
    }
    if written { read(context, &name).await } else { Ok(found) }
}

/// Applies the autoscaler once the Deployment exists. Before that it would only report errors.
pub(crate) async fn autoscale(
    context: &Context,
    owner: &str,
    autoscaler: &HorizontalPodAutoscaler,
    deployed: bool,
) -> Result<ConditionResult, Error> {
    if !deployed {
        return Ok(ConditionResult::pending("AutoscalerStarting", "waiting for the Deployment"));
    }
    context.children.apply(owner, &Child::typed(autoscaler)?).await?;
    let api: Api<HorizontalPodAutoscaler> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let found = within("read the autoscaler", api.get_opt(&autoscaler.name_any())).await?;
    Ok(rollout::scaling(found.as_ref()))
}

/// Whether the rollout has finished, with the problem of the pods if it has not.
pub(crate) async fn progress(object: &Microservice, context: &Context, deployment: &Deployment) -> ConditionResult {
    let check = |pods: &[Pod]| rollout::rolled_out(deployment, &object.spec.scaling, pods, Timestamp::now());
    let found = check(&[]);
    if found.is_ready() {
        return found;
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let selector = deployment.spec.as_ref().map(|spec| &spec.selector).and_then(|s| s.match_labels.clone());
    let selector: Vec<_> = selector.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    match within("list the pods", api.list(&ListParams::default().labels(&selector.join(",")))).await {
        Ok(pods) => check(&pods.items),
        Err(error) => error.result(),
    }
}
